//! Records of text: `row`, `id` where rows have one, a column for each element of each output, `error`.

use serde_json::value::RawValue;

use super::columns::{Field, Kind, OutputColumn, columns, fields};
use super::element::{row_number, write_element};
use crate::batch::plan::Plan;
use crate::batch::rows::{Answered, Cell, RowAnswer};
use crate::tensor::{Data, Tensor};

pub(super) struct Writer {
    columns: Vec<OutputColumn>,
    has_ids: bool,
    has_header: bool,
    /// Cells that the outputs take.
    width: usize,
}

impl Writer {
    pub(super) fn new(plan: &Plan, has_ids: bool) -> Writer {
        let columns = columns(plan);
        let width = columns.iter().map(|column| if let Kind::List(_, count) = column.kind { count } else { 1 }).sum();
        Writer { columns, has_ids, has_header: false, width }
    }

    pub(super) fn write(&mut self, answered: &Answered, out: &mut Vec<u8>) {
        self.write_header(out);
        answered.each(|row, id, answer| self.write_row(row, id, answer, out));
    }

    /// The job came no further than to this row.
    pub(super) fn fail(&mut self, row: u64, problem: &str, out: &mut Vec<u8>) {
        self.write_header(out);
        self.write_row(row, None, RowAnswer::Failed(problem), out);
    }

    /// The first record, once.
    pub(super) fn write_header(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.has_header, true) {
            return;
        }
        out.extend_from_slice(if self.has_ids { b"row,id" } else { b"row" });
        for column in &self.columns {
            let names = match column.kind {
                Kind::List(_, count) => (0..count).map(|index| format!("{}.{index}", column.name)).collect(),
                Kind::Scalar(_) | Kind::Json => vec![column.name.clone()],
            };
            for name in names {
                out.push(b',');
                quoted(name.as_bytes(), out);
            }
        }
        out.extend_from_slice(b",error\n");
    }

    fn write_row(&self, row: u64, id: Option<&RawValue>, answer: RowAnswer<'_>, out: &mut Vec<u8>) {
        row_number(row, out);
        if self.has_ids {
            out.push(b',');
            if let Some(id) = id {
                quoted(name_of(id).as_bytes(), out);
            }
        }
        match fields(&self.columns, answer) {
            Ok(fields) => {
                for field in &fields {
                    write_field(field, out);
                }
                out.push(b',');
            }
            Err(problem) => {
                out.resize(out.len() + self.width + 1, b',');
                quoted(problem.as_bytes(), out);
            }
        }
        out.push(b'\n');
    }
}

/// What a row is called: a text as it is, anything else in JSON.
pub(super) fn name_of(id: &RawValue) -> String {
    serde_json::from_str(id.get()).unwrap_or_else(|_| id.get().to_owned())
}

fn write_field(field: &Field<'_>, out: &mut Vec<u8>) {
    match field {
        Field::Json(text) => {
            out.push(b',');
            quoted(text, out);
        }
        Field::Elements(Cell::Elements { tensor, start, axes }) => {
            for index in *start..start + axes.iter().product::<usize>() {
                out.push(b',');
                write_plain(tensor, index, out);
            }
        }
        Field::Elements(Cell::Other(_)) => out.push(b','),
    }
}

/// An element without the quotes that JSON has around words.
fn write_plain(tensor: &Tensor, index: usize, out: &mut Vec<u8>) {
    if let Data::Strings(strings) = &tensor.data {
        return quoted(strings.get(index).map(|text| &text[..]).unwrap_or_default(), out);
    }
    let start = out.len();
    write_element(tensor, index, out);
    if out.get(start) == Some(&b'"') {
        out.pop();
        out.remove(start);
    }
}

/// A cell's text. Source: RFC 4180.
fn quoted(text: &[u8], out: &mut Vec<u8>) {
    if !text.iter().any(|byte| matches!(byte, b',' | b'"' | b'\n' | b'\r')) {
        return out.extend_from_slice(text);
    }
    out.push(b'"');
    for &byte in text {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}
