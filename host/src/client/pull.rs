//! `model-nexus models pull`: a model's files from a host into a repository on this machine's disk.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use clap::Args;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::api::{Api, RemoteFile};
use super::progress::Progress;
use super::{HostOptions, ModelReference, check_name, size};
use crate::digest::{hex, sha256_of_file};

#[derive(Debug, Args)]
pub struct PullOptions {
    /// The model, with all its versions, or one version of it.
    #[arg(value_name = "ID[@VERSION]")]
    model: ModelReference,

    /// The folder that becomes a repository.
    #[arg(long, short, default_value = ".", value_name = "FOLDER")]
    out: PathBuf,

    #[command(flatten)]
    host: HostOptions,
}

pub(super) async fn run(options: &PullOptions) -> Result<(), String> {
    let ModelReference { id, version } = &options.model;
    let api = Api::new(&options.host)?;
    let versions = match version {
        Some(version) => vec![version.clone()],
        None => {
            let known = api.versions().await?;
            known.into_iter().filter(|known| known.id == *id).map(|known| known.version).collect()
        }
    };
    if versions.is_empty() {
        return Err(format!("{} has no model {id}", options.host.url));
    }
    let mut failed = 0;
    for version in &versions {
        check_name("version", version)?;
        if let Err(problem) = pull(&api, id, version, &options.out.join(id)).await {
            eprintln!("{id}, version {version}: {problem}");
            failed += 1;
        }
    }
    if failed == 0 { Ok(()) } else { Err(format!("{failed} of {} versions were not pulled", versions.len())) }
}

/// Copies one version into a folder of the model's.
async fn pull(api: &Api, id: &str, version: &str, model_folder: &Path) -> Result<(), String> {
    let started = Instant::now();
    let files = api.files(id, version).await?;
    for file in &files {
        check_path(&file.path)?;
    }
    let folder = model_folder.join(version);
    if folder.exists() {
        return match is_same(&folder, &files).await? {
            true => {
                println!("{id}, version {version}, is in {} already", folder.display());
                Ok(())
            }
            false => Err(format!(
                "{} is there and has other content than the host's; move it away, or pull into another folder with --out",
                folder.display()
            )),
        };
    }
    let cannot_write = |error: std::io::Error| format!("cannot write {}: {error}", folder.display());
    tokio::fs::create_dir_all(model_folder).await.map_err(cannot_write)?;
    // As any new folder, not for this user alone: others may serve it. Removed with all that is in it where the pull fails.
    let mode = Permissions::from_mode(0o777);
    let partial = tempfile::Builder::new().prefix(".pull-").permissions(mode).tempdir_in(model_folder);
    let partial = partial.map_err(cannot_write)?;
    let bytes = files.iter().map(|file| file.size).sum();
    let progress = Progress::start(format!("pulling {id}, version {version}"), bytes);
    for file in &files {
        fetch(api, id, version, file, partial.path(), &progress).await?;
    }
    tokio::fs::rename(partial.path(), &folder).await.map_err(cannot_write)?;
    // It is no longer where it was made, so there is nothing left to remove.
    let _moved = partial.keep();
    progress.end();
    println!(
        "pulled {id}, version {version}, to {}: {} in {:.1} s",
        folder.display(),
        size(bytes),
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// A path from the host stays inside the version's folder.
fn check_path(path: &str) -> Result<(), String> {
    let is_inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if is_inside && !path.is_empty() {
        return Ok(());
    }
    Err(format!("the host lists a file {path:?}, which would lie outside of the model's folder; nothing is written"))
}

/// Whether a folder has these files with this content.
async fn is_same(folder: &Path, files: &[RemoteFile]) -> Result<bool, String> {
    for file in files {
        let local = folder.join(&file.path);
        if !local.is_file() {
            return Ok(false);
        }
        let cannot_read = format!("cannot read {}", local.display());
        let sha256 = tokio::task::spawn_blocking(move || sha256_of_file(&local)).await;
        let sha256 = sha256.map_err(|error| error.to_string())?.map_err(|error| format!("{cannot_read}: {error}"))?;
        if sha256 != file.sha256 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes one file below `folder`, checked and on the disk when this returns.
async fn fetch(
    api: &Api,
    id: &str,
    version: &str,
    file: &RemoteFile,
    folder: &Path,
    progress: &Progress,
) -> Result<(), String> {
    let path = folder.join(&file.path);
    let cannot_write = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    if let Some(parent) = path.parent() {
        tokio::fs::create_dir_all(parent).await.map_err(cannot_write)?;
    }
    let mut response = api.download(id, version, &file.path).await?;
    let mut target = tokio::fs::File::create_new(&path).await.map_err(cannot_write)?;
    let mut hasher = Sha256::new();
    let mut left = file.size;
    while let Some(chunk) = response.chunk().await.map_err(|error| api.broken(&error))? {
        left = left
            .checked_sub(chunk.len() as u64)
            .ok_or_else(|| format!("{} is longer than the {} bytes the host said", file.path, file.size))?;
        hasher.update(&chunk);
        target.write_all(&chunk).await.map_err(cannot_write)?;
        progress.advance(chunk.len());
    }
    target.sync_all().await.map_err(cannot_write)?;
    let sha256 = hex(&hasher.finalize());
    if sha256 == file.sha256 {
        return Ok(());
    }
    Err(format!(
        "{} is damaged in the host's store or changed on the way: its sha256 is {sha256}, the host says {}",
        file.path, file.sha256
    ))
}

#[cfg(test)]
mod tests {
    use super::check_path;

    #[test]
    fn a_path_that_leaves_the_folder_is_refused() {
        for path in ["model.onnx", "weights/part-1.bin", "a..b"] {
            assert!(check_path(path).is_ok(), "{path}");
        }
        for path in ["", "/etc/passwd", "../model.onnx", "weights/../../x", "./model.onnx"] {
            assert!(check_path(path).is_err(), "{path}");
        }
    }
}
