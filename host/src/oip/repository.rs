//! The model repository extension: whole models are loaded, brought along, and unloaded.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use super::{BACKEND, PLATFORM};
use crate::app::App;
use crate::blocking::off_async_threads;
use crate::config::LimitsConfig;
use crate::digest::sha256_hex;
use crate::error::{Error, ErrorCode, Result};
use crate::model::{CameAs, KnownVersion, NewModel, path_in_folder};
use crate::staging;
use crate::store::scratch_error;

/// What the store calls a version's model, its labels, and what the host knows of it.
const MODEL: &str = "model.onnx";
const LABELS: &str = "labels.json";
const SIDECAR: &str = "model_info.json";

/// What a request to load a model brings along.
#[derive(Debug, Default)]
pub struct Files {
    /// A configuration in Triton's words, as JSON.
    pub config: Option<String>,
    /// By their paths in the model's folder, `1/model.onnx`.
    pub files: BTreeMap<String, Bytes>,
}

/// The files of one version, by their paths in its folder.
type VersionFiles = BTreeMap<String, Bytes>;

/// What a configuration has to say right, if it says it.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    name: String,
    #[serde(default)]
    backend: String,
    #[serde(default)]
    platform: String,
}

/// Loads a model: what came to the store a moment ago is found, files that the request brings are published as an upload
/// is, and what was unloaded takes requests again.
///
/// # Errors
/// No such model, files or a configuration that are not a model's here, or a version that cannot serve.
pub async fn load(app: &Arc<App>, id: &str, brought: Files) -> Result<()> {
    if let Some(config) = &brought.config {
        check_config(id, config)?;
    }
    let versions = by_version(brought.files)?;
    for (version, files) in &versions {
        check_limits(&app.config.limits, version, files)?;
    }
    for (version, files) in versions {
        publish(app, id, version, files).await?;
    }
    // KServe's agent has just laid the model down, or a version of it, and need not wait for the next look at the store.
    app.models.look_at_store().await?;
    app.models.load_model(id).await
}

/// Unloads a model until it is loaded again. One that is not there is unloaded already.
///
/// # Errors
/// The store cannot be written to.
pub async fn unload(app: &Arc<App>, id: &str) -> Result<()> {
    // KServe's agent takes the model's folder away first, and nothing is to be set for it then.
    app.models.look_at_store().await?;
    match app.models.unload_model(id).await {
        Err(error) if error.code == ErrorCode::NotFound => Ok(()),
        unloaded => unloaded,
    }
}

fn check_config(id: &str, config: &str) -> Result<()> {
    let Config { name, backend, platform } = serde_json::from_str(config).map_err(|error| {
        Error::invalid_input(format!("the parameter `config` is not a configuration's JSON: {error}"))
    })?;
    for (field, came, expected) in [("name", name, id), ("backend", backend, BACKEND), ("platform", platform, PLATFORM)]
    {
        if !came.is_empty() && came != expected {
            return Err(Error::invalid_input(format!(
                "the parameter `config` has the {field} {came:?}; it can only be {expected:?} here"
            )));
        }
    }
    Ok(())
}

fn by_version(files: BTreeMap<String, Bytes>) -> Result<BTreeMap<String, VersionFiles>> {
    let mut versions: BTreeMap<String, VersionFiles> = BTreeMap::new();
    for (path, content) in files {
        let Some((version, file)) = path.split_once('/') else {
            return Err(Error::invalid_input(format!(
                "the file {path:?} lies in no version's folder; files are named as `file:1/model.onnx`"
            )));
        };
        let file = match file {
            MODEL | LABELS => file.to_owned(),
            _ => path_in_folder(file)
                .map_err(|problem| Error::invalid_input(format!("the file {path:?} cannot be taken: {problem}")))?,
        };
        versions.entry(version.to_owned()).or_default().insert(file, content);
    }
    Ok(versions)
}

/// What an upload may have, a load may bring. Looked at before any of it is written.
fn check_limits(limits: &LimitsConfig, version: &str, files: &VersionFiles) -> Result<()> {
    let refused = |what: String, option: &str| {
        Err(Error::new(ErrorCode::TooLarge, format!("version {version} comes with {what} ({option})")))
    };
    let beside = files.keys().filter(|file| !matches!(file.as_str(), MODEL | LABELS)).count();
    if beside > limits.max_model_files as usize {
        let most = limits.max_model_files;
        return refused(format!("{beside} files beside its model; {most} may be"), "--max-model-files");
    }
    let labels = files.get(LABELS).map_or(0, |labels| labels.len() as u64);
    if labels > limits.max_labels_bytes.as_u64() {
        let most = limits.max_labels_bytes;
        return refused(format!("{labels} bytes of labels; it may be {most}"), "--max-labels-bytes");
    }
    let bytes: u64 = files.values().map(|content| content.len() as u64).sum();
    if bytes - labels > limits.max_upload_bytes.as_u64() {
        let most = limits.max_upload_bytes;
        return refused(format!("{} bytes; it may be {most}", bytes - labels), "--max-upload-bytes");
    }
    Ok(())
}

/// Takes a version in through the same admission as any upload. The same one again is there already.
async fn publish(app: &Arc<App>, id: &str, version: String, mut files: VersionFiles) -> Result<()> {
    let model = files.get(MODEL).cloned().ok_or_else(|| {
        Error::invalid_input(format!("version {version} comes without its model; it is the file `{version}/{MODEL}`"))
    })?;
    if let Ok(known) = app.models.registry.find(id, Some(&version)) {
        return check_same(app, &known, files).await;
    }
    files.remove(MODEL);
    let labels = files.remove(LABELS);
    let came = stage(app, model, files).await?;
    let files = app.models.take_files(came).await?;
    app.models
        .add(&NewModel { id: id.to_owned(), name: id.to_owned(), version, files, labels, pipeline: None })
        .await?;
    Ok(())
}

/// Makes sure that a version which is there is of the same files as what came.
///
/// # Errors
/// `Conflict` where it is not, or the store cannot be read.
async fn check_same(app: &Arc<App>, known: &KnownVersion, came: VersionFiles) -> Result<()> {
    let there = match known.info {
        Some(_) => app.models.files(&known.entry()).await?,
        // What it is of is not known: it cannot be read.
        None => Vec::new(),
    };
    let bytes = came.values().map(Bytes::len).sum();
    let hash = move || came.into_iter().map(|(path, content)| (path, sha256_hex(&content))).collect();
    let mut came: BTreeMap<String, String> = off_async_threads(bytes, hash).await?;
    let mut other = Vec::new();
    for file in there.into_iter().filter(|file| file.path != SIDECAR) {
        if came.remove(&file.path) != Some(file.sha256) {
            other.push(file.path);
        }
    }
    other.extend(came.into_keys());
    if other.is_empty() {
        return Ok(());
    }
    let (KnownVersion { id, version, .. }, shown) = (known, other.len().min(8));
    Err(Error::new(
        ErrorCode::Conflict,
        format!(
            "model {id} has a version {version} already, which differs in {}; upload under another version",
            other[..shown].join(", ")
        ),
    ))
}

async fn stage(app: &Arc<App>, model: Bytes, data: VersionFiles) -> Result<CameAs> {
    let app = Arc::clone(app);
    let work = move || {
        let stage = |content: Bytes| {
            let staged = staging::stage_from(&content[..], app.models.scratch(), u64::MAX).map_err(scratch_error)?;
            staged.ok_or_else(|| Error::internal("a file without a limit was too large"))
        };
        let data = data.into_iter().map(|(path, content)| Ok((path, stage(content)?)));
        Ok(CameAs { file: stage(model)?, data: data.collect::<Result<_>>()? })
    };
    tokio::task::spawn_blocking(work).await.map_err(Error::internal)?
}
