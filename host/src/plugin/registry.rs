//! The plugins of this host, in memory behind a handle: uploaded, imported from the bundle, or found in the store.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tempfile::TempPath;
use tokio::sync::Semaphore;

use super::grants::Grants;
use super::host::{Plugin, PluginHost, Wasm};
use super::policy::HostPattern;
use super::repository::{PluginEntry, PluginInfo, PluginRepository};
use crate::digest::sha256_hex;
use crate::error::{Error, ErrorCode, Result};
use crate::store::Store;

/// Uploads that are in memory at once; a component may have tens of megabytes.
const UPLOADS: usize = 2;

/// A handle to the loaded plugins. Cloning shares them.
#[derive(Clone)]
pub struct Plugins {
    host: PluginHost,
    repository: PluginRepository,
    /// Of one component, in bytes.
    max_bytes: u64,
    uploads: Arc<Semaphore>,
    loaded: Arc<RwLock<ByName>>,
}

/// By name, then by version.
type ByName = BTreeMap<String, BTreeMap<String, Arc<LoadedPlugin>>>;

/// A plugin that models can be bound to.
#[derive(Debug)]
pub struct LoadedPlugin {
    pub plugin: Arc<Plugin>,
    /// `nexus:plugin@` and the version it was built for.
    pub contract: String,
    pub uploaded_at: DateTime<Utc>,
}

/// A component on its way in.
pub struct NewPlugin {
    /// Removed when this is dropped.
    pub file: TempPath,
    pub grants: Grants,
}

impl Plugins {
    pub fn new(host: PluginHost, store: Store, max_bytes: u64) -> Plugins {
        let repository = PluginRepository { store };
        let uploads = Arc::new(Semaphore::new(UPLOADS));
        Plugins { host, repository, max_bytes, uploads, loaded: Arc::default() }
    }

    /// Loads every plugin in the store. One that cannot be loaded is reported and skipped.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn load_all(&self) -> Result<()> {
        for (entry, size) in self.repository.list().await? {
            // Compiling is slow; what the import has compiled is not compiled again.
            if self.find(&entry.name, Some(&entry.version)).is_ok() {
                continue;
            }
            let loaded = if size > self.max_bytes {
                Err(Error::invalid_input(format!("{size} bytes are more than --max-plugin-bytes allows")))
            } else {
                self.load(&entry).await
            };
            if let Err(error) = loaded {
                tracing::error!(plugin = entry.name, version = entry.version, %error, "plugin skipped");
            }
        }
        Ok(())
    }

    async fn load(&self, entry: &PluginEntry) -> Result<()> {
        let info = self.repository.info(entry).await?;
        let wasm = Wasm::Stored { store: self.repository.store.clone(), path: entry.component() };
        let grants = info.as_ref().map(|info| info.grants.clone()).unwrap_or_default();
        let plugin = self.host.load(wasm, grants).await?;
        let path = entry.component();
        if PluginEntry::of(&plugin) != *entry {
            return Err(Error::invalid_input(format!("{path} says that it is {}", plugin.reference())));
        }
        let info = info.unwrap_or_else(|| PluginInfo::of(&plugin));
        if info.sha256 != plugin.sha256 {
            return Err(Error::invalid_input(format!(
                "{path} has changed since it was uploaded: its sha256 is {}, the sidecar says {}; if the change is meant, remove plugin_info.json beside it",
                plugin.sha256, info.sha256
            )));
        }
        self.insert(plugin, info);
        Ok(())
    }

    /// Takes an upload in: from then on models can be bound to it.
    ///
    /// # Errors
    /// `InvalidInput` where it is no plugin; `Conflict` where its name and version, or its bytes, are there already.
    pub async fn add(&self, new: NewPlugin) -> Result<Arc<LoadedPlugin>> {
        let _place = self.uploads.acquire().await.map_err(Error::internal)?;
        let wasm = Bytes::from(tokio::fs::read(&new.file).await.map_err(Error::internal)?);
        let hashed = wasm.clone();
        let sha256 = tokio::task::spawn_blocking(move || sha256_hex(&hashed)).await.map_err(Error::internal)?;
        if let Some(same) = self.list().iter().find(|loaded| loaded.plugin.sha256 == sha256) {
            let message = format!("this component is plugin {} already", same.plugin.reference());
            return Err(Error::new(ErrorCode::Conflict, message));
        }
        let mut plugin = self.host.load(Wasm::Held(wasm.clone()), new.grants).await?;
        let (entry, info) = (PluginEntry::of(&plugin), PluginInfo::of(&plugin));
        if !self.repository.publish(&entry, &info, wasm).await? {
            let message = format!(
                "there is a plugin {} already, and it is another component; raise the version in its manifest",
                plugin.reference()
            );
            return Err(Error::new(ErrorCode::Conflict, message));
        }
        plugin.wasm = Wasm::Stored { store: self.repository.store.clone(), path: entry.component() };
        Ok(self.insert(plugin, info))
    }

    /// Removes a plugin from the host and the store. That no model is bound to it is for the caller to see to.
    ///
    /// # Errors
    /// There is none of that name and version.
    pub async fn remove(&self, name: &str, version: &str) -> Result<()> {
        let found = self.find(name, Some(version))?;
        self.repository.remove(&PluginEntry::of(&found.plugin)).await?;
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(versions) = loaded.get_mut(name) {
            versions.remove(version);
            if versions.is_empty() {
                loaded.remove(name);
            }
        }
        tracing::info!(plugin = found.plugin.reference(), "plugin removed");
        Ok(())
    }

    /// Brings the bundle's plugins into the store: what is new, and what differs from the one of that name and version
    /// there, since a bundle belongs to this build of the host. They are granted the hosts they ask for.
    ///
    /// # Errors
    /// The bundle or the store cannot be read or written, or a bundled plugin is not one.
    pub async fn import(&self, folder: &Path) -> Result<()> {
        let mut known = Vec::new();
        for (entry, _) in self.repository.list().await? {
            match self.repository.info(&entry).await {
                Ok(info) => known.extend(info.map(|info| info.sha256)),
                Err(error) => tracing::warn!(plugin = entry.name, %error, "unreadable plugin sidecar"),
            }
        }
        let mut files = tokio::fs::read_dir(folder).await.map_err(|error| {
            let folder = folder.display();
            Error::new(ErrorCode::Internal, format!("the bundle's {folder} (--bundle) is not readable: {error}"))
        })?;
        while let Some(file) = files.next_entry().await.map_err(Error::internal)? {
            if file.path().extension().is_none_or(|extension| extension != "wasm") {
                continue;
            }
            let wasm = Bytes::from(tokio::fs::read(file.path()).await.map_err(Error::internal)?);
            if !known.contains(&sha256_hex(&wasm)) {
                self.import_one(wasm).await?;
            }
        }
        Ok(())
    }

    async fn import_one(&self, wasm: Bytes) -> Result<()> {
        let mut plugin = self.host.load(Wasm::Held(wasm.clone()), Grants::default()).await?;
        let hosts = plugin.manifest.hosts.iter().map(|host| host.parse::<HostPattern>());
        let hosts = hosts.collect::<std::result::Result<Vec<_>, _>>().map_err(|error| {
            Error::new(ErrorCode::Internal, format!("bundled plugin {} asks for a host: {error}", plugin.reference()))
        })?;
        plugin.grants = Arc::new(Grants { hosts, ..Grants::default() });
        let (entry, info) = (PluginEntry::of(&plugin), PluginInfo::of(&plugin));
        self.repository.replace(&entry, &info, wasm).await?;
        plugin.wasm = Wasm::Stored { store: self.repository.store.clone(), path: entry.component() };
        self.insert(plugin, info);
        Ok(())
    }

    fn insert(&self, plugin: Plugin, info: PluginInfo) -> Arc<LoadedPlugin> {
        tracing::info!(plugin = plugin.reference(), sha256 = plugin.sha256, "plugin loaded");
        let PluginInfo { name, version, contract, uploaded_at, .. } = info;
        let plugin = Arc::new(LoadedPlugin { plugin: Arc::new(plugin), contract, uploaded_at });
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        loaded.entry(name).or_default().insert(version, Arc::clone(&plugin));
        plugin
    }

    /// The plugin of that `name@version`.
    ///
    /// # Errors
    /// No such plugin is loaded; the message says which there are.
    pub fn get(&self, reference: &str) -> Result<Arc<Plugin>> {
        let (name, version) = reference.split_once('@').ok_or_else(|| self.unknown(reference))?;
        Ok(Arc::clone(&self.find(name, Some(version))?.plugin))
    }

    /// The version asked for, or the newest: versions are compared part by part, as numbers where they are numbers.
    ///
    /// # Errors
    /// As [`Plugins::get`].
    pub fn find(&self, name: &str, version: Option<&str>) -> Result<Arc<LoadedPlugin>> {
        let found = {
            let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
            let versions = loaded.get(name);
            match version {
                Some(version) => versions.and_then(|versions| versions.get(version).cloned()),
                None => versions.and_then(|versions| {
                    versions.values().max_by_key(|loaded| version_key(&loaded.plugin.manifest.version)).cloned()
                }),
            }
        };
        found.ok_or_else(|| self.unknown(&version.map_or(name.to_owned(), |version| format!("{name}@{version}"))))
    }

    /// All loaded versions, by name and version.
    pub fn list(&self) -> Vec<Arc<LoadedPlugin>> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.values().flat_map(BTreeMap::values).cloned().collect()
    }

    fn unknown(&self, reference: &str) -> Error {
        let reference: String = reference.chars().take(256).collect();
        let known: Vec<String> = self.list().iter().take(20).map(|loaded| loaded.plugin.reference()).collect();
        Error::not_found(format!("there is no plugin {reference:?} (name@version); plugins: {}", known.join(", ")))
    }
}

fn version_key(version: &str) -> Vec<(u64, String)> {
    let parts = version.split(['.', '-', '+']);
    parts.map(|part| part.parse().map_or((0, part.to_owned()), |number| (number, String::new()))).collect()
}

#[cfg(test)]
mod tests {
    use super::version_key;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(version_key("0.10.0") > version_key("0.9.1"));
        assert!(version_key("1.0") > version_key("0.9.1"));
    }
}
