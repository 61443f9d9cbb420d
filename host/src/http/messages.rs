//! The body of a stream of calls: its client may be quiet between two messages for as long as it likes, and not amid one.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;

use super::body::Paused;

/// Before each message: whether it is compressed, and its length. Source: gRPC's `PROTOCOL-HTTP2.md`.
const PREFIX_BYTES: usize = 5;

/// Ends a body whose client stops sending amid a message, so that what came of it does not stay in memory for ever.
pub(super) fn watch(request: Request, pause: Duration) -> Request {
    request.map(|body| Body::new(Messages { body, pause, timer: None, place: Place::default() }))
}

struct Messages {
    body: Body,
    pause: Duration,
    /// Begun when there is something to wait for.
    timer: Option<Pin<Box<Sleep>>>,
    place: Place,
}

/// How far a stream of messages has come.
#[derive(Default)]
struct Place {
    /// What came of the next message's prefix.
    prefix: [u8; PREFIX_BYTES],
    came: usize,
    /// Bytes that are to come of the message.
    left: usize,
}

impl Place {
    fn advance(&mut self, mut data: &[u8]) {
        while let Some((&first, rest)) = data.split_first() {
            if self.left > 0 {
                let part = self.left.min(data.len());
                self.left -= part;
                data = &data[part..];
                continue;
            }
            self.prefix[self.came] = first;
            self.came += 1;
            data = rest;
            if self.came == PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                (self.came, self.left) = (0, u32::from_be_bytes(length) as usize);
            }
        }
    }

    fn is_amid(&self) -> bool {
        self.came > 0 || self.left > 0
    }
}

impl http_body::Body for Messages {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            this.timer = None;
            if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
                this.place.advance(data);
            }
            return Poll::Ready(frame);
        }
        if !this.place.is_amid() {
            return Poll::Pending;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_amid_a_message_until_its_last_byte_however_it_is_cut() {
        let two = [&[0, 0, 0, 0, 3][..], b"abc", &[1, 0, 0, 0, 0], &[0, 0, 0, 1, 4], &[7; 260]].concat();
        let ends = [0, 8, 13, two.len()];
        for size in [1, 2, 7, 300] {
            let (mut place, mut came) = (Place::default(), 0);
            for part in two.chunks(size) {
                place.advance(part);
                came += part.len();
                assert_eq!(place.is_amid(), !ends.contains(&came), "{came} bytes, {size} at once");
            }
        }
    }
}
