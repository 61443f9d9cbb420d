//! The host's integration tests, one binary: real models, real components, real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod admission;
mod author;
mod batch;
mod batch_tables;
mod batching;
mod binary;
mod cache;
mod client;
mod client_predict;
mod external_data;
mod faults;
mod file_type;
mod guests;
mod images;
mod instances;
mod invariants;
mod memory;
mod models;
mod mount;
mod oip;
mod onnx_file;
mod operation;
mod pictures;
mod plugin_failures;
mod plugins;
mod predict;
mod process;
mod s3;
mod sandbox;
mod store;
mod support;
mod tabular;
mod two_hosts;
mod values;
mod versions;
