//! `/models/{id}/traffic`: which versions of a model get which requests.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use bytesize::ByteSize;
use serde_json::{Value, json};

use super::json::read_object;
use super::{read_body, to_the_end};
use crate::app::App;
use crate::config::to_usize;
use crate::error::{Error, Result};
use crate::model::{ModelConfig, Traffic};

/// A rule names at most a few versions.
const MAX_RULE: ByteSize = ByteSize::kib(64);

pub async fn show(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>> {
    app.models.registry.versions(&id)?;
    Ok(describe(&id, &app.models.registry.config(&id)))
}

/// Sets the rule, from the next request on.
pub async fn set(State(app): State<Arc<App>>, Path(id): Path<String>, request: Request) -> Result<Json<Value>> {
    let body = read_body(request.into_body(), to_usize(MAX_RULE), "64 KiB for a traffic rule").await?;
    let rule: Traffic = read_object(&body).map_err(|error| {
        Error::invalid_input(format!(
            "the traffic rule is not readable: {error}; expected JSON such as {{\"weights\": {{\"1\": 90, \"2\": 10}}, \
             \"sticky\": {{\"header\": \"x-user-id\"}}, \"shadow\": {{\"version\": \"3\", \"fraction\": 0.5}}}} or \
             {{\"default\": \"2\"}}"
        ))
    })?;
    change(&app, id, rule).await
}

/// Takes the rule away: the newest version serves.
pub async fn clear(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>> {
    change(&app, id, Traffic::default()).await
}

/// Exchanges the rule for the one before.
pub async fn roll_back(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>> {
    let models = app.models.clone();
    to_the_end(async move { Ok(describe(&id, &*models.roll_back_traffic(&id).await?)) }).await
}

async fn change(app: &App, id: String, rule: Traffic) -> Result<Json<Value>> {
    let models = app.models.clone();
    to_the_end(async move { Ok(describe(&id, &*models.set_traffic(&id, rule).await?)) }).await
}

fn describe(id: &str, config: &ModelConfig) -> Json<Value> {
    Json(json!({ "model_id": id, "traffic": config.traffic, "previous": config.previous_traffic }))
}
