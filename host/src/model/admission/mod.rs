//! Every new model is loaded and run once in a process of its own, within limits, before the host loads it: a file that
//! makes ONNX Runtime abort, loop or eat memory ends that process and nothing else.

mod batching;
mod trial;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use crate::config::{AdmissionConfig, OnnxRuntimeConfig, admission_environment};
use crate::error::{Error, ErrorCode, Result, shorten};

pub use batching::Batching;
pub(super) use batching::declared_rows;
pub use trial::run;

/// A model may take that many times its own size, on top of what any may take: while it is loaded, its weights are there
/// as protobuf, as tensors and in the forms that kernels prefer.
const TIMES_ITS_SIZE: u64 = 4;
/// What a model has to do within the limits to be let in.
const FIRST_RUN: &str = "loading this model and one run";
/// Most of what a trial writes that is read.
const OUTPUT_BYTES: u64 = 64 << 10;

/// Tries models. Cloning shares its places.
#[derive(Clone)]
pub struct Admission {
    places: Arc<Semaphore>,
    config: AdmissionConfig,
    library: Option<PathBuf>,
}

/// A model that may come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    pub seen: Seen,
    pub batching: Batching,
}

/// What was seen of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Memory that one session took, its files' pages in the system's cache left out; `None` where the system does not say.
    pub session_bytes: Option<u64>,
    /// Why the run on zeros came to nothing: many a model takes no zeros, and serves.
    pub run_error: Option<String>,
}

/// What a trial says, a line of JSON each, in this order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    Loading,
    Running,
    Refused { message: String },
    Admitted(Seen),
    Batching(Batching),
}

/// How a trial's process ended.
struct Ended {
    status: ExitStatus,
    /// It was ended, after the time that a trial may take.
    timed_out: bool,
    stdout: String,
    stderr: String,
}

impl Admission {
    pub fn new(config: &AdmissionConfig, onnxruntime: &OnnxRuntimeConfig) -> Admission {
        Admission {
            places: Arc::new(Semaphore::new(config.admissions as usize)),
            config: config.clone(),
            library: onnxruntime.library().cloned(),
        }
    }

    /// Tries a model whose files have that many bytes together.
    ///
    /// # Errors
    /// `InvalidInput` where ONNX Runtime refuses the model, ends, or takes more time or memory than a model may.
    pub async fn admit(&self, model: &Path, bytes: u64) -> Result<Admitted> {
        let _place = self.places.acquire().await.map_err(Error::internal)?;
        let memory = self.config.admission_memory_bytes.as_u64().saturating_add(bytes.saturating_mul(TIMES_ITS_SIZE));
        let mut child = self.command(model, memory)?.spawn().map_err(|error| cannot_try(&error))?;
        let limit = self.config.admission_timeout;
        let ended = end_of(&mut child, limit).await.map_err(|error| cannot_try(&error))?;
        ended.verdict(limit, memory)
    }

    fn command(&self, model: &Path, memory_bytes: u64) -> Result<Command> {
        let library = self.library.as_deref().ok_or_else(|| cannot_try(&"ONNX Runtime is not configured"))?;
        let library = std::path::absolute(library).map_err(|error| cannot_try(&error))?;
        let model = std::path::absolute(model).map_err(|error| cannot_try(&error))?;
        let cpu_seconds = self.config.admission_timeout.as_secs().saturating_add(1).to_string();
        let mut command = Command::new(self.config.binary().map_err(|error| cannot_try(&error))?);
        command.arg("admit").arg("--onnxruntime").arg(library);
        command.args(["--memory-bytes", &memory_bytes.to_string(), "--cpu-seconds", &cpu_seconds]).arg(model);
        command.env_clear().envs(admission_environment()).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Ok(command)
    }
}

async fn end_of(child: &mut Child, limit: Duration) -> std::io::Result<Ended> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let end = async {
        match tokio::time::timeout(limit, child.wait()).await {
            Ok(status) => Ok((status?, false)),
            Err(_) => {
                child.kill().await?;
                Ok((child.wait().await?, true))
            }
        }
    };
    let (stdout, stderr, (status, timed_out)) = tokio::try_join!(read(stdout), read(stderr), end)?;
    Ok(Ended { status, timed_out, stdout, stderr })
}

/// What comes out of a pipe, up to a limit; what comes after it is dropped.
async fn read(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let Some(mut pipe) = pipe else { return Ok(String::new()) };
    let mut bytes = Vec::new();
    (&mut pipe).take(OUTPUT_BYTES).read_to_end(&mut bytes).await?;
    tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Ended {
    fn verdict(&self, limit: Duration, memory: u64) -> Result<Admitted> {
        let reports = self.stdout.lines().filter_map(|line| serde_json::from_str(line).ok());
        let reports: Vec<Report> = reports.collect();
        match reports.as_slice() {
            [.., Report::Admitted(seen), Report::Batching(batching)] if self.status.success() => {
                admitted(seen, batching.clone(), memory)
            }
            // What goes wrong with several rows is no reason to refuse a model that runs.
            [.., Report::Admitted(seen)] | [.., Report::Admitted(seen), Report::Batching(_)] => {
                let doing = "a run on several rows";
                let why = self.error(doing, limit, memory);
                let is_unknown = why.code == ErrorCode::Internal;
                let reason = if is_unknown { format!("{doing} ended with {}", self.status) } else { why.message };
                admitted(seen, Batching::off(reason), memory)
            }
            [.., Report::Refused { message }] if self.status.success() && out_of_memory(message) => {
                Err(too_large(FIRST_RUN, memory).with_cause(message))
            }
            [.., Report::Refused { message }] if self.status.success() => {
                Err(Error::invalid_input(shorten(message.clone())))
            }
            [.., Report::Running] => Err(self.error("a run of this model on zeros", limit, memory)),
            [.., Report::Loading] => Err(self.error("loading this model", limit, memory)),
            _ if self.timed_out => Err(too_slow(FIRST_RUN, limit)),
            _ => Err(cannot_try(&format!("it ended with {}: {}", self.status, self.stderr))),
        }
    }

    /// Why the process ended while it was at something.
    fn error(&self, doing: &str, limit: Duration, memory: u64) -> Error {
        let is_slow = |signal| signal == rustix::process::Signal::XCPU.as_raw();
        match self.status.signal() {
            _ if self.timed_out => too_slow(doing, limit),
            Some(signal) if is_slow(signal) => too_slow(doing, limit),
            _ if out_of_memory(&self.stderr) => too_large(doing, memory),
            _ if self.stderr.contains("has overflowed its stack") => {
                Error::invalid_input(format!("{doing} takes more stack than a thread has: it is nested too deep"))
            }
            Some(signal) => Error::invalid_input(format!("{doing} ended ONNX Runtime with {}", signal_name(signal))),
            None => cannot_try(&format!("{doing} ended with {}", self.status)),
        }
        .with_cause(shorten(self.stderr.clone()))
    }
}

fn admitted(seen: &Seen, batching: Batching, memory: u64) -> Result<Admitted> {
    match seen.run_error.as_deref().filter(|error| out_of_memory(error)) {
        Some(error) => Err(too_large(FIRST_RUN, memory).with_cause(error)),
        None => Ok(Admitted { seen: seen.clone(), batching }),
    }
}

/// Whether a message of ONNX Runtime, the C++ library or Rust's is about memory that it did not get.
fn out_of_memory(text: &str) -> bool {
    ["bad_alloc", "bad allocation", "Failed to allocate memory", "memory allocation of", "cannot allocate memory"]
        .iter()
        .any(|sign| text.contains(sign))
}

fn too_slow(doing: &str, limit: Duration) -> Error {
    let limit = humantime::format_duration(limit);
    Error::invalid_input(format!("{doing} took more than {limit} (--admission-timeout)"))
}

fn too_large(doing: &str, memory: u64) -> Error {
    let memory = ByteSize(memory);
    Error::invalid_input(format!(
        "{doing} took more than {memory} of memory (--admission-memory-bytes, and {TIMES_ITS_SIZE} times the model's size)"
    ))
}

/// A fault of the host's own, not of the model.
fn cannot_try(problem: &dyn std::fmt::Display) -> Error {
    Error::internal(format!("the model could not be tried in a process of its own: {problem}"))
}

fn signal_name(signal: i32) -> String {
    const NAMES: [(i32, &str); 8] = [
        (4, "SIGILL"),
        (5, "SIGTRAP"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL: the system may be out of memory"),
        (11, "SIGSEGV"),
        (31, "SIGSYS"),
    ];
    let name = NAMES.iter().find(|(number, _)| *number == signal);
    name.map_or_else(|| format!("signal {signal}"), |(_, name)| format!("signal {signal} ({name})"))
}
