//! Files of rows, read into chunks on a thread of their own.

mod json;
mod ndjson;

use tokio::sync::{mpsc, oneshot};

use super::plan::Plan;
use super::rows::{Chunk, Collector};
use super::{Feed, Format};
use crate::error::{Error, Result};

/// What is said of a file's columns beside what is in it.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// Whether the first record of a CSV file names its columns; found out where it is not said.
    pub header: Option<bool>,
    /// The columns that are the model's, in its order.
    pub columns: Option<Vec<String>>,
}

/// Where chunks go.
pub(super) struct Chunks<'c> {
    begun: Option<oneshot::Sender<Result<()>>>,
    sender: &'c mpsc::Sender<Result<Chunk>>,
}

/// Why reading ended before the file did.
pub(super) enum Stopped {
    Failed(Error),
    /// Nobody wants the answers any more.
    Unwanted,
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Stopped {
        Stopped::Failed(error)
    }
}

impl Chunks<'_> {
    /// The file can be read, as far as its beginning shows.
    pub(super) fn begin(&mut self) {
        if let Some(begun) = self.begun.take() {
            // Who went away meanwhile is noticed at the first chunk.
            begun.send(Ok(())).ok();
        }
    }

    /// Sends what was collected. Waits until there is room.
    pub(super) fn send(&mut self, rows: &mut Collector<'_>) -> std::result::Result<(), Stopped> {
        match rows.take() {
            Some(chunk) => self.sender.blocking_send(Ok(chunk)).map_err(|_| Stopped::Unwanted),
            None => Ok(()),
        }
    }
}

/// Reads a file to its end. What is wrong with its beginning is said through `begun`; what ends it later is the last item.
pub(super) fn read(
    format: Format,
    feed: Feed,
    plan: &Plan,
    _options: &ReadOptions,
    row_bytes: usize,
    begun: oneshot::Sender<Result<()>>,
    sender: &mpsc::Sender<Result<Chunk>>,
) {
    let mut chunks = Chunks { begun: Some(begun), sender };
    let mut rows = Collector::new(plan);
    let read = match format {
        Format::Ndjson => ndjson::read(feed, row_bytes, &mut rows, &mut chunks),
    };
    let ended = read.and_then(|()| chunks.send(&mut rows));
    let Err(Stopped::Failed(error)) = ended else { return };
    match chunks.begun.take() {
        Some(begun) => drop(begun.send(Err(error))),
        // Where nobody is there to hear it, nobody asks.
        None => {
            drop(chunks.send(&mut rows).and_then(|()| sender.blocking_send(Err(error)).map_err(|_| Stopped::Unwanted)))
        }
    }
}
