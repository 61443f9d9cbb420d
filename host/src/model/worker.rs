//! Threads that run a model, fed by one bounded queue.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::oneshot;

use super::batch::{self, rows_in};
use super::queue::{Job, Queue, Refused};
use super::runner::{EndOnDrop, Inference, InferenceTimes, Runner, Ticket, WarmUp};
use super::runtime::{Runtime, SessionOptions};
use super::statistics::Statistics;
use super::values::check_size;
use crate::error::{Error, ErrorCode, Result};
use crate::terms::Terms;
use crate::value::Value;

/// What the workers of one model version may use.
#[derive(Debug, Clone, Copy)]
pub struct WorkerLimits {
    /// Workers, each with a session of its own.
    pub instances: usize,
    /// Rows of several requests that may be run together; 1: every request is run by itself.
    pub batch_rows: usize,
    /// Requests that may wait.
    pub queue_capacity: usize,
    /// Of all outputs of one run.
    pub output_bytes: usize,
    /// Whether the time of a run follows from the shapes of the inputs alone.
    pub steady: bool,
}

/// The workers of one model version. They end when this is dropped, after the jobs they have.
#[derive(Debug)]
pub struct Workers {
    pub statistics: Arc<Statistics>,
    queue: Arc<Queue>,
    limits: WorkerLimits,
    /// Each worker's own, lent to requests that find nobody else there.
    desks: Vec<Weak<Desk>>,
    /// Runs in a row that were made on a thread that asked, and found no other request that waited.
    alone: AtomicUsize,
    /// Runners that are lent at this moment.
    lent: AtomicUsize,
    /// Inputs of a request that may be run with others: those of which that was tried, which are those it has to give.
    inputs: usize,
    pace: Pace,
}

/// Where a worker runs jobs, and others may for as long as it is not there.
struct Desk {
    runner: Mutex<Runner>,
    /// Its worker waits for it. Without this those who ask could keep it from its worker for ever: the lock is not a fair one.
    is_wanted: AtomicBool,
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Workers {
    /// Loads a session for each worker, warms it up and starts its thread. Blocks for as long as that takes.
    ///
    /// # Errors
    /// ONNX Runtime's own sentence where it refuses the model.
    pub fn start(
        runtime: &Runtime,
        model_file: &Path,
        name: &str,
        limits: WorkerLimits,
        options: &SessionOptions,
        warm_up: Option<&WarmUp>,
    ) -> Result<Workers> {
        let statistics = Arc::<Statistics>::default();
        let runners = side_by_side(limits.instances, || {
            let session = runtime.session(model_file, options).map_err(|error| {
                Error::invalid_input(format!("ONNX Runtime refuses this model: {}", error.message()))
            })?;
            let mut runner = Runner::new(runtime, session, limits.output_bytes, Arc::clone(&statistics));
            if let Some(warm_up) = warm_up {
                runner.warm_up(warm_up, name);
            }
            Ok(runner)
        })?;
        give_memory_back();
        let queue = Arc::new(Queue::new(limits.queue_capacity));
        // From here on, what fails ends the workers that have begun.
        let mut workers = Workers {
            statistics,
            queue: Arc::clone(&queue),
            limits,
            desks: Vec::new(),
            alone: AtomicUsize::new(0),
            lent: AtomicUsize::new(0),
            inputs: runners.first().map_or(0, Runner::required_inputs),
            pace: Pace::new(),
        };
        for (index, runner) in runners.into_iter().enumerate() {
            let desk = Arc::new(Desk { runner: Mutex::new(runner), is_wanted: AtomicBool::new(false) });
            workers.desks.push(Arc::downgrade(&desk));
            let queue = Arc::clone(&queue);
            // Thread names are cut at 15 bytes by Linux, so what differs comes first.
            thread::Builder::new()
                .name(format!("{index}:{name}"))
                .spawn(move || work(desk, &queue, limits.batch_rows))
                .map_err(Error::internal)?;
        }
        Ok(workers)
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Workers that run something; all of them until they have begun.
    pub fn busy(&self) -> usize {
        let instances = self.limits.instances;
        (instances.saturating_sub(self.queue.idle()) + self.lent.load(Ordering::Relaxed)).min(instances)
    }

    /// Runs the model. Dropping the future abandons the job: a worker skips it if it has not begun, and ends it if nobody
    /// else waits for the same run. What has more rows than may run together is run in parts, side by side.
    ///
    /// # Errors
    /// The queue is full, or ONNX Runtime refuses the inputs.
    pub async fn infer(&self, inputs: Vec<Value>, terms: &Terms) -> Result<Inference> {
        let most_rows = self.limits.batch_rows;
        let may_batch = most_rows > 1 && inputs.len() == self.inputs;
        let rows = if may_batch { rows_in(&inputs) } else { None };
        match rows {
            Some(rows) if rows > most_rows => self.infer_in_parts(inputs, rows, terms).await,
            rows => self.infer_at_once(inputs, rows, terms).await,
        }
    }

    async fn infer_at_once(&self, inputs: Vec<Value>, rows: Option<usize>, terms: &Terms) -> Result<Inference> {
        let quick = self.is_quick_for(&inputs);
        let (reply, answer) = oneshot::channel();
        let ticket = Ticket::default();
        let _end = EndOnDrop(ticket.clone());
        let job = Job { inputs, rows, quick, ticket, queued_at: Instant::now(), span: tracing::Span::current(), reply };
        self.queue.push(job, terms.priority).map_err(|refused| self.refusal(refused))?;
        match quick {
            true => self.run_here().await,
            false => self.queue.wake(),
        }
        let answer = answer.await.map_err(|_| Error::internal("the model's worker ended during the run"))?;
        if let Ok(inference) = &answer {
            self.pace.took(inference.took.ran);
        }
        answer
    }

    /// Whether a run is known to take less time than waking another thread would.
    fn is_quick_for(&self, inputs: &[Value]) -> bool {
        let is_small = || inputs.iter().map(Value::byte_size).sum::<usize>() <= SMALL_BYTES;
        self.limits.steady && self.pace.is_quick() && is_small()
    }

    /// Runs what waits on this very thread, after all that are about to ask have asked: they are run together. Whoever
    /// comes first runs the others' requests too, and where no runner is free a worker does.
    async fn run_here(&self) {
        if self.may_find_others() {
            // Others may count on this request to run theirs, and it may be dropped at the pause.
            let wakes = WakeOnDrop(&self.queue);
            tokio::task::yield_now().await;
            std::mem::forget(wakes);
        }
        for desk in self.desks.iter().filter_map(Weak::upgrade) {
            if desk.is_wanted.load(Ordering::Relaxed) {
                continue;
            }
            let mut runner = match desk.runner.try_lock() {
                Ok(runner) => runner,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => continue,
            };
            self.lent.fetch_add(1, Ordering::Relaxed);
            if let Some(jobs) = self.queue.take_quick(self.limits.batch_rows) {
                match jobs.len() {
                    1 => self.alone.fetch_add(1, Ordering::Relaxed),
                    _ => self.alone.swap(0, Ordering::Relaxed),
                };
                runner.run_together(jobs);
            }
            self.lent.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        self.queue.wake();
    }

    /// Waiting for others takes a turn of the scheduler, which is lost where nobody else asks: there it is tried now and then.
    fn may_find_others(&self) -> bool {
        let alone = self.alone.load(Ordering::Relaxed);
        self.limits.batch_rows > 1 && (alone < ALONE || alone.is_multiple_of(ALONE))
    }

    fn refusal(&self, refused: Refused) -> Error {
        match refused {
            Refused::Closed => Error::internal("the model's workers have ended"),
            Refused::Full => {
                let capacity = self.queue.capacity();
                let message = format!("{capacity} requests wait for this model already (--queue-capacity); try again");
                Error::new(ErrorCode::Overloaded, message)
            }
        }
    }

    async fn infer_in_parts(&self, inputs: Vec<Value>, rows: usize, terms: &Terms) -> Result<Inference> {
        let parts = stream::iter(batch::split(&inputs, rows, self.limits.batch_rows));
        // No more of them at once than keep the workers busy, so that one large request does not fill the queue.
        let mut parts = parts
            .map(|part| async move {
                let rows = rows_in(&part);
                self.infer_at_once(part, rows, terms).await
            })
            .buffered(self.limits.instances * 2);
        let (mut outputs, mut took, mut bytes) = (Vec::new(), InferenceTimes::default(), 0usize);
        while let Some(answer) = parts.try_next().await? {
            bytes = answer.outputs.iter().map(Value::byte_size).fold(bytes, usize::saturating_add);
            // Whatever is still to be run would only add to it.
            check_size(bytes, self.limits.output_bytes)?;
            took = InferenceTimes {
                queued: took.queued.max(answer.took.queued),
                ran: took.ran + answer.took.ran,
                batch_rows: took.batch_rows.max(answer.took.batch_rows),
            };
            outputs.push(answer.outputs);
        }
        Ok(Inference { outputs: batch::join_answers(&outputs)?, took })
    }
}

/// Inputs of more bytes are left to the workers, whatever those before them took.
const SMALL_BYTES: usize = 4 << 10;
/// Waking a thread takes some tens of microseconds, and so may a run that does without; reading a body of JSON takes longer.
const QUICK: Duration = Duration::from_micros(100);

/// Runs in a row without another request, past which only one in so many waits for others.
const ALONE: usize = 16;

/// How long runs take of late, in nanoseconds: each counts for an eighth, so a few slow ones are enough to be careful.
#[derive(Debug)]
struct Pace(AtomicU64);

impl Pace {
    /// Nothing is known yet, so the first runs are the workers'.
    fn new() -> Pace {
        Pace(AtomicU64::new(8 * QUICK.as_nanos() as u64))
    }

    fn is_quick(&self) -> bool {
        self.0.load(Ordering::Relaxed) <= QUICK.as_nanos() as u64
    }

    fn took(&self, time: Duration) {
        let before = self.0.load(Ordering::Relaxed);
        let now = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // Two at once may count for one, which is no worse than one less.
        self.0.store(before - before / 8 + now / 8, Ordering::Relaxed);
    }
}

/// Has a worker take over what its request was to do.
struct WakeOnDrop<'q>(&'q Queue);

impl Drop for WakeOnDrop<'_> {
    fn drop(&mut self) {
        self.0.wake();
    }
}

fn work(desk: Arc<Desk>, queue: &Queue, batch_rows: usize) {
    while queue.wait() {
        desk.is_wanted.store(true, Ordering::Relaxed);
        let mut runner = desk.runner.lock().unwrap_or_else(PoisonError::into_inner);
        desk.is_wanted.store(false, Ordering::Relaxed);
        // Only now: what is taken sooner could not be run by whoever is free.
        if let Some(jobs) = queue.take(batch_rows) {
            runner.run_together(jobs);
        }
    }
    drop(desk);
    give_memory_back();
}

/// Makes so many of something that takes long to make, as many at a time as there are cores.
fn side_by_side<T: Send>(count: usize, make: impl Fn() -> Result<T> + Sync) -> Result<Vec<T>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut made = Vec::with_capacity(count);
    while made.len() < count {
        let next = cores.min(count - made.len());
        let more: Result<Vec<T>> = thread::scope(|scope| {
            let start = |_| thread::Builder::new().spawn_scoped(scope, &make).map_err(Error::internal);
            let started: Vec<_> = (0..next).map(start).collect::<Result<_>>()?;
            started.into_iter().map(|thread| thread.join().map_err(|_| Error::internal("it panicked"))?).collect()
        });
        made.append(&mut more?);
    }
    Ok(made)
}

/// Gives the pages that the making of a session, and an unloaded one, leave back to the system; the C library keeps them
/// otherwise, and with every load a few more lie between what is still in use.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub(super) fn give_memory_back() {
    // SAFETY: takes no pointer, and may be called by any thread at any time.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn give_memory_back() {}
