//! How a version comes to serve: from the store at start, from an upload, from the bundle at first start.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use tempfile::TempPath;
use tokio::sync::Semaphore;

use super::registry::{BoundPipeline, ModelVersion, Registry, Skipped, input_specs};
use super::repository::{Entry, ModelConfig, Pipeline, Repository, Settings, Sidecar, StageBinding, VersionConfig};
use super::worker::{Runtime, WorkerLimits, Workers};
use super::{check_name, labels};
use crate::config::{Config, EngineConfig, to_usize};
use crate::error::{Error, ErrorCode, Result};
use crate::onnx::{self, MetadataError, ModelMetadata};
use crate::plugin::Plugins;

/// The plugin that reads images for models uploaded as image models.
pub const IMAGE_PLUGIN: &str = "image-classifier";

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

/// A model on its way in: everything of it is on this machine's disk or in memory, nothing is checked yet.
pub struct NewModel {
    pub id: String,
    pub name: String,
    pub version: String,
    /// The file, removed when this is dropped.
    pub file: TempPath,
    pub sha256: String,
    /// Bytes of the file.
    pub size: u64,
    /// A label file as it came.
    pub labels: Option<Bytes>,
    /// Plugins to bind; without, those that are set for the model.
    pub pipeline: Option<Pipeline>,
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

    /// Checks, loads and publishes an upload; from then on it serves.
    ///
    /// # Errors
    /// A name, file or label file that is not one; plugins that do not fit it; a version that exists.
    pub async fn add(&self, new: &NewModel) -> Result<Arc<ModelVersion>> {
        // Both become parts of a path in the store.
        check_name("id", &new.id)?;
        check_name("version", &new.version)?;
        if let Ok(existing) = self.registry.get(&new.id, Some(&new.version)) {
            return Err(Error::new(
                ErrorCode::Conflict,
                format!(
                    "model {} has a version {} already; upload under another version",
                    existing.id(),
                    existing.version()
                ),
            ));
        }
        let mut model = self.check(new).await?;
        let config = self.repository.config(&new.id).await?;
        self.bind_and_try(&mut model, new.pipeline.as_ref().unwrap_or_else(|| config.pipeline_of(&new.version)))
            .await?;
        self.publish(model, new).await
    }

    /// Makes a checked version serve, and what is bound to it last.
    async fn publish(&self, mut model: ModelVersion, new: &NewModel) -> Result<Arc<ModelVersion>> {
        let _change = self.changes.acquire().await.map_err(Error::internal)?;
        let before = self.repository.config(&new.id).await?;
        let after = self.with_pipeline(new, &before).await?;
        let pipeline = after.as_ref().unwrap_or(&before).pipeline_of(&new.version);
        if *pipeline != model.pipeline.configured || !self.are_current(&model.pipeline) {
            // Somebody changed it since it was bound.
            self.bind_and_try(&mut model, &pipeline.clone()).await?;
        }
        // The configuration first: of a version that is not there yet it says nothing.
        if let Some(after) = &after {
            self.repository.write_config(&new.id, after).await?;
        }
        let published = self.repository.publish(&model.info, new.labels.as_ref(), &new.file).await;
        if published.is_err() && after.is_some() {
            self.repository.write_config(&new.id, &before).await?;
        }
        model.path = published?;
        let model = self.registry.insert(model);
        tracing::info!(model = model.id(), version = model.version(), bytes = model.info.size, "model uploaded");
        Ok(model)
    }

    /// The model's configuration with an upload's pipeline in it: set for all versions by the first one, and for itself
    /// by a later one that differs. `None` where nothing is to be set.
    async fn with_pipeline(&self, new: &NewModel, config: &ModelConfig) -> Result<Option<ModelConfig>> {
        let Some(pipeline) = new.pipeline.clone() else { return Ok(None) };
        if pipeline == *config.pipeline_of(&new.version) {
            return Ok(None);
        }
        let mut config = config.clone();
        if self.repository.versions(&new.id).await?.is_empty() {
            config.pipeline = pipeline;
        } else {
            config.versions.insert(new.version.clone(), VersionConfig { pipeline });
        }
        Ok(Some(config))
    }

    /// Adds a model that classifies images through the bundled plugin, and makes it the default. Its versions count up
    /// from 1. A pipeline that is set for the id already, with a configuration perhaps, stays.
    ///
    /// # Errors
    /// As [`Models::add`]; and `Conflict` where the id is that of a model which classifies no images.
    pub async fn add_image_model(&self, mut new: NewModel) -> Result<Arc<ModelVersion>> {
        check_name("id", &new.id)?;
        let taken = self.repository.versions(&new.id).await?;
        let config = self.repository.config(&new.id).await?;
        let is_image_model = config.pipeline.preprocess.as_ref().is_some_and(|stage| names_plugin(stage, IMAGE_PLUGIN));
        if !taken.is_empty() && !is_image_model {
            return Err(Error::new(
                ErrorCode::Conflict,
                format!("{} is a model that takes no images; give the image model's file another name", new.id),
            ));
        }
        if !is_image_model {
            new.pipeline = Some(self.image_pipeline()?);
        }
        let highest: u64 = taken.iter().filter_map(|version| version.parse().ok()).max().unwrap_or(0);
        let model = self.add_numbered(&mut new, highest).await?;
        self.set_default_image_model(model.id()).await?;
        Ok(model)
    }

    /// Adds under the next free number: others may be uploading to the same id.
    async fn add_numbered(&self, new: &mut NewModel, highest: u64) -> Result<Arc<ModelVersion>> {
        const TRIES: u64 = 64;
        for number in highest.saturating_add(1)..=highest.saturating_add(TRIES) {
            new.version = number.to_string();
            match self.add(new).await {
                Err(error) if error.code == ErrorCode::Conflict => {}
                added => return added,
            }
        }
        Err(Error::new(ErrorCode::Conflict, format!("many uploads of {} are in progress; try again", new.id)))
    }

    fn image_pipeline(&self) -> Result<Pipeline> {
        let plugin = self.plugins.find(IMAGE_PLUGIN, None).map_err(|_| {
            Error::new(ErrorCode::NotReady, format!("no plugin {IMAGE_PLUGIN} is loaded; start the host with --bundle"))
        })?;
        let stage = StageBinding::new(plugin.reference());
        Ok(Pipeline { preprocess: Some(stage.clone()), postprocess: Some(stage), golden: None })
    }

    /// Reads what the file says of itself and loads it, with no plugins around it yet.
    async fn check(&self, new: &NewModel) -> Result<ModelVersion> {
        let class_labels = new.labels.as_deref().map(labels::parse).transpose()?.unwrap_or_default();
        let file = new.file.to_path_buf();
        let metadata = read_metadata(&file).await?;
        let sidecar = Sidecar {
            id: new.id.clone(),
            name: new.name.clone(),
            version: new.version.clone(),
            sha256: new.sha256.clone(),
            size: new.size,
            uploaded_at: Utc::now(),
            metadata,
        };
        self.open(sidecar, String::new(), class_labels, file).await
    }

    /// Starts a version's workers.
    async fn open(&self, info: Sidecar, path: String, labels: Vec<String>, file: PathBuf) -> Result<ModelVersion> {
        let inputs = input_specs(&info.metadata.inputs)?;
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

    async fn set_default_image_model(&self, id: &str) -> Result<()> {
        self.repository.write_settings(&Settings { default_image_model: Some(id.to_owned()) }).await?;
        self.registry.set_default_image_model(Some(id.to_owned()));
        Ok(())
    }

    /// Imports the bundled models into a store that no host has set up yet, and reads the host's settings.
    ///
    /// # Errors
    /// The store or the bundle cannot be read or written.
    pub async fn set_up(&self, bundle: Option<&Path>) -> Result<()> {
        if let Some(settings) = self.repository.settings().await? {
            self.registry.set_default_image_model(settings.default_image_model);
            return Ok(());
        }
        let Some(bundle) = bundle else { return Ok(()) };
        let bundled = read_bundle(&bundle.join("models")).map_err(|error| {
            let folder = bundle.display();
            Error::new(ErrorCode::Internal, format!("the bundle {folder} (--bundle) is not readable: {error}"))
        })?;
        let ids: BTreeSet<&str> = bundled.iter().map(|model| model.id.as_str()).collect();
        let present = self.repository.list().await?;
        // Someone's own repository is served as it is. Bundled models alone are an import that did not end.
        if present.iter().any(|entry| !ids.contains(entry.id.as_str())) {
            return Ok(());
        }
        let mut settings = Settings::default();
        for model in &bundled {
            let pipeline = self.import(model, &present).await?;
            let is_image_model = pipeline.preprocess.is_some_and(|stage| names_plugin(&stage, IMAGE_PLUGIN));
            if is_image_model && settings.default_image_model.is_none() {
                settings.default_image_model = Some(model.id.clone());
            }
        }
        self.repository.write_settings(&settings).await?;
        self.registry.set_default_image_model(settings.default_image_model);
        Ok(())
    }

    async fn import(&self, bundled: &Bundled, present: &[Entry]) -> Result<Pipeline> {
        let config_file = bundled.folder.join("model.toml");
        let config: ModelConfig = match tokio::fs::read_to_string(&config_file).await {
            Ok(text) => toml::from_str(&text).map_err(Error::internal)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => ModelConfig::default(),
            Err(error) => return Err(Error::internal(error)),
        };
        if config_file.exists() {
            self.repository.write_config(&bundled.id, &config).await?;
        }
        for version in &bundled.versions {
            let entry = Entry { id: bundled.id.clone(), version: version.clone() };
            if present.contains(&entry) {
                continue;
            }
            self.repository.import(&entry, &bundled.folder.join(version)).await?;
            tracing::info!(model = entry.id, version = entry.version, "bundled model imported");
        }
        Ok(config.pipeline)
    }
}

/// What a model's file says of itself.
///
/// # Errors
/// `InvalidInput` where it is no ONNX model.
pub(super) async fn read_metadata(file: &Path) -> Result<ModelMetadata> {
    let file = file.to_owned();
    let metadata = tokio::task::spawn_blocking(move || onnx::read_file(&file)).await.map_err(Error::internal)?;
    metadata.map_err(|error| match error {
        MetadataError::Read(error) => Error::internal(error),
        error => Error::invalid_input(error.to_string()),
    })
}

fn names_plugin(stage: &StageBinding, name: &str) -> bool {
    stage.plugin.split('@').next() == Some(name)
}

/// A model of the bundle, which has the store's layout.
struct Bundled {
    id: String,
    folder: PathBuf,
    versions: Vec<String>,
}

fn read_bundle(models: &Path) -> std::io::Result<Vec<Bundled>> {
    let mut bundled = Vec::new();
    for folder in subfolders(models)? {
        let versions = subfolders(&folder)?;
        let versions: Vec<String> = versions
            .iter()
            .filter(|version| version.join("model.onnx").exists())
            .filter_map(|version| Some(version.file_name()?.to_str()?.to_owned()))
            .collect();
        if let Some(id) = folder.file_name().and_then(|name| name.to_str()) {
            bundled.push(Bundled { id: id.to_owned(), versions, folder });
        }
    }
    bundled.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(bundled)
}

fn subfolders(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries: Vec<_> = std::fs::read_dir(folder)?.collect::<std::io::Result<_>>()?;
    Ok(entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
}
