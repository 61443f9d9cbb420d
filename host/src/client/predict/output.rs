//! Where answers go: standard output, or a file that appears when it is whole.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempPath;
use tokio::fs::File;
use tokio::io::{AsyncWrite, AsyncWriteExt, BufWriter};

use super::is_standard;

pub(super) struct Output {
    writer: BufWriter<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Where the file lies until it is whole, and where then.
    file: Option<(TempPath, PathBuf)>,
}

/// Bytes that are written at once.
const BLOCK: usize = 1 << 20;

impl Output {
    pub(super) fn create(path: &Path) -> Result<Output, String> {
        if is_standard(path) {
            let writer: Box<dyn AsyncWrite + Send + Unpin> = Box::new(tokio::io::stdout());
            return Ok(Output { writer: BufWriter::with_capacity(BLOCK, writer), file: None });
        }
        let cannot_write = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
        let path = std::path::absolute(path).map_err(cannot_write)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        // As any new file, not for this user alone.
        let mode = Permissions::from_mode(0o666);
        let file = tempfile::Builder::new().prefix(".predict-").permissions(mode).tempfile_in(folder);
        let (file, partial) = file.map_err(cannot_write)?.into_parts();
        let writer: Box<dyn AsyncWrite + Send + Unpin> = Box::new(File::from_std(file));
        Ok(Output { writer: BufWriter::with_capacity(BLOCK, writer), file: Some((partial, path)) })
    }

    pub(super) async fn write(&mut self, piece: &[u8]) -> Result<(), String> {
        self.writer.write_all(piece).await.map_err(|error| format!("cannot write the answers: {error}"))?;
        if self.file.is_some() {
            return Ok(());
        }
        // Whoever reads row by row gets row by row.
        self.writer.flush().await.map_err(|error| format!("cannot write the answers: {error}"))
    }

    /// All answers are there.
    pub(super) async fn finish(mut self) -> Result<(), String> {
        self.writer.flush().await.map_err(|error| format!("cannot write the answers: {error}"))?;
        match self.file {
            Some((partial, path)) => {
                partial.persist(&path).map_err(|error| format!("cannot write {}: {}", path.display(), error.error))
            }
            None => Ok(()),
        }
    }
}
