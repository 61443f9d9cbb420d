//! `GET /health` and `GET /metrics`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::app::App;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::model::{BoundStage, ModelVersion};
use crate::plugin::OpenCircuit;

/// 200 while the host takes requests, 503 while it drains. Versions that do not serve are named with the reason, and so
/// are plugins that are left alone because they trapped again and again.
pub async fn health(State(app): State<Arc<App>>) -> Response {
    let skipped: Vec<_> = app
        .models
        .registry
        .skipped()
        .into_iter()
        .map(|skipped| json!({ "id": skipped.id, "version": skipped.version, "reason": skipped.reason }))
        .collect();
    let models = app.models.registry.list();
    let circuits = models.iter().flat_map(|model| open_circuits(model)).map(|(model, stage, open)| {
        json!({
            "model": model.id(),
            "version": model.version(),
            "plugin": stage.binding.plugin().reference(),
            "failures_in_a_row": open.failures_in_a_row,
            "last_failure": open.last_failure,
            "next_try_in_ms": u64::try_from(open.next_try_in.as_millis()).unwrap_or(u64::MAX),
        })
    });
    let circuits: Vec<_> = circuits.collect();
    let (status, text) = match app.is_draining() {
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        false => (StatusCode::OK, "healthy"),
    };
    let body = json!({
        "status": text,
        "version": env!("CARGO_PKG_VERSION"),
        "models_loaded": models.len(),
        "plugins_loaded": app.plugins.list().len(),
        "default_image_model": app.models.registry.default_image_model(),
        "skipped": skipped,
        "open_circuits": circuits,
    });
    (status, Json(body)).into_response()
}

pub async fn metrics(State(app): State<Arc<App>>) -> Result<Response> {
    let models = app.models.registry.list();
    app.metrics.models_loaded.set(i64::try_from(models.len()).unwrap_or(i64::MAX));
    app.metrics.circuit_open.reset();
    for model in &models {
        for (name, stage) in model.pipeline.stages() {
            let labels = [model.id(), model.version(), name.name(), &stage.binding.plugin().reference()];
            let is_open = stage.binding.circuit.open().is_some();
            app.metrics.circuit_open.with_label_values(&labels).set(is_open.into());
        }
    }
    let text = app.metrics.render().map_err(Error::internal)?;
    Ok(([(header::CONTENT_TYPE, Metrics::content_type())], text).into_response())
}

/// The circuits of a version that are open, each once: both stages may share one.
fn open_circuits(model: &ModelVersion) -> impl Iterator<Item = (&ModelVersion, &BoundStage, OpenCircuit)> {
    let shared = model.pipeline.shares_instance();
    let stages = model.pipeline.stages().take(if shared { 1 } else { 2 });
    stages.filter_map(move |(_, stage)| Some((model, stage, stage.binding.circuit.open()?)))
}
