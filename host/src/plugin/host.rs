//! The plugin host: compiles components, checks them against the contract, and counts the instances that run.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

use crate::digest::sha256_hex;
use crate::error::{Error, Result};

use super::bindings::PluginPre;
use super::contract;
use super::egress::Egress;
use super::engine::{self, SPARE_INSTANCES};
use super::fault;
use super::guest::{Guest, as_invalid_input};
use super::limits::{PluginLimits, seconds};
use super::manifest::Manifest;
use super::policy::EgressPolicy;
use super::sandbox::Sandbox;

/// Components compiled at once; a compiler uses every core by itself.
const COMPILERS: usize = 1;
/// Requests that may wait for an instance, for each instance there is.
const WAITING_PER_INSTANCE: usize = 8;

/// Compiles and runs plugins. Cloning shares the engine, its limits and its pool of instances.
#[derive(Clone)]
pub struct PluginHost {
    shared: Arc<Shared>,
    linker: Arc<Linker<Sandbox>>,
    compilers: Arc<Semaphore>,
}

/// What every instance needs of its host.
pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) limits: PluginLimits,
    pub(super) egress: Arc<Egress>,
    /// Places for instances that serve requests.
    instances: Arc<Semaphore>,
    /// Places in the queue for one of those.
    waiting: Semaphore,
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
    component: PluginPre<Sandbox>,
    pub(super) shared: Arc<Shared>,
}

impl PluginHost {
    /// # Errors
    /// The limits do not fit the machine, as when the pool of instances takes more addresses than there are.
    pub fn new(limits: PluginLimits, egress: EgressPolicy) -> Result<PluginHost> {
        let engine = engine::new(&limits).map_err(Error::internal)?;
        let linker = Arc::new(engine::linker(&engine).map_err(Error::internal)?);
        let egress = Arc::new(Egress::new(egress, &limits));
        let instances = limits.instances as usize;
        let shared = Arc::new(Shared {
            engine,
            egress,
            instances: Arc::new(Semaphore::new(instances)),
            waiting: Semaphore::new(instances.saturating_mul(WAITING_PER_INSTANCE)),
            spare: Arc::new(Semaphore::new(SPARE_INSTANCES as usize)),
            limits,
        });
        Ok(PluginHost { shared, linker, compilers: Arc::new(Semaphore::new(COMPILERS)) })
    }

    /// Compiles a component on a blocking thread, checks it against the contract and asks it to describe itself.
    ///
    /// # Errors
    /// `InvalidInput` where this is no component, or not one the host can run, or it does not describe itself well.
    pub async fn load(&self, wasm: Bytes) -> Result<Arc<Plugin>> {
        contract::check_header(&wasm)?;
        let size = wasm.len();
        let (component, sha256) = self.compile(wasm).await?;
        let _permit = self.shared.spare_instance().await?;
        let mut guest = Guest::new(&self.shared, &component, "being uploaded", "").await.map_err(as_invalid_input)?;
        let manifest = guest.describe().await.map_err(as_invalid_input)?;
        Ok(Arc::new(Plugin { manifest, sha256, size, component, shared: Arc::clone(&self.shared) }))
    }

    async fn compile(&self, wasm: Bytes) -> Result<(PluginPre<Sandbox>, String)> {
        let too_slow = || {
            let limit = seconds(self.shared.limits.compile_time);
            Error::invalid_input(format!("compiling the plugin takes longer than {limit}"))
        };
        let compiled = timeout(self.shared.limits.compile_time, async {
            let permit = Arc::clone(&self.compilers).acquire_owned().await.map_err(Error::internal)?;
            let linker = Arc::clone(&self.linker);
            let compile = tokio::task::spawn_blocking(move || {
                // Held until the compiler is done: it cannot be stopped, even when nobody waits for it any more.
                let _permit = permit;
                let component =
                    Component::new(linker.engine(), &wasm).map_err(|error| contract::cannot_compile(&error))?;
                Ok((contract::link(&linker, &component)?, sha256_hex(&wasm)))
            });
            compile.await.map_err(Error::internal)?
        });
        compiled.await.map_err(|_| too_slow())?
    }
}

impl fmt::Debug for PluginHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginHost").field("limits", &self.shared.limits).finish_non_exhaustive()
    }
}

impl Shared {
    /// Waits for a place among the instances that serve requests: not for long, and not in a long queue.
    pub(super) async fn instance(&self) -> Result<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.instances).try_acquire_owned() {
            return Ok(permit);
        }
        let _place = self.waiting.try_acquire().map_err(|_| fault::overloaded(&self.limits))?;
        acquire(&self.instances, &self.limits).await
    }

    /// Waits for a place among the instances that are thrown away.
    pub(super) async fn spare_instance(&self) -> Result<OwnedSemaphorePermit> {
        acquire(&self.spare, &self.limits).await
    }
}

async fn acquire(semaphore: &Arc<Semaphore>, limits: &PluginLimits) -> Result<OwnedSemaphorePermit> {
    match timeout(limits.instance_wait, Arc::clone(semaphore).acquire_owned()).await {
        Ok(permit) => permit.map_err(Error::internal),
        Err(_) => Err(fault::overloaded(limits)),
    }
}

impl Plugin {
    pub(super) async fn instantiate(&self) -> Result<Guest> {
        Guest::new(&self.shared, &self.component, &self.manifest.name, &self.manifest.version).await
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").field("manifest", &self.manifest).field("sha256", &self.sha256).finish_non_exhaustive()
    }
}
