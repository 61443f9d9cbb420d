//! Gathers a model's metadata while walking its fields, within limits on how much any file can make the host keep.

use std::collections::HashSet;
use std::io::{BufRead, Seek};

use prost::Message;

use super::nodes::Needs;
use super::proto::{OperatorSetId, StringStringEntry, ValueInfoProto};
use super::wire::{Field, Span, Wire, malformed};
use super::{MetadataError, ModelFile, ModelMetadata, ValueInfo, ValueKind};

/// Field numbers of `ModelProto`.
mod model {
    pub(super) const IR_VERSION: u32 = 1;
    pub(super) const PRODUCER_NAME: u32 = 2;
    pub(super) const PRODUCER_VERSION: u32 = 3;
    pub(super) const GRAPH: u32 = 7;
    pub(super) const OPSET_IMPORT: u32 = 8;
    pub(super) const METADATA_PROPS: u32 = 14;
    pub(super) const FUNCTIONS: u32 = 25;
}

/// Field numbers of `GraphProto`.
mod graph {
    pub(super) const NAME: u32 = 2;
    pub(super) const INITIALIZER: u32 = 5;
    pub(super) const INPUT: u32 = 11;
    pub(super) const OUTPUT: u32 = 12;
    pub(super) const SPARSE_INITIALIZER: u32 = 15;
}

/// From this IR version on, an initializer need not be an input; one that is gives the input's default.
const IR_VERSION_OF_OPTIONAL_INPUTS: i64 = 4;

/// Bytes of one string, input, output, operator set or metadata pair.
const MOST_ITEM_BYTES: u64 = 64 * 1024;
/// Axes of one tensor. NumPy goes to 64.
const MOST_AXES: usize = 255;

/// How much of one kind of part the host keeps, and how much it has.
pub(super) struct Allowance {
    what: &'static str,
    most: u64,
    most_bytes: u64,
    count: u64,
    bytes: u64,
}

impl Allowance {
    pub(super) fn new(what: &'static str, most: u64, most_bytes: u64) -> Allowance {
        Allowance { what, most, most_bytes, count: 0, bytes: 0 }
    }

    fn fits(&self, bytes: u64) -> bool {
        self.count < self.most && bytes <= self.most_bytes - self.bytes
    }

    /// Counts a part that starts at byte `offset`.
    pub(super) fn take(&mut self, offset: u64, bytes: u64) -> Result<(), MetadataError> {
        if !self.fits(bytes) {
            let Allowance { what, most, most_bytes, .. } = self;
            return Err(limit(offset, format!("more than {most} {what}, or more than {most_bytes} bytes of them")));
        }
        self.count += 1;
        self.bytes += bytes;
        Ok(())
    }
}

/// Reads a model of `length` bytes at whose start `source` stands.
pub(super) fn read<R: BufRead + Seek>(source: R, length: u64) -> Result<ModelFile, MetadataError> {
    if length == 0 {
        return Err(MetadataError::Empty);
    }
    let mut reader = Reader::new(source);
    reader.read_model(Span { start: 0, end: length })?;
    reader.finish()
}

pub(super) struct Reader<R> {
    pub(super) wire: Wire<R>,
    pub(super) needs: Needs,
    metadata: ModelMetadata,
    has_graph: bool,
    initializers: HashSet<Vec<u8>>,
    opsets_allowed: Allowance,
    props_allowed: Allowance,
    values_allowed: Allowance,
    initializers_allowed: Allowance,
}

impl<R: BufRead + Seek> Reader<R> {
    fn new(source: R) -> Reader<R> {
        Reader {
            wire: Wire::new(source),
            needs: Needs::new(),
            metadata: ModelMetadata {
                ir_version: 0,
                opset: Vec::new(),
                producer_name: String::new(),
                producer_version: String::new(),
                graph_name: String::new(),
                inputs: Vec::new(),
                outputs: Vec::new(),
                metadata_props: Vec::new(),
                steady: false,
            },
            has_graph: false,
            initializers: HashSet::new(),
            opsets_allowed: Allowance::new("operator sets", 1024, 256 * 1024),
            props_allowed: Allowance::new("metadata pairs", 1024, 1024 * 1024),
            // Files of IR 3 and before list every weight as an input.
            values_allowed: Allowance::new("inputs and outputs", 16 * 1024, 2 * 1024 * 1024),
            initializers_allowed: Allowance::new("names of weights", 128 * 1024, 8 * 1024 * 1024),
        }
    }

    fn read_model(&mut self, mut rest: Span) -> Result<(), MetadataError> {
        while let Some(field) = self.wire.field(&mut rest)? {
            match field.number {
                model::IR_VERSION => self.metadata.ir_version = field.integer()?,
                model::PRODUCER_NAME => self.metadata.producer_name = self.text(&field)?,
                model::PRODUCER_VERSION => self.metadata.producer_version = self.text(&field)?,
                // A second graph adds to the first, as protobuf merges a message that occurs twice.
                model::GRAPH => {
                    self.has_graph = true;
                    self.read_graph(field.span()?)?;
                }
                model::OPSET_IMPORT => self.read_opset(&field)?,
                model::METADATA_PROPS => self.read_metadata_prop(&field)?,
                model::FUNCTIONS => self.read_function(field.span()?)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_graph(&mut self, mut rest: Span) -> Result<(), MetadataError> {
        while let Some(field) = self.wire.field(&mut rest)? {
            match field.number {
                graph::NAME => self.metadata.graph_name = self.text(&field)?,
                graph::INPUT => {
                    let input = self.read_value(&field, "input")?;
                    self.metadata.inputs.push(input);
                }
                graph::OUTPUT => {
                    let output = self.read_value(&field, "output")?;
                    self.metadata.outputs.push(output);
                }
                graph::INITIALIZER => {
                    let name = self.read_tensor(field.span()?)?;
                    self.keep_initializer(name)?;
                }
                graph::SPARSE_INITIALIZER => {
                    let name = self.read_sparse_tensor(field.span()?)?;
                    self.keep_initializer(name)?;
                }
                _ => self.read_needs_of_graph(&field, 1)?,
            }
        }
        Ok(())
    }

    fn read_value(&mut self, field: &Field, what: &str) -> Result<ValueInfo, MetadataError> {
        let offset = field.offset;
        self.values_allowed.take(offset, field.span()?.len())?;
        let value: ValueInfoProto = self.decode(field, what)?;
        if value.name.is_empty() {
            return Err(malformed(offset, format!("an {what} has no name")));
        }
        let kind = match value.value_type {
            Some(value_type) if value_type.rank() > MOST_AXES => {
                return Err(limit(offset, format!("an {what} of more than {MOST_AXES} axes")));
            }
            Some(value_type) => value_type.into_kind(),
            None => ValueKind::Unknown,
        };
        Ok(ValueInfo { name: value.name, kind, optional: false })
    }

    fn read_opset(&mut self, field: &Field) -> Result<(), MetadataError> {
        self.opsets_allowed.take(field.offset, field.span()?.len())?;
        let opset: OperatorSetId = self.decode(field, "operator set")?;
        self.metadata.opset.push((opset.domain, opset.version));
        Ok(())
    }

    /// Pairs that do not fit are left out and not refused: real models carry whole tokenizers here, and serve without.
    fn read_metadata_prop(&mut self, field: &Field) -> Result<(), MetadataError> {
        let length = field.span()?.len();
        if length <= MOST_ITEM_BYTES && self.props_allowed.fits(length) {
            self.props_allowed.take(field.offset, length)?;
            let pair: StringStringEntry = self.decode(field, "metadata pair")?;
            self.metadata.metadata_props.push((lossy(&pair.key), lossy(&pair.value)));
        }
        Ok(())
    }

    fn keep_initializer(&mut self, name: Option<Span>) -> Result<(), MetadataError> {
        let Some(name) = name else { return Ok(()) };
        self.initializers_allowed.take(name.start, name.len())?;
        let name = self.small_bytes(name)?;
        self.initializers.insert(name);
        Ok(())
    }

    pub(super) fn small_bytes(&mut self, span: Span) -> Result<Vec<u8>, MetadataError> {
        if span.len() > MOST_ITEM_BYTES {
            return Err(limit(span.start, format!("a name, input or output of more than {MOST_ITEM_BYTES} bytes")));
        }
        self.wire.bytes(span)
    }

    /// A text that is only shown. ONNX Runtime does not insist on UTF-8 in it, so the host does not either.
    fn text(&mut self, field: &Field) -> Result<String, MetadataError> {
        self.small_bytes(field.span()?).map(|bytes| lossy(&bytes))
    }

    pub(super) fn decode<M: Message + Default>(&mut self, field: &Field, what: &str) -> Result<M, MetadataError> {
        let bytes = self.small_bytes(field.span()?)?;
        M::decode(bytes.as_slice()).map_err(|error| malformed(field.offset, format!("the {what} is damaged: {error}")))
    }

    /// What only the whole file tells: whether anything is missing, and which inputs are weights.
    fn finish(self) -> Result<ModelFile, MetadataError> {
        let mut metadata = self.metadata;
        if metadata.ir_version <= 0 {
            return Err(MetadataError::Missing("ir_version"));
        }
        if !self.has_graph {
            return Err(MetadataError::Missing("graph"));
        }
        if metadata.outputs.is_empty() {
            return Err(MetadataError::Missing("outputs"));
        }
        let mut names = HashSet::with_capacity(metadata.inputs.len());
        if let Some(input) = metadata.inputs.iter().find(|input| !names.insert(input.name.as_str())) {
            return Err(MetadataError::DuplicateInput(input.name.clone()));
        }
        for input in &mut metadata.inputs {
            input.optional = self.initializers.contains(input.name.as_bytes());
        }
        if metadata.ir_version < IR_VERSION_OF_OPTIONAL_INPUTS {
            metadata.inputs.retain(|input| !input.optional);
        }
        metadata.steady = self.needs.is_steady;
        let custom_operators = self.needs.custom_operators();
        Ok(ModelFile { metadata, data_files: self.needs.data_files, custom_operators })
    }
}

pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) fn limit(offset: u64, what: String) -> MetadataError {
    MetadataError::Limit { offset, what }
}
