//! `/models/{id}/pipeline`: which plugins are around a model.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::json::read_object;
use super::upload::MAX_PIPELINE;
use super::{read_body, to_the_end};
use crate::app::App;
use crate::config::to_usize;
use crate::error::{Error, Result};
use crate::model::{BoundStage, Golden, KnownVersion, ModelVersion, Pipeline, Rebound, StageBinding};

#[derive(Deserialize)]
pub struct VersionQuery {
    version: Option<String>,
}

/// A pipeline in JSON: `golden` is a request's body, as it would be sent.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PipelineJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    preprocess: Option<StageBinding>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    postprocess: Option<StageBinding>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    golden: Option<Box<RawValue>>,
}

/// Reads a pipeline as requests and forms have it.
///
/// # Errors
/// It is none, or has a null where the store cannot keep one.
pub fn read_pipeline(json: &[u8]) -> Result<Pipeline> {
    let read: PipelineJson = read_object(json).map_err(|error| {
        Error::invalid_input(format!(
            "the pipeline is not readable: {error}; expected JSON such as \
             {{\"preprocess\": {{\"plugin\": \"tabular@0.1.0\", \"config\": {{}}, \"on_failure\": \"fail\"}}, \"postprocess\": …}}"
        ))
    })?;
    for stage in [&read.preprocess, &read.postprocess].into_iter().flatten() {
        if let Some(problem) = stage.config.iter().find_map(|(name, value)| unfit(name, value)) {
            return Err(Error::invalid_input(format!("plugin {}: the configuration's {problem}", stage.plugin)));
        }
    }
    let golden = read.golden.map(|json| json.get().to_owned());
    Ok(Pipeline { preprocess: read.preprocess, postprocess: read.postprocess, golden })
}

/// What of a value `model.toml` has no word for: a null, and a number past 64 bits with a sign.
fn unfit(path: &str, value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(format!("{path} is null; leave the field out instead")),
        Value::Number(number) if number.is_u64() && !number.is_i64() => {
            Some(format!("{path} is larger than {}", i64::MAX))
        }
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| unfit(&format!("{path}[{index}]"), item))
        }
        Value::Object(fields) => fields.iter().find_map(|(name, field)| unfit(&format!("{path}.{name}"), field)),
        _ => None,
    }
}

/// Binds plugins to all versions of a model, or to the one named.
pub async fn bind(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    query: std::result::Result<Query<VersionQuery>, QueryRejection>,
    request: Request,
) -> Result<Json<Value>> {
    let version = version_of(query)?;
    let body = read_body(request.into_body(), to_usize(MAX_PIPELINE), "1 MiB for a pipeline").await?;
    set(&app, id, version, read_pipeline(&body)?).await
}

/// Takes the plugins away again.
pub async fn unbind(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    query: std::result::Result<Query<VersionQuery>, QueryRejection>,
) -> Result<Json<Value>> {
    set(&app, id, version_of(query)?, Pipeline::default()).await
}

async fn set(app: &App, id: String, version: Option<String>, pipeline: Pipeline) -> Result<Json<Value>> {
    let permit = app.admit_upload()?;
    let models = app.models.clone();
    let work = to_the_end(async move {
        let _permit = permit;
        let rebound = models.set_pipeline(&id, version.as_deref(), pipeline).await?;
        Ok(describe(&id, rebound.iter().map(|Rebound { model, golden }| (&**model, Some(*golden)))))
    });
    work.await
}

pub async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    query: std::result::Result<Query<VersionQuery>, QueryRejection>,
) -> Result<Json<Value>> {
    let versions = match version_of(query)? {
        Some(version) => vec![app.models.registry.find(&id, Some(&version))?],
        None => app.models.registry.versions(&id)?,
    };
    Ok(describe(&id, versions.iter().filter_map(KnownVersion::ready).map(|model| (&**model, None))))
}

fn version_of(query: std::result::Result<Query<VersionQuery>, QueryRejection>) -> Result<Option<String>> {
    Ok(query.map_err(|error| Error::invalid_input(error.body_text()))?.0.version)
}

/// `{"model_id", "versions": [{"version", "pipeline", "init", "golden"}]}`
fn describe<'m>(id: &str, versions: impl Iterator<Item = (&'m ModelVersion, Option<Golden>)>) -> Json<Value> {
    let versions = versions.map(|(model, golden)| {
        let bound = &model.pipeline;
        let Pipeline { preprocess, postprocess, golden: json } = bound.configured.clone();
        // It was JSON when it came; what was written into model.toml by hand may not be.
        let pipeline =
            PipelineJson { preprocess, postprocess, golden: json.and_then(|json| RawValue::from_string(json).ok()) };
        let mut described = json!({
            "version": model.version(),
            "pipeline": pipeline,
            "init": { "preprocess": init(bound.preprocess.as_ref()), "postprocess": init(bound.postprocess.as_ref()) },
        });
        if let Some(golden) = golden {
            described["golden"] = json!(golden);
        }
        described
    });
    let versions: Vec<Value> = versions.collect();
    Json(json!({ "model_id": id, "versions": versions }))
}

/// How instances come by what `init` makes; and why not by a copy of its memory.
fn init(stage: Option<&BoundStage>) -> Option<String> {
    stage.map(|stage| match stage.binding.no_snapshot() {
        None => "snapshot".to_owned(),
        Some(why) => format!("each instance: {why}"),
    })
}
