//! REST: each handler parses, calls, wraps. What several of them read a request by is here.

pub mod answers;
pub mod batch;
pub mod body;
pub mod engine;
pub mod files;
pub mod form;
pub mod health;
mod instances;
pub mod json;
pub mod layers;
mod messages;
pub mod models;
pub mod observe;
pub mod oip;
pub mod openapi;
pub mod pipeline;
pub mod plugins;
pub mod predict;
pub mod rpc;
pub mod traffic;
pub mod ui;
pub mod upload;
pub mod versions;

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use tracing::Instrument;

pub use self::observe::{Observation, RequestId};
use crate::app::App;
use crate::config::to_usize;
use crate::error::{Error, ErrorCode, Result};
use crate::terms::{Priority, Terms};

/// Bytes of JSON before the tensors that follow it as bytes; 0: all is the one input's data.
pub const INFERENCE_HEADER_CONTENT_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const X_PRIORITY: HeaderName = HeaderName::from_static("x-priority");
pub const X_TIMEOUT_MS: HeaderName = HeaderName::from_static("x-timeout-ms");

/// No such path.
pub async fn not_found(request: Request) -> Error {
    if rpc::is_call(request.headers()) {
        return rpc::unknown(request.uri().path());
    }
    Error::not_found(format!("there is nothing at {}; see the README for what there is", request.uri().path()))
}

/// The path is there, the method is not.
pub async fn method_not_allowed(request: Request) -> Error {
    let message = format!("{} is not offered at {}", request.method(), request.uri().path());
    Error::new(ErrorCode::MethodNotAllowed, message)
}

/// The whole body, up to a limit in bytes.
///
/// # Errors
/// The body is larger, or the client stopped sending.
pub async fn read_body(body: axum::body::Body, limit: usize, option: &str) -> Result<bytes::Bytes> {
    axum::body::to_bytes(body, limit).await.map_err(|error| {
        if has_cause::<http_body_util::LengthLimitError>(&error) {
            Error::new(ErrorCode::TooLarge, format!("the body is larger than {limit} bytes ({option})"))
        } else {
            body_error(&error)
        }
    })
}

/// The body of a prediction, in the time and of the size that one may have.
///
/// # Errors
/// As [`read_body`], or the client was too slow.
pub async fn prediction_body(app: &App, body: axum::body::Body) -> Result<bytes::Bytes> {
    let limits = &app.config.limits;
    let body = read_body(body, to_usize(limits.max_body_bytes), "--max-body-bytes");
    tokio::time::timeout(limits.predict_timeout, body).await.map_err(|_| {
        let limit = humantime::format_duration(limits.predict_timeout);
        Error::new(ErrorCode::RequestTimeout, format!("the body did not come within {limit} (--predict-timeout)"))
    })?
}

/// A body that did not come to its end.
pub fn body_error(error: &(dyn std::error::Error + 'static)) -> Error {
    if has_cause::<body::Paused>(error) {
        return Error::new(
            ErrorCode::RequestTimeout,
            "nothing more of the body came for as long as a client may pause (--body-idle-timeout)",
        );
    }
    let causes: Vec<String> =
        std::iter::successors(Some(error), |&error| error.source()).map(ToString::to_string).collect();
    Error::invalid_input(format!("the body is not readable: {}", causes.join(": ")))
}

fn has_cause<T: std::error::Error + 'static>(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |&error| error.source()).any(|cause| cause.is::<T>())
}

/// Does work to its end, even when the client goes away: what is published half-way must not stay so.
///
/// # Errors
/// The work's own.
pub async fn to_the_end<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work.in_current_span()).await.map_err(Error::internal)?
}

/// On what terms a request wants to be served: `Cache-Control: no-cache` (or `no-store`) goes round the cache, `X-Priority`
/// is `high` or `normal`, `X-Timeout-Ms` is the time its client waits.
///
/// # Errors
/// A header that is none of these.
pub fn terms(app: &App, headers: &HeaderMap) -> Result<Terms> {
    let mut terms = Terms::within(app.config.limits.predict_timeout);
    let cache_control = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    terms.use_cache = !cache_control.flat_map(|value| value.split(',')).any(|part| {
        let part = part.trim();
        part.eq_ignore_ascii_case("no-cache") || part.eq_ignore_ascii_case("no-store")
    });
    if let Some(priority) = headers.get(X_PRIORITY) {
        terms.priority = Priority::parse(priority.to_str().unwrap_or_default())?;
    }
    if let Some(timeout) = headers.get(X_TIMEOUT_MS) {
        let milliseconds = timeout.to_str().ok().and_then(|timeout| timeout.trim().parse().ok());
        let milliseconds = milliseconds.ok_or_else(|| {
            Error::invalid_input(format!("X-Timeout-Ms is a whole number of milliseconds; {timeout:?} came"))
        })?;
        terms.hurry(Duration::from_millis(milliseconds));
    }
    Ok(terms)
}

/// Marks answers that were in memory.
pub fn cache_header(cached: bool) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static("x-cache"), HeaderValue::from_static(if cached { "hit" } else { "miss" }))
}
