//! Files of rows, read into chunks on a thread of their own.

mod arrow;
mod checked;
mod columns;
mod csv;
mod footer;
mod json;
mod ndjson;
mod pages;
mod parquet;
mod thrift;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

pub use self::parquet::rows_in_parquet;
use super::plan::Plan;
use super::rows::{Chunk, Collector};
use super::{Feed, Format, Limits, Progress};
use crate::error::{Error, Result};

/// What is said of a file's columns beside what is in it.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// Whether the first record of a CSV file names its columns; found out where it is not said.
    pub header: Option<bool>,
    /// The columns that are the model's, in its order.
    pub columns: Option<Vec<String>>,
}

/// What the beginning of a file shows of all of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    /// Rows may have names of their own.
    pub(super) has_ids: bool,
}

/// Where chunks go.
pub(super) struct Chunks<'c> {
    begun: Option<oneshot::Sender<Result<Begun>>>,
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
    pub(super) fn begin(&mut self, shown: Begun) {
        if let Some(begun) = self.begun.take() {
            // Who went away meanwhile is noticed at the first chunk.
            begun.send(Ok(shown)).ok();
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

/// A file, and how to read it.
pub(super) struct Reading {
    pub(super) format: Format,
    pub(super) feed: Feed,
    pub(super) options: ReadOptions,
    pub(super) limits: Limits,
    pub(super) progress: Arc<Progress>,
}

/// Reads a file to its end. What is wrong with its beginning is said through `begun`; what ends it later is the last item.
pub(super) fn read(
    reading: Reading,
    plan: &Plan,
    begun: oneshot::Sender<Result<Begun>>,
    sender: &mpsc::Sender<Result<Chunk>>,
) {
    let Reading { format, feed, options, limits, progress } = reading;
    let mut chunks = Chunks { begun: Some(begun), sender };
    let mut rows = Collector::new(plan);
    // Whoever unwinds drops the sender, which would look like the file's end.
    let read = catch_unwind(AssertUnwindSafe(|| match format {
        Format::Ndjson => ndjson::read(feed, limits.row_bytes, &mut rows, &mut chunks),
        Format::Csv => csv::read(feed, limits.row_bytes, &options, &mut rows, &mut chunks),
        Format::Parquet => match feed.into_file(&limits.scratch, limits.file_bytes) {
            Ok(file) => parquet::read(file, &options, limits.row_bytes, &progress, &mut rows, &mut chunks),
            Err(error) => Err(error.into()),
        },
    }));
    let read = read.unwrap_or_else(|_| {
        // What was half collected is nothing to run.
        rows = Collector::new(plan);
        Err(Error::internal("the reader of a batch panicked").into())
    });
    // The rows before what ended it are answered all the same.
    let ended = match (chunks.send(&mut rows), read) {
        (Err(stopped), _) | (Ok(()), Err(stopped)) => stopped,
        (Ok(()), Ok(())) => return,
    };
    let Stopped::Failed(error) = ended else { return };
    match chunks.begun.take() {
        // Where nobody is there to hear it, nobody asks.
        Some(begun) => drop(begun.send(Err(error))),
        None => drop(sender.blocking_send(Err(error))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{self, Read};
    use std::time::Duration;

    use super::*;
    use crate::error::ErrorCode;
    use crate::tensor::DataType;

    /// Gives a row, and panics when it is asked for more.
    struct Broken(&'static [u8]);

    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => panic!("no more of this"),
                length => Ok(length),
            }
        }
    }

    #[test]
    fn a_panic_is_an_error_and_no_end() {
        for (format, row) in [(Format::Ndjson, &b"[1]\n"[..]), (Format::Csv, b"1\n"), (Format::Parquet, b"PAR1")] {
            let plan = Plan::of_one_input(DataType::Fp32, 1);
            let limits = Limits {
                in_flight: 1,
                row_bytes: 1 << 20,
                file_bytes: 1 << 20,
                scratch: tempfile::env::temp_dir(),
                patience: Duration::ZERO,
            };
            let feed = Feed::of_reader(Broken(row));
            let reading = Reading { format, feed, options: ReadOptions::default(), limits, progress: Arc::default() };
            let (begun, mut has_begun) = oneshot::channel();
            let (sender, mut chunks) = mpsc::channel(8);
            read(reading, &plan, begun, &sender);
            drop(sender);
            let mut ended = has_begun.try_recv().unwrap().err();
            while let Some(chunk) = chunks.blocking_recv() {
                assert!(ended.is_none(), "an item comes behind the error");
                ended = chunk.err();
            }
            assert_eq!(ended.unwrap().code, ErrorCode::Internal);
        }
    }
}
