//! Thrift's compact protocol, as far as it has to be understood to pass by what it says. The library knows a field by the lower
//! 16 bits of its number alone and reads it as what it should be, so what could be read in two ways is refused here.

/// Levels of values in values. What is read here has a few.
const MOST_LEVELS: usize = 32;

pub(super) type Checked<T> = Result<T, Damaged>;

/// It is cut, or nothing that a writer of Parquet writes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damaged;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind(u8);

impl Kind {
    /// Of a field, whichever truth it is.
    pub(super) const BOOL: Kind = Kind(1);
    const FALSE: Kind = Kind(2);
    pub(super) const BYTE: Kind = Kind(3);
    const I16: Kind = Kind(4);
    pub(super) const I32: Kind = Kind(5);
    pub(super) const I64: Kind = Kind(6);
    const DOUBLE: Kind = Kind(7);
    pub(super) const BINARY: Kind = Kind(8);
    pub(super) const LIST: Kind = Kind(9);
    const SET: Kind = Kind(10);
    const MAP: Kind = Kind(11);
    pub(super) const STRUCT: Kind = Kind(12);
}

/// Fields that a struct may have: their numbers, what they are, and what is in those that are structs. Others are passed by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields(pub(super) &'static [(i16, Kind, Fields)]);

impl Fields {
    pub(super) const NONE: Fields = Fields(&[]);
}

pub(super) struct Thrift<'f>(pub(super) &'f [u8]);

impl<'f> Thrift<'f> {
    fn byte(&mut self) -> Checked<u8> {
        let (&byte, rest) = self.0.split_first().ok_or(Damaged)?;
        self.0 = rest;
        Ok(byte)
    }

    fn varint(&mut self) -> Checked<u64> {
        let (value, rest) = varint(self.0).ok_or(Damaged)?;
        self.0 = rest;
        Ok(value)
    }

    /// An integer of any size but a byte's.
    pub(super) fn integer(&mut self) -> Checked<i64> {
        self.varint().map(zigzag)
    }

    pub(super) fn binary(&mut self) -> Checked<&'f [u8]> {
        let length = self.varint()?;
        self.pass(length)
    }

    fn pass(&mut self, bytes: u64) -> Checked<&'f [u8]> {
        let bytes = usize::try_from(bytes).map_err(|_| Damaged)?;
        let (passed, rest) = self.0.split_at_checked(bytes).ok_or(Damaged)?;
        self.0 = rest;
        Ok(passed)
    }

    /// What the next field of a struct is, and what is in it; `number` becomes its own from that of the one before. `None` at
    /// the struct's end. All writers write fields in the order of their numbers, so none comes twice.
    pub(super) fn field(&mut self, number: &mut i16, known: Fields) -> Checked<Option<(Kind, Fields)>> {
        let byte = self.byte()?;
        if byte & 0x0f == 0 {
            return Ok(None);
        }
        let before = i64::from(*number);
        let next = match i64::from(byte >> 4) {
            0 => self.integer()?,
            further => before + further,
        };
        *number = i16::try_from(next).ok().filter(|_| next > before).ok_or(Damaged)?;
        let kind = match Kind(byte & 0x0f) {
            Kind::FALSE => Kind::BOOL,
            kind => kind,
        };
        match known.0.iter().find(|(known, ..)| known == number) {
            Some((_, expected, _)) if *expected != kind => Err(Damaged),
            Some((_, _, fields)) => Ok(Some((kind, *fields))),
            None => Ok(Some((kind, Fields::NONE))),
        }
    }

    /// What a list's items are, and how many.
    pub(super) fn list(&mut self) -> Checked<(Kind, u64)> {
        let byte = self.byte()?;
        let count = match byte >> 4 {
            15 => self.varint()?,
            count => u64::from(count),
        };
        Ok((Kind(byte & 0x0f), count))
    }

    /// Passes by a value, which has these fields if it is a struct.
    pub(super) fn skip(&mut self, kind: Kind, fields: Fields) -> Checked<()> {
        self.skip_at(kind, fields, 0)
    }

    fn skip_at(&mut self, kind: Kind, fields: Fields, level: usize) -> Checked<()> {
        if level > MOST_LEVELS {
            return Err(Damaged);
        }
        match kind {
            // The field's kind is the value.
            Kind::BOOL => Ok(()),
            Kind::BYTE => self.pass(1).map(drop),
            Kind::I16 | Kind::I32 | Kind::I64 => self.varint().map(drop),
            Kind::DOUBLE => self.pass(8).map(drop),
            Kind::BINARY => self.binary().map(drop),
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
                while let Some((kind, fields)) = self.field(&mut number, fields)? {
                    self.skip_at(kind, fields, level + 1)?;
                }
                Ok(())
            }
            _ => Err(Damaged),
        }
    }

    /// An item takes a byte at least, so a count that is too large comes to the end. Truths, of which Parquet has no lists, take
    /// none where the library passes by them.
    fn skip_item(&mut self, kind: Kind, level: usize) -> Checked<()> {
        match kind {
            Kind::BOOL | Kind::FALSE => Err(Damaged),
            kind => self.skip_at(kind, Fields::NONE, level),
        }
    }
}

/// Seven bits a byte, the lowest first.
pub(super) fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

/// A number whose sign is in its lowest bit, so that small ones are short.
pub(super) fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: Fields =
        Fields(&[(1, Kind::I32, Fields::NONE), (2, Kind::STRUCT, Fields(&[(1, Kind::BOOL, Fields::NONE)]))]);

    fn skip(fields: &[u8]) -> Checked<usize> {
        let mut thrift = Thrift(fields);
        thrift.skip(Kind::STRUCT, KNOWN).map(|()| thrift.0.len())
    }

    #[test]
    fn a_struct_is_passed_by_whatever_is_in_it_that_is_not_known() {
        assert_eq!(skip(&[0]), Ok(0));
        // A number, a struct of a truth, and a text in field 40; one byte is left.
        assert_eq!(skip(&[0x15, 0x02, 0x1c, 0x12, 0x00, 0x08, 0x50, 0x01, b'x', 0x00, 0xff]), Ok(1));
        // A list of two texts, a map of a number to a text.
        assert_eq!(skip(&[0x39, 0x28, 0x00, 0x01, b'x', 0x1b, 0x01, 0x58, 0x02, 0x00, 0x00]), Ok(0));
    }

    #[test]
    fn what_the_library_may_read_in_another_way_is_damaged() {
        for (fields, what) in [
            (&[0x16, 0x02, 0x00][..], "a known field of another kind"),
            (&[0x1c, 0x1c, 0x00, 0x00], "a struct in place of a number"),
            (&[0x2c, 0x15, 0x02, 0x00, 0x00], "another kind in a struct"),
            (&[0x15, 0x02, 0x05, 0x02, 0x04, 0x00], "a field that comes twice"),
            (&[0x35, 0x02, 0x05, 0x02, 0x04, 0x00], "a field that comes late"),
            (&[0x05, 0x00, 0x04, 0x00], "a field without a number"),
            (&[0x05, 0x01, 0x04, 0x00], "a number below none"),
            (&[0x05, 0x82, 0x80, 0x08, 0x04, 0x00], "65537, of which the lower bits are 1"),
            (&[0x39, 0x21, 0x01, 0x01, 0x00], "a list of truths"),
            (&[0x3b, 0x01, 0x15, 0x01, 0x02, 0x00], "a map of truths"),
        ] {
            assert_eq!(skip(fields), Err(Damaged), "{what}");
        }
    }

    #[test]
    fn what_claims_too_much_is_damaged() {
        // A list of 2^63 items, a text of as many bytes, lists in lists.
        let vast = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        for before in [&[0x39, 0xf3][..], &[0x39, 0xf8], &[0x38], &[0x3b]] {
            assert_eq!(skip(&[before, &vast].concat()), Err(Damaged), "{before:?}");
        }
        assert_eq!(skip(&[vec![0x39], vec![0x19; 100]].concat()), Err(Damaged));
    }
}
