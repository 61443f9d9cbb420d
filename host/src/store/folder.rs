//! What a store that is a folder keeps beside the objects: a lock, and files on their way in.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

/// Where a folder keeps uploads on their way in: on the same file system, so that publishing one is a rename.
pub(super) const SCRATCH: &str = ".scratch";
/// The file that the host which tidies a folder up holds locked.
const LOCK: &str = ".lock";
/// What a host may lay down in a folder beside models of somebody else's.
const BESIDE: [&str; 2] = ["plugins", "settings.json"];

/// A host's place in a folder.
pub(super) struct Place {
    pub(super) scratch: Arc<Scratch>,
    /// Held while this process is the folder's only host.
    pub(super) lock: Option<Arc<File>>,
}

/// A folder for files on their way in, removed when this is dropped. While its host lives no other one removes it.
pub(super) struct Scratch {
    pub(super) folder: TempDir,
    _lock: Option<File>,
}

/// Takes a place in a folder. Into one that is somebody else's, such as another server's repository, nothing is laid.
pub(super) fn take_place(folder: &Path) -> io::Result<Place> {
    if is_foreign(folder)? {
        tracing::info!(folder = %folder.display(), "the store was laid out by somebody else; it is served as it is");
        return Ok(Place { scratch: Arc::new(elsewhere()?), lock: None });
    }
    let lock = take_lock(folder);
    let lock = match lock {
        Some(lock) if remove_abandoned(&folder.join(SCRATCH))? => Some(Arc::new(lock)),
        _ => None,
    };
    if lock.is_some() {
        for kept in ["models", "plugins"] {
            remove_staged(&folder.join(kept))?;
        }
    }
    Ok(Place { scratch: Arc::new(scratch(folder)?), lock })
}

/// A scratch folder away from any store.
pub(super) fn elsewhere() -> io::Result<Scratch> {
    Ok(Scratch { folder: tempfile::Builder::new().prefix("model-nexus-").tempdir()?, _lock: None })
}

/// Whether there is something in the folder that no host laid down, and nothing that only a host lays down.
fn is_foreign(folder: &Path) -> io::Result<bool> {
    let mut is_foreign = false;
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        if name == "models" || name == "store.json" {
            return Ok(false);
        }
        is_foreign |= !name.as_encoded_bytes().starts_with(b".") && BESIDE.iter().all(|beside| name != *beside);
    }
    Ok(is_foreign)
}

fn take_lock(folder: &Path) -> Option<File> {
    // A folder that cannot be written to, or that another host uses, is served without tidying it up.
    let file = File::options().create(true).truncate(false).write(true).open(folder.join(LOCK));
    let file = file.and_then(|file| file.try_lock().map(|()| file).map_err(Into::into));
    match file {
        Ok(file) => Some(file),
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "the store's lock was not taken; it is served as it is");
            None
        }
    }
}

/// Removes the scratch folders of hosts that were killed. Answers whether none of a living host is left.
fn remove_abandoned(scratch: &Path) -> io::Result<bool> {
    let entries = match std::fs::read_dir(scratch) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    let mut all_abandoned = true;
    for entry in entries {
        let path = entry?.path();
        match File::open(&path).map(|folder| (folder.try_lock(), folder)) {
            Ok((Ok(()), _lock)) => std::fs::remove_dir_all(&path)?,
            Ok((Err(TryLockError::WouldBlock), _)) => all_abandoned = false,
            Ok((Err(TryLockError::Error(error)), _)) => {
                // Not every network file system locks folders.
                tracing::warn!(folder = %path.display(), %error, "whether a host uses this folder is unknown; it is left");
                all_abandoned = false;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all_abandoned)
}

/// Removes what a host that was killed left: `object_store` stages a file it writes as `NAME#NUMBER` beside it; and
/// folders that a deletion emptied.
fn remove_staged(folder: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let staged = name
            .to_str()
            .and_then(|name| name.rsplit_once('#'))
            .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()));
        if entry.file_type()?.is_dir() {
            remove_staged(&entry.path())?;
            match std::fs::remove_dir(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => return Err(error),
                _ => {}
            }
        } else if staged {
            tracing::warn!(file = %entry.path().display(), "removing a file that was not written to its end");
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn scratch(folder: &Path) -> io::Result<Scratch> {
    let beside = folder.join(SCRATCH);
    loop {
        let made = std::fs::create_dir_all(&beside).and_then(|()| tempfile::Builder::new().tempdir_in(&beside));
        // A store that cannot be written to serves all the same.
        let Ok(folder) = made else { return elsewhere() };
        let lock = File::open(folder.path())?;
        // Where the lock is another's, a starting host took the folder for one that was left behind.
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => {}
            _ if folder.path().exists() => return Ok(Scratch { folder, _lock: Some(lock) }),
            _ => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_starting_host_leaves_the_scratch_folder_of_a_living_one_alone() {
        let folder = tempfile::tempdir().unwrap();
        let first = take_place(folder.path()).unwrap();
        assert!(first.lock.is_some());
        let second = take_place(folder.path()).unwrap();
        assert!(second.lock.is_none());
        drop(first);
        std::fs::create_dir(folder.path().join(SCRATCH).join("killed")).unwrap();
        let third = take_place(folder.path()).unwrap();
        assert!(third.lock.is_none(), "another host is alive");
        assert!(second.scratch.folder.path().exists());
        assert!(!folder.path().join(SCRATCH).join("killed").exists());
        drop((second, third));
        assert!(take_place(folder.path()).unwrap().lock.is_some());
    }

    #[test]
    fn nothing_is_laid_into_a_folder_of_somebody_else() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("resnet/1")).unwrap();
        let place = take_place(folder.path()).unwrap();
        assert!(place.lock.is_none() && !place.scratch.folder.path().starts_with(folder.path()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
