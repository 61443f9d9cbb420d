//! `/v2`: the Open Inference Protocol's REST, with its binary extension. The same predictions as `POST /predict`.
//!
//! Source: <https://github.com/open-inference/open-inference-protocol>, and Triton's `binary_tensor_data`.

mod answer;
mod request;

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::{Extension, Json};
use serde_json::{Value, json};

use self::request::Head;
use super::predict::target;
use super::{Observation, prediction_body, terms};
use crate::app::App;
use crate::blocking::off_async_threads;
use crate::error::{Error, ErrorCode, Result};
use crate::model::{KnownVersion, ModelVersion, Route, Sticky, value_spec};
use crate::onnx::ValueInfo;
use crate::pipeline::{Payload, Trace};
use crate::predict;
use crate::value::ValueSpec;

/// The model that a path names, and the version if it names one.
type Named = Path<Vec<(String, String)>>;

pub async fn server() -> Json<Value> {
    Json(json!({ "name": "model-nexus", "version": env!("CARGO_PKG_VERSION"), "extensions": ["binary_tensor_data"] }))
}

pub async fn live() -> Json<Value> {
    Json(json!({ "live": true }))
}

pub async fn ready(State(app): State<Arc<App>>) -> Result<Json<Value>> {
    if app.is_draining() {
        return Err(Error::new(ErrorCode::NotReady, "the host is draining"));
    }
    Ok(Json(json!({ "ready": true })))
}

pub async fn model_ready(State(app): State<Arc<App>>, Path(named): Named) -> Result<Json<Value>> {
    let known = find(&app, &named)?;
    // One that is loaded when it is asked for is ready to be asked.
    if app.is_draining() || !known.can_serve() {
        let KnownVersion { id, version, state, .. } = &known;
        return Err(Error::new(ErrorCode::NotReady, format!("model {id}, version {version} is {}", state.name())));
    }
    Ok(Json(json!({ "name": known.id, "ready": true })))
}

fn find(app: &App, named: &[(String, String)]) -> Result<KnownVersion> {
    app.models.registry.find(parameter(named, "model").unwrap_or_default(), parameter(named, "version"))
}

fn parameter<'p>(parameters: &'p [(String, String)], name: &str) -> Option<&'p str> {
    parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// `{"name","versions","platform","inputs":[{"name","datatype","shape"}],"outputs":[…]}`
pub async fn model(State(app): State<Arc<App>>, Path(named): Named) -> Result<Json<Value>> {
    let known = find(&app, &named)?;
    let info = match &known.info {
        Some(info) => Arc::clone(info),
        None => Arc::clone(&app.models.ready(&known.entry()).await?.info),
    };
    let versions: Vec<String> =
        app.models.registry.versions(&known.id)?.into_iter().map(|known| known.version).collect();
    let describe = |values: &[ValueInfo]| -> Vec<Value> { values.iter().flat_map(describe).collect() };
    Ok(Json(json!({
        "name": known.id,
        "versions": versions,
        "platform": "onnxruntime_onnx",
        "inputs": describe(&info.metadata.inputs),
        "outputs": describe(&info.metadata.outputs),
    })))
}

/// An input or output as the tensors that it is on the wire. The protocol knows no other types and no unknown ranks: the
/// former are named by ONNX's notation, the latter have one axis of any size.
fn describe(value: &ValueInfo) -> Vec<Value> {
    let spec = value_spec(value);
    if let ValueSpec::Unsupported { name, kind } = &spec {
        return vec![json!({ "name": name, "datatype": kind, "shape": [] })];
    }
    let tensors = spec.to_tensor_specs().into_iter();
    let described = tensors.map(|spec| {
        let shape = spec.shape.unwrap_or_else(|| vec![-1]);
        json!({ "name": spec.name, "datatype": spec.datatype.name(), "shape": shape })
    });
    described.collect()
}

pub async fn infer(
    State(app): State<Arc<App>>,
    Extension(observation): Extension<Observation>,
    Path(named): Named,
    request: Request,
) -> Result<Response> {
    let _permit = app.admit_prediction()?;
    let terms = terms(&app, request.headers())?;
    let (parts, body) = request.into_parts();
    let body = prediction_body(&app, body).await?;
    let head = Head::split(&parts.headers, body)?;
    let model = resolve(&app, &named, &parts.headers, &head).await?;
    observation.serves(&model);
    let parsing = Arc::clone(&model);
    let parsed = off_async_threads(head.byte_size(), move || request::parse(&parsing, &head)).await??;
    let target = target(&app, model, parameter(&named, "version"));
    let mut trace = Trace::default();
    let payload = Payload::Tensors(parsed.inputs);
    let prediction = predict::predict(&app, &target, payload, &terms, &mut trace).await;
    observation.went(trace);
    let prediction = prediction?;
    let bytes = prediction.answer.byte_size();
    off_async_threads(bytes, move || answer::wrap(&target.model, &prediction, &parsed.wanted)).await?
}

/// The version that a request comes to, loaded if it is not.
async fn resolve(app: &App, named: &[(String, String)], headers: &HeaderMap, head: &Head) -> Result<Arc<ModelVersion>> {
    let id = parameter(named, "model").unwrap_or_default();
    let key = |sticky: &Sticky| match sticky {
        Sticky::Header(name) => headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned),
        Sticky::Field(name) => head.parameter(name),
    };
    match app.models.registry.route(id, parameter(named, "version"), key)? {
        Route::Ready(model) => Ok(model),
        Route::Cold(version) => app.models.ready_in_time(&version).await,
    }
}
