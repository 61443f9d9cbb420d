//! The plugins of this host, in memory behind a handle: uploaded, imported from the bundle, or found in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use tempfile::TempPath;
use tokio::sync::{OnceCell, Semaphore};

use super::grants::Grants;
use super::host::{Plugin, PluginHost, Wasm};
use super::manifest::Manifest;
use super::policy::HostPattern;
use super::repository::{PluginEntry, PluginInfo, PluginRepository};
use crate::digest::sha256_hex;
use crate::error::{Error, ErrorCode, Result};
use crate::store::Store;

/// Uploads that are in memory at once; a component may have tens of megabytes.
const UPLOADS: usize = 2;

/// A handle to the plugins of this host. Cloning shares them.
#[derive(Clone)]
pub struct Plugins {
    host: PluginHost,
    repository: PluginRepository,
    /// Of one component, in bytes.
    max_bytes: u64,
    /// Of all versions together.
    max_count: usize,
    uploads: Arc<Semaphore>,
    known: Arc<RwLock<ByName>>,
    /// What was in the store when it was last looked at.
    seen: Arc<Mutex<BTreeSet<String>>>,
}

/// By name, then by version.
type ByName = BTreeMap<String, BTreeMap<String, Arc<KnownPlugin>>>;

/// A plugin that models can be bound to. It is compiled, or found compiled, when the first one is.
#[derive(Debug)]
pub struct KnownPlugin {
    pub info: PluginInfo,
    loaded: OnceCell<Arc<Plugin>>,
}

impl KnownPlugin {
    /// `name@version`, as pipelines name a plugin.
    pub fn reference(&self) -> String {
        self.info.manifest.reference()
    }
}

/// A component on its way in.
pub struct NewPlugin {
    /// Removed when this is dropped.
    pub file: TempPath,
    pub grants: Grants,
}

impl Plugins {
    pub fn new(host: PluginHost, store: Store, max_bytes: u64, max_count: usize) -> Plugins {
        let repository = PluginRepository { store };
        let uploads = Arc::new(Semaphore::new(UPLOADS));
        Plugins { host, repository, max_bytes, max_count, uploads, known: Arc::default(), seen: Arc::default() }
    }

    /// Finds every plugin in the store. None is loaded but those that came without a sidecar; one of these that cannot be
    /// is reported and skipped.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn find_all(&self) -> Result<()> {
        for (entry, size) in self.repository.list().await? {
            if self.find(&entry.name, Some(&entry.version)).is_ok() {
                continue;
            }
            let found = if size > self.max_bytes {
                Err(Error::invalid_input(format!("{size} bytes are more than --max-plugin-bytes allows")))
            } else {
                self.find_in_store(&entry).await
            };
            if let Err(error) = found {
                tracing::error!(plugin = entry.name, version = entry.version, %error, "plugin skipped");
            }
        }
        Ok(())
    }

    /// Takes over what other hosts changed: plugins that came and went. Answers whether any came.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn look_at_store(&self) -> Result<bool> {
        let known =
            |plugins: &Plugins| -> BTreeSet<String> { plugins.list().iter().map(|known| known.reference()).collect() };
        let before = known(self);
        let entries = self.repository.list().await?;
        let there: BTreeSet<String> =
            entries.iter().map(|(entry, _)| format!("{}@{}", entry.name, entry.version)).collect();
        // One that this host is taking in may be known and not in the list yet, so only what was known before goes.
        for gone in before.difference(&there) {
            if let Some((name, version)) = gone.split_once('@') {
                self.forget(name, version);
                tracing::info!(plugin = gone, "plugin removed from the store");
            }
        }
        // One that is broken is looked at once, not every time.
        let seen = std::mem::replace(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner), there.clone());
        if there.difference(&seen).any(|reference| !before.contains(reference)) {
            self.find_all().await?;
        }
        Ok(known(self).difference(&before).next().is_some())
    }

    async fn find_in_store(&self, entry: &PluginEntry) -> Result<()> {
        if let Some(info) = self.repository.info(entry).await? {
            if PluginEntry::of(&info.manifest) != *entry {
                let path = entry.component();
                return Err(Error::invalid_input(format!("the sidecar of {path} is {}'s", info.manifest.reference())));
            }
            self.insert(info, None);
            return Ok(());
        }
        let plugin = self.host.load(self.wasm(entry), Grants::default()).await?;
        if PluginEntry::of(&plugin.manifest) != *entry {
            let path = entry.component();
            return Err(Error::invalid_input(format!("{path} says that it is {}", plugin.reference())));
        }
        let info = PluginInfo::of(&plugin);
        // A store that cannot be written to serves all the same; the sidecar is made anew at the next start.
        if let Err(error) = self.repository.write_info(entry, &info).await {
            tracing::warn!(plugin = plugin.reference(), %error, "the sidecar was not kept");
        }
        self.insert(info, Some(plugin));
        Ok(())
    }

    fn wasm(&self, entry: &PluginEntry) -> Wasm {
        Wasm::Stored { store: self.repository.store.clone(), path: entry.component() }
    }

    /// Loads a plugin that the store holds.
    async fn load(&self, info: &PluginInfo) -> Result<Arc<Plugin>> {
        let entry = PluginEntry::of(&info.manifest);
        let plugin = self.host.load(self.wasm(&entry), info.grants.clone()).await?;
        if info.sha256 != plugin.sha256 {
            return Err(Error::new(
                ErrorCode::Internal,
                format!(
                    "{} has changed since it was uploaded: its sha256 is {}, the sidecar says {}; if the change is meant, \
                     remove plugin_info.json beside it and start again",
                    entry.component(),
                    plugin.sha256,
                    info.sha256
                ),
            ));
        }
        tracing::info!(plugin = plugin.reference(), "plugin loaded");
        Ok(Arc::new(plugin))
    }

    /// Takes an upload in: from then on models can be bound to it.
    ///
    /// # Errors
    /// `InvalidInput` where it is no plugin; `Conflict` where its name and version, or its bytes, are there already.
    pub async fn add(&self, new: NewPlugin) -> Result<Arc<KnownPlugin>> {
        let _place = self.uploads.acquire().await.map_err(Error::internal)?;
        if self.list().len() >= self.max_count {
            let message = format!("there are {} plugins already (--max-plugins); remove one first", self.max_count);
            return Err(Error::new(ErrorCode::TooLarge, message));
        }
        let wasm = Bytes::from(tokio::fs::read(&new.file).await.map_err(Error::internal)?);
        let hashed = wasm.clone();
        let sha256 = tokio::task::spawn_blocking(move || sha256_hex(&hashed)).await.map_err(Error::internal)?;
        if let Some(same) = self.list().iter().find(|known| known.info.sha256 == sha256) {
            let message = format!("this component is plugin {} already", same.reference());
            return Err(Error::new(ErrorCode::Conflict, message));
        }
        let mut plugin = self.host.load(Wasm::Held(wasm.clone()), new.grants).await?;
        let (entry, info) = (PluginEntry::of(&plugin.manifest), PluginInfo::of(&plugin));
        if !self.repository.publish(&entry, &info, wasm).await? {
            let message = format!(
                "there is a plugin {} already, and it is another component; raise the version in its manifest",
                plugin.reference()
            );
            return Err(Error::new(ErrorCode::Conflict, message));
        }
        plugin.wasm = self.wasm(&entry);
        tracing::info!(plugin = plugin.reference(), sha256 = plugin.sha256, "plugin uploaded");
        Ok(self.insert(info, Some(plugin)))
    }

    /// Removes a plugin from the host and the store. That no model is bound to it is for the caller to see to.
    ///
    /// # Errors
    /// There is none of that name and version.
    pub async fn remove(&self, name: &str, version: &str) -> Result<()> {
        let found = self.find(name, Some(version))?;
        self.repository.remove(&PluginEntry::of(&found.info.manifest)).await?;
        self.forget(name, version);
        tracing::info!(plugin = found.reference(), "plugin removed");
        Ok(())
    }

    fn forget(&self, name: &str, version: &str) {
        let mut loaded = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(versions) = loaded.get_mut(name) {
            versions.remove(version);
            if versions.is_empty() {
                loaded.remove(name);
            }
        }
    }

    /// Brings the bundle's plugins into the store: what is new, and what differs from the one of that name and version
    /// there, since a bundle belongs to this build of the host. They are granted the hosts they ask for. Without `keep`,
    /// and where the store is read-only, they are there for this process alone.
    ///
    /// # Errors
    /// The bundle or the store cannot be read or written, or a bundled plugin is not one.
    pub async fn import(&self, folder: &Path, keep: bool) -> Result<()> {
        let mut known = Vec::new();
        for (entry, _) in self.repository.list().await? {
            known.extend(self.repository.info(&entry).await?.map(|info| info.sha256));
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
                self.import_one(wasm, keep).await?;
            }
        }
        Ok(())
    }

    async fn import_one(&self, wasm: Bytes, keep: bool) -> Result<()> {
        let mut plugin = self.host.load(Wasm::Held(wasm.clone()), Grants::default()).await?;
        let hosts = plugin.manifest.hosts.iter().map(|host| host.parse::<HostPattern>());
        let hosts = hosts.collect::<std::result::Result<Vec<_>, _>>().map_err(|error| {
            Error::new(ErrorCode::Internal, format!("bundled plugin {} asks for a host: {error}", plugin.reference()))
        })?;
        plugin.grants = Arc::new(Grants { hosts, ..Grants::default() });
        let (entry, info) = (PluginEntry::of(&plugin.manifest), PluginInfo::of(&plugin));
        let kept = if keep { self.repository.replace(&entry, &info, wasm).await.map(|()| true) } else { Ok(false) };
        match kept {
            Ok(true) => plugin.wasm = self.wasm(&entry),
            Ok(false) => {}
            Err(error) if error.code == ErrorCode::Forbidden => {
                tracing::warn!(plugin = plugin.reference(), %error, "a bundled plugin is not kept in the store");
            }
            Err(error) => return Err(error),
        }
        tracing::info!(plugin = plugin.reference(), sha256 = plugin.sha256, "bundled plugin imported");
        self.insert(info, Some(plugin));
        Ok(())
    }

    fn insert(&self, info: PluginInfo, plugin: Option<Plugin>) -> Arc<KnownPlugin> {
        let Manifest { name, version, .. } = info.manifest.clone();
        let known = Arc::new(KnownPlugin { info, loaded: OnceCell::new_with(plugin.map(Arc::new)) });
        let mut loaded = self.known.write().unwrap_or_else(PoisonError::into_inner);
        loaded.entry(name).or_default().insert(version, Arc::clone(&known));
        known
    }

    /// The plugin of that `name@version`, loaded if it was not yet.
    ///
    /// # Errors
    /// There is none; the message says which there are. Or what the store holds is no plugin any more.
    pub async fn get(&self, reference: &str) -> Result<Arc<Plugin>> {
        let known = self.look_up(reference)?;
        known.loaded.get_or_try_init(|| self.load(&known.info)).await.cloned()
    }

    fn look_up(&self, reference: &str) -> Result<Arc<KnownPlugin>> {
        let (name, version) = reference.split_once('@').ok_or_else(|| self.unknown(reference))?;
        self.find(name, Some(version))
    }

    /// The version asked for, or the newest: versions are compared part by part, as numbers where they are numbers.
    ///
    /// # Errors
    /// There is none; the message says which there are.
    pub fn find(&self, name: &str, version: Option<&str>) -> Result<Arc<KnownPlugin>> {
        let found = {
            let loaded = self.known.read().unwrap_or_else(PoisonError::into_inner);
            let versions = loaded.get(name);
            match version {
                Some(version) => versions.and_then(|versions| versions.get(version).cloned()),
                None => versions.and_then(|versions| {
                    versions.values().max_by_key(|known| version_key(&known.info.manifest.version)).cloned()
                }),
            }
        };
        found.ok_or_else(|| self.unknown(&version.map_or(name.to_owned(), |version| format!("{name}@{version}"))))
    }

    /// All versions, by name and version.
    pub fn list(&self) -> Vec<Arc<KnownPlugin>> {
        let loaded = self.known.read().unwrap_or_else(PoisonError::into_inner);
        loaded.values().flat_map(BTreeMap::values).cloned().collect()
    }

    fn unknown(&self, reference: &str) -> Error {
        let reference: String = reference.chars().take(256).collect();
        let known: Vec<String> = self.list().iter().take(20).map(|known| known.reference()).collect();
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
