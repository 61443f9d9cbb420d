//! `/v2/repository`: what there is, and models loaded and unloaded as Triton's clients and KServe's agent ask for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::{read_body, to_the_end};
use crate::app::App;
use crate::blocking::off_async_threads;
use crate::config::to_usize;
use crate::error::{Error, ErrorCode, Result};
use crate::oip::{self, Files};

#[derive(Deserialize, Default)]
struct IndexRequest {
    #[serde(default)]
    ready: bool,
}

#[derive(Deserialize, Default)]
struct LoadRequest {
    #[serde(default)]
    parameters: BTreeMap<String, Value>,
}

#[derive(Deserialize, Default)]
struct UnloadRequest {
    #[serde(default, rename = "parameters")]
    _parameters: UnloadParameters,
}

#[derive(Deserialize, Default)]
struct UnloadParameters {
    /// No model here has others that depend on it.
    #[serde(default, rename = "unload_dependents")]
    _unload_dependents: bool,
}

/// `[{"name","version","state","reason"}]`
pub async fn index(State(app): State<Arc<App>>, request: Request) -> Result<Json<Vec<oip::VersionState>>> {
    let body = body(&app, request).await?;
    let IndexRequest { ready } = parse(&body, r#"{"ready": true}"#)?;
    Ok(Json(oip::index(&app, ready)))
}

/// `{"parameters":{"config":"…","file:1/model.onnx":"<base64>"}}`, or nothing at all.
pub async fn load(State(app): State<Arc<App>>, Path(model): Path<String>, request: Request) -> Result<Json<Value>> {
    let permit = app.admit_upload()?;
    let body = body(&app, request).await.map_err(|mut error| {
        if error.code == ErrorCode::TooLarge {
            error.message.push_str("; a larger model comes by POST /models/upload");
        }
        error
    })?;
    let brought = off_async_threads(body.len(), move || read_files(&body)).await??;
    to_the_end(async move {
        let _permit = permit;
        oip::load(&app, &model, brought).await
    })
    .await?;
    Ok(Json(json!({})))
}

/// `{"parameters":{"unload_dependents":true}}`, or nothing at all.
pub async fn unload(State(app): State<Arc<App>>, Path(model): Path<String>, request: Request) -> Result<Json<Value>> {
    let permit = app.admit_upload()?;
    let body = body(&app, request).await?;
    let _: UnloadRequest = parse(&body, r#"{"parameters": {"unload_dependents": true}}"#)?;
    to_the_end(async move {
        let _permit = permit;
        oip::unload(&app, &model).await
    })
    .await?;
    Ok(Json(json!({})))
}

async fn body(app: &App, request: Request) -> Result<Bytes> {
    let limits = &app.config.limits;
    let body = read_body(request.into_body(), to_usize(limits.max_body_bytes), "--max-body-bytes");
    tokio::time::timeout(limits.upload_timeout, body).await.map_err(|_| {
        let limit = humantime::format_duration(limits.upload_timeout);
        Error::new(ErrorCode::RequestTimeout, format!("the body did not come within {limit} (--upload-timeout)"))
    })?
}

/// JSON, or nothing, which asks for nothing special.
fn parse<'b, T: Deserialize<'b> + Default>(body: &'b [u8], example: &str) -> Result<T> {
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|error| {
        Error::invalid_input(format!("the body is not readable: {error}; expected none, or JSON such as {example}"))
    })
}

fn read_files(body: &[u8]) -> Result<Files> {
    let example = r#"{"parameters": {"config": "{}", "file:1/model.onnx": "<base64>"}}"#;
    let LoadRequest { parameters } = parse(body, example)?;
    let mut brought = Files::default();
    for (name, value) in parameters {
        match (name.strip_prefix("file:"), value) {
            (Some(path), Value::String(content)) => {
                let content = STANDARD
                    .decode(content)
                    .map_err(|error| Error::invalid_input(format!("the parameter {name:?} is not base64: {error}")))?;
                brought.files.insert(path.to_owned(), content.into());
            }
            (None, Value::String(config)) if name == "config" => brought.config = Some(config),
            _ => {
                let name: String = name.chars().take(128).collect();
                return Err(Error::invalid_input(format!(
                    "the parameter {name:?} is none of loading a model: `config` and `file:1/model.onnx` and the like, texts"
                )));
            }
        }
    }
    Ok(brought)
}
