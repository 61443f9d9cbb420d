//! Tensors as a person looks at them: the first elements, the smallest and the largest.

use std::fmt::Display;

use serde::Serialize;
use serde_json::Value;

use crate::tensor::{Data, DataType, Tensor};

/// Elements that are shown.
const FIRST: usize = 8;
/// Bytes of a string that are shown.
const STRING_BYTES: usize = 64;

/// A tensor at a glance.
#[derive(Debug, Serialize)]
pub(super) struct TensorLine {
    pub(super) name: String,
    /// Datatype and shape, as `FP32[1,4]`.
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) count: usize,
    pub(super) first: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) min: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max: Option<Value>,
    /// Elements that are no number.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) nan: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl TensorLine {
    pub(super) fn of(tensor: &Tensor) -> TensorLine {
        let seen = match &tensor.data {
            Data::Raw(bytes) => look(tensor.datatype, bytes),
            Data::Strings(strings) => Seen {
                count: strings.len(),
                first: strings.iter().take(FIRST).map(|string| Value::String(shorten(string))).collect(),
                ..Seen::default()
            },
        };
        let Seen { count, first, range, nan } = seen;
        let (min, max) = range.unzip();
        TensorLine { name: tensor.name.clone(), kind: tensor.describe(), count, first, min, max, nan }
    }

    /// A line for each tensor of the value.
    pub(super) fn of_value(value: &crate::value::Value) -> Vec<TensorLine> {
        value.to_tensors().iter().map(TensorLine::of).collect()
    }
}

#[derive(Default)]
struct Seen {
    count: usize,
    first: Vec<Value>,
    range: Option<(Value, Value)>,
    nan: usize,
}

fn look(datatype: DataType, bytes: &[u8]) -> Seen {
    match datatype {
        DataType::Fp32 => numbers::<f32>(bytes),
        DataType::Fp64 => numbers::<f64>(bytes),
        DataType::Fp16 => numbers::<half::f16>(bytes),
        DataType::Bf16 => numbers::<half::bf16>(bytes),
        DataType::Uint8 => numbers::<u8>(bytes),
        DataType::Uint16 => numbers::<u16>(bytes),
        DataType::Uint32 => numbers::<u32>(bytes),
        DataType::Uint64 => numbers::<u64>(bytes),
        DataType::Int8 => numbers::<i8>(bytes),
        DataType::Int16 => numbers::<i16>(bytes),
        DataType::Int32 => numbers::<i32>(bytes),
        DataType::Int64 => numbers::<i64>(bytes),
        DataType::Bool => {
            let first = bytes.iter().take(FIRST).map(|&byte| Value::Bool(byte != 0)).collect();
            Seen { count: bytes.len(), first, ..Seen::default() }
        }
        // Its elements are strings, which are not raw.
        DataType::Bytes => Seen::default(),
    }
}

fn numbers<T: bytemuck::AnyBitPattern + PartialOrd + Display>(bytes: &[u8]) -> Seen {
    let elements = || bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned::<T>);
    let mut range: Option<(T, T)> = None;
    let mut nan = 0;
    for element in elements() {
        range = match range {
            // Only a NaN differs from itself.
            _ if element.partial_cmp(&element).is_none() => {
                nan += 1;
                range
            }
            None => Some((element, element)),
            Some((min, max)) if element < min => Some((element, max)),
            Some((min, max)) if element > max => Some((min, element)),
            within => within,
        };
    }
    Seen {
        count: elements().len(),
        first: elements().take(FIRST).map(written).collect(),
        range: range.map(|(min, max)| (written(min), written(max))),
        nan,
    }
}

/// The number with the digits that its datatype has, `0.2` and not `0.20000000298`; infinities and NaN as strings.
fn written(number: impl Display) -> Value {
    let text = number.to_string();
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

fn shorten(string: &[u8]) -> String {
    let text = String::from_utf8_lossy(string);
    let cut = text.floor_char_boundary(STRING_BYTES);
    if cut < text.len() { format!("{}…", &text[..cut]) } else { text.into_owned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(datatype: DataType, bytes: Vec<u8>) -> TensorLine {
        let shape = vec![bytes.len() / datatype.size().unwrap()];
        TensorLine::of(&Tensor::from_wire("x".to_owned(), datatype, shape, bytes.into()).unwrap())
    }

    #[test]
    fn the_first_elements_and_the_range_are_shown() {
        let floats: Vec<u8> = [0.2f32, f32::NAN, -1.5, f32::INFINITY].iter().flat_map(|v| v.to_le_bytes()).collect();
        let seen = line(DataType::Fp32, floats);
        assert_eq!((seen.kind.as_str(), seen.count, seen.nan), ("FP32[4]", 4, 1));
        assert_eq!(seen.first, [json!(0.2), json!("NaN"), json!(-1.5), json!("inf")]);
        assert_eq!((seen.min, seen.max), (Some(json!(-1.5)), Some(json!("inf"))));

        let seen = line(DataType::Int64, [i64::MIN, 7].iter().flat_map(|v| v.to_le_bytes()).collect());
        assert_eq!((seen.min, seen.max), (Some(json!(i64::MIN)), Some(json!(7))));

        let seen = line(DataType::Uint8, (0..=255).collect());
        assert_eq!((seen.first.len(), seen.max), (FIRST, Some(json!(255))));

        let seen = line(DataType::Fp32, Vec::new());
        assert_eq!((seen.count, seen.min), (0, None));
    }

    #[test]
    fn strings_are_cut() {
        let strings = vec!["short".into(), "ä".repeat(100).into()];
        let seen = TensorLine::of(&Tensor::from_strings("s".to_owned(), vec![2], strings).unwrap());
        assert_eq!(seen.first, [json!("short"), json!(format!("{}…", "ä".repeat(32)))]);
    }
}
