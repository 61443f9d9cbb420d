//! The plugin host: takes components in, and counts the instances that run.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use wasmtime::Engine;

use crate::error::{Error, Result};
use crate::store::Store;

use super::compiled::CompiledCache;
use super::compiler::{Compiler, Linked};
use super::contract;
use super::egress::Egress;
use super::engine::{self, SPARE_INSTANCES};
use super::fault;
use super::grants::Grants;
use super::guest::{Guest, as_invalid_input};
use super::limits::PluginLimits;
use super::manifest::Manifest;
use super::policy::EgressPolicy;
use super::schema::ConfigSchema;

/// Requests that may wait for an instance, for each instance there is.
const WAITING_PER_INSTANCE: usize = 8;

/// Takes plugins in and runs them. Cloning shares the engine, its limits and its pool of instances.
#[derive(Clone)]
pub struct PluginHost {
    shared: Arc<Shared>,
}

/// What every instance needs of its host.
pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) limits: PluginLimits,
    pub(super) egress: Arc<Egress>,
    pub(super) compiler: Compiler,
    /// Places for instances that serve requests.
    instances: Arc<Semaphore>,
    /// Places for instances that are tried out and thrown away.
    spare: Arc<Semaphore>,
}

/// A compiled plugin, checked against the contract.
pub struct Plugin {
    pub manifest: Manifest,
    /// Of the component, in lower-case hexadecimal.
    pub sha256: String,
    /// Of the component, in bytes.
    pub size: usize,
    pub grants: Arc<Grants>,
    /// Why the memory after `init` is not kept; `None` where it can be.
    pub unfit_for_snapshots: Option<String>,
    pub(super) wasm: Wasm,
    pub(super) linked: Linked,
    pub(super) shared: Arc<Shared>,
    schema: Option<ConfigSchema>,
    /// This plugin's places among the instances: fewer than all, so that no plugin takes every one from the others.
    share: Arc<Semaphore>,
    /// Places in the queue for one of those.
    waiting: Semaphore,
}

/// Where a component's bytes are, should they be needed again.
#[derive(Clone)]
pub enum Wasm {
    Held(Bytes),
    Stored { store: Store, path: String },
}

/// A place for an instance that serves requests.
pub(super) struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_this_plugin: OwnedSemaphorePermit,
}

impl PluginHost {
    /// `cache` keeps what was compiled for the next start.
    ///
    /// # Errors
    /// The limits do not fit the machine, as when the pool of instances takes more addresses than there are.
    pub fn new(limits: PluginLimits, egress: EgressPolicy, cache: Option<CompiledCache>) -> Result<PluginHost> {
        let engine = engine::new(&limits).map_err(Error::internal)?;
        let linker = engine::linker(&engine).map_err(Error::internal)?;
        let egress = Arc::new(Egress::new(egress, &limits));
        let instances = limits.instances as usize;
        let shared = Arc::new(Shared {
            engine,
            egress,
            compiler: Compiler::new(linker, cache, limits.compile_time),
            instances: Arc::new(Semaphore::new(instances)),
            spare: Arc::new(Semaphore::new(SPARE_INSTANCES as usize)),
            limits,
        });
        Ok(PluginHost { shared })
    }

    /// Compiles a component, or finds it compiled, checks it against the contract and asks it to describe itself.
    ///
    /// # Errors
    /// `InvalidInput` where this is no component, or not one the host can run, or it does not describe itself well.
    pub async fn load(&self, wasm: Wasm, grants: Grants) -> Result<Plugin> {
        let bytes = wasm.read().await?;
        contract::check_header(&bytes)?;
        contract::check_version(&bytes)?;
        let size = bytes.len();
        let prepared = self.shared.compiler.prepare(bytes).await?;
        let grants = Arc::new(grants);
        let manifest = {
            let _permit = self.shared.spare_instance().await?;
            let nothing = Arc::default();
            let guest = Guest::new(&self.shared, &prepared.linked, &nothing, "being uploaded", "").await;
            guest.map_err(as_invalid_input)?.describe().await.map_err(as_invalid_input)?
        };
        let schema = ConfigSchema::parse(&manifest.config_schema).map_err(|problem| {
            Error::invalid_input(format!("plugin {}@{}: {problem}", manifest.name, manifest.version))
        })?;
        let instances = self.shared.limits.instances as usize;
        let share = instances - instances / 4;
        Ok(Plugin {
            manifest,
            sha256: prepared.sha256,
            size,
            grants,
            unfit_for_snapshots: prepared.unfit_for_snapshots,
            wasm,
            linked: prepared.linked,
            shared: Arc::clone(&self.shared),
            schema,
            share: Arc::new(Semaphore::new(share)),
            waiting: Semaphore::new(share.saturating_mul(WAITING_PER_INSTANCE)),
        })
    }
}

impl fmt::Debug for PluginHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginHost").field("limits", &self.shared.limits).finish_non_exhaustive()
    }
}

impl Wasm {
    /// The component's bytes.
    ///
    /// # Errors
    /// The store does not have it any more.
    pub(super) async fn read(&self) -> Result<Bytes> {
        match self {
            Wasm::Held(bytes) => Ok(bytes.clone()),
            Wasm::Stored { store, path } => {
                let bytes = store.read(path).await.map_err(Error::internal)?;
                bytes.ok_or_else(|| Error::internal(format!("{path} has gone")))
            }
        }
    }
}

impl Shared {
    /// Waits for a place among the instances that are thrown away.
    pub(super) async fn spare_instance(&self) -> Result<OwnedSemaphorePermit> {
        acquire(&self.spare, &self.limits, "to be tried out").await
    }
}

async fn acquire(semaphore: &Arc<Semaphore>, limits: &PluginLimits, plugin: &str) -> Result<OwnedSemaphorePermit> {
    match timeout(limits.instance_wait, Arc::clone(semaphore).acquire_owned()).await {
        Ok(permit) => permit.map_err(Error::internal),
        Err(_) => Err(fault::overloaded(limits, plugin)),
    }
}

impl Plugin {
    /// `name@version`, as pipelines name a plugin.
    pub fn reference(&self) -> String {
        self.manifest.reference()
    }

    pub(super) async fn instantiate(&self, linked: &Linked) -> Result<Guest> {
        Guest::new(&self.shared, linked, &self.grants, &self.manifest.name, &self.manifest.version).await
    }

    /// Waits for a place among the instances that serve requests: not for long, and not in a long queue.
    pub(super) async fn place(&self) -> Result<Place> {
        let Shared { instances, limits, .. } = &*self.shared;
        let of_this_plugin = match Arc::clone(&self.share).try_acquire_owned() {
            Ok(place) => place,
            // Who waits here holds nothing that another plugin could use.
            Err(_) => {
                let _queued = self.waiting.try_acquire().map_err(|_| fault::overloaded(limits, &self.reference()))?;
                acquire(&self.share, limits, &self.reference()).await?
            }
        };
        let of_all = match Arc::clone(instances).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => acquire(instances, limits, &self.reference()).await?,
        };
        Ok(Place { _of_all: of_all, _of_this_plugin: of_this_plugin })
    }

    /// Checks a binding's configuration against the schema. The message has the path of the wrong field.
    pub(super) fn check_config(&self, config: &str) -> Result<()> {
        let config: Value = serde_json::from_str(config)
            .map_err(|error| Error::invalid_input(format!("the plugin's configuration is no JSON: {error}")))?;
        match self.schema.as_ref().map(|schema| schema.check(&config)) {
            Some(Err(faults)) => Err(self.refuses_config(&faults)),
            _ => Ok(()),
        }
    }

    pub(super) fn refuses_config(&self, why: &str) -> Error {
        Error::invalid_input(format!("plugin {} refuses its configuration: {why}", self.reference()))
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").field("manifest", &self.manifest).field("sha256", &self.sha256).finish_non_exhaustive()
    }
}
