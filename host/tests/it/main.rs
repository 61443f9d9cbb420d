//! The host's integration tests, one binary: real models, real components, real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod admission;
mod author;
mod cache;
mod client;
mod file_type;
mod guests;
mod images;
mod invariants;
mod models;
mod onnx_file;
mod operation;
mod pictures;
mod plugin_failures;
mod plugins;
mod predict;
mod process;
mod sandbox;
mod support;
mod tabular;
mod values;
mod versions;
