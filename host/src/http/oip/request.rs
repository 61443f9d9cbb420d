//! An inference request: its JSON, and the tensors that follow it as bytes.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use axum::http::HeaderMap;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::json::{Text, read_shaped};
use super::answer::{Wanted, WantedOutput};
use crate::error::{Error, Result};
use crate::model::ModelVersion;
use crate::tensor::{DataType, Tensor};
use crate::value::Value;

/// Bytes of JSON before the tensors that follow it as bytes.
pub(super) const HEADER_LENGTH: &str = "inference-header-content-length";

/// The body: its JSON, and what follows.
pub(super) struct Head {
    json: Bytes,
    binary: Bytes,
}

/// What was asked.
pub(super) struct Parsed {
    pub(super) inputs: Vec<Value>,
    pub(super) wanted: Wanted,
}

#[derive(Deserialize)]
struct InferRequest<'j> {
    #[serde(borrow, default)]
    id: Option<Cow<'j, str>>,
    #[serde(default)]
    parameters: RequestParameters,
    #[serde(borrow)]
    inputs: Vec<InputTensor<'j>>,
    #[serde(borrow, default)]
    outputs: Option<Vec<RequestedOutput<'j>>>,
}

#[derive(Deserialize, Default)]
struct RequestParameters {
    #[serde(default)]
    binary_data_output: bool,
}

#[derive(Deserialize)]
struct InputTensor<'j> {
    #[serde(borrow)]
    name: Cow<'j, str>,
    shape: Vec<usize>,
    #[serde(borrow)]
    datatype: Cow<'j, str>,
    #[serde(default)]
    parameters: InputParameters,
    #[serde(borrow, default)]
    data: Option<&'j RawValue>,
}

#[derive(Deserialize, Default)]
struct InputParameters {
    #[serde(default)]
    binary_data_size: Option<usize>,
}

#[derive(Deserialize)]
struct RequestedOutput<'j> {
    #[serde(borrow)]
    name: Cow<'j, str>,
    #[serde(default)]
    parameters: OutputParameters,
}

#[derive(Deserialize, Default)]
struct OutputParameters {
    #[serde(default)]
    binary_data: Option<bool>,
    #[serde(default)]
    classification: Option<u64>,
}

impl Head {
    /// # Errors
    /// The header that says where the JSON ends is no length within the body.
    pub(super) fn split(headers: &HeaderMap, mut body: Bytes) -> Result<Head> {
        let Some(length) = headers.get(HEADER_LENGTH) else { return Ok(Head { json: body, binary: Bytes::new() }) };
        let length = length.to_str().ok().and_then(|length| length.parse().ok());
        match length.filter(|length| (1..=body.len()).contains(length)) {
            Some(length) => Ok(Head { binary: body.split_off(length), json: body }),
            None => Err(Error::invalid_input(format!(
                "Inference-Header-Content-Length has to be the bytes of JSON that the body begins with, from 1 to {}",
                body.len()
            ))),
        }
    }

    pub(super) fn byte_size(&self) -> usize {
        self.json.len() + self.binary.len()
    }

    /// One of the request's parameters: a text, or any other value as it is written.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        #[derive(Deserialize)]
        struct Parameters<'j> {
            #[serde(borrow)]
            parameters: BTreeMap<Cow<'j, str>, &'j RawValue>,
        }
        let Parameters { parameters } = serde_json::from_slice(&self.json).ok()?;
        let value = parameters.get(name)?.get();
        Some(serde_json::from_str::<String>(value).unwrap_or_else(|_| value.to_owned()))
    }
}

/// # Errors
/// No inference request, or tensors that are not what they say they are.
pub(super) fn parse(model: &ModelVersion, head: &Head) -> Result<Parsed> {
    let text = Text::new(&head.json);
    let request: InferRequest<'_> = serde_json::from_slice(text.json()).map_err(|error| {
        Error::invalid_input(format!(
            "the body is not an inference request: {error}; expected JSON such as \
             {{\"inputs\": [{{\"name\": \"X\", \"shape\": [1, 4], \"datatype\": \"FP32\", \"data\": [5.1, 3.5, 1.4, 0.2]}}]}}"
        ))
    })?;
    let wanted = wanted(&request)?;
    let tensors = read_tensors(&text, &request.inputs, head.binary.clone())?;
    Ok(Parsed { inputs: put_together(model, tensors), wanted })
}

fn wanted(request: &InferRequest<'_>) -> Result<Wanted> {
    let binary = request.parameters.binary_data_output;
    // What comes twice is refused: an answer is as large as the model makes it, and not as often as it is asked for.
    let names = request.outputs.iter().flatten().map(|output| output.name.as_ref());
    let mut seen = HashSet::new();
    if let Some(twice) = names.into_iter().find(|name| !seen.insert(*name)) {
        return Err(Error::invalid_input(format!("output {twice} is asked for twice")));
    }
    let outputs = request.outputs.as_ref().map(|outputs| {
        let outputs = outputs.iter().map(|output| {
            if output.parameters.classification.is_some() {
                let name = &output.name;
                return Err(Error::invalid_input(format!("output {name}: `classification` is not offered here")));
            }
            let binary = output.parameters.binary_data.unwrap_or(binary);
            Ok(WantedOutput { name: output.name.clone().into_owned(), binary })
        });
        outputs.collect::<Result<Vec<_>>>()
    });
    let id = request.id.as_ref().map(|id| id.clone().into_owned());
    Ok(Wanted { id, binary, outputs: outputs.transpose()? })
}

/// The tensors by their names, those that came as bytes in the order of the inputs.
fn read_tensors(text: &Text<'_>, inputs: &[InputTensor<'_>], mut binary: Bytes) -> Result<HashMap<String, Tensor>> {
    let mut tensors = HashMap::with_capacity(inputs.len());
    for input in inputs {
        let tensor = read_tensor(text, input, &mut binary)?;
        if let Some(earlier) = tensors.insert(tensor.name.clone(), tensor) {
            return Err(Error::invalid_input(format!("input {} came twice", earlier.name)));
        }
    }
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
    match (data, parameters.binary_data_size) {
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

/// The model's inputs out of tensors. What is none of its inputs stays, for the check of all inputs to refuse.
fn put_together(model: &ModelVersion, mut tensors: HashMap<String, Tensor>) -> Vec<Value> {
    let mut inputs: Vec<Value> = model.inputs.iter().filter_map(|input| input.spec.take_from(&mut tensors)).collect();
    inputs.extend(tensors.into_values().map(Value::Tensor));
    inputs
}
