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

/// 200 while the host takes requests, 503 while it drains. Versions that do not serve are named with the reason.
pub async fn health(State(app): State<Arc<App>>) -> Response {
    let skipped: Vec<_> = app
        .models
        .registry
        .skipped()
        .into_iter()
        .map(|skipped| json!({ "id": skipped.id, "version": skipped.version, "reason": skipped.reason }))
        .collect();
    let (status, text) = match app.is_draining() {
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        false => (StatusCode::OK, "healthy"),
    };
    let body = json!({
        "status": text,
        "version": env!("CARGO_PKG_VERSION"),
        "models_loaded": app.models.registry.list().len(),
        "default_image_model": app.models.registry.default_image_model(),
        "skipped": skipped,
    });
    (status, Json(body)).into_response()
}

pub async fn metrics(State(app): State<Arc<App>>) -> Result<Response> {
    app.metrics.models_loaded.set(i64::try_from(app.models.registry.list().len()).unwrap_or(i64::MAX));
    let text = app.metrics.render().map_err(Error::internal)?;
    Ok(([(header::CONTENT_TYPE, Metrics::content_type())], text).into_response())
}
