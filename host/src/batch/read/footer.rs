//! The footer of a Parquet file, looked at before the library that reads it: that one makes room for as many columns as the
//! footer claims, and goes as deep as they are nested, until memory or stack is at its end and the process with it.

use std::fs::File;

use parquet::file::reader::{ChunkReader, Length};

use super::pages::{varint, zigzag};

/// Levels of columns in columns. What is read here has a few.
const MOST_LEVELS: usize = 32;

/// Bytes at a file's end: the footer's length, and what says that it is Parquet.
const END: u64 = 8;

/// # Errors
/// Why it is not to be read. What else is wrong with it the library finds.
pub(super) fn check(file: &File) -> Result<(), String> {
    let size = Length::len(file);
    let unreadable = |error: parquet::errors::ParquetError| error.to_string();
    let Some(end) = size.checked_sub(END) else { return Ok(()) };
    let last = file.get_bytes(end, END as usize).map_err(unreadable)?;
    let length = last.first_chunk().map_or(0, |length| u32::from_le_bytes(*length));
    let Some(start) = end.checked_sub(u64::from(length)).filter(|_| last.ends_with(b"PAR1")) else { return Ok(()) };
    let footer = file.get_bytes(start, length as usize).map_err(unreadable)?;
    check_metadata(&mut Thrift(&footer)).map_err(str::to_owned)
}

/// Numbers of fields. Source: parquet-format's `parquet.thrift`.
const SCHEMA: i64 = 2;
const CHILDREN: i64 = 5;

/// `FileMetaData`.
fn check_metadata(footer: &mut Thrift<'_>) -> Checked<()> {
    let mut number = 0;
    while let Some(kind) = footer.field(&mut number)? {
        match (number, kind) {
            (SCHEMA, Kind::LIST) => check_schema(footer)?,
            _ => footer.skip(kind, 0)?,
        }
    }
    Ok(())
}

/// `SchemaElement`s: each column before those in it.
fn check_schema(footer: &mut Thrift<'_>) -> Checked<()> {
    let (kind, count) = footer.list()?;
    // How many are still to come in each of the columns around the next one.
    let mut open: Vec<u64> = Vec::new();
    for index in 0..count {
        let children = match kind {
            Kind::STRUCT => children(footer)?,
            _ => return Err(DAMAGED),
        };
        if children > count - index - 1 {
            return Err("its footer claims more columns than it has");
        }
        if let Some(left) = open.last_mut() {
            *left = left.checked_sub(1).ok_or(DAMAGED)?;
        }
        open.push(children);
        if open.len() > MOST_LEVELS {
            return Err("its columns are nested too deep");
        }
        while open.last() == Some(&0) {
            open.pop();
        }
    }
    Ok(())
}

/// How many columns a `SchemaElement` says are in it.
fn children(footer: &mut Thrift<'_>) -> Checked<u64> {
    let (mut number, mut children) = (0, 0);
    while let Some(kind) = footer.field(&mut number)? {
        match (number, kind) {
            (CHILDREN, Kind::I32) => children = u64::try_from(footer.zigzag()?).map_err(|_| DAMAGED)?.max(children),
            _ => footer.skip(kind, 0)?,
        }
    }
    Ok(children)
}

type Checked<T> = Result<T, &'static str>;

const DAMAGED: &str = "its footer is damaged";

/// Thrift's compact protocol, as far as it has to be understood to pass by what it says.
struct Thrift<'f>(&'f [u8]);

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind(u8);

impl Kind {
    const TRUE: Kind = Kind(1);
    const FALSE: Kind = Kind(2);
    const BYTE: Kind = Kind(3);
    const I16: Kind = Kind(4);
    const I32: Kind = Kind(5);
    const I64: Kind = Kind(6);
    const DOUBLE: Kind = Kind(7);
    const BINARY: Kind = Kind(8);
    const LIST: Kind = Kind(9);
    const SET: Kind = Kind(10);
    const MAP: Kind = Kind(11);
    const STRUCT: Kind = Kind(12);
}

impl Thrift<'_> {
    fn byte(&mut self) -> Checked<u8> {
        let (&byte, rest) = self.0.split_first().ok_or(DAMAGED)?;
        self.0 = rest;
        Ok(byte)
    }

    fn varint(&mut self) -> Checked<u64> {
        let (value, rest) = varint(self.0).ok_or(DAMAGED)?;
        self.0 = rest;
        Ok(value)
    }

    fn zigzag(&mut self) -> Checked<i64> {
        self.varint().map(zigzag)
    }

    fn pass(&mut self, bytes: u64) -> Checked<()> {
        let bytes = usize::try_from(bytes).map_err(|_| DAMAGED)?;
        self.0 = self.0.get(bytes..).ok_or(DAMAGED)?;
        Ok(())
    }

    /// What the next field of a struct is; `number` becomes its own from that of the one before. `None` at the struct's end.
    fn field(&mut self, number: &mut i64) -> Checked<Option<Kind>> {
        let byte = self.byte()?;
        if byte & 0x0f == 0 {
            return Ok(None);
        }
        *number = match i64::from(byte >> 4) {
            0 => self.zigzag()?,
            further => number.checked_add(further).ok_or(DAMAGED)?,
        };
        Ok(Some(Kind(byte & 0x0f)))
    }

    /// What a list's items are, and how many.
    fn list(&mut self) -> Checked<(Kind, u64)> {
        let byte = self.byte()?;
        let count = match byte >> 4 {
            15 => self.varint()?,
            count => u64::from(count),
        };
        Ok((Kind(byte & 0x0f), count))
    }

    fn skip(&mut self, kind: Kind, level: usize) -> Checked<()> {
        if level > MOST_LEVELS {
            return Err(DAMAGED);
        }
        match kind {
            // The field's kind is the value.
            Kind::TRUE | Kind::FALSE => Ok(()),
            Kind::BYTE => self.pass(1),
            Kind::I16 | Kind::I32 | Kind::I64 => self.varint().map(drop),
            Kind::DOUBLE => self.pass(8),
            Kind::BINARY => {
                let length = self.varint()?;
                self.pass(length)
            }
            Kind::LIST | Kind::SET => {
                let (kind, count) = self.list()?;
                (0..count).try_for_each(|_| self.skip_item(kind, level + 1))
            }
            Kind::MAP => {
                let count = self.varint()?;
                let kinds = if count > 0 { self.byte()? } else { 0 };
                (0..count).try_for_each(|_| {
                    self.skip_item(Kind(kinds >> 4), level + 1)?;
                    self.skip_item(Kind(kinds & 0x0f), level + 1)
                })
            }
            Kind::STRUCT => {
                let mut number = 0;
                while let Some(kind) = self.field(&mut number)? {
                    self.skip(kind, level + 1)?;
                }
                Ok(())
            }
            _ => Err(DAMAGED),
        }
    }

    /// An item takes a byte at least, so a count that is too large comes to the footer's end.
    fn skip_item(&mut self, kind: Kind, level: usize) -> Checked<()> {
        match kind {
            Kind::TRUE | Kind::FALSE => self.pass(1),
            kind => self.skip(kind, level),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A footer with a schema of elements that have so many children.
    fn footer(children: &[u8]) -> Vec<u8> {
        // Field 1, the version; field 2, a list of structs.
        let mut footer = vec![0x15, 0x02, 0x19, 0xfc, children.len() as u8];
        for &count in children {
            // A name in field 4, the number of children in field 5 where there are any.
            footer.extend([0x48, 0x01, b'x']);
            footer.extend(if count > 0 { vec![0x15, count * 2] } else { Vec::new() });
            footer.push(0);
        }
        footer.push(0);
        footer
    }

    #[test]
    fn a_schema_has_the_columns_that_it_claims_and_few_levels() {
        let check = |children: &[u8]| check_metadata(&mut Thrift(&footer(children)));
        assert_eq!(check(&[2, 0, 0]), Ok(()));
        assert_eq!(check(&[3, 1, 1, 0, 2, 0, 0, 0]), Ok(()));
        assert_eq!(check(&[2, 0]), Err("its footer claims more columns than it has"));
        let deep = |levels: usize| [vec![1; levels - 1], vec![0]].concat();
        assert_eq!(check(&deep(MOST_LEVELS)), Ok(()));
        assert_eq!(check(&deep(MOST_LEVELS + 1)), Err("its columns are nested too deep"));
        // Side by side is not deep.
        assert_eq!(check(&[vec![50], [1, 0].repeat(50)].concat()), Ok(()));
    }

    #[test]
    fn what_is_cut_or_claims_too_much_is_damaged() {
        let whole = footer(&[2, 0, 0]);
        for length in 0..whole.len() {
            assert_eq!(check_metadata(&mut Thrift(&whole[..length])), Err(DAMAGED), "{length}");
        }
        // A list of 2^63 items, a text of as many bytes, lists in lists.
        let vast = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        for before in [&[0x39, 0xf3][..], &[0x39, 0xf1], &[0x38], &[0x3b]] {
            assert_eq!(check_metadata(&mut Thrift(&[before, &vast].concat())), Err(DAMAGED), "{before:?}");
        }
        let nested = [vec![0x39], vec![0x19; 100]].concat();
        assert_eq!(check_metadata(&mut Thrift(&nested)), Err(DAMAGED));
    }

    #[test]
    fn files_that_are_none_are_left_to_the_library() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(check(&file), Ok(()));
        std::io::Write::write_all(&mut &file, b"PAR1 and nothing else").unwrap();
        assert_eq!(check(&file), Ok(()));
    }
}
