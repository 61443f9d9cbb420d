//! The bundle: what a fresh server starts with, as a folder. models/ in the store's layout, plugins/ as components.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{At, Error, Result};
use crate::plugins;
use crate::project::Project;

/// Built with the plugins, and for tests only.
const FIXTURES: [&str; 1] = ["hostile"];

/// Lies in every folder that `sync` keeps: only there may it delete.
const MARKER: &str = ".made-by-xtask";

/// Path in a folder → the file it is a copy of.
type Files = BTreeMap<PathBuf, PathBuf>;

/// Makes `folder` hold the repository's models and the real plugins, and nothing else.
pub(crate) fn assemble(project: &Project, folder: &Path) -> Result<()> {
    let mut files = Files::new();
    for (path, source) in list(&project.root.join("models"))? {
        // Beside the models lie where they come from and under which licence: that is no part of the store.
        let is_model = path.components().count() > 1;
        files.insert(if is_model { Path::new("models").join(path) } else { path }, source);
    }
    for name in plugins::names(&project.root)? {
        if !FIXTURES.contains(&name.as_str()) {
            let file = format!("{name}.wasm");
            files.insert(Path::new("plugins").join(&file), project.components().join(&file));
        }
    }
    sync(folder, &files)
}

/// Makes `folder` hold a binary, ONNX Runtime and the bundle: what a container image copies.
pub(crate) fn gather(folder: &Path, binary: &Path, library: &Path, bundle: &Path) -> Result<()> {
    let mut files = Files::new();
    if let Some(name) = binary.file_name() {
        files.insert(PathBuf::from(name), binary.to_owned());
    }
    let library_name = format!("libonnxruntime{}", std::env::consts::DLL_SUFFIX);
    files.insert(PathBuf::from(library_name), library.to_owned());
    for (path, source) in list(bundle)? {
        files.insert(Path::new("bundle").join(path), source);
    }
    sync(folder, &files)
}

/// Makes `folder` hold copies of these files and nothing else. What is there already, unchanged, is not written again.
pub(crate) fn sync(folder: &Path, wanted: &Files) -> Result<()> {
    claim(folder)?;
    for (path, source) in wanted {
        copy_if_changed(source, &folder.join(path))?;
    }
    for (path, file) in list(folder)? {
        if !wanted.contains_key(&path) {
            fs::remove_file(&file).at("remove", &file)?;
        }
    }
    remove_empty_folders(folder)
}

/// Takes a new or empty folder, or one of ours. Anybody else's files are not for this program to delete.
fn claim(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).at("create", folder)?;
    let marker = folder.join(MARKER);
    if marker.exists() {
        return Ok(());
    }
    if fs::read_dir(folder).at("list", folder)?.next().is_some() {
        return Err(Error::new(format!(
            "{} holds files that `cargo xtask` did not put there, and it would delete them; name a new or empty folder",
            folder.display()
        )));
    }
    fs::write(&marker, "Kept by `cargo xtask`: it deletes what it did not put here.\n").at("write", &marker)
}

/// Copies under another name first, then renames: a server that has the old file open keeps it whole.
fn copy_if_changed(source: &Path, destination: &Path) -> Result<()> {
    let content = fs::read(source).at("read", source)?;
    if fs::read(destination).is_ok_and(|present| present == content) {
        return Ok(());
    }
    if let Some(parent) = destination.parent() {
        fs::create_dir_all(parent).at("create", parent)?;
    }
    let mut name = destination.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = destination.with_file_name(name);
    fs::copy(source, &partial).at("write", &partial)?;
    fs::rename(&partial, destination).at("write", destination)
}

/// Every file under a folder. Names that begin with a dot are left out.
fn list(folder: &Path) -> Result<Files> {
    let mut files = Files::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(relative) = folders.pop() {
        let here = folder.join(&relative);
        for entry in fs::read_dir(&here).at("list", &here)? {
            let entry = entry.at("list", &here)?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = relative.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(path);
            } else {
                files.insert(path, entry.path());
            }
        }
    }
    Ok(files)
}

fn remove_empty_folders(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).at("list", folder)? {
        let path = entry.at("list", folder)?.path();
        if path.is_dir() {
            remove_empty_folders(&path)?;
            if fs::read_dir(&path).at("list", &path)?.next().is_none() {
                fs::remove_dir(&path).at("remove", &path)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own for each test, empty.
    fn scratch(test: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("xtask-{test}-{}", std::process::id()));
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn put(file: &Path, content: &str) -> PathBuf {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
        file.to_owned()
    }

    #[test]
    fn sync_copies_updates_and_removes() {
        let scratch = scratch("sync");
        let (source, folder) = (scratch.join("source"), scratch.join("folder"));
        let (one, two) = (put(&source.join("one"), "1"), put(&source.join("two"), "2"));
        sync(&folder, &Files::from([("a/one".into(), one.clone()), ("b/c/two".into(), two.clone())])).unwrap();
        assert_eq!(list(&folder).unwrap().len(), 2);

        put(&one, "uno");
        put(&folder.join("a/stale"), "x");
        sync(&folder, &Files::from([("a/one".into(), one)])).unwrap();
        assert_eq!(fs::read_to_string(folder.join("a/one")).unwrap(), "uno");
        assert_eq!(list(&folder).unwrap().into_keys().collect::<Vec<_>>(), [PathBuf::from("a/one")]);
        assert!(!folder.join("b").exists(), "an empty folder stays");
        fs::remove_dir_all(scratch).unwrap();
    }

    #[test]
    fn an_unchanged_file_is_not_written_again() {
        let scratch = scratch("unchanged");
        let files = Files::from([("one".into(), put(&scratch.join("source/one"), "1"))]);
        let folder = scratch.join("folder");
        sync(&folder, &files).unwrap();
        let written = fs::metadata(folder.join("one")).unwrap().modified().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        sync(&folder, &files).unwrap();
        assert_eq!(fs::metadata(folder.join("one")).unwrap().modified().unwrap(), written);
        fs::remove_dir_all(scratch).unwrap();
    }

    #[test]
    fn somebody_elses_folder_is_left_alone() {
        let scratch = scratch("foreign");
        let thesis = put(&scratch.join("thesis.txt"), "years of work");
        let error = sync(&scratch, &Files::new()).unwrap_err().to_string();
        assert!(error.contains("name a new or empty folder"), "{error}");
        assert!(thesis.exists());
        fs::remove_dir_all(scratch).unwrap();
    }
}
