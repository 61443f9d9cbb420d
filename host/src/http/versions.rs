//! `/models/{id}` and `/models/{id}/versions/{version}`: loaded, unloaded, removed.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::to_the_end;
use crate::app::App;
use crate::error::Result;
use crate::model::Entry;

/// Loads a version that was unloaded, and answers when it serves.
pub async fn load(State(app): State<Arc<App>>, Path(entry): Path<(String, String)>) -> Result<Json<Value>> {
    let entry = Entry::from(entry);
    let models = app.models.clone();
    to_the_end(async move {
        models.load_version(&entry).await?;
        Ok(Json(json!({ "model_id": entry.id, "version": entry.version, "state": "ready" })))
    })
    .await
}

/// Unloads a version until it is loaded again.
pub async fn unload(State(app): State<Arc<App>>, Path(entry): Path<(String, String)>) -> Result<Json<Value>> {
    let entry = Entry::from(entry);
    let models = app.models.clone();
    to_the_end(async move {
        models.unload_version(&entry).await?;
        Ok(Json(json!({ "model_id": entry.id, "version": entry.version, "state": "unloaded" })))
    })
    .await
}

pub async fn remove(State(app): State<Arc<App>>, Path(entry): Path<(String, String)>) -> Result<Json<Value>> {
    let entry = Entry::from(entry);
    let models = app.models.clone();
    to_the_end(async move {
        models.remove_version(&entry).await?;
        Ok(Json(json!({ "model_id": entry.id, "removed": [entry.version] })))
    })
    .await
}

pub async fn remove_model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>> {
    let models = app.models.clone();
    to_the_end(async move {
        let removed = models.remove_model(&id).await?;
        Ok(Json(json!({ "model_id": id, "removed": removed })))
    })
    .await
}
