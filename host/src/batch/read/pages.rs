//! The pages of a Parquet file, as far as they are no larger than they may be: memory is taken for as much as stands in front
//! of each, and counted until it is given back.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use parquet::column::page::Page;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

use super::thrift::{Checked, Damaged, Fields, Kind, Thrift};

/// Most bytes of a page, unpacked.
pub(super) const MOST_PAGE_BYTES: usize = 256 << 20;
/// Most memory that pages take which are there at the same time, with what is made of them: a page and a dictionary of each
/// column, and where rows differ in size the pages that those have which are read together. A thousand columns of numbers fit
/// as most writers make them, with 1 MiB for both each.
const MOST_BYTES: usize = 2 << 30;
/// Bytes in which the header of a page mostly ends.
const HEADER_BYTES: usize = 64 << 10;
/// Most bytes of a header: some writers put a page's least and greatest text into it, however long they are.
const MOST_HEADER_BYTES: u64 = 16 << 20;

pub(super) struct Pages {
    file: File,
    /// Memory of the pages that are there.
    held: AtomicUsize,
    /// Memory of those among them that end with the rows being read.
    ending: AtomicUsize,
}

/// What begins with the header of a page.
pub(super) struct Header {
    reader: BufReader<File>,
    start: u64,
    /// Memory of the pages that are there; `None` once the size of this one was looked at.
    held: Option<usize>,
}

impl Pages {
    pub(super) fn new(file: File) -> Pages {
        Pages { file, held: AtomicUsize::new(0), ending: AtomicUsize::new(0) }
    }

    /// Takes memory for a page and what is made of it.
    pub(super) fn hold(&self, bytes: usize) -> Result<()> {
        fit(bytes, self.held.load(Ordering::Relaxed)).map_err(ParquetError::General)?;
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Gives memory back that was taken for a page.
    pub(super) fn let_go(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The same, once the rows being read are done: they refer to the page, or to what was made of it.
    pub(super) fn let_go_with_rows(&self, bytes: usize) {
        self.ending.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The rows that were asked for are there, and the next ones begin.
    pub(super) fn next_rows(&self) {
        self.let_go(self.ending.swap(0, Ordering::Relaxed));
    }

    /// A row group begins: what was there of the one before is gone.
    pub(super) fn begin(&self) {
        self.held.store(0, Ordering::Relaxed);
        self.ending.store(0, Ordering::Relaxed);
    }

    /// Unpacks what GZIP has packed. The library does so to its end, whatever size stands in front of it.
    pub(super) fn unpack(&self, page: &mut Page) -> Result<()> {
        let (buffer, levels) = match page {
            Page::DataPageV2 { is_compressed: false, .. } => return Ok(()),
            Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, .. } => {
                (buf, *def_levels_byte_len as usize + *rep_levels_byte_len as usize)
            }
            Page::DataPage { buf, .. } | Page::DictionaryPage { buf, .. } => (buf, 0),
        };
        let (levels, packed) = buffer
            .split_at_checked(levels)
            .ok_or_else(|| ParquetError::General("the levels of a page are not all there".to_owned()))?;
        let mut unpacked = levels.to_vec();
        // A page without values has nothing at all behind the levels.
        if !packed.is_empty() {
            MultiGzDecoder::new(packed).take(MOST_PAGE_BYTES as u64 + 1).read_to_end(&mut unpacked)?;
        }
        if unpacked.len() > MOST_PAGE_BYTES {
            return Err(ParquetError::General(format!(
                "a page unpacks to more than {MOST_PAGE_BYTES} bytes, which it may have"
            )));
        }
        // It grew by doubling.
        unpacked.shrink_to_fit();
        *buffer = unpacked.into();
        Ok(())
    }
}

impl Length for Pages {
    fn len(&self) -> u64 {
        Length::len(&self.file)
    }
}

impl ChunkReader for Pages {
    type T = Header;

    fn get_read(&self, start: u64) -> Result<Header> {
        let file = self.file.get_read(start)?.into_inner();
        let held = Some(self.held.load(Ordering::Relaxed));
        Ok(Header { reader: BufReader::with_capacity(HEADER_BYTES, file), start, held })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        self.file.get_bytes(start, length)
    }
}

impl Header {
    /// The size of its page, for which the whole header is read.
    fn size(&mut self) -> io::Result<u64> {
        let mut size = size_of_page(self.reader.fill_buf()?);
        let (file, mut room) = (self.reader.get_ref(), HEADER_BYTES as u64);
        let left = file.metadata()?.len().saturating_sub(self.start);
        while size.is_err() && room < left.min(MOST_HEADER_BYTES) {
            room = left.min(2 * room);
            let mut header = vec![0; room as usize];
            file.read_exact_at(&mut header, self.start)?;
            size = size_of_page(&header);
        }
        size.map_err(|Damaged| io::Error::other("the header of a page is damaged"))
    }
}

/// Whether so much memory may come to what is held.
fn fit(bytes: usize, held: usize) -> std::result::Result<(), String> {
    match bytes > MOST_BYTES.saturating_sub(held) {
        true => Err(format!(
            "the pages of rows that are read together take more than {MOST_BYTES} bytes in memory: write it with smaller pages"
        )),
        false => Ok(()),
    }
}

impl Read for Header {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(held) = self.held.take() {
            let size = self.size()?;
            if size > MOST_PAGE_BYTES as u64 {
                return Err(io::Error::other(format!(
                    "a page of {size} bytes is larger than {MOST_PAGE_BYTES}, which it may have"
                )));
            }
            fit(size as usize, held).map_err(io::Error::other)?;
        }
        self.reader.read(buffer)
    }
}

const NONE: Fields = Fields::NONE;

/// `PageHeader`. Source of this and the others: parquet-format's `parquet.thrift`.
const HEADER: Fields = Fields(&[
    (1, Kind::I32, NONE),
    (UNPACKED_SIZE, Kind::I32, NONE),
    (PACKED_SIZE, Kind::I32, NONE),
    (4, Kind::I32, NONE),
    (5, Kind::STRUCT, DATA),
    (6, Kind::STRUCT, NONE),
    (7, Kind::STRUCT, DICTIONARY),
    (8, Kind::STRUCT, DATA_V2),
]);
const UNPACKED_SIZE: i16 = 2;
const PACKED_SIZE: i16 = 3;

/// `DataPageHeader`, `DictionaryPageHeader` and `DataPageHeaderV2`; statistics are passed by.
const DATA: Fields = Fields(&[(1, Kind::I32, NONE), (2, Kind::I32, NONE), (3, Kind::I32, NONE), (4, Kind::I32, NONE)]);
const DICTIONARY: Fields = Fields(&[(1, Kind::I32, NONE), (2, Kind::I32, NONE), (3, Kind::BOOL, NONE)]);
const DATA_V2: Fields = Fields(&[
    (1, Kind::I32, NONE),
    (2, Kind::I32, NONE),
    (3, Kind::I32, NONE),
    (4, Kind::I32, NONE),
    (5, Kind::I32, NONE),
    (6, Kind::I32, NONE),
    (7, Kind::BOOL, NONE),
]);

/// How many bytes the page has that this is the header of, packed or unpacked.
fn size_of_page(header: &[u8]) -> Checked<u64> {
    let (mut header, mut number, mut size) = (Thrift(header), 0, 0);
    while let Some((kind, fields)) = header.field(&mut number, HEADER)? {
        match number {
            UNPACKED_SIZE | PACKED_SIZE => size = u64::try_from(header.integer()?).map_err(|_| Damaged)?.max(size),
            _ => header.skip(kind, fields)?,
        }
    }
    Ok(size)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A header of a page that claims so many bytes, with these fields behind the sizes.
    fn header(size: &[u8], behind: &[u8]) -> Vec<u8> {
        [&[0x15, 0x00, 0x15], size, &[0x15, 0x00], behind, &[0x00]].concat()
    }

    const MOST_SIZE: [u8; 5] = [0xfe, 0xff, 0xff, 0xff, 0x0f];

    #[test]
    fn a_page_that_claims_more_than_it_may_have_is_not_begun() {
        let mut file = tempfile::tempfile().unwrap();
        let fits = header(&[0xd0, 0x0f], &[]);
        file.write_all(&[&fits[..], &header(&MOST_SIZE, &[])].concat()).unwrap();
        let pages = Pages::new(file);
        let mut first = [0; 5];
        pages.get_read(0).unwrap().read_exact(&mut first).unwrap();
        assert_eq!(first, [0x15, 0x00, 0x15, 0xd0, 0x0f]);
        let error = pages.get_read(fits.len() as u64).unwrap().read_exact(&mut first).unwrap_err();
        assert!(error.to_string().contains("a page of 2147483647 bytes"), "{error}");
    }

    #[test]
    fn what_rows_refer_to_counts_until_they_are_done() {
        let pages = Pages::new(tempfile::tempfile().unwrap());
        for _ in 0..2 {
            pages.begin();
            pages.hold(MOST_BYTES).unwrap();
            let error = pages.hold(1).unwrap_err();
            assert!(error.to_string().contains("smaller pages"), "{error}");
            pages.let_go_with_rows(10);
            assert!(pages.hold(1).is_err());
            pages.next_rows();
            pages.hold(10).unwrap();
            pages.next_rows();
            assert!(pages.hold(1).is_err());
            pages.let_go(1);
            pages.hold(1).unwrap();
        }
    }

    #[test]
    fn a_header_may_have_long_texts() {
        // The least value of a page, of 200,000 bytes.
        let text = [&[0x18, 0xc0, 0x9a, 0x0c][..], &[b'x'; 200_000]].concat();
        let statistics =
            [&[0x2c, 0x15, 0x02, 0x15, 0x00, 0x15, 0x06, 0x15, 0x06, 0x1c][..], &text, &[0x00, 0x00]].concat();
        let mut file = tempfile::tempfile().unwrap();
        let (fits, too_large) = (header(&[0xd0, 0x0f], &statistics), header(&MOST_SIZE, &statistics));
        file.write_all(&[&fits[..], &too_large].concat()).unwrap();
        let pages = Pages::new(file);
        let mut read = vec![0; fits.len()];
        pages.get_read(0).unwrap().read_exact(&mut read).unwrap();
        assert!(read == fits);
        let error = pages.get_read(fits.len() as u64).unwrap().read_exact(&mut read).unwrap_err();
        assert!(error.to_string().contains("a page of 2147483647 bytes"), "{error}");
        let mut cut = tempfile::tempfile().unwrap();
        cut.write_all(&fits[..150_000]).unwrap();
        let error = Pages::new(cut).get_read(0).unwrap().read_exact(&mut read).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }

    #[test]
    fn a_header_has_one_size() {
        // The header of a dictionary and that of a page of the second version, with statistics.
        let dictionary = [0x4c, 0x15, 0x02, 0x15, 0x00, 0x11, 0x00];
        let second = [&[0x5c][..], &[0x15, 0x02].repeat(6), &[0x12, 0x1c, 0x18, 0x01, b'x', 0x00, 0x00]].concat();
        for behind in [&[][..], &dictionary, &second] {
            assert_eq!(size_of_page(&header(&[0xd0, 0x0f], behind)), Ok(1000), "{behind:?}");
        }
        assert_eq!(size_of_page(&header(&MOST_SIZE, &[])), Ok(i32::MAX as u64));
        let packed = [&[0x15, 0x00, 0x15, 0x02, 0x15][..], &MOST_SIZE, &[0x00]].concat();
        assert_eq!(size_of_page(&packed), Ok(i32::MAX as u64));
        let again = [&[0x05, 0x04][..], &MOST_SIZE].concat();
        let wrapped = [&[0x05, 0x84, 0x80, 0x08][..], &MOST_SIZE].concat();
        for (behind, what) in [
            (&again[..], "the size again"),
            (&wrapped, "field 65538"),
            (&[0x1c, 0x00], "a struct in place of a checksum"),
            (&[0x25, 0x02], "a number in place of the header of a data page"),
            (&[0x2c, 0x16, 0x02, 0x00], "values in 64 bits"),
            (&[0x4c, 0x35, 0x02, 0x00], "a number in place of a truth"),
        ] {
            assert_eq!(size_of_page(&header(&[0xd0, 0x0f], behind)), Err(Damaged), "{what}");
        }
        for header in [&[][..], &[0x15], &header(&[0x01], &[])] {
            assert_eq!(size_of_page(header), Err(Damaged), "{header:?}");
        }
    }
}
