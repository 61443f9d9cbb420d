//! Runs the chunks of a file: several at once, and answered in order.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::Instrument;

use super::plan::{Plan, Way};
use super::read::{self, ReadOptions, Reading};
use super::rows::{Answered, Answers, Chunk, Rows, has_rows, tensors};
use super::{Feed, Format, write};
use crate::app::App;
use crate::error::{Error, ErrorCode, Result};
use crate::model::ModelVersion;
use crate::pipeline::{self, Answer, Payload, Trace};
use crate::predict::{self, Target, check_payload};
use crate::terms::Terms;

/// Who runs the model.
#[derive(Clone)]
pub enum Runner {
    /// The host, as it runs every prediction.
    Host { app: Arc<App>, target: Arc<Target> },
    /// This process, for itself.
    Alone { model: Arc<ModelVersion> },
}

/// Pauses between tries while others have the model's queue filled.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

impl Runner {
    fn model(&self) -> &ModelVersion {
        match self {
            Runner::Host { target, .. } => &target.model,
            Runner::Alone { model } => model,
        }
    }

    /// Waits where the model's queue is full: a row is no request that somebody could send again.
    async fn predict(&self, payload: Payload, trace: &mut Trace) -> Result<Arc<Answer>> {
        let mut pause = FIRST_PAUSE;
        loop {
            if self.has_room() {
                let ended = self.try_predict(payload.clone(), trace).await;
                if !matches!(&ended, Err(error) if error.code == ErrorCode::Overloaded) {
                    return ended;
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Whether the model's queue takes another job. To be refused would count as a prediction that failed, which a look does
    /// not.
    fn has_room(&self) -> bool {
        let model = self.model();
        model.workers.waiting() < model.engine.workers.queue_capacity
    }

    async fn try_predict(&self, payload: Payload, trace: &mut Trace) -> Result<Arc<Answer>> {
        match self {
            Runner::Host { app, target } => {
                // What passes by once is not worth a place in memory.
                let terms = Terms { use_cache: false, ..Terms::within(app.config.limits.predict_timeout) };
                Ok(predict::predict(app, target, payload, &terms, trace).await?.answer)
            }
            Runner::Alone { model } => {
                check_payload(model, &payload)?;
                pipeline::run(model, payload, &Terms::within(Duration::MAX), trace).await.map(Arc::new)
            }
        }
    }
}

/// What a job may use.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Chunks run at once, where the model's queue has places for them: one for each worker, and one more that waits for
    /// the first to be done.
    pub in_flight: usize,
    /// Of a line, a record or a row, in bytes.
    pub row_bytes: usize,
    /// Of a file that is read from its end, in bytes.
    pub file_bytes: u64,
    /// Where such a file lies meanwhile.
    pub scratch: PathBuf,
    /// Time that whoever takes the answer may pause.
    pub patience: Duration,
}

/// A file of rows and what is to become of it.
pub struct Batch {
    pub runner: Runner,
    pub from: Format,
    pub to: Format,
    pub options: ReadOptions,
    pub limits: Limits,
    /// Counts as the job goes on.
    pub progress: Arc<Progress>,
}

/// How far a job has come.
#[derive(Debug, Default)]
pub struct Progress {
    rows: AtomicU64,
    failed: AtomicU64,
    /// Rows that there are, where the file says so; else 0.
    total: AtomicU64,
}

impl Progress {
    /// Rows that were answered, and how many of them with an error.
    pub fn outcome(&self) -> Outcome {
        Outcome { rows: self.rows.load(Ordering::Relaxed), failed: self.failed.load(Ordering::Relaxed) }
    }

    /// Rows that the file has, once that is known.
    pub fn total(&self) -> Option<u64> {
        Some(self.total.load(Ordering::Relaxed)).filter(|&total| total > 0)
    }

    /// The file has so many rows.
    pub fn expect(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    /// So many more rows were answered, some of them with an error.
    pub fn add(&self, rows: usize, failed: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.failed.fetch_add(failed as u64, Ordering::Relaxed);
    }
}

/// How a job ended, or where it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    pub rows: u64,
    /// Rows that have an error for an answer.
    pub failed: u64,
}

/// Answers as bytes, ended with an error where the job broke off. The job ends when this is dropped.
pub struct AnswerBytes {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    /// Set once the last answer is among the pieces. That they end says nothing of it: whoever writes them may have given up
    /// when there was no room for an error.
    is_whole: Arc<AtomicBool>,
    has_failed: bool,
    _job: Running<()>,
}

/// Pieces of bytes that wait to be taken.
const PIECES: usize = 8;

impl Batch {
    /// Starts the job, once the beginning of the file has shown that it can be one. `ended` is called before the answers end.
    ///
    /// # Errors
    /// The file is none, or its columns are not the model's.
    pub async fn start(self, feed: Feed, ended: impl FnOnce() + Send + 'static) -> Result<AnswerBytes> {
        let Batch { runner, from, to, options, limits, progress } = self;
        let plan = Arc::new(Plan::of(runner.model()));
        let in_flight = plan.in_flight(limits.in_flight);
        let (chunks, to_run) = mpsc::channel(in_flight);
        let (begun, has_begun) = oneshot::channel();
        let (span, of_reader) = (tracing::Span::current(), Arc::clone(&plan));
        let reading = Reading { format: from, feed, options, limits: limits.clone(), progress: Arc::clone(&progress) };
        tokio::task::spawn_blocking(move || span.in_scope(|| read::read(reading, &of_reader, begun, &chunks)));
        let begun = has_begun.await.map_err(|_| Error::internal("the reader of a batch ended before it began"))??;

        let (answers, to_write) = mpsc::channel(in_flight);
        let (pieces, receiver) = mpsc::channel(PIECES);
        let patience = limits.patience;
        let (span, of_writer) = (tracing::Span::current(), Arc::clone(&plan));
        let is_whole = Arc::new(AtomicBool::new(false));
        let is_written = Arc::clone(&is_whole);
        tokio::task::spawn_blocking(move || {
            let _in_span = span.enter();
            let until_all_is_told = pieces.clone();
            let all = write::write(to, &of_writer, begun, to_write, (pieces, patience), &progress);
            is_written.store(all, Ordering::Release);
            ended();
            drop(until_all_is_told);
        });
        let job = run_all(runner, plan, in_flight, to_run, answers);
        Ok(AnswerBytes { pieces: receiver, is_whole, has_failed: false, _job: Running::spawn(job) })
    }
}

impl Stream for AnswerBytes {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let piece = ready!(self.pieces.poll_recv(context)).or_else(|| {
            let is_all = self.has_failed || self.is_whole.load(Ordering::Acquire);
            (!is_all).then(|| Err(io::Error::other("the answers broke off before the last row")))
        });
        self.has_failed |= matches!(piece, Some(Err(_)));
        Poll::Ready(piece)
    }
}

/// Chunks in, answers out, in the same order. Ends when there are no more, or nobody takes any.
async fn run_all(
    runner: Runner,
    plan: Arc<Plan>,
    in_flight: usize,
    mut chunks: mpsc::Receiver<Result<Chunk>>,
    answers: mpsc::Sender<Result<Answered>>,
) {
    let chunks = futures_util::stream::poll_fn(move |context| chunks.poll_recv(context));
    let running = chunks.map(|chunk| {
        let (runner, plan) = (runner.clone(), Arc::clone(&plan));
        // Each a task of its own: plugins compute on the thread that polls them.
        Running::spawn(async move { Ok(run(&runner, &plan, chunk?).await) })
    });
    let mut ended = std::pin::pin!(running.buffered(in_flight));
    while let Some(answered) = ended.next().await {
        let answered = answered.unwrap_or_else(|| Err(Error::internal("a chunk's task ended early")));
        if answers.send(answered).await.is_err() {
            return;
        }
    }
}

async fn run(runner: &Runner, plan: &Plan, chunk: Chunk) -> Answered {
    let Chunk { tags, rows } = chunk;
    let answers = match rows {
        Rows::Fixed { count, data } => {
            let together = plan.way == Way::Together && count > 0;
            match if together { run_together(runner, plan, count, &data).await } else { None } {
                Some(outputs) => outputs,
                None => {
                    let each = (0..count).map(|row| tensors(&plan.inputs, &data, row, row + 1).map(Payload::Tensors));
                    run_each(runner, each).await
                }
            }
        }
        Rows::Each(payloads) => run_each(runner, payloads.into_iter().map(Ok)).await,
    };
    Answered { tags, answers }
}

/// All rows in one run; `None` where that tells nothing of each: then they are run one by one.
async fn run_together(runner: &Runner, plan: &Plan, count: usize, data: &[crate::tensor::Data]) -> Option<Answers> {
    let payload = Payload::Tensors(tensors(&plan.inputs, data, 0, count).ok()?);
    let mut trace = Trace::default();
    let ended = runner.predict(payload, &mut trace).await;
    if let Some(took) = trace.inference {
        plan.pace.ran(count, took.ran);
    }
    match ended {
        Ok(answer) => match Arc::try_unwrap(answer) {
            Ok(Answer::Outputs(outputs)) if outputs.iter().all(|output| has_rows(output, count)) => {
                Some(Answers::Together(outputs))
            }
            _ => None,
        },
        // One by one they would fail the same way.
        Err(error) if matches!(error.code, ErrorCode::Internal | ErrorCode::NotReady) => {
            tracing::error!(%error, rows = count, "rows of a batch failed");
            Some(Answers::Each(vec![Err(error.message); count]))
        }
        Err(error) => {
            plan.pace.failed(count, error.code);
            None
        }
    }
}

async fn run_each(runner: &Runner, rows: impl ExactSizeIterator<Item = Result<Payload>>) -> Answers {
    let mut answers = Vec::with_capacity(rows.len());
    for payload in rows {
        let answer = match payload {
            Ok(payload) => runner.predict(payload, &mut Trace::default()).await,
            Err(error) => Err(error),
        };
        answers.push(answer.map_err(|error| {
            if error.code == ErrorCode::Internal {
                tracing::error!(%error, "a row of a batch failed");
            }
            error.message
        }));
    }
    Answers::Each(answers)
}

/// A task that ends when nobody waits for it any more.
struct Running<T>(JoinHandle<T>);

impl<T: Send + 'static> Running<T> {
    fn spawn(work: impl Future<Output = T> + Send + 'static) -> Running<T> {
        Running(tokio::spawn(work.in_current_span()))
    }
}

impl<T> Future for Running<T> {
    /// `None` where the task panicked; the panic is in the log.
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|ended| ended.map_err(|error| tracing::error!(%error, "a task of a batch ended early")).ok())
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What comes of these pieces, behind which the answers end.
    async fn ended(pieces: Vec<io::Result<Bytes>>, is_whole: bool) -> Vec<std::result::Result<Bytes, String>> {
        let (sender, receiver) = mpsc::channel(PIECES);
        for piece in pieces {
            sender.send(piece).await.unwrap();
        }
        drop(sender);
        let is_whole = Arc::new(AtomicBool::new(is_whole));
        let answers =
            AnswerBytes { pieces: receiver, is_whole, has_failed: false, _job: Running::spawn(std::future::ready(())) };
        answers.map(|piece| piece.map_err(|error| error.to_string())).collect().await
    }

    #[tokio::test]
    async fn answers_that_are_not_whole_end_with_one_error() {
        let row = || Ok(Bytes::from_static(b"{}\n"));
        assert_eq!(ended(vec![row(), row()], true).await.len(), 2);
        let broken = ended(vec![row(), row()], false).await;
        assert!(broken.len() == 3 && broken[2].as_ref().unwrap_err().contains("broke off"), "{broken:?}");
        let told = ended(vec![row(), Err(io::Error::other("why"))], false).await;
        assert_eq!(told[1..], [Err("why".to_owned())]);
    }
}
