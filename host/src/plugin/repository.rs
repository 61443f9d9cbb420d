//! The store's layout of plugins: `plugins/<name>/<version>/plugin.wasm`, and `plugin_info.json` beside it.
//!
//! As with models, the sidecar is created first and only if there is none, so of two equal uploads one wins, and the
//! component comes last: a version is there when its component is.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::CONTRACT_VERSION;
use super::grants::Grants;
use super::host::Plugin;
use super::manifest::Manifest;
use crate::error::{Error, Result};
use crate::store::Store;

/// Plugins as the store keeps them.
#[derive(Clone)]
pub(super) struct PluginRepository {
    pub(super) store: Store,
}

/// `plugin_info.json`: what the host knows of a plugin without loading it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PluginInfo {
    #[serde(flatten)]
    pub manifest: Manifest,
    /// Of the component, in lower-case hexadecimal.
    pub sha256: String,
    /// Bytes of the component.
    pub size: usize,
    /// `nexus:plugin@` and the version it was built for.
    pub contract: String,
    pub uploaded_at: DateTime<Utc>,
    pub grants: Grants,
    /// Why the memory after `init` cannot be kept; `None` where it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_snapshot: Option<String>,
}

/// One version in the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PluginEntry {
    pub(super) name: String,
    pub(super) version: String,
}

impl PluginEntry {
    pub(super) fn of(manifest: &Manifest) -> PluginEntry {
        PluginEntry { name: manifest.name.clone(), version: manifest.version.clone() }
    }

    pub(super) fn component(&self) -> String {
        format!("plugins/{}/{}/plugin.wasm", self.name, self.version)
    }

    fn sidecar(&self) -> String {
        format!("plugins/{}/{}/plugin_info.json", self.name, self.version)
    }
}

impl PluginInfo {
    pub(super) fn of(plugin: &Plugin) -> PluginInfo {
        PluginInfo {
            manifest: plugin.manifest.clone(),
            sha256: plugin.sha256.clone(),
            size: plugin.size,
            contract: format!("nexus:plugin@{CONTRACT_VERSION}"),
            uploaded_at: Utc::now(),
            grants: Grants::clone(&plugin.grants),
            no_snapshot: plugin.unfit_for_snapshots.clone(),
        }
    }
}

impl PluginRepository {
    /// All versions that are there, with the size of their components. What an earlier process of this host left half-done
    /// is removed.
    pub(super) async fn list(&self) -> Result<Vec<(PluginEntry, u64)>> {
        let mut found: BTreeMap<PluginEntry, Option<u64>> = BTreeMap::new();
        for object in self.store.list("plugins").await? {
            let parts: Vec<&str> = object.path.split('/').collect();
            let ["plugins", name, version, file] = parts[..] else { continue };
            let entry = PluginEntry { name: name.to_owned(), version: version.to_owned() };
            let component = found.entry(entry).or_default();
            if file == "plugin.wasm" {
                *component = Some(object.size);
            }
        }
        let mut whole = Vec::new();
        for (entry, component) in found {
            match component {
                Some(size) => whole.push((entry, size)),
                None if self.store.is_exclusive() => {
                    tracing::warn!(plugin = entry.name, version = entry.version, "removing an upload that did not end");
                    self.store.delete(&entry.sidecar()).await?;
                }
                None => {}
            }
        }
        Ok(whole)
    }

    /// The sidecar; `None` for a component that was laid down by hand, and where it is not readable.
    pub(super) async fn info(&self, entry: &PluginEntry) -> Result<Option<PluginInfo>> {
        let path = entry.sidecar();
        let Some(json) = self.store.read(&path).await? else { return Ok(None) };
        match serde_json::from_slice(&json) {
            Ok(info) => Ok(Some(info)),
            Err(error) => {
                tracing::warn!(path, %error, "unreadable plugin sidecar");
                Ok(None)
            }
        }
    }

    /// Writes the sidecar of a component that came without.
    pub(super) async fn write_info(&self, entry: &PluginEntry, info: &PluginInfo) -> Result<()> {
        let sidecar = serde_json::to_vec_pretty(info).map_err(Error::internal)?;
        Ok(self.store.replace(&entry.sidecar(), sidecar.into()).await?)
    }

    /// Publishes a version. Returns false, and writes nothing, where it is there already.
    pub(super) async fn publish(&self, entry: &PluginEntry, info: &PluginInfo, wasm: Bytes) -> Result<bool> {
        let sidecar = serde_json::to_vec_pretty(info).map_err(Error::internal)?;
        if !self.store.create(&entry.sidecar(), sidecar.into()).await? {
            return Ok(false);
        }
        if let Err(error) = self.store.replace(&entry.component(), wasm).await {
            if let Err(error) = self.remove(entry).await {
                tracing::error!(plugin = entry.name, version = entry.version, %error, "a failed upload was left behind");
            }
            return Err(error.into());
        }
        Ok(true)
    }

    /// Writes a version in place of the one that is there.
    pub(super) async fn replace(&self, entry: &PluginEntry, info: &PluginInfo, wasm: Bytes) -> Result<()> {
        self.store.replace(&entry.component(), wasm).await?;
        self.write_info(entry, info).await
    }

    /// Removes a version, the component first: from then on it is not there.
    pub(super) async fn remove(&self, entry: &PluginEntry) -> Result<()> {
        self.store.delete(&entry.component()).await?;
        Ok(self.store.delete(&entry.sidecar()).await?)
    }
}
