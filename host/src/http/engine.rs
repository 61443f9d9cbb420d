//! `/models/{id}/engine`: how a model is run.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use bytesize::ByteSize;
use serde::Deserialize;
use serde_json::{Value, json};

use super::json::read_object;
use super::{read_body, to_the_end};
use crate::app::App;
use crate::config::to_usize;
use crate::error::{Error, Result};
use crate::model::{Batching, Engine, EngineOptions, KnownVersion, Sidecar};

/// There are seven options.
const MAX_OPTIONS: ByteSize = ByteSize::kib(16);

#[derive(Deserialize)]
pub struct VersionQuery {
    version: Option<String>,
}

type VersionParameter = std::result::Result<Query<VersionQuery>, QueryRejection>;

/// Sets how all versions of a model are run, or the one named. Those that are loaded are loaded anew beside themselves.
pub async fn set(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    query: VersionParameter,
    request: Request,
) -> Result<Json<Value>> {
    let version = version_of(query)?;
    let body = read_body(request.into_body(), to_usize(MAX_OPTIONS), "16 KiB for engine options").await?;
    let options: EngineOptions = read_object(&body).map_err(|error| {
        Error::invalid_input(format!(
            "the engine options are not readable: {error}; expected JSON such as {{\"profile\": \"latency\", \"instances\": 2, \
             \"threads\": 1, \"max_batch_size\": 64, \"queue_capacity\": 256, \"execution_provider\": \"cuda:0\", \
             \"cache\": true}}, of which each may be left out"
        ))
    })?;
    change(&app, id, version, Some(options)).await
}

/// Takes the options away: those of all versions hold for a version, those of the host for a model.
pub async fn clear(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    query: VersionParameter,
) -> Result<Json<Value>> {
    change(&app, id, version_of(query)?, None).await
}

pub async fn show(State(app): State<Arc<App>>, Path(id): Path<String>, query: VersionParameter) -> Result<Json<Value>> {
    describe(&app, &id, version_of(query)?.as_deref())
}

async fn change(
    app: &Arc<App>,
    id: String,
    version: Option<String>,
    options: Option<EngineOptions>,
) -> Result<Json<Value>> {
    let permit = app.admit_upload()?;
    let app = Arc::clone(app);
    let work = to_the_end(async move {
        let _permit = permit;
        app.models.set_engine(&id, version.as_deref(), options).await?;
        describe(&app, &id, version.as_deref())
    });
    work.await
}

fn version_of(query: VersionParameter) -> Result<Option<String>> {
    Ok(query.map_err(|error| Error::invalid_input(error.body_text()))?.0.version)
}

/// `{"model_id", "engine", "versions": [{"version", "state", "engine", "effective"}]}`: `engine` is what is set.
fn describe(app: &App, id: &str, version: Option<&str>) -> Result<Json<Value>> {
    let config = app.models.registry.config(id);
    let versions = match version {
        Some(version) => vec![app.models.registry.find(id, Some(version))?],
        None => app.models.registry.versions(id)?,
    };
    let versions = versions.iter().map(|known| {
        let own = config.versions.get(&known.version).and_then(|version| version.engine.as_ref());
        let state = known.state.name();
        json!({ "version": known.version, "state": state, "engine": own, "effective": effective(app, known) })
    });
    Ok(Json(json!({ "model_id": id, "engine": config.engine, "versions": versions.collect::<Vec<_>>() })))
}

/// How a version is run, or would be if it were loaded; null where nothing is known of it.
pub fn effective(app: &App, known: &KnownVersion) -> Value {
    match (known.ready(), &known.info) {
        (Some(model), _) => describe_engine(&model.engine, &model.info),
        (None, Some(info)) => describe_engine(&app.models.engine_of(info), info),
        (None, None) => Value::Null,
    }
}

fn describe_engine(engine: &Engine, info: &Sidecar) -> Value {
    let provider = engine.session.runs_on();
    let untried = Batching::off("it was not tried yet");
    json!({
        "instances": engine.workers.instances,
        "threads": engine.session.threads,
        "max_batch_size": engine.max_batch_size,
        "batch_rows": engine.workers.batch_rows,
        "batching": info.batching.as_ref().unwrap_or(&untried),
        "queue_capacity": engine.workers.queue_capacity,
        "execution_provider": provider,
        "device": provider.device(),
        "cache": engine.cache,
    })
}
