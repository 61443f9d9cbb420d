//! An inference request: its JSON, and the tensors that follow it as bytes; or, raw, the bytes of the one input.

use std::borrow::Cow;
use std::sync::Arc;

use axum::http::HeaderMap;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::INFERENCE_HEADER_CONTENT_LENGTH;
use super::super::json::{Text, read_shaped};
use crate::blocking::off_async_threads;
use crate::error::{Error, Result};
use crate::model::ModelVersion;
use crate::oip::{self, Asked, Parameters, WantedOutput};
use crate::pipeline;
use crate::tensor::{DataType, Tensor};

/// A body as it came.
pub(super) enum Body {
    /// Its JSON, and what follows.
    Json(Bytes, Bytes),
    /// The one input's data, and nothing else.
    Raw(Bytes),
}

/// A request that is read, but for what only its model tells.
pub(super) struct Read {
    /// The request's own id, to be echoed.
    id: Option<String>,
    pub(super) asked: Asked,
    /// The one input's data, where the body is nothing else.
    raw: Option<Bytes>,
}

#[derive(Deserialize)]
struct InferRequest<'j> {
    #[serde(borrow, default)]
    id: Option<Cow<'j, str>>,
    #[serde(default)]
    parameters: Option<Parameters>,
    #[serde(borrow)]
    inputs: Vec<InputTensor<'j>>,
    #[serde(borrow, default)]
    outputs: Option<Vec<RequestedOutput<'j>>>,
}

#[derive(Deserialize)]
struct InputTensor<'j> {
    #[serde(borrow)]
    name: Cow<'j, str>,
    shape: Vec<usize>,
    #[serde(borrow)]
    datatype: Cow<'j, str>,
    #[serde(default)]
    parameters: Option<InputParameters>,
    #[serde(borrow, default)]
    data: Option<&'j RawValue>,
}

#[derive(Deserialize, Default)]
struct InputParameters {
    #[serde(default)]
    binary_data_size: Option<usize>,
    #[serde(default)]
    content_type: Option<String>,
}

#[derive(Deserialize)]
struct RequestedOutput<'j> {
    #[serde(borrow)]
    name: Cow<'j, str>,
    #[serde(default)]
    parameters: Option<OutputParameters>,
}

#[derive(Deserialize, Default)]
struct OutputParameters {
    #[serde(default)]
    binary_data: Option<bool>,
    #[serde(default)]
    classification: usize,
}

impl Body {
    /// # Errors
    /// The header that says where the JSON ends is no length within the body.
    pub(super) fn split(headers: &HeaderMap, mut body: Bytes) -> Result<Body> {
        let Some(length) = headers.get(INFERENCE_HEADER_CONTENT_LENGTH) else {
            return Ok(Body::Json(body, Bytes::new()));
        };
        let length = length.to_str().ok().and_then(|length| length.parse().ok());
        match length.filter(|length| *length <= body.len()) {
            Some(0) => Ok(Body::Raw(body)),
            Some(length) => {
                let binary = body.split_off(length);
                Ok(Body::Json(body, binary))
            }
            None => Err(Error::invalid_input(format!(
                "Inference-Header-Content-Length has to be the bytes of JSON that the body begins with, from 1 to {}, or 0 \
                 where all of it is the one input's data",
                body.len()
            ))),
        }
    }

    /// What is asked, as far as it can be told without the model. A large body is read off the async threads.
    ///
    /// # Errors
    /// No inference request, or tensors that are not what they say they are.
    pub(super) async fn read(self) -> Result<Read> {
        match self {
            Body::Json(json, binary) => {
                off_async_threads(json.len() + binary.len(), move || parse_json(&json, binary)).await?
            }
            // As Triton: who sends bytes alone gets bytes.
            Body::Raw(data) => {
                Ok(Read { id: None, asked: Asked { binary: true, ..Asked::default() }, raw: Some(data) })
            }
        }
    }
}

impl Read {
    /// All that is asked, and the request's own id. What is data and nothing else is a tensor once the model is known.
    ///
    /// # Errors
    /// Data that does not tell the shape of the model's one input.
    pub(super) async fn at(self, model: &Arc<ModelVersion>) -> Result<(Option<String>, Asked)> {
        let Read { id, mut asked, raw } = self;
        if let Some(data) = raw {
            let model = Arc::clone(model);
            asked.tensors.push(off_async_threads(data.len(), move || raw_input(&model, data)).await??);
        }
        Ok((id, asked))
    }
}

fn parse_json(json: &[u8], binary: Bytes) -> Result<Read> {
    let text = Text::new(json);
    let request: InferRequest<'_> = serde_json::from_slice(text.json()).map_err(|error| {
        Error::invalid_input(format!(
            "the body is not an inference request: {error}; expected JSON such as \
             {{\"inputs\": [{{\"name\": \"X\", \"shape\": [1, 4], \"datatype\": \"FP32\", \"data\": [5.1, 3.5, 1.4, 0.2]}}]}}"
        ))
    })?;
    let parameters = request.parameters.unwrap_or_default();
    let as_bytes = parameters.flag("binary_data_output")?;
    let tensors = read_tensors(&text, &request.inputs, binary)?;
    let content_type = request.inputs.into_iter().find_map(|input| input.parameters?.content_type);
    let outputs = request.outputs.into_iter().flatten().map(|output| {
        let OutputParameters { binary_data, classification } = output.parameters.unwrap_or_default();
        let (name, binary) = (output.name.into_owned(), binary_data.unwrap_or(as_bytes));
        WantedOutput { name, classes: classification, binary }
    });
    let asked = Asked { tensors, content_type, outputs: outputs.collect(), parameters, binary: as_bytes };
    Ok(Read { id: request.id.map(Cow::into_owned), asked, raw: None })
}

/// The tensors, those that came as bytes in the order of the inputs.
fn read_tensors(text: &Text<'_>, inputs: &[InputTensor<'_>], mut binary: Bytes) -> Result<Vec<Tensor>> {
    let tensors = inputs.iter().map(|input| read_tensor(text, input, &mut binary)).collect::<Result<_>>()?;
    if !binary.is_empty() {
        let left = binary.len();
        return Err(Error::invalid_input(format!("{left} bytes follow that no input's `binary_data_size` speaks of")));
    }
    Ok(tensors)
}

fn read_tensor(text: &Text<'_>, input: &InputTensor<'_>, binary: &mut Bytes) -> Result<Tensor> {
    let InputTensor { name, shape, datatype, parameters, data } = input;
    let known = DataType::from_name(datatype).ok_or_else(|| {
        Error::invalid_input(format!("input {name}: {datatype:?} is no datatype of the Open Inference Protocol"))
    })?;
    oip::check_axes(name, shape.len())?;
    match (data, parameters.as_ref().and_then(|parameters| parameters.binary_data_size)) {
        (Some(data), None) => read_shaped(name, known, shape, text.of(data)),
        (None, Some(size)) if size <= binary.len() => {
            Ok(Tensor::from_wire(name.clone().into_owned(), known, shape.clone(), binary.split_to(size))?)
        }
        (None, Some(size)) => Err(Error::invalid_input(format!(
            "input {name}: its `binary_data_size` is {size}, but {} bytes are left of the body",
            binary.len()
        ))),
        (Some(_), Some(_)) | (None, None) => Err(Error::invalid_input(format!(
            "input {name}: give either `data`, or the parameter `binary_data_size` and the bytes behind the JSON"
        ))),
    }
}

/// A whole body as the model's one input: how long its one open axis is, the number of bytes says. A text is one element,
/// without its length before it.
fn raw_input(model: &ModelVersion, data: Bytes) -> Result<Tensor> {
    let input = pipeline::only_input(model).ok_or_else(|| {
        Error::invalid_input(format!(
            "a body without JSON (Inference-Header-Content-Length: 0) is the data of a model's one input; model {} has: {}",
            model.id(),
            pipeline::describe_inputs(model)
        ))
    })?;
    let refused = || {
        Error::invalid_input(format!(
            "{} bytes without JSON (Inference-Header-Content-Length: 0) do not tell the shape of the input {} {}: at most \
             one of its axes may be of any size, and BYTES has to be one element",
            data.len(),
            input.spec.name(),
            input.spec
        ))
    };
    let spec = input.spec.tensor().ok_or_else(refused)?;
    let axes = spec.shape.as_deref().unwrap_or(&[-1]);
    let Some(element) = spec.datatype.size() else {
        let shape: Vec<usize> = axes.iter().map(|&size| usize::try_from(size).unwrap_or(1)).collect();
        if shape.iter().any(|&size| size != 1) {
            return Err(refused());
        }
        return Ok(Tensor::from_strings(spec.name.clone(), shape, vec![data])?);
    };
    let shape = shape_of(axes, element, data.len()).ok_or_else(refused)?;
    Ok(Tensor::from_wire(spec.name.clone(), spec.datatype, shape, data)?)
}

/// The shape of so many bytes, where it can be told.
fn shape_of(axes: &[i64], element: usize, bytes: usize) -> Option<Vec<usize>> {
    let mut fixed = axes.iter().filter_map(|&size| usize::try_from(size).ok());
    let fixed = fixed.try_fold(element, |bytes, size| bytes.checked_mul(size))?;
    let open = axes.iter().filter(|&&size| size < 0).count();
    let free = bytes.checked_div(fixed).unwrap_or(0);
    let whole = if open == 1 { fixed.checked_mul(free)? } else { fixed };
    (open <= 1 && whole == bytes).then(|| axes.iter().map(|&size| usize::try_from(size).unwrap_or(free)).collect())
}

#[cfg(test)]
mod tests {
    use super::shape_of;

    #[test]
    fn bytes_tell_the_shape_where_one_axis_is_open() {
        assert_eq!(shape_of(&[-1, 4], 4, 32), Some(vec![2, 4]));
        assert_eq!(shape_of(&[2, 4], 4, 32), Some(vec![2, 4]));
        assert_eq!(shape_of(&[], 4, 4), Some(vec![]));
        assert_eq!(shape_of(&[-1, 4], 4, 0), Some(vec![0, 4]));
        assert_eq!(shape_of(&[-1, 4], 4, 33), None);
        assert_eq!(shape_of(&[-1, -1], 4, 32), None);
        assert_eq!(shape_of(&[2, 4], 4, 36), None);
        assert_eq!(shape_of(&[-1, 0], 4, 4), None);
        assert_eq!(shape_of(&[i64::MAX, i64::MAX], 4, 4), None);
    }
}
