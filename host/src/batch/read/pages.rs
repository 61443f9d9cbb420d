//! The pages of a Parquet file, as far as they are no larger than they may be: memory is taken for as much as stands in front
//! of each.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use bytes::Bytes;
use parquet::errors::Result;
use parquet::file::reader::{ChunkReader, Length};

use super::thrift::varint;

/// Most bytes that the pages which are unpacked at the same time take.
pub(super) const MOST_BYTES: usize = 256 << 20;
/// A page of this size is never too large; those of most writers have 1 MiB.
const ALWAYS_ENOUGH: usize = 8 << 20;

pub(super) struct Pages {
    file: File,
    most: usize,
}

/// What begins with the header of a page.
pub(super) struct Header {
    reader: BufReader<File>,
    /// What the page may take; `None` once it was looked at.
    most: Option<usize>,
}

impl Pages {
    /// Of a file with so many columns, of each of which a page is in memory.
    pub(super) fn new(file: File, columns: usize) -> Pages {
        Pages { file, most: (MOST_BYTES / columns.max(1)).max(ALWAYS_ENOUGH) }
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
        Ok(Header { reader: self.file.get_read(start)?, most: Some(self.most) })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        self.file.get_bytes(start, length)
    }
}

impl Read for Header {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(most) = self.most.take() {
            let size = unpacked_size(self.reader.fill_buf()?);
            let size = size.ok_or_else(|| io::Error::other("a page does not say how large it is"))?;
            if size > most as u64 {
                return Err(io::Error::other(format!(
                    "a page of {size} bytes is larger than {most}, which it may have"
                )));
            }
        }
        self.reader.read(buffer)
    }
}

/// The second field of a page's header, behind its type. Source: parquet-format's `parquet.thrift`, in Thrift's compact
/// protocol.
fn unpacked_size(header: &[u8]) -> Option<u64> {
    /// The next field, a 32-bit integer.
    const NEXT_I32: u8 = 0x15;
    let (_type, rest) = varint(header.strip_prefix(&[NEXT_I32])?)?;
    let (zigzag, _) = varint(rest.strip_prefix(&[NEXT_I32])?)?;
    Some(zigzag / 2)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_page_that_claims_more_than_it_may_have_is_not_begun() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0x15, 0x00, 0x15, 0xd0, 0x0f, 0x15, 0x00, 0x15, 0xfe, 0xff, 0xff, 0xff, 0x0f]).unwrap();
        let pages = Pages::new(file, 1);
        let mut first = [0; 5];
        pages.get_read(0).unwrap().read_exact(&mut first).unwrap();
        assert_eq!(first, [0x15, 0x00, 0x15, 0xd0, 0x0f]);
        let error = pages.get_read(5).unwrap().read_exact(&mut first).unwrap_err();
        assert!(error.to_string().contains("a page of 2147483647 bytes"), "{error}");
    }

    #[test]
    fn the_size_is_behind_the_type() {
        assert_eq!(unpacked_size(&[0x15, 0x00, 0x15, 0xd0, 0x0f, 0x15, 0x02]), Some(1000));
        assert_eq!(unpacked_size(&[0x15, 0x04, 0x15, 0xfe, 0xff, 0xff, 0xff, 0x0f]), Some(i32::MAX as u64));
        for header in [&[][..], &[0x15], &[0x15, 0x00, 0x25, 0x02], &[0x15, 0x00, 0x15, 0xff, 0xff]] {
            assert_eq!(unpacked_size(header), None, "{header:?}");
        }
    }
}
