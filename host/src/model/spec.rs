//! What a model takes and returns, as the host checks it.

use bytes::Bytes;

use crate::onnx::{Dim, ValueInfo, ValueKind, element_number};
use crate::tensor::{DataType, Tensor, TensorSpec};
use crate::value::{Value, ValueSpec};

/// One input of a model.
#[derive(Debug, Clone)]
pub struct InputSpec {
    pub spec: ValueSpec,
    /// The model holds a default for it.
    pub optional: bool,
}

/// The inputs a model declares, as the host checks them. What a request cannot give is refused when one does.
pub(super) fn input_specs(inputs: &[ValueInfo]) -> Vec<InputSpec> {
    inputs.iter().map(|input| InputSpec { spec: value_spec(input), optional: input.optional }).collect()
}

/// What the host makes of an input's or output's declaration.
pub fn value_spec(value: &ValueInfo) -> ValueSpec {
    let unsupported = || ValueSpec::Unsupported { name: value.name.clone(), kind: value.kind.type_name() };
    match &value.kind {
        ValueKind::Tensor { datatype, shape } => {
            let Some(datatype) = DataType::from_onnx(*datatype) else { return unsupported() };
            let size = |dim: &Dim| if let Dim::Fixed(size) = dim { *size } else { -1 };
            let shape = shape.as_ref().map(|dims| dims.iter().map(size).collect());
            ValueSpec::Tensor(TensorSpec { name: value.name.clone(), datatype, shape })
        }
        ValueKind::Sequence { type_name } | ValueKind::Map { type_name } | ValueKind::Optional { type_name } => {
            parse_type(&value.name, type_name).unwrap_or_else(unsupported)
        }
        ValueKind::Sparse { .. } | ValueKind::Unknown => unsupported(),
    }
}

/// Reads ONNX's notation, which says nothing of shapes.
fn parse_type(name: &str, notation: &str) -> Option<ValueSpec> {
    let inside = |kind: &str| notation.strip_prefix(kind)?.strip_prefix('(')?.strip_suffix(')');
    let element = |name: &str| element_number(name).and_then(DataType::from_onnx);
    if let Some(optional) = inside("optional") {
        return Some(ValueSpec::Optional(Box::new(parse_type(name, optional)?)));
    }
    if let Some(item) = inside("seq") {
        return Some(ValueSpec::Sequence { name: name.to_owned(), item: Box::new(parse_type(name, item)?) });
    }
    if let Some((keys, values)) = inside("map").and_then(|pair| pair.split_once(',')) {
        let values = values.strip_prefix("tensor(").and_then(|values| values.strip_suffix(')'))?;
        return Some(ValueSpec::Map { name: name.to_owned(), keys: element(keys)?, values: element(values)? });
    }
    let datatype = inside("tensor").and_then(element)?;
    Some(ValueSpec::Tensor(TensorSpec { name: name.to_owned(), datatype, shape: None }))
}

/// Most that inputs of zeros may take, in bytes: the model's file says how large they are, and files say anything.
const ZEROS_BYTES: usize = 64 << 20;

/// A tensor of zeros for each input that has to be given, one element along an axis of any size. `None` where that is
/// more than anybody would send, or an input is no tensor.
pub(super) fn zeros(inputs: &[InputSpec]) -> Option<Vec<Value>> {
    let required = inputs.iter().filter(|input| !input.optional);
    let zeros = required.map(|input| {
        let spec = input.spec.tensor()?;
        let shape: Vec<usize> = spec.shape.iter().flatten().map(|&size| usize::try_from(size).unwrap_or(1)).collect();
        let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size))?;
        let element = spec.datatype.size().unwrap_or(size_of::<Bytes>());
        let bytes = count.checked_mul(element).filter(|&bytes| bytes <= ZEROS_BYTES)?;
        let tensor = match spec.datatype {
            DataType::Bytes => Tensor::from_strings(spec.name.clone(), shape, vec![Bytes::new(); count]),
            datatype => Tensor::from_wire(spec.name.clone(), datatype, shape, vec![0; bytes].into()),
        };
        tensor.ok().map(Value::Tensor)
    });
    zeros.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec_of(type_name: &str) -> String {
        let kind = ValueKind::Sequence { type_name: type_name.to_owned() };
        value_spec(&ValueInfo { name: "x".into(), kind, optional: false }).to_string()
    }

    #[test]
    fn every_notation_is_read_or_left_as_it_is() {
        assert_eq!(spec_of("seq(tensor(float))"), "sequence of FP32[…]");
        assert_eq!(spec_of("seq(map(int64,tensor(float)))"), "sequence of map from INT64 to FP32");
        assert_eq!(spec_of("map(string,tensor(double))"), "map from BYTES to FP64");
        assert_eq!(spec_of("optional(seq(tensor(string)))"), "optional sequence of BYTES[…]");
        assert_eq!(spec_of("seq(tensor(int4))"), "seq(tensor(int4))");
        assert_eq!(spec_of("seq(unknown)"), "seq(unknown)");
    }
}
