//! The footer of a Parquet file, looked at before the library that reads it: that one makes room for as many columns as the
//! footer claims, and goes as deep as they are nested, until memory or stack is at its end and the process with it.

use std::fs::File;

use parquet::file::reader::{ChunkReader, Length};

use super::thrift::{Checked, Damaged, Fields, Kind, Thrift};

/// Levels of columns in columns. What is read here has a few.
const MOST_LEVELS: usize = 32;

/// Most bytes of a footer, of which the library makes up to 40 times as many. A hundred columns of
/// numbers in a thousand row groups fit, and half as many of texts, whose least and greatest are in it too.
const MOST_BYTES: u32 = 16 << 20;

/// Most memory that columns may take, how much one takes beside its path about, and a part of a path beside its name: the path
/// of a column has the names of all those around it.
const MOST_COLUMN_BYTES: u64 = 256 << 20;
const COLUMN_BYTES: u64 = 1024;
const PART_BYTES: u64 = 48;

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
    if length > MOST_BYTES {
        return Err(format!(
            "its footer of {length} bytes is larger than {MOST_BYTES}: write it with larger row groups"
        ));
    }
    let footer = file.get_bytes(start, length as usize).map_err(unreadable)?;
    check_metadata(&mut Thrift(&footer)).map_err(str::to_owned)
}

const NONE: Fields = Fields::NONE;

/// `FileMetaData`. Source of this and the others: parquet-format's `parquet.thrift`. What comes before the schema is a number,
/// and a second schema is not read: whatever is behind the first leaves it as it was found here.
const FILE: Fields = Fields(&[
    (1, Kind::I32, NONE),
    (SCHEMA, Kind::LIST, NONE),
    (3, Kind::I64, NONE),
    (4, Kind::LIST, NONE),
    (5, Kind::LIST, NONE),
    (6, Kind::BINARY, NONE),
    (7, Kind::LIST, NONE),
    (8, Kind::STRUCT, NONE),
    (9, Kind::BINARY, NONE),
]);
const SCHEMA: i16 = 2;

/// `SchemaElement`.
const ELEMENT: Fields = Fields(&[
    (1, Kind::I32, NONE),
    (2, Kind::I32, NONE),
    (3, Kind::I32, NONE),
    (NAME, Kind::BINARY, NONE),
    (CHILDREN, Kind::I32, NONE),
    (6, Kind::I32, NONE),
    (7, Kind::I32, NONE),
    (8, Kind::I32, NONE),
    (9, Kind::I32, NONE),
    (10, Kind::STRUCT, LOGICAL_TYPE),
]);
const NAME: i16 = 4;
const CHILDREN: i16 = 5;

/// `LogicalType`.
const LOGICAL_TYPE: Fields = Fields(&[
    (1, Kind::STRUCT, NONE),
    (2, Kind::STRUCT, NONE),
    (3, Kind::STRUCT, NONE),
    (4, Kind::STRUCT, NONE),
    (5, Kind::STRUCT, Fields(&[(1, Kind::I32, NONE), (2, Kind::I32, NONE)])),
    (6, Kind::STRUCT, NONE),
    (7, Kind::STRUCT, TIME),
    (8, Kind::STRUCT, TIME),
    (10, Kind::STRUCT, Fields(&[(1, Kind::BYTE, NONE), (2, Kind::BOOL, NONE)])),
    (11, Kind::STRUCT, NONE),
    (12, Kind::STRUCT, NONE),
    (13, Kind::STRUCT, NONE),
    (14, Kind::STRUCT, NONE),
    (15, Kind::STRUCT, NONE),
    (16, Kind::STRUCT, Fields(&[(1, Kind::BYTE, NONE)])),
    (17, Kind::STRUCT, Fields(&[(1, Kind::BINARY, NONE)])),
    (18, Kind::STRUCT, Fields(&[(1, Kind::BINARY, NONE), (2, Kind::I32, NONE)])),
    (19, Kind::STRUCT, NONE),
]);
const TIME: Fields = Fields(&[(1, Kind::BOOL, NONE), (2, Kind::STRUCT, UNIT)]);
const UNIT: Fields = Fields(&[(1, Kind::STRUCT, NONE), (2, Kind::STRUCT, NONE), (3, Kind::STRUCT, NONE)]);

fn check_metadata(footer: &mut Thrift<'_>) -> Result<(), Refused> {
    let mut number = 0;
    while let Some((kind, fields)) = footer.field(&mut number, FILE)? {
        match number {
            SCHEMA => check_schema(footer)?,
            _ => footer.skip(kind, fields)?,
        }
    }
    Ok(())
}

/// Elements of the schema: each column before those in it.
fn check_schema(footer: &mut Thrift<'_>) -> Result<(), Refused> {
    let (kind, count) = footer.list()?;
    // How many are still to come in each of the columns around the next one, and the bytes of its path.
    let mut open: Vec<(u64, u64)> = Vec::new();
    let mut bytes = 0;
    for index in 0..count {
        let (name, children) = match kind {
            Kind::STRUCT => element(footer)?,
            _ => return Err(Damaged.into()),
        };
        if children > count - index - 1 {
            return Err("its footer claims more columns than it has");
        }
        let mut path = name + PART_BYTES;
        if let Some((left, around)) = open.last_mut() {
            *left = left.checked_sub(1).ok_or(Damaged)?;
            path += *around;
        }
        bytes += COLUMN_BYTES + if children == 0 { path } else { 0 };
        if bytes > MOST_COLUMN_BYTES {
            return Err("its columns, or their names, are too many");
        }
        open.push((children, path));
        if open.len() > MOST_LEVELS {
            return Err("its columns are nested too deep");
        }
        while open.last().is_some_and(|(left, _)| *left == 0) {
            open.pop();
        }
    }
    Ok(())
}

/// How long an element's name is, and how many columns it says are in it.
fn element(footer: &mut Thrift<'_>) -> Checked<(u64, u64)> {
    let (mut number, mut name, mut children) = (0, 0, 0);
    while let Some((kind, fields)) = footer.field(&mut number, ELEMENT)? {
        match number {
            NAME => name = footer.binary()?.len() as u64,
            CHILDREN => children = u64::try_from(footer.integer()?).map_err(|_| Damaged)?,
            _ => footer.skip(kind, fields)?,
        }
    }
    Ok((name, children))
}

/// What is wrong with it.
type Refused = &'static str;

impl From<Damaged> for Refused {
    fn from(_: Damaged) -> Refused {
        "its footer is damaged"
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io;

    use super::*;

    const DAMAGED: Refused = "its footer is damaged";

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

    fn varint(mut value: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
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
    fn what_is_cut_or_could_be_read_in_two_ways_is_damaged() {
        let whole = footer(&[2, 0, 0]);
        for length in 0..whole.len() {
            assert_eq!(check_metadata(&mut Thrift(&whole[..length])), Err(DAMAGED), "{length}");
        }
        let of_element = |element: &[u8]| {
            let footer = [&[0x15, 0x02, 0x19, 0x1c], element, &[0x00, 0x00]].concat();
            check_metadata(&mut Thrift(&footer))
        };
        assert_eq!(of_element(&[0x48, 0x01, b'x', 0x15, 0x00]), Ok(()));
        for (element, what) in [
            (&[0x48, 0x01, b'x', 0x16, 0x00][..], "children in 64 bits"),
            (&[0x48, 0x01, b'x', 0x15, 0x00, 0x05, 0x0a, 0x00], "children twice"),
            (&[0x48, 0x01, b'x', 0x05, 0x8a, 0x80, 0x08, 0x00], "children in field 65541"),
            (&[0xa5, 0x00], "a number in place of a logical type"),
            (&[0xac, 0x11, 0x00], "a truth in place of what texts have"),
            (&[0xac, 0xac, 0x15, 0x10, 0x11, 0x00, 0x00], "the width of an integer in 32 bits"),
        ] {
            assert_eq!(of_element(element), Err(DAMAGED), "{what}");
        }
        // The schema twice, in a text, and behind what is to be behind it.
        let twice = [&whole[..whole.len() - 1], &[0x09, 0x04, 0x0c, 0x00]].concat();
        for footer in [&twice[..], &[0x15, 0x02, 0x18, 0x00, 0x00], &[0x49, 0x0c, 0x09, 0x04, 0x0c, 0x00]] {
            assert_eq!(check_metadata(&mut Thrift(footer)), Err(DAMAGED), "{footer:?}");
        }
    }

    #[test]
    fn columns_take_only_so_much_memory_with_their_paths() {
        // Ten columns in one another, and so many in the last, all with a name of 10,000 bytes.
        let columns = |leaves: usize| {
            let element = |children: usize| {
                let children = [&[0x15][..], &varint(children * 2)].concat();
                [&[0x48][..], &varint(10_000), &[b'x'; 10_000], &children, &[0x00]].concat()
            };
            let elements = [element(1).repeat(9), element(leaves), element(0).repeat(leaves)].concat();
            [&[0x15, 0x02, 0x19, 0xfc][..], &varint(10 + leaves), &elements, &[0x00]].concat()
        };
        assert_eq!(check_metadata(&mut Thrift(&columns(1000))), Ok(()));
        let refused = check_metadata(&mut Thrift(&columns(3000)));
        assert_eq!(refused, Err("its columns, or their names, are too many"));
    }

    #[test]
    fn a_footer_that_is_too_large_is_not_read() {
        let file = tempfile::tempfile().unwrap();
        let length = MOST_BYTES + 1;
        file.set_len(u64::from(length)).unwrap();
        io::Seek::seek(&mut &file, io::SeekFrom::End(0)).unwrap();
        io::Write::write_all(&mut &file, &[&length.to_le_bytes()[..], b"PAR1"].concat()).unwrap();
        let refused = check(&file).unwrap_err();
        assert!(refused.contains("16777217 bytes"), "{refused}");
    }

    #[test]
    fn files_that_are_none_are_left_to_the_library() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(check(&file), Ok(()));
        io::Write::write_all(&mut &file, b"PAR1 and nothing else").unwrap();
        assert_eq!(check(&file), Ok(()));
    }
}
