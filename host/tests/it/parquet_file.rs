//! Parquet files made in the test, byte by byte, where no writer's file shows the case. Numbers of fields: parquet-format's
//! `parquet.thrift`.

/// A struct in Thrift's compact protocol under construction; its fields come in the order of their numbers.
#[derive(Default, Clone)]
pub struct Struct {
    bytes: Vec<u8>,
    last: u8,
}

const I32: u8 = 5;
const I64: u8 = 6;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

pub fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn zigzag(value: i64) -> Vec<u8> {
    varint((value << 1 ^ value >> 63) as u64)
}

impl Struct {
    fn field(mut self, number: u8, kind: u8, value: &[u8]) -> Struct {
        self.bytes.push((number - self.last) << 4 | kind);
        self.bytes.extend_from_slice(value);
        self.last = number;
        self
    }

    pub fn i32(self, number: u8, value: i64) -> Struct {
        self.field(number, I32, &zigzag(value))
    }

    pub fn i64(self, number: u8, value: i64) -> Struct {
        self.field(number, I64, &zigzag(value))
    }

    /// A 32-bit integer in a field whose number is written out, whatever it is and whatever came before.
    pub fn i32_at(mut self, number: i64, value: i64) -> Struct {
        self.bytes.push(I32);
        self.bytes.extend([zigzag(number), zigzag(value)].concat());
        self
    }

    pub fn text(self, number: u8, text: &str) -> Struct {
        self.field(number, BINARY, &[varint(text.len() as u64), text.as_bytes().to_vec()].concat())
    }

    fn list(self, number: u8, kind: u8, items: &[Vec<u8>]) -> Struct {
        let head = [vec![0xf0 | kind], varint(items.len() as u64)].concat();
        self.field(number, LIST, &[head, items.concat()].concat())
    }

    fn structs(self, number: u8, items: Vec<Struct>) -> Struct {
        let items: Vec<Vec<u8>> = items.into_iter().map(Struct::finish).collect();
        self.list(number, STRUCT, &items)
    }

    fn inner(self, number: u8, inner: Struct) -> Struct {
        self.field(number, STRUCT, &inner.finish())
    }

    fn finish(mut self) -> Vec<u8> {
        self.bytes.push(0);
        self.bytes
    }
}

/// A group of so many columns.
pub fn group(name: &str, children: i64) -> Struct {
    Struct::default().i32(3, 0).text(4, name).i32(5, children)
}

/// `FLOAT` and `BYTE_ARRAY`.
pub const FLOAT: i64 = 4;
pub const BYTE_ARRAY: i64 = 6;
/// `REQUIRED` and `REPEATED`.
pub const REQUIRED: i64 = 0;
pub const REPEATED: i64 = 2;
/// `GZIP`, and `LZ4` as Hadoop has it.
pub const GZIP: i64 = 2;
pub const LZ4: i64 = 5;
/// `PLAIN` and `DELTA_LENGTH_BYTE_ARRAY`.
pub const PLAIN: i64 = 0;
pub const DELTA_LENGTH_BYTE_ARRAY: i64 = 6;

pub fn leaf(name: &str, kind: i64, repetition: i64) -> Struct {
    Struct::default().i32(1, kind).i32(3, repetition).text(4, name)
}

/// A file without rows, of this schema.
pub fn of_schema(schema: Vec<Struct>) -> Vec<u8> {
    with_footer(Vec::new(), Struct::default().i32(1, 1).structs(2, schema).i64(3, 0).structs(4, Vec::new()))
}

/// A file of one column `x` and one row, with one page that says of itself that it has so many values.
pub fn of_page(kind: i64, repetition: i64, values: i64, encoding: i64, page: &[u8]) -> Vec<u8> {
    of_packed_page(kind, repetition, values, encoding, (0, page.len()), page)
}

/// The same with a page that is packed by a codec, and says how many bytes it unpacks to.
pub fn of_packed_page(
    kind: i64,
    repetition: i64,
    values: i64,
    encoding: i64,
    (codec, unpacked): (i64, usize),
    page: &[u8],
) -> Vec<u8> {
    of_columns(&["x".to_owned()], (kind, repetition), values, encoding, (codec, unpacked), page)
}

/// The same with columns of these names, whose pages are all the same one.
pub fn of_columns(
    names: &[String],
    (kind, repetition): (i64, i64),
    values: i64,
    encoding: i64,
    (codec, unpacked): (i64, usize),
    page: &[u8],
) -> Vec<u8> {
    // Levels are `RLE`, 3.
    let header = Struct::default().i32(1, values).i32(2, encoding).i32(3, 3).i32(4, 3);
    let header = Struct::default().i32(1, 0).i32(2, unpacked as i64).i32(3, page.len() as i64).inner(5, header);
    let pages = [header.finish(), page.to_vec()].concat();
    let size = pages.len() as i64;
    let chunk = |name: &String| {
        let name = [varint(name.len() as u64), name.as_bytes().to_vec()].concat();
        let chunk = Struct::default().i32(1, kind).list(2, I32, &[zigzag(encoding)]).list(3, BINARY, &[name]);
        let chunk = chunk.i32(4, codec).i64(5, values).i64(6, size).i64(7, size).i64(9, 4);
        Struct::default().i64(2, 4).inner(3, chunk)
    };
    let rows = Struct::default().structs(1, names.iter().map(chunk).collect()).i64(2, size).i64(3, 1);
    let leaves = names.iter().map(|name| leaf(name, kind, repetition));
    let schema = [group("schema", names.len() as i64)].into_iter().chain(leaves).collect();
    with_footer(pages, Struct::default().i32(1, 1).structs(2, schema).i64(3, 1).structs(4, vec![rows]))
}

fn with_footer(pages: Vec<u8>, footer: Struct) -> Vec<u8> {
    let footer = footer.finish();
    let length = (footer.len() as u32).to_le_bytes();
    [&b"PAR1"[..], &pages, &footer, &length, b"PAR1"].concat()
}
