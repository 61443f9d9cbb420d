//! THE way of a prediction, the same for every protocol: checked, answered from memory or by the model, recorded.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::blocking::off_async_threads;
use crate::cache::CacheKey;
use crate::error::{Error, ErrorCode, Result};
use crate::model::{Entry, InferenceTimes, ModelVersion, OnFailure};
use crate::pipeline::{self, Answer, Payload, Trace, check_inputs, describe_inputs};
use crate::plugin::Stage;
use crate::shadow;
use crate::tensor::{Data, Tensor};
use crate::terms::Terms;
use crate::value::Value;

/// An answer, and where it came from.
#[derive(Debug)]
pub struct Prediction {
    pub answer: Arc<Answer>,
    /// Whether it was in memory, or another request for the same was under way.
    pub cached: bool,
}

/// Where a request goes.
pub struct Target {
    pub model: Arc<ModelVersion>,
    /// A version that gets a copy.
    pub shadow: Option<Entry>,
}

impl Target {
    /// One that names its version is not copied to a shadow.
    pub fn of(app: &App, model: Arc<ModelVersion>, version: Option<&str>) -> Target {
        let shadow = if version.is_none() { app.models.registry.shadow(model.id()) } else { None };
        Target { model, shadow }
    }
}

/// Runs a model on a request, or answers from memory if the terms allow it and the same was asked before. `trace` says what
/// happened on the way, in an error too.
///
/// # Errors
/// Whatever [`Error`] says: bad input, a plugin's failure, a full queue, the time that one prediction may take.
pub async fn predict(
    app: &Arc<App>,
    target: &Target,
    payload: Payload,
    terms: &Terms,
    trace: &mut Trace,
) -> Result<Prediction> {
    let started = Instant::now();
    let model = &target.model;
    let copy = target.shadow.as_ref().map(|shadow| (shadow.clone(), payload.clone()));
    let in_time = match terms.is_over() {
        // A timer would say so no sooner than at its next tick.
        true => None,
        false => {
            let work = predict_in_time(app, model, payload, terms, trace);
            tokio::time::timeout_at(terms.deadline.into(), work).await.ok()
        }
    };
    let result = in_time.unwrap_or_else(|| {
        let limit = humantime::format_duration(app.config.limits.predict_timeout);
        Err(Error::new(
            ErrorCode::DeadlineExceeded,
            format!("the prediction took longer than the request allows, or than {limit} (--predict-timeout)"),
        ))
    });
    let statistics = &model.workers.statistics;
    match &result {
        Ok(_) => statistics.succeeded(started.elapsed()),
        Err(_) => statistics.fail.add(started.elapsed()),
    }
    let status = result.as_ref().map_or_else(|error| error.code.name(), |_| "ok");
    app.metrics.predictions.with_label_values(&[model.id(), model.version(), status]).inc();
    record(app, model, trace);
    // Only now, so that the copy takes nothing from the request itself.
    if let Some((shadow, payload)) = copy {
        shadow::send(app, shadow, payload, result.as_ref().ok().map(|prediction| Arc::clone(&prediction.answer)));
    }
    result
}

async fn predict_in_time(
    app: &App,
    model: &Arc<ModelVersion>,
    payload: Payload,
    terms: &Terms,
    trace: &mut Trace,
) -> Result<Prediction> {
    let started = Instant::now();
    check_payload(model, &payload)?;
    // What went around a plugin is no answer to keep.
    let may_bypass = model.pipeline.stages().any(|(_, stage)| stage.on_failure == OnFailure::Bypass);
    if !terms.use_cache || !app.cache.is_on() || !model.engine.cache || may_bypass {
        let answer = Arc::new(pipeline::run(model, payload, terms, trace).await?);
        return Ok(Prediction { answer, cached: false });
    }
    let (hashed, bytes) = (model.clone(), payload.byte_size());
    let (key, payload) = off_async_threads(bytes, move || (cache_key(&hashed, &payload), payload)).await?;
    let work = Box::pin(pipeline::run(model, payload, terms, trace));
    let (answer, cached) = app.cache.get_or_compute(key, work).await?;
    let statistics = &model.workers.statistics;
    let (counter, tally) = match cached {
        true => (&app.metrics.cache_hits, &statistics.cache_hit),
        false => (&app.metrics.cache_misses, &statistics.cache_miss),
    };
    counter.with_label_values(&[model.id(), model.version()]).inc();
    tally.add(started.elapsed());
    Ok(Prediction { answer, cached })
}

/// Refuses what the model cannot take before anything is computed.
///
/// # Errors
/// What it cannot take, and what it does.
pub fn check_payload(model: &ModelVersion, payload: &Payload) -> Result<()> {
    match payload {
        Payload::Raw(_) if model.pipeline.preprocess.is_none() => Err(Error::invalid_input(format!(
            "model {} has no preprocess plugin, so it takes `features` or `inputs`: {}",
            model.id(),
            describe_inputs(model)
        ))),
        Payload::Raw(_) => Ok(()),
        Payload::Tensors(tensors) => check_inputs(model, tensors).map_err(Error::invalid_input),
    }
}

/// Counts and times what happened.
pub fn record(app: &App, model: &ModelVersion, trace: &Trace) {
    let metrics = &app.metrics;
    if let Some(InferenceTimes { queued, ran, batch_rows }) = trace.inference {
        let labels = [model.id(), model.version()];
        metrics.inference_duration.with_label_values(&labels).observe(ran.as_secs_f64());
        metrics.queue_duration.with_label_values(&labels).observe(queued.as_secs_f64());
        metrics.batch_rows.with_label_values(&labels).observe(batch_rows as f64);
    }
    for (stage, trace) in [(Stage::Preprocess, &trace.preprocess), (Stage::Postprocess, &trace.postprocess)] {
        let Some(trace) = trace else { continue };
        let labels = [trace.plugin.as_str(), stage.name()];
        metrics.plugin_duration.with_label_values(&labels).observe(trace.took.as_secs_f64());
        if !trace.fetching.is_zero() {
            metrics.plugin_fetch_duration.with_label_values(&labels).observe(trace.fetching.as_secs_f64());
        }
        metrics.plugin_memory.with_label_values(&labels[..1]).observe(trace.peak_memory as f64);
        let bytes = |direction| metrics.plugin_bytes.with_label_values(&[labels[0], labels[1], direction]);
        bytes("in").inc_by(trace.crossed.into_plugin as u64);
        bytes("out").inc_by(trace.crossed.out_of_plugin as u64);
        if trace.failed {
            metrics.plugin_failures.with_label_values(&labels).inc();
        }
    }
    for stage in &trace.bypassed {
        metrics.plugin_bypasses.with_label_values(&[model.id(), model.version(), stage.name()]).inc();
    }
}

/// Everything the answer depends on: the loaded version, its plugins and labels included, and the request.
fn cache_key(model: &ModelVersion, payload: &Payload) -> CacheKey {
    let mut hasher = Sha256::new();
    // Every part is preceded by its length, so that no two requests run together into the same bytes.
    let mut part = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(&model.serial.to_le_bytes());
    match payload {
        Payload::Raw(request) => {
            part(b"raw");
            part(request.content_type.as_bytes());
            part(&request.body);
            for (name, value) in &request.parameters {
                part(name.as_bytes());
                part(value.as_bytes());
            }
        }
        Payload::Tensors(tensors) => {
            part(b"tensors");
            tensors.iter().for_each(|value| hash_value(value, &mut part));
        }
    }
    CacheKey(hasher.finalize().into())
}

fn hash_value(value: &Value, part: &mut impl FnMut(&[u8])) {
    part(value.name().as_bytes());
    match value {
        Value::Tensor(tensor) => hash_tensor(tensor, part),
        Value::Sequence { items, .. } => {
            part(b"sequence");
            part(&(items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| hash_value(item, part));
        }
        Value::Map(map) => {
            part(b"map");
            hash_tensor(&map.keys, part);
            hash_tensor(&map.values, part);
        }
        Value::None { .. } => part(b"none"),
    }
}

fn hash_tensor(tensor: &Tensor, part: &mut impl FnMut(&[u8])) {
    part(tensor.datatype.name().as_bytes());
    tensor.shape.iter().for_each(|size| part(&(*size as u64).to_le_bytes()));
    part(b"data");
    match &tensor.data {
        Data::Raw(bytes) => part(bytes),
        Data::Strings(strings) => strings.iter().for_each(|string: &Bytes| part(string)),
    }
}
