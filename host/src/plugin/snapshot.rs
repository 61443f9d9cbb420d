//! Initialised memory as a new component: `init` runs once, and every request starts from a copy of what it left.
//!
//! Source: wasmtime-wizer, "The WebAssembly Pre-Initializer". A component is instrumented so that its memories and globals
//! can be read, and rewritten with what they hold. Tables and the host's resources cannot be kept, so a component that
//! changes the first or holds the second after `init` gets `init` in each instance instead.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use wasmtime::Store;
use wasmtime::component::{Instance, Lift, WasmList};
use wasmtime_wizer::{ComponentInstanceState, Wizer};

use super::guest::Guest;
use super::sandbox::Sandbox;

/// Of a component with its memory inside. Beyond it, copying memory costs more than `init` is likely to.
const SNAPSHOT_BYTES: usize = 64 << 20;

/// The component with functions that read its memories and globals.
///
/// # Errors
/// Why it is not of the kind that can be kept.
pub(super) fn instrument(wasm: &[u8]) -> Result<Vec<u8>, String> {
    without_panic(|| {
        let instrumented = Wizer::new().instrument_component(wasm).map_err(|error| error.root_cause().to_string())?;
        Ok(instrumented.1)
    })
}

/// The component with the memories and globals that an initialised instance of its instrumented form holds.
///
/// # Errors
/// Why they cannot be kept.
pub(super) async fn take(wasm: Bytes, guest: Guest) -> Result<Vec<u8>, String> {
    let (store, instance) = guest.into_parts();
    if !store.data().holds_no_resources() {
        return Err(
            "after init it holds resources of the host, such as the standard streams, and those cannot be copied"
                .to_owned(),
        );
    }
    let runtime = tokio::runtime::Handle::current();
    let span = tracing::Span::current();
    // Reading and rewriting goes through all of the component.
    let work = tokio::task::spawn_blocking(move || {
        span.in_scope(|| without_panic(|| runtime.block_on(rewrite(&wasm, store, instance))))
    });
    work.await.map_err(|error| error.to_string())?
}

async fn rewrite(wasm: &[u8], mut store: Store<Sandbox>, instance: Instance) -> Result<Vec<u8>, String> {
    let wizer = Wizer::new();
    let (context, _) = wizer.instrument_component(wasm).map_err(|error| error.root_cause().to_string())?;
    let mut state = State { store: &mut store, instance, failure: None };
    let snapshot = wizer.snapshot_component(&context, &mut state).await;
    if let Some(error) = state.failure {
        return Err(format!("its memory cannot be read: {}", error.root_cause()));
    }
    let snapshot = snapshot.map_err(|error| error.root_cause().to_string())?;
    if snapshot.len() > SNAPSHOT_BYTES {
        return Err(format!("with its initialised memory it has {} bytes, more than {SNAPSHOT_BYTES}", snapshot.len()));
    }
    Ok(snapshot)
}

/// The rewriter panics on components of a kind that it does not know, and components are anybody's.
fn without_panic<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("the rewriter of components gave up on it".to_owned()))
}

/// An instance whose memory is read.
struct State<'s> {
    store: &'s mut Store<Sandbox>,
    instance: Instance,
    /// The first function that did not answer; what was read is worth nothing then.
    failure: Option<wasmtime::Error>,
}

impl State<'_> {
    async fn read<R: Lift + Send + 'static>(&mut self, interface: &str, function: &str) -> Option<R> {
        match self.try_read(interface, function).await {
            Ok(value) => Some(value),
            Err(error) => {
                self.failure.get_or_insert(error);
                None
            }
        }
    }

    async fn try_read<R: Lift + Send + 'static>(&mut self, interface: &str, function: &str) -> wasmtime::Result<R> {
        let missing = || wasmtime::format_err!("{interface} has no {function}");
        let interface = self.instance.get_export_index(&mut *self.store, None, interface).ok_or_else(missing)?;
        let function =
            self.instance.get_export_index(&mut *self.store, Some(&interface), function).ok_or_else(missing)?;
        let function = self.instance.get_typed_func::<(), (R,)>(&mut *self.store, &function)?;
        Ok(function.call_async(&mut *self.store, ()).await?.0)
    }
}

impl ComponentInstanceState for State<'_> {
    async fn call_func_ret_list_u8(&mut self, interface: &str, function: &str, contents: impl FnOnce(&[u8]) + Send) {
        match self.read::<WasmList<u8>>(interface, function).await {
            Some(memory) => contents(memory.as_le_slice(&*self.store)),
            None => contents(&[]),
        }
    }

    async fn call_func_ret_s32(&mut self, interface: &str, function: &str) -> i32 {
        self.read(interface, function).await.unwrap_or_default()
    }

    async fn call_func_ret_s64(&mut self, interface: &str, function: &str) -> i64 {
        self.read(interface, function).await.unwrap_or_default()
    }

    async fn call_func_ret_f32(&mut self, interface: &str, function: &str) -> u32 {
        self.read::<f32>(interface, function).await.unwrap_or_default().to_bits()
    }

    async fn call_func_ret_f64(&mut self, interface: &str, function: &str) -> u64 {
        self.read::<f64>(interface, function).await.unwrap_or_default().to_bits()
    }
}
