//! ONNX Runtime, and how sessions of it are made.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ort::AsPointer;
use ort::environment::Environment;
use ort::ep::{self, ExecutionProvider as _, ExecutionProviderDispatch};
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use super::provider::{ExecutionProvider, ProviderKind};
use crate::error::{Error, Result};
use crate::onnx::empty_sequence;
use crate::tensor::DataType;

/// How a session runs a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionOptions {
    /// Threads that one run is spread over.
    pub threads: usize,
    pub provider: ExecutionProvider,
    /// Whether a model of which nothing runs on the provider is refused: it was asked for by name for this model.
    pub must_use_provider: bool,
    /// Told by the sessions that are made with these options.
    pub placement: Placement,
}

/// Whether the CPU runs all of a model, whatever was asked for. Cloning shares it. It is what came of options, and none of
/// them: any two are equal.
#[derive(Debug, Clone, Default)]
pub struct Placement {
    is_all_on_cpu: Arc<AtomicBool>,
}

impl PartialEq for Placement {
    fn eq(&self, _: &Placement) -> bool {
        true
    }
}

impl Eq for Placement {}

impl Default for SessionOptions {
    /// One thread of the CPU: workers run side by side.
    fn default() -> SessionOptions {
        SessionOptions::on(ExecutionProvider::default(), 1)
    }
}

impl SessionOptions {
    /// Runs on a provider, spread over so many threads.
    pub fn on(provider: ExecutionProvider, threads: usize) -> SessionOptions {
        SessionOptions { threads, provider, must_use_provider: false, placement: Placement::default() }
    }

    /// What sessions of these options run on: the provider, or the CPU where that runs all of the model for it.
    pub fn runs_on(&self) -> ExecutionProvider {
        match self.placement.is_all_on_cpu.load(Ordering::Relaxed) {
            true => ExecutionProvider::default(),
            false => self.provider.clone(),
        }
    }
}

/// ONNX Runtime, loaded. One a process.
#[derive(Clone)]
pub struct Runtime {
    pub(super) environment: Environment,
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

    /// The names of the execution providers that the library offers.
    pub fn offered(&self) -> Vec<&'static str> {
        let offered = ProviderKind::ALL.into_iter().filter(|kind| is_offered(*kind));
        offered.map(ProviderKind::name).collect()
    }

    /// Makes sure that models can run on what was asked for. Blocks, on a device for as long as it takes to start it.
    ///
    /// # Errors
    /// `InvalidInput` where the library does not offer it, or it does not start here: no such device, no driver.
    pub fn check(&self, provider: &ExecutionProvider) -> Result<()> {
        if provider.kind == ProviderKind::Cpu {
            return Ok(());
        }
        let offered = self.offered().join(", ");
        if !is_offered(provider.kind) {
            return Err(Error::invalid_input(format!(
                "this host's ONNX Runtime library does not offer the execution provider {provider}; it offers: {offered}"
            )));
        }
        // A provider that the library has may still lack a driver or a device, which shows with a session.
        let options = SessionOptions::on(provider.clone(), 1);
        let started = self.builder(&options).and_then(|mut builder| {
            let smallest = empty_sequence::model(DataType::Fp32.onnx());
            builder.commit_from_memory(&smallest)
        });
        started.map(|_| ()).map_err(|error| {
            Error::invalid_input(format!(
                "the execution provider {provider} does not start on this host: {}; ONNX Runtime's library offers: {offered}",
                reason(&error)
            ))
        })
    }

    /// A session as each worker has one.
    pub(super) fn session(&self, model_file: &Path, options: &SessionOptions) -> ort::Result<Session> {
        let session = self.builder(options)?.commit_from_file(model_file)?;
        check_placement(&session, model_file, options)?;
        Ok(session)
    }

    fn builder(&self, options: &SessionOptions) -> ort::Result<SessionBuilder> {
        let kind = options.provider.kind;
        let builder = Session::builder(&self.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(options.threads)?
            .with_inter_threads(1)?
            // Without VNNI, an x86 CPU's fast int8 kernels saturate: a cat became another cat. This takes the exact ones.
            .with_precise_qmm()?
            // DirectML takes no memory patterns.
            .with_memory_pattern(kind != ProviderKind::DirectMl)?;
        let builder = match looks_at_placement(options) {
            true => builder.with_config_entry("session.record_ep_graph_assignment_info", "1")?,
            false => builder,
        };
        match dispatch(options) {
            // By default ort logs that a provider failed, and goes on with the CPU.
            Some(provider) => Ok(builder.with_execution_providers([provider.error_on_failure()])?),
            None => Ok(builder),
        }
    }
}

/// ONNX Runtime's sentence, without the place in its source.
fn reason(error: &ort::Error) -> &str {
    let message = error.message().trim();
    message.split_once("[ONNXRuntimeError] : ").map_or(message, |(_, message)| message)
}

/// Every operator can run on the CPU, so there is nothing to see where that is not asked for.
fn looks_at_placement(options: &SessionOptions) -> bool {
    options.provider.kind != ProviderKind::Cpu || options.must_use_provider
}

/// Looks at what of a model a provider took: what it cannot run ONNX Runtime gives to the CPU.
fn check_placement(session: &Session, model_file: &Path, options: &SessionOptions) -> ort::Result<()> {
    if !looks_at_placement(options) {
        return Ok(());
    }
    place(&operators_by_provider(session)?, model_file, options)
}

fn place(operators: &BTreeMap<String, usize>, model_file: &Path, options: &SessionOptions) -> ort::Result<()> {
    let (model, provider) = (model_file.display(), &options.provider);
    if operators.is_empty() || operators.contains_key(provider.kind.onnx_name()) {
        tracing::info!(%model, %provider, ?operators, "the model's operators have their places");
        return Ok(());
    }
    if options.must_use_provider {
        return Err(ort::Error::new(format!(
            "{provider} has none of its operators, and would leave all of them to the CPU; set cpu if that is meant"
        )));
    }
    tracing::warn!(%model, %provider, ?operators, "the provider has none of the model's operators: the CPU runs them");
    options.placement.is_all_on_cpu.store(true, Ordering::Relaxed);
    Ok(())
}

/// How many operators of a session each provider got, by ONNX Runtime's names.
#[allow(unsafe_code)]
fn operators_by_provider(session: &Session) -> ort::Result<BTreeMap<String, usize>> {
    let api = ort::api();
    let (mut subgraphs, mut count) = (ptr::null(), 0);
    let mut operators = BTreeMap::new();
    // SAFETY: what is read belongs to the session, which outlives this. A call that does not fail has written its results:
    // an array of as many elements as it says, a name that ends with a zero.
    unsafe {
        let status = (api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &mut subgraphs, &mut count);
        ort::Error::result_from_status(status)?;
        if subgraphs.is_null() {
            return Ok(operators);
        }
        for &subgraph in std::slice::from_raw_parts(subgraphs, count) {
            let (mut name, mut nodes, mut count) = (ptr::null(), ptr::null(), 0);
            ort::Error::result_from_status((api.EpAssignedSubgraph_GetEpName)(subgraph, &mut name))?;
            ort::Error::result_from_status((api.EpAssignedSubgraph_GetNodes)(subgraph, &mut nodes, &mut count))?;
            *operators.entry(CStr::from_ptr(name).to_string_lossy().into_owned()).or_default() += count;
        }
    }
    Ok(operators)
}

/// Whether the library was built with a provider.
fn is_offered(kind: ProviderKind) -> bool {
    let is_available = match kind {
        ProviderKind::Cpu => return true,
        ProviderKind::Cuda => ep::CUDA::is_available(),
        ProviderKind::TensorRt => ep::TensorRT::is_available(),
        ProviderKind::NvTensorRtRtx => ep::NVRTX::is_available(),
        ProviderKind::Rocm => ep::ROCm::is_available(),
        ProviderKind::MiGraphX => ep::MIGraphX::is_available(),
        ProviderKind::OpenVino => ep::OpenVINO::is_available(),
        ProviderKind::DirectMl => ep::DirectML::is_available(),
        ProviderKind::CoreMl => ep::CoreML::is_available(),
        ProviderKind::Xnnpack => ep::XNNPACK::is_available(),
        ProviderKind::OneDnn => ep::OneDNN::is_available(),
    };
    is_available.unwrap_or(false)
}

/// The provider as sessions take it; `None` for the CPU, which every session has.
fn dispatch(options: &SessionOptions) -> Option<ExecutionProviderDispatch> {
    let SessionOptions { threads, provider, .. } = options;
    let index = i32::from(provider.index());
    Some(match provider.kind {
        ProviderKind::Cpu => return None,
        ProviderKind::Cuda => ep::CUDA::default().with_device_id(index).build(),
        ProviderKind::TensorRt => ep::TensorRT::default().with_device_id(index).build(),
        ProviderKind::NvTensorRtRtx => ep::NVRTX::default().with_device_id(provider.index().into()).build(),
        ProviderKind::Rocm => ep::ROCm::default().with_device_id(index).build(),
        ProviderKind::MiGraphX => ep::MIGraphX::default().with_device_id(index).build(),
        ProviderKind::DirectMl => ep::DirectML::default().with_device_id(index).build(),
        ProviderKind::OpenVino => match &provider.device {
            Some(device) => ep::OpenVINO::default().with_device_type(device).build(),
            None => ep::OpenVINO::default().build(),
        },
        ProviderKind::CoreMl => ep::CoreML::default().build(),
        // It has threads of its own.
        ProviderKind::Xnnpack => {
            let threads = NonZeroUsize::new(*threads).unwrap_or(NonZeroUsize::MIN);
            ep::XNNPACK::default().with_intra_op_num_threads(threads).build()
        }
        ProviderKind::OneDnn => ep::OneDNN::default().build(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cpu_runs_all_of_is_told_as_the_cpus_and_refused_where_the_provider_was_set_for_it() {
        let cuda = || SessionOptions::on("cuda:1".parse().unwrap(), 1);
        let got = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), 3)).collect::<BTreeMap<_, _>>();
        let file = Path::new("model.onnx");
        for (operators, expected) in [
            (got(&["CPUExecutionProvider", "CUDAExecutionProvider"]), "cuda:1"),
            (got(&["CPUExecutionProvider"]), "cpu"),
            // A model without operators runs nowhere.
            (got(&[]), "cuda:1"),
        ] {
            let options = cuda();
            let loaded_with = options.clone();
            place(&operators, file, &loaded_with).unwrap();
            assert_eq!(options.runs_on().to_string(), expected, "{operators:?}");
            assert_eq!(options, cuda(), "it is run in the same way, wherever that is");
        }
        let set = SessionOptions { must_use_provider: true, ..cuda() };
        assert!(place(&got(&["CPUExecutionProvider"]), file, &set).unwrap_err().message().contains("set cpu"));
    }
}
