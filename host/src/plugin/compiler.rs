//! From bytes to a linked component: on a blocking thread, one at a time, in limited time, and once for each content.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use wasmtime::Engine;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker};

use crate::digest::sha256_hex;
use crate::error::{Error, ErrorCode, Result};

use super::bindings::v0_1::PluginIndices;
use super::compiled::CompiledCache;
use super::contract;
use super::limits::{option, seconds};
use super::sandbox::Sandbox;
use super::snapshot;

/// Components compiled at once; a compiler uses every core by itself.
const COMPILERS: usize = 1;

/// Compiles and links components. Cloning shares the cache and the places.
#[derive(Clone)]
pub(super) struct Compiler {
    linker: Arc<Linker<Sandbox>>,
    cache: Option<CompiledCache>,
    places: Arc<Semaphore>,
    time: Duration,
}

/// A component, compiled and linked: what instances are made from.
#[derive(Clone)]
pub(super) struct Linked {
    pub(super) component: InstancePre<Sandbox>,
    pub(super) exports: PluginIndices,
    /// The function that gives a golden request, where the component has one.
    pub(super) golden: Option<ComponentExportIndex>,
}

/// An uploaded component, compiled.
pub(super) struct Prepared {
    pub(super) linked: Linked,
    /// Of the component as it came, in lower-case hexadecimal.
    pub(super) sha256: String,
    /// Why its initialised memory cannot be kept, where it cannot.
    pub(super) unfit_for_snapshots: Option<String>,
}

impl Compiler {
    pub(super) fn new(linker: Linker<Sandbox>, cache: Option<CompiledCache>, time: Duration) -> Compiler {
        Compiler { linker: Arc::new(linker), cache, places: Arc::new(Semaphore::new(COMPILERS)), time }
    }

    /// Compiles an uploaded component so that its initialised memory can be kept later, or as it is where it is not of
    /// the kind.
    pub(super) async fn prepare(&self, wasm: Bytes) -> Result<Prepared> {
        self.run(move |compiler| {
            let sha256 = sha256_hex(&wasm);
            let instrumented_key = format!("{sha256}.instrumented");
            if let Some(linked) = compiler.kept(&instrumented_key) {
                return Ok(Prepared { linked, sha256, unfit_for_snapshots: None });
            }
            let unfit = match snapshot::instrument(&wasm) {
                Ok(instrumented) => match compiler.compile(&instrumented_key, &instrumented) {
                    Ok(linked) => return Ok(Prepared { linked, sha256, unfit_for_snapshots: None }),
                    Err(error) => error.message,
                },
                Err(reason) => reason,
            };
            let key = format!("{sha256}.plain");
            let linked = compiler.kept(&key).map_or_else(|| compiler.compile(&key, &wasm), Ok)?;
            Ok(Prepared { linked, sha256, unfit_for_snapshots: Some(unfit) })
        })
        .await
    }

    /// The component kept under a key, if it was compiled before.
    pub(super) async fn find(&self, key: String) -> Result<Option<Linked>> {
        match self.cache {
            Some(_) => {
                let compiler = self.clone();
                tokio::task::spawn_blocking(move || compiler.kept(&key)).await.map_err(Error::internal)
            }
            None => Ok(None),
        }
    }

    /// Compiles a component that this host made, and keeps it under a key.
    pub(super) async fn add(&self, key: String, wasm: Vec<u8>) -> Result<Linked> {
        self.run(move |compiler| compiler.compile(&key, &wasm)).await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Compiler) -> Result<T> + Send + 'static) -> Result<T> {
        // Another plugin's compilation is not this one's time.
        let permit = timeout(self.time, Arc::clone(&self.places).acquire_owned())
            .await
            .map_err(|_| Error::new(ErrorCode::Overloaded, "other plugins are being compiled; try again"))?;
        let permit = permit.map_err(Error::internal)?;
        let compiler = self.clone();
        let span = tracing::Span::current();
        let work = async {
            let work = tokio::task::spawn_blocking(move || {
                // Held until the compiler is done: it cannot be stopped, even when nobody waits for it any more.
                let _permit = permit;
                span.in_scope(|| work(&compiler))
            });
            work.await.map_err(Error::internal)?
        };
        timeout(self.time, work).await.map_err(|_| {
            let option = option("plugin-compile-time");
            Error::invalid_input(format!(
                "compiling the plugin takes longer than {}, the limit set by {option}",
                seconds(self.time)
            ))
        })?
    }

    fn kept(&self, key: &str) -> Option<Linked> {
        let component = self.cache.as_ref()?.get(self.engine(), key)?;
        match self.link(&component) {
            Ok(linked) => Some(linked),
            Err(error) => {
                tracing::warn!(key, %error, "a compiled plugin does not link any more");
                None
            }
        }
    }

    fn compile(&self, key: &str, wasm: &[u8]) -> Result<Linked> {
        let started = Instant::now();
        let component = Component::new(self.engine(), wasm).map_err(|error| contract::cannot_compile(&error))?;
        let milliseconds = started.elapsed().as_millis() as u64;
        tracing::info!(key, bytes = wasm.len(), milliseconds, "component compiled");
        let linked = self.link(&component)?;
        if let Some(cache) = &self.cache {
            cache.put(self.engine(), key, &component);
        }
        Ok(linked)
    }

    fn link(&self, component: &Component) -> Result<Linked> {
        let exports = contract::check(self.engine(), component)?;
        let mismatch =
            |error: wasmtime::Error| Error::invalid_input(format!("the component does not fit this host: {error:#}"));
        let golden = exports.iter().find(|name| name.starts_with("nexus:plugin/golden@")).and_then(|name| {
            let interface = component.get_export_index(None, name.as_str())?;
            component.get_export_index(Some(&interface), "example")
        });
        let component = self.linker.instantiate_pre(component).map_err(mismatch)?;
        let exports = PluginIndices::new(&component).map_err(mismatch)?;
        Ok(Linked { component, exports, golden })
    }

    fn engine(&self) -> &Engine {
        self.linker.engine()
    }
}
