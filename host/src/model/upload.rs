//! How an upload comes to serve: checked, loaded, bound, published.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use chrono::Utc;

use super::engine::Engine;
use super::incoming::{CameAs, NewFiles, inspect};
use super::load::Models;
use super::model_toml::{ModelConfig, Pipeline, StageBinding};
use super::registry::ModelVersion;
use super::repository::{Entry, RepositoryError, Settings, Sidecar, Stored};
use super::{check_name, labels};
use crate::error::{Error, ErrorCode, Result};
use crate::onnx::ModelMetadata;

/// The plugin that reads images for models uploaded as image models.
pub const IMAGE_PLUGIN: &str = "image-classifier";

/// A model on its way in: everything of it is on this machine's disk or in memory, nothing is checked yet.
pub struct NewModel {
    pub id: String,
    pub name: String,
    pub version: String,
    pub files: NewFiles,
    /// A label file as it came.
    pub labels: Option<Bytes>,
    /// Plugins to bind; without, those that are set for the model.
    pub pipeline: Option<Pipeline>,
}

impl Models {
    /// Takes apart what came as an archive, and lays out the model's files as it names them.
    ///
    /// # Errors
    /// It is no ONNX model, or files that it names are missing, too many, or outside of its folder.
    pub async fn take_files(&self, came: CameAs) -> Result<NewFiles> {
        let (scratch, limits) = (self.scratch().to_owned(), self.archive_limits);
        let lay_out = move || NewFiles::of(came, &scratch, limits);
        tokio::task::spawn_blocking(lay_out).await.map_err(Error::internal)?
    }

    /// Checks, loads and publishes an upload; from then on it serves.
    ///
    /// # Errors
    /// A name, file or label file that is not one; plugins that do not fit it; a version that exists.
    pub async fn add(&self, new: &NewModel) -> Result<Arc<ModelVersion>> {
        // Both become parts of a path in the store.
        check_name("id", &new.id)?;
        check_name("version", &new.version)?;
        if self.registry.find(&new.id, Some(&new.version)).is_ok() {
            return Err(Error::new(
                ErrorCode::Conflict,
                format!("model {} has a version {} already; upload under another version", new.id, new.version),
            ));
        }
        let mut model = self.check(new).await?;
        let config = self.repository.config(&new.id).await?;
        self.bind_and_try(&mut model, new.pipeline.as_ref().unwrap_or_else(|| config.pipeline_of(&new.version)))
            .await?;
        self.publish(model, new).await
    }

    /// Publishes a checked version, and makes it serve. Its name is claimed first: what is set for it and was not published in
    /// the end is taken back, here or by the next start.
    async fn publish(&self, model: ModelVersion, new: &NewModel) -> Result<Arc<ModelVersion>> {
        let before = self.repository.config(&new.id).await?;
        let info = Arc::clone(&model.info);
        self.repository.claim(&info.entry(), &info).await?;
        let published = self.publish_claimed(model, new).await;
        if published.is_err()
            && let Err(error) = self.withdraw(&info, new, &before).await
        {
            tracing::error!(model = info.id, version = info.version, %error, "a failed upload was left behind");
        }
        published
    }

    /// The leave to change is not held while the files go to the store, which may take minutes.
    async fn publish_claimed(&self, mut model: ModelVersion, new: &NewModel) -> Result<Arc<ModelVersion>> {
        {
            let _change = self.changes.acquire().await.map_err(Error::internal)?;
            // The model may have been deleted while this waited, and its name be another's: what is set for that one stays.
            if !self.repository.is_claimed(&model.info).await? {
                return Err(RepositoryError::BeingDeleted { id: new.id.clone() }.into());
            }
            let config = self.repository.config(&new.id).await?;
            let pipeline = new.pipeline.as_ref().unwrap_or_else(|| config.pipeline_of(&new.version));
            self.bind_to_current(&mut model, pipeline).await?;
            if pipeline != config.pipeline_of(&new.version) {
                self.set_pipeline_of(new, pipeline).await?;
            }
        }
        model.path = self.repository.write(&model.info, new.labels.as_ref(), new.files.folder()).await?;
        let _change = self.changes.acquire().await.map_err(Error::internal)?;
        let config = self.repository.config(&new.id).await?;
        // Somebody may have changed them while the files were on their way.
        model = self.with_current_engine(model, config.engine_of(&new.version)).await?;
        self.bind_to_current(&mut model, config.pipeline_of(&new.version)).await?;
        let model = self.registry.insert(model);
        // Another host may have put another in its place since it was written, and that one be known here.
        self.registry.note(&model.info.entry(), |known| known.marks = None);
        tracing::info!(model = model.id(), version = model.version(), bytes = model.info.size, "model uploaded");
        Ok(model)
    }

    /// Binds again where somebody changed the pipeline, or one of its plugins, since it was bound.
    async fn bind_to_current(&self, model: &mut ModelVersion, pipeline: &Pipeline) -> Result<()> {
        if *pipeline != model.pipeline.configured || !self.are_current(&model.pipeline) {
            self.bind_and_try(model, pipeline).await?;
        }
        Ok(())
    }

    /// Takes back what a failed upload left, and nothing that others changed meanwhile.
    async fn withdraw(&self, info: &Sidecar, new: &NewModel, before: &ModelConfig) -> Result<()> {
        let _change = self.changes.acquire().await.map_err(Error::internal)?;
        let is_claimed = self.repository.is_claimed(info).await?;
        if !is_claimed && !self.repository.reclaim(info).await? {
            return Ok(());
        }
        let entry = &info.entry();
        let Some(pipeline) = &new.pipeline else { return Ok(self.repository.remove(entry).await?) };
        self.change_config(&entry.id, |config| {
            let own = config.version_mut(&entry.version);
            own.pipeline = own.pipeline.take().filter(|own| own != pipeline);
            // A deletion that took the claim took what was set for the model, and what is set now is another's.
            if is_claimed && config.pipeline == *pipeline {
                config.pipeline = before.pipeline.clone();
            }
        })
        .await?;
        Ok(self.repository.remove_with_config(entry).await?)
    }

    /// Sets an upload's pipeline: for all versions by the first one, and for itself by a later one.
    async fn set_pipeline_of(&self, new: &NewModel, pipeline: &Pipeline) -> Result<()> {
        let is_first = self.repository.versions(&new.id).await?.iter().all(|version| *version == new.version);
        self.change_config(&new.id, |config| {
            let place = if is_first {
                &mut config.pipeline
            } else {
                config.version_mut(&new.version).pipeline.get_or_insert_default()
            };
            place.clone_from(pipeline);
        })
        .await?;
        Ok(())
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

    /// Tries the model in a process of its own, and loads it, with no plugins around it yet.
    async fn check(&self, new: &NewModel) -> Result<ModelVersion> {
        let class_labels = new.labels.as_deref().map(labels::parse).transpose()?.unwrap_or_default();
        let (files, file) = (&new.files, new.files.model());
        let admitted = self.admission.admit(&file, files.total_bytes()).await?;
        let sidecar = Sidecar {
            id: new.id.clone(),
            name: new.name.clone(),
            version: new.version.clone(),
            sha256: files.sha256.clone(),
            size: files.size,
            uploaded_at: Utc::now(),
            files: files.data.clone(),
            session_bytes: admitted.seen.session_bytes,
            batching: Some(admitted.batching),
            metadata: files.inspected.metadata.clone(),
        };
        let entry = Entry { id: new.id.clone(), version: new.version.clone() };
        let config = self.repository.config(&new.id).await?;
        let engine = Engine::of(&self.engine, config.engine_of(&new.version), &sidecar);
        let memory = self.make_room(&entry, engine.memory_of(&sidecar)).await?;
        let mut model = self.open(sidecar, String::new(), class_labels, file, engine).await?;
        model.memory = Some(Arc::new(memory));
        Ok(model)
    }

    /// A version of the store, tried as an upload is where it did not come by one: laid down by hand, or bundled.
    pub(super) async fn admitted(&self, mut stored: Stored) -> Result<Stored> {
        if !is_tried(&stored.sidecar) {
            let Sidecar { id, version, sha256, .. } = &stored.sidecar;
            let known = self.registry.find(id, Some(version)).ok().and_then(|known| known.info);
            // A store that cannot be written to does not remember.
            if let Some(known) = known.filter(|info| info.sha256 == *sha256) {
                stored.sidecar.session_bytes = known.session_bytes;
                stored.sidecar.batching.clone_from(&known.batching);
            }
        }
        if !is_tried(&stored.sidecar) {
            let admitted = self.admission.admit(&stored.file, stored.sidecar.total_bytes()).await?;
            stored.sidecar.session_bytes = admitted.seen.session_bytes;
            stored.sidecar.batching = Some(admitted.batching);
            self.repository.keep_sidecar(&stored.sidecar).await;
        }
        Ok(stored)
    }

    async fn set_default_image_model(&self, id: &str) -> Result<()> {
        self.repository.write_settings(&Settings { default_image_model: Some(id.to_owned()) }).await?;
        self.registry.set_default_image_model(Some(id.to_owned()));
        Ok(())
    }
}

/// Whether all is known of a version that its admission finds out.
fn is_tried(sidecar: &Sidecar) -> bool {
    sidecar.session_bytes.is_some() && sidecar.batching.is_some()
}

/// What a model's file says of itself.
///
/// # Errors
/// `InvalidInput` where it is no ONNX model.
pub(super) async fn read_metadata(file: &Path) -> Result<ModelMetadata> {
    let file = file.to_owned();
    let inspected = tokio::task::spawn_blocking(move || inspect(&file)).await.map_err(Error::internal)?;
    Ok(inspected?.metadata)
}

pub(super) fn names_plugin(stage: &StageBinding, name: &str) -> bool {
    stage.plugin.split('@').next() == Some(name)
}
