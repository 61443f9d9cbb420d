//! The circuit breaker of a binding: a plugin that traps again and again is left alone for a while.
//!
//! Source: M. Nygard, "Release It!", 2nd ed., ch. 5. Closed, every request goes through; after `failures` traps in a row
//! it opens, and requests are turned away at once; after `pause` one request tries again, and closes it or opens it anew.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Counts traps in a row. What a plugin returns as an error is no trap: it may be about the one request.
#[derive(Debug)]
pub struct Circuit {
    /// Traps in a row that open it; 0 never does.
    failures: u32,
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures_in_a_row: u32,
    /// Set while it is open: when the next request may try.
    next_try: Option<Instant>,
    last_failure: String,
}

/// Why requests are turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenCircuit {
    pub failures_in_a_row: u32,
    pub last_failure: String,
    /// Time until a request may try again.
    pub next_try_in: Duration,
}

impl Circuit {
    pub fn new(failures: u32, pause: Duration) -> Circuit {
        Circuit { failures, pause, state: Mutex::default() }
    }

    /// Lets a request through, or says why not. Of those that come once the pause is over, one gets through.
    pub fn admit(&self) -> Result<(), OpenCircuit> {
        let mut state = self.lock();
        let now = Instant::now();
        match state.next_try {
            Some(next_try) if now < next_try => Err(state.describe(next_try - now)),
            Some(_) => {
                // Should this request be given up half-way, another one tries after another pause.
                state.next_try = Some(now + self.pause);
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub fn succeeded(&self) {
        let mut state = self.lock();
        if state.failures_in_a_row > 0 {
            *state = State::default();
        }
    }

    pub fn failed(&self, failure: &str) {
        let mut state = self.lock();
        state.failures_in_a_row = state.failures_in_a_row.saturating_add(1);
        failure.clone_into(&mut state.last_failure);
        if self.failures > 0 && state.failures_in_a_row >= self.failures {
            state.next_try = Some(Instant::now() + self.pause);
        }
    }

    /// What keeps it open; `None` while it is closed.
    pub fn open(&self) -> Option<OpenCircuit> {
        let state = self.lock();
        let next_try = state.next_try?;
        Some(state.describe(next_try.saturating_duration_since(Instant::now())))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Its numbers are whole whatever a panicking thread was about to do.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn describe(&self, next_try_in: Duration) -> OpenCircuit {
        OpenCircuit { failures_in_a_row: self.failures_in_a_row, last_failure: self.last_failure.clone(), next_try_in }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_a_success_begins_the_count_anew() {
        let circuit = Circuit::new(2, Duration::from_secs(3600));
        circuit.failed("one");
        circuit.succeeded();
        circuit.failed("two");
        assert!(circuit.admit().is_ok() && circuit.open().is_none());
        circuit.failed("three");
        let open = circuit.admit().unwrap_err();
        assert_eq!((open.failures_in_a_row, open.last_failure.as_str()), (2, "three"));
        assert!(circuit.open().is_some());
    }

    #[test]
    fn after_the_pause_one_request_tries() {
        let circuit = Circuit::new(1, Duration::from_secs(2));
        circuit.failed("trap");
        assert!(circuit.admit().is_err());
        std::thread::sleep(Duration::from_millis(2100));
        assert!(circuit.admit().is_ok());
        assert!(circuit.admit().is_err(), "a second one waits for the first");
        circuit.succeeded();
        assert!(circuit.admit().is_ok() && circuit.open().is_none());
    }

    #[test]
    fn none_opens_where_it_is_turned_off() {
        let circuit = Circuit::new(0, Duration::from_secs(1));
        (0..1000).for_each(|_| circuit.failed("trap"));
        assert!(circuit.admit().is_ok());
    }
}
