//! A session, and the runs of it: for one request, or for several at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ort::environment::Environment;
use ort::session::{RunOptions, Session, SessionInputValue};
use ort::value::ValueType;

use super::batch;
use super::queue::Job;
use super::runtime::Runtime;
use super::statistics::{RunTimes, Statistics};
use super::values::{from_outputs, to_input};
use crate::error::{Error, Result};
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
pub(super) struct Ticket(Arc<Mutex<Option<Arc<Run>>>>);

impl Ticket {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Run>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a run that nobody waits for any more: the clients went away, or the requests' time is up. ONNX Runtime stops
/// between two operators. After the run it does nothing.
pub(super) struct EndOnDrop(pub(super) Ticket);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        let Some(run) = self.0.lock().take() else { return };
        if run.waiting.fetch_sub(1, Ordering::AcqRel) == 1
            && let Err(error) = run.options.terminate()
        {
            tracing::warn!(%error, "a run could not be ended");
        }
    }
}

/// A session, and what its runs are counted in.
pub(super) struct Runner {
    environment: Environment,
    session: Session,
    output_bytes: usize,
    statistics: Arc<Statistics>,
}

impl Runner {
    pub(super) fn new(runtime: &Runtime, session: Session, output_bytes: usize, statistics: Arc<Statistics>) -> Runner {
        Runner { environment: runtime.environment.clone(), session, output_bytes, statistics }
    }

    /// Inputs that every request has to give.
    pub(super) fn required_inputs(&self) -> usize {
        self.session.inputs().len()
    }

    pub(super) fn warm_up(&mut self, warm_up: &WarmUp, name: &str) {
        for _ in 0..warm_up.runs {
            let Runner { environment, session, .. } = self;
            // A model that does not take these inputs serves all the same.
            if let Err(error) = run_or_panic(environment, session, &warm_up.inputs, &warm_up.options, usize::MAX) {
                tracing::info!(model = name, error = error.message, "the model takes no zeros, and is not warmed up");
                return;
            }
        }
    }

    /// Runs jobs together, and answers each.
    pub(super) fn run_together(&mut self, jobs: Vec<Job>) {
        let started = Instant::now();
        // What is logged of a run that several requests share goes to the first of them.
        let in_span = jobs.first().map(|job| job.span.clone().entered());
        let (answers, took) = match self.run_jobs(&jobs) {
            Ok(answers) => answers,
            // One of them may be the reason; the others are not to suffer for it.
            Err(_) if jobs.len() > 1 => {
                drop(in_span);
                // Each is looked at when its turn comes: its client may have left during the others' runs.
                return jobs.into_iter().for_each(|job| {
                    if job.is_wanted() {
                        self.run_together(vec![job])
                    }
                });
            }
            Err(error) => return jobs.into_iter().for_each(|job| job.answer(Err(error.clone()))),
        };
        for (job, outputs) in jobs.into_iter().zip(answers) {
            let queued = started - job.queued_at;
            self.statistics.queue.add(queued);
            job.answer(Ok(Inference { outputs, took: InferenceTimes { queued, ..took } }));
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
            *job.ticket.lock() = Some(Arc::clone(&run));
            // A client that left just before found no run to end.
            if !job.is_wanted() {
                drop(EndOnDrop(job.ticket.clone()));
            }
        }
        let rows: Vec<usize> = jobs.iter().map(|job| job.rows.unwrap_or(1)).collect();
        let (answers, mut times) = match jobs {
            [job] => {
                let (outputs, times) = self.run(&job.inputs, &run.options)?;
                (vec![outputs], times)
            }
            jobs => {
                let joined = batch::join(jobs.iter().map(|job| job.inputs.as_slice()))?;
                let (outputs, times) = self.run(&joined, &run.options)?;
                (batch::part(&outputs, &rows)?, times)
            }
        };
        times.output = begun.elapsed().saturating_sub(times.input + times.infer);
        let batch_rows = rows.iter().sum();
        self.statistics.ran(batch_rows as u64, times);
        Ok((answers, InferenceTimes { queued: Duration::ZERO, ran: times.infer, batch_rows }))
    }

    fn run(&mut self, inputs: &[Value], options: &RunOptions) -> Result<(Vec<Value>, RunTimes)> {
        run_or_panic(&self.environment, &mut self.session, inputs, options, self.output_bytes)
    }
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
        let mut options = RunOptions::new().map_err(Error::internal)?;
        // What the session needs in a run only is not kept for the first request, which may be long in coming.
        options.set("memory.enable_memory_arena_shrinkage", "cpu:0").map_err(Error::internal)?;
        Ok(WarmUp { inputs, runs, options: Arc::new(options) })
    }

    /// Ends runs that take too long.
    pub fn end(&self) {
        if let Err(error) = self.options.terminate() {
            tracing::warn!(%error, "a warm-up could not be ended");
        }
    }
}

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
