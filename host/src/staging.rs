//! Files on their way into the store: in its scratch folder, counted and hashed while they are written.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sha2::{Digest, Sha256};
use tempfile::TempPath;

use crate::digest::hex;

/// A file on this machine's disk, removed when this is dropped.
#[derive(Debug)]
pub struct StagedFile {
    pub path: TempPath,
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// A new file in a store's scratch folder.
///
/// # Errors
/// The folder cannot be written to.
pub fn create(scratch: &Path) -> io::Result<(File, TempPath)> {
    // As any new file, not for this user alone: it may become the store's own.
    let mode = Permissions::from_mode(0o666);
    let file = tempfile::Builder::new().prefix("upload-").permissions(mode).tempfile_in(scratch)?;
    Ok(file.into_parts())
}

/// Writes all that a reader has, at most `limit` bytes; `None` where there is more. Blocks on the disk.
///
/// # Errors
/// The reader's, or the disk's.
pub fn stage_from(mut reader: impl Read, scratch: &Path, limit: u64) -> io::Result<Option<StagedFile>> {
    let (mut file, path) = create(scratch)?;
    let (mut hasher, mut size) = (Sha256::new(), 0);
    let mut chunk = vec![0; 256 << 10];
    loop {
        let filled = match reader.read(&mut chunk) {
            Ok(0) => return Ok(Some(StagedFile { path, sha256: hex(&hasher.finalize()), size })),
            Ok(filled) => filled,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        size += filled as u64;
        if size > limit {
            return Ok(None);
        }
        hasher.update(&chunk[..filled]);
        file.write_all(&chunk[..filled])?;
    }
}
