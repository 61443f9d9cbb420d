//! Where models and plugins are kept: a local folder or an object store. The only module that knows `object_store`.

mod folder;
mod remote;

use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use object_store::client::HttpError;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload, UpdateVersion, WriteMultipart,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use self::folder::{SCRATCH, Scratch};
use crate::error::{Error, ErrorCode};

/// Bytes read from a file at a time on its way into the store.
const CHUNK_BYTES: usize = 4 << 20;
/// Bytes read from a file at a time on its way to a client.
const READ_BYTES: usize = 256 << 10;
/// Silence of a listing after which the store counts as lost, even if its connections stand.
const LISTING_SILENCE: Duration = Duration::from_secs(8);
/// Parts of one upload that may be under way at once.
const PARTS_IN_FLIGHT: usize = 4;

/// A store of objects by path, such as `models/iris/1/model.onnx`. Cloning shares it.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// Where objects are files anyway, the file is used as it is.
    local: Option<Arc<LocalFileSystem>>,
    folder: Option<PathBuf>,
    /// Copies of remote objects, for ONNX Runtime opens files; and uploads on their way into the store.
    scratch: Arc<Scratch>,
    /// Held while this process is the folder's only host.
    lock: Option<Arc<std::fs::File>>,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the store {location}: {source}")]
    Open { location: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("store: {0}")]
    Object(#[from] object_store::Error),
    #[error("store: path {0:?}: {1}")]
    Path(String, object_store::path::Error),
    #[error("store: nothing came for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("store: {0}")]
    File(#[from] io::Error),
}

pub type Result<T> = std::result::Result<T, StoreError>;

/// One object of a listing.
#[derive(Debug, Clone)]
pub struct Entry {
    pub path: String,
    /// Bytes.
    pub size: u64,
    pub modified: DateTime<Utc>,
    pub mark: Mark,
}

/// What changes when an object's content does. Two are equal when they are of the same content.
#[derive(Debug, Clone)]
pub struct Mark {
    tag: String,
    /// The store's own, where it keeps versions of objects.
    version: Option<String>,
}

impl PartialEq for Mark {
    fn eq(&self, other: &Mark) -> bool {
        // Listings do not tell the version.
        self.tag == other.tag
    }
}

impl Eq for Mark {}

impl From<&ObjectMeta> for Mark {
    fn from(object: &ObjectMeta) -> Mark {
        let made_up = || format!("{}-{}", object.last_modified.timestamp_micros(), object.size);
        Mark { tag: object.e_tag.clone().unwrap_or_else(made_up), version: object.version.clone() }
    }
}

impl StoreError {
    /// The first of its causes that is of a type.
    fn cause<E: std::error::Error + 'static>(&self) -> Option<&E> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(found) = error.downcast_ref::<E>() {
                return Some(found);
            }
            cause = error.source();
        }
        None
    }

    /// Whether it has no space left.
    fn is_full(&self) -> bool {
        // Object stores have no space to run out of but where someone runs one of their own, which answers 507.
        is_full(self.cause::<io::Error>()) || self.to_string().contains("507 Insufficient Storage")
    }

    /// Whether it takes no changes from this host.
    pub fn is_read_only(&self) -> bool {
        let refused = matches!(
            self,
            StoreError::Object(
                object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }
            )
        );
        let kind = self.cause::<io::Error>().map(io::Error::kind);
        refused || matches!(kind, Some(io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied))
    }
}

/// Whether a disk has no space left, or none for this user.
fn is_full(error: Option<&io::Error>) -> bool {
    matches!(error.map(io::Error::kind), Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        if error.is_full() {
            return full(error);
        }
        if error.is_read_only() {
            let message =
                "the store takes no changes from this host: it is read-only, or its credentials allow no more";
            return Error::new(ErrorCode::Forbidden, message).with_cause(error);
        }
        if error.cause::<HttpError>().is_some() || matches!(error, StoreError::Silent(_)) {
            let message = "the store cannot be reached, so nothing in it is read or changed now; try again";
            return Error::new(ErrorCode::NotReady, message).with_cause(error);
        }
        Error::internal(error)
    }
}

/// An error of a file on its way into the store.
pub fn scratch_error(error: io::Error) -> Error {
    if is_full(Some(&error)) { full(error) } else { Error::internal(error) }
}

fn full(cause: impl std::fmt::Display) -> Error {
    let message = "the store is full; nothing was published or changed; free space or delete versions";
    Error::new(ErrorCode::StorageFull, message).with_cause(cause)
}

impl Store {
    /// Opens a folder, made if missing, or an object store by its URL (`s3://bucket/prefix`, `gs://`, `az://`).
    /// `options` are the object store's, such as `aws_region`.
    ///
    /// # Errors
    /// The folder cannot be made, the URL is of an unknown kind, or an option it needs is missing.
    pub fn open(location: &str, options: Vec<(String, String)>) -> Result<Store> {
        let open_error = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Open {
            location: location.to_owned(),
            source,
        };
        if let Some((scheme, _)) = location.split_once("://")
            && scheme != "file"
        {
            let url = url::Url::parse(location).map_err(|error| open_error(error.into()))?;
            let (objects, prefix) = remote::open(&url, options).map_err(open_error)?;
            let objects = Arc::new(PrefixStore::new(objects, prefix));
            let scratch = Arc::new(folder::elsewhere()?);
            return Ok(Store { objects, local: None, folder: None, scratch, lock: None });
        }
        let folder = FilePath::new(location.strip_prefix("file://").unwrap_or(location));
        std::fs::create_dir_all(folder).map_err(|error| open_error(error.into()))?;
        let local = LocalFileSystem::new_with_prefix(folder)
            .map_err(|error| open_error(error.into()))?
            .with_fsync(true)
            .with_automatic_cleanup(true);
        let local = Arc::new(local);
        let place = folder::take_place(folder)?;
        let objects = local.clone();
        Ok(Store {
            objects,
            local: Some(local),
            folder: Some(folder.to_owned()),
            scratch: place.scratch,
            lock: place.lock,
        })
    }

    /// Whether this process is the store's only host: then what an earlier one left half-done can be removed.
    pub fn is_exclusive(&self) -> bool {
        self.lock.is_some()
    }

    /// The folder that the store is, where it is one.
    pub fn folder(&self) -> Option<&FilePath> {
        self.folder.as_deref()
    }

    /// A folder for files on their way into the store, removed when the process ends.
    pub fn scratch(&self) -> &FilePath {
        self.scratch.folder.path()
    }

    /// The object, or `None` where there is none.
    pub async fn read(&self, path: &str) -> Result<Option<Bytes>> {
        Ok(self.read_marked(path).await?.map(|(content, _)| content))
    }

    /// The object and its mark, or `None` where there is none.
    pub async fn read_marked(&self, path: &str) -> Result<Option<(Bytes, Mark)>> {
        match self.objects.get(&parse(path)?).await {
            Ok(found) => {
                let mark = Mark::from(&found.meta);
                Ok(Some((found.bytes().await?, mark)))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The object's size in bytes and its content, piece by piece; `None` where there is none.
    pub async fn stream(&self, path: &str) -> Result<Option<(u64, BoxStream<'static, Result<Bytes>>)>> {
        let found = match self.objects.get(&parse(path)?).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let size = found.meta.size;
        let content = match found.payload {
            // `object_store` itself would read 8 KiB at a time.
            GetResultPayload::File(file, _) => {
                let file = tokio::fs::File::from_std(file);
                ReaderStream::with_capacity(file, READ_BYTES).err_into().boxed()
            }
            GetResultPayload::Stream(content) => content.err_into().boxed(),
        };
        Ok(Some((size, content)))
    }

    /// Writes a new object at once. Returns false, and writes nothing, where one of that path exists.
    pub async fn create(&self, path: &str, data: Bytes) -> Result<bool> {
        let created = self.objects.put_opts(&parse(path)?, PutPayload::from_bytes(data), PutMode::Create.into()).await;
        match created {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes an object at once, in place of one of that path.
    pub async fn replace(&self, path: &str, data: Bytes) -> Result<()> {
        self.objects.put(&parse(path)?, PutPayload::from_bytes(data)).await?;
        Ok(())
    }

    /// Writes an object at once, if it is still as it was read: with that mark, or not there. Returns false, and writes
    /// nothing, where another host changed it meanwhile. A folder cannot tell, and takes the last one's.
    pub async fn replace_if(&self, path: &str, data: Bytes, mark: Option<&Mark>) -> Result<bool> {
        let Some(mark) = mark else { return self.create(path, data).await };
        if self.local.is_some() {
            self.replace(path, data).await?;
            return Ok(true);
        }
        let seen = UpdateVersion { e_tag: Some(mark.tag.clone()), version: mark.version.clone() };
        let put =
            self.objects.put_opts(&parse(path)?, PutPayload::from_bytes(data), PutMode::Update(seen).into()).await;
        match put {
            Ok(_) => Ok(true),
            Err(object_store::Error::Precondition { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a file's content as an object, which is visible only when all of it is written. A file in
    /// [`Store::scratch`] of a folder is moved; any other, and into an object store, is copied in parts. Returns false, and
    /// writes nothing, where it is not `wanted` any more by then.
    pub async fn write_file(
        &self,
        path: &str,
        file: &FilePath,
        wanted: impl Future<Output = Result<bool>>,
    ) -> Result<bool> {
        if let Some(staged) = self.folder.as_ref().and_then(|folder| file.strip_prefix(folder).ok()?.to_str())
            && staged.starts_with(SCRATCH)
        {
            tokio::fs::File::open(file).await?.sync_all().await?;
            let is_wanted = wanted.await?;
            if is_wanted {
                self.objects.rename(&parse(staged)?, &parse(path)?).await?;
            }
            return Ok(is_wanted);
        }
        let mut file = tokio::fs::File::open(file).await?;
        let upload = self.objects.put_multipart(&parse(path)?).await?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, CHUNK_BYTES);
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let filled = match file.read(&mut chunk).await {
                Ok(0) => break,
                Ok(filled) => filled,
                Err(error) => {
                    abort(writer, path).await;
                    return Err(error.into());
                }
            };
            if let Err(error) = writer.wait_for_capacity(PARTS_IN_FLIGHT).await {
                abort(writer, path).await;
                return Err(error.into());
            }
            writer.write(&chunk[..filled]);
        }
        // Asked when the parts are there, which may take minutes.
        let wanted = match writer.wait_for_capacity(0).await {
            Ok(()) => wanted.await,
            Err(error) => Err(error.into()),
        };
        match wanted {
            Ok(true) => writer.finish().await?,
            not_wanted => {
                abort(writer, path).await;
                return not_wanted;
            }
        };
        Ok(true)
    }

    /// Removes an object; one that is not there is no error.
    pub async fn delete(&self, path: &str) -> Result<()> {
        match self.objects.delete(&parse(path)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// All objects under a folder, in no particular order; under all of the store where it is empty.
    pub async fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        let mut objects = self.objects.list(Some(&parse(folder)?));
        let mut entries = Vec::new();
        let next = async |objects: &mut BoxStream<'_, _>| {
            let next = tokio::time::timeout(LISTING_SILENCE, objects.try_next()).await;
            next.map_err(|_| StoreError::Silent(LISTING_SILENCE))
        };
        while let Some(object) = next(&mut objects).await?? {
            entries.push(Entry {
                path: object.location.to_string(),
                size: object.size,
                modified: object.last_modified,
                mark: Mark::from(&object),
            });
        }
        Ok(entries)
    }

    /// Removes the copies of objects under a folder that [`Store::file`] made. Answers whether there may have been some.
    pub async fn drop_copies(&self, folder: &str) -> Result<bool> {
        if self.local.is_some() {
            return Ok(false);
        }
        match tokio::fs::remove_dir_all(self.scratch.folder.path().join(parse(folder)?.as_ref())).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(true),
        }
    }

    /// The object as a file: itself where the store is a folder, else a copy, fetched once.
    pub async fn file(&self, path: &str) -> Result<PathBuf> {
        let object = parse(path)?;
        if let Some(local) = &self.local {
            return Ok(local.path_to_filesystem(&object)?);
        }
        let file = self.scratch.folder.path().join(path);
        if tokio::fs::try_exists(&file).await? {
            return Ok(file);
        }
        if let Some(folder) = file.parent() {
            tokio::fs::create_dir_all(folder).await?;
        }
        let partial = self.scratch.folder.path().join(format!("{}.partial", uuid::Uuid::new_v4()));
        let mut target = tokio::fs::File::create(&partial).await?;
        let mut content = self.objects.get(&object).await?.into_stream();
        while let Some(bytes) = content.try_next().await? {
            target.write_all(&bytes).await?;
        }
        target.flush().await?;
        tokio::fs::rename(&partial, &file).await?;
        Ok(file)
    }
}

/// Ends an upload in parts. Why it ends is what its client has to know; the store removes parts that stay by itself.
async fn abort(writer: WriteMultipart, path: &str) {
    if let Err(error) = writer.abort().await {
        tracing::warn!(path, %error, "the parts of an upload that is not wanted were not removed");
    }
}

fn parse(path: &str) -> Result<Path> {
    Path::parse(path).map_err(|error| StoreError::Path(path.to_owned(), error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn local() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap(), Vec::new()).unwrap();
        (folder, store)
    }

    #[tokio::test]
    async fn an_object_is_created_once() {
        let (_folder, store) = local();
        assert!(store.create("models/a/1/model_info.json", Bytes::from_static(b"first")).await.unwrap());
        assert!(!store.create("models/a/1/model_info.json", Bytes::from_static(b"second")).await.unwrap());
        assert_eq!(store.read("models/a/1/model_info.json").await.unwrap().unwrap(), "first");
        assert!(store.read("models/b").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_file_is_written_listed_opened_and_deleted() {
        let (folder, store) = local();
        let source = folder.path().join("source");
        let content = vec![7u8; CHUNK_BYTES * 2 + 3];
        std::fs::write(&source, &content).unwrap();
        let write = async |wanted| {
            let wanted = std::future::ready(Ok(wanted));
            store.write_file("models/a/1/model.onnx", &source, wanted).await.unwrap()
        };
        assert!(!write(false).await);
        assert!(store.list("models").await.unwrap().is_empty());
        assert!(write(true).await);
        let listed = store.list("models").await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].path.as_str(), listed[0].size), ("models/a/1/model.onnx", content.len() as u64));
        assert_eq!(std::fs::read(store.file("models/a/1/model.onnx").await.unwrap()).unwrap(), content);
        store.delete("models/a/1/model.onnx").await.unwrap();
        store.delete("models/a/1/model.onnx").await.unwrap();
        assert!(store.list("models").await.unwrap().is_empty());
    }

    #[test]
    fn an_unknown_kind_of_store_is_refused() {
        assert!(matches!(Store::open("ftp://host/path", Vec::new()), Err(StoreError::Open { .. })));
    }
}
