//! Work that goes through many bytes at once, kept off the async threads.

use crate::error::{Error, Result};

/// Work on fewer bytes is done before another thread would have begun it.
const AT_ONCE_BYTES: usize = 256 << 10;

/// Runs work that goes through `bytes` bytes: at once where that takes microseconds, on a blocking thread where it would
/// hold up everybody else. Log lines of the work have the request's id either way.
///
/// # Errors
/// `Internal` where the work panics.
pub async fn off_async_threads<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    if bytes <= AT_ONCE_BYTES {
        return Ok(work());
    }
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work)).await.map_err(Error::internal)
}
