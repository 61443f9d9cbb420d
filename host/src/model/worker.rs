//! Threads that own an ONNX Runtime session each, fed by one bounded queue. With `admission`, the only place that knows ort.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{RunOptions, Session, SessionInputValue};
use ort::value::{
    DynMapValueType, DynValue, PrimitiveTensorElementType, TensorElementType, TensorRef, Value, ValueType,
};
use tokio::sync::oneshot;

use crate::error::{Error, ErrorCode, Result};
use crate::tensor::{Data, DataType, Output, Tensor};

/// ONNX Runtime, loaded. One a process.
#[derive(Clone)]
pub struct Runtime {
    environment: Environment,
}

impl Runtime {
    /// Loads ONNX Runtime's shared library.
    ///
    /// # Errors
    /// The file is not there, is no ONNX Runtime, or is older than the host needs.
    pub fn load(library: Option<&PathBuf>) -> std::result::Result<Runtime, String> {
        let library = library.ok_or(
            "ONNX Runtime is not configured: set ORT_DYLIB_PATH (or --onnxruntime) to libonnxruntime.so; \
             `cargo xtask serve` fetches one and sets it",
        )?;
        // A relative path would be looked up beside the executable first; what the operator means is the working folder.
        let library = std::path::absolute(library).map_err(|error| format!("{}: {error}", library.display()))?;
        let builder = ort::init_from(&library).map_err(|error| {
            format!("{error}; set ORT_DYLIB_PATH (or --onnxruntime) to ONNX Runtime's shared library")
        })?;
        let environment =
            builder.with_name("model-nexus").with_telemetry(false).build().map_err(|error| error.to_string())?;
        environment.set_log_level(LogLevel::Warning);
        Ok(Runtime { environment })
    }

    /// A session of one thread, as each worker has one.
    pub(super) fn session(&self, model_file: &Path) -> ort::Result<Session> {
        Session::builder(&self.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(1)?
            .with_inter_threads(1)?
            // Without VNNI, an x86 CPU's fast int8 kernels saturate: a cat became another cat. This takes the exact ones.
            .with_precise_qmm()?
            .commit_from_file(model_file)
    }
}

/// A model's answer, and how long it took.
#[derive(Debug)]
pub struct Inference {
    pub outputs: Vec<Output>,
    /// Time the request waited for a worker.
    pub queued: Duration,
    /// Time in ONNX Runtime.
    pub ran: Duration,
}

struct Job {
    inputs: Vec<Tensor>,
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
    /// Requests that may wait.
    pub queue_capacity: usize,
    /// Of all outputs of one run.
    pub output_bytes: usize,
}

/// Runs of each session before it takes requests: the first one allocates, and may take much longer than any after it.
#[derive(Clone)]
pub struct WarmUp {
    inputs: Vec<Tensor>,
    runs: u32,
    options: Arc<RunOptions>,
}

impl WarmUp {
    /// # Errors
    /// ONNX Runtime has no more memory.
    pub fn new(inputs: Vec<Tensor>, runs: u32) -> Result<WarmUp> {
        Ok(WarmUp { inputs, runs, options: Arc::new(RunOptions::new().map_err(Error::internal)?) })
    }

    /// Ends runs that take too long.
    pub fn end(&self) {
        drop(EndOnDrop(self.options.clone()));
    }

    /// A model that does not take these inputs serves all the same.
    fn run(&self, session: &mut Session, name: &str) {
        for _ in 0..self.runs {
            if let Err(error) = run(session, &self.inputs, &self.options, usize::MAX) {
                tracing::info!(model = name, error = error.message, "the model takes no zeros, and is not warmed up");
                return;
            }
        }
    }
}

/// The workers of one model version. They end when this is dropped, after the jobs they have.
#[derive(Debug)]
pub struct Workers {
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
        warm_up: Option<&WarmUp>,
    ) -> Result<Workers> {
        let WorkerLimits { instances, queue_capacity, output_bytes } = limits;
        let (jobs, queue) = bounded(queue_capacity);
        for index in 0..instances {
            let mut session = runtime.session(model_file).map_err(|error| {
                Error::invalid_input(format!("ONNX Runtime refuses this model: {}", error.message()))
            })?;
            if let Some(warm_up) = warm_up {
                warm_up.run(&mut session, name);
            }
            let queue = queue.clone();
            // Thread names are cut at 15 bytes by Linux, so what differs comes first.
            thread::Builder::new()
                .name(format!("{index}:{name}"))
                .spawn(move || work(session, &queue, output_bytes))
                .map_err(Error::internal)?;
        }
        Ok(Workers { jobs, queue_capacity })
    }

    /// Runs the model. Dropping the future abandons the job: a worker skips it if it has not begun, and ends it if it has.
    ///
    /// # Errors
    /// The queue is full, or ONNX Runtime refuses the inputs.
    pub async fn infer(&self, inputs: Vec<Tensor>) -> Result<Inference> {
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

fn work(mut session: Session, queue: &Receiver<Job>, output_bytes: usize) {
    while let Ok(job) = queue.recv() {
        if job.reply.is_closed() {
            continue;
        }
        let _in_span = job.span.enter();
        let started = Instant::now();
        let outputs = run(&mut session, &job.inputs, &job.options, output_bytes);
        let inference =
            outputs.map(|outputs| Inference { outputs, queued: started - job.queued_at, ran: started.elapsed() });
        if job.reply.send(inference).is_err() {
            tracing::debug!("the client went away during the run");
        }
    }
}

fn run(session: &mut Session, inputs: &[Tensor], options: &RunOptions, output_bytes: usize) -> Result<Vec<Output>> {
    let values: Vec<(Cow<'_, str>, SessionInputValue<'_>)> =
        inputs.iter().map(|tensor| Ok((Cow::from(tensor.name.as_str()), to_value(tensor)?))).collect::<Result<_>>()?;
    let outputs = session.run_with_options(values, options).map_err(|error| {
        Error::invalid_input(format!("ONNX Runtime could not run the model on this input: {}", error.message()))
    })?;
    let bytes = outputs.iter().fold(0usize, |bytes, (_, value)| bytes.saturating_add(least_bytes(&value)));
    if bytes > output_bytes {
        return Err(Error::new(
            ErrorCode::TooLarge,
            format!("the model's answer of {bytes} bytes is larger than {output_bytes} (--max-output-bytes)"),
        ));
    }
    outputs.iter().map(|(name, value)| from_value(name, &value)).collect()
}

fn to_value(tensor: &Tensor) -> Result<SessionInputValue<'_>> {
    let value = match (&tensor.data, tensor.datatype) {
        (Data::Strings(strings), _) => return strings_to_value(tensor, strings),
        (Data::Raw(bytes), DataType::Fp32) => view::<f32>(tensor, bytes),
        (Data::Raw(bytes), DataType::Fp64) => view::<f64>(tensor, bytes),
        (Data::Raw(bytes), DataType::Fp16) => view::<half::f16>(tensor, bytes),
        (Data::Raw(bytes), DataType::Bf16) => view::<half::bf16>(tensor, bytes),
        (Data::Raw(bytes), DataType::Uint8) => view::<u8>(tensor, bytes),
        (Data::Raw(bytes), DataType::Uint16) => view::<u16>(tensor, bytes),
        (Data::Raw(bytes), DataType::Uint32) => view::<u32>(tensor, bytes),
        (Data::Raw(bytes), DataType::Uint64) => view::<u64>(tensor, bytes),
        (Data::Raw(bytes), DataType::Int8) => view::<i8>(tensor, bytes),
        (Data::Raw(bytes), DataType::Int16) => view::<i16>(tensor, bytes),
        (Data::Raw(bytes), DataType::Int32) => view::<i32>(tensor, bytes),
        (Data::Raw(bytes), DataType::Int64) => view::<i64>(tensor, bytes),
        (Data::Raw(bytes), DataType::Bool) => bool_view(tensor, bytes),
        (Data::Raw(_), DataType::Bytes) => return Err(Error::internal("a BYTES tensor without strings")),
    };
    value.map_err(Error::internal)
}

/// The tensor's own memory as the session's input, or a copy of it where it is not aligned for its elements.
fn view<'t, T>(tensor: &'t Tensor, bytes: &'t Bytes) -> ort::Result<SessionInputValue<'t>>
where
    T: PrimitiveTensorElementType + bytemuck::Pod + std::fmt::Debug,
{
    match bytemuck::try_cast_slice::<u8, T>(bytes) {
        Ok(elements) => Ok(TensorRef::from_array_view((tensor.shape.as_slice(), elements))?.into()),
        Err(_) => {
            let elements: Vec<T> = bytemuck::allocation::pod_collect_to_vec(bytes);
            Ok(ort::value::Tensor::from_array((tensor.shape.as_slice(), elements))?.into())
        }
    }
}

fn bool_view<'t>(tensor: &'t Tensor, bytes: &'t Bytes) -> ort::Result<SessionInputValue<'t>> {
    match bytemuck::checked::try_cast_slice::<u8, bool>(bytes) {
        Ok(elements) => Ok(TensorRef::from_array_view((tensor.shape.as_slice(), elements))?.into()),
        Err(error) => Err(ort::Error::new(error.to_string())),
    }
}

fn strings_to_value(tensor: &Tensor, strings: &[Bytes]) -> Result<SessionInputValue<'static>> {
    let texts: Vec<String> = strings
        .iter()
        .map(|string| std::str::from_utf8(string).map(str::to_owned))
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| Error::invalid_input(format!("input {}: ONNX strings are UTF-8: {error}", tensor.name)))?;
    let value = ort::value::Tensor::from_string_array((tensor.shape.as_slice(), texts.as_slice()))
        .map_err(|error| Error::invalid_input(format!("input {}: {}", tensor.name, error.message())))?;
    Ok(value.into())
}

/// What an output takes in memory at the least: exact for numbers, a reference each for strings.
fn least_bytes(value: &DynValue) -> usize {
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else { return 0 };
    shape.num_elements().saturating_mul(ty.byte_size(1).unwrap_or(size_of::<Bytes>()))
}

fn from_value(name: &str, value: &DynValue) -> Result<Output> {
    let output = match value.dtype() {
        ValueType::Tensor { ty, .. } => from_tensor(name, *ty, value).map(Output::Tensor),
        ValueType::Sequence(element) if matches!(**element, ValueType::Map { .. }) => from_maps(name, value),
        other => return Err(Error::invalid_input(format!("output {name} is a {other}, which the host cannot return"))),
    };
    output.map_err(Error::internal)
}

fn from_tensor(name: &str, element: TensorElementType, value: &DynValue) -> ort::Result<Tensor> {
    match element {
        TensorElementType::Float32 => copy::<f32>(name, DataType::Fp32, value),
        TensorElementType::Float64 => copy::<f64>(name, DataType::Fp64, value),
        TensorElementType::Float16 => copy::<half::f16>(name, DataType::Fp16, value),
        TensorElementType::Bfloat16 => copy::<half::bf16>(name, DataType::Bf16, value),
        TensorElementType::Uint8 => copy::<u8>(name, DataType::Uint8, value),
        TensorElementType::Uint16 => copy::<u16>(name, DataType::Uint16, value),
        TensorElementType::Uint32 => copy::<u32>(name, DataType::Uint32, value),
        TensorElementType::Uint64 => copy::<u64>(name, DataType::Uint64, value),
        TensorElementType::Int8 => copy::<i8>(name, DataType::Int8, value),
        TensorElementType::Int16 => copy::<i16>(name, DataType::Int16, value),
        TensorElementType::Int32 => copy::<i32>(name, DataType::Int32, value),
        TensorElementType::Int64 => copy::<i64>(name, DataType::Int64, value),
        TensorElementType::Bool => copy::<bool>(name, DataType::Bool, value),
        TensorElementType::String => {
            let (shape, strings) = value.try_extract_strings()?;
            let shape = sizes(shape)?;
            let strings = strings.into_iter().map(Bytes::from).collect();
            Tensor::from_strings(name.to_owned(), shape, strings).map_err(ort::Error::wrap)
        }
        other => Err(ort::Error::new(format!("output {name} has elements of type {other}"))),
    }
}

fn copy<T>(name: &str, datatype: DataType, value: &DynValue) -> ort::Result<Tensor>
where
    T: PrimitiveTensorElementType + bytemuck::NoUninit,
{
    let (shape, elements) = value.try_extract_tensor::<T>()?;
    let bytes = Bytes::copy_from_slice(bytemuck::cast_slice(elements));
    Ok(Tensor { name: name.to_owned(), datatype, shape: sizes(shape)?, data: Data::Raw(bytes) })
}

fn sizes(shape: &[i64]) -> ort::Result<Vec<usize>> {
    shape.iter().map(|&size| usize::try_from(size).map_err(ort::Error::wrap)).collect()
}

fn from_maps(name: &str, value: &DynValue) -> ort::Result<Output> {
    let sequence = value.view();
    let sequence = sequence.downcast::<ort::value::DynSequenceValueType>()?;
    let maps: Vec<Value<DynMapValueType>> = sequence.try_extract_sequence()?;
    let rows = maps
        .iter()
        .map(|map| match map.dtype() {
            ValueType::Map { key: TensorElementType::String, .. } => map.try_extract_key_values::<String, f32>(),
            _ => {
                let scores = map.try_extract_key_values::<i64, f32>()?;
                Ok(scores.into_iter().map(|(class, score)| (class.to_string(), score)).collect())
            }
        })
        .collect::<ort::Result<_>>()?;
    Ok(Output::Maps { name: name.to_owned(), rows })
}
