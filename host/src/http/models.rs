//! `GET /models` and `GET /models/info`: what there is, and how far it is from serving.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::engine::effective;
use crate::app::App;
use crate::error::{Error, Result};
use crate::model::{DataFile, KnownVersion, Sidecar, StageBinding, State as VersionState, Traffic};
use crate::onnx::{Dim, ValueInfo, ValueKind};
use crate::tensor::DataType;

#[derive(Deserialize)]
pub struct InfoQuery {
    id: Option<String>,
    version: Option<String>,
}

pub async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let default_image_model = app.models.registry.default_image_model();
    let known = app.models.registry.list();
    let models = known.iter().map(|known| {
        let mut listed = identity(&app, known);
        listed["info"] = json!(known.info.as_ref().map(|info| info_of(info)));
        listed["state"] = json!(known.state.name());
        listed["default"] = json!(is_default(&app, known));
        listed["default_image_model"] = json!(default_image_model.as_deref() == Some(&known.id));
        listed["pipeline"] = pipeline(&app, known);
        listed
    });
    Json(json!({ "models": models.collect::<Vec<Value>>() }))
}

pub async fn show(
    State(app): State<Arc<App>>,
    query: std::result::Result<Query<InfoQuery>, QueryRejection>,
) -> Result<Json<Value>> {
    let Query(query) = query.map_err(|error| Error::invalid_input(error.body_text()))?;
    let id = query.id.ok_or_else(|| Error::invalid_input("the query names no model: /models/info?id=iris"))?;
    let known = app.models.registry.find(&id, query.version.as_deref())?;
    let mut described = describe(&app, &known);
    if query.version.is_none() {
        let config = app.models.registry.config(&id);
        let versions = app.models.registry.versions(&id)?;
        described["versions"] = versions.iter().map(|known| summary(&app, known, &config.traffic)).collect();
        described["traffic"] = json!(config.traffic);
    }
    Ok(Json(described))
}

/// `{"version","state","reason","uploaded_at","size","memory_bytes","weight","default"}`
fn summary(app: &App, known: &KnownVersion, traffic: &Traffic) -> Value {
    let info = known.info.as_ref();
    json!({
        "version": known.version,
        "state": known.state.name(),
        "reason": reason(known),
        "uploaded_at": info.map(|info| info.uploaded_at),
        "size": info.map(|info| info.total_bytes()),
        "memory_bytes": info.map(|info| memory_bytes(app, known, info)),
        "weight": traffic.weights.get(&known.version),
        "default": is_default(app, known),
    })
}

fn is_default(app: &App, known: &KnownVersion) -> bool {
    app.models.registry.find(&known.id, None).is_ok_and(|default| default.version == known.version)
}

/// Why a version cannot serve.
fn reason(known: &KnownVersion) -> Option<&str> {
    match &known.state {
        VersionState::Failed(error) => Some(&error.message),
        _ => None,
    }
}

/// `{"model":{"id","name","version","path"},"info":{"inputs":[…],"outputs":[…]}}`, and beside `info`'s two what else the
/// host knows of the version.
pub fn describe(app: &App, known: &KnownVersion) -> Value {
    let mut info = known.info.as_ref().map_or_else(|| json!({}), |sidecar| describe_sidecar(sidecar));
    info["memory"] = json!(known.info.as_ref().map(|sidecar| {
        json!({ "bytes": memory_bytes(app, known, sidecar), "measured": sidecar.session_bytes.is_some() })
    }));
    info["state"] = json!(known.state.name());
    info["reason"] = json!(reason(known));
    info["labels"] = json!(known.ready().map(|model| model.labels.len()));
    info["pipeline"] = pipeline(app, known);
    info["engine"] = effective(app, known);
    json!({ "model": identity(app, known), "info": info })
}

fn describe_sidecar(sidecar: &Sidecar) -> Value {
    let metadata = &sidecar.metadata;
    let mut info = info_of(sidecar);
    info["ir_version"] = json!(metadata.ir_version);
    info["opset"] = metadata
        .opset
        .iter()
        .map(|(domain, version)| {
            // The standard operators' domain is the empty string in a file and "ai.onnx" everywhere else.
            (if domain.is_empty() { "ai.onnx".to_owned() } else { domain.clone() }, json!(version))
        })
        .collect();
    info["producer"] = json!({ "name": metadata.producer_name, "version": metadata.producer_version });
    info["graph"] = json!(metadata.graph_name);
    info["metadata"] = metadata.metadata_props.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    info["sha256"] = json!(sidecar.sha256);
    info["size"] = json!(sidecar.size);
    info["uploaded_at"] = json!(sidecar.uploaded_at);
    let model = DataFile { path: "model.onnx".to_owned(), size: sidecar.size, sha256: sidecar.sha256.clone() };
    info["files"] = json!([&[model], sidecar.files.as_slice()].concat());
    info
}

/// What a version takes of the memory that versions share, or would if it were loaded.
fn memory_bytes(app: &App, known: &KnownVersion, info: &Sidecar) -> u64 {
    known.ready().map_or_else(|| app.models.memory_of(info), |model| model.engine.memory_of(info))
}

fn identity(app: &App, known: &KnownVersion) -> Value {
    let name = known.info.as_ref().map_or(&known.id, |info| &info.name);
    let path = app.models.path_of(&known.entry());
    json!({ "id": known.id, "name": name, "version": known.version, "path": path })
}

fn info_of(sidecar: &Sidecar) -> Value {
    let metadata = &sidecar.metadata;
    json!({
        "inputs": metadata.inputs.iter().map(describe_value).collect::<Vec<_>>(),
        "outputs": metadata.outputs.iter().map(describe_value).collect::<Vec<_>>(),
    })
}

fn pipeline(app: &App, known: &KnownVersion) -> Value {
    let config = app.models.registry.config(&known.id);
    let pipeline = match known.ready() {
        Some(model) => &model.pipeline.configured,
        None => config.pipeline_of(&known.version),
    };
    let reference = |stage: &Option<StageBinding>| stage.as_ref().map(|stage| stage.plugin.clone());
    json!({ "preprocess": reference(&pipeline.preprocess), "postprocess": reference(&pipeline.postprocess) })
}

/// `{"name","dtype","datatype","shape","symbolic"}`: `dtype` is ONNX's number; -1 stands for a size that is not fixed, and
/// `symbolic` has its name at the same place.
fn describe_value(value: &ValueInfo) -> Value {
    let (dtype, shape) = match &value.kind {
        ValueKind::Tensor { datatype, shape } => (*datatype, shape.as_deref()),
        ValueKind::Sequence { type_name }
        | ValueKind::Map { type_name }
        | ValueKind::Optional { type_name }
        | ValueKind::Sparse { type_name } => {
            return json!({ "name": value.name, "dtype": 0, "datatype": type_name, "shape": [] });
        }
        ValueKind::Unknown => return json!({ "name": value.name, "dtype": 0, "datatype": null, "shape": null }),
    };
    let datatype = DataType::from_onnx(dtype).map(DataType::name);
    let sizes = shape
        .map(|dims| dims.iter().map(|dim| if let Dim::Fixed(size) = dim { *size } else { -1 }).collect::<Vec<_>>());
    let mut described = json!({ "name": value.name, "dtype": dtype, "datatype": datatype, "shape": sizes });
    let dims = shape.unwrap_or_default();
    if dims.iter().any(|dim| matches!(dim, Dim::Symbol(_))) {
        let symbols: Vec<_> =
            dims.iter().map(|dim| if let Dim::Symbol(name) = dim { Some(name) } else { None }).collect();
        described["symbolic"] = json!(symbols);
    }
    if value.optional {
        described["optional"] = json!(true);
    }
    described
}
