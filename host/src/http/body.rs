//! A request's body: how long its client may pause, and what is left of it when its request is refused.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::Sleep;

/// Time that a client has to notice the answer and to stop.
const LINGER: Duration = Duration::from_secs(5);

/// Ends a body whose client stops sending, so that it does not hold its place for ever. What is left of one that nobody reads
/// to its end is read for a while and thrown away: a client that is still sending when the connection closes may never get to
/// read the answer.
pub fn watch(request: Request, pause: Duration) -> Request {
    request.map(|body| Body::new(Watched { body, pause, timer: None, lingers: true }))
}

/// As [`watch`]; over HTTP/2, where a stream ends and its connection does not.
pub fn watch_call(request: Request, pause: Duration) -> Request {
    request.map(|body| Body::new(Watched { body, pause, timer: None, lingers: false }))
}

/// Nothing more of a body came.
#[derive(Debug)]
pub struct Paused;

impl fmt::Display for Paused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing more of the body came")
    }
}

impl std::error::Error for Paused {}

struct Watched {
    body: Body,
    pause: Duration,
    /// Begun when there is something to wait for: most bodies are there at once.
    timer: Option<Pin<Box<Sleep>>>,
    lingers: bool,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            this.timer = None;
            return Poll::Ready(frame);
        }
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(this.pause)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Some(Err(axum::Error::new(Paused))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.lingers || self.body.is_end_stream() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut rest = std::mem::take(&mut self.body);
        // It ends with the connection, of which there are so many and no more.
        runtime.spawn(tokio::time::timeout(LINGER, async move { while let Some(Ok(_)) = rest.frame().await {} }));
    }
}
