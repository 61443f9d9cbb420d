//! The sandbox's promises, one test each, driven by real components that break them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod access;
mod errors;
mod fairness;
mod fetch;
mod limits;
mod names;
mod outputs;
mod raw;
mod servers;
mod stages;
mod web;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OnceCell;

use super::{
    Binding, EgressPolicy, Grants, Instance, ModelDescription, Plugin, PluginHost, PluginLimits, Request, Response,
    Wasm,
};
use crate::error::{Error, ErrorCode, Result};
use crate::tensor::{DataType, Tensor, TensorSpec};

/// A component that `cargo xtask test` built, such as `hostile`.
fn component(name: &str) -> Bytes {
    let folder = std::env::var_os("NEXUS_TEST_PLUGINS")
        .expect("run these tests by `cargo xtask test`, which builds the plugins");
    let file = PathBuf::from(folder).join(format!("{name}.wasm"));
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask test`", file.display())).into()
}

/// The hostile component with an act in `describe`, which takes no configuration.
fn describing(act: &str) -> Bytes {
    let mark = b"act of describe: ok             ";
    let mut wasm = component("hostile").to_vec();
    let at = wasm.windows(mark.len()).position(|window| window == mark).unwrap();
    wasm[at..at + mark.len()].copy_from_slice(format!("act of describe: {act:<15}").as_bytes());
    wasm.into()
}

/// For what is not to be reached on any machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Small limits, so that reaching them takes little time; but on a busy machine nothing else reaches them.
fn small_limits() -> PluginLimits {
    PluginLimits {
        memory_bytes: 64 << 20,
        instances: 4,
        instance_wait: Duration::from_secs(1),
        cpu_time: Duration::from_secs(2),
        wall_time: Duration::from_secs(60),
        output_bytes: 4 << 20,
        fetch_bytes: 64 << 10,
        fetch_time: Duration::from_secs(60),
        ..PluginLimits::default()
    }
}

/// An operator who names no host.
const NO_HOSTS: &[&str] = &[];

fn policy(allowed: &[impl AsRef<str>]) -> EgressPolicy {
    allowed.iter().map(|pattern| pattern.as_ref().parse::<super::HostPattern>().unwrap()).collect()
}

fn host(limits: PluginLimits, allowed: &[impl AsRef<str>]) -> PluginHost {
    host_with(limits, policy(allowed))
}

fn host_with(limits: PluginLimits, egress: EgressPolicy) -> PluginHost {
    PluginHost::new(limits, egress, None).unwrap()
}

async fn hostile(limits: PluginLimits, allowed: &[impl AsRef<str>]) -> Arc<Plugin> {
    load(&host(limits, allowed), component("hostile")).await.unwrap()
}

/// Loads a plugin that may fetch from wherever the host lets plugins fetch from.
async fn load(host: &PluginHost, wasm: Bytes) -> Result<Arc<Plugin>> {
    let grants = Grants { hosts: vec!["*".parse().unwrap()], ..Grants::default() };
    Ok(Arc::new(host.load(Wasm::Held(wasm), grants).await?))
}

/// One compiled plugin for all tests that need no limit or host of their own.
async fn shared_hostile() -> Arc<Plugin> {
    static HOSTILE: OnceCell<Arc<Plugin>> = OnceCell::const_new();
    let limits = PluginLimits { instances: 64, instance_wait: Duration::from_secs(30), ..small_limits() };
    Arc::clone(HOSTILE.get_or_init(|| hostile(limits, NO_HOSTS)).await)
}

/// What `init` is told of the model.
fn iris() -> ModelDescription {
    let spec = |name: &str, shape: &[i64]| TensorSpec {
        name: name.into(),
        datatype: DataType::Fp32,
        shape: Some(shape.to_vec()),
    };
    ModelDescription {
        id: "iris".into(),
        version: "1".into(),
        inputs: vec![spec("features", &[-1, 4])],
        outputs: vec![spec("scores", &[-1, 3])],
        labels: vec!["setosa".into(), "versicolor".into(), "virginica".into()],
    }
}

async fn bind(plugin: &Arc<Plugin>, model: ModelDescription, config: &str) -> Result<Binding> {
    Binding::new(Arc::clone(plugin), Arc::new(model), config.to_owned()).await
}

/// Tries out a configuration, as binding it to a model does.
async fn check(plugin: &Arc<Plugin>, config: &str) -> Result<()> {
    bind(plugin, iris(), config).await.map(|_| ())
}

/// An initialised instance for one request.
async fn start(plugin: &Arc<Plugin>, config: &str) -> Result<Instance> {
    start_for(plugin, iris(), config).await
}

async fn start_for(plugin: &Arc<Plugin>, model: ModelDescription, config: &str) -> Result<Instance> {
    bind(plugin, model, config).await?.start().await
}

fn request(body: &str) -> Request {
    Request {
        content_type: "application/json".into(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        parameters: Vec::new(),
    }
}

fn scores() -> Tensor {
    Tensor::from_vec("scores".into(), DataType::Fp32, vec![1, 3], vec![0.1f32, 0.7, 0.2]).unwrap()
}

/// One whole request, the model's part left out.
async fn serve(plugin: &Arc<Plugin>, config: &str, body: &str) -> Result<Response> {
    let mut instance = start(plugin, config).await?;
    preprocess(&mut instance, body).await?;
    postprocess(&mut instance, scores()).await
}

async fn preprocess(instance: &mut Instance, body: &str) -> Result<Vec<Tensor>> {
    instance.preprocess(&request(body)).await
}

async fn postprocess(instance: &mut Instance, output: Tensor) -> Result<Response> {
    instance.postprocess(&[output]).await
}

async fn serve_json(plugin: &Arc<Plugin>, config: &str, body: &str) -> serde_json::Value {
    let response = serve(plugin, config, body).await.unwrap();
    serde_json::from_slice(&response.body).unwrap()
}

/// What a proper request gets, however the one before it ended.
async fn assert_goes_on(plugin: &Arc<Plugin>) {
    assert_eq!(serve_json(plugin, "{}", r#"{"x": [1, 2, 3, 4]}"#).await["ok"], true);
}

fn assert_says(error: &Error, code: ErrorCode, parts: &[&str]) {
    assert_eq!(error.code, code, "{error}");
    for part in parts {
        assert!(error.message.contains(part), "{part:?} is missing in: {}", error.message);
    }
    assert!(error.message.len() < 50_000, "{} bytes of message", error.message.len());
}
