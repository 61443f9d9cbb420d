//! `model-nexus models push`: models from this machine's disk to a host.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use futures_util::{TryStreamExt, stream};
use reqwest::Body;
use reqwest::multipart::{Form, Part};
use tokio_util::io::ReaderStream;

use super::api::{Api, Listed};
use super::progress::Progress;
use super::source::{self, Source, Version};
use super::{HostOptions, check_name, size};
use crate::digest::sha256_of_file;

/// Bytes read from a file at a time.
const READ_BYTES: usize = 256 << 10;

#[derive(Debug, Args)]
pub struct PushOptions {
    /// What to push.
    #[arg(value_name = "FILE|FOLDER")]
    path: PathBuf,

    /// The model's id [default: the name of the file or folder].
    #[arg(long)]
    id: Option<String>,

    /// The version [default: the folder's where it is <id>/<version> and a number; else one more than the host's highest].
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,

    /// The model's name, for people [default: the sidecar's, else the id].
    #[arg(long)]
    name: Option<String>,

    /// A label file, JSON [default: labels.json of a folder].
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,

    /// The plugins around the model, JSON as `PUT /models/{id}/pipeline` takes it.
    #[arg(long, value_name = "FILE")]
    pipeline: Option<PathBuf>,

    /// A file that the model keeps weights in, where it does not lie beside the model as the model names it; repeatable.
    #[arg(long, value_name = "FILE")]
    data: Vec<PathBuf>,

    #[command(flatten)]
    host: HostOptions,
}

/// A file that goes into the form.
struct Attached {
    field: &'static str,
    /// The name that the host reads it by.
    name: String,
    file: PathBuf,
    size: u64,
}

pub(super) async fn run(options: &PushOptions) -> Result<(), String> {
    let api = Api::new(&options.host)?;
    let path = options.path.clone();
    let found = tokio::task::spawn_blocking(move || source::find(&path)).await.map_err(|error| error.to_string())??;
    match found {
        Source::One(version) => push_one(&api, *version, options).await,
        Source::Repository(versions) => push_all(&api, versions, options).await,
    }
}

async fn push_one(api: &Api, mut version: Version, options: &PushOptions) -> Result<(), String> {
    if let Some(id) = &options.id {
        version.id.clone_from(id);
    }
    check_name("id", &version.id).map_err(|problem| format!("{problem}; give one with --id"))?;
    version.version = options.version.clone().or(version.version);
    version.name = options.name.clone().or(version.name);
    version.labels = options.labels.clone().or(version.labels);
    let known = api.versions().await?;
    let number = version.version.take().unwrap_or_else(|| next_version(&known, &version.id));
    check_name("version", &number)?;
    // Before gigabytes are sent to be refused. The host decides all the same.
    if known.iter().any(|known| known.id == version.id && known.version == number) {
        let id = &version.id;
        return Err(format!(
            "{} has a version {number} of {id} already; give another with --version",
            options.host.url
        ));
    }
    push(api, &version, &number, options).await
}

/// Pushes what the host does not have. A version that it refuses does not keep the others from coming.
async fn push_all(api: &Api, versions: Vec<Version>, options: &PushOptions) -> Result<(), String> {
    let PushOptions { id, version, name, labels, pipeline, data, .. } = options;
    let is_plain = id.is_none() && version.is_none() && name.is_none() && labels.is_none();
    if !(is_plain && pipeline.is_none() && data.is_empty()) {
        let count = versions.len();
        return Err(format!(
            "{} is a repository of {count} versions, and --id, --version, --name, --labels, --pipeline and --data are for one; push the \
             folder of that one",
            options.path.display()
        ));
    }
    let known = api.versions().await?;
    let mut failed = 0;
    for version in &versions {
        let (id, number) = (&version.id, version.version.as_deref().unwrap_or_default());
        let pushed = if known.iter().any(|known| known.id == *id && known.version == number) {
            compare(api, version, number).await
        } else {
            push(api, version, number, options).await
        };
        if let Err(problem) = pushed {
            eprintln!("{id}, version {number}: {problem}");
            failed += 1;
        }
    }
    if failed == 0 {
        Ok(())
    } else {
        Err(format!("{failed} of {} versions are not on the host as they are here", versions.len()))
    }
}

/// A version that the host has already is well where it is the same model with the same data.
async fn compare(api: &Api, version: &Version, number: &str) -> Result<(), String> {
    let remote = api.files(&version.id, number).await?;
    let model = version.model.clone();
    let hashed = tokio::task::spawn_blocking(move || {
        let data = source::external_data(&model, &[])?;
        let files = [("model.onnx".to_owned(), model)].into_iter().chain(data);
        let hash = |(path, file): (String, PathBuf)| {
            let sha256 = sha256_of_file(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            Ok((path, sha256))
        };
        files.map(hash).collect::<Result<Vec<_>, String>>()
    });
    let hashed = hashed.await.map_err(|error| error.to_string())??;
    let has =
        |(path, sha256): &(String, String)| remote.iter().any(|file| file.path == *path && file.sha256 == *sha256);
    if hashed.iter().all(has) {
        println!("{}, version {number}, is there already", version.id);
        return Ok(());
    }
    Err("the host has another model under this version".to_owned())
}

async fn push(api: &Api, version: &Version, number: &str, options: &PushOptions) -> Result<(), String> {
    let started = Instant::now();
    let id = &version.id;
    check_name("id", id)?;
    let attached = attachments(version, options).await?;
    let bytes = attached.iter().map(|attached| attached.size).sum();
    let progress = Progress::start(format!("pushing {id}, version {number}"), bytes);
    let name = version.name.clone().unwrap_or_else(|| id.clone());
    let mut form = Form::new().text("id", id.clone()).text("name", name).text("version", number.to_owned());
    for (position, file) in attached.iter().enumerate() {
        let is_last = position + 1 == attached.len();
        form = form.part(file.field, part(file, &progress, is_last));
    }
    let uploaded = api.upload(form).await;
    progress.end();
    uploaded?;
    println!("pushed {id}, version {number}: {} in {:.1} s", size(bytes), started.elapsed().as_secs_f64());
    Ok(())
}

/// The form's files: small ones first, the model last.
async fn attachments(version: &Version, options: &PushOptions) -> Result<Vec<Attached>, String> {
    let (model, given) = (version.model.clone(), options.data.clone());
    let data = tokio::task::spawn_blocking(move || source::external_data(&model, &given)).await;
    let data = data.map_err(|error| error.to_string())??.into_iter().map(|(path, file)| ("data", path, file));
    let plain = |field, file: &Path| (field, source::name_of(file), file.to_owned());
    let small = [("labels", version.labels.as_deref()), ("pipeline", options.pipeline.as_deref())];
    let small = small.into_iter().filter_map(|(field, file)| Some(plain(field, file?)));
    let mut attached = Vec::new();
    for (field, name, file) in small.chain(data).chain([plain("file", &version.model)]) {
        let metadata = tokio::fs::metadata(&file).await;
        let metadata = metadata.map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        if !metadata.is_file() {
            return Err(format!("{} is no file", file.display()));
        }
        attached.push(Attached { field, name, size: metadata.len(), file });
    }
    Ok(attached)
}

/// A file as a part of the form, read as it is sent.
fn part(attached: &Attached, progress: &Progress, is_last: bool) -> Part {
    let Attached { file, name, size, .. } = attached;
    let (file, mut left, progress) = (file.clone(), *size, progress.clone());
    // Opened when it is its turn: a model may keep each of a thousand tensors in a file.
    let opened = stream::once(tokio::fs::File::open(file));
    let content = opened.map_ok(|file| ReaderStream::with_capacity(file, READ_BYTES)).try_flatten();
    let content = content.inspect_ok(move |chunk| {
        progress.advance(chunk.len());
        left = left.saturating_sub(chunk.len() as u64);
        if is_last && left == 0 {
            progress.wait("the host checks and loads it".to_owned());
        }
    });
    Part::stream_with_length(Body::wrap_stream(content), *size).file_name(name.clone())
}

/// One more than the highest number among a model's versions.
fn next_version(known: &[Listed], id: &str) -> String {
    let numbers = known.iter().filter(|known| known.id == id).filter_map(|known| known.version.parse::<u64>().ok());
    numbers.max().unwrap_or(0).saturating_add(1).to_string()
}
