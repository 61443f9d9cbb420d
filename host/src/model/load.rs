//! The models of this host, and how a version of the store comes to serve.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::registry::{BoundPipeline, ModelVersion, Registry, Skipped};
use super::repository::{Entry, Repository, Sidecar};
use super::spec::input_specs;
use super::worker::{Runtime, WorkerLimits, Workers};
use crate::config::{Config, EngineConfig, to_usize};
use crate::error::{Error, ErrorCode, Result};
use crate::plugin::Plugins;

/// The models of this host. Cloning shares them.
#[derive(Clone)]
pub struct Models {
    pub registry: Registry,
    pub(super) repository: Repository,
    pub(super) plugins: Plugins,
    /// Held while what is bound to a model changes, or a version comes to serve: one at a time.
    pub(super) changes: Arc<Semaphore>,
    /// Time that a golden request may take.
    pub(super) predict_timeout: Duration,
    runtime: Runtime,
    engine: EngineConfig,
}

impl Models {
    pub fn new(repository: Repository, runtime: Runtime, plugins: Plugins, config: &Config) -> Models {
        Models {
            registry: Registry::default(),
            repository,
            plugins,
            changes: Arc::new(Semaphore::new(1)),
            predict_timeout: config.limits.predict_timeout,
            runtime,
            engine: config.engine.clone(),
        }
    }

    /// A folder for uploads on their way in.
    pub fn scratch(&self) -> &Path {
        self.repository.scratch()
    }

    /// Loads every version in the store. One that cannot serve is reported and skipped; the others serve.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub async fn load_all(&self) -> Result<()> {
        for entry in self.repository.list().await? {
            match self.load(&entry).await {
                Ok(model) => tracing::info!(model = model.id(), version = model.version(), "model loaded"),
                Err(error) => {
                    tracing::error!(model = entry.id, version = entry.version, %error, "model skipped");
                    let reason = error.message;
                    self.registry.skip(Skipped { id: entry.id, version: entry.version, reason });
                }
            }
        }
        Ok(())
    }

    async fn load(&self, entry: &Entry) -> Result<Arc<ModelVersion>> {
        // The operator reads this, not a client, so the cause itself is the message.
        let for_operator = |error: super::RepositoryError| Error::new(ErrorCode::Internal, error.to_string());
        let stored = self.repository.open(entry).await.map_err(for_operator)?;
        let config = self.repository.config(&entry.id).await.map_err(for_operator)?;
        let mut model = self.open(stored.sidecar, stored.path, stored.labels, stored.file).await?;
        model.pipeline = self.bind(config.pipeline_of(&entry.version), &model).await?;
        Ok(self.registry.insert(model))
    }

    /// Starts a version's workers.
    pub(super) async fn open(
        &self,
        info: Sidecar,
        path: String,
        labels: Vec<String>,
        file: PathBuf,
    ) -> Result<ModelVersion> {
        let inputs = input_specs(&info.metadata.inputs);
        let workers = Arc::new(self.start_workers(&info, file).await?);
        let pipeline = BoundPipeline::default();
        Ok(ModelVersion { serial: ModelVersion::next_serial(), info, path, inputs, labels, pipeline, workers })
    }

    async fn start_workers(&self, info: &Sidecar, file: PathBuf) -> Result<Workers> {
        let runtime = self.runtime.clone();
        let name = format!("{}@{}", info.id, info.version);
        let limits = WorkerLimits {
            instances: self.engine.instance_count(info.size),
            queue_capacity: self.engine.queue_capacity as usize,
            output_bytes: to_usize(self.engine.max_output_bytes),
        };
        let start = move || Workers::start(&runtime, &file, &name, limits);
        tokio::task::spawn_blocking(start).await.map_err(Error::internal)?
    }
}
