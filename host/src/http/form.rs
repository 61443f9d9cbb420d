//! An upload's form: files, which stream to disk and are hashed on their way, and small fields.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::extract::multipart::Field;
use axum::extract::{FromRequest, Multipart, Request};
use bytes::Bytes;
use bytesize::ByteSize;
use futures_util::StreamExt;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::body_error;
use crate::app::App;
use crate::digest::hex;
use crate::error::{Error, ErrorCode, Result};
use crate::staging::{self, StagedFile};
use crate::store::scratch_error;

/// Bytes that may come before the next part of a form begins: its head, and what the network brings along.
const HEAD_BYTES: u64 = 4 << 20;

/// A field that a form may have.
#[derive(Clone, Copy)]
pub struct FieldSpec {
    pub name: &'static str,
    pub limit: ByteSize,
    /// The option that sets the limit; empty where none does.
    pub option: &'static str,
}

/// What a form may have.
#[derive(Clone, Copy)]
pub struct FormSpec<'f> {
    pub file: FieldSpec,
    /// Files beside it, which share its limit, where there may be any.
    pub data: Option<DataSpec>,
    pub fields: &'f [FieldSpec],
}

/// Files of which a form may have many.
#[derive(Clone, Copy)]
pub struct DataSpec {
    pub name: &'static str,
    pub most: usize,
    /// The option that says how many.
    pub option: &'static str,
}

/// A form as it came.
pub struct Form {
    pub file: Option<UploadedFile>,
    pub data: Vec<UploadedFile>,
    fields: BTreeMap<&'static str, Bytes>,
}

/// A file, and what the client calls it.
pub struct UploadedFile {
    pub name: Option<String>,
    pub file: StagedFile,
}

impl FieldSpec {
    /// A short text, such as a model's name.
    pub const fn text(name: &'static str) -> FieldSpec {
        FieldSpec { name, limit: ByteSize::kib(4), option: "" }
    }
}

impl Form {
    /// Reads a form, within the time that an upload may take.
    ///
    /// # Errors
    /// As [`Form::from_request`], and a client that is too slow.
    pub async fn read(app: &App, request: Request, spec: FormSpec<'_>) -> Result<Form> {
        let limit = app.config.limits.upload_timeout;
        tokio::time::timeout(limit, Form::from_request(request, app.models.scratch(), spec)).await.map_err(|_| {
            let limit = humantime::format_duration(limit);
            Error::new(ErrorCode::RequestTimeout, format!("the upload did not come within {limit} (--upload-timeout)"))
        })?
    }

    /// Reads a form, its files into `scratch`. A field that is not named here, or comes twice, is refused, so that what
    /// is taken is bounded.
    ///
    /// # Errors
    /// No form, an unknown field, or one that is too large.
    pub async fn from_request(request: Request, scratch: &Path, spec: FormSpec<'_>) -> Result<Form> {
        let left = Arc::new(AtomicU64::new(HEAD_BYTES));
        let mut multipart = Multipart::from_request(gated(request, left.clone()), &())
            .await
            .map_err(|error| Error::invalid_input(format!("expected a multipart/form-data body: {error}")))?;
        let mut form = Form { file: None, data: Vec::new(), fields: BTreeMap::new() };
        // For all files together.
        let mut room = spec.file.limit.as_u64();
        while let Some(field) = multipart.next_field().await.map_err(|error| body_error(&error))? {
            left.store(u64::MAX, Ordering::Relaxed);
            form.take(field, scratch, spec, &mut room).await?;
            left.store(HEAD_BYTES, Ordering::Relaxed);
        }
        Ok(form)
    }

    async fn take(&mut self, field: Field<'_>, scratch: &Path, spec: FormSpec<'_>, room: &mut u64) -> Result<()> {
        let name = field.name().unwrap_or_default().to_owned();
        let known = spec.fields.iter().find(|known| known.name == name && !self.fields.contains_key(known.name));
        if name == spec.file.name && self.file.is_none() {
            self.file = Some(save(field, scratch, spec.file, room).await?);
        } else if let Some(data) = spec.data.filter(|data| data.name == name) {
            if self.data.len() == data.most {
                let DataSpec { name, most, option } = data;
                let message = format!("the form has more than {most} parts `{name}` ({option})");
                return Err(Error::new(ErrorCode::TooLarge, message));
            }
            self.data.push(save(field, scratch, spec.file, room).await?);
        } else if let Some(known) = known {
            self.fields.insert(known.name, read_field(field, *known).await?);
        } else {
            return Err(unknown(&name, spec));
        }
        Ok(())
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

/// The form's parser keeps what comes until it has a part's head whole. This ends the body where that gets too much.
fn gated(request: Request, left: Arc<AtomicU64>) -> Request {
    let (parts, body) = request.into_parts();
    let body = body.into_data_stream().map(move |chunk| {
        let chunk = chunk?;
        let bytes = chunk.len() as u64;
        let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| match left {
            u64::MAX => Some(u64::MAX),
            left => left.checked_sub(bytes),
        });
        let limit = ByteSize(HEAD_BYTES);
        taken.map(|_| chunk).map_err(|_| axum::Error::new(format!("the head of a part is larger than {limit}")))
    });
    Request::from_parts(parts, Body::from_stream(body))
}

fn unknown(name: &str, spec: FormSpec<'_>) -> Error {
    let name: String = name.chars().take(64).collect();
    let data = spec.data.map(|data| data.name);
    let known = [spec.file.name].into_iter().chain(data).chain(spec.fields.iter().map(|spec| spec.name));
    let known: Vec<&str> = known.collect();
    Error::invalid_input(format!(
        "the form's field {name:?} is unknown here or came twice; the file is `{}`, and all fields are: {}",
        spec.file.name,
        known.join(", ")
    ))
}

async fn save(mut field: Field<'_>, scratch: &Path, spec: FieldSpec, room: &mut u64) -> Result<UploadedFile> {
    let name = field.file_name().map(str::to_owned);
    let (file, path) = staging::create(scratch).map_err(scratch_error)?;
    let mut file = tokio::fs::File::from_std(file);
    let (mut hasher, mut size) = (Sha256::new(), 0);
    while let Some(chunk) = field.chunk().await.map_err(|error| body_error(&error))? {
        *room = room.checked_sub(chunk.len() as u64).ok_or_else(|| too_large(spec))?;
        size += chunk.len() as u64;
        hasher.update(&chunk);
        file.write_all(&chunk).await.map_err(scratch_error)?;
    }
    file.flush().await.map_err(scratch_error)?;
    Ok(UploadedFile { name, file: StagedFile { path, sha256: hex(&hasher.finalize()), size } })
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
