//! The store's layout of models, and the rule that makes a version visible: `models/<id>/<version>/model.onnx` is there.
//!
//! A version is published in three steps. The sidecar `model_info.json` is created first, and only if there is none: of
//! two equal uploads one wins here. Then come the labels, and the model last, which the store shows whole or not at all.
//! A sidecar without a model is an upload that did not end; a model without a sidecar came by hand and gets one.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::labels;
use crate::digest::sha256_of_file;
use crate::error::{Error, ErrorCode};
use crate::onnx::{self, MetadataError, ModelMetadata};
use crate::store::{Store, StoreError};

const SETTINGS: &str = "settings.json";

/// Models as the store keeps them.
#[derive(Clone)]
pub struct Repository {
    store: Store,
}

/// One version in the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub id: String,
    pub version: String,
}

/// `model_info.json`: what the host knows of a version without opening the model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sidecar {
    pub id: String,
    pub name: String,
    pub version: String,
    pub sha256: String,
    /// Bytes of the model file.
    pub size: u64,
    pub uploaded_at: DateTime<Utc>,
    /// Files beside the model that it keeps weights in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<DataFile>,
    /// Memory that one session of it took when it was admitted, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_bytes: Option<u64>,
    #[serde(flatten)]
    pub metadata: ModelMetadata,
}

/// A file of external data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Relative to the model's folder, as the model names it.
    pub path: String,
    /// Bytes.
    pub size: u64,
    pub sha256: String,
}

/// `model.toml`: what is set for all versions of a model.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    #[serde(default)]
    pub pipeline: Pipeline,
    /// What is set for single versions, in place of what is set for all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, VersionConfig>,
}

/// What is set for one version of a model.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionConfig {
    pub pipeline: Pipeline,
}

impl ModelConfig {
    /// The plugins around one version.
    pub fn pipeline_of(&self, version: &str) -> &Pipeline {
        self.versions.get(version).map_or(&self.pipeline, |version| &version.pipeline)
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

/// `settings.json`: what is set for the host as a whole.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Settings {
    /// Id of the model that classifies images where a request names none.
    pub default_image_model: Option<String>,
}

/// A version, read and checked.
#[derive(Debug)]
pub struct Stored {
    pub sidecar: Sidecar,
    pub labels: Vec<String>,
    /// The model as a file ONNX Runtime can open.
    pub file: PathBuf,
    /// The model's path in the store.
    pub path: String,
}

#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("model {id} has a version {version} already; upload under another version")]
    Exists { id: String, version: String },
    #[error("{path} is not readable: {problem}")]
    Corrupt { path: String, problem: String },
    #[error("{0}")]
    Metadata(#[from] MetadataError),
    #[error(
        "{path} has changed since it was uploaded: its sha256 is {actual}, the sidecar says {expected}; if the change is meant, remove model_info.json beside it"
    )]
    Changed { path: String, expected: String, actual: String },
    #[error("{0}")]
    File(#[from] io::Error),
}

impl From<RepositoryError> for Error {
    fn from(error: RepositoryError) -> Error {
        match error {
            RepositoryError::Exists { .. } => Error::new(ErrorCode::Conflict, error.to_string()),
            error => Error::internal(error),
        }
    }
}

type Result<T> = std::result::Result<T, RepositoryError>;

impl Repository {
    pub fn new(store: Store) -> Repository {
        Repository { store }
    }

    /// Where an upload is written before it is checked.
    pub fn scratch(&self) -> &Path {
        self.store.scratch()
    }

    /// All visible versions. What an earlier process of this host left half-done is removed.
    pub async fn list(&self) -> Result<Vec<Entry>> {
        let mut files: BTreeMap<Entry, Vec<String>> = BTreeMap::new();
        for object in self.store.list("models").await? {
            let parts: Vec<&str> = object.path.split('/').collect();
            if let ["models", id, version, file] = parts[..]
                && super::check_name("id", id).is_ok()
                && super::check_name("version", version).is_ok()
            {
                let entry = Entry { id: id.to_owned(), version: version.to_owned() };
                files.entry(entry).or_default().push(file.to_owned());
            }
        }
        let (visible, partial): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|(_, files)| files.iter().any(|file| file == "model.onnx"));
        if self.store.is_exclusive() {
            // Only what publishing leaves: it begins with a sidecar. Anything else is somebody's own.
            let interrupted =
                partial.into_iter().filter(|(_, files)| files.iter().any(|file| file == "model_info.json"));
            for (entry, _) in interrupted {
                tracing::warn!(model = entry.id, version = entry.version, "removing an upload that did not end");
                self.remove(&entry).await?;
            }
        }
        Ok(visible.into_iter().map(|(entry, _)| entry).collect())
    }

    /// The versions of a model that are there, or are being uploaded.
    pub async fn versions(&self, id: &str) -> Result<Vec<String>> {
        let objects = self.store.list(&format!("models/{id}")).await?;
        let mut versions: Vec<String> =
            objects.iter().filter_map(|object| Some(object.path.split('/').nth(2)?.to_owned())).collect();
        versions.retain(|version| version != "model.toml");
        Ok(versions)
    }

    /// Reads a version: sidecar (made where there is none, and not kept yet), labels, and the model's sha256 against the sidecar's.
    ///
    /// # Errors
    /// A file that is missing, unreadable or changed.
    pub async fn open(&self, entry: &Entry) -> Result<Stored> {
        let path = entry.file("model.onnx");
        let file = self.store.file(&path).await?;
        let sidecar = match self.store.read(&entry.file("model_info.json")).await? {
            Some(json) => {
                let sidecar: Sidecar = serde_json::from_slice(&json)
                    .map_err(|error| RepositoryError::corrupt(&entry.file("model_info.json"), error))?;
                let actual = on_file(&file, |file| Ok(sha256_of_file(file)?)).await?;
                if actual != sidecar.sha256 {
                    return Err(RepositoryError::Changed { path, expected: sidecar.sha256, actual });
                }
                sidecar
            }
            None => describe(entry, &file).await?,
        };
        let labels = match self.store.read(&entry.file("labels.json")).await? {
            Some(json) => labels::parse(&json)
                .map_err(|error| RepositoryError::corrupt(&entry.file("labels.json"), error.message))?,
            None => Vec::new(),
        };
        Ok(Stored { sidecar, labels, file, path })
    }

    /// Keeps the sidecar of a model that came without, or with one that says less: laid down by hand, or by Triton's
    /// conventions.
    pub(super) async fn keep_sidecar(&self, sidecar: &Sidecar) {
        let entry = Entry { id: sidecar.id.clone(), version: sidecar.version.clone() };
        let kept = async { Ok(self.store.replace(&entry.file("model_info.json"), to_json(sidecar)?).await?) };
        // A store that cannot be written to serves all the same; the sidecar is made anew at the next start.
        let kept: Result<()> = kept.await;
        if let Err(error) = kept {
            tracing::warn!(model = entry.id, version = entry.version, %error, "the sidecar was not kept");
        }
    }

    /// Publishes a version. `labels` is a label file as it came, checked before.
    ///
    /// # Errors
    /// [`RepositoryError::Exists`], or the store's; nothing of the version is left then.
    pub async fn publish(&self, sidecar: &Sidecar, labels: Option<&Bytes>, file: &Path) -> Result<String> {
        let entry = Entry { id: sidecar.id.clone(), version: sidecar.version.clone() };
        let exists = || RepositoryError::Exists { id: entry.id.clone(), version: entry.version.clone() };
        // A model that came by hand may have no sidecar yet, and is not to be overwritten either.
        if self.is_visible(&entry).await?
            || !self.store.create(&entry.file("model_info.json"), to_json(sidecar)?).await?
        {
            return Err(exists());
        }
        let path = entry.file("model.onnx");
        let written = async {
            if let Some(labels) = labels {
                self.store.replace(&entry.file("labels.json"), labels.clone()).await?;
            }
            self.store.write_file(&path, file).await
        };
        match written.await {
            Ok(()) => Ok(path),
            Err(error) => {
                if let Err(error) = self.remove(&entry).await {
                    tracing::error!(model = entry.id, version = entry.version, %error, "a failed upload was left behind");
                }
                Err(error.into())
            }
        }
    }

    /// Publishes a version from a folder of the bundle, where files have their names of the store.
    ///
    /// # Errors
    /// As [`Repository::publish`], and a file that is not a model.
    pub async fn import(&self, entry: &Entry, folder: &Path) -> Result<()> {
        let file = folder.join("model.onnx");
        let sidecar = describe(entry, &file).await?;
        let labels = match tokio::fs::read(folder.join("labels.json")).await {
            Ok(labels) => Some(Bytes::from(labels)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        self.publish(&sidecar, labels.as_ref(), &file).await?;
        Ok(())
    }

    async fn is_visible(&self, entry: &Entry) -> Result<bool> {
        let path = entry.file("model.onnx");
        let objects = self.store.list(&format!("models/{}/{}", entry.id, entry.version)).await?;
        Ok(objects.iter().any(|object| object.path == path))
    }

    /// Removes a version, the model first: from then on it is not visible.
    async fn remove(&self, entry: &Entry) -> Result<()> {
        for file in ["model.onnx", "labels.json", "model_info.json"] {
            self.store.delete(&entry.file(file)).await?;
        }
        Ok(())
    }

    /// What is set for a model; nothing where it has no `model.toml`.
    pub async fn config(&self, id: &str) -> Result<ModelConfig> {
        let path = format!("models/{id}/model.toml");
        let Some(bytes) = self.store.read(&path).await? else {
            return Ok(ModelConfig::default());
        };
        let text = std::str::from_utf8(&bytes).map_err(|error| RepositoryError::corrupt(&path, error))?;
        toml::from_str(text).map_err(|error| RepositoryError::corrupt(&path, error))
    }

    pub async fn write_config(&self, id: &str, config: &ModelConfig) -> Result<()> {
        let path = format!("models/{id}/model.toml");
        let text = toml::to_string(config).map_err(|error| RepositoryError::corrupt(&path, error))?;
        Ok(self.store.replace(&path, text.into()).await?)
    }

    /// What is set for the host; `None` in a store no host has set up yet.
    pub async fn settings(&self) -> Result<Option<Settings>> {
        let Some(json) = self.store.read(SETTINGS).await? else {
            return Ok(None);
        };
        serde_json::from_slice(&json).map(Some).map_err(|error| RepositoryError::corrupt(SETTINGS, error))
    }

    pub async fn write_settings(&self, settings: &Settings) -> Result<()> {
        Ok(self.store.replace(SETTINGS, to_json(settings)?).await?)
    }
}

impl Entry {
    fn file(&self, name: &str) -> String {
        format!("models/{}/{}/{name}", self.id, self.version)
    }
}

impl RepositoryError {
    fn corrupt(path: &str, problem: impl std::fmt::Display) -> RepositoryError {
        RepositoryError::Corrupt { path: path.to_owned(), problem: problem.to_string() }
    }
}

/// The sidecar of a file that came without one.
async fn describe(entry: &Entry, file: &Path) -> Result<Sidecar> {
    let (metadata, sha256, size) =
        on_file(file, |file| Ok((onnx::read_file(file)?, sha256_of_file(file)?, file.metadata()?.len()))).await?;
    Ok(Sidecar {
        id: entry.id.clone(),
        name: entry.id.clone(),
        version: entry.version.clone(),
        sha256,
        size,
        uploaded_at: Utc::now(),
        files: Vec::new(),
        session_bytes: None,
        metadata,
    })
}

fn to_json(value: &impl Serialize) -> Result<Bytes> {
    let json = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
    Ok(json.into())
}

/// Runs what blocks on the disk on a thread that may block.
async fn on_file<T: Send + 'static>(file: &Path, work: impl FnOnce(&Path) -> Result<T> + Send + 'static) -> Result<T> {
    let file = file.to_owned();
    tokio::task::spawn_blocking(move || work(&file)).await.map_err(io::Error::other)?
}
