//! The WebAssembly engine: its configuration, its pool of instances, its clock, and what a component may import.

use std::thread;
use std::time::Duration;

use wasmtime::component::{Linker, WasmStr};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, StoreContextMut};

use super::limits::PluginLimits;
use super::sandbox::Sandbox;

/// How often running WebAssembly is interrupted, to count its time and to let other tasks run.
pub(super) const TICK: Duration = Duration::from_millis(2);
/// Instances beside those that serve requests: they answer `describe` and try out a configuration.
pub(super) const SPARE_INSTANCES: u32 = 4;

// What one component may hold. A Rust plugin has 3 core instances, 1 memory and 2 tables; Python's has some 40
// modules around one memory.
pub(super) const CORE_INSTANCES: usize = 100;
pub(super) const MEMORIES: usize = 2;
pub(super) const TABLES: usize = 20;
/// Function references in one table.
pub(super) const TABLE_ELEMENTS: usize = 100_000;

/// The host's own record of one instance, its functions and globals, in bytes.
const INSTANCE_BYTES: usize = 8 << 20;

/// Memory the pool keeps ready over all its instances, in bytes. More of it saves page faults in the next request.
const KEPT_RESIDENT: usize = 1 << 30;
/// Stack left for the host's functions that a plugin calls, in bytes.
const HOST_STACK: usize = 1 << 20;
const WASM_PAGE: usize = 64 << 10;

/// Makes the engine and starts its clock, which stops when the engine is dropped.
pub(super) fn new(limits: &PluginLimits) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(limits.stack_bytes)
        .async_stack_size(limits.stack_bytes.saturating_add(HOST_STACK))
        .memory_init_cow(true)
        // A model's answer does not depend on the processor its plugin ran on.
        .relaxed_simd_deterministic(true)
        .wasm_threads(false)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool(limits)));
    let engine = Engine::new(&config)?;
    let weak = engine.weak();
    thread::Builder::new().name("plugin-clock".to_owned()).spawn(move || {
        while let Some(engine) = weak.upgrade() {
            engine.increment_epoch();
            drop(engine);
            thread::sleep(TICK);
        }
    })?;
    Ok(engine)
}

fn pool(limits: &PluginLimits) -> PoolingAllocationConfig {
    let instances = limits.instances.saturating_add(SPARE_INSTANCES);
    let total = |each: usize| instances.saturating_mul(u32::try_from(each).unwrap_or(u32::MAX));
    let each = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(total(CORE_INSTANCES))
        .total_memories(total(MEMORIES))
        .total_tables(total(TABLES))
        .total_stacks(instances)
        .max_core_instances_per_component(each(CORE_INSTANCES))
        .max_memories_per_component(each(MEMORIES))
        .max_tables_per_component(each(TABLES))
        .max_tables_per_module(4)
        .max_core_instance_size(INSTANCE_BYTES)
        .max_component_instance_size(INSTANCE_BYTES)
        .table_elements(TABLE_ELEMENTS)
        .max_memory_size(limits.memory_bytes.next_multiple_of(WASM_PAGE))
        .linear_memory_keep_resident((KEPT_RESIDENT / instances as usize).clamp(4 << 20, 64 << 20))
        .table_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// Everything a component may import.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Sandbox>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    // Written by hand, and not over the generated trait, to read a line where it lies: a line of 200 MB is not copied.
    linker.instance("nexus:plugin/log@0.1.0")?.func_wrap(
        "emit",
        |store: StoreContextMut<'_, Sandbox>, (level, message): (WasmStr, WasmStr)| {
            let level = level.to_str(&store)?;
            let message = message.to_str(&store)?;
            store.data().log.emit(&level, &message);
            Ok(())
        },
    )?;
    Ok(linker)
}
