//! How a version is published, in three steps. The sidecar `model_info.json` is created first, and only if there is none: of
//! two equal uploads one wins here. Then come the labels and the files that the model keeps weights in, and the model last,
//! which the store shows whole or not at all. A sidecar without a model is an upload that did not end.

use std::io;
use std::path::Path;

use bytes::Bytes;

use super::layout::{LABELS, MODEL, SIDECAR, TOMBSTONE};
use super::repository::{Entry, Repository, RepositoryError, Result, Sidecar, describe, to_json};
use crate::store;

impl Repository {
    /// Publishes a version from a folder with `model.onnx` and the files that the sidecar names. `labels` is a label file
    /// as it came, checked before.
    ///
    /// # Errors
    /// [`RepositoryError::Exists`], or the store's; nothing of the version is left then.
    pub async fn publish(&self, sidecar: &Sidecar, labels: Option<&Bytes>, folder: &Path) -> Result<String> {
        let entry = sidecar.entry();
        self.claim(&entry, sidecar).await?;
        let written = self.write(sidecar, labels, folder).await;
        if written.is_err()
            && let Err(error) = self.withdraw(sidecar).await
        {
            tracing::error!(model = entry.id, version = entry.version, %error, "a failed upload was left behind");
        }
        written
    }

    async fn withdraw(&self, sidecar: &Sidecar) -> Result<()> {
        if self.reclaim(sidecar).await? { self.remove(&sidecar.entry()).await } else { Ok(()) }
    }

    /// Writes the files of a version that was claimed, the model last. Answers with its path.
    ///
    /// # Errors
    /// The store's, or [`RepositoryError::BeingDeleted`] where somebody removed the model meanwhile.
    pub(super) async fn write(&self, sidecar: &Sidecar, labels: Option<&Bytes>, folder: &Path) -> Result<String> {
        let entry = &sidecar.entry();
        let deleted = || RepositoryError::BeingDeleted { id: entry.id.clone() };
        if let Some(labels) = labels {
            if !self.is_claimed(sidecar).await? {
                return Err(deleted());
            }
            self.store.replace(&self.layout.of_version(entry, LABELS), labels.clone()).await?;
        }
        for file in sidecar.files.iter().map(|file| file.path.as_str()).chain([MODEL]) {
            let path = self.layout.of_version(entry, file);
            if !self.store.write_file(&path, &folder.join(file), self.is_claimed(sidecar)).await? {
                return Err(deleted());
            }
        }
        // A deletion of the whole model may have taken the other files while the last one was on its way.
        let tombstone = self.layout.of_model(&entry.id, TOMBSTONE);
        if !self.is_claimed(sidecar).await? || self.store.read(&tombstone).await?.is_some() {
            return Err(deleted());
        }
        Ok(self.layout.of_version(entry, MODEL))
    }

    /// Whether the name that an upload claimed is still its own: the model may have been deleted meanwhile, and uploaded anew.
    pub(super) async fn is_claimed(&self, sidecar: &Sidecar) -> store::Result<bool> {
        let path = self.layout.of_version(&sidecar.entry(), SIDECAR);
        let claim = self.store.read(&path).await?.and_then(|json| serde_json::from_slice::<Sidecar>(&json).ok());
        Ok(claim.is_some_and(|claim| claim.uploaded_at == sidecar.uploaded_at))
    }

    /// Whether what lies under the name of a failed upload is its own to remove. Where a deletion took its claim the name is
    /// claimed once more: nobody else is to claim it amid the removal.
    pub(super) async fn reclaim(&self, sidecar: &Sidecar) -> Result<bool> {
        let path = self.layout.of_version(&sidecar.entry(), SIDECAR);
        Ok(self.is_claimed(sidecar).await? || self.store.create(&path, to_json(sidecar)?).await?)
    }

    /// Publishes a version from a folder of the bundle, where files have their names of the store.
    ///
    /// # Errors
    /// As [`Repository::publish`], and a file that is not a model.
    pub async fn import(&self, entry: &Entry, folder: &Path) -> Result<()> {
        let sidecar = describe(entry, &folder.join(MODEL)).await?;
        let labels = match tokio::fs::read(folder.join("labels.json")).await {
            Ok(labels) => Some(Bytes::from(labels)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        self.publish(&sidecar, labels.as_ref(), folder).await?;
        Ok(())
    }

    /// Creates the sidecar, if there is neither one nor a model.
    ///
    /// # Errors
    /// [`RepositoryError::Exists`] and its like.
    pub(super) async fn claim(&self, entry: &Entry, sidecar: &Sidecar) -> Result<()> {
        if !self.layout.takes_uploads() {
            return Err(RepositoryError::NoPlace);
        }
        let Entry { id, version } = entry.clone();
        if !self.is_ours() && ["models", "plugins"].contains(&id.as_str()) {
            return Err(RepositoryError::Reserved { id });
        }
        let (tombstone, model) = (self.layout.of_model(&id, TOMBSTONE), self.layout.of_version(entry, MODEL));
        let objects = self.store.list(&self.layout.of_model(&id, "")).await?;
        if objects.iter().any(|object| object.path == tombstone) {
            return Err(RepositoryError::BeingDeleted { id });
        }
        // A model that came by hand may have no sidecar yet, and is not to be overwritten either.
        if objects.iter().any(|object| object.path == model) {
            return Err(RepositoryError::Exists { id, version });
        }
        let (path, json) = (self.layout.of_version(entry, SIDECAR), to_json(sidecar)?);
        // Where the answer to a request was lost, the one that is there is this one.
        if self.store.create(&path, json.clone()).await? || self.store.read(&path).await? == Some(json) {
            return Ok(());
        }
        Err(RepositoryError::Unfinished { id, version })
    }
}
