//! `/plugins`: components come in, are listed, and go.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::form::{FieldSpec, Form, FormSpec};
use super::to_the_end;
use crate::app::App;
use crate::error::{Error, Result};
use crate::plugin::{Grants, KnownPlugin, NewPlugin, PluginInfo};

#[derive(Deserialize)]
pub struct PluginQuery {
    name: Option<String>,
    version: Option<String>,
}

/// `file`, the component, and optional `grants` → 201 with what the plugin says of itself.
pub async fn upload(State(app): State<Arc<App>>, request: Request) -> Result<(StatusCode, Json<Value>)> {
    let permit = app.admit_upload()?;
    let limit = app.config.plugin.max_plugin_bytes;
    let file = FieldSpec { name: "file", limit, option: "--max-plugin-bytes" };
    let spec = FormSpec { file, data: None, fields: &[FieldSpec::text("grants")] };
    let mut form = Form::read(&app, request, spec).await?;
    let grants = form.bytes("grants").map(|json| Grants::parse(&json)).transpose()?.unwrap_or_default();
    let file = form.file.ok_or_else(|| {
        Error::invalid_input("the form misses its file `file`, a WebAssembly component; it takes file and grants")
    })?;
    let plugins = app.plugins.clone();
    let plugin = to_the_end(async move {
        let _permit = permit;
        plugins.add(NewPlugin { file: file.file.path, grants }).await
    });
    let plugin = plugin.await?;
    Ok((StatusCode::CREATED, Json(json!({ "plugin": describe(&plugin) }))))
}

pub async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let plugins: Vec<Value> = app.plugins.list().iter().map(|plugin| describe(plugin)).collect();
    Json(json!({ "plugins": plugins }))
}

/// The version named, or the newest, and the models it is bound to.
pub async fn show(
    State(app): State<Arc<App>>,
    query: std::result::Result<Query<PluginQuery>, QueryRejection>,
) -> Result<Json<Value>> {
    let (name, version) = named(query)?;
    let known = app.plugins.find(&name, version.as_deref())?;
    let bound = app.models.bound_to(&known.reference());
    let bound = bound.iter().flat_map(|(model, stages)| {
        let stages = model.pipeline.stages().filter(|(name, _)| stages.contains(name));
        stages.map(|(name, stage)| {
            let why = stage.binding.no_snapshot();
            json!({
                "model": model.id(),
                "version": model.version(),
                "stage": name.name(),
                "init": if why.is_none() { "snapshot" } else { "each instance" },
                "no_snapshot": why,
            })
        })
    });
    let bound: Vec<Value> = bound.collect();
    Ok(Json(json!({ "plugin": describe(&known), "bound_to": bound })))
}

/// Removes a version that no model is bound to.
pub async fn remove(
    State(app): State<Arc<App>>,
    query: std::result::Result<Query<PluginQuery>, QueryRejection>,
) -> Result<Json<Value>> {
    let (name, version) = named(query)?;
    let version = version.ok_or_else(|| {
        Error::invalid_input("the query names no version: DELETE /plugins?name=tabular&version=0.1.0")
    })?;
    let reference = format!("{name}@{version}");
    let removed = json!({ "status": "removed", "name": name, "version": version });
    let models = app.models.clone();
    to_the_end(async move { models.remove_plugin(&name, &version).await }).await?;
    app.metrics.forget_plugin(&reference);
    Ok(Json(removed))
}

fn named(query: std::result::Result<Query<PluginQuery>, QueryRejection>) -> Result<(String, Option<String>)> {
    let Query(query) = query.map_err(|error| Error::invalid_input(error.body_text()))?;
    let name = query.name.ok_or_else(|| Error::invalid_input("the query names no plugin: ?name=image-classifier"))?;
    Ok((name, query.version))
}

fn describe(known: &KnownPlugin) -> Value {
    let PluginInfo { manifest, sha256, size, contract, uploaded_at, grants, no_snapshot } = &known.info;
    // Checked when the plugin came; an empty one is none.
    let schema: Value = serde_json::from_str(&manifest.config_schema).unwrap_or_default();
    json!({
        "name": manifest.name,
        "version": manifest.version,
        "sha256": sha256,
        "size": size,
        "contract": contract,
        "uploaded_at": uploaded_at,
        "stages": manifest.stages,
        "hosts": manifest.hosts,
        "grants": grants,
        "snapshot": no_snapshot.is_none(),
        "no_snapshot": no_snapshot,
        "config_schema": schema,
    })
}
