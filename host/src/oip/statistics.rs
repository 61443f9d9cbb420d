//! The statistics extension: what loaded versions have done since they were loaded.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::app::App;
use crate::error::Result;
use crate::model::{BatchTimes, ModelVersion, Tally};

#[derive(Debug, Serialize)]
pub struct ModelStatistics {
    pub name: String,
    pub version: String,
    /// Milliseconds since 1970.
    pub last_inference: u64,
    /// Rows.
    pub inference_count: u64,
    /// Runs of the model.
    pub execution_count: u64,
    pub inference_stats: InferStatistics,
    /// What Triton tells of answers that come in parts, of which there are none here.
    pub response_stats: BTreeMap<(), ()>,
    pub batch_stats: Vec<BatchStatistics>,
    pub memory_usage: Vec<MemoryUsage>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Duration {
    pub count: u64,
    pub ns: u64,
}

#[derive(Debug, Serialize)]
pub struct InferStatistics {
    pub success: Duration,
    pub fail: Duration,
    pub queue: Duration,
    pub compute_input: Duration,
    pub compute_infer: Duration,
    pub compute_output: Duration,
    pub cache_hit: Duration,
    pub cache_miss: Duration,
}

/// Runs of one batch size.
#[derive(Debug, Serialize)]
pub struct BatchStatistics {
    pub batch_size: u64,
    pub compute_input: Duration,
    pub compute_infer: Duration,
    pub compute_output: Duration,
}

#[derive(Debug, Serialize)]
pub struct MemoryUsage {
    /// `CPU`, `GPU`, or the provider that chooses between them itself.
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub id: i64,
    pub byte_size: u64,
}

/// Of all loaded versions, of a model's, or of one.
///
/// # Errors
/// No such model or version.
pub fn statistics(app: &App, id: Option<&str>, version: Option<&str>) -> Result<Vec<ModelStatistics>> {
    let known = match (id, version) {
        (None, _) => app.models.registry.list(),
        (Some(id), None) => app.models.registry.versions(id)?,
        (Some(id), Some(version)) => vec![app.models.registry.find(id, Some(version))?],
    };
    Ok(known.iter().filter_map(|known| known.ready()).map(|model| of(model)).collect())
}

fn of(model: &ModelVersion) -> ModelStatistics {
    let statistics = &model.workers.statistics;
    ModelStatistics {
        name: model.id().to_owned(),
        version: model.version().to_owned(),
        last_inference: statistics.last_inference_ms(),
        inference_count: statistics.inferences(),
        execution_count: statistics.executions(),
        inference_stats: InferStatistics {
            success: Duration::from(&statistics.success),
            fail: Duration::from(&statistics.fail),
            queue: Duration::from(&statistics.queue),
            compute_input: Duration::from(&statistics.compute_input),
            compute_infer: Duration::from(&statistics.compute_infer),
            compute_output: Duration::from(&statistics.compute_output),
            cache_hit: Duration::from(&statistics.cache_hit),
            cache_miss: Duration::from(&statistics.cache_miss),
        },
        response_stats: BTreeMap::new(),
        batch_stats: statistics.batches().into_iter().map(BatchStatistics::from).collect(),
        memory_usage: vec![memory_usage(model)],
    }
}

/// Of the device that the version runs on. What is loaded takes what it took when it was, whatever was set since.
fn memory_usage(model: &ModelVersion) -> MemoryUsage {
    let (engine, provider) = (&model.engine, model.engine.session.runs_on());
    let kind = match (provider.gpu(), provider.is_cpu()) {
        (Some(_), _) => "GPU",
        (None, Some(_)) => "CPU",
        (None, None) => provider.kind.name(),
    };
    MemoryUsage { kind, id: provider.gpu().unwrap_or(0).into(), byte_size: engine.memory_of(&model.info) }
}

impl From<&Tally> for Duration {
    fn from(tally: &Tally) -> Duration {
        Duration { count: tally.count(), ns: tally.nanoseconds() }
    }
}

impl From<(u64, BatchTimes)> for BatchStatistics {
    fn from((batch_size, times): (u64, BatchTimes)) -> BatchStatistics {
        let of_runs = |ns: u64| Duration { count: times.runs, ns };
        BatchStatistics {
            batch_size,
            compute_input: of_runs(times.compute_input),
            compute_infer: of_runs(times.compute_infer),
            compute_output: of_runs(times.compute_output),
        }
    }
}
