//! Threads that own an ONNX Runtime session each, fed by one bounded queue.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use ort::environment::Environment;
use ort::session::{RunOptions, Session, SessionInputValue};
use ort::value::ValueType;
use tokio::sync::oneshot;

use super::runtime::{Runtime, SessionOptions};
use super::statistics::Statistics;
use super::values::{from_outputs, to_input};
use crate::error::{Error, ErrorCode, Result};
use crate::terms::Terms;
use crate::value::Value;

/// A model's answer, and how long it took.
#[derive(Debug)]
pub struct Inference {
    pub outputs: Vec<Value>,
    /// Time the request waited for a worker.
    pub queued: Duration,
    /// Time in ONNX Runtime.
    pub ran: Duration,
}

struct Job {
    inputs: Vec<Value>,
    options: Arc<RunOptions>,
    queued_at: Instant,
    /// The request's, so that what ONNX Runtime logs has its id.
    span: tracing::Span,
    reply: oneshot::Sender<Result<Inference>>,
}

/// Ends a run that nobody waits for any more: the client went away, or the request's time is up. ONNX Runtime stops
/// between two operators. After the run it does nothing.
struct EndOnDrop(Arc<RunOptions>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Err(error) = self.0.terminate() {
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
        drop(EndOnDrop(self.options.clone()));
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
    jobs: Sender<Job>,
    queue_capacity: usize,
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
        let WorkerLimits { instances, queue_capacity, output_bytes, .. } = limits;
        let (jobs, queue) = bounded(queue_capacity);
        for index in 0..instances {
            let mut session = runtime.session(model_file, options).map_err(|error| {
                Error::invalid_input(format!("ONNX Runtime refuses this model: {}", error.message()))
            })?;
            if let Some(warm_up) = warm_up {
                warm_up.run(&runtime.environment, &mut session, name);
            }
            let queue = queue.clone();
            // Thread names are cut at 15 bytes by Linux, so what differs comes first.
            thread::Builder::new()
                .name(format!("{index}:{name}"))
                .spawn({
                    let environment = runtime.environment.clone();
                    move || work(&environment, session, &queue, output_bytes)
                })
                .map_err(Error::internal)?;
        }
        Ok(Workers { statistics: Arc::default(), jobs, queue_capacity })
    }

    /// Runs the model. Dropping the future abandons the job: a worker skips it if it has not begun, and ends it if it has.
    ///
    /// # Errors
    /// The queue is full, or ONNX Runtime refuses the inputs.
    pub async fn infer(&self, inputs: Vec<Value>, _terms: &Terms) -> Result<Inference> {
        let (reply, answer) = oneshot::channel();
        let options = Arc::new(RunOptions::new().map_err(Error::internal)?);
        let _end = EndOnDrop(options.clone());
        let job = Job { inputs, options, queued_at: Instant::now(), span: tracing::Span::current(), reply };
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Error::new(
                ErrorCode::Overloaded,
                format!("{} requests wait for this model already (--queue-capacity); try again", self.queue_capacity),
            ),
            TrySendError::Disconnected(_) => Error::internal("the model's workers have ended"),
        })?;
        answer.await.map_err(|_| Error::internal("the model's worker ended during the run"))?
    }
}

fn work(environment: &Environment, mut session: Session, queue: &Receiver<Job>, output_bytes: usize) {
    while let Ok(job) = queue.recv() {
        if job.reply.is_closed() {
            continue;
        }
        let _in_span = job.span.enter();
        let started = Instant::now();
        let outputs = run_or_panic(environment, &mut session, &job.inputs, &job.options, output_bytes);
        let inference =
            outputs.map(|outputs| Inference { outputs, queued: started - job.queued_at, ran: started.elapsed() });
        if job.reply.send(inference).is_err() {
            tracing::debug!("the client went away during the run");
        }
    }
    drop(session);
    give_memory_back();
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
pub(super) fn run_once(runtime: &Runtime, session: &mut Session, inputs: &[Value]) -> Result<()> {
    let options = RunOptions::new().map_err(Error::internal)?;
    run_or_panic(&runtime.environment, session, inputs, &options, usize::MAX).map(|_| ())
}

/// Ort panics at an optional output that came out empty, and may at what else it does not expect. The session is not harmed
/// by that, so its worker goes on.
fn run_or_panic(
    environment: &Environment,
    session: &mut Session,
    inputs: &[Value],
    options: &RunOptions,
    output_bytes: usize,
) -> Result<Vec<Value>> {
    let outputs = session.outputs();
    let optional = outputs.iter().filter(|output| matches!(output.dtype(), ValueType::Optional(_)));
    let optional: Vec<String> = optional.map(|output| output.name().to_owned()).collect();
    let is_only = outputs.len() == 1;
    catch_unwind(AssertUnwindSafe(|| run(environment, session, inputs, options, output_bytes))).unwrap_or_else(|_| {
        match optional.as_slice() {
            [] => Err(Error::internal("ort panicked during the run")),
            [name] if is_only => Ok(vec![Value::None { name: name.clone() }]),
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
) -> Result<Vec<Value>> {
    let declared = session.inputs();
    let inputs = inputs.iter().map(|input| Ok((input.name(), to_input(environment, declared, input)?)));
    let held: Vec<(&str, SessionInputValue<'_>)> = inputs.collect::<Result<_>>()?;
    // Outputs may share the inputs' memory, as the items of a sequence do, so those live until the outputs are copied.
    let values: Vec<(&str, SessionInputValue<'_>)> =
        held.iter().map(|(name, value)| (*name, SessionInputValue::View(value.view()))).collect();
    let outputs = session.run_with_options(values, options).map_err(|error| {
        Error::invalid_input(format!("ONNX Runtime could not run the model on this input: {}", error.message()))
    })?;
    from_outputs(&outputs, output_bytes)
}
