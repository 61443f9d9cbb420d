//! The model repository extension: whole models are loaded, brought along, and unloaded.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use super::{BACKEND, PLATFORM};
use crate::app::App;
use crate::error::{Error, ErrorCode, Result};
use crate::model::{CameAs, NewModel, path_in_folder};
use crate::staging;
use crate::store::scratch_error;

/// What the store calls a version's model and its labels.
const MODEL: &str = "model.onnx";
const LABELS: &str = "labels.json";

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
    for (version, files) in by_version(brought.files)? {
        publish(app, id, version, files).await?;
    }
    if app.models.registry.versions(id).is_err() {
        // An agent that has just laid the model down need not wait for the next look at the store.
        app.models.look_at_store().await?;
    }
    app.models.load_model(id).await
}

/// Unloads a model until it is loaded again. One that is not there is unloaded already.
///
/// # Errors
/// The store cannot be written to.
pub async fn unload(app: &Arc<App>, id: &str) -> Result<()> {
    // An agent may have taken the model's folder away, and nothing is to be set for it then.
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

/// Takes a version in through the same admission as any upload. The same one again is there already.
async fn publish(app: &Arc<App>, id: &str, version: String, mut files: VersionFiles) -> Result<()> {
    let model = files.remove(MODEL).ok_or_else(|| {
        Error::invalid_input(format!(
            "version {version} comes without its model; it is the file `{version}/model.onnx`"
        ))
    })?;
    let labels = files.remove(LABELS);
    let came = stage(app, model, files).await?;
    let known = app.models.registry.find(id, Some(&version)).ok().and_then(|known| known.info.clone());
    if known.is_some_and(|known| known.sha256 == came.file.sha256) {
        return Ok(());
    }
    let files = app.models.take_files(came).await?;
    app.models
        .add(&NewModel { id: id.to_owned(), name: id.to_owned(), version, files, labels, pipeline: None })
        .await?;
    Ok(())
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
