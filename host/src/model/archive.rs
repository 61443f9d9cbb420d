//! A model that comes as an archive, .zip, .tar or .tar.gz: taken apart within limits. Nothing is written under a name of
//! the archive's: each file becomes a staged one, and only those that the model names are laid out later.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::rc::Rc;

use flate2::read::MultiGzDecoder;
use zip::ZipArchive;

use super::incoming::{CameWith, list, path_in_folder};
use crate::error::{Error, ErrorCode, Result};
use crate::staging::{StagedFile, stage_from};
use crate::store::scratch_error;

/// Bytes that an archive may take to say what is in it: all of a .zip's directory, one header of a .tar.
const HEADER_BYTES: u64 = 2 << 20;

/// How much an archive may hold, what is not the model's included.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveLimits {
    /// Of all files, unpacked.
    pub bytes: u64,
    pub files: usize,
}

/// Kinds of archives, as their first bytes tell them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archive {
    Zip,
    Tar,
    TarGz,
}

impl Archive {
    /// The kind of archive that a file is; `None` where it is none. Blocks on the disk.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of(file: &Path) -> io::Result<Option<Archive>> {
        let mut start = Vec::new();
        File::open(file)?.take(512).read_to_end(&mut start)?;
        Ok(match start.as_slice() {
            [b'P', b'K', 3 | 5, 4 | 6, ..] => Some(Archive::Zip),
            [0x1f, 0x8b, ..] => Some(Archive::TarGz),
            start if start.get(257..262) == Some(b"ustar") => Some(Archive::Tar),
            _ => None,
        })
    }

    /// Takes an archive apart: its one .onnx file, and all others by their paths beside it. Blocks on the disk.
    ///
    /// # Errors
    /// It is damaged, holds links, leaves its folder, is larger than it may be, or has not exactly one model.
    pub(super) fn unpack(self, file: &Path, scratch: &Path, limits: ArchiveLimits) -> Result<CameWith> {
        let file = File::open(file).map_err(Error::internal)?;
        let mut unpacked = Unpacked { scratch, limits, files: BTreeMap::new(), entries: 0, bytes: 0 };
        match self {
            Archive::Zip => unpacked.take_zip(file)?,
            Archive::Tar => unpacked.take_tar(BufReader::new(file))?,
            Archive::TarGz => unpacked.take_tar(MultiGzDecoder::new(BufReader::new(file)))?,
        }
        unpacked.into_model()
    }
}

struct Unpacked<'s> {
    scratch: &'s Path,
    limits: ArchiveLimits,
    files: BTreeMap<String, StagedFile>,
    /// Folders included.
    entries: usize,
    bytes: u64,
}

impl Unpacked<'_> {
    fn take_zip(&mut self, file: File) -> Result<()> {
        let left = Rc::new(Cell::new(HEADER_BYTES));
        let mut archive = ZipArchive::new(BufReader::new(Gate { inner: file, left: left.clone() })).map_err(damaged)?;
        left.set(u64::MAX);
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index).map_err(damaged)?;
            let name = entry.name().map_err(damaged)?.into_owned();
            let kind = if entry.is_symlink() {
                Kind::Other
            } else if entry.is_dir() {
                Kind::Folder
            } else {
                Kind::File
            };
            self.take(&name, kind, &mut entry)?;
        }
        Ok(())
    }

    fn take_tar(&mut self, reader: impl Read) -> Result<()> {
        let left = Rc::new(Cell::new(HEADER_BYTES));
        let mut archive = tar::Archive::new(Gate { inner: reader, left: left.clone() });
        let mut entries = archive.entries().map_err(damaged)?;
        loop {
            // The library keeps long names and the like in memory.
            left.set(HEADER_BYTES);
            let Some(entry) = entries.next() else { return Ok(()) };
            let mut entry = entry.map_err(damaged)?;
            left.set(u64::MAX);
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let kind = match entry.header().entry_type() {
                tar::EntryType::Directory => Kind::Folder,
                tar::EntryType::XGlobalHeader => continue,
                kind if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() => Kind::File,
                _ => Kind::Other,
            };
            self.take(&name, kind, &mut entry)?;
        }
    }

    fn take(&mut self, name: &str, kind: Kind, content: &mut impl Read) -> Result<()> {
        self.entries += 1;
        let ArchiveLimits { bytes, files } = self.limits;
        if self.entries > files {
            let message = format!("the archive holds more than {files} files and folders (--max-model-files)");
            return Err(Error::new(ErrorCode::TooLarge, message));
        }
        let shown: String = name.chars().take(200).collect();
        match kind {
            Kind::Folder => return Ok(()),
            Kind::Other => {
                return Err(Error::invalid_input(format!(
                    "the archive's {shown:?} is a link or a device; expected plain files and folders"
                )));
            }
            Kind::File => {}
        }
        // What holds no weights may have any name; it is not kept.
        let is_outside = name.starts_with('/') || name.split(['/', '\\']).any(|part| part == "..");
        if is_outside {
            return Err(Error::invalid_input(format!("the archive's {shown:?} is outside of the archive's folder")));
        }
        let name = name.split('/').filter(|part| *part != ".").collect::<Vec<_>>().join("/");
        let staged = stage_from(content, self.scratch, bytes - self.bytes).map_err(unpacking)?.ok_or_else(|| {
            let limit = bytesize::ByteSize(bytes);
            Error::new(ErrorCode::TooLarge, format!("the archive holds more than {limit} (--max-upload-bytes)"))
        })?;
        self.bytes += staged.size;
        if self.files.insert(name, staged).is_some() {
            return Err(Error::invalid_input(format!("the archive holds {shown:?} twice")));
        }
        Ok(())
    }

    /// The one model, and everything else in its folder, by paths that begin there.
    fn into_model(mut self) -> Result<CameWith> {
        // macOS adds a file of its own for each, `__MACOSX/._model.onnx`.
        let is_model = |path: &str| {
            let name = path.rsplit('/').next().unwrap_or(path);
            name.ends_with(".onnx") && !name.starts_with("._")
        };
        let models: Vec<String> = self.files.keys().filter(|path| is_model(path)).cloned().collect();
        let [path] = models.as_slice() else {
            let names: Vec<&str> = models.iter().map(String::as_str).collect();
            return Err(Error::invalid_input(format!(
                "the archive has to hold exactly one .onnx file; it holds {}: {}",
                names.len(),
                list(&names)
            )));
        };
        let Some(model) = self.files.remove(path) else {
            return Err(Error::internal(format!("{path} was unpacked and is gone")));
        };
        let folder = path.rfind('/').map_or("", |end| &path[..=end]);
        let data = self.files.into_iter().filter_map(|(path, file)| {
            let path = path_in_folder(path.strip_prefix(folder)?).ok()?;
            Some((path, file))
        });
        Ok(CameWith { model, data: data.collect(), only_what_is_named: false })
    }
}

enum Kind {
    File,
    Folder,
    /// A link, a device, a pipe.
    Other,
}

/// Lets so many bytes through, and then no more until somebody allows it.
struct Gate<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Gate<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let left = self.left.get().checked_sub(read as u64);
        self.left.set(left.ok_or_else(|| io::Error::other(format!("more than {HEADER_BYTES} bytes of headers")))?);
        Ok(read)
    }
}

impl<R: Seek> Seek for Gate<R> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.inner.seek(position)
    }
}

fn damaged(error: impl std::fmt::Display) -> Error {
    Error::invalid_input(format!("the archive is not readable: {error}"))
}

/// Most likely the archive is damaged; a disk that is full is no fault of it.
fn unpacking(error: io::Error) -> Error {
    let error = scratch_error(error);
    if error.code == ErrorCode::StorageFull { error } else { damaged(error.cause.unwrap_or(error.message)) }
}
