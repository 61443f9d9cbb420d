//! `POST /models/upload` and `POST /upload`: a model file streams to disk, hashed on its way.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::extract::multipart::Field;
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::StatusCode;
use bytes::Bytes;
use bytesize::ByteSize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempPath;
use tokio::io::AsyncWriteExt;

use super::body_error;
use super::models::describe;
use crate::app::App;
use crate::digest::hex;
use crate::error::{Error, ErrorCode, Result};
use crate::model::NewModel;

/// Length of a text field such as a model's name.
const MAX_TEXT: ByteSize = ByteSize::kib(4);

/// A form as it came: one model file, labels, and text fields.
struct UploadForm {
    file: Option<UploadedFile>,
    labels: Option<Bytes>,
    texts: BTreeMap<String, String>,
}

struct UploadedFile {
    path: TempPath,
    /// The name the client gave it.
    name: Option<String>,
    sha256: String,
    size: u64,
}

/// `file`, `id`, `name`, `version` and optional `labels` → 201 with the model and what it takes.
pub async fn upload_model(State(app): State<Arc<App>>, request: Request) -> Result<(StatusCode, Json<Value>)> {
    let _permit = app.admit_upload()?;
    let mut form = read_form_in_time(&app, request, "file", &["id", "name", "version"]).await?;
    let mut text = |name: &str| {
        let text = form.texts.remove(name).filter(|text| !text.is_empty());
        text.ok_or_else(|| {
            Error::invalid_input(format!("the form misses its field `{name}`; it takes file, id, name, version"))
        })
    };
    let (id, name, version) = (text("id")?, text("name")?, text("version")?);
    let file = form.file.ok_or_else(|| {
        Error::invalid_input("the form misses its file `file`, the ONNX model; it takes file, id, name, version")
    })?;
    let new =
        NewModel { id, name, version, file: file.path, sha256: file.sha256, size: file.size, labels: form.labels };
    let model = app.models.add(new).await?;
    Ok((StatusCode::CREATED, Json(describe(&model))))
}

/// `model` and optional `labels`: an image classifier, the default one from now on.
pub async fn upload_image_model(State(app): State<Arc<App>>, request: Request) -> Result<Json<Value>> {
    let _permit = app.admit_upload()?;
    let form = read_form_in_time(&app, request, "model", &[]).await?;
    let file = form.file.ok_or_else(|| {
        Error::invalid_input("the form misses its file `model`, an ONNX image classifier; it takes model and labels")
    })?;
    let name = file.name.clone().unwrap_or_else(|| "image-model.onnx".to_owned());
    let has_labels = form.labels.is_some();
    let new = NewModel {
        id: id_from_file_name(&name),
        name,
        version: String::new(),
        file: file.path,
        sha256: file.sha256,
        size: file.size,
        labels: form.labels,
    };
    let model = app.models.add_image_model(new).await?;
    let labels = has_labels.then(|| model.path.strip_suffix("model.onnx").map(|folder| format!("{folder}labels.json")));
    Ok(Json(json!({
        "status": "success",
        "model": model.path,
        "labels": labels,
        "model_id": model.id(),
        "version": model.version(),
    })))
}

/// The file's name without its extension, made into an id.
fn id_from_file_name(name: &str) -> String {
    let stem = Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let id: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).collect();
    let id: String = id.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()).chars().take(128).collect();
    if id.is_empty() { "image-model".to_owned() } else { id }
}

/// Reads a form of one file, labels and the text fields of `texts`; any other field, or one that comes twice, is refused,
/// so that what is taken is bounded.
async fn read_form(app: &App, request: Request, file_field: &str, texts: &[&str]) -> Result<UploadForm> {
    let limits = &app.config.limits;
    let mut multipart = Multipart::from_request(request, &())
        .await
        .map_err(|error| Error::invalid_input(format!("expected a multipart/form-data body: {error}")))?;
    let mut form = UploadForm { file: None, labels: None, texts: BTreeMap::new() };
    while let Some(field) = multipart.next_field().await.map_err(|error| body_error(&error))? {
        let name = field.name().unwrap_or_default().to_owned();
        if name == file_field && form.file.is_none() {
            form.file = Some(save(field, app.models.scratch(), limits.max_upload_bytes).await?);
        } else if name == "labels" && form.labels.is_none() {
            let limit = limits.max_labels_bytes;
            form.labels = Some(read_field(field, limit, "the label file", " (--max-labels-bytes)").await?);
        } else if texts.contains(&name.as_str()) && !form.texts.contains_key(&name) {
            let bytes = read_field(field, MAX_TEXT, &format!("the field `{name}`"), "").await?;
            let text = String::from_utf8(bytes.into())
                .map_err(|_| Error::invalid_input(format!("the field `{name}` is not UTF-8")))?;
            form.texts.insert(name, text);
        } else {
            let name: String = name.chars().take(64).collect();
            let fields: Vec<&str> = [file_field, "labels"].into_iter().chain(texts.iter().copied()).collect();
            return Err(Error::invalid_input(format!(
                "the form's field {name:?} is unknown here or came twice; the file is `{file_field}`, and all fields are: {}",
                fields.join(", ")
            )));
        }
    }
    Ok(form)
}

/// The form, within the time that an upload may take.
async fn read_form_in_time(app: &App, request: Request, file_field: &str, texts: &[&str]) -> Result<UploadForm> {
    let limit = app.config.limits.upload_timeout;
    tokio::time::timeout(limit, read_form(app, request, file_field, texts)).await.map_err(|_| {
        let limit = humantime::format_duration(limit);
        Error::new(ErrorCode::RequestTimeout, format!("the upload did not come within {limit} (--upload-timeout)"))
    })?
}

async fn save(mut field: Field<'_>, scratch: &Path, limit: ByteSize) -> Result<UploadedFile> {
    let name = field.file_name().map(str::to_owned);
    // As any new file, not for this user alone: it may become the store's own.
    let mode = Permissions::from_mode(0o666);
    let file = tempfile::Builder::new().prefix("upload-").permissions(mode).tempfile_in(scratch);
    let (file, path) = file.map_err(Error::internal)?.into_parts();
    let mut file = tokio::fs::File::from_std(file);
    let mut hasher = Sha256::new();
    let mut size: u64 = 0;
    while let Some(chunk) = field.chunk().await.map_err(|error| body_error(&error))? {
        size += chunk.len() as u64;
        if size > limit.as_u64() {
            return Err(too_large("the model", limit, " (--max-upload-bytes)"));
        }
        hasher.update(&chunk);
        file.write_all(&chunk).await.map_err(Error::internal)?;
    }
    file.flush().await.map_err(Error::internal)?;
    Ok(UploadedFile { path, name, sha256: hex(&hasher.finalize()), size })
}

async fn read_field(mut field: Field<'_>, limit: ByteSize, what: &str, option: &str) -> Result<Bytes> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(|error| body_error(&error))? {
        if (bytes.len() + chunk.len()) as u64 > limit.as_u64() {
            return Err(too_large(what, limit, option));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.into())
}

fn too_large(what: &str, limit: ByteSize, option: &str) -> Error {
    Error::new(ErrorCode::TooLarge, format!("{what} is larger than {limit}{option}"))
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
