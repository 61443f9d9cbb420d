//! REST: each handler parses, calls, wraps. What is the same for all requests is here: request ids, errors, the log line.

pub mod batch;
pub mod engine;
pub mod files;
pub mod form;
pub mod health;
mod instances;
pub mod json;
pub mod linger;
pub mod models;
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

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{MatchedPath, RawPathParams, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tracing::Instrument;

use crate::app::App;
use crate::config::to_usize;
use crate::error::{Error, ErrorCode, Result};
use crate::grpc;
use crate::model::ModelVersion;
use crate::pipeline::Trace;
use crate::terms::{Priority, Terms};

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const X_PRIORITY: HeaderName = HeaderName::from_static("x-priority");
pub const X_TIMEOUT_MS: HeaderName = HeaderName::from_static("x-timeout-ms");

/// Longest request id taken from a caller, in bytes; a longer one is replaced.
const MAX_REQUEST_ID: usize = 128;

/// The caller's `X-Request-ID`, or a new UUID.
#[derive(Debug, Clone)]
pub struct RequestId(pub Arc<str>);

/// What a handler tells of a request, for its log line and its headers.
#[derive(Clone, Default)]
pub struct Observation {
    model: Arc<OnceLock<Arc<ModelVersion>>>,
    trace: Arc<OnceLock<Trace>>,
}

impl Observation {
    /// The version that the request came to.
    pub fn serves(&self, model: &Arc<ModelVersion>) {
        self.model.get_or_init(|| Arc::clone(model));
    }

    /// How the request went at the model.
    pub fn went(&self, trace: Trace) {
        self.trace.get_or_init(|| trace);
    }

    /// The version that served, `Server-Timing`, and which stages were gone around.
    fn add_headers(&self, response: &mut Response) {
        if let Some(model) = self.model.get() {
            for (name, value) in [("x-model-id", model.id()), ("x-model-version", model.version())] {
                if let Ok(value) = HeaderValue::from_str(value) {
                    response.headers_mut().insert(HeaderName::from_static(name), value);
                }
            }
        }
        let Some(trace) = self.trace.get() else { return };
        let bypassed: Vec<&str> = trace.bypassed.iter().map(|stage| stage.name()).collect();
        for (name, value) in [("server-timing", trace.server_timing()), ("x-bypassed", bypassed.join(", "))] {
            if let Ok(value) = HeaderValue::from_str(&value)
                && !value.is_empty()
            {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
    }
}

impl RequestId {
    fn of(request: &Request) -> RequestId {
        let given = request.headers().get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
        let usable =
            given.filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.bytes().all(|b| b.is_ascii_graphic()));
        RequestId(usable.map_or_else(|| uuid::Uuid::new_v4().to_string().into(), Into::into))
    }
}

/// Around every request: its id, a span that every log line inside carries it by, metrics, and the error's body.
pub async fn observe(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let id = RequestId::of(&request);
    let observation = Observation::default();
    request.extensions_mut().insert(id.clone());
    request.extensions_mut().insert(observation.clone());
    let span = tracing::info_span!("request", request_id = &*id.0);
    let mut observed = Observed {
        app,
        span: span.clone(),
        endpoint: request.extensions().get::<MatchedPath>().cloned(),
        method: known_method(request.method()),
        is_call: rpc::is_call(request.headers()),
        observation,
        started: Instant::now(),
        outcome: None,
    };
    let mut response = next.run(request).instrument(span).await;
    let extensions = response.extensions_mut();
    let error = extensions.remove::<Error>().or_else(|| grpc::error_in(extensions));
    if let Some(error) = &error {
        response = match observed.is_call {
            true => rpc::render(error, response),
            false => render_error(error, &id, response),
        };
    }
    observed.observation.add_headers(&mut response);
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    // Every answer to a call is 200; the log and the metrics tell them apart as they tell apart requests over REST.
    let status = error.as_ref().filter(|_| observed.is_call).map_or(response.status(), status_of);
    observed.outcome = Some((status, error));
    response
}

/// Methods are the client's words; only the known ones become label values.
fn known_method(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}

/// A request under way. Dropped with its outcome, or without one when the client went away: recorded either way.
struct Observed {
    app: Arc<App>,
    span: tracing::Span,
    endpoint: Option<MatchedPath>,
    method: &'static str,
    /// Over gRPC.
    is_call: bool,
    observation: Observation,
    started: Instant,
    outcome: Option<(StatusCode, Option<Error>)>,
}

/// The status that log and metrics give a request whose client went away, as nginx does.
const CLIENT_CLOSED_REQUEST: u16 = 499;

impl Drop for Observed {
    fn drop(&mut self) {
        let elapsed = self.started.elapsed();
        let endpoint = self.endpoint.as_ref().map_or("unmatched", MatchedPath::as_str);
        let method = self.method;
        let status = self.outcome.as_ref().map_or(CLIENT_CLOSED_REQUEST, |(status, _)| status.as_u16());
        self.app.metrics.http_requests.with_label_values(&[endpoint, method, &status.to_string()]).inc();
        self.app.metrics.http_request_duration.with_label_values(&[endpoint, method]).observe(elapsed.as_secs_f64());
        let _in_span = self.span.enter();
        let latency_ms = milliseconds(elapsed);
        let model = self.observation.model.get();
        let (model, version) = (model.map(|model| model.id()), model.map(|model| model.version()));
        let steps = Steps::of(self.observation.trace.get());
        macro_rules! line {
            ($level:ident, $($fields:tt)*) => {
                tracing::$level!(
                    endpoint, method, status, latency_ms, model, version,
                    fetch_ms = steps.fetch, preprocess_ms = steps.preprocess, queue_ms = steps.queue,
                    infer_ms = steps.infer, postprocess_ms = steps.postprocess, plugin_memory = steps.memory,
                    plugin_bytes = steps.bytes, $($fields)*
                )
            };
        }
        match &self.outcome {
            Some((_, None)) => line!(info, "request"),
            Some((_, Some(error))) if matches!(error.code, ErrorCode::Internal | ErrorCode::PluginFailed) => {
                line!(error, %error, "request failed");
            }
            Some((_, Some(error))) => line!(info, %error, "request refused"),
            None => line!(info, "the client went away"),
        }
    }
}

/// A trace as the log line has it: milliseconds of each step that was gone through, and what the plugins took.
#[derive(Default)]
struct Steps {
    fetch: Option<f64>,
    preprocess: Option<f64>,
    queue: Option<f64>,
    infer: Option<f64>,
    postprocess: Option<f64>,
    /// The most linear memory of an instance, in bytes.
    memory: Option<usize>,
    /// Bytes that crossed the border of an instance, both ways.
    bytes: Option<usize>,
}

impl Steps {
    fn of(trace: Option<&Trace>) -> Steps {
        let Some(trace) = trace else { return Steps::default() };
        let plugin = || trace.preprocess.iter().chain(&trace.postprocess);
        Steps {
            fetch: trace.fetching().map(milliseconds),
            preprocess: trace.preprocess.as_ref().map(|stage| milliseconds(stage.computing())),
            queue: trace.inference.map(|took| milliseconds(took.queued)),
            infer: trace.inference.map(|took| milliseconds(took.ran)),
            postprocess: trace.postprocess.as_ref().map(|stage| milliseconds(stage.computing())),
            memory: plugin().map(|stage| stage.peak_memory).max(),
            bytes: plugin().map(|stage| stage.crossed.into_plugin + stage.crossed.out_of_plugin).reduce(|a, b| a + b),
        }
    }
}

/// Microseconds are what the clock is good for; more digits only look exact.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

/// Hands the error to [`observe`], which knows the request's id.
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = status_of(&self).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

fn status_of(error: &Error) -> StatusCode {
    StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Gives a bare error answer its body. Headers that layers inside have set, CORS among them, stay.
fn render_error(error: &Error, id: &RequestId, bare: Response) -> Response {
    let body = json!({ "error": error.message, "code": error.code.name(), "request_id": &*id.0 });
    let mut headers = bare.into_parts().0.headers;
    headers.remove(header::CONTENT_LENGTH);
    let mut response = (status_of(error), headers, Json(body)).into_response();
    if let Some(seconds) = error.retry_after_seconds() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Refuses a path whose parameters are no text, before axum does so in words of its own.
pub async fn readable_path(
    parameters: std::result::Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Response {
    match parameters {
        Err(RawPathParamsRejection::InvalidUtf8InPathParam(problem)) => {
            Error::invalid_input(format!("the path {} is not readable: {}", request.uri().path(), problem.body_text()))
                .into_response()
        }
        _ => next.run(request).await,
    }
}

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

/// A handler panicked: the client reads a plain 500, and the log has the panic's message.
pub fn panicked(panic: Box<dyn std::any::Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    Error::internal(format!("a handler panicked: {}", text.unwrap_or_default())).into_response()
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
    if has_cause::<tower_http::timeout::TimeoutError>(error) {
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
