//! What is the same for all requests: ids, the span and the log line, metrics, how an error looks, and a panic.

use std::any::Any;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use serde_json::json;
use tower::{Layer, Service};
use tracing::Instrument;

use super::answers::Answers;
use super::{X_REQUEST_ID, rpc};
use crate::app::App;
use crate::error::{Error, ErrorCode};
use crate::grpc;
use crate::model::ModelVersion;
use crate::pipeline::Trace;

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

/// Around all routes: [`Observing`].
#[derive(Clone)]
pub struct Observe(pub Arc<App>);

impl<S> Layer<S> for Observe {
    type Service = Observing<S>;

    fn layer(&self, inner: S) -> Observing<S> {
        Observing { app: self.0.clone(), inner }
    }
}

/// Gives every request its id, a span that every log line inside carries it by, metrics, and an error its body. What panics
/// inside answers 500.
///
/// A service of its own, and those in [`super::layers`] too, since `axum::middleware::from_fn` costs every request a copy of
/// all that it is around.
#[derive(Clone)]
pub struct Observing<S> {
    app: Arc<App>,
    inner: S,
}

impl<S> Service<Request> for Observing<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let (id, observed) = Observed::begin(&self.app, &mut request);
        let answer = observed.span.in_scope(|| self.inner.call(request));
        Box::pin(async move {
            let answer = AssertUnwindSafe(answer.instrument(observed.span.clone())).catch_unwind().await;
            let response = match answer {
                Ok(Ok(response)) => response,
                Err(panic) => panicked(panic.as_ref()).into_response(),
            };
            Ok(observed.end(&id, response))
        })
    }
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
    /// Of the connection, where it is one of HTTP/2.
    answers: Option<Arc<Answers>>,
    started: Instant,
    outcome: Option<(StatusCode, Option<Error>)>,
}

impl Observed {
    /// The request gets its id, and what its handler tells about it.
    fn begin(app: &Arc<App>, request: &mut Request) -> (RequestId, Observed) {
        let id = RequestId::of(request);
        let observation = Observation::default();
        let observed = Observed {
            app: app.clone(),
            span: tracing::info_span!("request", request_id = &*id.0),
            endpoint: request.extensions().get::<MatchedPath>().cloned(),
            method: known_method(request.method()),
            is_call: rpc::is_call(request.headers()),
            observation: observation.clone(),
            answers: request.extensions_mut().remove().filter(|_| !grpc::OPEN.contains(&request.uri().path())),
            started: Instant::now(),
            outcome: None,
        };
        request.extensions_mut().insert(id.clone());
        request.extensions_mut().insert(observation);
        (id, observed)
    }

    /// The answer as it goes out.
    fn end(mut self, id: &RequestId, mut response: Response) -> Response {
        let extensions = response.extensions_mut();
        let error = extensions.remove::<Error>().or_else(|| grpc::error_in(extensions));
        if let Some(error) = &error {
            response = match self.is_call {
                true => rpc::render(error, response),
                false => render_error(error, id, response),
            };
        }
        self.observation.add_headers(&mut response);
        if let Ok(value) = HeaderValue::from_str(&id.0) {
            response.headers_mut().insert(X_REQUEST_ID, value);
        }
        // Every answer to a call is 200; the log and the metrics tell them apart as they tell apart requests over REST.
        let status = error.as_ref().filter(|_| self.is_call).map_or(response.status(), status_of);
        self.outcome = Some((status, error));
        match &self.answers {
            Some(answers) => answers.watch(response),
            None => response,
        }
    }
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

/// Hands the error to [`Observing`], which knows the request's id.
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

/// A handler panicked: the client reads a plain 500, and the log has the panic's message.
fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    Error::internal(format!("a handler panicked: {}", text.unwrap_or_default()))
}
