//! Answers on their way over HTTP/2: whether their client takes them.
//!
//! Over HTTP/1 an answer that is not taken stops the connection's writes, which have a time limit. Over HTTP/2 each stream has a
//! window that its client opens as it likes: with none open nothing is written, so no write ever takes too long, and the answer
//! stays in memory for as long as the client answers pings.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::response::Response;
use http_body::{Body as _, Frame, SizeHint};

/// Bytes handed over at once: so many at the most are still to be sent of what counts as taken.
const PIECE_BYTES: usize = 64 << 10;

/// Those of one connection that have not been taken to their end.
#[derive(Default)]
pub struct Answers(Mutex<Open>);

#[derive(Default)]
struct Open {
    next: u64,
    /// Since when each waits for its client; one that has nothing to give at the moment is not among them.
    waiting: HashMap<u64, Instant>,
}

impl Answers {
    /// Notes from now on whether the answer is taken.
    pub fn watch(self: &Arc<Self>, answer: Response) -> Response {
        if answer.body().is_end_stream() {
            return answer;
        }
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        open.waiting.insert(number, Instant::now());
        drop(open);
        let answers = Arc::clone(self);
        answer.map(|body| Body::new(Watched { body, rest: Bytes::new(), number, answers }))
    }

    /// Resolves once one of them has waited so long.
    pub async fn are_left(&self, limit: Duration) {
        loop {
            let waited = self.lock().waiting.values().map(Instant::elapsed).max().unwrap_or_default();
            match limit.checked_sub(waited).filter(|left| !left.is_zero()) {
                Some(left) => tokio::time::sleep(left).await,
                None => return,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing here panics half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Watched {
    body: Body,
    /// What is left of a frame that was too much at once.
    rest: Bytes,
    number: u64,
    answers: Arc<Answers>,
}

impl Watched {
    fn next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    /// Only called when the client has room for more.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let next = self.next(context);
        let mut open = self.answers.lock();
        match next.is_ready() {
            true => open.waiting.insert(self.number, Instant::now()),
            false => open.waiting.remove(&self.number),
        };
        drop(open);
        next
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.answers.lock().waiting.remove(&self.number);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures_util::StreamExt;
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn an_answer_comes_in_pieces_and_is_forgotten_at_its_end() {
        let answers = Arc::new(Answers::default());
        let body: Vec<u8> = (0..PIECE_BYTES * 2 + 10).map(|index| index as u8).collect();
        let mut watched = answers.watch(Response::new(Body::from(body.clone()))).into_body();
        assert_eq!(watched.size_hint().exact(), Some(body.len() as u64));
        let mut came = Vec::new();
        while let Some(frame) = watched.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() <= PIECE_BYTES);
            came.extend_from_slice(&data);
        }
        assert!(came == body && watched.is_end_stream());
        drop(watched);
        assert!(answers.lock().waiting.is_empty());
        answers.watch(Response::new(Body::empty()));
        assert_eq!(answers.lock().next, 1, "there is nothing to take");
    }

    #[tokio::test]
    async fn only_what_could_be_taken_counts_as_left() {
        let answers = Arc::new(Answers::default());
        let quiet =
            futures_util::stream::iter([Ok::<_, std::io::Error>("first")]).chain(futures_util::stream::pending());
        let mut quiet = answers.watch(Response::new(Body::from_stream(quiet))).into_body();
        assert_eq!(answers.lock().waiting.len(), 1);
        quiet.frame().await.unwrap().unwrap();
        assert!(futures_util::poll!(quiet.frame()).is_pending());
        assert!(answers.lock().waiting.is_empty());
        let full = answers.watch(Response::new(Body::from("answer")));
        // Ends, for this one is never asked for anything.
        answers.are_left(Duration::from_millis(1)).await;
        drop((quiet, full));
    }
}
