//! The bundled models, imported into a store that no host has set up yet.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::load::Models;
use super::model_toml::{ModelConfig, Pipeline};
use super::repository::{Entry, Settings};
use super::upload::{IMAGE_PLUGIN, names_plugin};
use crate::error::{Error, ErrorCode, Result};

impl Models {
    /// Imports the bundled models into a store that no host has set up yet, and reads the host's settings.
    ///
    /// # Errors
    /// The store or the bundle cannot be read or written.
    pub async fn set_up(&self, bundle: Option<&Path>) -> Result<()> {
        if let Err(error) = self.repository.mark().await {
            tracing::warn!(%error, "the store was not marked as this host's");
        }
        if let Err(error) = self.repository.tidy_at_start().await {
            tracing::warn!(%error, "what earlier hosts left half-done was not removed");
        }
        if let Some(settings) = self.repository.settings().await? {
            self.registry.set_default_image_model(settings.default_image_model);
            return Ok(());
        }
        let Some(bundle) = bundle.filter(|_| self.repository.is_ours()) else { return Ok(()) };
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
        match self.import_all(&bundled, &present).await {
            Err(error) if error.code == ErrorCode::Forbidden => {
                tracing::warn!(%error, "the bundled models are not imported");
                Ok(())
            }
            imported => imported,
        }
    }

    async fn import_all(&self, bundled: &[Bundled], present: &[Entry]) -> Result<()> {
        let mut settings = Settings::default();
        for model in bundled {
            let pipeline = self.import(model, present).await?;
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
