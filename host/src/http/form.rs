//! An upload's form: one file, which streams to disk and is hashed on its way, and small fields.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use axum::extract::multipart::Field;
use axum::extract::{FromRequest, Multipart, Request};
use bytes::Bytes;
use bytesize::ByteSize;
use sha2::{Digest, Sha256};
use tempfile::TempPath;
use tokio::io::AsyncWriteExt;

use super::body_error;
use crate::app::App;
use crate::digest::hex;
use crate::error::{Error, ErrorCode, Result};
use crate::store::scratch_error;

/// A field that a form may have.
#[derive(Clone, Copy)]
pub struct FieldSpec {
    pub name: &'static str,
    pub limit: ByteSize,
    /// The option that sets the limit; empty where none does.
    pub option: &'static str,
}

/// A form as it came.
pub struct Form {
    pub file: Option<UploadedFile>,
    fields: BTreeMap<&'static str, Bytes>,
}

/// A file on this machine's disk.
pub struct UploadedFile {
    /// Removed when this is dropped.
    pub path: TempPath,
    /// The name the client gave it.
    pub name: Option<String>,
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

impl FieldSpec {
    /// A short text, such as a model's name.
    pub const fn text(name: &'static str) -> FieldSpec {
        FieldSpec { name, limit: ByteSize::kib(4), option: "" }
    }
}

impl Form {
    /// Reads a form, within the time that an upload may take. A field that is not named here, or comes twice, is refused,
    /// so that what is taken is bounded.
    ///
    /// # Errors
    /// No form, an unknown field, one that is too large, or a client that is too slow.
    pub async fn read(app: &App, request: Request, file: FieldSpec, fields: &[FieldSpec]) -> Result<Form> {
        let limit = app.config.limits.upload_timeout;
        tokio::time::timeout(limit, read(app, request, file, fields)).await.map_err(|_| {
            let limit = humantime::format_duration(limit);
            Error::new(ErrorCode::RequestTimeout, format!("the upload did not come within {limit} (--upload-timeout)"))
        })?
    }

    /// A field's bytes as they came.
    pub fn bytes(&mut self, name: &str) -> Option<Bytes> {
        self.fields.remove(name)
    }

    /// A text; `None` where there is none, or an empty one.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub fn text(&mut self, name: &str) -> Result<Option<String>> {
        let Some(bytes) = self.fields.remove(name) else { return Ok(None) };
        let text = String::from_utf8(bytes.into())
            .map_err(|_| Error::invalid_input(format!("the field `{name}` is not UTF-8")))?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }
}

async fn read(app: &App, request: Request, file: FieldSpec, fields: &[FieldSpec]) -> Result<Form> {
    let mut multipart = Multipart::from_request(request, &())
        .await
        .map_err(|error| Error::invalid_input(format!("expected a multipart/form-data body: {error}")))?;
    let mut form = Form { file: None, fields: BTreeMap::new() };
    while let Some(field) = multipart.next_field().await.map_err(|error| body_error(&error))? {
        let name = field.name().unwrap_or_default().to_owned();
        let known = fields.iter().find(|spec| spec.name == name && !form.fields.contains_key(spec.name));
        if name == file.name && form.file.is_none() {
            form.file = Some(save(field, app.models.scratch(), file).await?);
        } else if let Some(spec) = known {
            form.fields.insert(spec.name, read_field(field, *spec).await?);
        } else {
            let name: String = name.chars().take(64).collect();
            let known: Vec<&str> = [file.name].into_iter().chain(fields.iter().map(|spec| spec.name)).collect();
            return Err(Error::invalid_input(format!(
                "the form's field {name:?} is unknown here or came twice; the file is `{}`, and all fields are: {}",
                file.name,
                known.join(", ")
            )));
        }
    }
    Ok(form)
}

async fn save(mut field: Field<'_>, scratch: &Path, spec: FieldSpec) -> Result<UploadedFile> {
    let name = field.file_name().map(str::to_owned);
    // As any new file, not for this user alone: it may become the store's own.
    let mode = Permissions::from_mode(0o666);
    let file = tempfile::Builder::new().prefix("upload-").permissions(mode).tempfile_in(scratch);
    let (file, path) = file.map_err(scratch_error)?.into_parts();
    let mut file = tokio::fs::File::from_std(file);
    let mut hasher = Sha256::new();
    let mut size: u64 = 0;
    while let Some(chunk) = field.chunk().await.map_err(|error| body_error(&error))? {
        size += chunk.len() as u64;
        if size > spec.limit.as_u64() {
            return Err(too_large(spec));
        }
        hasher.update(&chunk);
        file.write_all(&chunk).await.map_err(scratch_error)?;
    }
    file.flush().await.map_err(scratch_error)?;
    Ok(UploadedFile { path, name, sha256: hex(&hasher.finalize()), size })
}

async fn read_field(mut field: Field<'_>, spec: FieldSpec) -> Result<Bytes> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(|error| body_error(&error))? {
        if (bytes.len() + chunk.len()) as u64 > spec.limit.as_u64() {
            return Err(too_large(spec));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.into())
}

fn too_large(spec: FieldSpec) -> Error {
    let FieldSpec { name, limit, option } = spec;
    let option = if option.is_empty() { String::new() } else { format!(" ({option})") };
    Error::new(ErrorCode::TooLarge, format!("the form's `{name}` is larger than {limit}{option}"))
}
