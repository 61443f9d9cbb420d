//! The files that a version is made of, as a client may copy them. They are read from the store, loaded or not.

use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::load::Models;
use super::registry::State;
use super::repository::{DataFile, Entry, RepositoryError};
use crate::blocking::off_async_threads;
use crate::digest::sha256_hex;
use crate::error::{Error, Result};
use crate::store::StoreError;

/// A file's size in bytes, and its content piece by piece.
pub(crate) type Content = (u64, BoxStream<'static, std::result::Result<Bytes, StoreError>>);

const MODEL: &str = "model.onnx";
/// The small files beside a model, which the sidecar has no hash of.
const BESIDE: [&str; 2] = ["labels.json", "model_info.json"];

impl Models {
    /// What a version is made of: the model, its external data, labels and sidecar, as far as they are there.
    ///
    /// # Errors
    /// There is no such version, its sidecar cannot be read, or the store's own.
    pub async fn files(&self, entry: &Entry) -> Result<Vec<DataFile>> {
        let known = self.registry.find(&entry.id, Some(&entry.version))?;
        let Some(sidecar) = known.info else {
            return Err(match known.state {
                State::Failed(error) => error,
                _ => Error::internal(format!("{} has no sidecar", self.path_of(entry))),
            });
        };
        let mut files = vec![DataFile { path: MODEL.to_owned(), size: sidecar.size, sha256: sidecar.sha256.clone() }];
        files.extend_from_slice(&sidecar.files);
        for path in BESIDE {
            if let Some(bytes) =
                self.repository.store.read(&self.in_store(entry, path)).await.map_err(RepositoryError::from)?
            {
                let size = bytes.len() as u64;
                let sha256 = off_async_threads(bytes.len(), move || sha256_hex(&bytes)).await?;
                files.push(DataFile { path: path.to_owned(), size, sha256 });
            }
        }
        Ok(files)
    }

    /// Opens one of a version's files.
    ///
    /// # Errors
    /// It is none of them, or as [`Models::files`].
    pub async fn open_file(&self, entry: &Entry, path: &str) -> Result<(DataFile, Content)> {
        let files = self.files(entry).await?;
        let no_such_file = || {
            let known: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
            let Entry { id, version } = entry;
            Error::not_found(format!(
                "model {id}, version {version}, has no file {path:?}; files: {}",
                known.join(", ")
            ))
        };
        let file = files.iter().find(|file| file.path == path).ok_or_else(no_such_file)?;
        let content = self.repository.store.stream(&self.in_store(entry, path)).await.map_err(RepositoryError::from)?;
        Ok((file.clone(), content.ok_or_else(no_such_file)?))
    }

    /// The path in the store of what lies beside a version's model.
    fn in_store(&self, entry: &Entry, path: &str) -> String {
        let model = self.path_of(entry);
        format!("{}{path}", model.strip_suffix(MODEL).unwrap_or_default())
    }
}
