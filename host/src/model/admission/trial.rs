//! The other side of admission, a process of its own: `model-nexus admit` loads a model, runs it once on zeros and
//! then on rows together and one by one, and writes a line of JSON for each step.

use std::path::Path;
use std::{fs, io, thread};

use ort::session::Session;
use rustix::process::{Resource, Rlimit, Signal};

use super::batching::{Batching, try_rows};
use super::{Report, Seen};
use crate::config::AdmitOptions;
use crate::model::spec::{input_specs, zeros};
use crate::model::worker;
use crate::model::{Runtime, SessionOptions};
use crate::onnx::{self, ModelMetadata};

/// Less than the threads have that load and run models in the host: what fits here fits there.
const STACK_BYTES: usize = 1536 << 10;

/// Tries a model, and writes on stdout how that went.
///
/// # Errors
/// What keeps any model from being tried: a limit that cannot be set, no ONNX Runtime.
pub fn run(options: &AdmitOptions) -> Result<(), String> {
    limit(options).map_err(|error| format!("limits: {error}"))?;
    let runtime = Runtime::load(Some(&options.onnxruntime))?;
    let model = options.model.clone();
    let tried = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || attempt(&runtime, &model));
    let report = tried.map_err(|error| error.to_string())?.join().map_err(|_| "the trial panicked".to_owned())??;
    say(&report)
}

/// Limits this process before it sees the model.
fn limit(options: &AdmitOptions) -> io::Result<()> {
    let most = |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
    // Private memory that can be written to: ONNX Runtime maps much more of files and address space than it fills.
    rustix::process::setrlimit(Resource::Data, most(options.memory_bytes))?;
    // The first limit ends the process with a signal of its own, by which the host tells why.
    let cpu = Rlimit { current: Some(options.cpu_seconds), maximum: Some(options.cpu_seconds.saturating_add(1)) };
    rustix::process::setrlimit(Resource::Cpu, cpu)?;
    rustix::process::setrlimit(Resource::Core, most(0))?;
    rustix::process::setrlimit(Resource::Fsize, most(0))?;
    // Requests that are being served come first.
    rustix::process::nice(10)?;
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // Should the whole machine run out of memory, this process goes first.
        fs::write("/proc/self/oom_score_adj", "1000")?;
    }
    Ok(())
}

fn attempt(runtime: &Runtime, model: &Path) -> Result<Report, String> {
    say(&Report::Loading)?;
    let before = private_bytes();
    let mut session = match runtime.session(model, &SessionOptions::default()) {
        Ok(session) => session,
        Err(error) => {
            // Where the host keeps an upload is nothing to its client.
            let message = error.message().replace(&format!("Load model from {} failed:", model.display()), "");
            return Ok(Report::Refused { message: format!("ONNX Runtime refuses this model: {message}") });
        }
    };
    say(&Report::Running)?;
    let metadata = onnx::read_file(model).map_err(|error| error.to_string());
    let ran =
        metadata.as_ref().map_err(String::clone).and_then(|metadata| run_on_zeros(runtime, &mut session, metadata));
    let session_bytes = private_bytes().zip(before).map(|(after, before)| after.saturating_sub(before));
    // From here on the model is in: what comes of the batch says no more than whether requests are run together.
    say(&Report::Admitted(Seen { session_bytes, run_error: ran.err() }))?;
    let tried = metadata.map(|metadata| try_rows(&metadata, |inputs| worker::run_once(runtime, &mut session, inputs)));
    Ok(Report::Batching(tried.unwrap_or_else(Batching::off)))
}

fn run_on_zeros(runtime: &Runtime, session: &mut Session, metadata: &ModelMetadata) -> Result<(), String> {
    let inputs = zeros(&input_specs(&metadata.inputs)).ok_or("its inputs are no tensors, or very large")?;
    worker::run_once(runtime, session, &inputs).map(|_| ()).map_err(|error| error.message)
}

/// Memory that is this process's alone, so without the pages of files.
fn private_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(kibibytes.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[allow(clippy::print_stdout)]
fn say(report: &Report) -> Result<(), String> {
    println!("{}", serde_json::to_string(report).map_err(|error| error.to_string())?);
    Ok(())
}
