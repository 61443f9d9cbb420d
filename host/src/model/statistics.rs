//! What a loaded version has done since it was loaded, as the Open Inference Protocol's statistics say it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::Utc;

/// Counts and times of one loaded version. Every method may be called from any thread at once.
#[derive(Debug, Default)]
pub struct Statistics {
    /// Milliseconds since 1970 of the last request that was answered; 0 before the first.
    last_inference_ms: AtomicU64,
    /// Rows that were run: a batch of 8 counts as 8.
    inferences: AtomicU64,
    /// Runs of the model, whatever was in them.
    executions: AtomicU64,
    pub success: Tally,
    pub fail: Tally,
    /// Waiting for a worker.
    pub queue: Tally,
    /// From the values of a request to ONNX Runtime's.
    pub compute_input: Tally,
    /// In ONNX Runtime.
    pub compute_infer: Tally,
    /// From ONNX Runtime's values to those of the answers.
    pub compute_output: Tally,
    pub cache_hit: Tally,
    pub cache_miss: Tally,
    /// Runs by how many rows they had.
    batches: Mutex<BTreeMap<u64, BatchTimes>>,
}

/// Row counts that are told apart; clients choose them, so there is an end to it.
const BATCH_SIZES: usize = 256;

/// How often something happened, and how long it took altogether.
#[derive(Debug, Default)]
pub struct Tally {
    count: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Tally {
    pub fn add(&self, took: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(nanoseconds(took), Ordering::Relaxed);
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub fn nanoseconds(&self) -> u64 {
        self.nanoseconds.load(Ordering::Relaxed)
    }
}

/// What the runs of one batch size took together, in nanoseconds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct BatchTimes {
    pub runs: u64,
    pub compute_input: u64,
    pub compute_infer: u64,
    pub compute_output: u64,
}

/// How long the three parts of one run took.
#[derive(Debug, Default, Clone, Copy)]
pub struct RunTimes {
    pub input: Duration,
    pub infer: Duration,
    pub output: Duration,
}

impl Statistics {
    /// A run of `rows` rows has ended well.
    pub fn ran(&self, rows: u64, times: RunTimes) {
        self.executions.fetch_add(1, Ordering::Relaxed);
        self.inferences.fetch_add(rows, Ordering::Relaxed);
        self.compute_input.add(times.input);
        self.compute_infer.add(times.infer);
        self.compute_output.add(times.output);
        // Held for a few additions, by the version's own workers.
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        if batches.len() >= BATCH_SIZES && !batches.contains_key(&rows) {
            return;
        }
        let batch = batches.entry(rows).or_default();
        batch.runs += 1;
        batch.compute_input += nanoseconds(times.input);
        batch.compute_infer += nanoseconds(times.infer);
        batch.compute_output += nanoseconds(times.output);
    }

    /// A request was answered.
    pub fn succeeded(&self, took: Duration) {
        self.success.add(took);
        let now = u64::try_from(Utc::now().timestamp_millis()).unwrap_or(0);
        self.last_inference_ms.store(now, Ordering::Relaxed);
    }

    pub fn last_inference_ms(&self) -> u64 {
        self.last_inference_ms.load(Ordering::Relaxed)
    }

    pub fn inferences(&self) -> u64 {
        self.inferences.load(Ordering::Relaxed)
    }

    pub fn executions(&self) -> u64 {
        self.executions.load(Ordering::Relaxed)
    }

    /// Runs by how many rows they had.
    pub fn batches(&self) -> BTreeMap<u64, BatchTimes> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
