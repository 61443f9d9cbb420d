//! Answers written in order, on a thread of their own.

mod element;
mod ndjson;

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::Format;
use super::job::Outcome;
use super::plan::Plan;
use super::rows::{Answered, RowAnswer};
use crate::error::{Error, Result};

/// Where written bytes go.
pub(super) struct Pieces {
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
    pub(super) fn new(sender: mpsc::Sender<io::Result<Bytes>>, patience: Duration) -> Pieces {
        Pieces { sender, patience, buffer: Vec::with_capacity(PIECE_BYTES * 2) }
    }

    /// What was written and not sent yet; may be added to.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Sends what is a piece's worth.
    pub(super) fn send_full(&mut self) -> std::result::Result<(), Unwanted> {
        if self.buffer.len() >= PIECE_BYTES { self.send() } else { Ok(()) }
    }

    /// Sends what was written.
    pub(super) fn send(&mut self) -> std::result::Result<(), Unwanted> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE_BYTES * 2));
        self.deliver(Ok(piece.into()))
    }

    /// Ends with an error, so that whoever reads knows that something is missing.
    fn fail(&mut self, error: &Error) {
        // The connection is cut at once, so what was written before has to be on its way.
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

/// Writes answers until there are no more. A job that broke off ends with the error in place of the row it came to.
pub(super) fn write(
    format: Format,
    _plan: &Plan,
    mut answers: mpsc::Receiver<Result<Answered>>,
    mut pieces: Pieces,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut writer = match format {
        Format::Ndjson => ndjson::Writer::default(),
    };
    while let Some(answered) = answers.blocking_recv() {
        let written = match answered {
            Ok(answered) => {
                count(&answered, &mut outcome);
                writer.write(&answered, pieces.buffer());
                if answers.is_empty() { pieces.send() } else { pieces.send_full() }
            }
            Err(error) => {
                tracing::warn!(%error, rows = outcome.rows, "a batch broke off");
                writer.fail(outcome.rows, &error.message, pieces.buffer());
                let sent = pieces.send();
                pieces.fail(&error);
                sent.and(Err(Unwanted))
            }
        };
        if written.is_err() {
            break;
        }
    }
    outcome
}

fn count(answered: &Answered, outcome: &mut Outcome) {
    outcome.rows += answered.tags.count as u64;
    outcome.failed += answered.tags.bad.len() as u64;
    if let super::rows::Answers::Each(each) = &answered.answers {
        outcome.failed += each.iter().filter(|answer| answer.is_err()).count() as u64;
    }
}
