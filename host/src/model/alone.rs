//! A model by itself: out of a file, with one plugin around it, no store and no registry. What an author tries a plugin on,
//! and what files of rows go through without a host.

use std::path::Path;
use std::sync::Arc;

use chrono::Utc;

use super::admission::{Admission, Batching, declared_rows};
use super::bind::describe;
use super::engine::Engine;
use super::incoming::{inspect, named_files};
use super::model_toml::{Pipeline, StageBinding};
use super::registry::{BoundPipeline, BoundStage, ModelVersion};
use super::repository::Sidecar;
use super::runtime::{Runtime, SessionOptions};
use super::spec::input_specs;
use super::upload::read_metadata;
use super::worker::{WorkerLimits, Workers};
use crate::digest::sha256_of_file;
use crate::error::{Error, Result};
use crate::plugin::{Binding, Plugin, Stage};

/// Whether rows may be run together by a model that no host has taken in, found out as a host does: in a process of its own. Where
/// that is not to be found out they may not.
pub async fn tried_alone(file: &Path, admission: &Admission) -> Batching {
    let path = file.to_owned();
    let looked_at = tokio::task::spawn_blocking(move || look_at(&path)).await.map_err(Error::internal);
    let bytes = match looked_at.and_then(|looked_at| looked_at) {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(reason)) => return Batching::off(reason),
        Err(error) => return Batching::off(error.message),
    };
    match admission.admit(file, bytes).await {
        Ok(admitted) => admitted.batching,
        Err(error) => Batching::off(error.message),
    }
}

/// Bytes of a model's files, where it declares rows; else what it declares instead.
fn look_at(file: &Path) -> Result<std::result::Result<u64, String>> {
    let model = inspect(file)?;
    if let Err(reason) = declared_rows(&model.metadata) {
        return Ok(Err(reason));
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    let data = named_files(&model)?.into_iter().map(|name| folder.join(name));
    let sizes = data.chain([file.to_owned()]).map(|file| Ok(file.metadata().map_err(Error::internal)?.len()));
    sizes.sum::<Result<u64>>().map(Ok)
}

impl ModelVersion {
    /// Loads a model's file, with no plugins around it yet. Its id is the file's name.
    ///
    /// # Errors
    /// It is no ONNX model, or ONNX Runtime refuses it.
    pub async fn alone(
        runtime: &Runtime,
        file: &Path,
        labels: Vec<String>,
        limits: WorkerLimits,
    ) -> Result<ModelVersion> {
        let metadata = read_metadata(file).await?;
        let inputs = input_specs(&metadata.inputs);
        let id = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let (path, runtime, name) = (file.to_owned(), runtime.clone(), id.clone());
        let load = move || {
            let size = path.metadata().map_err(Error::internal)?.len();
            let sha256 = sha256_of_file(&path).map_err(Error::internal)?;
            Ok::<_, Error>((
                size,
                sha256,
                Workers::start(&runtime, &path, &name, limits, &SessionOptions::default(), None)?,
            ))
        };
        let (size, sha256, workers) = tokio::task::spawn_blocking(load).await.map_err(Error::internal)??;
        let version = "0".to_owned();
        let info = Arc::new(Sidecar {
            name: id.clone(),
            id,
            version,
            sha256,
            size,
            uploaded_at: Utc::now(),
            files: Vec::new(),
            session_bytes: None,
            batching: None,
            metadata,
        });
        let (serial, path) = (ModelVersion::next_serial(), file.display().to_string());
        let (pipeline, engine) = (BoundPipeline::default(), Engine::alone(limits));
        let workers = Arc::new(workers);
        Ok(ModelVersion { serial, info, path, inputs, labels, pipeline, engine, workers, memory: None })
    }

    /// Binds a plugin to all stages it has.
    ///
    /// # Errors
    /// As [`Binding::new`].
    pub async fn bind_alone(&mut self, plugin: &Arc<Plugin>, stage: &StageBinding) -> Result<Arc<Binding>> {
        let config = serde_json::to_string(&stage.config).map_err(Error::internal)?;
        let binding = Arc::new(Binding::new(Arc::clone(plugin), Arc::new(describe(self)), config).await?);
        let bound = |name| {
            let filled = plugin.manifest.has(name);
            filled.then(|| BoundStage { binding: Arc::clone(&binding), on_failure: stage.on_failure })
        };
        let (preprocess, postprocess) = (bound(Stage::Preprocess), bound(Stage::Postprocess));
        let configured = Pipeline {
            preprocess: preprocess.as_ref().map(|_| stage.clone()),
            postprocess: postprocess.as_ref().map(|_| stage.clone()),
            golden: None,
        };
        self.pipeline = BoundPipeline { preprocess, postprocess, configured };
        Ok(binding)
    }
}
