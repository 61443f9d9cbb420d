//! How a version is run: what is set for it or its model, and where nothing is, the host's options.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::provider::{ExecutionProvider, ProviderKind};
use super::repository::Sidecar;
use super::runtime::SessionOptions;
use super::worker::WorkerLimits;
use crate::config::{EngineConfig, to_usize};

/// `[engine]` of `model.toml`. What is not set is as the host's options have it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineOptions {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// Workers, each with a session and a thread of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<UpTo<1024>>,
    /// Threads that one run is spread over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<UpTo<1024>>,
    /// Rows that may be run together; 1: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_batch_size: Option<UpTo<65_536>>,
    /// Requests that may wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_capacity: Option<UpTo<1_000_000>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_provider: Option<ExecutionProvider>,
    /// Whether answers may be kept; false for a model that answers the same request in different ways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<bool>,
}

/// Values for instances and threads that go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// As many requests as possible: the host's options.
    Throughput,
    /// One request as fast as possible: one instance, whose runs are spread over all cores.
    Latency,
}

/// A number from 1 to `MOST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct UpTo<const MOST: u64>(u64);

impl<const MOST: u64> TryFrom<u64> for UpTo<MOST> {
    type Error = String;

    fn try_from(number: u64) -> Result<UpTo<MOST>, String> {
        let fits = (1..=MOST).contains(&number);
        fits.then_some(UpTo(number)).ok_or_else(|| format!("expected a number from 1 to {MOST}, {number} came"))
    }
}

impl<const MOST: u64> From<UpTo<MOST>> for u64 {
    fn from(number: UpTo<MOST>) -> u64 {
        number.0
    }
}

impl<const MOST: u64> UpTo<MOST> {
    fn get(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// How a loaded version is run.
#[derive(Debug, Clone)]
pub struct Engine {
    /// What was set where it was loaded.
    pub configured: EngineOptions,
    pub workers: WorkerLimits,
    /// Rows that might run together if the model's answers allowed it.
    pub max_batch_size: usize,
    pub session: SessionOptions,
    /// Whether answers may be kept.
    pub cache: bool,
}

/// Model bytes that the workers of one version may hold together before there are fewer than one a core: each has a copy.
const SHARED_MODEL_BYTES: u64 = 1 << 30;

impl Engine {
    /// What becomes of the options for a version.
    pub fn of(host: &EngineConfig, options: &EngineOptions, info: &Sidecar) -> Engine {
        let own = options.execution_provider.as_ref();
        let provider = own.unwrap_or(&host.execution_provider).clone();
        let is_latency = options.profile == Some(Profile::Latency);
        let threads = match options.threads {
            Some(threads) => threads.get(),
            None if is_latency => cores(),
            None => usize::from(host.threads),
        };
        // More of them than cores wait for one another.
        let threads = threads.min(cores());
        let instances = match (options.instances, host.instances) {
            (Some(instances), _) => instances.get(),
            (None, _) if is_latency => 1,
            (None, Some(instances)) => usize::from(instances),
            (None, None) => default_instances(&provider, threads, info.total_bytes()),
        };
        let max_batch_size = options.max_batch_size.map_or(host.max_batch_size as usize, UpTo::get);
        let may_batch = info.batching.as_ref().is_some_and(|batching| batching.ok);
        let workers = WorkerLimits {
            instances,
            batch_rows: if may_batch { max_batch_size } else { 1 },
            queue_capacity: options.queue_capacity.map_or(host.queue_capacity as usize, UpTo::get),
            output_bytes: to_usize(host.max_output_bytes),
            steady: info.metadata.steady && provider.kind == ProviderKind::Cpu,
        };
        Engine {
            configured: options.clone(),
            workers,
            max_batch_size,
            session: SessionOptions { must_use_provider: own.is_some(), ..SessionOptions::on(provider, threads) },
            cache: options.cache.unwrap_or(true),
        }
    }

    /// That of a model which no host serves.
    pub fn alone(workers: WorkerLimits) -> Engine {
        Engine {
            configured: EngineOptions::default(),
            workers,
            max_batch_size: workers.batch_rows,
            session: SessionOptions::default(),
            cache: false,
        }
    }

    /// Whether the same workers will do.
    pub fn has_workers_of(&self, other: &Engine) -> bool {
        let limits = |engine: &Engine| {
            let WorkerLimits { instances, batch_rows, queue_capacity, output_bytes, steady } = engine.workers;
            (instances, batch_rows, queue_capacity, output_bytes, steady)
        };
        limits(self) == limits(other) && self.session == other.session
    }

    /// Memory that a loaded version takes, in bytes: what a session took when it was admitted, for each worker, and the
    /// files of weights beside the model, which are mapped once for all of them. What was not measured counts by its files.
    pub fn memory_of(&self, info: &Sidecar) -> u64 {
        let mapped = info.total_bytes().saturating_sub(info.size);
        let session = info.session_bytes.unwrap_or(info.size);
        session.saturating_mul(self.workers.instances as u64).saturating_add(mapped)
    }
}

/// On processors as many as keep all cores busy; of another device, which runs one after the other, one.
fn default_instances(provider: &ExecutionProvider, threads: usize, model_bytes: u64) -> usize {
    if provider.kind != ProviderKind::Cpu {
        return 1;
    }
    let most = (cores() / threads.max(1)).max(1);
    let affordable = SHARED_MODEL_BYTES / model_bytes.max(1);
    usize::try_from(affordable).unwrap_or(most).clamp(1, most)
}

fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}
