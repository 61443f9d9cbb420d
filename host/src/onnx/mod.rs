//! What an ONNX file says of itself: versions, inputs and outputs, read without its weights.
//!
//! Field numbers and meanings are those of `onnx.proto` (<https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>).
//! The top level, graphs and nodes are walked by hand, so that weights and doc strings are stepped over and a hostile
//! file cannot make the host allocate; only small messages, such as one input's type, are decoded by prost.
//!
//! A file is read with seeks and a small buffer, not through a memory map: touching 400 places of a mapped 1 GiB file
//! makes 416 MB of it resident (Linux maps whole large folios of the page cache, `MADV_RANDOM` or not), and a mapped
//! file that someone truncates ends the process with SIGBUS.

pub mod empty_sequence;
mod nodes;
mod proto;
mod reader;
mod steady;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Cursor};
use std::path::Path;

pub use proto::element_number;
use serde::{Deserialize, Serialize};

/// What a model declares. The serde form is what the sidecar `model_info.json` keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelMetadata {
    /// Version of the file format; at least 1.
    pub ir_version: i64,
    /// Operator sets the model uses, as (domain, version), in file order; the standard domain is the empty string.
    pub opset: Vec<(String, i64)>,
    pub producer_name: String,
    pub producer_version: String,
    pub graph_name: String,
    /// What a caller may give, in file order; names differ. Weights that old files (IR 3 and before) also list as inputs
    /// are left out.
    pub inputs: Vec<ValueInfo>,
    /// What the model returns, in file order; at least one.
    pub outputs: Vec<ValueInfo>,
    /// Free (key, value) pairs, in file order. Pairs over 64 KiB, and those past 1,024 pairs or 1 MiB, are left out.
    pub metadata_props: Vec<(String, String)>,
    /// Whether the time of a run follows from the shapes of the inputs alone: it has no operator that could loop as often, or
    /// make a tensor as large, as a value says.
    #[serde(default)]
    pub steady: bool,
}

/// One input or output of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValueInfo {
    pub name: String,
    #[serde(flatten)]
    pub kind: ValueKind,
    /// The model holds a default: an input that an initializer of the same name fills when the caller does not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// The type of an input or output. `type_name` is ONNX's own notation, such as `seq(map(int64,tensor(float)))`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ValueKind {
    Tensor {
        /// ONNX's `TensorProto.DataType` number: 1 is float, 7 is int64, 0 is undeclared.
        datatype: i32,
        /// Axes, outermost first; none for a scalar. `None`: not even the number of axes is declared.
        shape: Option<Vec<Dim>>,
    },
    Sequence {
        type_name: String,
    },
    Map {
        type_name: String,
    },
    Optional {
        type_name: String,
    },
    Sparse {
        type_name: String,
    },
    /// No type is declared (ONNX Runtime infers an output's then), or one that `onnx.proto` does not have.
    Unknown,
}

/// The size of one axis. In JSON a number, a name or null.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Dim {
    /// Never negative.
    Fixed(i64),
    /// Any size, under a name that may recur, such as `batch`; never empty.
    Symbol(String),
    /// Any size: no size and no name, or a negative size, which some exporters write for the same.
    Unknown,
}

impl ValueKind {
    /// ONNX's own notation: `tensor(float)`, `seq(map(int64,tensor(float)))`.
    pub fn type_name(&self) -> String {
        match self {
            ValueKind::Tensor { datatype, .. } => format!("tensor({})", proto::element_name(*datatype)),
            ValueKind::Sequence { type_name }
            | ValueKind::Map { type_name }
            | ValueKind::Optional { type_name }
            | ValueKind::Sparse { type_name } => type_name.clone(),
            ValueKind::Unknown => "unknown".to_owned(),
        }
    }
}

/// Why a file's metadata could not be read. All but `Read` are the file's fault, and their text is meant for whoever sent it.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    #[error("the model file cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("not an ONNX model: the file is empty")]
    Empty,
    /// The bytes are not the protobuf that `onnx.proto` describes.
    #[error("not an ONNX model: at byte {offset}, {problem}")]
    Malformed { offset: u64, problem: String },
    /// Protobuf, but without something that every ONNX model has.
    #[error("not an ONNX model: it has no {0}")]
    Missing(&'static str),
    /// More of something than the host reads.
    #[error("the ONNX model is too large to describe: at byte {offset}, {what}")]
    Limit { offset: u64, what: String },
    #[error("the ONNX model is invalid: two inputs are named {0:?}")]
    DuplicateInput(String),
}

/// What a model's file says of itself, and what it needs beside itself.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFile {
    pub metadata: ModelMetadata,
    /// Files that hold weights, as the model names them: any text.
    pub data_files: BTreeSet<String>,
    /// Operators of domains that ONNX Runtime does not know and that are no functions of the model, as `domain.Name`.
    pub custom_operators: Vec<String>,
}

/// Reads what a file says of itself and needs beside itself. Blocks on the disk, for milliseconds.
///
/// # Errors
/// The file cannot be read, is not an ONNX model, or has more parts than the host reads.
pub fn inspect_file(path: &Path) -> Result<ModelFile, MetadataError> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    reader::read(BufReader::with_capacity(4 * 1024, file), length)
}

/// Reads the same of a model that is in memory.
///
/// # Errors
/// As [`inspect_file`], less those of the disk.
pub fn inspect(bytes: &[u8]) -> Result<ModelFile, MetadataError> {
    reader::read(Cursor::new(bytes), bytes.len() as u64)
}

/// A file's metadata alone.
///
/// # Errors
/// As [`inspect_file`].
pub fn read_file(path: &Path) -> Result<ModelMetadata, MetadataError> {
    inspect_file(path).map(|file| file.metadata)
}

/// The metadata alone of a model that is in memory.
///
/// # Errors
/// As [`inspect`].
pub fn read(bytes: &[u8]) -> Result<ModelMetadata, MetadataError> {
    inspect(bytes).map(|file| file.metadata)
}
