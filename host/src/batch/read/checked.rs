//! The pages of a Parquet file, looked at before they are decoded: the library makes room for as much as they claim.

use std::sync::Arc;

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::RowGroups;
use parquet::basic::{Compression, CompressionCodec, Encoding, Type};
use parquet::column::page::{Page, PageIterator, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::properties::ReaderProperties;
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::{ColumnDescPtr, ColumnDescriptor};

use super::pages::{MOST_PAGE_BYTES, Pages};
use super::thrift::{varint, zigzag};

/// Most memory that the values of a page of lists take: one row may have all of them, and with a few bytes a page says that it
/// has two thousand million.
const MOST_LIST_BYTES: usize = 512 << 20;
/// Most texts of a page that has their lengths in front of them, of which all are unpacked at once.
const MOST_LENGTHS: u64 = 16 << 20;
/// What refers to a text, beside the text.
const VIEW_BYTES: usize = 16;
/// What a value of a list takes beside itself: how it lies in its list.
const LEVELS_BYTES: usize = 4;

/// The columns of one row group.
pub(super) struct RowGroup {
    pages: Arc<Pages>,
    metadata: Arc<ParquetMetaData>,
    index: usize,
}

impl RowGroup {
    pub(super) fn new(pages: &Arc<Pages>, metadata: &Arc<ParquetMetaData>, index: usize) -> RowGroup {
        pages.begin();
        RowGroup { pages: Arc::clone(pages), metadata: Arc::clone(metadata), index }
    }

    fn group(&self) -> &RowGroupMetaData {
        self.metadata.row_group(self.index)
    }

    /// Bytes that a row takes in memory, on average and as far as the footer tells.
    pub(super) fn row_bytes(&self, mask: &ProjectionMask) -> usize {
        let columns = self.group().columns().iter().enumerate();
        let read = columns.filter(|(leaf, _)| mask.leaf_included(*leaf));
        let bytes = read.map(|(_, chunk)| {
            let values = usize::try_from(chunk.num_values()).unwrap_or(0);
            let unpacked = usize::try_from(chunk.uncompressed_size()).unwrap_or(0);
            values.saturating_mul(value_bytes(chunk.column_descr())).max(unpacked)
        });
        bytes.fold(0, usize::saturating_add).div_ceil(self.num_rows().max(1))
    }
}

impl RowGroups for RowGroup {
    fn num_rows(&self) -> usize {
        usize::try_from(self.group().num_rows()).unwrap_or(0)
    }

    fn column_chunks(&self, column: usize) -> Result<Box<dyn PageIterator>> {
        let mut chunk = self.group().column(column).clone();
        let file = Arc::clone(&self.pages);
        let unpacks = chunk.compression_codec() == CompressionCodec::GZIP;
        if unpacks {
            // The library then leaves the pages as they are.
            chunk = chunk.into_builder().set_compression(Compression::UNCOMPRESSED).build()?;
        }
        // Where LZ4 is not as Hadoop packs it, the library would try what it unpacks to its end.
        let properties = ReaderProperties::builder().set_backward_compatible_lz4(false).build();
        let pages = SerializedPageReader::new_with_properties(
            Arc::clone(&file),
            &chunk,
            self.num_rows(),
            None,
            Arc::new(properties),
        )?;
        let pages = CheckedPages { pages, file, unpacks, column: chunk.column_descr_ptr(), held: 0 };
        Ok(Box::new(Chunk(Some(Box::new(pages)))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(std::iter::once(self.group()))
    }

    fn metadata(&self) -> &ParquetMetaData {
        &self.metadata
    }
}

/// The one chunk that a column has in a row group.
struct Chunk(Option<Box<dyn PageReader>>);

impl Iterator for Chunk {
    type Item = Result<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Result<Box<dyn PageReader>>> {
        self.0.take().map(Ok)
    }
}

impl PageIterator for Chunk {}

/// The pages of one column.
struct CheckedPages {
    pages: SerializedPageReader<Pages>,
    file: Arc<Pages>,
    /// They are still packed as they come from the library.
    unpacks: bool,
    column: ColumnDescPtr,
    /// Memory of the page of values that is being read.
    held: usize,
}

impl CheckedPages {
    /// Memory that a page takes with what is made of it.
    fn bytes_of(&self, page: &Page) -> Result<usize> {
        let (buffer, values) = (page.buffer(), page.num_values() as usize);
        let is_text = self.column.physical_type() == Type::BYTE_ARRAY;
        let made = match page {
            Page::DictionaryPage { .. } if values.saturating_mul(entry_bytes(&self.column)) > buffer.len() => {
                return Err(refused(format!("a dictionary of {values} values has {} bytes", buffer.len())));
            }
            Page::DictionaryPage { .. } if is_text => values.saturating_mul(VIEW_BYTES),
            Page::DictionaryPage { .. } => 0,
            _ if is_in_list(&self.column) => list_bytes(values, &self.column)?,
            _ => 0,
        };
        let texts = match page.encoding() {
            Encoding::DELTA_LENGTH_BYTE_ARRAY => lengths_of(page, &self.column, 1)?.bytes(),
            // Its texts are put together anew.
            Encoding::DELTA_BYTE_ARRAY => {
                let lengths = lengths_of(page, &self.column, 2)?;
                lengths.bytes().saturating_add(lengths.sum)
            }
            _ => 0,
        };
        Ok(buffer.len().saturating_add(made).saturating_add(texts))
    }

    /// A dictionary is there until its column ends, a page until the next one, and what rows of their own sizes are made of it
    /// until they are done.
    fn hold(&mut self, page: &Page) -> Result<()> {
        let bytes = self.bytes_of(page)?;
        self.file.hold(bytes)?;
        if matches!(page, Page::DictionaryPage { .. }) {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.held, bytes);
        match is_in_list(&self.column) || self.column.physical_type() == Type::BYTE_ARRAY {
            true => self.file.let_go_with_rows(before),
            false => self.file.let_go(before),
        }
        Ok(())
    }
}

impl Iterator for CheckedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Result<Page>> {
        self.get_next_page().transpose()
    }
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let Some(mut page) = self.pages.get_next_page()? else { return Ok(None) };
        if self.unpacks {
            self.file.unpack(&mut page)?;
        }
        self.hold(&page)?;
        Ok(Some(page))
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }
}

fn refused(problem: String) -> ParquetError {
    ParquetError::General(problem)
}

fn is_in_list(column: &ColumnDescriptor) -> bool {
    column.max_rep_level() > 0
}

/// What a value of a list takes in memory; a text, what refers to it.
fn value_bytes(column: &ColumnDescriptor) -> usize {
    let own = match column.physical_type() {
        Type::BYTE_ARRAY => VIEW_BYTES,
        _ => entry_bytes(column),
    };
    LEVELS_BYTES + own
}

/// What so many values of lists take in memory.
fn list_bytes(values: usize, column: &ColumnDescriptor) -> Result<usize> {
    let bytes = values.saturating_mul(value_bytes(column));
    match bytes <= MOST_LIST_BYTES {
        true => Ok(bytes),
        false => Err(refused(format!(
            "the lists of a page take {bytes} bytes in memory, more than {MOST_LIST_BYTES}: write it with smaller pages"
        ))),
    }
}

/// The least that a value takes in a dictionary; of a text that is its length.
fn entry_bytes(column: &ColumnDescriptor) -> usize {
    match column.physical_type() {
        Type::BOOLEAN => 1,
        Type::INT32 | Type::FLOAT | Type::BYTE_ARRAY => 4,
        Type::INT64 | Type::DOUBLE => 8,
        Type::INT96 => 12,
        Type::FIXED_LEN_BYTE_ARRAY => usize::try_from(column.type_length()).unwrap_or(0).max(1),
    }
}

/// The lengths in front of a page's texts: as many as it has values at most. `runs` of them: the lengths, or how much of the
/// text before each begins with, and how long the rest is.
fn lengths_of(page: &Page, column: &ColumnDescriptor, runs: usize) -> Result<TextLengths> {
    let damaged = || refused("the lengths of a page's texts are damaged".to_owned());
    let most = u64::from(page.num_values()).min(MOST_LENGTHS);
    let mut rest = values_of(page, column).ok_or_else(damaged)?;
    let mut all = TextLengths { count: 0, sum: 0 };
    for _ in 0..runs {
        let lengths = Lengths::read(rest, most).ok_or_else(damaged)?;
        all.count += lengths.count;
        all.sum = all.sum.saturating_add(usize::try_from(lengths.sum).unwrap_or(usize::MAX));
        rest = lengths.rest;
    }
    match all.sum <= MOST_PAGE_BYTES {
        true => Ok(all),
        false => Err(refused(format!("the texts of a page have {} bytes, more than {MOST_PAGE_BYTES}", all.sum))),
    }
}

/// How long the texts of a page are.
struct TextLengths {
    count: usize,
    sum: usize,
}

impl TextLengths {
    /// Memory that the lengths take, which are unpacked as numbers of 32 bits.
    fn bytes(&self) -> usize {
        self.count * size_of::<i32>()
    }
}

/// What is behind the levels of a page.
fn values_of<'p>(page: &'p Page, column: &ColumnDescriptor) -> Option<&'p [u8]> {
    match page {
        Page::DictionaryPage { .. } => None,
        Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, .. } => {
            buf.get((*def_levels_byte_len as usize).checked_add(*rep_levels_byte_len as usize)?..)
        }
        Page::DataPage { buf, num_values, def_level_encoding, rep_level_encoding, .. } => {
            let behind = behind_levels(buf, column.max_rep_level(), *rep_level_encoding, *num_values)?;
            behind_levels(behind, column.max_def_level(), *def_level_encoding, *num_values)
        }
    }
}

fn behind_levels(bytes: &[u8], most: i16, encoding: Encoding, count: u32) -> Option<&[u8]> {
    match encoding {
        _ if most == 0 => Some(bytes),
        Encoding::RLE => {
            let (length, rest) = bytes.split_first_chunk()?;
            rest.get(u32::from_le_bytes(*length) as usize..)
        }
        // As many bits each as the highest level takes.
        _ => bytes.get((count as usize * (i16::BITS - most.leading_zeros()) as usize).div_ceil(8)..),
    }
}

/// A run of `DELTA_BINARY_PACKED` lengths. Source: parquet-format's `Encodings.md`.
struct Lengths<'p> {
    count: usize,
    sum: u64,
    /// What is behind them.
    rest: &'p [u8],
}

impl<'p> Lengths<'p> {
    /// `None` where there are more than `most`, one is negative, or they are not all there.
    fn read(bytes: &'p [u8], most: u64) -> Option<Lengths<'p>> {
        let (block, rest) = varint(bytes)?;
        let (miniblocks, rest) = varint(rest)?;
        let (count, rest) = varint(rest)?;
        let (first, mut rest) = varint(rest)?;
        let per_miniblock = usize::try_from(block.checked_div(miniblocks)?).ok()?;
        if count > most || per_miniblock == 0 || per_miniblock % 32 != 0 {
            return None;
        }
        let count = usize::try_from(count).ok()?;
        let mut left = count;
        let (mut length, mut sum) = (zigzag(first), 0);
        if left > 0 {
            sum = u64::try_from(length).ok()?;
            left -= 1;
        }
        while left > 0 {
            let (least, behind) = varint(rest)?;
            let widths;
            (widths, rest) = behind.split_at_checked(usize::try_from(miniblocks).ok()?)?;
            for &width in widths {
                let of_block = left.min(per_miniblock);
                // What is behind the last length has no bytes, whatever its width.
                let packed = if of_block > 0 { usize::from(width).checked_mul(per_miniblock / 8)? } else { 0 };
                let bits;
                (bits, rest) = rest.split_at_checked(packed)?;
                for index in 0..of_block {
                    // As the library does: in 32 bits, whatever comes over.
                    let delta = zigzag(least).wrapping_add(unpack(bits, index, width)? as i64);
                    length = i64::from(length.wrapping_add(delta) as i32);
                    sum += u64::try_from(length).ok()?;
                }
                left -= of_block;
            }
        }
        Some(Lengths { count, sum, rest })
    }
}

/// The number at that place among numbers of so many bits each, the lowest first.
fn unpack(bytes: &[u8], index: usize, width: u8) -> Option<u64> {
    if width > 32 {
        return None;
    }
    let bit = index * usize::from(width);
    let mut window = [0; 8];
    let from = bytes.get(bit / 8..).unwrap_or_default();
    let near = from.len().min(8);
    window[..near].copy_from_slice(&from[..near]);
    Some(u64::from_le_bytes(window) >> (bit % 8) & ((1 << width) - 1))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// 128 values a block in 4 miniblocks, so many of them, from `first` on.
    fn header(count: u8, first: u8) -> Vec<u8> {
        vec![0x80, 0x01, 0x04, count, first * 2]
    }

    #[test]
    fn lengths_are_added_up_and_left_behind() {
        // 3, and then nothing.
        let one = Lengths::read(&[header(1, 3), b"abc".to_vec()].concat(), 1).map(|read| (read.sum, read.rest.len()));
        assert_eq!(one, Some((3, 3)));
        // 1, 2, 3, 4: each one more, so no bits at all.
        let block = [vec![2], vec![0; 4]].concat();
        let four = [header(4, 1), block, b"rest".to_vec()].concat();
        assert_eq!(Lengths::read(&four, 4).map(|read| (read.sum, read.rest)), Some((10, &b"rest"[..])));
        // 5, 8, 5: by 3 and then by -3, which is 6 and 0 above the least of -3, three bits each.
        let block = [vec![5, 3, 9, 9, 9, 0b0000_0110], vec![0; 11]].concat();
        let three = [header(3, 5), block, b"rest".to_vec()].concat();
        assert_eq!(Lengths::read(&three, 3).map(|read| (read.sum, read.rest)), Some((18, &b"rest"[..])));
    }

    #[test]
    fn lengths_that_claim_too_much_are_none() {
        let vast = [vec![0x80, 0x01, 0x04], vec![0xff; 8], vec![0x7f, 0x02]].concat();
        assert!(Lengths::read(&vast, MOST_LENGTHS).is_none());
        assert!(Lengths::read(&header(9, 1), 8).is_none(), "more than the page has values");
        assert!(Lengths::read(&header(2, 1), 8).is_none(), "cut");
        // From 1 on each two less.
        let negative = [header(3, 1), vec![3], vec![0; 4]].concat();
        assert!(Lengths::read(&negative, 8).is_none());
        for miniblocks in [0x00, 0x05, 0x08] {
            assert!(Lengths::read(&[0x80, 0x01, miniblocks, 0x01, 0x02], 8).is_none(), "{miniblocks}");
        }
    }
}
