//! `GET /models/{id}/versions/{version}/files`: the files that a version is made of, and each of them.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use crate::app::App;
use crate::error::Result;
use crate::model::Entry;

/// `{"files":[{"path","size","sha256"}]}`, paths relative to the version's folder.
pub async fn list(State(app): State<Arc<App>>, Path(entry): Path<(String, String)>) -> Result<Json<Value>> {
    let files = app.models.files(&Entry::from(entry)).await?;
    Ok(Json(json!({ "files": files })))
}

/// The bytes of a file that the listing has; its `ETag` is the sha256.
pub async fn download(
    State(app): State<Arc<App>>,
    Path((id, version, path)): Path<(String, String, String)>,
) -> Result<impl IntoResponse> {
    let (file, (size, content)) = app.models.open_file(&Entry { id, version }, &path).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, size.to_string()),
        (header::ETAG, format!("\"{}\"", file.sha256)),
    ];
    Ok((headers, Body::from_stream(content)))
}
