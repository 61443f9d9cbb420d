//! What a model takes and returns: a tensor, or a sequence, a map or an optional made of tensors. Knows neither JSON nor ort.

use std::collections::HashMap;
use std::fmt;

use bytes::Bytes;

use crate::tensor::{Data, DataType, Tensor, TensorSpec};

/// What a model takes or returns under one name. Cloning shares the elements of tensors.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Tensor(Tensor),
    /// Values in order, each named by its place: `y.0`, `y.1`, …
    Sequence {
        name: String,
        items: Vec<Value>,
    },
    Map(Map),
    /// An optional that holds nothing.
    None {
        name: String,
    },
}

/// Keys and their values, at the same places of two tensors of one axis. Keys are integers or BYTES.
#[derive(Debug, Clone, PartialEq)]
pub struct Map {
    pub keys: Tensor,
    /// Has the map's name.
    pub values: Tensor,
}

/// The name of the tensor that has the keys of the maps of that name.
pub fn keys_name(name: &str) -> String {
    format!("{name}.keys")
}

/// The name of a sequence's item.
pub fn item_name(name: &str, index: usize) -> String {
    format!("{name}.{index}")
}

impl Value {
    pub fn name(&self) -> &str {
        match self {
            Value::Tensor(tensor) => &tensor.name,
            Value::Map(map) => &map.values.name,
            Value::Sequence { name, .. } | Value::None { name } => name,
        }
    }

    /// Memory the value takes, in bytes.
    pub fn byte_size(&self) -> usize {
        match self {
            Value::Tensor(tensor) => tensor.byte_size(),
            Value::Sequence { items, .. } => items.iter().map(|item| item.byte_size() + size_of::<Value>()).sum(),
            Value::Map(map) => map.keys.byte_size() + map.values.byte_size(),
            Value::None { .. } => 0,
        }
    }

    /// What it is, as `FP32[1,4]` or `a sequence of 3`.
    pub fn describe(&self) -> String {
        match self {
            Value::Tensor(tensor) => tensor.describe(),
            Value::Sequence { items, .. } => format!("a sequence of {}", items.len()),
            Value::Map(map) => format!("a map from {} to {}", map.keys.datatype, map.values.datatype),
            Value::None { .. } => "nothing".to_owned(),
        }
    }

    /// The value as tensors alone, for protocols and plugins that know nothing else. A map becomes its values and, named
    /// `y.keys`, its keys; a sequence of maps with the same keys becomes a table of values, one row a map, and one tensor of
    /// keys; any other sequence becomes its items, `y.0`, `y.1`, …; an empty optional becomes none at all.
    pub fn to_tensors(&self) -> Vec<Tensor> {
        match self {
            Value::Tensor(tensor) => vec![tensor.clone()],
            Value::Map(Map { keys, values }) => vec![values.clone(), keys.clone()],
            Value::Sequence { name, items } => match table(name, items) {
                Some(table) => table.into(),
                None => items.iter().flat_map(Value::to_tensors).collect(),
            },
            Value::None { .. } => Vec::new(),
        }
    }
}

/// Maps with the same keys as one tensor of rows, and one of the keys.
fn table(name: &str, items: &[Value]) -> Option<[Tensor; 2]> {
    let maps = items.iter().map(|item| if let Value::Map(map) = item { Some(map) } else { None });
    let maps: Vec<&Map> = maps.collect::<Option<_>>()?;
    let first = maps.first()?;
    let alike = |map: &&Map| map.keys.data == first.keys.data && map.values.datatype == first.values.datatype;
    if !maps.iter().all(alike) {
        return None;
    }
    let data = match &first.values.data {
        Data::Raw(_) => {
            let rows =
                maps.iter().filter_map(|map| if let Data::Raw(row) = &map.values.data { Some(row) } else { None });
            Data::Raw(
                rows.fold(Vec::new(), |mut all, row| {
                    all.extend_from_slice(row);
                    all
                })
                .into(),
            )
        }
        Data::Strings(_) => {
            let rows =
                maps.iter().filter_map(|map| if let Data::Strings(row) = &map.values.data { Some(row) } else { None });
            Data::Strings(rows.flatten().cloned().collect::<Vec<Bytes>>())
        }
    };
    let shape = vec![maps.len(), first.keys.shape.iter().product()];
    let values = Tensor { name: name.to_owned(), datatype: first.values.datatype, shape, data };
    let keys = Tensor { name: keys_name(name), ..first.keys.clone() };
    Some([values, keys])
}

/// What a model declares of one input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueSpec {
    Tensor(TensorSpec),
    /// Of values that are all of this kind.
    Sequence {
        name: String,
        item: Box<ValueSpec>,
    },
    Map {
        name: String,
        keys: DataType,
        values: DataType,
    },
    /// May hold nothing.
    Optional(Box<ValueSpec>),
    /// Nothing that the host can take or return, such as a tensor of 4-bit integers. `kind` is ONNX's notation.
    Unsupported {
        name: String,
        kind: String,
    },
}

impl ValueSpec {
    pub fn name(&self) -> &str {
        match self {
            ValueSpec::Tensor(spec) => &spec.name,
            ValueSpec::Optional(item) => item.name(),
            ValueSpec::Sequence { name, .. } | ValueSpec::Map { name, .. } | ValueSpec::Unsupported { name, .. } => {
                name
            }
        }
    }

    /// The spec, where it is a tensor's, or an optional tensor's.
    pub fn tensor(&self) -> Option<&TensorSpec> {
        match self {
            ValueSpec::Tensor(spec) => Some(spec),
            ValueSpec::Optional(item) => item.tensor(),
            _ => None,
        }
    }

    /// Whether a value of this kind may be given to the model.
    pub fn accepts(&self, value: &Value) -> bool {
        match (self, value) {
            (ValueSpec::Tensor(spec), Value::Tensor(tensor)) => {
                spec.datatype == tensor.datatype && spec.accepts(&tensor.shape)
            }
            (ValueSpec::Sequence { item, .. }, Value::Sequence { items, .. }) => {
                items.iter().all(|value| item.accepts(value))
            }
            (ValueSpec::Map { keys, values, .. }, Value::Map(map)) => {
                // A key for each value: ONNX Runtime reads as many values as there are keys.
                let are_pairs = map.keys.shape.len() == 1 && map.keys.shape == map.values.shape;
                are_pairs && *keys == map.keys.datatype && *values == map.values.datatype
            }
            (ValueSpec::Optional(_), Value::None { .. }) => true,
            (ValueSpec::Optional(item), value) => item.accepts(value),
            _ => false,
        }
    }

    /// Takes out of tensors, which are there by their names, those that make up such a value, as [`Value::to_tensors`] names them. A sequence without items is
    /// one tensor of its name and of shape [0]. `None` where there are none.
    pub fn take_from(&self, tensors: &mut HashMap<String, Tensor>) -> Option<Value> {
        let name = self.name();
        match self {
            ValueSpec::Optional(item) => item.take_from(tensors),
            ValueSpec::Tensor(_) | ValueSpec::Unsupported { .. } => tensors.remove(name).map(Value::Tensor),
            ValueSpec::Map { .. } => {
                let keys = tensors.remove(&keys_name(name))?;
                Some(Value::Map(Map { keys, values: tensors.remove(name)? }))
            }
            ValueSpec::Sequence { .. } => {
                let items = (0..).map_while(|index| tensors.remove(&item_name(name, index)).map(Value::Tensor));
                let items: Vec<Value> = items.collect();
                let is_empty = items.is_empty();
                if is_empty && tensors.remove(name).is_none_or(|tensor| tensor.shape != [0]) {
                    return None;
                }
                Some(Value::Sequence { name: name.to_owned(), items })
            }
        }
    }

    /// The tensors that [`Value::to_tensors`] makes of such a value. A sequence's are as many as it has items, and declared
    /// once, under its own name.
    pub fn to_tensor_specs(&self) -> Vec<TensorSpec> {
        match self {
            ValueSpec::Tensor(spec) => vec![spec.clone()],
            ValueSpec::Map { name, keys, values } => map_specs(name, *keys, *values, vec![-1]),
            ValueSpec::Sequence { name, item } => match &**item {
                ValueSpec::Map { keys, values, .. } => map_specs(name, *keys, *values, vec![-1, -1]),
                item => item.to_tensor_specs(),
            },
            ValueSpec::Optional(item) => item.to_tensor_specs(),
            ValueSpec::Unsupported { .. } => Vec::new(),
        }
    }
}

fn map_specs(name: &str, keys: DataType, values: DataType, shape: Vec<i64>) -> Vec<TensorSpec> {
    let keys = TensorSpec { name: keys_name(name), datatype: keys, shape: Some(vec![-1]) };
    vec![TensorSpec { name: name.to_owned(), datatype: values, shape: Some(shape) }, keys]
}

impl fmt::Display for ValueSpec {
    /// `FP32[·,4]`, `sequence of FP32[·]`, `map from BYTES to FP32`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueSpec::Tensor(spec) => spec.fmt(f),
            ValueSpec::Sequence { item, .. } => write!(f, "sequence of {item}"),
            ValueSpec::Map { keys, values, .. } => write!(f, "map from {keys} to {values}"),
            ValueSpec::Optional(item) => write!(f, "optional {item}"),
            ValueSpec::Unsupported { kind, .. } => f.write_str(kind),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn floats(name: &str, values: &[f32]) -> Tensor {
        Tensor::from_vec(name.into(), DataType::Fp32, vec![values.len()], values.to_vec()).unwrap()
    }

    fn map(name: &str, keys: &[&'static str], values: &[f32]) -> Value {
        let strings = keys.iter().map(|key| Bytes::from_static(key.as_bytes())).collect();
        let keys = Tensor::from_strings(keys_name(name), vec![keys.len()], strings).unwrap();
        Value::Map(Map { keys, values: floats(name, values) })
    }

    fn by_name(tensors: Vec<Tensor>) -> HashMap<String, Tensor> {
        tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect()
    }

    fn names(value: &Value) -> Vec<(String, String)> {
        value.to_tensors().iter().map(|tensor| (tensor.name.clone(), tensor.describe())).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect()
    }

    #[test]
    fn maps_with_the_same_keys_are_a_table() {
        let items = vec![map("y.0", &["a", "b"], &[1.0, 2.0]), map("y.1", &["a", "b"], &[3.0, 4.0])];
        let rows = Value::Sequence { name: "y".into(), items };
        assert_eq!(names(&rows), pairs(&[("y", "FP32[2,2]"), ("y.keys", "BYTES[2]")]));
        let expected = [1.0f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat();
        assert_eq!(rows.to_tensors()[0].to_wire(), expected);
    }

    #[test]
    fn maps_with_other_keys_stay_apart() {
        let items = vec![map("y.0", &["a", "b"], &[1.0, 2.0]), map("y.1", &["a"], &[3.0])];
        let rows = Value::Sequence { name: "y".into(), items };
        let expected = [("y.0", "FP32[2]"), ("y.0.keys", "BYTES[2]"), ("y.1", "FP32[1]"), ("y.1.keys", "BYTES[1]")];
        assert_eq!(names(&rows), pairs(&expected));
    }

    #[test]
    fn tensors_are_put_together_again() {
        let item = Box::new(ValueSpec::Tensor(TensorSpec { name: "y".into(), datatype: DataType::Fp32, shape: None }));
        let sequence = ValueSpec::Sequence { name: "y".into(), item };
        let items = vec![Value::Tensor(floats("y.0", &[1.0])), Value::Tensor(floats("y.1", &[]))];
        let whole = Value::Sequence { name: "y".into(), items };
        let mut tensors = by_name(whole.to_tensors());
        tensors.insert("z".into(), floats("z", &[2.0]));
        assert_eq!(sequence.take_from(&mut tensors), Some(whole));
        assert_eq!(sequence.take_from(&mut tensors), None);
        assert_eq!(tensors.into_keys().collect::<Vec<_>>(), ["z"]);
        let none = Value::Sequence { name: "y".into(), items: Vec::new() };
        assert_eq!(sequence.take_from(&mut by_name(vec![floats("y", &[])])), Some(none));

        let spec = ValueSpec::Map { name: "m".into(), keys: DataType::Bytes, values: DataType::Fp32 };
        let whole = map("m", &["a", "b"], &[1.0, 2.0]);
        assert_eq!(spec.take_from(&mut by_name(whole.to_tensors())), Some(whole));
    }

    #[test]
    fn a_sequence_is_its_items_and_nothing_is_no_tensor() {
        let items = vec![Value::Tensor(floats("y.0", &[1.0])), Value::None { name: "y.1".into() }];
        let sequence = Value::Sequence { name: "y".into(), items };
        assert_eq!(names(&sequence), pairs(&[("y.0", "FP32[1]")]));
        assert_eq!(names(&Value::Sequence { name: "y".into(), items: Vec::new() }), []);
    }
}
