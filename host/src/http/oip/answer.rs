//! An inference answer: JSON, and the outputs that were asked for as bytes behind it.

use std::borrow::Cow;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use serde::ser::Serializer;

use super::super::cache_header;
use super::super::json::TensorData;
use super::request::HEADER_LENGTH;
use crate::error::{Error, Result};
use crate::model::ModelVersion;
use crate::pipeline::Answer;
use crate::predict::Prediction;
use crate::tensor::Tensor;
use crate::value::Value;

/// The name of the one output that a postprocess plugin's answer is.
const RESPONSE: &str = "response";

/// What a request wants of the answer.
pub(super) struct Wanted {
    /// The request's own, to be echoed.
    pub(super) id: Option<String>,
    /// Whether outputs come as bytes where nothing else is said.
    pub(super) binary: bool,
    /// Without: all of them.
    pub(super) outputs: Option<Vec<WantedOutput>>,
}

pub(super) struct WantedOutput {
    pub(super) name: String,
    pub(super) binary: bool,
}

#[derive(Serialize)]
struct InferAnswer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    model_name: &'a str,
    model_version: &'a str,
    outputs: Vec<OutputTensor<'a>>,
}

#[derive(Serialize)]
struct OutputTensor<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinarySize>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "elements")]
    data: Option<&'a Tensor>,
}

#[derive(Serialize)]
struct BinarySize {
    binary_data_size: usize,
}

fn elements<S: Serializer>(tensor: &Option<&Tensor>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    tensor.map(TensorData).serialize(serializer)
}

/// # Errors
/// An output was asked for that is none of the model's.
pub(super) fn wrap(model: &ModelVersion, prediction: &Prediction, wanted: &Wanted) -> Result<Response> {
    let values = match &*prediction.answer {
        Answer::Outputs(values) => Cow::from(values),
        Answer::Response(response) => {
            let body = Tensor::from_strings(RESPONSE.to_owned(), vec![1], vec![response.body.clone()])?;
            Cow::from(vec![Value::Tensor(body)])
        }
    };
    let tensors = select(&values, wanted)?;
    let mut binary: Vec<Bytes> = Vec::new();
    let outputs = tensors.iter().map(|(tensor, as_bytes)| {
        let bytes = as_bytes.then(|| tensor.to_wire());
        let parameters = bytes.as_ref().map(|bytes| BinarySize { binary_data_size: bytes.len() });
        let data = if *as_bytes { None } else { Some(tensor) };
        binary.extend(bytes);
        OutputTensor { name: &tensor.name, datatype: tensor.datatype.name(), shape: &tensor.shape, parameters, data }
    });
    let outputs = outputs.collect();
    let head =
        InferAnswer { id: wanted.id.as_deref(), model_name: model.id(), model_version: model.version(), outputs };
    let mut body = serde_json::to_vec(&head).map_err(Error::internal)?;
    if tensors.iter().all(|(_, as_bytes)| !as_bytes) {
        let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        return Ok(([json, cache_header(prediction.cached)], body).into_response());
    }
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (HeaderName::from_static(HEADER_LENGTH), HeaderValue::from(body.len())),
        cache_header(prediction.cached),
    ];
    body.reserve_exact(binary.iter().map(Bytes::len).sum());
    binary.iter().for_each(|bytes| body.extend_from_slice(bytes));
    Ok((headers, body).into_response())
}

/// The tensors that were asked for, by an output's name or by that of one of its tensors; and whether as bytes.
fn select(values: &[Value], wanted: &Wanted) -> Result<Vec<(Tensor, bool)>> {
    let Some(outputs) = &wanted.outputs else {
        return Ok(values.iter().flat_map(Value::to_tensors).map(|tensor| (tensor, wanted.binary)).collect());
    };
    let mut selected = Vec::with_capacity(outputs.len());
    for WantedOutput { name, binary } in outputs {
        let tensors = match values.iter().find(|value| value.name() == name) {
            Some(value) => value.to_tensors(),
            None => {
                let mut tensors = values.iter().flat_map(Value::to_tensors);
                vec![tensors.find(|tensor| tensor.name == *name).ok_or_else(|| unknown(values, name))?]
            }
        };
        selected.extend(tensors.into_iter().map(|tensor| (tensor, *binary)));
    }
    Ok(selected)
}

fn unknown(values: &[Value], name: &str) -> Error {
    let names: Vec<&str> = values.iter().map(Value::name).collect();
    Error::invalid_input(format!("the model has no output {name:?}; its outputs: {}", names.join(", ")))
}
