//! ONNX Runtime, and how sessions of it are made.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
}

impl Default for SessionOptions {
    /// One thread of the CPU: workers run side by side.
    fn default() -> SessionOptions {
        SessionOptions { threads: 1, provider: ExecutionProvider::default() }
    }
}

/// ONNX Runtime, loaded. One a process.
#[derive(Clone)]
pub struct Runtime {
    pub(super) environment: Environment,
    /// The providers that the library was built with.
    offered: Arc<[ProviderKind]>,
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
        let is_offered = |kind: &ProviderKind| is_available(*kind).unwrap_or(false);
        let offered = ProviderKind::ALL.into_iter().filter(is_offered).collect();
        Ok(Runtime { environment, offered })
    }

    /// The execution providers that the library offers.
    pub fn offered(&self) -> &[ProviderKind] {
        &self.offered
    }

    /// Makes sure that models can run on what was asked for. Blocks, on a device for as long as it takes to start it.
    ///
    /// # Errors
    /// `InvalidInput` where the library does not offer it, or it does not start here: no such device, no driver.
    pub fn check(&self, provider: &ExecutionProvider) -> Result<()> {
        if provider.kind == ProviderKind::Cpu {
            return Ok(());
        }
        let offered: Vec<&str> = self.offered.iter().map(|kind| kind.name()).collect();
        let offered = offered.join(", ");
        if !self.offered.contains(&provider.kind) {
            return Err(Error::invalid_input(format!(
                "this host's ONNX Runtime library does not offer the execution provider {provider}; it offers: {offered}"
            )));
        }
        // A provider that the library has may still lack a driver or a device, which shows with a session.
        let options = SessionOptions { threads: 1, provider: provider.clone() };
        let started = self.builder(&options).and_then(|mut builder| {
            let smallest = empty_sequence::model(DataType::Fp32.onnx());
            builder.commit_from_memory(&smallest)
        });
        started.map(|_| ()).map_err(|error| {
            Error::invalid_input(format!(
                "the execution provider {provider} does not start on this host: {}; ONNX Runtime's library offers: {offered}",
                error.message()
            ))
        })
    }

    /// A session as each worker has one.
    pub(super) fn session(&self, model_file: &Path, options: &SessionOptions) -> ort::Result<Session> {
        self.builder(options)?.commit_from_file(model_file)
    }

    fn builder(&self, options: &SessionOptions) -> ort::Result<SessionBuilder> {
        let builder = Session::builder(&self.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(options.threads)?
            .with_inter_threads(1)?
            // Without VNNI, an x86 CPU's fast int8 kernels saturate: a cat became another cat. This takes the exact ones.
            .with_precise_qmm()?
            // DirectML takes no memory patterns.
            .with_memory_pattern(options.provider.kind != ProviderKind::DirectMl)?;
        match dispatch(options) {
            // By default ort logs that a provider failed, and goes on with the CPU.
            Some(provider) => Ok(builder.with_execution_providers([provider.error_on_failure()])?),
            None => Ok(builder),
        }
    }
}

/// Whether the library was built with a provider.
fn is_available(kind: ProviderKind) -> ort::Result<bool> {
    match kind {
        ProviderKind::Cpu => Ok(true),
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
    }
}

/// The provider as sessions take it; `None` for the CPU, which every session has.
fn dispatch(options: &SessionOptions) -> Option<ExecutionProviderDispatch> {
    let SessionOptions { threads, provider } = options;
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
