//! From a file to the model's input: bytes of its beginning and of its end.

use nexus_guest::{Error, Model, Tensor};

use crate::config::Settings;

/// Where bytes go in the model's one input.
pub(crate) struct Layout {
    input: String,
    beg_size: usize,
    end_size: usize,
    block_size: usize,
    padding: i32,
    min_file_size: usize,
}

impl Layout {
    /// Errs unless the model has one input, INT32 [·, beg_size + end_size].
    pub(crate) fn new(model: &Model, settings: &Settings) -> Result<Self, Error> {
        let width = settings.beg_size + settings.end_size;
        let fits = |shape: &[i64]| match *shape {
            [rows, columns] => matches!(rows, -1 | 1) && (columns == -1 || columns == width as i64),
            _ => false,
        };
        let input = match model.inputs.as_slice() {
            [input] if input.datatype == "INT32" && fits(&input.shape) => input.name.clone(),
            inputs => {
                let found: Vec<String> = inputs
                    .iter()
                    .map(|input| format!("`{}` {} {:?}", input.name, input.datatype, input.shape))
                    .collect();
                return Err(Error::invalid_config(format!(
                    "expected a model with one input, INT32 [·,{width}] (`beg_size` + `end_size`); this one has {}",
                    found.join(", ")
                )));
            }
        };
        Ok(Layout {
            input,
            beg_size: settings.beg_size,
            end_size: settings.end_size,
            block_size: settings.block_size,
            padding: settings.padding_token,
            min_file_size: settings.min_file_size,
        })
    }

    /// The label of a file with too few bytes for the model; none where the model is to judge.
    pub(crate) fn label_of_few_bytes(&self, file: &[u8]) -> Option<&'static str> {
        if file.is_empty() {
            return Some("empty");
        }
        if file.len() >= self.min_file_size && self.beginning(file).len() >= self.min_file_size {
            return None;
        }
        // Cut at the block's end as the reference does, even where that splits a character.
        Some(if std::str::from_utf8(self.first_block(file)).is_ok() { "txt" } else { "unknown" })
    }

    /// The beginning padded on its right, then the end padded on its left. Looks at no more than a block of either.
    pub(crate) fn tensor(&self, file: &[u8]) -> Result<Tensor, Error> {
        let (beginning, end) = (self.beginning(file), self.end(file));
        Tensor::filled(&self.input, [1, (self.beg_size + self.end_size) as u64], |values: &mut [i32]| {
            values.fill(self.padding);
            let end_starts = values.len() - end.len();
            copy(&mut values[end_starts..], end);
            copy(&mut values[..beginning.len()], beginning);
        })
    }

    fn first_block<'f>(&self, file: &'f [u8]) -> &'f [u8] {
        &file[..file.len().min(self.block_size)]
    }

    fn beginning<'f>(&self, file: &'f [u8]) -> &'f [u8] {
        let block = self.first_block(file);
        let start = block.iter().position(|byte| !is_white_space(*byte)).unwrap_or(block.len());
        let stripped = &block[start..];
        &stripped[..stripped.len().min(self.beg_size)]
    }

    fn end<'f>(&self, file: &'f [u8]) -> &'f [u8] {
        let block = &file[file.len().saturating_sub(self.block_size)..];
        let end = block.iter().rposition(|byte| !is_white_space(*byte)).map_or(0, |last| last + 1);
        &block[end.saturating_sub(self.end_size)..end]
    }
}

fn copy(values: &mut [i32], bytes: &[u8]) {
    for (value, byte) in values.iter_mut().zip(bytes) {
        *value = i32::from(*byte);
    }
}

/// What Python's `bytes.strip` strips: Rust's ASCII white space and the vertical tab.
fn is_white_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}
