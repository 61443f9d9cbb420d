//! What a file or a folder on this machine's disk has to push: one version of a model, or a repository of many.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::model::{path_in_folder, version_key};
use crate::onnx;

/// Endings of files with more than one model's own file in them, which the host takes apart.
const ARCHIVES: [&str; 4] = [".tar.gz", ".tgz", ".tar", ".zip"];

/// One version on this machine's disk.
#[derive(Debug)]
pub(super) struct Version {
    /// By the names of its file or its folders.
    pub id: String,
    pub version: Option<String>,
    /// As its sidecar has it.
    pub name: Option<String>,
    /// The model, or an archive with it.
    pub model: PathBuf,
    pub labels: Option<PathBuf>,
    uploaded_at: Option<DateTime<Utc>>,
}

#[derive(Debug)]
pub(super) enum Source {
    One(Box<Version>),
    /// In the order to push them in: the newest last, which then is the default again.
    Repository(Vec<Version>),
}

/// What is used of a sidecar.
#[derive(Deserialize)]
struct Sidecar {
    name: String,
    uploaded_at: DateTime<Utc>,
}

/// Looks at what is to be pushed. Blocks on the disk.
///
/// # Errors
/// Nothing to push is there, or it cannot be read.
pub(super) fn find(path: &Path) -> Result<Source, String> {
    let cannot_read = |error: io::Error| format!("cannot read {}: {error}", path.display());
    let path = path.canonicalize().map_err(cannot_read)?;
    if path.is_file() {
        return Ok(Source::One(Box::new(Version::of_file(path))));
    }
    let found = of_folder(&path).map_err(cannot_read)?;
    found.ok_or_else(|| {
        format!(
            "nothing to push is in {}: expected model.onnx or one .onnx file in it, <version>/model.onnx, <id>/<version>/model.onnx \
             or models/<id>/<version>/model.onnx",
            path.display()
        )
    })
}

fn of_folder(folder: &Path) -> io::Result<Option<Source>> {
    if let Some(version) = Version::of_folder(folder)? {
        return Ok(Some(Source::One(Box::new(version))));
    }
    let models = Some(folder.join("models")).filter(|models| models.is_dir());
    let mut versions = Vec::new();
    for below in folders(models.as_deref().unwrap_or(folder))? {
        // A version of the folder's own model, or else a model with versions.
        match Version::of_folder(&below)? {
            Some(version) => versions.push(version.numbered_by_its_folder(&below)),
            None => {
                for folder in folders(&below)? {
                    let found = Version::of_folder(&folder)?;
                    versions.extend(found.map(|version| version.numbered_by_its_folder(&folder)));
                }
            }
        }
    }
    versions.sort_by(in_order_of_upload);
    Ok(if versions.is_empty() { None } else { Some(Source::Repository(versions)) })
}

impl Version {
    fn of_file(model: PathBuf) -> Version {
        let name = name_of(&model);
        let mut endings = ARCHIVES.iter().chain(&[".onnx"]);
        let id = endings.find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name).to_owned();
        Version { id, version: None, name: None, model, labels: None, uploaded_at: None }
    }

    /// What lies in one folder; `None` where no model does.
    fn of_folder(folder: &Path) -> io::Result<Option<Version>> {
        let Some(model) = model_in(folder)? else { return Ok(None) };
        let sidecar = read_sidecar(&folder.join("model_info.json"))?;
        let (name, uploaded_at) = sidecar.map(|sidecar| (sidecar.name, sidecar.uploaded_at)).unzip();
        let labels = Some(folder.join("labels.json")).filter(|labels| labels.is_file());
        let found = Version { id: name_of(folder), version: None, name, model, labels, uploaded_at };
        // `iris/3` is version 3 of iris, though one that is called so by chance has a name of its own.
        Ok(Some(if found.id.bytes().all(|byte| byte.is_ascii_digit()) {
            found.numbered_by_its_folder(folder)
        } else {
            found
        }))
    }

    /// `<id>/<version>`: the folder is the version, the one around it the model.
    fn numbered_by_its_folder(mut self, folder: &Path) -> Version {
        self.version = Some(name_of(folder));
        self.id = folder.parent().map(name_of).unwrap_or_default();
        self
    }
}

/// `model.onnx`, or else the only .onnx file.
fn model_in(folder: &Path) -> io::Result<Option<PathBuf>> {
    let model = folder.join("model.onnx");
    if model.is_file() {
        return Ok(Some(model));
    }
    let mut models = entries(folder)?;
    models.retain(|file| file.is_file() && file.extension().is_some_and(|extension| extension == "onnx"));
    Ok(if models.len() == 1 { models.pop() } else { None })
}

/// The files that a model keeps weights in, each by the path that the model has for it: those in `given`, and else those
/// that lie where the model says. Blocks on the disk.
///
/// # Errors
/// It is no ONNX model, names a file that is not there or outside of its folder, or does not name one that is given.
pub(super) fn external_data(model: &Path, given: &[PathBuf]) -> Result<Vec<(String, PathBuf)>, String> {
    let is_archive = ARCHIVES.iter().any(|ending| name_of(model).ends_with(ending));
    let named = match is_archive {
        true => BTreeSet::new(),
        false => onnx::inspect_file(model).map_err(|error| format!("{}: {error}", model.display()))?.data_files,
    };
    // Nobody's other files are sent because a model names them.
    let inside = |name: String| {
        path_in_folder(&name).map_err(|problem| format!("the model keeps weights in {name:?}: {problem}"))
    };
    let paths: BTreeSet<String> = named.into_iter().map(inside).collect::<Result<_, _>>()?;
    let mut given: Vec<PathBuf> = given.to_vec();
    let mut data = Vec::new();
    for path in paths {
        let position = given.iter().position(|file| name_of(file) == name_of(Path::new(&path)));
        let beside = || model.parent().unwrap_or(Path::new("/")).join(&path);
        let file = position.map_or_else(beside, |position| given.remove(position));
        if !file.is_file() {
            return Err(format!(
                "the model keeps weights in {path:?}, and there is no {}; give it with --data",
                file.display()
            ));
        }
        data.push((path, file));
    }
    match given.first() {
        None => Ok(data),
        Some(file) => Err(format!("--data {}: the model names no such file", file.display())),
    }
}

fn read_sidecar(file: &Path) -> io::Result<Option<Sidecar>> {
    match std::fs::read(file) {
        Ok(json) => serde_json::from_slice(&json).map(Some).map_err(|error| {
            io::Error::other(format!("{}: {error}; remove it, and the model's name is its id", file.display()))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What lies in a folder, by name; what is hidden, as the host's own files in a store are, is left out.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut entries = entries.collect::<io::Result<Vec<PathBuf>>>()?;
    entries.retain(|path| !name_of(path).starts_with('.'));
    entries.sort();
    Ok(entries)
}

fn folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(entries(folder)?.into_iter().filter(|path| path.is_dir()).collect())
}

pub(super) fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// By model; of one model the oldest first, and where nobody knows, by number.
fn in_order_of_upload(one: &Version, other: &Version) -> Ordering {
    let number = |version: &Version| version.version.clone().unwrap_or_default();
    one.id
        .cmp(&other.id)
        .then(one.uploaded_at.cmp(&other.uploaded_at))
        .then_with(|| version_key(&number(one)).cmp(&version_key(&number(other))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A folder with these files, empty but for sidecars.
    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let file = folder.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        folder
    }

    fn versions(source: Source) -> Vec<(String, Option<String>)> {
        let Source::Repository(versions) = source else { panic!("{source:?}") };
        versions.into_iter().map(|version| (version.id, version.version)).collect()
    }

    #[test]
    fn a_file_or_an_archive_is_named_by_itself() {
        let folder = folder(&[("resnet.onnx", ""), ("bert.tar.gz", ""), ("gpt.zip", "")]);
        for (file, id) in [("resnet.onnx", "resnet"), ("bert.tar.gz", "bert"), ("gpt.zip", "gpt")] {
            let Source::One(version) = find(&folder.path().join(file)).unwrap() else { panic!() };
            assert_eq!((version.id.as_str(), version.version), (id, None));
        }
    }

    #[test]
    fn a_folder_with_one_model_is_one_version() {
        let folder = folder(&[("m/big.onnx", ""), ("m/labels.json", ""), ("m/big.onnx.data", ""), ("m/.lock", "")]);
        let Source::One(version) = find(&folder.path().join("m")).unwrap() else { panic!() };
        assert_eq!(version.id, "m");
        assert!(version.model.ends_with("m/big.onnx") && version.labels.unwrap().ends_with("m/labels.json"));
    }

    #[test]
    fn a_repository_is_found_in_each_of_its_forms_and_put_in_order() {
        let expected = vec![("a".to_owned(), Some("9".to_owned())), ("a".to_owned(), Some("10".to_owned()))];
        for prefix in ["", "a/", "models/a/"] {
            let files = [format!("top/{prefix}9/model.onnx"), format!("top/{prefix}10/model.onnx")];
            let folder = folder(&[(&files[0], ""), (&files[1], "")]);
            let top = folder.path().join("top");
            let named = folder.path().join("a");
            let top = if prefix.is_empty() { std::fs::rename(&top, &named).map(|()| named).unwrap() } else { top };
            assert_eq!(versions(find(&top).unwrap()), expected, "{prefix}");
        }
        let sidecar = |day: u8| format!(r#"{{"name": "A", "uploaded_at": "2026-01-0{day}T00:00:00Z"}}"#);
        let folder = folder(&[
            ("a/1/model.onnx", ""),
            ("a/1/model_info.json", &sidecar(2)),
            ("a/2/model.onnx", ""),
            ("a/2/model_info.json", &sidecar(1)),
        ]);
        let found = versions(find(folder.path()).unwrap());
        assert_eq!(found, [("a".to_owned(), Some("2".to_owned())), ("a".to_owned(), Some("1".to_owned()))]);
    }

    #[test]
    fn one_version_of_a_repository_has_its_name_of_both_folders() {
        let folder = folder(&[("iris/3/model.onnx", "")]);
        let Source::One(version) = find(&folder.path().join("iris/3")).unwrap() else { panic!() };
        assert_eq!((version.id.as_str(), version.version.as_deref()), ("iris", Some("3")));
    }

    #[test]
    fn nothing_to_push_says_what_was_expected() {
        let folder = folder(&[("a.onnx", ""), ("b.onnx", "")]);
        assert!(find(folder.path()).unwrap_err().contains("<id>/<version>/model.onnx"));
        assert!(find(&folder.path().join("none")).unwrap_err().contains("cannot read"));
    }
}
