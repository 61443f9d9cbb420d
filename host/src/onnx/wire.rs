//! Walks protobuf fields in a file without reading what they hold. Source: <https://protobuf.dev/programming-guides/encoding/>.

use std::io::{BufRead, Read, Seek};

use super::MetadataError;

/// Fields walked at most, over the whole file: some for each node, attribute and weight.
const MOST_FIELDS: u64 = 16_000_000;

/// A part of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Span {
    pub(super) fn len(self) -> u64 {
        self.end - self.start
    }
}

/// One field of a message, its content unread.
pub(super) struct Field {
    pub(super) number: u32,
    /// The byte at which the field starts.
    pub(super) offset: u64,
    content: Content,
}

enum Content {
    Varint(u64),
    /// A number of four or eight bytes. ONNX has them only where the host does not look.
    Fixed(Span),
    /// A string, bytes or a message.
    Length(Span),
}

impl Field {
    /// The number the field holds. Protobuf encodes negative numbers as 64-bit two's complement.
    pub(super) fn integer(&self) -> Result<i64, MetadataError> {
        match self.content {
            Content::Varint(value) => Ok(value.cast_signed()),
            _ => Err(malformed(self.offset, format!("field {} should hold a number and does not", self.number))),
        }
    }

    /// Where the string or message is that the field holds.
    pub(super) fn span(&self) -> Result<Span, MetadataError> {
        match self.content {
            Content::Length(span) => Ok(span),
            _ => {
                Err(malformed(self.offset, format!("field {} should hold text or a message and does not", self.number)))
            }
        }
    }
}

/// A file of known length and a place in it.
pub(super) struct Wire<R> {
    source: R,
    position: u64,
    fields: u64,
}

impl<R: BufRead + Seek> Wire<R> {
    /// `source` stands at the start of the file.
    pub(super) fn new(source: R) -> Wire<R> {
        Wire { source, position: 0, fields: 0 }
    }

    /// The next field of the message whose unread part is `rest`, which then starts behind that field.
    pub(super) fn field(&mut self, rest: &mut Span) -> Result<Option<Field>, MetadataError> {
        if rest.start == rest.end {
            return Ok(None);
        }
        let offset = rest.start;
        self.fields += 1;
        if self.fields > MOST_FIELDS {
            return Err(MetadataError::Limit {
                offset,
                what: format!("more than {MOST_FIELDS} nodes, weights and the like"),
            });
        }
        self.move_to(offset)?;
        let key = self.varint(rest.end)?;
        let number = u32::try_from(key >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or_else(|| malformed(offset, format!("{} is no field number", key >> 3)))?;
        let content = match key & 7 {
            0 => Content::Varint(self.varint(rest.end)?),
            1 => Content::Fixed(self.content_of(8, offset, rest.end)?),
            2 => {
                let length = self.varint(rest.end)?;
                Content::Length(self.content_of(length, offset, rest.end)?)
            }
            5 => Content::Fixed(self.content_of(4, offset, rest.end)?),
            other => {
                return Err(malformed(offset, format!("field {number} has wire type {other}, which ONNX never uses")));
            }
        };
        rest.start = match content {
            Content::Varint(_) => self.position,
            Content::Fixed(span) | Content::Length(span) => span.end,
        };
        Ok(Some(Field { number, offset, content }))
    }

    /// Leaves the last field out of the count.
    pub(super) fn uncount(&mut self) {
        self.fields -= 1;
    }

    /// The bytes of a part that is known to be small.
    pub(super) fn bytes(&mut self, span: Span) -> Result<Vec<u8>, MetadataError> {
        self.move_to(span.start)?;
        let mut bytes = Vec::new();
        let read = self.source.by_ref().take(span.len()).read_to_end(&mut bytes)?;
        self.position += read as u64;
        if self.position < span.end {
            return Err(ends(self.position));
        }
        Ok(bytes)
    }

    fn content_of(&self, length: u64, field: u64, end: u64) -> Result<Span, MetadataError> {
        let start = self.position;
        if length > end - start {
            let problem =
                format!("a field claims {length} bytes where only {} are left: damaged or cut short", end - start);
            return Err(malformed(field, problem));
        }
        Ok(Span { start, end: start + length })
    }

    fn varint(&mut self, end: u64) -> Result<u64, MetadataError> {
        let start = self.position;
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            if self.position == end {
                return Err(ends(end));
            }
            let Some(&byte) = self.source.fill_buf()?.first() else { return Err(ends(self.position)) };
            self.source.consume(1);
            self.position += 1;
            // The tenth byte holds the 64th bit and no more.
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(malformed(start, "a number is longer than 64 bits".to_owned()))
    }

    fn move_to(&mut self, position: u64) -> Result<(), MetadataError> {
        // Both are within a file's length, which fits an i64.
        let distance = position.wrapping_sub(self.position).cast_signed();
        if distance != 0 {
            self.source.seek_relative(distance)?;
            self.position = position;
        }
        Ok(())
    }
}

pub(super) fn malformed(offset: u64, problem: String) -> MetadataError {
    MetadataError::Malformed { offset, problem }
}

fn ends(offset: u64) -> MetadataError {
    malformed(offset, "the data ends in the middle of a field: damaged or cut short".to_owned())
}
