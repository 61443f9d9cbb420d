//! Records of text, with or without a header.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use csv::{ByteRecord, ReaderBuilder};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::columns::{Columns, Source, find, id_column};
use super::json::read_row;
use super::{Begun, Chunks, ReadOptions, Stopped};
use crate::batch::Feed;
use crate::batch::plan::{Plan, Way};
use crate::batch::rows::{Collector, Column};
use crate::error::{Error, ErrorCode, Result, shorten};
use crate::numbers::Number;
use crate::tensor::DataType;

/// Bytes that the parser takes in at once.
const BUFFER: usize = 64 << 10;

/// The bytes of a file, as far as the record being read may reach.
struct Bounded {
    feed: Feed,
    rest: Bytes,
    /// Bytes handed out, and how far this may go.
    given: u64,
    allowed: u64,
    /// Whether the last byte handed out ends a line.
    ends_line: bool,
    /// Why there are no more.
    failed: Option<Error>,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given >= self.allowed {
            self.failed = Some(Error::new(
                ErrorCode::TooLarge,
                "a record is longer than a row may be (--max-body-bytes): is there a quote that does not end?",
            ));
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if self.rest.is_empty() {
            match self.feed.take() {
                Ok(piece) => self.rest = piece.unwrap_or_default(),
                Err(error) => {
                    self.failed = Some(error);
                    return Err(io::ErrorKind::Other.into());
                }
            }
        }
        let length = self.rest.len().min(buffer.len());
        self.rest.copy_to_slice(&mut buffer[..length]);
        self.given += length as u64;
        self.ends_line = buffer[..length].ends_with(b"\n");
        Ok(length)
    }
}

struct Records {
    reader: csv::Reader<Bounded>,
    row_bytes: u64,
}

impl Records {
    /// The next record, if there is one.
    fn next(&mut self, record: &mut ByteRecord) -> Result<bool> {
        let start = self.reader.position().byte();
        self.reader.get_mut().allowed = start.saturating_add(self.row_bytes).saturating_add(BUFFER as u64);
        match self.reader.read_byte_record(record) {
            Ok(is_one) => Ok(is_one),
            Err(error) => Err(self
                .reader
                .get_mut()
                .failed
                .take()
                .unwrap_or_else(|| Error::invalid_input(format!("the file is not readable as CSV: {error}")))),
        }
    }

    /// Whether the next record has not come yet, and nothing is left of what came.
    fn is_idle(&self) -> bool {
        let source = self.reader.get_ref();
        // The parser ends a record at `\r`, and takes the `\n` behind it with the next one.
        let line_end = u64::from(source.ends_line);
        source.rest.is_empty() && source.feed.is_idle() && self.reader.position().byte() + line_end >= source.given
    }
}

/// Reads records to the end. One that does not fit the model is a bad row.
pub(super) fn read(
    feed: Feed,
    row_bytes: usize,
    options: &ReadOptions,
    rows: &mut Collector<'_>,
    chunks: &mut Chunks<'_>,
) -> std::result::Result<(), Stopped> {
    let source = Bounded { feed, rest: Bytes::new(), given: 0, allowed: u64::MAX, ends_line: false, failed: None };
    let reader = ReaderBuilder::new().has_headers(false).flexible(true).buffer_capacity(BUFFER).from_reader(source);
    let mut records = Records { reader, row_bytes: row_bytes as u64 };
    let mut record = ByteRecord::new();
    if !records.next(&mut record)? {
        chunks.begin(Begun { has_ids: false });
        return Ok(());
    }
    // The mark that some programs put before UTF-8.
    if let Some(first) = record.get(0).and_then(|first| first.strip_prefix(b"\xef\xbb\xbf")) {
        record = std::iter::once(first).chain(record.iter().skip(1)).map(<[u8]>::to_vec).collect();
    }
    let has_header = options.header.unwrap_or_else(|| record.iter().any(|cell| !cell.is_empty() && !is_number(cell)));
    let names: Vec<String> = match has_header {
        true => record.iter().map(|cell| String::from_utf8_lossy(cell.trim_ascii()).into_owned()).collect(),
        false => (0..record.len()).map(|column| column.to_string()).collect(),
    };
    let table = Table::new(rows.plan, names, has_header, options)?;
    chunks.begin(Begun { has_ids: table.id().is_some() });
    let mut is_one = !has_header || records.next(&mut record)?;
    while is_one {
        if let Err(error) = table.read(&record, rows) {
            rows.bad(error.message);
        }
        if rows.is_full() || records.is_idle() {
            chunks.send(rows)?;
        }
        is_one = records.next(&mut record)?;
    }
    Ok(())
}

fn is_number(cell: &[u8]) -> bool {
    let cell = cell.trim_ascii();
    whole::<f64>(cell).is_some() || word(cell).is_some()
}

/// A float that is no number.
fn word(cell: &[u8]) -> Option<f64> {
    let (sign, word) = cell.strip_prefix(b"-").map_or((1.0, cell), |word| (-1.0, word));
    match word.to_ascii_lowercase().as_slice() {
        b"nan" => Some(f64::NAN),
        b"inf" | b"infinity" => Some(sign * f64::INFINITY),
        _ => None,
    }
}

/// What the columns of a file are.
struct Table {
    names: Vec<String>,
    kind: Kind,
}

enum Kind {
    /// Elements of tensors.
    Fixed(Columns),
    /// Objects in JSON, for a plugin or for rows that differ in size.
    Objects { id: Option<usize> },
}

impl Table {
    fn new(plan: &Plan, names: Vec<String>, has_header: bool, options: &ReadOptions) -> Result<Table> {
        let kind = match plan.way {
            Way::Together | Way::OneByOne => Kind::Fixed(find(plan, &names, |_| false, options)?),
            Way::Json | Way::Plugin if has_header => Kind::Objects { id: id_column(plan, &names) },
            Way::Json | Way::Plugin => {
                return Err(Error::invalid_input(
                    "this model takes its rows by names: give the file a header with the names of its columns",
                ));
            }
        };
        Ok(Table { names, kind })
    }

    fn id(&self) -> Option<usize> {
        match &self.kind {
            Kind::Fixed(columns) => columns.id,
            Kind::Objects { id } => *id,
        }
    }

    fn read(&self, record: &ByteRecord, rows: &mut Collector<'_>) -> Result<()> {
        if let Some(id) = self.id().and_then(|id| record.get(id)).filter(|id| !id.is_empty()) {
            let id = serde_json::to_string(&String::from_utf8_lossy(id)).and_then(RawValue::from_string);
            rows.id(id.map_err(Error::internal)?);
        }
        if record.len() != self.names.len() {
            let (came, columns) = (record.len(), self.names.len());
            return Err(Error::invalid_input(format!("the record has {came} cells, the file {columns} columns")));
        }
        let Kind::Fixed(columns) = &self.kind else {
            let object = object(&self.names, record, self.id(), rows.plan.way == Way::Plugin);
            return read_row(object.as_bytes(), rows);
        };
        for (index, source) in columns.inputs.iter().enumerate() {
            let Source::Scalars(cells) = source else { continue };
            let input = &rows.plan.inputs[index];
            for &cell in cells {
                let text = record.get(cell).unwrap_or_default();
                if !push(text, input.datatype, rows.column(index)) {
                    return Err(self.misfit(cell, text, input.datatype));
                }
            }
        }
        rows.good(1);
        Ok(())
    }

    fn misfit(&self, cell: usize, text: &[u8], datatype: DataType) -> Error {
        let name = &self.names[cell];
        if text.is_empty() {
            return Error::invalid_input(format!("column {name}: expected {datatype}, the cell is empty"));
        }
        let text = shorten(String::from_utf8_lossy(text).chars().take(80).collect());
        Error::invalid_input(format!("column {name}: expected {datatype}, got {text:?}"))
    }
}

/// Appends the cell as an element of that datatype; says whether it is one.
fn push(text: &[u8], datatype: DataType, column: &mut Column) -> bool {
    let elements = match column {
        Column::Strings(strings) => {
            strings.push(Bytes::copy_from_slice(text));
            return std::str::from_utf8(text).is_ok();
        }
        Column::Raw(elements) => elements,
    };
    match datatype {
        DataType::Fp32 => push_float::<f32>(text, elements, |value| value as f32, f32::is_finite),
        DataType::Fp64 => push_float::<f64>(text, elements, |value| value, f64::is_finite),
        DataType::Fp16 => push_float(text, elements, half::f16::from_f64, half::f16::is_finite),
        DataType::Bf16 => push_float(text, elements, half::bf16::from_f64, half::bf16::is_finite),
        DataType::Int8 => push_number::<i8>(text, elements),
        DataType::Int16 => push_number::<i16>(text, elements),
        DataType::Int32 => push_number::<i32>(text, elements),
        DataType::Int64 => push_number::<i64>(text, elements),
        DataType::Uint8 => push_number::<u8>(text, elements),
        DataType::Uint16 => push_number::<u16>(text, elements),
        DataType::Uint32 => push_number::<u32>(text, elements),
        DataType::Uint64 => push_number::<u64>(text, elements),
        DataType::Bool => {
            let truth = match text.trim_ascii().to_ascii_lowercase().as_slice() {
                b"true" | b"1" => 1,
                b"false" | b"0" => 0,
                _ => return false,
            };
            elements.push(truth);
            true
        }
        DataType::Bytes => false,
    }
}

/// The number that a cell is.
fn whole<T: Number + DeserializeOwned>(text: &[u8]) -> Option<T> {
    let text = text.trim_ascii();
    match T::read(text) {
        Some((value, length)) => (length == text.len()).then_some(value),
        // It may only be long.
        None => serde_json::from_slice(text).ok(),
    }
}

fn push_number<T: Number + DeserializeOwned + bytemuck::NoUninit>(text: &[u8], elements: &mut Vec<u8>) -> bool {
    let Some(value) = whole::<T>(text) else { return false };
    elements.extend_from_slice(bytemuck::bytes_of(&value));
    true
}

fn push_float<T: bytemuck::NoUninit>(
    text: &[u8],
    elements: &mut Vec<u8>,
    convert: impl Fn(f64) -> T,
    is_finite: impl Fn(T) -> bool,
) -> bool {
    let value = match whole::<f64>(text) {
        Some(value) if is_finite(convert(value)) => value,
        Some(_) => return false,
        None => match word(text.trim_ascii()) {
            Some(value) => value,
            None => return false,
        },
    };
    elements.extend_from_slice(bytemuck::bytes_of(&convert(value)));
    true
}

/// The record as a JSON object: numbers where there are, nothing where a cell is empty. For a plugin it is the `record` of
/// a request.
fn object(names: &[String], record: &ByteRecord, id: Option<usize>, is_request: bool) -> String {
    let mut object = serde_json::Map::new();
    for (column, (name, cell)) in names.iter().zip(record).enumerate() {
        if Some(column) == id {
            continue;
        }
        let text = String::from_utf8_lossy(cell);
        let value = match serde_json::from_str::<serde_json::Number>(text.trim()) {
            Ok(number) => serde_json::Value::Number(number),
            Err(_) if cell.is_empty() => serde_json::Value::Null,
            Err(_) => serde_json::Value::String(text.into_owned()),
        };
        object.insert(name.clone(), value);
    }
    match is_request {
        true => serde_json::json!({ "record": object }).to_string(),
        false => serde_json::Value::Object(object).to_string(),
    }
}
