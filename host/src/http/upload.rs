//! `POST /models/upload` and `POST /upload`: a model comes in, and serves.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use bytesize::ByteSize;
use serde_json::{Value, json};

use super::form::{DataSpec, FieldSpec, Form, FormSpec, UploadedFile};
use super::models::describe;
use super::pipeline::read_pipeline;
use super::to_the_end;
use crate::app::App;
use crate::error::{Error, Result};
use crate::model::{CameAs, NewModel, path_in_folder};

/// Of a pipeline's JSON; a plugin's configuration may carry tables.
pub const MAX_PIPELINE: ByteSize = ByteSize::mib(1);

/// `file`, `id`, `name`, `version`, optional `data` (any number), `labels` and `pipeline` → 201 with the model and what it takes.
pub async fn upload_model(State(app): State<Arc<App>>, request: Request) -> Result<(StatusCode, Json<Value>)> {
    let permit = app.admit_upload()?;
    let pipeline = FieldSpec { name: "pipeline", limit: MAX_PIPELINE, option: "" };
    let fields = [FieldSpec::text("id"), FieldSpec::text("name"), FieldSpec::text("version"), labels(&app), pipeline];
    let spec = FormSpec { file: model_file(&app, "file"), data: Some(data(&app)), fields: &fields };
    let mut form = Form::read(&app, request, spec).await?;
    let mut text = |name: &str| {
        form.text(name)?.ok_or_else(|| {
            Error::invalid_input(format!("the form misses its field `{name}`; it takes file, id, name, version"))
        })
    };
    let (id, name, version) = (text("id")?, text("name")?, text("version")?);
    let pipeline = form.bytes("pipeline").map(|json| read_pipeline(&json)).transpose()?;
    let labels = form.bytes("labels");
    let file = form.file.ok_or_else(|| {
        Error::invalid_input("the form misses its file `file`, the ONNX model; it takes file, id, name, version")
    })?;
    let data = form.data;
    let models = app.models.clone();
    let model = to_the_end(async move {
        let _permit = permit;
        let files = models.take_files(came_as(file, data)?).await?;
        models.add(&NewModel { id, name, version, files, labels, pipeline }).await
    });
    let model = model.await?;
    let known = app.models.registry.find(model.id(), Some(model.version()))?;
    Ok((StatusCode::CREATED, Json(describe(&app, &known))))
}

/// `model` and optional `labels`: an image classifier, the default one from now on.
pub async fn upload_image_model(State(app): State<Arc<App>>, request: Request) -> Result<Json<Value>> {
    let permit = app.admit_upload()?;
    let spec = FormSpec { file: model_file(&app, "model"), data: Some(data(&app)), fields: &[labels(&app)] };
    let mut form = Form::read(&app, request, spec).await?;
    let labels = form.bytes("labels");
    let file = form.file.ok_or_else(|| {
        Error::invalid_input("the form misses its file `model`, an ONNX image classifier; it takes model and labels")
    })?;
    let name = file.name.clone().unwrap_or_else(|| "image-model.onnx".to_owned());
    let has_labels = labels.is_some();
    let (data, id, version) = (form.data, id_from_file_name(&name), String::new());
    let models = app.models.clone();
    let model = to_the_end(async move {
        let _permit = permit;
        let files = models.take_files(came_as(file, data)?).await?;
        models.add_image_model(NewModel { id, name, version, files, labels, pipeline: None }).await
    });
    let model = model.await?;
    let labels = has_labels.then(|| model.path.strip_suffix("model.onnx").map(|folder| format!("{folder}labels.json")));
    Ok(Json(json!({
        "status": "success",
        "model": model.path,
        "labels": labels,
        "model_id": model.id(),
        "version": model.version(),
    })))
}

fn model_file(app: &App, name: &'static str) -> FieldSpec {
    FieldSpec { name, limit: app.config.limits.max_upload_bytes, option: "--max-upload-bytes" }
}

/// Files that the model keeps weights in, under the names that it has for them.
fn data(app: &App) -> DataSpec {
    let most = app.config.limits.max_model_files as usize;
    DataSpec { name: "data", most, option: "--max-model-files" }
}

fn came_as(file: UploadedFile, data: Vec<UploadedFile>) -> Result<CameAs> {
    let mut named = BTreeMap::new();
    for part in data {
        let name = part.name.unwrap_or_default();
        let path = path_in_folder(&name)
            .map_err(|problem| Error::invalid_input(format!("a part `data` has the file name {name:?}: {problem}")))?;
        if named.insert(path, part.file).is_some() {
            return Err(Error::invalid_input(format!("two parts `data` have the file name {name:?}")));
        }
    }
    Ok(CameAs { file: file.file, data: named })
}

fn labels(app: &App) -> FieldSpec {
    FieldSpec { name: "labels", limit: app.config.limits.max_labels_bytes, option: "--max-labels-bytes" }
}

/// The file's name without its extension, made into an id.
fn id_from_file_name(name: &str) -> String {
    let stem = Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let id: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).collect();
    let id: String = id.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()).chars().take(128).collect();
    if id.is_empty() { "image-model".to_owned() } else { id }
}

#[cfg(test)]
mod tests {
    use super::id_from_file_name;

    #[test]
    fn a_file_name_becomes_an_id() {
        assert_eq!(id_from_file_name("efficientnet-lite4-11-int8.onnx"), "efficientnet-lite4-11-int8");
        assert_eq!(id_from_file_name("../../etc/pass wd.onnx"), "pass-wd");
        assert_eq!(id_from_file_name(".onnx"), "onnx");
        assert_eq!(id_from_file_name("模型.onnx"), "image-model");
    }
}
