//! gRPC calls on the way that every request takes: what is theirs alone before their message is read, and how their errors look.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::future::Either;
use tokio::sync::OwnedSemaphorePermit;
use tower::{Layer, Service};

use super::{body, messages};
use crate::app::App;
use crate::error::{Error, ErrorCode, Result};
use crate::grpc;

/// Whether a request's headers are a gRPC call's.
pub fn is_call(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// What a call may take before it answers, and how its body comes.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Its message is small, and its answer is at hand.
    Small,
    /// Runs a model: it has its place before its message is read, and as long as a prediction's body, a version's load and the
    /// prediction may take together.
    Prediction,
    /// Loads or unloads a model, and may bring it: it has its place before its message is read, and as long as an upload may
    /// take.
    Upload,
    /// May be quiet for as long as its client is there, but not amid a message.
    Stream,
}

/// A call's place among the uploads. It goes along with the request to where its work is done, which is done to the end,
/// whether the client waits for it or has gone.
#[derive(Clone)]
pub struct UploadPlace {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Kind {
    /// The place that is held until the answer is there. That of an upload is in the request.
    fn place(self, app: &App, request: &mut Request) -> Result<Option<OwnedSemaphorePermit>> {
        match self {
            Kind::Small | Kind::Stream => Ok(None),
            Kind::Prediction => app.admit_prediction().map(Some),
            Kind::Upload => {
                let _permit = Arc::new(app.admit_upload()?);
                request.extensions_mut().insert(UploadPlace { _permit });
                Ok(None)
            }
        }
    }

    fn limit(self, app: &App) -> Option<Limit> {
        let limits = &app.config.limits;
        match self {
            Kind::Small | Kind::Stream => None,
            Kind::Prediction => {
                let (said, option) = (limits.predict_timeout, "--predict-timeout");
                Some(Limit { time: said.saturating_mul(3), what: "message", said, option })
            }
            Kind::Upload => {
                let (said, option) = (limits.upload_timeout, "--upload-timeout");
                Some(Limit { time: said, what: "model", said, option })
            }
        }
    }

    fn watch(self, request: Request, pause: Duration) -> Request {
        match self {
            Kind::Stream => messages::watch(request, pause),
            // A client that stops sending does not hold its place for ever.
            _ => body::watch_call(request, pause),
        }
    }
}

struct Limit {
    time: Duration,
    what: &'static str,
    /// The option's value.
    said: Duration,
    option: &'static str,
}

impl Limit {
    fn passed(&self) -> Error {
        let Limit { what, option, .. } = self;
        let said = humantime::format_duration(self.said);
        Error::new(ErrorCode::RequestTimeout, format!("the {what} did not come within {said} ({option})"))
    }
}

/// Around calls of one kind: [`Calling`].
#[derive(Clone)]
pub struct Calls {
    pub app: Arc<App>,
    pub kind: Kind,
}

impl<S> Layer<S> for Calls {
    type Service = Calling<S>;

    fn layer(&self, inner: S) -> Calling<S> {
        Calling { calls: self.clone(), inner }
    }
}

/// What comes to a call's path is one, has its place, and ends in time.
#[derive(Clone)]
pub struct Calling<S> {
    calls: Calls,
    inner: S,
}

impl<S> Service<Request> for Calling<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<
        Ready<std::result::Result<Response, Infallible>>,
        Pin<Box<dyn Future<Output = std::result::Result<Response, Infallible>> + Send>>,
    >;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let Calls { app, kind } = &self.calls;
        let place = match check(&mut request).and_then(|()| kind.place(app, &mut request)) {
            Ok(place) => place,
            Err(error) => return Either::Left(ready(Ok(error.into_response()))),
        };
        let answer = self.inner.call(kind.watch(request, app.config.limits.body_idle_timeout));
        let limit = kind.limit(app);
        Either::Right(Box::pin(async move {
            let _place = place;
            match limit {
                None => answer.await,
                Some(limit) => tokio::time::timeout(limit.time, answer)
                    .await
                    .unwrap_or_else(|_| Ok(limit.passed().into_response())),
            }
        }))
    }
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
