//! Model Nexus: ONNX models served over REST and gRPC, with sandboxed WebAssembly around them. Modules in reading order.

/// What a request handler may reach.
pub mod app;
/// The author's tools: write a plugin, check it, try it.
pub mod author;
/// Files of rows through a model.
pub mod batch;
/// Work on many bytes, kept off the async threads.
pub mod blocking;
/// Answers kept in memory.
pub mod cache;
/// `model-nexus models`: a running host's models, brought in and copied out.
pub mod client;
/// Every option; the only reader of the environment.
pub mod config;
/// Content hashes.
pub mod digest;
/// The one error a client sees.
pub mod error;
/// gRPC: parse, call, wrap.
pub mod grpc;
/// REST: parse, call, wrap.
pub mod http;
/// Every metric.
pub mod metrics;
/// Models: loaded, kept, run.
pub mod model;
/// Decimal numbers, read fast.
pub mod numbers;
/// The Open Inference Protocol without its wires.
pub mod oip;
/// What an ONNX file says of itself.
pub mod onnx;
/// What one request goes through at a model.
pub mod pipeline;
/// Plugins: loaded, kept, run in a sandbox.
pub mod plugin;
/// THE way of a prediction.
pub mod predict;
/// Every route, and the order of what every request passes through.
pub mod routes;
/// Bind, serve, drain.
pub mod server;
/// Copies of requests, for versions on trial.
pub mod shadow;
/// Files on their way into the store.
pub mod staging;
/// Where models and plugins are kept.
pub mod store;
/// JSON log lines that carry the request's id.
pub mod telemetry;
/// Tensors as the host moves them.
pub mod tensor;
/// On what terms a request is served.
pub mod terms;
/// What a model takes and returns.
pub mod value;
