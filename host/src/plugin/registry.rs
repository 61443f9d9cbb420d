//! The plugins of this host: kept in the store as `plugins/<name>/<version>/plugin.wasm`, loaded behind a handle.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{CONTRACT_VERSION, Plugin, PluginHost};
use crate::digest::sha256_hex;
use crate::error::{Error, ErrorCode, Result};
use crate::store::Store;

/// A handle to the loaded plugins. Cloning shares them.
#[derive(Clone)]
pub struct Plugins {
    host: Arc<PluginHost>,
    store: Store,
    /// Of one component, in bytes.
    max_bytes: u64,
    loaded: Arc<RwLock<ByName>>,
}

/// By name, then by version.
type ByName = BTreeMap<String, BTreeMap<String, Arc<Plugin>>>;

impl Plugin {
    /// `name@version`, as pipelines name a plugin.
    pub fn reference(&self) -> String {
        format!("{}@{}", self.manifest.name, self.manifest.version)
    }
}

/// `plugin_info.json`: what the host knows of a plugin without compiling it.
#[derive(Debug, Serialize, Deserialize)]
struct PluginInfo {
    name: String,
    version: String,
    sha256: String,
    /// Bytes of the component.
    size: usize,
    /// The contract it was built for.
    wit: String,
}

impl Plugins {
    pub fn new(host: PluginHost, store: Store, max_bytes: u64) -> Plugins {
        Plugins { host: Arc::new(host), store, max_bytes, loaded: Arc::default() }
    }

    /// Loads every plugin in the store. One that cannot be loaded is reported and skipped.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn load_all(&self) -> Result<()> {
        for object in self.store.list("plugins").await.map_err(Error::internal)? {
            let parts: Vec<&str> = object.path.split('/').collect();
            let ["plugins", name, version, "plugin.wasm"] = parts[..] else { continue };
            // Compiling is slow; what the import has compiled is not compiled again.
            if self.get(&format!("{name}@{version}")).is_ok() {
                continue;
            }
            let loaded = if object.size > self.max_bytes {
                Err(Error::invalid_input(format!("{} bytes are more than --max-plugin-bytes allows", object.size)))
            } else {
                self.load(name, version, &object.path).await
            };
            if let Err(error) = loaded {
                tracing::error!(plugin = name, version, %error, "plugin skipped");
            }
        }
        Ok(())
    }

    async fn load(&self, name: &str, version: &str, path: &str) -> Result<()> {
        let wasm = self.store.read(path).await.map_err(Error::internal)?;
        let wasm = wasm.ok_or_else(|| Error::not_found(format!("{path} has gone")))?;
        let plugin = self.host.load(wasm).await?;
        if plugin.manifest.name != name || plugin.manifest.version != version {
            return Err(Error::invalid_input(format!("{path} says that it is {}", plugin.reference())));
        }
        self.insert(plugin);
        Ok(())
    }

    /// Brings the bundle's plugins into the store: what is new, and what differs from the one of that name and version
    /// there, since a bundle belongs to this build of the host.
    ///
    /// # Errors
    /// The bundle or the store cannot be read or written, or a bundled plugin is not one.
    pub async fn import(&self, folder: &Path) -> Result<()> {
        let known = self.known_hashes().await?;
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
        let plugin = self.host.load(wasm.clone()).await?;
        let folder = format!("plugins/{}/{}", plugin.manifest.name, plugin.manifest.version);
        let info = PluginInfo {
            name: plugin.manifest.name.clone(),
            version: plugin.manifest.version.clone(),
            sha256: plugin.sha256.clone(),
            size: plugin.size,
            wit: format!("nexus:plugin@{CONTRACT_VERSION}"),
        };
        let info = serde_json::to_vec_pretty(&info).map_err(Error::internal)?;
        self.store.replace(&format!("{folder}/plugin.wasm"), wasm).await.map_err(Error::internal)?;
        self.store.replace(&format!("{folder}/plugin_info.json"), info.into()).await.map_err(Error::internal)?;
        tracing::info!(plugin = plugin.reference(), sha256 = plugin.sha256, "bundled plugin imported");
        self.insert(plugin);
        Ok(())
    }

    async fn known_hashes(&self) -> Result<Vec<String>> {
        let mut hashes = Vec::new();
        for object in self.store.list("plugins").await.map_err(Error::internal)? {
            if !object.path.ends_with("/plugin_info.json") {
                continue;
            }
            let json = self.store.read(&object.path).await.map_err(Error::internal)?.unwrap_or_default();
            match serde_json::from_slice::<PluginInfo>(&json) {
                Ok(info) => hashes.push(info.sha256),
                Err(error) => tracing::warn!(path = object.path, %error, "unreadable plugin sidecar"),
            }
        }
        Ok(hashes)
    }

    fn insert(&self, plugin: Arc<Plugin>) {
        tracing::info!(plugin = plugin.reference(), "plugin loaded");
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        let versions = loaded.entry(plugin.manifest.name.clone()).or_default();
        versions.insert(plugin.manifest.version.clone(), plugin);
    }

    /// The plugin of that `name@version`.
    ///
    /// # Errors
    /// No such plugin is loaded; the message says which there are.
    pub fn get(&self, reference: &str) -> Result<Arc<Plugin>> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        let found = reference
            .split_once('@')
            .and_then(|(name, version)| loaded.get(name).and_then(|versions| versions.get(version)));
        found.cloned().ok_or_else(|| {
            let known: Vec<String> =
                loaded.values().flat_map(BTreeMap::values).map(|plugin| plugin.reference()).collect();
            Error::not_found(format!("there is no plugin {reference:?} (name@version); plugins: {}", known.join(", ")))
        })
    }

    /// The highest version of a plugin, versions compared part by part as numbers where they are numbers.
    pub fn newest(&self, name: &str) -> Option<Arc<Plugin>> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.get(name)?.values().max_by_key(|plugin| version_key(&plugin.manifest.version)).cloned()
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
