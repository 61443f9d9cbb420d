//! ONNX Runtime, and how sessions of it are made.

use std::path::{Path, PathBuf};

use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;

/// How a session runs a model.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// Threads that one run is spread over.
    pub threads: usize,
}

impl Default for SessionOptions {
    /// One thread: workers run side by side.
    fn default() -> SessionOptions {
        SessionOptions { threads: 1 }
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

    /// A session as each worker has one.
    pub(super) fn session(&self, model_file: &Path, options: &SessionOptions) -> ort::Result<Session> {
        Session::builder(&self.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(options.threads)?
            .with_inter_threads(1)?
            // Without VNNI, an x86 CPU's fast int8 kernels saturate: a cat became another cat. This takes the exact ones.
            .with_precise_qmm()?
            .commit_from_file(model_file)
    }
}
