//! An inference answer: JSON, and the outputs that were asked for as bytes behind it.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use serde::ser::Serializer;

use super::super::json::TensorData;
use super::super::{INFERENCE_HEADER_CONTENT_LENGTH, cache_header};
use super::coding::{self, Coding};
use crate::error::{Error, Result};
use crate::model::ModelVersion;
use crate::oip::{Inferred, Output};
use crate::tensor::Tensor;

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
    #[serde(skip_serializing_if = "OutputParameters::are_none")]
    parameters: OutputParameters<'a>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "elements")]
    data: Option<&'a Tensor>,
}

#[derive(Serialize)]
struct OutputParameters<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    binary_data_size: Option<usize>,
    /// The media type of what a plugin answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
}

impl OutputParameters<'_> {
    fn are_none(&self) -> bool {
        self.binary_data_size.is_none() && self.content_type.is_none()
    }
}

fn elements<S: Serializer>(tensor: &Option<&Tensor>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    tensor.map(TensorData).serialize(serializer)
}

/// # Errors
/// None of the client's.
pub(super) fn wrap(
    model: &ModelVersion,
    id: Option<&str>,
    inferred: &Inferred,
    coding: Option<Coding>,
) -> Result<Response> {
    let mut binary: Vec<Bytes> = Vec::new();
    let outputs = inferred.outputs.iter().map(|Output { tensor, binary: as_bytes, content_type }| {
        let bytes = as_bytes.then(|| tensor.to_wire());
        let binary_data_size = bytes.as_ref().map(Bytes::len);
        let parameters = OutputParameters { binary_data_size, content_type: content_type.as_deref() };
        let data = if *as_bytes { None } else { Some(tensor) };
        binary.extend(bytes);
        OutputTensor { name: &tensor.name, datatype: tensor.datatype.name(), shape: &tensor.shape, parameters, data }
    });
    let outputs = outputs.collect();
    let head = InferAnswer { id, model_name: model.id(), model_version: model.version(), outputs };
    let mut body = serde_json::to_vec(&head).map_err(Error::internal)?;
    let length = (!binary.is_empty()).then_some(body.len());
    body.reserve_exact(binary.iter().map(Bytes::len).sum());
    binary.iter().for_each(|bytes| body.extend_from_slice(bytes));
    let media_type = if length.is_some() { "application/octet-stream" } else { "application/json" };
    let encoded = coding::encode(&body, coding).map_err(Error::internal)?;
    let (body, coding) = encoded.map_or((body, None), |(body, coding)| (body, Some(coding)));
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(media_type)), cache_header(inferred.cached)];
    let mut response = (headers, body).into_response();
    if let Some(length) = length {
        response.headers_mut().insert(INFERENCE_HEADER_CONTENT_LENGTH, HeaderValue::from(length));
    }
    if let Some(coding) = coding {
        response.headers_mut().insert(header::CONTENT_ENCODING, coding.header());
    }
    Ok(response)
}
