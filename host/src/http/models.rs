//! `GET /models` and `GET /models/info`: what is loaded.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{Error, Result};
use crate::model::{BoundStage, ModelVersion};
use crate::onnx::{Dim, ValueInfo, ValueKind};
use crate::tensor::DataType;

#[derive(Deserialize)]
pub struct InfoQuery {
    id: Option<String>,
    version: Option<String>,
}

pub async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let default_image_model = app.models.registry.default_image_model();
    let models: Vec<Value> = app
        .models
        .registry
        .list()
        .iter()
        .map(|model| {
            let mut listed = identity(model);
            listed["info"] = info(model);
            listed["default_image_model"] = json!(default_image_model.as_deref() == Some(model.id()));
            listed["pipeline"] = pipeline(model);
            listed
        })
        .collect();
    Json(json!({ "models": models }))
}

pub async fn show(
    State(app): State<Arc<App>>,
    query: std::result::Result<Query<InfoQuery>, QueryRejection>,
) -> Result<Json<Value>> {
    let Query(query) = query.map_err(|error| Error::invalid_input(error.body_text()))?;
    let id = query.id.ok_or_else(|| Error::invalid_input("the query names no model: /models/info?id=iris"))?;
    let model = app.models.registry.get(&id, query.version.as_deref())?;
    Ok(Json(describe(&model)))
}

/// `{"model":{"id","name","version","path"},"info":{"inputs":[…],"outputs":[…]}}`, and beside `info`'s two what else the
/// host knows of the version.
pub fn describe(model: &ModelVersion) -> Value {
    let metadata = &model.info.metadata;
    let mut info = info(model);
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
    info["sha256"] = json!(model.info.sha256);
    info["size"] = json!(model.info.size);
    info["uploaded_at"] = json!(model.info.uploaded_at);
    info["labels"] = json!(model.labels.len());
    info["pipeline"] = pipeline(model);
    json!({ "model": identity(model), "info": info })
}

fn identity(model: &ModelVersion) -> Value {
    json!({ "id": model.id(), "name": model.info.name, "version": model.version(), "path": model.path })
}

fn info(model: &ModelVersion) -> Value {
    let metadata = &model.info.metadata;
    json!({
        "inputs": metadata.inputs.iter().map(describe_value).collect::<Vec<_>>(),
        "outputs": metadata.outputs.iter().map(describe_value).collect::<Vec<_>>(),
    })
}

fn pipeline(model: &ModelVersion) -> Value {
    let reference = |stage: &Option<BoundStage>| stage.as_ref().map(|stage| stage.binding.plugin().reference());
    json!({ "preprocess": reference(&model.pipeline.preprocess), "postprocess": reference(&model.pipeline.postprocess) })
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
