//! Bytes on their way from async code to a thread that reads them: bounded in how many may wait.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};

/// A piece, and its share of the bytes that may wait.
type Piece = (Result<Bytes>, Option<OwnedSemaphorePermit>);

/// The end that bytes are put into.
pub struct Feeder {
    pieces: UnboundedSender<Piece>,
    /// Bytes that may wait; what bounds the channel.
    budget: Arc<Semaphore>,
    limit: u32,
}

/// The reader is gone.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads any more")]
pub struct FeedError;

/// The end that a thread reads from.
pub struct Feed {
    pieces: UnboundedReceiver<Piece>,
}

/// A channel in which at most `limit` bytes wait. It is that large so that a client which reads no answer before it has
/// sent all it has, as many libraries do, can still send a file of that size.
pub fn feed(limit: usize) -> (Feeder, Feed) {
    let limit = u32::try_from(limit.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
    let (sender, pieces) = unbounded_channel();
    let budget = Arc::new(Semaphore::new(limit as usize));
    (Feeder { pieces: sender, budget, limit }, Feed { pieces })
}

impl Feeder {
    /// Waits until there is room.
    ///
    /// # Errors
    /// The reader is gone.
    pub async fn put(&self, piece: Bytes) -> std::result::Result<(), FeedError> {
        let share = u32::try_from(piece.len()).unwrap_or(u32::MAX).min(self.limit);
        let permit = Arc::clone(&self.budget).acquire_many_owned(share);
        tokio::select! {
            permit = permit => {
                let permit = permit.map_err(|_| FeedError)?;
                self.pieces.send((Ok(piece), Some(permit))).map_err(|_| FeedError)
            }
            () = self.pieces.closed() => Err(FeedError),
        }
    }

    /// What comes before this is read, and nothing after.
    pub fn fail(self, error: Error) {
        // A reader that is gone need not know.
        self.pieces.send((Err(error), None)).ok();
    }
}

impl Feed {
    /// The next piece; `None` at the end. Blocks.
    ///
    /// # Errors
    /// What [`Feeder::fail`] was given.
    pub fn take(&mut self) -> Result<Option<Bytes>> {
        self.pieces.blocking_recv().map(|(piece, _)| piece).transpose()
    }

    /// Whether [`Feed::take`] would block.
    pub fn is_idle(&self) -> bool {
        self.pieces.is_empty() && !self.pieces.is_closed()
    }
}
