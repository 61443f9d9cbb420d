//! The Open Inference Protocol without its wires: what REST and gRPC have in common. They parse and wrap, and no more.
//!
//! Source: <https://github.com/open-inference/open-inference-protocol>, and the extensions that Triton's clients speak.

mod catalog;
mod classification;
mod infer;
mod parameters;
mod repository;
mod statistics;

pub use catalog::{
    ConfigParameter, Device, InstanceGroup, ModelConfig, ModelMetadata, ServerMetadata, TensorConfig, TensorMetadata,
    VersionState, index, is_ready, model_config, model_metadata, server_metadata,
};
pub use infer::{Asked, Inferred, Output, RAW_REQUEST, WantedOutput, check_axes, infer, resolve};
pub use parameters::{Parameter, Parameters};
pub use repository::{Files, load, unload};
pub use statistics::{BatchStatistics, Duration, InferStatistics, MemoryUsage, ModelStatistics, statistics};

/// The server's name.
pub const NAME: &str = "model-nexus";
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What is offered beyond the protocol's core, as Triton names it.
pub const EXTENSIONS: [&str; 9] = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "raw_request",
    "schedule_policy",
    "statistics",
];
/// What every model here is run by.
pub const PLATFORM: &str = "onnxruntime_onnx";
pub const BACKEND: &str = "onnxruntime";
