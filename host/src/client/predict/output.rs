//! Where answers go: standard output, a file that appears when it is whole, or a device or pipe that is there already.

use std::fs::Permissions;
use std::io::{Error, ErrorKind};
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

/// Other names of standard output. Opened by one of them, a file would be written on from a place of its own, and what comes
/// from others later would go over it.
const STANDARD: [&str; 3] = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// Bytes that are written at once.
const BLOCK: usize = 1 << 20;

impl Output {
    pub(super) async fn create(path: &Path) -> Result<Output, String> {
        if is_standard(path) || STANDARD.iter().any(|standard| path == Path::new(standard)) {
            let writer: Box<dyn AsyncWrite + Send + Unpin> = Box::new(tokio::io::stdout());
            return Ok(Output { writer: BufWriter::with_capacity(BLOCK, writer), file: None });
        }
        let cannot_write = |error: Error| format!("cannot write {}: {error}", path.display());
        let mut path = std::path::absolute(path).map_err(cannot_write)?;
        match path.metadata() {
            // A device or a named pipe is no file to be replaced.
            Ok(there) if !there.is_file() => {
                let writer = File::options().write(true).open(&path).await.map_err(cannot_write)?;
                return Ok(Output { writer: BufWriter::with_capacity(BLOCK, Box::new(writer)), file: None });
            }
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(cannot_write(error)),
            _ => {}
        }
        // A link stays: what it leads to is replaced, or is new. Links in a circle were an error above.
        while let Ok(target) = path.read_link() {
            let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
            if folder.is_some_and(|folder| folder.starts_with("/proc")) {
                // `/dev/fd/3` and its like are what somebody has open: it is written on, behind what is in it.
                let writer = File::options().append(true).open(&path).await.map_err(cannot_write)?;
                return Ok(Output { writer: BufWriter::with_capacity(BLOCK, Box::new(writer)), file: None });
            }
            path = path.parent().unwrap_or(Path::new("/")).join(target);
        }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, symlink};

    use super::*;

    async fn write(path: &Path) {
        let mut output = Output::create(path).await.unwrap();
        output.write(b"rows").await.unwrap();
        output.finish().await.unwrap();
    }

    #[tokio::test]
    async fn a_link_stays_and_what_it_leads_to_has_the_rows() {
        let folder = tempfile::tempdir().unwrap();
        let [at, file, link, other] = ["at", "at/file", "link", "other"].map(|name| folder.path().join(name));
        std::fs::create_dir(at).unwrap();
        symlink("other", &link).unwrap();
        symlink("at/file", &other).unwrap();
        for before in [None, Some("before")] {
            before.into_iter().for_each(|before| std::fs::write(&file, before).unwrap());
            write(&link).await;
            assert_eq!(std::fs::read(&file).unwrap(), b"rows");
            assert!(link.is_symlink() && other.is_symlink());
            std::fs::remove_file(&file).unwrap();
        }
        symlink("circle", folder.path().join("circle")).unwrap();
        assert!(Output::create(&folder.path().join("circle")).await.is_err());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_somebody_has_open_is_written_on() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"before").unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(file.as_file());
        for folder in ["/proc/self/fd", "/dev/fd"] {
            write(&Path::new(folder).join(number.to_string())).await;
        }
        assert_eq!(std::fs::read(file.path()).unwrap(), b"beforerowsrows");
    }

    #[tokio::test]
    async fn a_named_pipe_gets_the_rows_and_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        // Open for both, it lets the writer in and does not end before it is read.
        let mut reader = std::fs::File::options().read(true).write(true).open(&pipe).unwrap();
        write(&pipe).await;
        assert!(pipe.metadata().unwrap().file_type().is_fifo());
        let mut rows = [0; 4];
        std::io::Read::read_exact(&mut reader, &mut rows).unwrap();
        assert_eq!(&rows, b"rows");
    }
}
