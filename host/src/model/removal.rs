//! What is taken out of the store: versions, whole models, and what a host that was killed left half-done.

use chrono::{TimeDelta, Utc};

use super::layout::{CONFIG, MODEL, SIDECAR, TOMBSTONE};
use super::repository::{Entry, Repository, RepositoryError, Result, to_json};

/// Age from which what is half-done in a store of several hosts is nobody's any more.
const ABANDONED: TimeDelta = TimeDelta::hours(1);

impl Repository {
    /// Removes a version, the model first: from then on it is not visible. The sidecar goes last: while it is there, the
    /// next start ends what is interrupted here.
    pub async fn remove(&self, entry: &Entry) -> Result<()> {
        self.empty(entry).await?;
        Ok(self.store.delete(&self.layout.of_version(entry, SIDECAR)).await?)
    }

    /// Removes a version as [`Repository::remove`] does, and with the model's last one what is set for the model.
    pub(super) async fn remove_with_config(&self, entry: &Entry) -> Result<()> {
        self.empty(entry).await?;
        // Before the sidecar, so that a start after a kill finds what to end.
        if self.versions(&entry.id).await?.iter().all(|version| *version == entry.version) {
            self.store.delete(&self.layout.of_model(&entry.id, CONFIG)).await?;
        }
        Ok(self.store.delete(&self.layout.of_version(entry, SIDECAR)).await?)
    }

    /// Removes all of a version but its sidecar.
    async fn empty(&self, entry: &Entry) -> Result<()> {
        if !self.layout.takes_uploads() {
            return Err(RepositoryError::NoPlace);
        }
        let (model, sidecar) = (self.layout.of_version(entry, MODEL), self.layout.of_version(entry, SIDECAR));
        self.store.delete(&model).await?;
        for object in self.store.list(&self.layout.of_version(entry, "")).await? {
            if object.path != sidecar {
                self.store.delete(&object.path).await?;
            }
        }
        Ok(())
    }

    /// Removes a model with all its versions. No host sees any of them from the moment that the tombstone is there; it
    /// goes last. Called again, it ends what was interrupted.
    pub async fn remove_model(&self, id: &str) -> Result<()> {
        if !self.layout.takes_uploads() {
            return Err(RepositoryError::NoPlace);
        }
        let tombstone = self.layout.of_model(id, TOMBSTONE);
        self.store.replace(&tombstone, to_json(&serde_json::json!({ "deleted_at": Utc::now() }))?).await?;
        loop {
            let mut objects = self.store.list(&self.layout.of_model(id, "")).await?;
            objects.retain(|object| object.path != tombstone);
            if objects.is_empty() {
                return Ok(self.store.delete(&tombstone).await?);
            }
            // An upload that began before the tombstone may still add files, hence the loop.
            for object in objects {
                self.store.delete(&object.path).await?;
            }
        }
    }

    /// Removes what hosts that were killed left half-done, at the start of this one.
    pub async fn tidy_at_start(&self) -> Result<()> {
        // Nobody else can be at it.
        let age = if self.store.is_exclusive() { TimeDelta::zero() } else { ABANDONED };
        self.tidy_older(age).await
    }

    /// Removes what hosts that were killed left half-done. To be called now and then.
    pub async fn tidy(&self) -> Result<()> {
        self.tidy_older(ABANDONED).await
    }

    async fn tidy_older(&self, age: TimeDelta) -> Result<()> {
        let snapshot = self.snapshot().await?;
        let before = Utc::now() - age;
        for partial in snapshot.partial {
            let entry = partial.entry;
            if partial.has_sidecar && partial.changed <= before && !snapshot.deleted.contains_key(&entry.id) {
                tracing::warn!(model = entry.id, version = entry.version, "removing an upload that did not end");
                // It may have brought its pipeline.
                self.remove_with_config(&entry).await?;
            }
        }
        for (id, since) in snapshot.deleted {
            if since <= before {
                tracing::warn!(model = id, "ending a deletion that was interrupted");
                self.remove_model(&id).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::{Path, PathBuf};

    use bytes::Bytes;
    use tempfile::TempDir;

    use super::super::layout::Layout;
    use super::super::repository::Sidecar;
    use super::*;
    use crate::store::Store;

    async fn repository() -> (TempDir, Repository) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap(), Vec::new()).unwrap();
        (folder, Repository::of_store(store, "model").await.unwrap())
    }

    /// A version on its way in: its sidecar, and the folder with its model.
    fn upload(repository: &Repository, id: &str, version: &str) -> (Sidecar, PathBuf) {
        let folder = repository.scratch().join(uuid::Uuid::new_v4().to_string());
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("model.onnx");
        std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/iris/1/model.onnx"), &file).unwrap();
        let metadata = crate::onnx::read_file(&file).unwrap();
        let sidecar = Sidecar {
            id: id.into(),
            name: id.into(),
            version: version.into(),
            sha256: String::new(),
            size: 623,
            uploaded_at: Utc::now(),
            files: Vec::new(),
            session_bytes: None,
            batching: None,
            metadata,
        };
        (sidecar, folder)
    }

    async fn publish(repository: &Repository, id: &str, version: &str) -> Result<String> {
        let (sidecar, folder) = upload(repository, id, version);
        repository.publish(&sidecar, Some(&Bytes::from_static(b"[]")), &folder).await
    }

    fn files(folder: &Path) -> Vec<String> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with('.') {
                continue;
            }
            files.push(name.clone());
            if entry.path().is_dir() {
                files.extend(self::files(&entry.path()).iter().map(|file| format!("{name}/{file}")));
            }
        }
        files.sort();
        files
    }

    #[tokio::test]
    async fn a_version_goes_without_a_trace_and_the_others_stay() {
        let (folder, repository) = repository().await;
        publish(&repository, "a", "1").await.unwrap();
        publish(&repository, "a", "2").await.unwrap();
        std::fs::create_dir(folder.path().join("models/a/1/data")).unwrap();
        std::fs::write(folder.path().join("models/a/1/data/weights"), "external data").unwrap();
        repository.remove(&Entry { id: "a".into(), version: "1".into() }).await.unwrap();
        let of_2 = ["models/a/2/labels.json", "models/a/2/model.onnx", "models/a/2/model_info.json"];
        assert_eq!(files(folder.path()), [&["models", "models/a", "models/a/2"][..], &of_2].concat());
        publish(&repository, "a", "1").await.unwrap();
        repository.remove_model("a").await.unwrap();
        assert_eq!(files(folder.path()), [""; 0]);
    }

    #[tokio::test]
    async fn a_model_that_is_being_deleted_is_not_seen_and_takes_no_upload_and_the_next_start_ends_it() {
        let (folder, repository) = repository().await;
        publish(&repository, "a", "1").await.unwrap();
        publish(&repository, "b", "1").await.unwrap();
        std::fs::write(folder.path().join("models/a/deleted.json"), "{}").unwrap();
        assert_eq!(repository.list().await.unwrap(), [Entry { id: "b".into(), version: "1".into() }]);
        let refused = publish(&repository, "a", "2").await.unwrap_err();
        assert!(matches!(refused, RepositoryError::BeingDeleted { .. }), "{refused}");
        repository.tidy().await.unwrap();
        assert!(folder.path().join("models/a").exists(), "another host may be at it");
        repository.tidy_at_start().await.unwrap();
        assert!(!folder.path().join("models/a").exists());
        publish(&repository, "a", "2").await.unwrap();
    }

    #[tokio::test]
    async fn an_interrupted_upload_is_removed_by_the_only_host_at_its_start_and_not_by_one_of_several() {
        let (folder, repository) = repository().await;
        publish(&repository, "a", "1").await.unwrap();
        std::fs::remove_file(folder.path().join("models/a/1/model.onnx")).unwrap();
        std::fs::create_dir_all(folder.path().join("models/somebodys/1")).unwrap();
        std::fs::write(folder.path().join("models/somebodys/1/notes"), "").unwrap();
        let refused = publish(&repository, "a", "1").await.unwrap_err();
        assert!(matches!(refused, RepositoryError::Unfinished { .. }), "{refused}");
        repository.tidy().await.unwrap();
        assert!(folder.path().join("models/a/1/model_info.json").exists());
        repository.tidy_at_start().await.unwrap();
        assert_eq!(files(&folder.path().join("models")), ["somebodys", "somebodys/1", "somebodys/1/notes"]);
    }

    #[tokio::test]
    async fn an_upload_whose_name_another_has_by_now_leaves_that_one_as_it_is() {
        let (store, repository) = repository().await;
        let entry = Entry { id: "a".into(), version: "1".into() };
        let (slow, folder) = upload(&repository, "a", "1");
        std::fs::write(folder.join("model.onnx"), "slow").unwrap();
        repository.claim(&entry, &slow).await.unwrap();
        repository.remove_model("a").await.unwrap();
        publish(&repository, "a", "1").await.unwrap();
        let model = store.path().join("models/a/1/model.onnx");
        let quick = std::fs::read(&model).unwrap();
        for labels in [None, Some(&Bytes::from_static(b"[\"slow\"]"))] {
            let refused = repository.write(&slow, labels, &folder).await.unwrap_err();
            assert!(matches!(refused, RepositoryError::BeingDeleted { .. }), "{refused}");
        }
        assert!(std::fs::read(&model).unwrap() == quick);
        assert_eq!(std::fs::read(model.with_file_name("labels.json")).unwrap(), b"[]");
        assert!(!repository.reclaim(&slow).await.unwrap());
        // Where nobody has the name it is the upload's own again, and taken back under it.
        repository.remove_model("a").await.unwrap();
        assert!(repository.reclaim(&slow).await.unwrap());
        let refused = publish(&repository, "a", "1").await.unwrap_err();
        assert!(matches!(refused, RepositoryError::Unfinished { .. }), "{refused}");
    }

    #[tokio::test]
    async fn what_is_set_for_a_model_goes_with_its_last_version_and_no_earlier() {
        let (folder, repository) = repository().await;
        for version in ["1", "2"] {
            publish(&repository, "a", version).await.unwrap();
        }
        let config = folder.path().join("models/a/model.toml");
        std::fs::write(&config, "[traffic.weights]\n2 = 1.0\n").unwrap();
        repository.remove_with_config(&Entry { id: "a".into(), version: "1".into() }).await.unwrap();
        assert!(config.exists());
        // As a kill amid the removal leaves it.
        std::fs::remove_file(folder.path().join("models/a/2/model.onnx")).unwrap();
        repository.tidy_at_start().await.unwrap();
        assert_eq!(files(folder.path()), [""; 0]);
    }

    #[tokio::test]
    async fn other_servers_layouts_are_read() {
        for (file, layout, path) in [
            ("m/1/model.onnx", Layout::Triton, "m/1/model.onnx"),
            ("1/model.onnx", Layout::OneModel { id: "model".into() }, "1/model.onnx"),
            ("model.onnx", Layout::OneVersion { id: "model".into() }, "model.onnx"),
            ("models/m/1/model.onnx", Layout::Own, "models/m/1/model.onnx"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(folder.path().join(file).parent().unwrap()).unwrap();
            std::fs::write(folder.path().join(file), "").unwrap();
            std::fs::write(folder.path().join("config.pbtxt"), "").unwrap();
            let store = Store::open(folder.path().to_str().unwrap(), Vec::new()).unwrap();
            let repository = Repository::of_store(store, "model").await.unwrap();
            assert_eq!(repository.layout, layout);
            let [entry] = &repository.list().await.unwrap()[..] else { panic!("{file}: one version") };
            assert_eq!(repository.layout.of_version(entry, MODEL), path);
            assert_eq!(repository.versions(&entry.id).await.unwrap(), ["1"]);
        }
    }
}
