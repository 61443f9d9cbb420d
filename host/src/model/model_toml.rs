//! `model.toml`: what is set for a model and its versions, as the store keeps it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::engine::EngineOptions;
use super::traffic::Traffic;

/// `model.toml`: what is set for all versions of a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    #[serde(default, skip_serializing_if = "is_default")]
    pub pipeline: Pipeline,
    #[serde(default, skip_serializing_if = "is_default")]
    pub engine: EngineOptions,
    #[serde(default, skip_serializing_if = "is_default")]
    pub traffic: Traffic,
    /// The rule before, which a rollback brings back; `None` where there was no change yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_traffic: Option<Traffic>,
    /// What is set for single versions, in place of what is set for all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, VersionConfig>,
}

/// What is set for one version of a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionConfig {
    /// `None`: the pipeline of all versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<Pipeline>,
    /// `None`: the engine options of all versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineOptions>,
    /// An operator unloaded it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unloaded: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl ModelConfig {
    /// The plugins around one version.
    pub fn pipeline_of(&self, version: &str) -> &Pipeline {
        self.versions.get(version).and_then(|version| version.pipeline.as_ref()).unwrap_or(&self.pipeline)
    }

    /// How one version is run.
    pub fn engine_of(&self, version: &str) -> &EngineOptions {
        self.versions.get(version).and_then(|version| version.engine.as_ref()).unwrap_or(&self.engine)
    }

    pub fn is_unloaded(&self, version: &str) -> bool {
        self.versions.get(version).is_some_and(|version| version.unloaded)
    }

    /// What is set for one version alone, made where there is nothing yet.
    pub fn version_mut(&mut self, version: &str) -> &mut VersionConfig {
        self.versions.entry(version.to_owned()).or_default()
    }
}

/// The plugins around a model. Where both stages name the same plugin and config, one instance serves both.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// The JSON body of a request that the pipeline is tried with when it is bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub golden: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preprocess: Option<StageBinding>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postprocess: Option<StageBinding>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageBinding {
    /// `name@version`.
    pub plugin: String,
    /// The plugin's own configuration.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub config: serde_json::Map<String, serde_json::Value>,
    #[serde(default, skip_serializing_if = "OnFailure::is_fail")]
    pub on_failure: OnFailure,
}

/// What becomes of a request when a plugin fails by its own fault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It fails too.
    #[default]
    Fail,
    /// It goes on without the stage: the body is taken for the model's input, or the model's outputs are the answer.
    Bypass,
}

impl OnFailure {
    fn is_fail(&self) -> bool {
        *self == OnFailure::Fail
    }
}

impl StageBinding {
    /// A plugin with no configuration, whose failures are the request's.
    pub fn new(plugin: String) -> StageBinding {
        StageBinding { plugin, config: serde_json::Map::new(), on_failure: OnFailure::Fail }
    }

    /// Whether the same initialised plugin serves both.
    pub fn is_same_plugin(&self, other: &StageBinding) -> bool {
        self.plugin == other.plugin && self.config == other.config
    }
}
