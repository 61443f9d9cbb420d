//! Answers written in order, on a thread of their own.

mod columns;
mod csv;
mod element;
mod ndjson;
mod parquet;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::Format;
use super::job::Progress;
use super::plan::Plan;
use super::read::Begun;
use super::rows::{Answered, RowAnswer, cell_of, has_rows};
use crate::error::{Error, Result};
use crate::value::Value;

/// Where written bytes go.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    patience: Duration,
    buffer: Vec<u8>,
}

/// Bytes that are sent as one piece.
const PIECE_BYTES: usize = 64 << 10;

/// Time that the last piece has to leave before the connection is cut.
const BEFORE_CUT: Duration = Duration::from_millis(100);

/// Nobody takes what is written any more.
pub(super) struct Unwanted;

impl Pieces {
    fn new(sender: mpsc::Sender<io::Result<Bytes>>, patience: Duration) -> Pieces {
        Pieces { sender, patience, buffer: Vec::with_capacity(PIECE_BYTES * 2) }
    }

    /// What was written and not sent yet; may be added to.
    fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Sends what is a piece's worth.
    fn send_full(&mut self) -> std::result::Result<(), Unwanted> {
        if self.buffer.len() >= PIECE_BYTES { self.send() } else { Ok(()) }
    }

    /// Sends what was written.
    fn send(&mut self) -> std::result::Result<(), Unwanted> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE_BYTES * 2));
        self.deliver(Ok(piece.into()))
    }

    /// Ends with an error, so that whoever reads knows that something is missing.
    fn fail(&mut self, error: &Error) {
        // The connection is cut at once, so what was written before has to be taken, and on its way.
        let begun = Instant::now();
        while self.sender.capacity() < self.sender.max_capacity() && begun.elapsed() < self.patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(BEFORE_CUT);
        // Who is gone misses nothing.
        self.deliver(Err(io::Error::other(error.message.clone()))).ok();
    }

    fn deliver(&self, piece: io::Result<Bytes>) -> std::result::Result<(), Unwanted> {
        match self.sender.try_send(piece) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Unwanted),
            Err(mpsc::error::TrySendError::Full(piece)) => {
                let sent = async { tokio::time::timeout(self.patience, self.sender.send(piece)).await };
                match Handle::current().block_on(sent) {
                    Ok(sent) => sent.map_err(|_| Unwanted),
                    Err(_) => {
                        let limit = humantime::format_duration(self.patience);
                        tracing::warn!(
                            "a batch ends: its client has taken no answers for {limit} (--body-idle-timeout)"
                        );
                        Err(Unwanted)
                    }
                }
            }
        }
    }
}

/// How answers are written.
enum Writer {
    Ndjson(ndjson::Writer, Pieces),
    Csv(csv::Writer, Pieces),
    Parquet(Box<parquet::Writer>),
}

impl Writer {
    fn new(format: Format, plan: &Plan, begun: Begun, pieces: Pieces) -> Result<Writer> {
        Ok(match format {
            Format::Ndjson => Writer::Ndjson(ndjson::Writer::default(), pieces),
            Format::Csv => Writer::Csv(csv::Writer::new(plan, begun.has_ids), pieces),
            Format::Parquet => Writer::Parquet(Box::new(parquet::Writer::new(plan, begun.has_ids, pieces)?)),
        })
    }

    /// `is_last` says that no other answers wait to be written.
    fn write(&mut self, answered: &Answered, is_last: bool) -> std::result::Result<(), Unwanted> {
        let pieces = match self {
            Writer::Ndjson(writer, pieces) => {
                writer.write(answered, pieces.buffer());
                pieces
            }
            Writer::Csv(writer, pieces) => {
                writer.write(answered, pieces.buffer());
                pieces
            }
            Writer::Parquet(writer) => return writer.write(answered),
        };
        if is_last { pieces.send() } else { pieces.send_full() }
    }

    /// A job that broke off ends with the error in place of the row it came to.
    fn fail(mut self, row: u64, error: &Error) {
        let pieces = match &mut self {
            Writer::Ndjson(writer, pieces) => {
                writer.fail(row, &error.message, pieces.buffer());
                pieces
            }
            Writer::Csv(writer, pieces) => {
                writer.fail(row, &error.message, pieces.buffer());
                pieces
            }
            Writer::Parquet(writer) => return writer.fail(error),
        };
        if pieces.send().is_ok() {
            pieces.fail(error);
        }
    }

    fn finish(self) -> std::result::Result<(), Unwanted> {
        match self {
            Writer::Ndjson(_, mut pieces) => pieces.send(),
            Writer::Csv(mut writer, mut pieces) => {
                writer.write_header(pieces.buffer());
                pieces.send()
            }
            Writer::Parquet(writer) => writer.finish(),
        }
    }
}

/// Writes answers until there are no more, or nobody takes them, and says whether all were taken. Where there is no writer for
/// them, or it panics, they end with an error.
pub(super) fn write(
    format: Format,
    plan: &Plan,
    begun: Begun,
    answers: mpsc::Receiver<Result<Answered>>,
    (sender, patience): (mpsc::Sender<io::Result<Bytes>>, Duration),
    progress: &Progress,
) -> bool {
    let pieces = Pieces::new(sender.clone(), patience);
    let written = catch_unwind(AssertUnwindSafe(|| {
        let writer = Writer::new(format, plan, begun, pieces)?;
        Ok(write_all(writer, answers, progress))
    }));
    written.unwrap_or_else(|_| Err(Error::internal("the writer of a batch panicked"))).unwrap_or_else(|error| {
        tracing::error!(%error, "a batch cannot be written");
        Pieces::new(sender, patience).fail(&error);
        false
    })
}

fn write_all(mut writer: Writer, mut answers: mpsc::Receiver<Result<Answered>>, progress: &Progress) -> bool {
    while let Some(answered) = answers.blocking_recv() {
        match answered {
            Ok(answered) => {
                if writer.write(&answered, answers.is_empty()).is_err() {
                    return false;
                }
                progress.add(answered.tags.count, answered.failed());
            }
            Err(error) => {
                let rows = progress.outcome().rows;
                tracing::warn!(%error, rows, "a batch broke off");
                writer.fail(rows, &error);
                return false;
            }
        }
    }
    writer.finish().is_ok()
}

/// The outputs of one run as a JSON list with an item for each row: what `prediction` is in NDJSON.
///
/// # Errors
/// An output that has not one row for each that went in.
pub fn predictions(outputs: &[Value], rows: usize) -> Result<String> {
    if let Some(output) = outputs.iter().find(|output| !has_rows(output, rows)) {
        let (name, what) = (output.name(), output.describe());
        return Err(Error::invalid_input(format!(
            "{rows} rows went in, and output {name} came as {what}: it has no row for each; ask with `features` or `inputs`"
        )));
    }
    let mut list = vec![b'['];
    let mut writer = ndjson::Writer::default();
    for row in 0..rows {
        if row > 0 {
            list.push(b',');
        }
        writer.write_cells(outputs, |output| cell_of(output, row), &mut list);
    }
    list.push(b']');
    String::from_utf8(list).map_err(Error::internal)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::batch::rows::{Answers, Tags};
    use crate::tensor::DataType;

    /// The pieces of one answer that is not written to its end.
    fn written(format: Format, plan: Plan, answered: Answered) -> Vec<io::Result<Bytes>> {
        let (answers, to_write) = mpsc::channel(1);
        answers.try_send(Ok(answered)).unwrap();
        drop(answers);
        let (sender, mut pieces) = mpsc::channel(8);
        let begun = Begun { has_ids: true };
        let is_whole = write(format, &plan, begun, to_write, (sender, Duration::ZERO), &Progress::default());
        assert!(!is_whole);
        std::iter::from_fn(|| pieces.blocking_recv()).collect()
    }

    #[test]
    fn a_panic_is_an_error_and_no_end() {
        // The name of a row that is not there makes the writer panic.
        let ids = vec![(7, RawValue::from_string("1".to_owned()).unwrap())];
        let panicking = Answered { tags: Tags { ids, ..Tags::default() }, answers: Answers::Each(Vec::new()) };
        let pieces = written(Format::Parquet, Plan::of_one_input(DataType::Fp32, 1), panicking);
        assert!(pieces.last().unwrap().is_err());
    }

    /// Whether three rows of a piece each are all written where nobody takes more than so many pieces.
    fn is_whole_for(format: Format, taken: usize) -> bool {
        let (answers, to_write) = mpsc::channel(3);
        let mut random = fastrand::Rng::with_seed(7);
        for row in 0..3 {
            // As random as that, it takes no fewer bytes when it is packed.
            let long = (0..PIECE_BYTES).map(|_| random.alphanumeric()).collect();
            let long = Answers::Each(vec![Err(long)]);
            let tags = Tags { first: row, count: 1, ..Tags::default() };
            answers.try_send(Ok(Answered { tags, answers: long })).unwrap();
        }
        drop(answers);
        let (sender, _pieces) = mpsc::channel(taken);
        let begun = Begun { has_ids: false };
        let plan = Plan::of_one_input(DataType::Fp32, 1);
        write(format, &plan, begun, to_write, (sender, Duration::ZERO), &Progress::default())
    }

    #[tokio::test]
    async fn answers_that_are_not_taken_in_time_are_not_whole() {
        for format in Format::ALL {
            let is_whole = move |taken| tokio::task::spawn_blocking(move || is_whole_for(format, taken));
            assert!(is_whole(8).await.unwrap(), "{format:?}");
            assert!(!is_whole(1).await.unwrap(), "{format:?}");
        }
    }
}
