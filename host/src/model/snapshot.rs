//! PLACEHOLDER until the store's branch is merged.
use std::collections::BTreeMap;

use super::repository::{Entry, Repository, RepositoryError, Sidecar};

type Result<T> = std::result::Result<T, RepositoryError>;

/// Everything under `models/`, as one listing shows it.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub models: BTreeMap<String, ModelSnapshot>,
}

#[derive(Debug, Default)]
pub struct ModelSnapshot {
    pub config: Option<String>,
    pub versions: BTreeMap<String, String>,
}

impl Snapshot {
    pub fn versions(&self) -> impl Iterator<Item = (Entry, String)> {
        self.models.iter().flat_map(|(id, model)| {
            model
                .versions
                .iter()
                .map(move |(version, mark)| (Entry { id: id.clone(), version: version.clone() }, mark.clone()))
        })
    }
}

impl Repository {
    pub async fn snapshot(&self) -> Result<Snapshot> {
        self.list().await?;
        let mut snapshot = Snapshot::default();
        for object in self.store.list("models").await? {
            let parts: Vec<&str> = object.path.split('/').collect();
            let mark = format!("{}-{}", object.modified.timestamp_micros(), object.size);
            match parts[..] {
                ["models", id, "model.toml"] => {
                    snapshot.models.entry(id.to_owned()).or_default().config = Some(mark);
                }
                ["models", id, version, "model.onnx"] => {
                    snapshot.models.entry(id.to_owned()).or_default().versions.insert(version.to_owned(), mark);
                }
                _ => {}
            }
        }
        Ok(snapshot)
    }

    pub async fn describe(&self, entry: &Entry) -> Result<Sidecar> {
        Ok(self.open(entry).await?.sidecar)
    }

    pub async fn remove_model(&self, id: &str) -> Result<()> {
        for object in self.store.list(&format!("models/{id}")).await? {
            self.store.delete(&object.path).await?;
        }
        Ok(())
    }
}
