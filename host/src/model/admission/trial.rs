//! The other side of admission, a process of its own: `model-nexus admit` loads a model, runs it once on zeros, and
//! writes a line of JSON for each step.

use std::borrow::Cow;
use std::path::Path;
use std::{fs, io, thread};

use ort::session::{Session, SessionInputValue};
use ort::value::{Outlet, PrimitiveTensorElementType, TensorElementType, ValueType};
use rustix::process::{Resource, Rlimit, Signal};

use super::{Admitted, Report};
use crate::config::AdmitOptions;
use crate::model::Runtime;

/// Less than the threads have that load and run models in the host: what fits here fits there.
const STACK_BYTES: usize = 1536 << 10;
/// Bytes of zeros that a model is run with at most. One that takes more is loaded and not run.
const INPUT_BYTES: usize = 256 << 20;

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
    let mut session = match runtime.session(model) {
        Ok(session) => session,
        Err(error) => {
            // Where the host keeps an upload is nothing to its client.
            let message = error.message().replace(&format!("Load model from {} failed:", model.display()), "");
            return Ok(Report::Refused { message: format!("ONNX Runtime refuses this model: {message}") });
        }
    };
    say(&Report::Running)?;
    let run_error = run_on_zeros(&mut session).err();
    let session_bytes = private_bytes().zip(before).map(|(after, before)| after.saturating_sub(before));
    Ok(Report::Admitted(Admitted { session_bytes, run_error }))
}

fn run_on_zeros(session: &mut Session) -> Result<(), String> {
    let mut left = INPUT_BYTES;
    let inputs: Vec<(String, SessionInputValue<'static>)> = session
        .inputs()
        .iter()
        .map(|input| Ok((input.name().to_owned(), zeros(input, &mut left)?)))
        .collect::<Result<_, String>>()?;
    let inputs: Vec<(Cow<'_, str>, _)> = inputs.into_iter().map(|(name, value)| (Cow::from(name), value)).collect();
    session.run(inputs).map(drop).map_err(|error| error.message().to_owned())
}

/// A tensor of zeros as an input declares it, with 1 for every size that is not fixed.
fn zeros(input: &Outlet, left: &mut usize) -> Result<SessionInputValue<'static>, String> {
    let ValueType::Tensor { ty, shape, .. } = input.dtype() else {
        return Err(format!("{} is a {}", input.name(), input.dtype()));
    };
    let shape: Vec<i64> = shape.iter().map(|&size| if size < 0 { 1 } else { size }).collect();
    let elements = shape.iter().try_fold(1usize, |elements, &size| elements.checked_mul(usize::try_from(size).ok()?));
    let bytes = elements.and_then(|elements| elements.checked_mul(ty.byte_size(1).unwrap_or(size_of::<String>())));
    *left = bytes
        .and_then(|bytes| left.checked_sub(bytes))
        .ok_or_else(|| format!("its inputs take more than {INPUT_BYTES} bytes"))?;
    let elements = elements.unwrap_or_default();
    let value = match ty {
        TensorElementType::Float32 => filled(shape, elements, 0f32),
        TensorElementType::Float64 => filled(shape, elements, 0f64),
        TensorElementType::Float16 => filled(shape, elements, half::f16::ZERO),
        TensorElementType::Bfloat16 => filled(shape, elements, half::bf16::ZERO),
        TensorElementType::Uint8 => filled(shape, elements, 0u8),
        TensorElementType::Uint16 => filled(shape, elements, 0u16),
        TensorElementType::Uint32 => filled(shape, elements, 0u32),
        TensorElementType::Uint64 => filled(shape, elements, 0u64),
        TensorElementType::Int8 => filled(shape, elements, 0i8),
        TensorElementType::Int16 => filled(shape, elements, 0i16),
        TensorElementType::Int32 => filled(shape, elements, 0i32),
        TensorElementType::Int64 => filled(shape, elements, 0i64),
        TensorElementType::Bool => filled(shape, elements, false),
        TensorElementType::String => {
            ort::value::Tensor::from_string_array((shape, vec![String::new(); elements].as_slice())).map(Into::into)
        }
        other => return Err(format!("{} has elements of type {other}", input.name())),
    };
    value.map_err(|error| error.message().to_owned())
}

fn filled<T>(shape: Vec<i64>, elements: usize, zero: T) -> ort::Result<SessionInputValue<'static>>
where
    T: PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static,
{
    Ok(ort::value::Tensor::from_array((shape, vec![zero; elements]))?.into())
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
