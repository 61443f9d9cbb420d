//! What there is, as the protocol says it: metadata, configuration, readiness, and the repository's index.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::{BACKEND, EXTENSIONS, NAME, PLATFORM, VERSION};
use crate::app::App;
use crate::error::{Error, ErrorCode, Result};
use crate::model::{Engine, ExecutionProvider, KnownVersion, Sidecar, State, value_spec};
use crate::onnx::ValueInfo;
use crate::tensor::DataType;
use crate::value::ValueSpec;

/// States of a version, as the repository's index has them.
const READY: &str = "READY";
const UNAVAILABLE: &str = "UNAVAILABLE";

/// What the protocol says of a server, and beyond it what models run on here.
#[derive(Debug, Serialize)]
pub struct ServerMetadata {
    pub name: &'static str,
    pub version: &'static str,
    pub extensions: [&'static str; EXTENSIONS.len()],
    /// What models run on where nothing else is set, as `cuda:1`.
    pub execution_provider: ExecutionProvider,
    /// What ONNX Runtime's library offers.
    pub execution_providers: Vec<&'static str>,
    /// Those that loaded versions run on.
    pub devices: Vec<Device>,
}

#[derive(Debug, Serialize)]
pub struct Device {
    pub execution_provider: &'static str,
    /// Empty where the provider has none to choose from.
    pub device: String,
    pub versions_loaded: u64,
    pub memory_bytes: u64,
}

#[derive(Debug, Serialize)]
pub struct ModelMetadata {
    pub name: String,
    pub versions: Vec<String>,
    pub platform: &'static str,
    pub inputs: Vec<TensorMetadata>,
    pub outputs: Vec<TensorMetadata>,
}

#[derive(Debug, Serialize)]
pub struct TensorMetadata {
    pub name: String,
    /// The protocol's name, or ONNX's notation of what the host can neither take nor return.
    pub datatype: Cow<'static, str>,
    /// -1 where any size fits.
    pub shape: Vec<i64>,
}

/// A version's configuration in Triton's words, as far as they say anything of it.
#[derive(Debug, Serialize)]
pub struct ModelConfig {
    pub name: String,
    pub platform: &'static str,
    pub backend: &'static str,
    /// All versions are served.
    pub version_policy: BTreeMap<&'static str, BTreeMap<(), ()>>,
    /// 0: a request's first axis is as long as the model allows, and `dims` are whole shapes. Of any other number clients
    /// conclude that `dims` are without the batch's axis; how many rows are run together is among the parameters.
    pub max_batch_size: i32,
    pub input: Vec<TensorConfig>,
    pub output: Vec<TensorConfig>,
    pub instance_group: [InstanceGroup; 1],
    pub default_model_filename: &'static str,
    pub parameters: BTreeMap<&'static str, ConfigParameter>,
}

/// The workers of a version.
#[derive(Debug, Serialize)]
pub struct InstanceGroup {
    pub name: String,
    /// `KIND_CPU`, `KIND_GPU`, or `KIND_MODEL` where the provider chooses.
    pub kind: &'static str,
    pub count: i32,
    pub gpus: Vec<i32>,
}

#[derive(Debug, Serialize)]
pub struct ConfigParameter {
    pub string_value: String,
}

#[derive(Debug, Serialize)]
pub struct TensorConfig {
    pub name: String,
    /// Such as `TYPE_FP32`.
    pub data_type: String,
    pub dims: Vec<i64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_filename: Option<&'static str>,
}

/// A version in the repository's index.
#[derive(Debug, Serialize)]
pub struct VersionState {
    pub name: String,
    pub version: String,
    /// `READY`, `LOADING` or `UNAVAILABLE`.
    pub state: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Whether a version can be asked; without one named, the one that requests come to.
///
/// # Errors
/// No such model or version. `NotReady` says why it cannot be asked.
pub fn is_ready(app: &App, id: &str, version: Option<&str>) -> Result<KnownVersion> {
    let known = app.models.registry.find(id, version)?;
    if app.is_draining() {
        return Err(Error::new(ErrorCode::NotReady, "the host is draining"));
    }
    let (state, reason) = state_of(app, &known);
    if state != READY {
        let (KnownVersion { id, version, .. }, state) = (&known, state.to_lowercase());
        let why = if reason.is_empty() { reason } else { format!(": {reason}") };
        return Err(Error::new(ErrorCode::NotReady, format!("model {id}, version {version} is {state}{why}")));
    }
    Ok(known)
}

/// How far a version is from serving, as the repository's index says it, and why it cannot serve, where it cannot.
fn state_of(app: &App, known: &KnownVersion) -> (&'static str, String) {
    match &known.state {
        State::Ready(_) => (READY, String::new()),
        State::Loading(..) => ("LOADING", String::new()),
        State::Cold if !known.takes_traffic => (UNAVAILABLE, "it came to the store and is not loaded yet".to_owned()),
        // One that is loaded when it is asked for is ready to be asked, where it fits into memory.
        State::Cold => match known.info.as_ref().map(|info| app.models.check_fits(info)) {
            Some(Err(error)) => (UNAVAILABLE, error.message),
            _ => (READY, String::new()),
        },
        State::Unloaded => (UNAVAILABLE, "unloaded".to_owned()),
        State::Failed(error) => (UNAVAILABLE, error.message.clone()),
    }
}

pub fn server_metadata(app: &App) -> ServerMetadata {
    let (offered, provider) = app.models.providers();
    let mut devices: BTreeMap<(&'static str, String), (u64, u64)> = BTreeMap::new();
    for model in app.models.registry.ready() {
        let runs_on = model.engine.session.runs_on();
        let (versions, bytes) = devices.entry((runs_on.kind.name(), runs_on.device().to_owned())).or_default();
        *versions += 1;
        *bytes = bytes.saturating_add(model.engine.memory_of(&model.info));
    }
    let device = |((execution_provider, device), (versions_loaded, memory_bytes))| Device {
        execution_provider,
        device,
        versions_loaded,
        memory_bytes,
    };
    ServerMetadata {
        name: NAME,
        version: VERSION,
        extensions: EXTENSIONS,
        execution_provider: provider.clone(),
        execution_providers: offered,
        devices: devices.into_iter().map(device).collect(),
    }
}

/// # Errors
/// No such model or version, or one of which nothing is known before it is loaded, and that cannot be.
pub async fn model_metadata(app: &App, id: &str, version: Option<&str>) -> Result<ModelMetadata> {
    let (known, info) = find(app, id, version).await?;
    let versions = app.models.registry.versions(&known.id)?.into_iter().map(|known| known.version).collect();
    let describe = |values: &[ValueInfo]| values.iter().flat_map(describe).map(TensorMetadata::from).collect();
    Ok(ModelMetadata {
        name: known.id,
        versions,
        platform: PLATFORM,
        inputs: describe(&info.metadata.inputs),
        outputs: describe(&info.metadata.outputs),
    })
}

/// # Errors
/// As [`model_metadata`].
pub async fn model_config(app: &App, id: &str, version: Option<&str>) -> Result<ModelConfig> {
    let (known, info) = find(app, id, version).await?;
    let has_labels = known.ready().is_some_and(|model| !model.labels.is_empty());
    let describe = |values: &[ValueInfo], label_filename: Option<&'static str>| -> Vec<TensorConfig> {
        let tensors = values.iter().flat_map(|value| describe(value).into_iter().map(move |tensor| (value, tensor)));
        let config = |(value, Described { name, datatype, shape }): (&ValueInfo, Described)| TensorConfig {
            name,
            data_type: format!("TYPE_{}", datatype.ok().map_or("INVALID", config_name)),
            dims: shape,
            optional: value.optional,
            label_filename,
        };
        tensors.map(config).collect()
    };
    // Loaded, it is run as was set when it was.
    let engine = known.ready().map_or_else(|| app.models.engine_of(&info), |model| model.engine.clone());
    Ok(ModelConfig {
        instance_group: [instance_group(&known.id, &engine)],
        name: known.id,
        platform: PLATFORM,
        backend: BACKEND,
        version_policy: BTreeMap::from([("all", BTreeMap::new())]),
        max_batch_size: 0,
        input: describe(&info.metadata.inputs, None),
        output: describe(&info.metadata.outputs, has_labels.then_some("labels.json")),
        default_model_filename: "model.onnx",
        parameters: parameters(&engine),
    })
}

fn instance_group(id: &str, engine: &Engine) -> InstanceGroup {
    let provider = engine.session.runs_on();
    let kind = match provider.is_cpu() {
        Some(true) => "KIND_CPU",
        Some(false) => "KIND_GPU",
        None => "KIND_MODEL",
    };
    InstanceGroup {
        name: id.to_owned(),
        kind,
        count: i32::try_from(engine.workers.instances).unwrap_or(i32::MAX),
        gpus: provider.gpu().map(i32::from).into_iter().collect(),
    }
}

/// What the configuration's own fields have no words for.
fn parameters(engine: &Engine) -> BTreeMap<&'static str, ConfigParameter> {
    let provider = engine.session.runs_on().to_string();
    let parameters = [("execution_provider", provider), ("max_batch_size", engine.workers.batch_rows.to_string())];
    parameters.map(|(name, string_value)| (name, ConfigParameter { string_value })).into()
}

/// Every version, or those that are ready.
pub fn index(app: &App, only_ready: bool) -> Vec<VersionState> {
    let states = app.models.registry.list().into_iter().map(|known| {
        let (state, reason) = state_of(app, &known);
        VersionState { name: known.id, version: known.version, state, reason }
    });
    states.filter(|version| !only_ready || version.state == READY).collect()
}

async fn find(app: &App, id: &str, version: Option<&str>) -> Result<(KnownVersion, Arc<Sidecar>)> {
    let known = app.models.registry.find(id, version)?;
    let info = match &known.info {
        Some(info) => Arc::clone(info),
        None => Arc::clone(&app.models.ready(&known.entry()).await?.info),
    };
    Ok((known, info))
}

/// One tensor on the wire; `Err` has ONNX's notation of what is none.
struct Described {
    name: String,
    datatype: std::result::Result<DataType, String>,
    shape: Vec<i64>,
}

/// An input or output as the tensors that it is on the wire. The protocol knows no other types and no unknown ranks: the
/// former are named by ONNX's notation, the latter have one axis of any size.
fn describe(value: &ValueInfo) -> Vec<Described> {
    let spec = value_spec(value);
    if let ValueSpec::Unsupported { name, kind } = spec {
        return vec![Described { name, datatype: Err(kind), shape: Vec::new() }];
    }
    let tensors = spec.to_tensor_specs().into_iter();
    let described = tensors.map(|spec| Described {
        name: spec.name,
        datatype: Ok(spec.datatype),
        shape: spec.shape.unwrap_or_else(|| vec![-1]),
    });
    described.collect()
}

impl From<Described> for TensorMetadata {
    fn from(described: Described) -> TensorMetadata {
        let Described { name, datatype, shape } = described;
        let datatype = datatype.map_or_else(Cow::Owned, |datatype| Cow::Borrowed(datatype.name()));
        TensorMetadata { name, datatype, shape }
    }
}

/// Configurations call texts by another name than requests do.
fn config_name(datatype: DataType) -> &'static str {
    if datatype == DataType::Bytes { "STRING" } else { datatype.name() }
}
