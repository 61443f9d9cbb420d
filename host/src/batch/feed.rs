//! The bytes of a file of rows: from async code, in which case so many may wait and no more, or from this machine.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, ErrorCode, Result};
use crate::store::scratch_error;

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

/// What a thread reads from.
pub struct Feed(Source);

enum Source {
    Channel(UnboundedReceiver<Piece>),
    /// Standard input, or what it is compressed in.
    Reader(Box<dyn Read + Send>),
    File(File),
}

/// What a piece takes beside its bytes, about: without it, pieces of one byte would wait a hundred times as large as they count.
const PIECE_BYTES: usize = 128;

/// Bytes of a file that are read at once.
const BLOCK: usize = 256 << 10;

/// A channel in which at most `limit` bytes wait. It is that large so that a client which reads no answer before it has
/// sent all it has, as many libraries do, can still send a file of that size.
pub fn feed(limit: usize) -> (Feeder, Feed) {
    let limit = u32::try_from(limit.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
    let (sender, pieces) = unbounded_channel();
    let budget = Arc::new(Semaphore::new(limit as usize));
    (Feeder { pieces: sender, budget, limit }, Feed(Source::Channel(pieces)))
}

impl Feeder {
    /// Waits until there is room.
    ///
    /// # Errors
    /// The reader is gone.
    pub async fn put(&self, piece: Bytes) -> std::result::Result<(), FeedError> {
        let share = u32::try_from(piece.len() + PIECE_BYTES).unwrap_or(u32::MAX).min(self.limit);
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
    pub fn of_file(file: File) -> Feed {
        Feed(Source::File(file))
    }

    pub fn of_reader(reader: impl Read + Send + 'static) -> Feed {
        Feed(Source::Reader(Box::new(reader)))
    }

    /// The next piece; `None` at the end. Blocks.
    ///
    /// # Errors
    /// What [`Feeder::fail`] was given, or the file is not readable.
    pub fn take(&mut self) -> Result<Option<Bytes>> {
        let block = |reader: &mut dyn Read| {
            let mut block = vec![0; BLOCK];
            loop {
                match reader.read(&mut block) {
                    Ok(0) => return Ok(None),
                    Ok(length) => {
                        block.truncate(length);
                        return Ok(Some(block.into()));
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(Error::invalid_input(format!("the file is not readable: {error}"))),
                }
            }
        };
        match &mut self.0 {
            Source::Channel(pieces) => pieces.blocking_recv().map(|(piece, _)| piece).transpose(),
            Source::Reader(reader) => block(reader),
            Source::File(file) => block(file),
        }
    }

    /// Whether [`Feed::take`] would wait for a client.
    pub fn is_idle(&self) -> bool {
        match &self.0 {
            Source::Channel(pieces) => pieces.is_empty() && !pieces.is_closed(),
            Source::Reader(_) | Source::File(_) => false,
        }
    }

    /// All of it as a file that can be read from any place: itself, or a copy without a name in `folder`.
    ///
    /// # Errors
    /// It is larger than `limit` bytes, or the folder cannot be written to.
    pub fn into_file(mut self, folder: &Path, limit: u64) -> Result<File> {
        if let Source::File(file) = self.0 {
            return Ok(file);
        }
        let mut file = tempfile::tempfile_in(folder).map_err(scratch_error)?;
        let mut size = 0;
        while let Some(piece) = self.take()? {
            size += piece.len() as u64;
            if size > limit {
                let message = format!("the file is larger than {limit} bytes (--max-batch-bytes)");
                return Err(Error::new(ErrorCode::TooLarge, message));
            }
            file.write_all(&piece).map_err(scratch_error)?;
        }
        Ok(file)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn small_pieces_count_for_what_they_take() {
        let (feeder, mut feed) = feed(8 * PIECE_BYTES);
        let fill = async {
            for _ in 0..100 {
                feeder.put(Bytes::from_static(b"x")).await.unwrap();
            }
        };
        tokio::time::timeout(std::time::Duration::from_millis(50), fill).await.unwrap_err();
        let Source::Channel(pieces) = &mut feed.0 else { panic!("a channel was made") };
        assert_eq!(pieces.len(), 7);
        // One that is larger than all that may wait goes through by itself.
        while pieces.try_recv().is_ok() {}
        feeder.put(Bytes::from(vec![0; 100 * PIECE_BYTES])).await.unwrap();
    }
}
