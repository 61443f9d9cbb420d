//! Compiled components kept on disk, so that a second start compiles nothing.
//!
//! What is read back is machine code that this process runs outside any sandbox. So the folder is the host's alone: it is
//! made for this user only, and one that others may write to is not used.

use std::fs::{self, DirBuilder, File, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

/// Bytes of the checksum that a file ends with.
const CHECKSUM: usize = 32;
const EXTENSION: &str = "cwasm";
/// Of the files: one of another is not looked at.
const FORMAT: u32 = 2;

/// A private folder of compiled components. Cloning shares it.
#[derive(Debug, Clone)]
pub struct CompiledCache {
    folder: PathBuf,
    /// Of all files together; past it those not used for longest go.
    max_bytes: u64,
    /// What was removed or replaced in it is still there for whoever has mapped it.
    is_local: bool,
}

impl CompiledCache {
    /// Opens the folder, made if missing.
    ///
    /// # Errors
    /// It cannot be made or written to, or somebody else may write to it.
    pub fn open(folder: &Path, max_bytes: u64) -> io::Result<CompiledCache> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let metadata = fs::metadata(folder)?;
        // A new file is this user's, so it tells who that is.
        let probe = tempfile::NamedTempFile::new_in(folder)?;
        if metadata.uid() != probe.as_file().metadata()?.uid() || metadata.mode() & 0o022 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "others may write to it, and what lies there is run as machine code; it has to be this user's alone",
            ));
        }
        Ok(CompiledCache { folder: folder.to_owned(), max_bytes, is_local: is_local(folder) })
    }

    /// What was kept under that key for this very build of wasmtime and its settings. Blocks on the disk.
    pub(super) fn get(&self, engine: &Engine, key: &str) -> Option<Component> {
        let file = self.file(engine, key);
        let content = match fs::read(&file) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "a compiled plugin is not readable");
                return None;
            }
        };
        let component = content
            .split_last_chunk::<CHECKSUM>()
            .filter(|(code, checksum)| **checksum == *Sha256::digest(code))
            .and_then(|(code, _)| deserialize(engine, code, self.is_local.then_some(&file)));
        match component {
            Some(component) => {
                mark_used(&file);
                Some(component)
            }
            None => {
                tracing::warn!(file = %file.display(), "a compiled plugin is damaged; it is compiled anew");
                None
            }
        }
    }

    /// Keeps a component. Blocks on the disk. A failure is reported, and costs a compilation at the next start.
    pub(super) fn put(&self, engine: &Engine, key: &str, component: &Component) {
        let kept = component.serialize().map_err(io::Error::other).and_then(|code| {
            let mut file =
                tempfile::Builder::new().permissions(Permissions::from_mode(0o600)).tempfile_in(&self.folder)?;
            file.write_all(&code)?;
            file.write_all(&Sha256::digest(&code))?;
            file.persist(self.file(engine, key))?;
            self.trim()
        });
        if let Err(error) = kept {
            tracing::warn!(folder = %self.folder.display(), %error, "a compiled plugin was not kept");
        }
    }

    fn file(&self, engine: &Engine, key: &str) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        FORMAT.hash(&mut hasher);
        self.folder.join(format!("{key}-{:016x}.{EXTENSION}", hasher.finish()))
    }

    /// Removes what was not used for longest until the rest is within the limit.
    fn trim(&self) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                let metadata = fs::metadata(&path)?;
                files.push((metadata.modified()?, metadata.len(), path));
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in files {
            if total <= self.max_bytes {
                break;
            }
            fs::remove_file(path)?;
            total -= size;
        }
        Ok(())
    }
}

/// The time of last use is the file's; a folder that cannot be written to is still read.
fn mark_used(file: &Path) {
    let marked = File::options().append(true).open(file).and_then(|file| file.set_modified(SystemTime::now()));
    if let Err(error) = marked {
        tracing::debug!(file = %file.display(), %error, "the time of last use was not kept");
    }
}

/// Whether a folder is on a disk or in the memory of this machine.
#[cfg(target_os = "linux")]
fn is_local(folder: &Path) -> bool {
    // Source: statfs(2). In turn: btrfs, ext2 to ext4, f2fs, overlayfs, tmpfs, xfs, zfs.
    const LOCAL: [i64; 7] = [0x9123_683E, 0xEF53, 0xF2F5_2010, 0x794C_7630, 0x0102_1994, 0x5846_5342, 0x2FC1_2FC1];
    rustix::fs::statfs(folder).is_ok_and(|filesystem| LOCAL.contains(&filesystem.f_type))
}

#[cfg(not(target_os = "linux"))]
fn is_local(_: &Path) -> bool {
    false
}

/// A file is mapped, so that only what runs of it takes memory. Where there is none to map, or the volume lets nothing in it be
/// run, the code is copied.
#[allow(
    unsafe_code,
    reason = "machine code that this host wrote, in a folder that only it may write to, whole by its checksum"
)]
fn deserialize(engine: &Engine, code: &[u8], file: Option<&PathBuf>) -> Option<Component> {
    // SAFETY: `put` wrote it from `Component::serialize`: `open` refuses a folder that others may write to, the
    // checksum has shown that nothing is missing, and wasmtime itself refuses what another version of it has made. A mapped
    // file is on this machine; files are replaced and removed, and never changed.
    let component = unsafe {
        match file.map(|file| Component::deserialize_file(engine, file)) {
            Some(Ok(component)) => return Some(component),
            Some(Err(error)) => tracing::debug!(%error, "a compiled plugin cannot be mapped"),
            None => {}
        }
        Component::deserialize(engine, code)
    };
    match component {
        Ok(component) => Some(component),
        Err(error) => {
            tracing::debug!(%error, "a compiled plugin is of another wasmtime");
            None
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

    fn cache(max_bytes: u64) -> (tempfile::TempDir, CompiledCache, Engine, Component) {
        let folder = tempfile::tempdir().unwrap();
        let cache = CompiledCache::open(&folder.path().join("compiled"), max_bytes).unwrap();
        let engine = Engine::default();
        let component = Component::new(&engine, EMPTY).unwrap();
        (folder, cache, engine, component)
    }

    fn files(cache: &CompiledCache) -> Vec<PathBuf> {
        fs::read_dir(&cache.folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn what_is_kept_is_found_by_its_key_and_engine() {
        let (_folder, cache, engine, component) = cache(1 << 30);
        cache.put(&engine, "key", &component);
        assert!(cache.get(&engine, "key").is_some() && cache.get(&engine, "other").is_none());
        let other = Engine::new(wasmtime::Config::new().epoch_interruption(true)).unwrap();
        assert!(cache.get(&other, "key").is_none());
        assert_eq!(fs::metadata(&files(&cache)[0]).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&cache.folder).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_cannot_be_mapped_is_copied() {
        let (_folder, mut cache, engine, component) = cache(1 << 30);
        cache.put(&engine, "key", &component);
        cache.is_local = false;
        assert!(cache.get(&engine, "key").is_some());
        let code = component.serialize().unwrap();
        assert!(deserialize(&engine, &code, Some(&cache.folder.join("none"))).is_some());
        assert!(deserialize(&engine, &code[..100], None).is_none());
    }

    #[test]
    fn damaged_files_are_not_run() {
        let (_folder, cache, engine, component) = cache(1 << 30);
        cache.put(&engine, "key", &component);
        let file = files(&cache).remove(0);
        let whole = fs::read(&file).unwrap();
        for length in [0, 10, CHECKSUM, whole.len() / 2, whole.len() - 1] {
            fs::write(&file, &whole[..length]).unwrap();
            assert!(cache.get(&engine, "key").is_none(), "{length} of {} bytes", whole.len());
        }
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        fs::write(&file, flipped).unwrap();
        assert!(cache.get(&engine, "key").is_none());
        fs::write(&file, whole).unwrap();
        assert!(cache.get(&engine, "key").is_some());
    }

    #[test]
    fn the_folder_has_to_be_this_users_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        let error = CompiledCache::open(folder.path(), 1).unwrap_err();
        assert!(error.to_string().contains("others may write to it"), "{error}");
    }

    #[test]
    fn the_folder_does_not_grow_without_end() {
        let (_folder, mut cache, engine, component) = cache(1 << 30);
        cache.put(&engine, "one", &component);
        let size = fs::metadata(&files(&cache)[0]).unwrap().len();
        cache.max_bytes = 2 * size;
        for key in ["two", "three", "four"] {
            std::thread::sleep(std::time::Duration::from_millis(20));
            cache.put(&engine, key, &component);
        }
        assert_eq!(files(&cache).len(), 2);
        assert!(cache.get(&engine, "four").is_some() && cache.get(&engine, "one").is_none());
    }
}
