//! What goes in, what comes out, and what is refused on the way.

use super::*;
use crate::plugin::Stage;

#[tokio::test]
async fn a_plugin_describes_itself_and_serves() {
    let wasm = component("hostile");
    let plugin = load(&host(small_limits(), NO_HOSTS), wasm.clone()).await.unwrap();
    assert_eq!(plugin.manifest.name, "hostile");
    assert_eq!(plugin.manifest.stages, [Stage::Preprocess, Stage::Postprocess]);
    assert!(plugin.manifest.has(Stage::Preprocess) && !plugin.manifest.config_schema.is_empty());
    assert_eq!((plugin.size, plugin.sha256.len()), (wasm.len(), 64));

    let mut instance = start(&plugin, "{}").await.unwrap();
    let tensors = preprocess(&mut instance, r#"{"x": [5.1, 3.5, 1.4, 0.2]}"#).await.unwrap();
    let expected =
        Tensor::from_vec("features".into(), DataType::Fp32, vec![1, 4], vec![5.1f32, 3.5, 1.4, 0.2]).unwrap();
    assert_eq!(tensors, [expected]);
    let response = postprocess(&mut instance, scores()).await.unwrap();
    assert!(response.content_type.starts_with("application/json"));
    let answer: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(answer["outputs"][0]["bytes"], 12);
    assert!(instance.peak_memory() > 64 << 10 && instance.peak_memory() < 16 << 20);
}

#[tokio::test]
async fn what_is_no_plugin_is_refused() {
    let host = host(small_limits(), NO_HOSTS);
    for (wasm, reason) in [
        (&b"\0asm\x01\0\0\0"[..], "core WebAssembly module"),
        (b"PK\x03\x04 a zip file", "no WebAssembly"),
        (b"\0asm\x0d\0\x01\0", "exports nothing"),
        (b"\0asm\x0d\0\x01\0\xff\xff\xff", "cannot be compiled"),
    ] {
        let error = load(&host, Bytes::from_static(wasm)).await.unwrap_err();
        assert_says(&error, ErrorCode::InvalidInput, &[reason]);
    }
    let cut = component("hostile");
    let error = load(&host, cut.slice(..cut.len() / 2)).await.unwrap_err();
    assert_says(&error, ErrorCode::InvalidInput, &["cannot be compiled"]);
}

#[tokio::test]
async fn a_component_too_large_for_the_limits_is_refused_with_the_option_to_change() {
    let host = host(PluginLimits { memory_bytes: 256 << 10, ..small_limits() }, NO_HOSTS);
    let error = load(&host, component("hostile")).await.unwrap_err();
    assert_says(
        &error,
        ErrorCode::InvalidInput,
        &["minimum byte size", "--plugin-memory-bytes (NEXUS_PLUGIN_MEMORY_BYTES)"],
    );
}

#[tokio::test]
async fn a_component_of_another_contract_version_is_refused() {
    let wasm = component("hostile");
    let mut other = wasm.to_vec();
    let (old, new) = (b"plugin/transform@0.1.0", b"plugin/transform@0.3.0");
    while let Some(at) = other.windows(old.len()).position(|window| window == old) {
        other[at..at + new.len()].copy_from_slice(new);
    }
    let error = load(&host(small_limits(), NO_HOSTS), other.into()).await.unwrap_err();
    assert_says(
        &error,
        ErrorCode::InvalidInput,
        &["built for nexus:plugin 0.3.0, this host speaks nexus:plugin 0.1.0"],
    );
}

#[tokio::test]
async fn a_bad_configuration_is_refused_when_it_is_bound() {
    let plugin = shared_hostile().await;
    check(&plugin, "{}").await.unwrap();
    let error = check(&plugin, r#"{"do": "nonsense"}"#).await.unwrap_err();
    assert_says(&error, ErrorCode::InvalidInput, &["plugin hostile@", "refuses its configuration", "nonsense"]);
    let error = check(&plugin, r#"{"stage": "init", "do": "trap"}"#).await.unwrap_err();
    assert_says(&error, ErrorCode::PluginFailed, &["failed in init", "unreachable"]);
}

#[tokio::test]
async fn the_clients_fault_is_told_from_the_plugins() {
    let plugin = shared_hostile().await;
    let error = serve(&plugin, r#"{"do": "invalid-input"}"#, "{}").await.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::InvalidInput, "hostile invalid input 42"));
    let error = serve(&plugin, r#"{"do": "plugin-error", "stage": "postprocess"}"#, "{}").await.unwrap_err();
    assert_says(&error, ErrorCode::PluginFailed, &["hostile@", "failed in postprocess", "hostile plugin error 42"]);
}
