//! gRPC calls on the way that every request takes: what is theirs alone before their message is read, and how their errors look.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;

use super::messages;
use crate::app::App;
use crate::error::{Error, ErrorCode, Result};
use crate::grpc;

/// Whether a request's headers are a gRPC call's.
pub fn is_call(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Around each call: what comes to its path is one.
pub async fn call(mut request: Request, next: Next) -> Result<Response> {
    check(&mut request)?;
    Ok(next.run(request).await)
}

/// Around calls that run a model: one has its place before its message is read, and as long as a prediction's body, a
/// version's load and the prediction may take together.
pub async fn prediction(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Result<Response> {
    check(&mut request)?;
    let _permit = app.admit_prediction()?;
    let limit = app.config.limits.predict_timeout.saturating_mul(3);
    tokio::time::timeout(limit, next.run(request)).await.map_err(|_| {
        let limit = humantime::format_duration(app.config.limits.predict_timeout);
        Error::new(ErrorCode::RequestTimeout, format!("the message did not come within {limit} (--predict-timeout)"))
    })
}

/// Around streams of calls: one may be quiet for as long as its client is there, but not amid a message.
pub async fn stream(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Result<Response> {
    check(&mut request)?;
    Ok(next.run(messages::watch(request, app.config.limits.body_idle_timeout)).await)
}

/// Around calls that may bring a model: one has its place before its message is read, and as long as an upload may take.
pub async fn upload(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Result<Response> {
    check(&mut request)?;
    let _permit = app.admit_upload()?;
    let limit = app.config.limits.upload_timeout;
    tokio::time::timeout(limit, next.run(request)).await.map_err(|_| {
        let limit = humantime::format_duration(limit);
        Error::new(ErrorCode::RequestTimeout, format!("the model did not come within {limit} (--upload-timeout)"))
    })
}

fn check(request: &mut Request) -> Result<()> {
    if is_call(request.headers()) {
        if !is_compressed(request.headers()) {
            // tonic compresses every answer that its client takes so, and on the async threads; clients in C++ and Python take
            // all of them so, without being asked for it.
            request.headers_mut().remove("grpc-accept-encoding");
        }
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "{} is a gRPC call, of content-type application/grpc over HTTP/2; the same over REST is under /v2",
        request.uri().path()
    )))
}

fn is_compressed(headers: &HeaderMap) -> bool {
    headers.get("grpc-encoding").is_some_and(|encoding| encoding.as_bytes() != b"identity")
}

/// No such call.
pub fn unknown(path: &str) -> Error {
    let path: String = path.chars().take(256).collect();
    Error::new(ErrorCode::Unsupported, format!("there is no call {path}; reflection tells which there are"))
}

/// An error as a call's answer. Headers that layers inside have set stay.
pub(super) fn render(error: &Error, bare: Response) -> Response {
    let mut headers = bare.into_parts().0.headers;
    headers.remove(header::CONTENT_LENGTH);
    let mut response = grpc::render::<Body>(error);
    // What was rendered before is replaced by the same.
    for name in ["grpc-status", "grpc-message", "retry-after"] {
        headers.remove(name);
    }
    headers.remove(header::CONTENT_TYPE);
    response.headers_mut().extend(headers);
    response
}
