//! The files of a model on its way in: its own, and those that it keeps weights in, laid out as it names them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::archive::{Archive, ArchiveLimits};
use super::layout::{LABELS, MODEL, SIDECAR};
use super::repository::DataFile;
use crate::error::{Error, Result};
use crate::onnx::{self, MetadataError, ModelFile};
use crate::staging::StagedFile;
use crate::store::scratch_error;

/// Bytes of a path in a model's folder, and of one of its parts.
const PATH_BYTES: usize = 512;
const PART_BYTES: usize = 200;
/// Names that the store has in a version's folder.
const TAKEN: [&str; 3] = [MODEL, SIDECAR, LABELS];
/// Most names that a message lists.
const LISTED: usize = 8;

/// A model's files in a folder of their own, removed when this is dropped.
pub struct NewFiles {
    folder: TempDir,
    pub sha256: String,
    /// Bytes of the model's own file.
    pub size: u64,
    /// What the model keeps beside itself.
    pub data: Vec<DataFile>,
    /// What it says of itself.
    pub inspected: ModelFile,
}

/// A model's file or an archive of it, and other files by their paths beside it, as a client sent them.
pub struct CameAs {
    pub file: StagedFile,
    pub data: BTreeMap<String, StagedFile>,
}

/// A model and what came with it, by the paths it came under.
pub(super) struct CameWith {
    pub model: StagedFile,
    pub data: BTreeMap<String, StagedFile>,
    /// Whether a file that the model does not name is a mistake, or just something else in an archive.
    pub only_what_is_named: bool,
}

impl NewFiles {
    /// Takes apart what came as an archive, and lays out the model's files as it names them. Blocks on the disk.
    ///
    /// # Errors
    /// It is no ONNX model, or files that it names are missing, too many, or outside of its folder.
    pub fn of(came: CameAs, scratch: &Path, limits: ArchiveLimits) -> Result<NewFiles> {
        let came = match Archive::of(&came.file.path).map_err(Error::internal)? {
            Some(_) if !came.data.is_empty() => {
                return Err(Error::invalid_input("an archive holds all files; send no parts `data` beside it"));
            }
            Some(archive) => archive.unpack(&came.file.path, scratch, limits)?,
            None => CameWith { model: came.file, data: came.data, only_what_is_named: true },
        };
        NewFiles::lay_out(scratch, came)
    }

    /// Reads what a model says of itself, and lays out what it names beside it. Blocks on the disk.
    ///
    /// # Errors
    /// It is no ONNX model, uses operators that nobody has, or names files that are not there or outside of its folder.
    fn lay_out(scratch: &Path, came: CameWith) -> Result<NewFiles> {
        let inspected = inspect(&came.model.path)?;
        let mut wanted = named_files(&inspected)?;
        let mut data = came.data;
        let missing: Vec<&str> = wanted.iter().filter(|path| !data.contains_key(*path)).map(String::as_str).collect();
        if !missing.is_empty() {
            return Err(Error::invalid_input(format!(
                "the model keeps weights in files that did not come with it: {}; send each as a part `data` under that \
                 file name, or all in one archive (.zip, .tar, .tar.gz)",
                list(&missing)
            )));
        }
        let mut unnamed: Vec<&str> = data.keys().filter(|path| !wanted.contains(path)).map(String::as_str).collect();
        unnamed.sort_unstable();
        if came.only_what_is_named && !unnamed.is_empty() {
            return Err(Error::invalid_input(format!(
                "the model names no file {}; the files it keeps weights in are: {}",
                list(&unnamed),
                list(&wanted.iter().map(String::as_str).collect::<Vec<_>>())
            )));
        }
        let folder = tempfile::Builder::new().prefix("model-").tempdir_in(scratch).map_err(scratch_error)?;
        let (sha256, size) = (came.model.sha256.clone(), came.model.size);
        came.model.path.persist(folder.path().join(MODEL)).map_err(|error| scratch_error(error.error))?;
        wanted.sort_unstable();
        let data = wanted
            .into_iter()
            .filter_map(|path| data.remove(&path).map(|file| (path, file)))
            .map(|(path, file)| {
                place(&folder.path().join(&path), file.path).map_err(scratch_error)?;
                Ok(DataFile { path, size: file.size, sha256: file.sha256 })
            })
            .collect::<Result<_>>()?;
        Ok(NewFiles { folder, sha256, size, data, inspected })
    }

    /// The model's own file, with the others where it looks for them.
    pub fn model(&self) -> PathBuf {
        self.folder.path().join(MODEL)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Bytes of all files.
    pub fn total_bytes(&self) -> u64 {
        self.data.iter().fold(self.size, |sum, file| sum.saturating_add(file.size))
    }
}

fn place(target: &Path, file: tempfile::TempPath) -> io::Result<()> {
    if let Some(folder) = target.parent() {
        std::fs::create_dir_all(folder)?;
    }
    Ok(file.persist(target)?)
}

/// What a model's file says of itself. Blocks on the disk.
///
/// # Errors
/// `InvalidInput` where it is no ONNX model, or one whose operators nobody has.
pub(super) fn inspect(file: &Path) -> Result<ModelFile> {
    let inspected = onnx::inspect_file(file).map_err(|error| match error {
        MetadataError::Read(error) => Error::internal(error),
        error => Error::invalid_input(error.to_string()),
    })?;
    if !inspected.custom_operators.is_empty() {
        let operators: Vec<&str> = inspected.custom_operators.iter().map(String::as_str).collect();
        return Err(Error::invalid_input(format!(
            "the model uses custom operators that ONNX Runtime does not have: {}",
            list(&operators)
        )));
    }
    Ok(inspected)
}

/// The files that a model names, as paths in its folder.
///
/// # Errors
/// One is outside of the folder, or not to be kept under its name.
pub(super) fn named_files(model: &ModelFile) -> Result<Vec<String>> {
    let mut paths: Vec<String> = Vec::new();
    for location in &model.data_files {
        let path = path_in_folder(location)
            .map_err(|problem| Error::invalid_input(format!("the model keeps weights in {location:?}: {problem}")))?;
        paths.push(path);
    }
    paths.sort_unstable();
    paths.dedup();
    let is_folder_of = |path: &str, other: &str| other.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
    match paths.iter().find(|path| paths.iter().any(|other| is_folder_of(path, other))) {
        Some(path) => Err(Error::invalid_input(format!("the model names {path:?} as a file and as a folder"))),
        None => Ok(paths),
    }
}

/// A relative path as it is kept: without `.` parts.
///
/// # Errors
/// It leaves its folder, or a store could not keep it under that name; the text says why.
pub fn path_in_folder(path: &str) -> std::result::Result<String, String> {
    if path.starts_with('/') || path.contains('\\') || path.contains(':') {
        return Err("expected a path relative to the model, with `/` between its parts".to_owned());
    }
    let parts: Vec<&str> = path.split('/').filter(|part| *part != ".").collect();
    if parts.contains(&"..") {
        return Err("it is outside of the model's folder".to_owned());
    }
    let is_plain = |c: char| c.is_alphanumeric() || "._-+=@,()&!' ".contains(c);
    if let Some(part) = parts.iter().find(|part| part.is_empty() || !part.chars().all(is_plain)) {
        return Err(format!("{part:?} is no name of a file here: letters, digits, spaces and ._-+=@,()&!' are"));
    }
    let path = parts.join("/");
    if path.is_empty() || path.len() > PATH_BYTES || parts.iter().any(|part| part.len() > PART_BYTES) {
        return Err(format!("expected 1 to {PATH_BYTES} bytes, and no more than {PART_BYTES} between two `/`"));
    }
    if TAKEN.contains(&path.as_str()) {
        return Err("the store has a file of its own of that name".to_owned());
    }
    Ok(path)
}

/// Names for a message, not more than a person reads.
pub(super) fn list(names: &[&str]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    let shown = names.iter().take(LISTED).map(|name| name.chars().take(200).collect::<String>());
    let shown = shown.collect::<Vec<_>>().join(", ");
    if names.len() > LISTED { format!("{shown} and {} more", names.len() - LISTED) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::path_in_folder;

    #[test]
    fn a_path_stays_in_its_folder_or_is_refused() {
        for (path, kept) in [
            ("weights.bin", "weights.bin"),
            ("./a/./b.data", "a/b.data"),
            ("modèle 模型.onnx.data", "modèle 模型.onnx.data"),
            ("onnx__MatMul_123", "onnx__MatMul_123"),
            ("...", "..."),
        ] {
            assert_eq!(path_in_folder(path).as_deref(), Ok(kept));
        }
        for path in [
            "",
            ".",
            "..",
            "/etc/passwd",
            "../model.onnx",
            "a/../../b",
            "a//b",
            "a/",
            "C:/x",
            "a\\b",
            "a\0b",
            "a#1",
            "*/_ORT_MEM_ADDR_/*",
            "model.onnx",
            "./model_info.json",
            "labels.json",
            "a\nb",
            "%2e%2e/x",
        ] {
            assert!(path_in_folder(path).is_err(), "{path:?}");
        }
        assert!(path_in_folder(&"a".repeat(201)).is_err());
        assert!(path_in_folder(&"a/".repeat(300)).is_err());
    }
}
