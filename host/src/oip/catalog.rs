//! What there is, as the protocol says it: metadata, configuration, readiness, and the repository's index.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::{BACKEND, PLATFORM};
use crate::app::App;
use crate::error::{Error, ErrorCode, Result};
use crate::model::{KnownVersion, Sidecar, State, value_spec};
use crate::onnx::ValueInfo;
use crate::tensor::DataType;
use crate::value::ValueSpec;

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
    /// 0: a request's first axis is as long as the model allows, and `dims` are whole shapes.
    pub max_batch_size: i32,
    pub input: Vec<TensorConfig>,
    pub output: Vec<TensorConfig>,
    pub default_model_filename: &'static str,
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
    // One that is loaded when it is asked for is ready to be asked.
    if !known.can_serve() {
        let KnownVersion { id, version, state, .. } = &known;
        return Err(Error::new(ErrorCode::NotReady, format!("model {id}, version {version} is {}", state.name())));
    }
    Ok(known)
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
    Ok(ModelConfig {
        name: known.id,
        platform: PLATFORM,
        backend: BACKEND,
        version_policy: BTreeMap::from([("all", BTreeMap::new())]),
        max_batch_size: 0,
        input: describe(&info.metadata.inputs, None),
        output: describe(&info.metadata.outputs, has_labels.then_some("labels.json")),
        default_model_filename: "model.onnx",
    })
}

/// Every version, or those that are ready.
pub fn index(app: &App, only_ready: bool) -> Vec<VersionState> {
    let states = app.models.registry.list().into_iter().map(|known| {
        let (state, reason) = match &known.state {
            State::Ready(_) | State::Cold => ("READY", ""),
            State::Loading(..) => ("LOADING", ""),
            State::Unloaded => ("UNAVAILABLE", "unloaded"),
            State::Failed(error) => ("UNAVAILABLE", error.message.as_str()),
        };
        let reason = reason.to_owned();
        VersionState { name: known.id, version: known.version, state, reason }
    });
    states.filter(|version| !only_ready || version.state == "READY").collect()
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
