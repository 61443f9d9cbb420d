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
use crate::model::{BoundStage, ModelVersion, State as VersionState};
use crate::plugin::OpenCircuit;

/// 200 while the host takes requests, 503 while it drains. Versions that do not serve are named with the reason, and so
/// are plugins that are left alone because they trapped again and again.
pub async fn health(State(app): State<Arc<App>>) -> Response {
    let known = app.models.registry.list();
    let skipped = known.iter().filter_map(|known| match &known.state {
        VersionState::Failed(error) => {
            Some(json!({ "id": known.id, "version": known.version, "reason": error.message }))
        }
        _ => None,
    });
    let skipped: Vec<_> = skipped.collect();
    let models = app.models.registry.ready();
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
    let trouble = app.models.store.trouble();
    let (status, text) = match (app.is_draining(), &trouble) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        (false, None) => (StatusCode::OK, "healthy"),
        // Not 503: what is loaded serves, and hosts that all lose their store at once must not all lose their traffic.
        (false, Some(_)) => (StatusCode::OK, "degraded"),
    };
    let store = match trouble {
        None => json!({ "reachable": true }),
        Some(trouble) => json!({ "reachable": false, "error": trouble.error, "since": trouble.since }),
    };
    let (offered, provider) = app.models.providers();
    let body = json!({
        "status": text,
        "version": env!("CARGO_PKG_VERSION"),
        "models_loaded": models.len(),
        "models_known": known.len(),
        "store": store,
        "plugins_loaded": app.plugins.list().len(),
        "default_image_model": app.models.registry.default_image_model(),
        "execution_provider": provider,
        "execution_providers": offered,
        "skipped": skipped,
        "open_circuits": circuits,
    });
    (status, Json(body)).into_response()
}

pub async fn metrics(State(app): State<Arc<App>>) -> Result<Response> {
    let models = app.models.registry.ready();
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    app.metrics.models_loaded.set(count(models.len() as u64));
    app.metrics.store_up.set(app.models.store.trouble().is_none().into());
    app.metrics.model_memory.reset();
    app.metrics.queue_length.reset();
    app.metrics.workers_busy.reset();
    for model in &models {
        let memory = app.metrics.model_memory.with_label_values(&[model.id(), model.version()]);
        memory.set(count(model.engine.memory_of(&model.info)));
        let waiting = app.metrics.queue_length.with_label_values(&[model.id(), model.version()]);
        waiting.set(count(model.workers.waiting() as u64));
        let busy = app.metrics.workers_busy.with_label_values(&[model.id(), model.version()]);
        busy.set(count(model.workers.busy() as u64));
    }
    app.metrics.model_info.reset();
    app.metrics.circuit_open.reset();
    for model in &models {
        let provider = model.engine.session.runs_on();
        let labels = [model.id(), model.version(), provider.kind.name(), provider.device()];
        app.metrics.model_info.with_label_values(&labels).set(1);
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
