//! What a model needs beside its own file: files that hold its weights, operators that ONNX does not have. Nodes are
//! walked for it, in subgraphs and functions too; what tensors hold is stepped over.

use std::collections::BTreeSet;
use std::io::{BufRead, Seek};

use super::MetadataError;
use super::proto::StringStringEntry;
use super::reader::{Allowance, Reader, limit, lossy};
use super::steady::is_steady;
use super::wire::{Field, Span};

/// Field numbers of `GraphProto`, those that the metadata is not in.
mod graph {
    pub(super) const NODE: u32 = 1;
    pub(super) const INITIALIZER: u32 = 5;
    pub(super) const SPARSE_INITIALIZER: u32 = 15;
}

/// Field numbers of `NodeProto`.
mod node {
    pub(super) const OPERATOR: u32 = 4;
    pub(super) const ATTRIBUTE: u32 = 5;
    pub(super) const DOMAIN: u32 = 7;
}

/// Field numbers of `AttributeProto`.
mod attribute {
    pub(super) const TENSOR: u32 = 5;
    pub(super) const GRAPH: u32 = 6;
    pub(super) const FLOATS: u32 = 7;
    pub(super) const INTS: u32 = 8;
    pub(super) const STRINGS: u32 = 9;
    pub(super) const TENSORS: u32 = 10;
    pub(super) const GRAPHS: u32 = 11;
    pub(super) const SPARSE_TENSOR: u32 = 22;
    pub(super) const SPARSE_TENSORS: u32 = 23;
}

/// Field numbers of `FunctionProto`.
mod function {
    pub(super) const NAME: u32 = 1;
    pub(super) const NODE: u32 = 7;
    pub(super) const DOMAIN: u32 = 10;
}

/// Field numbers of `TensorProto`.
mod tensor {
    pub(super) const NAME: u32 = 8;
    pub(super) const EXTERNAL_DATA: u32 = 13;
    pub(super) const DATA_LOCATION: u32 = 14;
}

/// Field numbers of `SparseTensorProto`, each a `TensorProto`.
const SPARSE_VALUES: u32 = 1;
const SPARSE_INDICES: u32 = 2;

/// `TensorProto.DataLocation.EXTERNAL`.
const EXTERNAL: i64 = 1;

/// Levels of graphs in graphs. Protobuf's own limit, 100 messages, ends at 33.
const MOST_LEVELS: usize = 64;

/// Domains whose operators ONNX Runtime has, or says itself that it does not have.
const KNOWN_DOMAINS: [&[u8]; 12] = [
    b"",
    b"ai.onnx",
    b"ai.onnx.ml",
    b"ai.onnx.preview",
    b"ai.onnx.training",
    b"ai.onnx.preview.training",
    b"com.microsoft",
    b"com.microsoft.dml",
    b"com.microsoft.experimental",
    b"com.microsoft.nchwc",
    b"com.ms.internal.nhwc",
    b"org.pytorch.aten",
];

/// What was seen of operators and files so far.
pub(super) struct Needs {
    pub(super) data_files: BTreeSet<String>,
    /// Whether the model's time follows from the shapes of its inputs alone, as far as its operators tell.
    pub(super) is_steady: bool,
    /// As (domain, name), in domains that ONNX Runtime does not know.
    operators: BTreeSet<(Vec<u8>, Vec<u8>)>,
    /// As (domain, name), of functions that the model brings.
    functions: BTreeSet<(Vec<u8>, Vec<u8>)>,
    data_files_allowed: Allowance,
    operators_allowed: Allowance,
    functions_allowed: Allowance,
}

impl Needs {
    pub(super) fn new() -> Needs {
        Needs {
            data_files: BTreeSet::new(),
            is_steady: true,
            operators: BTreeSet::new(),
            functions: BTreeSet::new(),
            data_files_allowed: Allowance::new("files of weights", 64 * 1024, 8 * 1024 * 1024),
            operators_allowed: Allowance::new("operators of other domains", 16 * 1024, 4 * 1024 * 1024),
            functions_allowed: Allowance::new("functions", 64 * 1024, 8 * 1024 * 1024),
        }
    }

    /// Operators that neither ONNX Runtime nor the model itself has, as `domain.Name`.
    pub(super) fn custom_operators(&self) -> Vec<String> {
        let missing = self.operators.difference(&self.functions);
        missing.map(|(domain, name)| format!("{}.{}", lossy(domain), lossy(name))).collect()
    }
}

impl<R: BufRead + Seek> Reader<R> {
    /// A field of a graph, the model's own or one in a node.
    pub(super) fn read_needs_of_graph(&mut self, field: &Field, level: usize) -> Result<(), MetadataError> {
        match field.number {
            graph::NODE => self.read_node(field.span()?, level),
            graph::INITIALIZER => self.read_tensor(field.span()?).map(drop),
            graph::SPARSE_INITIALIZER => self.read_sparse_tensor(field.span()?).map(drop),
            _ => Ok(()),
        }
    }

    pub(super) fn read_function(&mut self, mut rest: Span) -> Result<(), MetadataError> {
        let (start, mut domain, mut name) = (rest.start, None, None);
        while let Some(field) = self.wire.field(&mut rest)? {
            match field.number {
                function::NAME => name = Some(field.span()?),
                function::DOMAIN => domain = Some(field.span()?),
                function::NODE => self.read_node(field.span()?, 1)?,
                _ => {}
            }
        }
        let (domain, name) = (self.optional_bytes(domain)?, self.optional_bytes(name)?);
        self.needs.functions_allowed.take(start, (domain.len() + name.len()) as u64)?;
        self.needs.functions.insert((domain, name));
        Ok(())
    }

    fn read_node(&mut self, mut rest: Span, level: usize) -> Result<(), MetadataError> {
        let (start, mut domain, mut operator) = (rest.start, None, None);
        while let Some(field) = self.wire.field(&mut rest)? {
            match field.number {
                node::OPERATOR => operator = Some(field.span()?),
                node::DOMAIN => domain = Some(field.span()?),
                node::ATTRIBUTE => self.read_attribute(field.span()?, level)?,
                _ => {}
            }
        }
        let (domain, operator) = (self.optional_bytes(domain)?, self.optional_bytes(operator)?);
        self.needs.is_steady &= is_steady(&domain, &operator);
        if !KNOWN_DOMAINS.contains(&domain.as_slice()) {
            let operator = (domain, operator);
            if !self.needs.operators.contains(&operator) {
                self.needs.operators_allowed.take(start, (operator.0.len() + operator.1.len()) as u64)?;
                self.needs.operators.insert(operator);
            }
        }
        Ok(())
    }

    fn read_attribute(&mut self, mut rest: Span, level: usize) -> Result<(), MetadataError> {
        while let Some(field) = self.wire.field(&mut rest)? {
            match field.number {
                attribute::TENSOR | attribute::TENSORS => self.read_tensor(field.span()?).map(drop)?,
                attribute::SPARSE_TENSOR | attribute::SPARSE_TENSORS => {
                    self.read_sparse_tensor(field.span()?).map(drop)?;
                }
                attribute::GRAPH | attribute::GRAPHS => self.read_subgraph(field.span()?, level + 1)?,
                // A field for each number of a list, and millions of them in a large forest of decision trees.
                attribute::FLOATS | attribute::INTS | attribute::STRINGS => self.wire.uncount(),
                _ => {}
            }
        }
        Ok(())
    }

    fn read_subgraph(&mut self, mut rest: Span, level: usize) -> Result<(), MetadataError> {
        if level > MOST_LEVELS {
            return Err(limit(rest.start, format!("graphs in graphs, more than {MOST_LEVELS} levels deep")));
        }
        while let Some(field) = self.wire.field(&mut rest)? {
            self.read_needs_of_graph(&field, level)?;
        }
        Ok(())
    }

    /// A tensor's name. Its elements, which mostly follow the name, are stepped over; the file that holds them is noted.
    pub(super) fn read_tensor(&mut self, mut rest: Span) -> Result<Option<Span>, MetadataError> {
        let (mut name, mut is_external, mut entries) = (None, false, Vec::new());
        while let Some(field) = self.wire.field(&mut rest)? {
            match field.number {
                tensor::NAME => name = Some(field.span()?),
                tensor::DATA_LOCATION => is_external = field.integer()? == EXTERNAL,
                // ONNX has four keys; of the same key the last one counts.
                tensor::EXTERNAL_DATA if entries.len() < 16 => entries.push(field),
                tensor::EXTERNAL_DATA => return Err(limit(field.offset, "more than 16 pairs of external data".into())),
                _ => {}
            }
        }
        if is_external {
            for entry in entries {
                self.read_external_data(&entry)?;
            }
        }
        Ok(name)
    }

    fn read_external_data(&mut self, field: &Field) -> Result<(), MetadataError> {
        let pair: StringStringEntry = self.decode(field, "external data of a tensor")?;
        if pair.key == b"location" {
            let location = lossy(&pair.value);
            if !self.needs.data_files.contains(&location) {
                self.needs.data_files_allowed.take(field.offset, location.len() as u64)?;
                self.needs.data_files.insert(location);
            }
        }
        Ok(())
    }

    /// The name of a sparse tensor's values, which is its own.
    pub(super) fn read_sparse_tensor(&mut self, mut rest: Span) -> Result<Option<Span>, MetadataError> {
        let mut name = None;
        while let Some(field) = self.wire.field(&mut rest)? {
            match field.number {
                SPARSE_VALUES => name = self.read_tensor(field.span()?)?.or(name),
                SPARSE_INDICES => self.read_tensor(field.span()?).map(drop)?,
                _ => {}
            }
        }
        Ok(name)
    }

    fn optional_bytes(&mut self, span: Option<Span>) -> Result<Vec<u8>, MetadataError> {
        span.map_or(Ok(Vec::new()), |span| self.small_bytes(span))
    }
}
