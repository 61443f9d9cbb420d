//! Any bytes as a model's file: read or refused, and what is read can be kept in a sidecar and read back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model_nexus::onnx::{self, ModelMetadata};

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = onnx::inspect(bytes) else { return };
    let json = serde_json::to_vec(&file.metadata).unwrap();
    let back: ModelMetadata = serde_json::from_slice(&json).unwrap();
    assert_eq!(file.metadata, back);
});
