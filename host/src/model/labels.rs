//! Label files: a JSON list of labels, or a JSON object from a class's index to its label.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::{Error, Result};

/// Classes a label file may have. No model in use comes near it, and a hostile index must not size an allocation.
const MAX_CLASSES: usize = 1_000_000;

#[derive(Deserialize)]
#[serde(untagged)]
enum LabelFile {
    List(Vec<String>),
    ByIndex(BTreeMap<String, String>),
}

/// The label of class i at index i. A class that the file leaves out is labelled with its index.
///
/// # Errors
/// The file is neither of the two forms, or a key is no class index.
pub fn parse(json: &[u8]) -> Result<Vec<String>> {
    let file: LabelFile = serde_json::from_slice(json).map_err(|_| {
        Error::invalid_input(
            "the label file is neither a JSON list of strings ([\"cat\", \"dog\"]) nor a JSON object from class index to \
             label ({\"0\": \"cat\", \"1\": \"dog\"})",
        )
    })?;
    let by_index = match file {
        LabelFile::List(labels) => return Ok(labels),
        LabelFile::ByIndex(by_index) => by_index,
    };
    let mut labels = Vec::new();
    for (key, label) in by_index {
        let index: usize = key.parse().ok().filter(|&index| index < MAX_CLASSES).ok_or_else(|| {
            Error::invalid_input(format!("label file: key {key:?} is not a class index from 0 to {}", MAX_CLASSES - 1))
        })?;
        if labels.len() <= index {
            let first_new = labels.len();
            labels.extend((first_new..=index).map(|missing| missing.to_string()));
        }
        labels[index] = label;
    }
    Ok(labels)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        assert_eq!(parse(br#"["cat", "dog"]"#).unwrap(), ["cat", "dog"]);
        assert_eq!(parse(br#"{"10": "ten", "0": "cat", "2": "dog"}"#).unwrap()[..3], ["cat", "1", "dog"]);
        assert_eq!(parse(br#"{"10": "ten", "0": "cat", "2": "dog"}"#).unwrap().len(), 11);
    }

    #[test]
    fn other_files_are_refused_without_a_large_allocation() {
        for bad in [&b"cat\ndog"[..], b"[1, 2]", br#"{"4000000000": "x"}"#, br#"{"cat": "0"}"#, b"\xff"] {
            assert_eq!(parse(bad).unwrap_err().code, crate::error::ErrorCode::InvalidInput);
        }
    }
}
