//! Every metric, in one struct. Names are kept from the services this project replaces; new ones are `nexus_*`.

use std::collections::HashMap;

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Buckets from 100 µs, where a small model answers, to 30 s, where a request is given up.
const SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The host's metrics. `endpoint` is a route pattern, never a raw path, so label sets stay bounded.
pub struct Metrics {
    registry: Registry,
    /// Requests answered, by endpoint, method and status.
    pub http_requests: IntCounterVec,
    /// Seconds from a request's head to its answer's, by endpoint and method.
    pub http_request_duration: HistogramVec,
    /// Predictions, by model, version and status (`ok` or an error code).
    pub predictions: IntCounterVec,
    /// Seconds in ONNX Runtime, by model and version.
    pub inference_duration: HistogramVec,
    /// Seconds a prediction waited for a worker, by model and version.
    pub queue_duration: HistogramVec,
    /// Rows of the run that a prediction was in, by model and version.
    pub batch_rows: HistogramVec,
    /// Predictions that wait for a worker, by model and version.
    pub queue_length: IntGaugeVec,
    /// Workers that run something, by model and version.
    pub workers_busy: IntGaugeVec,
    /// Seconds in a plugin, by plugin and stage.
    pub plugin_duration: HistogramVec,
    /// Stages that ended in an error of the plugin's own, by plugin and stage.
    pub plugin_failures: IntCounterVec,
    /// Seconds that a plugin spent on what it fetched, by plugin and stage.
    pub plugin_fetch_duration: HistogramVec,
    /// The most linear memory of an instance, in bytes, by plugin.
    pub plugin_memory: HistogramVec,
    /// Bytes of requests, tensors and answers, by plugin, stage and direction (`in`, `out`).
    pub plugin_bytes: IntCounterVec,
    /// Requests that went around a stage that failed, by model, version and stage.
    pub plugin_bypasses: IntCounterVec,
    /// 1 while the circuit of a plugin that trapped again and again is open, by model, version, stage and plugin.
    pub circuit_open: IntGaugeVec,
    /// Model versions that serve.
    pub models_loaded: IntGauge,
    /// Loads of a version, by model, version and outcome (`ok`, `error`).
    pub model_loads: IntCounterVec,
    /// Versions unloaded, by model, version and reason.
    pub model_unloads: IntCounterVec,
    /// Memory of a loaded version in bytes, by model and version.
    pub model_memory: IntGaugeVec,
    /// 1 for a loaded version, by model, version and what it runs on: provider and device.
    pub model_info: IntGaugeVec,
    /// Copies of requests that a shadow version answered, by model, version and outcome (`ok`, an error code, `dropped`).
    pub shadow_predictions: IntCounterVec,
    /// Answers of a shadow version, by model, version and whether they were the `same` as the real one or `different`.
    pub shadow_answers: IntCounterVec,
    /// Seconds that a shadow version took, by model and version.
    pub shadow_duration: HistogramVec,
    /// 1 while the store can be read.
    pub store_up: IntGauge,
    /// Predictions answered from memory, by model and version.
    pub cache_hits: IntCounterVec,
    /// Predictions that were not in memory, by model and version.
    pub cache_misses: IntCounterVec,
}

impl Metrics {
    /// All metrics, registered.
    ///
    /// # Errors
    /// Two metrics of one name, which a test would see.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let seconds = |name: &str, help: &str, labels: &[&str]| -> Result<HistogramVec, prometheus::Error> {
            let histogram = HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), labels)?;
            registry.register(Box::new(histogram.clone()))?;
            Ok(histogram)
        };
        let memory = HistogramOpts::new("nexus_plugin_memory_bytes", "Most linear memory of an instance")
            .buckets((20..=32).map(|power| 2f64.powi(power)).collect());
        let plugin_memory = HistogramVec::new(memory, &["plugin"])?;
        registry.register(Box::new(plugin_memory.clone()))?;
        let gauge = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, prometheus::Error> {
            let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let rows = HistogramOpts::new("nexus_batch_rows", "Rows of the run that a prediction was in")
            .buckets((0..=10).map(|power| 2f64.powi(power)).collect());
        let batch_rows = HistogramVec::new(rows, &["model", "version"])?;
        registry.register(Box::new(batch_rows.clone()))?;
        let store_up = IntGauge::new("nexus_store_up", "1 while the store can be read")?;
        registry.register(Box::new(store_up.clone()))?;
        store_up.set(1);
        let models_loaded = IntGauge::new("models_loaded", "Model versions that serve")?;
        registry.register(Box::new(models_loaded.clone()))?;
        Ok(Metrics {
            http_requests: counter("http_requests_total", "Requests answered", &["endpoint", "method", "status"])?,
            http_request_duration: seconds(
                "http_request_duration_seconds",
                "Time from a request's head to its answer's",
                &["endpoint", "method"],
            )?,
            predictions: counter(
                "model_predictions_total",
                "Predictions, by outcome: ok or an error code",
                &["model", "version", "status"],
            )?,
            inference_duration: seconds(
                "model_inference_duration_seconds",
                "Time in ONNX Runtime",
                &["model", "version"],
            )?,
            queue_duration: seconds(
                "nexus_queue_duration_seconds",
                "Time a prediction waited for a worker",
                &["model", "version"],
            )?,
            batch_rows,
            queue_length: gauge("nexus_queue_length", "Predictions that wait for a worker", &["model", "version"])?,
            workers_busy: gauge("nexus_workers_busy", "Workers that run something", &["model", "version"])?,
            plugin_duration: seconds("nexus_plugin_duration_seconds", "Time in a plugin", &["plugin", "stage"])?,
            plugin_failures: counter(
                "nexus_plugin_failures_total",
                "Plugin stages that ended in an error of the plugin's own",
                &["plugin", "stage"],
            )?,
            plugin_fetch_duration: seconds(
                "nexus_plugin_fetch_duration_seconds",
                "Time a plugin spent on what it fetched",
                &["plugin", "stage"],
            )?,
            plugin_memory,
            plugin_bytes: counter(
                "nexus_plugin_bytes_total",
                "Bytes of requests, tensors and answers that crossed a plugin's border",
                &["plugin", "stage", "direction"],
            )?,
            plugin_bypasses: counter(
                "nexus_plugin_bypasses_total",
                "Requests that went around a stage that failed",
                &["model", "version", "stage"],
            )?,
            circuit_open: gauge(
                "nexus_plugin_circuit_open",
                "1 while a plugin that trapped again and again is left alone",
                &["model", "version", "stage", "plugin"],
            )?,
            models_loaded,
            model_loads: counter("nexus_model_loads_total", "Loads of a version", &["model", "version", "outcome"])?,
            model_unloads: counter("nexus_model_unloads_total", "Versions unloaded", &["model", "version", "reason"])?,
            model_memory: gauge("nexus_model_memory_bytes", "Memory of a loaded version", &["model", "version"])?,
            model_info: gauge(
                "nexus_model_info",
                "1 for a loaded version, by what it runs on",
                &["model", "version", "provider", "device"],
            )?,
            shadow_predictions: counter(
                "nexus_shadow_predictions_total",
                "Copies of requests that a shadow version answered, by outcome: ok, an error code or dropped",
                &["model", "version", "outcome"],
            )?,
            shadow_answers: counter(
                "nexus_shadow_answers_total",
                "Answers of a shadow version: same as the real one, or different",
                &["model", "version", "answer"],
            )?,
            shadow_duration: seconds(
                "nexus_shadow_duration_seconds",
                "Time that a shadow version took",
                &["model", "version"],
            )?,
            store_up,
            cache_hits: counter("nexus_cache_hits_total", "Predictions answered from memory", &["model", "version"])?,
            cache_misses: counter(
                "nexus_cache_misses_total",
                "Predictions that were not in memory",
                &["model", "version"],
            )?,
            registry,
        })
    }

    /// Lets go of what was counted of a plugin that is no more, so that label sets do not grow with every upload.
    pub fn forget_plugin(&self, plugin: &str) {
        for stage in ["preprocess", "postprocess"] {
            // One that was never called has no series, and that is no failure.
            self.plugin_duration.remove_label_values(&[plugin, stage]).ok();
            self.plugin_fetch_duration.remove_label_values(&[plugin, stage]).ok();
            self.plugin_failures.remove_label_values(&[plugin, stage]).ok();
            for direction in ["in", "out"] {
                self.plugin_bytes.remove_label_values(&[plugin, stage, direction]).ok();
            }
        }
        self.plugin_memory.remove_label_values(&[plugin]).ok();
    }

    /// Lets go of what was counted of a version that is no more.
    pub fn forget_version(&self, model: &str, version: &str) {
        for counter in [
            &self.predictions,
            &self.plugin_bypasses,
            &self.model_loads,
            &self.model_unloads,
            &self.shadow_predictions,
            &self.shadow_answers,
            &self.cache_hits,
            &self.cache_misses,
        ] {
            remove_version(counter, model, version);
        }
        for histogram in [&self.inference_duration, &self.queue_duration, &self.batch_rows, &self.shadow_duration] {
            remove_version(histogram, model, version);
        }
    }

    /// All metrics in Prometheus' text format.
    ///
    /// # Errors
    /// A metric that cannot be written, which would be the library's fault.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// The text format's media type.
    pub fn content_type() -> &'static str {
        prometheus::TEXT_FORMAT
    }
}

/// Removes the series of a version, whatever their other labels.
fn remove_version<B: MetricVecBuilder>(metric: &MetricVec<B>, model: &str, version: &str) {
    for series in metric.collect().iter().flat_map(|family| family.get_metric()) {
        let labels: HashMap<&str, &str> =
            series.get_label().iter().map(|label| (label.name(), label.value())).collect();
        if labels.get("model") == Some(&model) && labels.get("version") == Some(&version) {
            // It was there a line ago; another removal may have been first.
            metric.remove(&labels).ok();
        }
    }
}
