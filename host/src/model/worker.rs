//! Threads that own an ONNX Runtime session each, fed by one bounded queue.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use ort::environment::Environment;
use ort::session::{RunOptions, Session, SessionInputValue};
use ort::value::ValueType;
use tokio::sync::oneshot;

use super::batch::{self, rows_in};
use super::queue::{Job, Queue, Refused};
use super::runtime::{Runtime, SessionOptions};
use super::statistics::{RunTimes, Statistics};
use super::values::{check_size, from_outputs, to_input};
use crate::error::{Error, ErrorCode, Result};
use crate::terms::Terms;
use crate::value::Value;

/// A model's answer, and how long it took.
#[derive(Debug)]
pub struct Inference {
    pub outputs: Vec<Value>,
    pub took: InferenceTimes,
}

/// What a request went through at the workers.
#[derive(Debug, Clone, Copy, Default)]
pub struct InferenceTimes {
    /// Time the request waited for a worker.
    pub queued: Duration,
    /// Time in ONNX Runtime.
    pub ran: Duration,
    /// Rows of the run that the request was in; 1 for models that are run request by request.
    pub batch_rows: usize,
}

/// A run under way, and how many requests wait for it.
struct Run {
    options: RunOptions,
    waiting: AtomicUsize,
}

/// By which a request and the run that it comes to be in know of one another.
#[derive(Clone, Default)]
pub(super) struct Ticket(Arc<OnceLock<Arc<Run>>>);

/// Ends a run that nobody waits for any more: the clients went away, or the requests' time is up. ONNX Runtime stops
/// between two operators. After the run it does nothing.
struct EndOnDrop(Ticket);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        let Some(run) = self.0.0.get() else { return };
        if run.waiting.fetch_sub(1, Ordering::AcqRel) == 1
            && let Err(error) = run.options.terminate()
        {
            tracing::warn!(%error, "a run could not be ended");
        }
    }
}

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
}

/// Runs of each session before it takes requests: the first one allocates, and may take much longer than any after it.
#[derive(Clone)]
pub struct WarmUp {
    inputs: Vec<Value>,
    runs: u32,
    options: Arc<RunOptions>,
}

impl WarmUp {
    /// # Errors
    /// ONNX Runtime has no more memory.
    pub fn new(inputs: Vec<Value>, runs: u32) -> Result<WarmUp> {
        Ok(WarmUp { inputs, runs, options: Arc::new(RunOptions::new().map_err(Error::internal)?) })
    }

    /// Ends runs that take too long.
    pub fn end(&self) {
        if let Err(error) = self.options.terminate() {
            tracing::warn!(%error, "a warm-up could not be ended");
        }
    }

    /// A model that does not take these inputs serves all the same.
    fn run(&self, environment: &Environment, session: &mut Session, name: &str) {
        for _ in 0..self.runs {
            if let Err(error) = run_or_panic(environment, session, &self.inputs, &self.options, usize::MAX) {
                tracing::info!(model = name, error = error.message, "the model takes no zeros, and is not warmed up");
                return;
            }
        }
    }
}

/// The workers of one model version. They end when this is dropped, after the jobs they have.
#[derive(Debug)]
pub struct Workers {
    pub statistics: Arc<Statistics>,
    queue: Arc<Queue>,
    limits: WorkerLimits,
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
        let queue = Arc::new(Queue::new(limits.queue_capacity));
        // From here on, what fails ends the workers that have begun.
        let workers = Workers { statistics: Arc::default(), queue: Arc::clone(&queue), limits };
        for index in 0..limits.instances {
            let mut session = runtime.session(model_file, options).map_err(|error| {
                Error::invalid_input(format!("ONNX Runtime refuses this model: {}", error.message()))
            })?;
            if let Some(warm_up) = warm_up {
                warm_up.run(&runtime.environment, &mut session, name);
            }
            let worker = Worker {
                environment: runtime.environment.clone(),
                session,
                limits,
                statistics: Arc::clone(&workers.statistics),
            };
            let queue = Arc::clone(&queue);
            // Thread names are cut at 15 bytes by Linux, so what differs comes first.
            thread::Builder::new()
                .name(format!("{index}:{name}"))
                .spawn(move || worker.work(&queue))
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
        self.limits.instances.saturating_sub(self.queue.idle())
    }

    /// Runs the model. Dropping the future abandons the job: a worker skips it if it has not begun, and ends it if nobody
    /// else waits for the same run. What has more rows than may run together is run in parts, side by side.
    ///
    /// # Errors
    /// The queue is full, or ONNX Runtime refuses the inputs.
    pub async fn infer(&self, inputs: Vec<Value>, terms: &Terms) -> Result<Inference> {
        let most_rows = self.limits.batch_rows;
        let rows = if most_rows > 1 { rows_in(&inputs) } else { None };
        match rows {
            Some(rows) if rows > most_rows => self.infer_in_parts(inputs, rows, terms).await,
            rows => self.infer_at_once(inputs, rows, terms).await,
        }
    }

    async fn infer_at_once(&self, inputs: Vec<Value>, rows: Option<usize>, terms: &Terms) -> Result<Inference> {
        let (reply, answer) = oneshot::channel();
        let ticket = Ticket::default();
        let _end = EndOnDrop(ticket.clone());
        let job = Job { inputs, rows, ticket, queued_at: Instant::now(), span: tracing::Span::current(), reply };
        self.queue.push(job, terms.priority).map_err(|refused| self.refusal(refused))?;
        answer.await.map_err(|_| Error::internal("the model's worker ended during the run"))?
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
        let parts = parts
            .map(|part| async move {
                let rows = rows_in(&part);
                self.infer_at_once(part, rows, terms).await
            })
            .buffered(self.limits.instances * 2);
        let answers: Vec<Inference> = parts.try_collect().await?;
        let took = answers.iter().map(|answer| answer.took).reduce(|sum, part| InferenceTimes {
            queued: sum.queued.max(part.queued),
            ran: sum.ran + part.ran,
            batch_rows: sum.batch_rows.max(part.batch_rows),
        });
        let outputs: Vec<Vec<Value>> = answers.into_iter().map(|answer| answer.outputs).collect();
        let outputs = batch::join_answers(&outputs)?;
        let bytes: usize = outputs.iter().map(Value::byte_size).sum();
        check_size(bytes, self.limits.output_bytes)?;
        Ok(Inference { outputs, took: took.unwrap_or_default() })
    }
}

/// One thread, and the session it owns.
struct Worker {
    environment: Environment,
    session: Session,
    limits: WorkerLimits,
    statistics: Arc<Statistics>,
}

impl Worker {
    fn work(mut self, queue: &Queue) {
        while let Some(jobs) = queue.take(self.limits.batch_rows) {
            self.run_together(jobs);
        }
        drop(self.session);
        give_memory_back();
    }

    fn run_together(&mut self, jobs: Vec<Job>) {
        let started = Instant::now();
        // What is logged of a run that several requests share goes to the first of them.
        let _in_span = jobs.first().map(|job| job.span.clone().entered());
        let answers = self.run_jobs(&jobs);
        let (answers, took) = match answers {
            Ok(answers) => answers,
            // One of them may be the reason; the others are not to suffer for it.
            Err(_) if jobs.len() > 1 => {
                drop(_in_span);
                return jobs.into_iter().for_each(|job| self.run_together(vec![job]));
            }
            Err(error) => {
                return jobs.into_iter().for_each(|job| send(job, Err(error.clone())));
            }
        };
        for (job, outputs) in jobs.into_iter().zip(answers) {
            let queued = started - job.queued_at;
            self.statistics.queue.add(queued);
            let took = InferenceTimes { queued, ..took };
            send(job, Ok(Inference { outputs, took }));
        }
    }

    /// One run for all of the jobs; an answer for each.
    fn run_jobs(&mut self, jobs: &[Job]) -> Result<(Vec<Vec<Value>>, InferenceTimes)> {
        let begun = Instant::now();
        let run = Arc::new(Run {
            options: RunOptions::new().map_err(Error::internal)?,
            waiting: AtomicUsize::new(jobs.len()),
        });
        for job in jobs {
            // One that is run again after a common run that failed keeps its first ticket, which ends nothing any more.
            job.ticket.0.set(Arc::clone(&run)).ok();
        }
        let joined = match jobs {
            [_] => Vec::new(),
            jobs => batch::join(jobs.iter().map(|job| job.inputs.as_slice()))?,
        };
        let inputs = if let [job] = jobs { &job.inputs } else { &joined };
        let rows: Vec<usize> = jobs.iter().map(|job| job.rows.unwrap_or(1)).collect();
        let (outputs, mut times) =
            run_or_panic(&self.environment, &mut self.session, inputs, &run.options, self.limits.output_bytes)?;
        let answers = if jobs.len() == 1 { vec![outputs] } else { batch::part(&outputs, &rows)? };
        let batch_rows = rows.iter().sum();
        times.output = begun.elapsed().saturating_sub(times.input + times.infer);
        self.statistics.ran(batch_rows as u64, times);
        Ok((answers, InferenceTimes { queued: Duration::ZERO, ran: times.infer, batch_rows }))
    }
}

fn send(job: Job, answer: Result<Inference>) {
    let _in_span = job.span.enter();
    if job.reply.send(answer).is_err() {
        tracing::debug!("the client went away during the run");
    }
}

/// Gives the pages that an unloaded session leaves back to the system; the C library keeps them otherwise, and with every
/// load a few more lie between what is still in use.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
fn give_memory_back() {
    // SAFETY: takes no pointer, and may be called by any thread at any time.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_memory_back() {}

/// One run of a session that no worker owns, as its admission makes it.
///
/// # Errors
/// ONNX Runtime refuses the inputs.
pub(super) fn run_once(runtime: &Runtime, session: &mut Session, inputs: &[Value]) -> Result<Vec<Value>> {
    let options = RunOptions::new().map_err(Error::internal)?;
    run_or_panic(&runtime.environment, session, inputs, &options, usize::MAX).map(|(outputs, _)| outputs)
}

/// Ort panics at an optional output that came out empty, and may at what else it does not expect. The session is not harmed
/// by that, so its worker goes on.
fn run_or_panic(
    environment: &Environment,
    session: &mut Session,
    inputs: &[Value],
    options: &RunOptions,
    output_bytes: usize,
) -> Result<(Vec<Value>, RunTimes)> {
    let ran = catch_unwind(AssertUnwindSafe(|| run(environment, session, inputs, options, output_bytes)));
    ran.unwrap_or_else(|_| {
        let outputs = session.outputs();
        let optional = outputs.iter().filter(|output| matches!(output.dtype(), ValueType::Optional(_)));
        let optional: Vec<String> = optional.map(|output| output.name().to_owned()).collect();
        match optional.as_slice() {
            [] => Err(Error::internal("ort panicked during the run")),
            [name] if outputs.len() == 1 => Ok((vec![Value::None { name: name.clone() }], RunTimes::default())),
            names => Err(Error::invalid_input(format!(
                "the model ran, but one of its optional outputs came out empty, which the host cannot tell beside other \
                 outputs: {}",
                names.join(", ")
            ))),
        }
    })
}

fn run(
    environment: &Environment,
    session: &mut Session,
    inputs: &[Value],
    options: &RunOptions,
    output_bytes: usize,
) -> Result<(Vec<Value>, RunTimes)> {
    let begun = Instant::now();
    let declared = session.inputs();
    let inputs = inputs.iter().map(|input| Ok((input.name(), to_input(environment, declared, input)?)));
    let held: Vec<(&str, SessionInputValue<'_>)> = inputs.collect::<Result<_>>()?;
    // Outputs may share the inputs' memory, as the items of a sequence do, so those live until the outputs are copied.
    let values: Vec<(&str, SessionInputValue<'_>)> =
        held.iter().map(|(name, value)| (*name, SessionInputValue::View(value.view()))).collect();
    let input = begun.elapsed();
    let outputs = session.run_with_options(values, options).map_err(|error| {
        Error::invalid_input(format!("ONNX Runtime could not run the model on this input: {}", error.message()))
    })?;
    let infer = begun.elapsed() - input;
    let outputs = from_outputs(&outputs, output_bytes)?;
    Ok((outputs, RunTimes { input, infer, output: begun.elapsed() - input - infer }))
}
