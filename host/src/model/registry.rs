//! The versions that serve, in memory: a map behind a handle, whose lock is never held across an `.await`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::spec::InputSpec;
use super::{OnFailure, Pipeline, Sidecar, Workers};
use crate::error::{Error, Result};
use crate::plugin::{Binding, Stage};

/// A loaded version of a model. Requests hold an `Arc` of it, so it outlives its place in the registry.
#[derive(Clone)]
pub struct ModelVersion {
    /// Differs between any two loads in this process; what is remembered of one version is never taken for another's.
    pub serial: u64,
    pub info: Sidecar,
    /// The model's path in the store.
    pub path: String,
    /// Inputs the host can take.
    pub inputs: Vec<InputSpec>,
    pub labels: Vec<String>,
    pub pipeline: BoundPipeline,
    pub workers: Arc<Workers>,
}

/// The plugins around a version, initialised for it.
#[derive(Debug, Clone, Default)]
pub struct BoundPipeline {
    pub preprocess: Option<BoundStage>,
    pub postprocess: Option<BoundStage>,
    /// What it was made from.
    pub configured: Pipeline,
}

/// A plugin in one place of a pipeline.
#[derive(Debug, Clone)]
pub struct BoundStage {
    pub binding: Arc<Binding>,
    pub on_failure: OnFailure,
}

impl BoundPipeline {
    /// Whether one instance serves both stages of a request.
    pub fn shares_instance(&self) -> bool {
        match (&self.preprocess, &self.postprocess) {
            (Some(preprocess), Some(postprocess)) => Arc::ptr_eq(&preprocess.binding, &postprocess.binding),
            _ => false,
        }
    }

    /// Its stages, each with its name.
    pub fn stages(&self) -> impl Iterator<Item = (Stage, &BoundStage)> {
        let stages = [(Stage::Preprocess, &self.preprocess), (Stage::Postprocess, &self.postprocess)];
        stages.into_iter().filter_map(|(name, stage)| Some((name, stage.as_ref()?)))
    }
}

impl ModelVersion {
    pub fn id(&self) -> &str {
        &self.info.id
    }

    pub fn version(&self) -> &str {
        &self.info.version
    }

    /// A number no other loaded version of this process has.
    pub fn next_serial() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }
}

/// A version in the store that does not serve, and why.
#[derive(Debug, Clone)]
pub struct Skipped {
    pub id: String,
    pub version: String,
    pub reason: String,
}

/// A handle to the versions that serve. Cloning shares it.
#[derive(Clone, Default)]
pub struct Registry {
    state: Arc<RwLock<State>>,
}

#[derive(Default)]
struct State {
    /// By id, then by version.
    models: BTreeMap<String, BTreeMap<String, Arc<ModelVersion>>>,
    default_image_model: Option<String>,
    skipped: Vec<Skipped>,
}

impl Registry {
    /// The version asked for, or the newest uploaded.
    ///
    /// # Errors
    /// No such model or version is loaded; the message says which there are.
    pub fn get(&self, id: &str, version: Option<&str>) -> Result<Arc<ModelVersion>> {
        let state = self.read();
        let Some(versions) = state.models.get(id) else {
            let known: Vec<&str> = state.models.keys().take(20).map(String::as_str).collect();
            let id: String = id.chars().take(128).collect();
            return Err(Error::not_found(format!("there is no model {id:?}; models: {}", known.join(", "))));
        };
        let found = match version {
            Some(version) => versions.get(version),
            None => versions.values().max_by_key(|model| (model.info.uploaded_at, model.serial)),
        };
        found.cloned().ok_or_else(|| {
            let known: Vec<&str> = versions.keys().take(20).map(String::as_str).collect();
            let version = version.unwrap_or_default();
            Error::not_found(format!("model {id} has no version {version:?}; versions: {}", known.join(", ")))
        })
    }

    /// The loaded versions of a model.
    ///
    /// # Errors
    /// As [`Registry::get`].
    pub fn versions(&self, id: &str) -> Result<Vec<Arc<ModelVersion>>> {
        // The message about an unknown model is `get`'s.
        self.get(id, None)?;
        Ok(self.read().models.get(id).map(|versions| versions.values().cloned().collect()).unwrap_or_default())
    }

    /// All loaded versions, by id and version.
    pub fn list(&self) -> Vec<Arc<ModelVersion>> {
        self.read().models.values().flat_map(|versions| versions.values().cloned()).collect()
    }

    /// Makes a version serve, in place of the one of its id and version.
    pub fn insert(&self, model: ModelVersion) -> Arc<ModelVersion> {
        let model = Arc::new(model);
        let mut state = self.write();
        let versions = state.models.entry(model.id().to_owned()).or_default();
        versions.insert(model.version().to_owned(), model.clone());
        model
    }

    pub fn default_image_model(&self) -> Option<String> {
        self.read().default_image_model.clone()
    }

    pub fn set_default_image_model(&self, id: Option<String>) {
        self.write().default_image_model = id;
    }

    pub fn skip(&self, skipped: Skipped) {
        self.write().skipped.push(skipped);
    }

    pub fn skipped(&self) -> Vec<Skipped> {
        self.read().skipped.clone()
    }

    // The lock only guards whole values, so what a panicking thread left is still true.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
