//! The memory that loaded versions share, reserved before a version is loaded and free when the last request has let go of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A number of bytes, and how many of them are taken. Cloning shares them.
#[derive(Clone)]
pub(super) struct Memory {
    shared: Arc<Shared>,
}

struct Shared {
    limit: u64,
    taken: Mutex<u64>,
    freed: Notify,
}

/// Bytes taken, for as long as this lives.
pub struct Reserved {
    memory: Memory,
    bytes: u64,
}

impl Memory {
    pub(super) fn new(limit: u64) -> Memory {
        Memory { shared: Arc::new(Shared { limit, taken: Mutex::new(0), freed: Notify::new() }) }
    }

    pub(super) fn limit(&self) -> u64 {
        self.shared.limit
    }

    /// Bytes that are not taken.
    pub(super) fn free(&self) -> u64 {
        self.limit().saturating_sub(*self.taken())
    }

    /// Takes so many bytes, if they are free.
    pub(super) fn reserve(&self, bytes: u64) -> Option<Reserved> {
        let mut taken = self.taken();
        let with_these = taken.checked_add(bytes).filter(|&sum| sum <= self.limit())?;
        *taken = with_these;
        Some(Reserved { memory: self.clone(), bytes })
    }

    /// Waits until something is freed that was taken when this was called.
    pub(super) fn freed(&self) -> impl Future<Output = ()> {
        self.shared.freed.notified()
    }

    fn taken(&self) -> MutexGuard<'_, u64> {
        self.shared.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reserved {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut taken = self.memory.taken();
        *taken = taken.saturating_sub(self.bytes);
        drop(taken);
        self.memory.shared.freed.notify_waiters();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_free_again_when_it_is_dropped_and_never_more_than_there_is() {
        let memory = Memory::new(100);
        let first = memory.reserve(60).unwrap();
        assert!(memory.reserve(41).is_none());
        assert!(memory.reserve(u64::MAX).is_none());
        let second = memory.reserve(40).unwrap();
        assert_eq!(memory.free(), 0);
        drop(first);
        assert_eq!(memory.free(), 60);
        drop(second);
        assert_eq!(memory.free(), 100);
    }
}
