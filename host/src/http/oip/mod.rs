//! `/v2`: the Open Inference Protocol's REST, with its binary extension. The same predictions as `POST /predict`.
//!
//! Source: <https://github.com/open-inference/open-inference-protocol>, and Triton's `binary_tensor_data`.

mod answer;
mod coding;
mod repository;
mod request;

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::{Extension, Json};
use serde_json::{Value, json};

pub use self::repository::{index, load, unload};
use self::request::Body;
use super::{Observation, prediction_body, terms};
use crate::app::App;
use crate::blocking::off_async_threads;
use crate::error::{Error, ErrorCode, Result};
use crate::model::Sticky;
use crate::oip;
use crate::pipeline::Trace;
use crate::predict::Target;

/// The model that a path names, and the version if it names one.
type Named = Path<Vec<(String, String)>>;

/// `{"name","version","extensions","execution_provider","execution_providers","devices":[{"execution_provider","device",…}]}`
pub async fn server(State(app): State<Arc<App>>) -> Json<oip::ServerMetadata> {
    Json(oip::server_metadata(&app))
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

/// `{"models": [NAME, …]}`, as KServe has it.
pub async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    let mut names: Vec<String> = app.models.registry.list().into_iter().map(|known| known.id).collect();
    // Versions of one model follow one another.
    names.dedup();
    Json(json!({ "models": names }))
}

pub async fn model_ready(State(app): State<Arc<App>>, Path(named): Named) -> Result<Json<Value>> {
    let known = oip::is_ready(&app, model_of(&named), version_of(&named))?;
    Ok(Json(json!({ "name": known.id, "ready": true })))
}

fn model_of(named: &[(String, String)]) -> &str {
    parameter(named, "model").unwrap_or_default()
}

fn version_of(named: &[(String, String)]) -> Option<&str> {
    parameter(named, "version")
}

fn parameter<'p>(parameters: &'p [(String, String)], name: &str) -> Option<&'p str> {
    parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// `{"name","versions","platform","inputs":[{"name","datatype","shape"}],"outputs":[…]}`
pub async fn model(State(app): State<Arc<App>>, Path(named): Named) -> Result<Json<oip::ModelMetadata>> {
    oip::model_metadata(&app, model_of(&named), version_of(&named)).await.map(Json)
}

/// `{"name","platform","backend","max_batch_size","input":[{"name","data_type","dims"}],"output":[…],…}`
pub async fn config(State(app): State<Arc<App>>, Path(named): Named) -> Result<Json<oip::ModelConfig>> {
    oip::model_config(&app, model_of(&named), version_of(&named)).await.map(Json)
}

/// `{"model_stats":[{"name","version","inference_stats":{…},…}]}`, of all loaded versions, of a model's, or of one.
pub async fn statistics(State(app): State<Arc<App>>, Path(named): Named) -> Result<Json<Value>> {
    let statistics = oip::statistics(&app, parameter(&named, "model"), version_of(&named))?;
    Ok(Json(json!({ "model_stats": statistics })))
}

/// Extensions of Triton's that the host does not have.
pub async fn not_offered(request: Request) -> Error {
    let message = format!(
        "{} is not offered by this host; GET /v2 lists the protocol's extensions that are",
        request.uri().path()
    );
    Error::new(ErrorCode::Unsupported, message)
}

pub async fn infer(
    State(app): State<Arc<App>>,
    Extension(observation): Extension<Observation>,
    Path(named): Named,
    request: Request,
) -> Result<Response> {
    let _permit = app.admit_prediction()?;
    let mut terms = terms(&app, request.headers())?;
    let (parts, body) = request.into_parts();
    let body = prediction_body(&app, body).await?;
    let body = coding::decode(&app, &parts.headers, body).await?;
    let read = Body::split(&parts.headers, body)?.read().await;
    // What is no request still came to a version, for the log and for an error that says so.
    let parameters = read.as_ref().ok().map(|read| &read.asked.parameters);
    let key = |sticky: &Sticky| match sticky {
        Sticky::Header(name) => parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned),
        Sticky::Field(name) => parameters?.text(name),
    };
    let timeout = || parameters?.text("timeout");
    let model = oip::resolve(&app, model_of(&named), version_of(&named), &mut terms, key, timeout).await?;
    observation.serves(&model);
    let (id, asked) = read?.at(&model).await?;
    let target = Target::of(&app, model, version_of(&named));
    let mut trace = Trace::default();
    let inferred = oip::infer(&app, &target, asked, terms, &mut trace).await;
    observation.went(trace);
    let inferred = inferred?;
    let bytes = inferred.outputs.iter().map(|output| output.tensor.byte_size() + size_of_val(output)).sum();
    let wanted = coding::wanted(&parts.headers);
    off_async_threads(bytes, move || answer::wrap(&target.model, id.as_deref(), &inferred, wanted)).await?
}
