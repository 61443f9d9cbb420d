//! One JSON object a line: `{"row":0,"prediction":…}`, or `{"row":7,"error":"…"}`.

use serde_json::value::RawValue;

use super::RowAnswer;
use super::element::{json, row_number, write_element};
use crate::batch::rows::{Answered, Cell, cell_of, cell_of_whole};
use crate::http::json::ValueData;
use crate::pipeline::Answer;
use crate::plugin::Response;
use crate::tensor::Tensor;
use crate::value::Value;

#[derive(Default)]
pub(super) struct Writer {
    /// `"label":`, for each output.
    keys: Vec<Vec<u8>>,
}

impl Writer {
    pub(super) fn write(&mut self, answered: &Answered, out: &mut Vec<u8>) {
        answered.each(|row, id, answer| self.write_row(row, id, answer, out));
    }

    /// The job came no further than to this row.
    pub(super) fn fail(&mut self, row: u64, problem: &str, out: &mut Vec<u8>) {
        self.write_row(row, None, RowAnswer::Failed(problem), out);
    }

    fn write_row(&mut self, row: u64, id: Option<&RawValue>, answer: RowAnswer<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"row\":");
        row_number(row, out);
        let start = out.len();
        let written = match answer {
            RowAnswer::Of(outputs, row) => {
                out.extend_from_slice(b",\"prediction\":");
                self.write_cells(outputs, |output| cell_of(output, row), out);
                Ok(())
            }
            RowAnswer::Whole(Answer::Outputs(outputs)) => {
                out.extend_from_slice(b",\"prediction\":");
                self.write_cells(outputs, cell_of_whole, out);
                Ok(())
            }
            RowAnswer::Whole(Answer::Response(response)) => {
                out.extend_from_slice(b",\"prediction\":");
                write_response(response, out)
            }
            RowAnswer::Failed(problem) => Err(problem.to_owned()),
        };
        if let Err(problem) = written {
            out.truncate(start);
            out.extend_from_slice(b",\"error\":");
            json(&problem, out);
        }
        if let Some(id) = id {
            out.extend_from_slice(b",\"id\":");
            out.extend_from_slice(id.get().as_bytes());
        }
        out.extend_from_slice(b"}\n");
    }

    /// One output as it is, several by their names.
    pub(super) fn write_cells<'v>(
        &mut self,
        outputs: &'v [Value],
        cell: impl Fn(&'v Value) -> Cell<'v>,
        out: &mut Vec<u8>,
    ) {
        if let [output] = outputs {
            return write_cell(cell(output), out);
        }
        if self.keys.len() != outputs.len() {
            self.keys = outputs.iter().map(|output| key(output.name())).collect();
        }
        out.push(b'{');
        for (index, (output, key)) in outputs.iter().zip(&self.keys).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(key);
            write_cell(cell(output), out);
        }
        out.push(b'}');
    }
}

fn key(name: &str) -> Vec<u8> {
    let mut key = Vec::new();
    json(name, &mut key);
    key.push(b':');
    key
}

pub(super) fn write_cell(cell: Cell<'_>, out: &mut Vec<u8>) {
    match cell {
        Cell::Elements { tensor, start, axes } => write_nested(tensor, start, axes, out),
        Cell::Other(value) => json(&ValueData(value), out),
    }
}

/// Elements from one on, in lists of these sizes.
fn write_nested(tensor: &Tensor, start: usize, axes: &[usize], out: &mut Vec<u8>) {
    let Some((&size, inner)) = axes.split_first() else { return write_element(tensor, start, out) };
    let step = inner.iter().product::<usize>();
    out.push(b'[');
    for index in 0..size {
        if index > 0 {
            out.push(b',');
        }
        write_nested(tensor, start + index * step, inner, out);
    }
    out.push(b']');
}

/// A postprocess plugin's answer: its JSON on one line, or its text as a string.
pub(super) fn write_response(response: &Response, out: &mut Vec<u8>) -> Result<(), String> {
    let text = std::str::from_utf8(&response.body);
    let text = text.map_err(|_| format!("the plugin's answer is {}, which has no form here", response.content_type))?;
    if response.content_type != "application/json" {
        json(text, out);
    } else if !text.contains(['\n', '\r']) {
        out.extend_from_slice(text.trim().as_bytes());
    } else {
        // The pipeline has checked that it is JSON.
        let value: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        json(&value, out);
    }
    Ok(())
}
