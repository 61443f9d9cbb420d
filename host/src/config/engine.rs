//! Options of the engine: how models run where nothing is set for them.

use std::sync::OnceLock;

use bytesize::ByteSize;
use clap::Args;
use sysinfo::System;

use crate::model::ExecutionProvider;

/// How models run where nothing else is set for them.
#[derive(Debug, Clone, Args)]
pub struct EngineConfig {
    /// Workers of each loaded model version, each with a session and a thread of its own [default: one per core and
    /// --threads, fewer where their copies of the model would take over 1 GiB; one on what is no CPU].
    #[arg(long, env = "NEXUS_INSTANCES", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub instances: Option<u16>,

    /// Threads that one run is spread over; more than there are cores are not started.
    #[arg(long, env = "NEXUS_THREADS", default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: u16,

    /// Rows of requests that wait at the same time which are run together, for models whose answers allow it; 1: none. Past
    /// some dozens a CPU does no more rows a second, and each waits longer.
    #[arg(long, env = "NEXUS_MAX_BATCH_SIZE", default_value_t = 64, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_batch_size: u32,

    /// What models run on: cpu, cuda, cuda:1, tensorrt, openvino:GPU, whatever ONNX Runtime's library offers. What it does
    /// not offer is an error, and never run on the CPU instead.
    #[arg(long, env = "NEXUS_EXECUTION_PROVIDER", default_value_t = ExecutionProvider::default(), value_name = "NAME[:DEVICE]")]
    pub execution_provider: ExecutionProvider,

    /// Memory that loaded versions may take together; past it the least recently used is unloaded, and loaded again when it
    /// is asked for [default: four fifths of what the machine or the container has].
    #[arg(long, env = "NEXUS_MAX_LOADED_BYTES", value_name = "BYTES")]
    pub max_loaded_bytes: Option<ByteSize>,

    /// Runs on zeros before a version takes traffic.
    #[arg(long, env = "NEXUS_WARMUP_RUNS", default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub warmup_runs: u32,

    /// Requests copied to shadow versions that may be in progress at once; past it no more are copied.
    #[arg(long, env = "NEXUS_MAX_SHADOWS", default_value_t = 32, value_name = "N")]
    pub max_shadows: u32,

    /// Requests that may wait for a model version's workers; past it the answer is 503.
    #[arg(long, env = "NEXUS_QUEUE_CAPACITY", default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub queue_capacity: u32,

    /// Size of a model's answer; past it the answer is 413.
    #[arg(long, env = "NEXUS_MAX_OUTPUT_BYTES", default_value = "256MiB", value_name = "BYTES")]
    pub max_output_bytes: ByteSize,
}

impl EngineConfig {
    /// Memory that loaded versions may take together, in bytes.
    pub fn max_loaded_bytes(&self) -> u64 {
        static DEFAULT: OnceLock<u64> = OnceLock::new();
        let default = || *DEFAULT.get_or_init(|| memory_of_machine() / 5 * 4);
        self.max_loaded_bytes.map_or_else(default, |bytes| bytes.as_u64())
    }
}

/// Bytes of memory that this process may use: the machine's, or the container's where that is less.
fn memory_of_machine() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    system.cgroup_limits().map_or(system.total_memory(), |limits| limits.total_memory)
}
