//! On what terms a request is served: from memory or not, how urgent it is, by when it has to be answered.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// What a client asks for beside its inputs.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Whether an answer that is in memory will do.
    pub use_cache: bool,
    pub priority: Priority,
    /// When nobody waits for the answer any more.
    pub deadline: Instant,
}

/// Who goes first where requests wait for a model. Within a level the order is that of their coming.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    #[default]
    Normal,
    High,
}

impl Priority {
    /// `high` or `normal`; as the Open Inference Protocol's servers have it, a number of which 1 is the highest level, and 0 and all others are normal.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Priority> {
        match text.trim() {
            "high" | "1" => Ok(Priority::High),
            "normal" => Ok(Priority::Normal),
            number if number.parse::<u64>().is_ok() => Ok(Priority::Normal),
            other => Err(Error::invalid_input(format!(
                "the priority is `high` or `normal`, or a number of which 1 is high; {other:?} came"
            ))),
        }
    }
}

impl Terms {
    /// Those of a request that asks for nothing special, in the time that any may take.
    pub fn within(limit: Duration) -> Terms {
        Terms { use_cache: true, priority: Priority::Normal, deadline: in_time(limit) }
    }

    /// Brings the deadline forward to `timeout` from now; a later one than it has changes nothing. Zero: no wish.
    pub fn hurry(&mut self, timeout: Duration) {
        if !timeout.is_zero() {
            self.deadline = self.deadline.min(in_time(timeout));
        }
    }

    pub fn is_over(&self) -> bool {
        self.deadline <= Instant::now()
    }
}

/// A time past what the clock can count is as good as never.
fn in_time(limit: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
    Instant::now() + limit.min(NEVER)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_is_the_highest_level_and_all_other_numbers_are_normal() {
        assert_eq!(Priority::parse("1").unwrap(), Priority::High);
        assert_eq!(Priority::parse("high").unwrap(), Priority::High);
        for normal in ["0", "2", "18446744073709551615", "normal"] {
            assert_eq!(Priority::parse(normal).unwrap(), Priority::Normal, "{normal}");
        }
        assert!(Priority::parse("urgent").is_err() && Priority::parse("-1").is_err());
    }

    #[test]
    fn a_timeout_brings_the_deadline_forward_and_never_back() {
        let mut terms = Terms::within(Duration::from_secs(10));
        let first = terms.deadline;
        terms.hurry(Duration::from_secs(3600));
        terms.hurry(Duration::ZERO);
        assert_eq!(terms.deadline, first);
        terms.hurry(Duration::from_secs(1));
        assert!(terms.deadline < first);
        Terms::within(Duration::MAX).hurry(Duration::MAX);
    }
}
