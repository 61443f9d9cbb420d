//! What a model takes and returns, as the host checks it.

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::onnx::{Dim, ValueInfo, ValueKind};
use crate::tensor::{DataType, Tensor, TensorSpec};

/// One input of a model.
#[derive(Debug, Clone)]
pub struct InputSpec {
    pub spec: TensorSpec,
    /// The model holds a default for it.
    pub optional: bool,
}

/// The inputs a model declares, as the host checks them.
///
/// # Errors
/// An input that a client could not give: not a tensor, of a datatype the host does not serve, or without a rank.
pub(super) fn input_specs(inputs: &[ValueInfo]) -> Result<Vec<InputSpec>> {
    let required = inputs.iter().filter(|input| !input.optional || is_servable(input));
    required.map(|input| Ok(InputSpec { spec: tensor_spec(input)?, optional: input.optional })).collect()
}

fn is_servable(input: &ValueInfo) -> bool {
    tensor_spec(input).is_ok()
}

/// What a plugin is told of an input or output.
///
/// # Errors
/// As [`input_specs`].
pub(super) fn tensor_spec(value: &ValueInfo) -> Result<TensorSpec> {
    let ValueKind::Tensor { datatype, shape } = &value.kind else {
        return Err(Error::invalid_input(format!("{} is not a tensor; the host cannot take it", value.name)));
    };
    let datatype = DataType::from_onnx(*datatype).ok_or_else(|| {
        Error::invalid_input(format!("{} has ONNX datatype {datatype}, which the host does not serve", value.name))
    })?;
    let shape = shape.as_ref().ok_or_else(|| {
        Error::invalid_input(format!("{} declares no number of axes, which the host needs", value.name))
    })?;
    let sizes = shape.iter().map(|dim| match dim {
        Dim::Fixed(size) => *size,
        Dim::Symbol(_) | Dim::Unknown => -1,
    });
    Ok(TensorSpec { name: value.name.clone(), datatype, shape: sizes.collect() })
}

/// Most that inputs of zeros may take, in bytes: the model's file says how large they are, and files say anything.
const ZEROS_BYTES: usize = 64 << 20;

/// A tensor of zeros for each input that has to be given, one element along an axis of any size. `None` where that is
/// more than anybody would send.
pub(super) fn zeros(inputs: &[InputSpec]) -> Option<Vec<Tensor>> {
    let required = inputs.iter().filter(|input| !input.optional);
    let zeros = required.map(|input| {
        let spec = &input.spec;
        let shape: Vec<usize> = spec.shape.iter().map(|&size| usize::try_from(size).unwrap_or(1)).collect();
        let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size))?;
        let element = spec.datatype.size().unwrap_or(size_of::<Bytes>());
        let bytes = count.checked_mul(element).filter(|&bytes| bytes <= ZEROS_BYTES)?;
        match spec.datatype {
            DataType::Bytes => Tensor::from_strings(spec.name.clone(), shape, vec![Bytes::new(); count]).ok(),
            datatype => Tensor::from_wire(spec.name.clone(), datatype, shape, vec![0; bytes].into()).ok(),
        }
    });
    zeros.collect()
}
