//! The small messages of `onnx.proto` that prost decodes, with only the fields the host reads, and what they mean.

use super::{Dim, ValueKind};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct OperatorSetId {
    #[prost(string, tag = "1")]
    pub(super) domain: String,
    #[prost(int64, tag = "2")]
    pub(super) version: i64,
}

/// A key and a value. ONNX Runtime does not insist on UTF-8 here, so the host does not either.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StringStringEntry {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ValueInfoProto {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) value_type: Option<TypeProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TypeProto {
    #[prost(oneof = "TypeValue", tags = "1, 4, 5, 8, 9")]
    pub(super) value: Option<TypeValue>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum TypeValue {
    #[prost(message, tag = "1")]
    Tensor(TensorType),
    #[prost(message, tag = "4")]
    Sequence(ElementType),
    #[prost(message, tag = "5")]
    Map(MapType),
    #[prost(message, tag = "8")]
    SparseTensor(TensorType),
    #[prost(message, tag = "9")]
    Optional(ElementType),
}

/// `TypeProto.Tensor` and `TypeProto.SparseTensor`, which have the same fields.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TensorType {
    #[prost(int32, tag = "1")]
    pub(super) elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) shape: Option<TensorShape>,
}

/// `TypeProto.Sequence` and `TypeProto.Optional`, which have the same field.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ElementType {
    #[prost(message, optional, boxed, tag = "1")]
    pub(super) elem_type: Option<Box<TypeProto>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MapType {
    #[prost(int32, tag = "1")]
    pub(super) key_type: i32,
    #[prost(message, optional, boxed, tag = "2")]
    pub(super) value_type: Option<Box<TypeProto>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TensorShape {
    #[prost(message, repeated, tag = "1")]
    pub(super) dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Dimension {
    #[prost(oneof = "DimensionValue", tags = "1, 2")]
    pub(super) value: Option<DimensionValue>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum DimensionValue {
    #[prost(int64, tag = "1")]
    Size(i64),
    #[prost(string, tag = "2")]
    Name(String),
}

impl TypeProto {
    /// Axes declared; 0 for what is no tensor.
    pub(super) fn rank(&self) -> usize {
        match &self.value {
            Some(TypeValue::Tensor(tensor)) => tensor.shape.as_ref().map_or(0, |shape| shape.dim.len()),
            _ => 0,
        }
    }

    pub(super) fn into_kind(self) -> ValueKind {
        let type_name = type_name(Some(&self));
        match self.value {
            Some(TypeValue::Tensor(tensor)) => ValueKind::Tensor {
                datatype: tensor.elem_type,
                shape: tensor.shape.map(|shape| shape.dim.into_iter().map(Dimension::into_dim).collect()),
            },
            Some(TypeValue::Sequence(_)) => ValueKind::Sequence { type_name },
            Some(TypeValue::Map(_)) => ValueKind::Map { type_name },
            Some(TypeValue::SparseTensor(_)) => ValueKind::Sparse { type_name },
            Some(TypeValue::Optional(_)) => ValueKind::Optional { type_name },
            None => ValueKind::Unknown,
        }
    }
}

impl Dimension {
    fn into_dim(self) -> Dim {
        match self.value {
            Some(DimensionValue::Size(size)) if size >= 0 => Dim::Fixed(size),
            Some(DimensionValue::Name(name)) if !name.is_empty() => Dim::Symbol(name),
            _ => Dim::Unknown,
        }
    }
}

/// ONNX's notation for a type, as operator schemas and ONNX Runtime write it. prost's recursion limit bounds the depth.
fn type_name(value_type: Option<&TypeProto>) -> String {
    match value_type.and_then(|value_type| value_type.value.as_ref()) {
        Some(TypeValue::Tensor(tensor)) => format!("tensor({})", element_name(tensor.elem_type)),
        Some(TypeValue::SparseTensor(tensor)) => format!("sparse_tensor({})", element_name(tensor.elem_type)),
        Some(TypeValue::Sequence(sequence)) => format!("seq({})", type_name(sequence.elem_type.as_deref())),
        Some(TypeValue::Optional(optional)) => format!("optional({})", type_name(optional.elem_type.as_deref())),
        Some(TypeValue::Map(map)) => {
            format!("map({},{})", element_name(map.key_type), type_name(map.value_type.as_deref()))
        }
        None => "unknown".to_owned(),
    }
}

/// The names of `TensorProto.DataType`, at the place of their numbers.
const NAMES: [&str; 27] = [
    "undefined",
    "float",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "int32",
    "int64",
    "string",
    "bool",
    "float16",
    "double",
    "uint32",
    "uint64",
    "complex64",
    "complex128",
    "bfloat16",
    "float8e4m3fn",
    "float8e4m3fnuz",
    "float8e5m2",
    "float8e5m2fnuz",
    "uint4",
    "int4",
    "float4e2m1",
    "float8e8m0",
    "uint2",
    "int2",
];

/// The name of a `TensorProto.DataType` number.
pub(super) fn element_name(number: i32) -> String {
    let name = usize::try_from(number).ok().and_then(|number| NAMES.get(number));
    name.map_or_else(|| format!("type {number}"), |name| (*name).to_owned())
}

/// The `TensorProto.DataType` number of a name that [`element_name`] gave.
pub fn element_number(name: &str) -> Option<i32> {
    NAMES.iter().position(|known| *known == name).and_then(|number| i32::try_from(number).ok())
}
