//! Values as JSON that clients read.

use std::borrow::Cow;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, SerializeStruct, Serializer};

use super::{INFINITY, NAN, NEGATIVE_INFINITY};
use crate::tensor::{Data, DataType, Tensor};
use crate::value::{Map, Value};

/// A value as clients read it: `{"datatype":"FP32","shape":[1,3],"data":[…]}`, data flat and row-major. Maps have the
/// datatype `MAP` and objects as data, other sequences `SEQUENCE` and such values; an empty optional is `null`.
pub struct ValueJson<'v>(pub &'v Value);

impl Serialize for ValueJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let (datatype, shape) = match self.0 {
            Value::Tensor(tensor) => (tensor.datatype.name(), Cow::from(&tensor.shape)),
            Value::Map(_) => ("MAP", Cow::from(Vec::new())),
            Value::Sequence { items, .. } if are_maps(items) => ("MAP", Cow::from(vec![items.len()])),
            Value::Sequence { items, .. } => ("SEQUENCE", Cow::from(vec![items.len()])),
            Value::None { .. } => return serializer.serialize_unit(),
        };
        let mut fields = serializer.serialize_struct("Value", 3)?;
        fields.serialize_field("datatype", datatype)?;
        fields.serialize_field("shape", &*shape)?;
        fields.serialize_field("data", &ValueData(self.0))?;
        fields.end()
    }
}

fn are_maps(items: &[Value]) -> bool {
    !items.is_empty() && items.iter().all(|item| matches!(item, Value::Map(_)))
}

/// What is in a value: a tensor's elements, flat and row-major, a map's object, a sequence's list.
pub struct ValueData<'v>(pub &'v Value);

impl Serialize for ValueData<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0 {
            Value::Tensor(tensor) => TensorData(tensor).serialize(serializer),
            Value::Map(map) => MapObject(map).serialize(serializer),
            Value::Sequence { items, .. } if are_maps(items) => serializer.collect_seq(items.iter().map(ValueData)),
            Value::Sequence { items, .. } => serializer.collect_seq(items.iter().map(ValueJson)),
            Value::None { .. } => serializer.serialize_unit(),
        }
    }
}

/// A tensor's elements, flat and row-major.
pub struct TensorData<'t>(pub &'t Tensor);

impl Serialize for TensorData<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match &self.0.data {
            Data::Strings(strings) => {
                serializer.collect_seq(strings.iter().map(|string| String::from_utf8_lossy(string)))
            }
            Data::Raw(bytes) => serialize_numbers(self.0.datatype, bytes, serializer),
        }
    }
}

struct MapObject<'m>(&'m Map);

impl Serialize for MapObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Map { keys, values } = self.0;
        let mut object = serializer.serialize_map(None)?;
        for index in 0..values.shape.iter().product() {
            object.serialize_entry(&Element { tensor: keys, index }, &Element { tensor: values, index })?;
        }
        object.end()
    }
}

/// One element of a tensor.
struct Element<'t> {
    tensor: &'t Tensor,
    index: usize,
}

impl Serialize for Element<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Element { tensor, index } = *self;
        let missing = || serde::ser::Error::custom("a map with fewer keys or values than it says");
        match &tensor.data {
            Data::Strings(strings) => {
                String::from_utf8_lossy(strings.get(index).ok_or_else(missing)?).serialize(serializer)
            }
            Data::Raw(bytes) => {
                let size = tensor.datatype.size().unwrap_or(1);
                let element = bytes.get(index * size..(index + 1) * size).ok_or_else(missing)?;
                match tensor.datatype {
                    DataType::Int64 => {
                        i64::from_le_bytes(element.try_into().map_err(|_| missing())?).serialize(serializer)
                    }
                    DataType::Fp64 => {
                        Float64(f64::from_le_bytes(element.try_into().map_err(|_| missing())?)).serialize(serializer)
                    }
                    DataType::Fp32 => {
                        Float32(f32::from_le_bytes(element.try_into().map_err(|_| missing())?)).serialize(serializer)
                    }
                    other => Err(serde::ser::Error::custom(format!("a map of {other}"))),
                }
            }
        }
    }
}

struct Float32(f32);

impl Serialize for Float32 {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match word_for(f64::from(self.0)) {
            None => serializer.serialize_f32(self.0),
            Some(word) => serializer.serialize_str(word),
        }
    }
}

struct Float64(f64);

impl Serialize for Float64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match word_for(self.0) {
            None => serializer.serialize_f64(self.0),
            Some(word) => serializer.serialize_str(word),
        }
    }
}

/// What a float is called that JSON has no number for.
pub fn word_for(value: f64) -> Option<&'static str> {
    match value {
        _ if value.is_finite() => None,
        f64::INFINITY => Some(INFINITY),
        f64::NEG_INFINITY => Some(NEGATIVE_INFINITY),
        _ => Some(NAN),
    }
}

fn serialize_numbers<S: Serializer>(
    datatype: DataType,
    bytes: &[u8],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    match datatype {
        DataType::Fp32 => serialize_chunks(bytes, |bytes| Float32(f32::from_le_bytes(bytes)), serializer),
        DataType::Fp64 => serialize_chunks(bytes, |bytes| Float64(f64::from_le_bytes(bytes)), serializer),
        DataType::Fp16 => {
            serialize_chunks(bytes, |bytes| Float32(half::f16::from_le_bytes(bytes).to_f32()), serializer)
        }
        DataType::Bf16 => {
            serialize_chunks(bytes, |bytes| Float32(half::bf16::from_le_bytes(bytes).to_f32()), serializer)
        }
        DataType::Int8 => serialize_chunks(bytes, i8::from_le_bytes, serializer),
        DataType::Int16 => serialize_chunks(bytes, i16::from_le_bytes, serializer),
        DataType::Int32 => serialize_chunks(bytes, i32::from_le_bytes, serializer),
        DataType::Int64 => serialize_chunks(bytes, i64::from_le_bytes, serializer),
        DataType::Uint8 | DataType::Bytes => serialize_chunks(bytes, u8::from_le_bytes, serializer),
        DataType::Uint16 => serialize_chunks(bytes, u16::from_le_bytes, serializer),
        DataType::Uint32 => serialize_chunks(bytes, u32::from_le_bytes, serializer),
        DataType::Uint64 => serialize_chunks(bytes, u64::from_le_bytes, serializer),
        DataType::Bool => serialize_chunks(bytes, |[byte]: [u8; 1]| byte != 0, serializer),
    }
}

fn serialize_chunks<const N: usize, T: Serialize, S: Serializer>(
    bytes: &[u8],
    read: impl Fn([u8; N]) -> T,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    let (chunks, _) = bytes.as_chunks::<N>();
    let mut list = serializer.serialize_seq(Some(chunks.len()))?;
    for chunk in chunks {
        list.serialize_element(&read(*chunk))?;
    }
    list.end()
}
