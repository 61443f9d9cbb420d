//! The store of one instance: every limit is set here, in one constructor, and what was hit is remembered here.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::random::Deterministic;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::egress::{Egress, EgressHooks};
use super::engine::{self, TICK};
use super::grants::Grants;
use super::limits::PluginLimits;
use super::log::{PluginLog, Standard};

/// Room beside a stage's output for the names, shapes and records around the data, in bytes.
const OUTPUT_OVERHEAD: usize = 1 << 20;
/// Streams, requests and other things of the host that one instance may hold at once.
pub(super) const HANDLES: usize = 1_000;
/// Random bytes one call may ask for.
const RANDOM_BYTES: u64 = 1 << 20;
/// HTTP headers of one message, in bytes.
const HEADER_BYTES: usize = 128 << 10;

/// The state behind one instance's host functions.
pub(super) struct Sandbox {
    pub(super) log: PluginLog,
    pub(super) memory: MemoryMeter,
    pub(super) egress: EgressHooks,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
}

/// Counts linear memory and refuses growth past the limit.
pub(super) struct MemoryMeter {
    limit: usize,
    used: usize,
    pub(super) peak: usize,
    /// A growth was refused: what fails after it, fails for that.
    pub(super) refused: bool,
}

/// Ends an instance that used up its processor time.
#[derive(Debug, thiserror::Error)]
#[error("the plugin used up its processor time")]
pub(super) struct CpuTimeSpent;

impl Sandbox {
    /// A store for one instance: its log, and what it is granted.
    pub(super) fn store(
        engine: &wasmtime::Engine,
        limits: &PluginLimits,
        egress: &Arc<Egress>,
        grants: &Arc<Grants>,
        log: PluginLog,
    ) -> Store<Sandbox> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(HEADER_BYTES);
        let sandbox = Sandbox {
            memory: MemoryMeter { limit: limits.memory_bytes, used: 0, peak: 0, refused: false },
            egress: EgressHooks::new(Arc::clone(egress), Arc::clone(grants), limits),
            wasi: wasi(&log, grants),
            log,
            http,
            table,
        };
        let mut store = Store::new(engine, sandbox);
        store.limiter(|sandbox| &mut sandbox.memory);
        store.set_max_component_handles(HANDLES);
        store.set_hostcall_fuel(limits.output_bytes.saturating_add(OUTPUT_OVERHEAD));
        store.set_epoch_deadline(1);
        let mut ticks_left = limits.cpu_time.as_millis() / TICK.as_millis();
        store.epoch_deadline_callback(move |_| {
            // Only running WebAssembly comes here, so a tick that passed in a host call or a queue is not counted.
            if ticks_left == 0 {
                return Err(CpuTimeSpent.into());
            }
            ticks_left -= 1;
            // `Yield` would come back at once through tokio's LIFO slot; `yield_now` lets every other task run first.
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
        store
    }

    /// Whether nothing of the host's is open: no stream, no request, no timer.
    pub(super) fn holds_no_resources(&self) -> bool {
        self.table.is_empty()
    }
}

/// What random bytes are drawn from where real ones are not granted. Hash maps of the standard library need some.
const FIXED_RANDOM: [u8; 16] = *b"nexus:plugin 0.1";

/// WASI with no arguments, environment, files, sockets or stdin. What goes to stdout and stderr goes to the log. Without a
/// clock a plugin cannot time anything, though it can sleep, within its stage's time.
fn wasi(log: &PluginLog, grants: &Grants) -> WasiCtx {
    let mut wasi = WasiCtx::builder();
    wasi.stdout(log.stream(Standard::Output))
        .stderr(log.stream(Standard::Error))
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(RANDOM_BYTES);
    if !grants.clock {
        wasi.wall_clock(StoppedClock).monotonic_clock(StoppedClock);
    }
    if !grants.random {
        wasi.secure_random(Deterministic::new(FIXED_RANDOM.to_vec()))
            .insecure_random(Deterministic::new(FIXED_RANDOM.to_vec()))
            .insecure_random_seed(u128::from_le_bytes(FIXED_RANDOM));
    }
    wasi.build()
}

/// A clock that always says 0: 1 January 1970.
struct StoppedClock;

impl HostWallClock for StoppedClock {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

impl HostMonotonicClock for StoppedClock {
    fn resolution(&self) -> u64 {
        1_000_000_000
    }

    fn now(&self) -> u64 {
        0
    }
}

impl ResourceLimiter for MemoryMeter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        if used > self.limit || maximum.is_some_and(|maximum| desired > maximum) {
            self.refused = true;
            return Ok(false);
        }
        self.used = used;
        self.peak = self.peak.max(used);
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= engine::TABLE_ELEMENTS)
    }

    fn instances(&self) -> usize {
        engine::CORE_INSTANCES
    }

    fn tables(&self) -> usize {
        engine::TABLES
    }

    fn memories(&self) -> usize {
        engine::MEMORIES
    }
}

impl WasiView for Sandbox {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Sandbox {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.egress }
    }
}
