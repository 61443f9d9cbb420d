//! The store's layout of models, and the rule that makes a version visible: `models/<id>/<version>/model.onnx` is there.
//! A model without a sidecar came by hand and gets one.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::admission::Batching;
use super::incoming::named_files;
use super::labels;
use super::layout::{CONFIG, LABELS, Layout, MODEL, Place, SIDECAR, Snapshot};
use super::model_toml::{ModelConfig, VersionConfig};
use crate::digest::sha256_of_file;
use crate::error::{Error, ErrorCode};
use crate::onnx::{self, MetadataError, ModelMetadata};
use crate::store::{self, Mark, Store, StoreError};

const SETTINGS: &str = "settings.json";
/// Says that a host has laid the store out, so that one that holds no models is told from one that is lost.
pub(super) const MARKER: &str = "store.json";
/// Times that a change is tried which other hosts keep coming before.
const CHANGES_TRIED: u32 = 16;

/// Models as the store keeps them.
#[derive(Clone)]
pub struct Repository {
    pub(super) store: Store,
    pub(super) layout: Layout,
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
    /// Whether requests for it may be run together, as its admission found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batching: Option<Batching>,
    #[serde(flatten)]
    pub metadata: ModelMetadata,
}

impl Sidecar {
    pub fn entry(&self) -> Entry {
        Entry { id: self.id.clone(), version: self.version.clone() }
    }

    /// Bytes of the model and its external data.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().fold(self.size, |sum, file| sum.saturating_add(file.size))
    }
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
    #[error(
        "an upload of model {id} version {version} is under way, or was interrupted, which is cleared within hours; \
         upload under another version"
    )]
    Unfinished { id: String, version: String },
    #[error("model {id} is being deleted; try again when it is gone")]
    BeingDeleted { id: String },
    #[error("in this store {id} is the name of a folder of the host's own; give the model another id")]
    Reserved { id: String },
    #[error(
        "the store is the folder of one model, and has no place for uploads; --store of a folder that holds models \
         takes them"
    )]
    NoPlace,
    #[error("other hosts change what is set for model {id} all the time; try again")]
    Contended { id: String },
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
            RepositoryError::Exists { .. }
            | RepositoryError::Unfinished { .. }
            | RepositoryError::BeingDeleted { .. } => Error::new(ErrorCode::Conflict, error.to_string()),
            RepositoryError::Contended { .. } => Error::new(ErrorCode::Overloaded, error.to_string()),
            RepositoryError::Reserved { .. } => Error::invalid_input(error.to_string()),
            RepositoryError::NoPlace => Error::new(ErrorCode::Forbidden, error.to_string()),
            RepositoryError::Store(error) => error.into(),
            RepositoryError::File(error) => store::scratch_error(error),
            error => Error::internal(error),
        }
    }
}

pub(super) type Result<T> = std::result::Result<T, RepositoryError>;

impl Repository {
    /// The models of a store. `name` is the id of a model whose folder the store is.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub async fn of_store(store: Store, name: &str) -> Result<Repository> {
        let is_marked = store.read(MARKER).await?.is_some();
        let layout = if is_marked { Layout::Own } else { Layout::detect(&store.list("").await?, name) };
        if layout != Layout::Own {
            tracing::info!(?layout, "the store was laid out by somebody else; it is served as it is");
        }
        Ok(Repository { store, layout })
    }

    /// Whether a host laid the store out. Into another server's nothing is laid that nobody asked for.
    pub fn is_ours(&self) -> bool {
        self.layout == Layout::Own
    }

    /// A version's model in the store.
    pub fn path_of(&self, entry: &Entry) -> String {
        self.layout.of_version(entry, MODEL)
    }

    /// Marks the store as one that a host has laid out.
    pub async fn mark(&self) -> Result<()> {
        if self.is_ours() {
            self.store.create(MARKER, to_json(&serde_json::json!({ "layout": 1 }))?).await?;
        }
        Ok(())
    }

    /// Whether a host has laid the store out, as far as it could write to it.
    pub async fn is_marked(&self) -> Result<bool> {
        Ok(self.store.read(MARKER).await?.is_some())
    }

    /// Where an upload is written before it is checked.
    pub fn scratch(&self) -> &Path {
        self.store.scratch()
    }

    /// What the store holds, in one listing.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot::of(&self.layout, self.store.list(self.layout.root()).await?))
    }

    /// All visible versions.
    pub async fn list(&self) -> Result<Vec<Entry>> {
        Ok(self.snapshot().await?.entries().collect())
    }

    /// The versions of a model that are there, or are being uploaded.
    pub async fn versions(&self, id: &str) -> Result<Vec<String>> {
        let objects = self.store.list(&self.layout.of_model(id, "")).await?;
        let versions = objects.iter().filter_map(|object| match self.layout.place(&object.path)? {
            Place::Version { entry, .. } => Some(entry.version),
            Place::Model { .. } => None,
        });
        Ok(versions.collect::<BTreeSet<_>>().into_iter().collect())
    }

    /// What a version's sidecar says; made where there is none, and not kept yet.
    ///
    /// # Errors
    /// A file that is missing or unreadable.
    pub async fn describe(&self, entry: &Entry) -> Result<Sidecar> {
        match self.store.read(&self.layout.of_version(entry, SIDECAR)).await? {
            Some(json) => self.read_sidecar(entry, &json),
            None => {
                let file = self.store.file(&self.layout.of_version(entry, MODEL)).await?;
                self.make_sidecar(entry, &file).await
            }
        }
    }

    /// Reads a version: sidecar, labels, and the model's sha256 against the sidecar's.
    ///
    /// # Errors
    /// A file that is missing, unreadable or changed.
    pub async fn open(&self, entry: &Entry) -> Result<Stored> {
        let sidecar = self.describe(entry).await?;
        let file = match self.checked_files(entry, &sidecar).await {
            // They may have been copied from a version of this name that was there before.
            Err(RepositoryError::Changed { .. }) if self.drop_copies(entry).await? => {
                self.checked_files(entry, &sidecar).await?
            }
            checked => checked?,
        };
        let labels = match self.store.read(&self.layout.of_version(entry, LABELS)).await? {
            Some(json) => labels::parse(&json)
                .map_err(|error| RepositoryError::corrupt(&self.layout.of_version(entry, LABELS), error.message))?,
            None => Vec::new(),
        };
        Ok(Stored { sidecar, labels, file, path: self.layout.of_version(entry, MODEL) })
    }

    /// Removes the copies of a version that this host made, where the store is remote.
    pub(super) async fn drop_copies(&self, entry: &Entry) -> Result<bool> {
        Ok(self.store.drop_copies(&self.layout.of_version(entry, "")).await?)
    }

    fn read_sidecar(&self, entry: &Entry, json: &[u8]) -> Result<Sidecar> {
        let path = self.layout.of_version(entry, SIDECAR);
        let sidecar: Sidecar = serde_json::from_slice(json).map_err(|error| RepositoryError::corrupt(&path, error))?;
        if (&sidecar.id, &sidecar.version) != (&entry.id, &entry.version) {
            let other = format!("it is that of model {} version {}; remove it", sidecar.id, sidecar.version);
            return Err(RepositoryError::corrupt(&path, other));
        }
        Ok(sidecar)
    }

    /// The model and the files beside it, there for ONNX Runtime to open, and as they were uploaded.
    async fn checked_files(&self, entry: &Entry, sidecar: &Sidecar) -> Result<PathBuf> {
        let model = self.checked_file(self.layout.of_version(entry, MODEL), &sidecar.sha256).await?;
        for data in &sidecar.files {
            self.checked_file(self.layout.of_version(entry, &data.path), &data.sha256).await?;
        }
        Ok(model)
    }

    async fn checked_file(&self, path: String, expected: &str) -> Result<PathBuf> {
        let file = self.store.file(&path).await?;
        let hashed = on_file(&file, |file| Ok(sha256_of_file(file)?)).await;
        let actual = hashed.map_err(|error| RepositoryError::corrupt(&path, error))?;
        if actual == expected {
            return Ok(file);
        }
        Err(RepositoryError::Changed { path, expected: expected.to_owned(), actual })
    }

    /// A sidecar for a model that came without: laid down by hand, or by Triton's conventions.
    async fn make_sidecar(&self, entry: &Entry, file: &Path) -> Result<Sidecar> {
        for data in on_file(file, data_files).await? {
            // Fetched from where the store is no folder.
            self.store.file(&self.layout.of_version(entry, &data)).await?;
        }
        let mut sidecar = describe(entry, file).await?;
        sidecar.uploaded_at = self.laid_down_at(entry).await?;
        Ok(sidecar)
    }

    /// Keeps the sidecar of a model that came without, or with one that says less: laid down by hand, or by Triton's
    /// conventions.
    pub(super) async fn keep_sidecar(&self, sidecar: &Sidecar) {
        if !self.is_ours() {
            return;
        }
        let entry = sidecar.entry();
        // A store that cannot be written to serves all the same; the sidecar is made anew at the next start.
        if let Err(error) = self.replace_sidecar(&entry, sidecar).await {
            tracing::warn!(model = entry.id, version = entry.version, %error, "the sidecar was not kept");
        }
    }

    async fn replace_sidecar(&self, entry: &Entry, sidecar: &Sidecar) -> Result<()> {
        let path = self.layout.of_version(entry, SIDECAR);
        let mark = self.store.read_marked(&path).await?.map(|(_, mark)| mark);
        // Of a version that was removed meanwhile no sidecar is to stay behind.
        let model = self.layout.of_version(entry, MODEL);
        let objects = self.store.list(&self.layout.of_version(entry, "")).await?;
        if objects.iter().any(|object| object.path == model) {
            self.store.replace_if(&path, to_json(sidecar)?, mark.as_ref()).await?;
        }
        Ok(())
    }

    /// When a version that came without a sidecar counts as uploaded: when its file was written, but a number later than
    /// every lower one, whose files may have been copied in any order. So the highest number is the newest.
    async fn laid_down_at(&self, entry: &Entry) -> Result<DateTime<Utc>> {
        let number = entry.version.parse::<u64>().ok();
        let mut earlier = Vec::new();
        for object in self.store.list(&self.layout.of_model(&entry.id, "")).await? {
            let Some(Place::Version { entry: other, file }) = self.layout.place(&object.path) else { continue };
            let is_lower =
                matches!((other.version.parse::<u64>().ok(), number), (Some(other), Some(number)) if other < number);
            if file == MODEL && (other == *entry || is_lower) {
                earlier.push(object.modified);
            }
        }
        let latest = earlier.iter().max().copied().unwrap_or_else(Utc::now);
        Ok(latest + TimeDelta::microseconds(i64::try_from(earlier.len()).unwrap_or_default()))
    }

    /// What is set for a model; nothing where it has no `model.toml`.
    pub async fn config(&self, id: &str) -> Result<ModelConfig> {
        Ok(self.config_marked(id).await?.0)
    }

    /// What is set for a model, and the mark to replace it with.
    pub async fn config_marked(&self, id: &str) -> Result<(ModelConfig, Option<Mark>)> {
        let path = self.layout.of_model(id, CONFIG);
        let Some((bytes, mark)) = self.store.read_marked(&path).await? else {
            return Ok((ModelConfig::default(), None));
        };
        let text = std::str::from_utf8(&bytes).map_err(|error| RepositoryError::corrupt(&path, error))?;
        let config = toml::from_str(text).map_err(|error| RepositoryError::corrupt(&path, error))?;
        Ok((config, Some(mark)))
    }

    /// Changes what is set for a model, whoever else changes it at the same time. Answers with all that is set, and the mark
    /// of it in the store.
    pub async fn change_config(
        &self,
        id: &str,
        change: impl Fn(&mut ModelConfig),
    ) -> Result<(ModelConfig, Option<Mark>)> {
        let path = self.layout.of_model(id, CONFIG);
        for _ in 0..CHANGES_TRIED {
            let (mut config, mark) = self.config_marked(id).await?;
            change(&mut config);
            config.versions.retain(|_, version| *version != VersionConfig::default());
            let text = to_toml(&config)?;
            if self.store.replace_if(&path, text.clone(), mark.as_ref()).await? {
                // What another host made of it a moment later is looked at with the store.
                let mark = self.store.read_marked(&path).await?.filter(|(now, _)| *now == text).map(|(_, mark)| mark);
                return Ok((config, mark));
            }
        }
        Err(RepositoryError::Contended { id: id.to_owned() })
    }

    /// Sets everything for a model that is being imported.
    pub async fn write_config(&self, id: &str, config: &ModelConfig) -> Result<()> {
        Ok(self.store.replace(&self.layout.of_model(id, CONFIG), to_toml(config)?).await?)
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

impl From<(String, String)> for Entry {
    fn from((id, version): (String, String)) -> Entry {
        Entry { id, version }
    }
}

impl RepositoryError {
    fn corrupt(path: &str, problem: impl std::fmt::Display) -> RepositoryError {
        RepositoryError::Corrupt { path: path.to_owned(), problem: problem.to_string() }
    }
}

/// The files that a model names, as paths beside it.
fn data_files(model: &Path) -> Result<Vec<String>> {
    let named = named_files(&onnx::inspect_file(model)?);
    named.map_err(|error| RepositoryError::corrupt(MODEL, error.message))
}

/// The sidecar of a file that came without one.
pub(super) async fn describe(entry: &Entry, file: &Path) -> Result<Sidecar> {
    let described = on_file(file, |file| {
        let metadata = onnx::read_file(file)?;
        let (sha256, size) = hash(file)?;
        let folder = file.parent().unwrap_or(Path::new("."));
        let data = data_files(file)?.into_iter().map(|path| {
            let hashed = hash(&folder.join(&path));
            let (sha256, size) = hashed.map_err(|error| RepositoryError::corrupt(&path, error))?;
            Ok(DataFile { path, size, sha256 })
        });
        Ok((metadata, sha256, size, data.collect::<Result<_>>()?))
    });
    let (metadata, sha256, size, files) = described.await?;
    Ok(Sidecar {
        id: entry.id.clone(),
        name: entry.id.clone(),
        version: entry.version.clone(),
        sha256,
        size,
        uploaded_at: Utc::now(),
        files,
        session_bytes: None,
        batching: None,
        metadata,
    })
}

/// A file's sha256 and its size in bytes.
fn hash(file: &Path) -> io::Result<(String, u64)> {
    Ok((sha256_of_file(file)?, file.metadata()?.len()))
}

pub(super) fn to_json(value: &impl Serialize) -> Result<Bytes> {
    let json = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
    Ok(json.into())
}

fn to_toml(config: &ModelConfig) -> Result<Bytes> {
    let text = toml::to_string(config).map_err(io::Error::other)?;
    Ok(text.into())
}

/// Runs what blocks on the disk on a thread that may block.
async fn on_file<T: Send + 'static>(file: &Path, work: impl FnOnce(&Path) -> Result<T> + Send + 'static) -> Result<T> {
    let file = file.to_owned();
    tokio::task::spawn_blocking(move || work(&file)).await.map_err(io::Error::other)?
}
