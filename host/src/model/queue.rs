//! Requests that wait for a version's workers: bounded, the urgent ones first, those that can run together taken together.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::batch::are_alike;
use super::runner::{Inference, Ticket};
use crate::error::Result;
use crate::terms::Priority;
use crate::value::Value;

/// One request, or the part of one, on its way through a worker.
pub(super) struct Job {
    pub(super) inputs: Vec<Value>,
    /// Rows of the inputs; `None`: it is run by itself.
    pub(super) rows: Option<usize>,
    /// Known to take so little time that any thread may run it.
    pub(super) quick: bool,
    pub(super) ticket: Ticket,
    pub(super) queued_at: Instant,
    /// The request's, so that what ONNX Runtime logs has its id.
    pub(super) span: tracing::Span,
    pub(super) reply: oneshot::Sender<Result<Inference>>,
}

/// Why a job was not taken; it is dropped with its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Full,
    Closed,
}

/// A bounded queue of two levels. Its lock is held to move jobs and for nothing else.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    came: Condvar,
    capacity: usize,
}

#[derive(Default)]
struct Waiting {
    high: VecDeque<Job>,
    normal: VecDeque<Job>,
    /// Workers that wait for a job. Without one nobody has to be woken, which costs a call into the system.
    idle: usize,
    closed: bool,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("high", &self.high.len()).field("normal", &self.normal.len()).finish()
    }
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Queue {
        Queue { waiting: Mutex::default(), came: Condvar::new(), capacity }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Requests that wait.
    pub(super) fn len(&self) -> usize {
        let waiting = self.lock();
        waiting.high.len() + waiting.normal.len()
    }

    /// Workers that wait for a request.
    pub(super) fn idle(&self) -> usize {
        self.lock().idle
    }

    /// Wakes no worker: either [`Queue::wake`] or [`Queue::take_quick`] is to follow.
    pub(super) fn push(&self, job: Job, priority: Priority) -> std::result::Result<(), Refused> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(Refused::Closed);
        }
        if waiting.high.len() + waiting.normal.len() >= self.capacity {
            // What nobody waits for any more makes room first.
            waiting.high.retain(Job::is_wanted);
            waiting.normal.retain(Job::is_wanted);
            if waiting.high.len() + waiting.normal.len() >= self.capacity {
                return Err(Refused::Full);
            }
        }
        match priority {
            Priority::High => waiting.high.push_back(job),
            Priority::Normal => waiting.normal.push_back(job),
        }
        Ok(())
    }

    /// A worker is to take what waits.
    pub(super) fn wake(&self) {
        let is_awaited = self.lock().idle > 0;
        if is_awaited {
            self.came.notify_one();
        }
    }

    /// The next job, and others that can run with it, of no more than `most_rows` rows together.
    pub(super) fn take(&self, most_rows: usize) -> Option<Vec<Job>> {
        self.lock().take(most_rows, |_| true)
    }

    /// As [`Queue::take`], where the next job is a quick one, and with it quick ones alone. Where it is not, a worker is woken.
    pub(super) fn take_quick(&self, most_rows: usize) -> Option<Vec<Job>> {
        let mut waiting = self.lock();
        let jobs = waiting.take(most_rows, |job| job.quick);
        if jobs.is_none() && !waiting.is_empty() && waiting.idle > 0 {
            self.came.notify_one();
        }
        jobs
    }

    /// Waits until there is a job; it may be taken by somebody else before the caller comes to it. `false` once the queue is
    /// closed and empty.
    pub(super) fn wait(&self) -> bool {
        let mut waiting = self.lock();
        while waiting.is_empty() {
            if waiting.closed {
                return false;
            }
            waiting.idle += 1;
            waiting = self.came.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            waiting.idle -= 1;
        }
        true
    }

    /// No job comes any more; those that wait are still done.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.came.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing here panics half-way through a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.high.is_empty() && self.normal.is_empty()
    }

    fn take(&mut self, most_rows: usize, may_take: impl Fn(&Job) -> bool) -> Option<Vec<Job>> {
        for level in [&mut self.high, &mut self.normal] {
            while level.pop_front_if(|job| !job.is_wanted()).is_some() {}
        }
        let next = if self.high.is_empty() { &mut self.normal } else { &mut self.high };
        let mut jobs = vec![next.pop_front_if(|job| may_take(job))?];
        let Some(mut rows) = jobs[0].rows else { return Some(jobs) };
        for level in [&mut self.high, &mut self.normal] {
            let mut index = 0;
            while rows < most_rows && index < level.len() {
                let more = level[index].rows.filter(|more| rows + more <= most_rows && may_take(&level[index]));
                match more.filter(|_| are_alike(&jobs[0].inputs, &level[index].inputs)) {
                    Some(more) => {
                        if let Some(job) = level.remove(index).filter(Job::is_wanted) {
                            rows += more;
                            jobs.push(job);
                        }
                    }
                    None => index += 1,
                }
            }
        }
        Some(jobs)
    }
}

impl Job {
    /// Whether somebody waits for its answer.
    pub(super) fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    pub(super) fn answer(self, answer: Result<Inference>) {
        let _in_span = self.span.enter();
        if self.reply.send(answer).is_err() {
            tracing::debug!("the client went away during the run");
        }
    }
}
