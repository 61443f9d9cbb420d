//! THE pipeline, the same for every protocol: resolve, preprocess, infer, postprocess, record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::blocking::off_async_threads;
use crate::cache::CacheKey;
use crate::error::{Error, ErrorCode, Result};
use crate::model::ModelVersion;
use crate::plugin::{Instance, Request, Response, Stage};
use crate::tensor::{Data, Output, Tensor};

/// What a client asks of a model.
#[derive(Debug)]
pub enum Payload {
    /// Tensors for the model's inputs; the pipeline is not asked.
    Tensors(Vec<Tensor>),
    /// What the client sent, for the model's preprocess plugin to read.
    Raw(Request),
}

impl Payload {
    /// Memory the payload takes, in bytes.
    fn byte_size(&self) -> usize {
        match self {
            Payload::Tensors(tensors) => tensors.iter().map(Tensor::byte_size).sum(),
            Payload::Raw(request) => request.body.len(),
        }
    }
}

/// What a model answers.
#[derive(Debug)]
pub enum Answer {
    Outputs(Vec<Output>),
    /// What the postprocess plugin made of the outputs.
    Response(Response),
}

impl Answer {
    /// Memory the answer takes, in bytes.
    pub fn byte_size(&self) -> usize {
        match self {
            Answer::Outputs(outputs) => outputs.iter().map(Output::byte_size).sum(),
            Answer::Response(response) => response.body.len(),
        }
    }
}

/// An answer, and where it came from.
#[derive(Debug)]
pub struct Prediction {
    pub answer: Arc<Answer>,
    /// Whether it was in memory, or another request for the same was under way.
    pub cached: bool,
}

/// Runs a model on a request, or answers from memory if `use_cache` and the same was asked before.
///
/// # Errors
/// Whatever [`Error`] says: bad input, a plugin's failure, a full queue, the time that one prediction may take.
pub async fn predict(app: &App, model: &Arc<ModelVersion>, payload: Payload, use_cache: bool) -> Result<Prediction> {
    let limit = app.config.limits.predict_timeout;
    let work = predict_in_time(app, model, payload, use_cache);
    let result = tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let limit = humantime::format_duration(limit);
        Err(Error::new(
            ErrorCode::DeadlineExceeded,
            format!("the prediction took longer than {limit} (--predict-timeout)"),
        ))
    });
    let status = result.as_ref().map_or_else(|error| error.code.name(), |_| "ok");
    app.metrics.predictions.with_label_values(&[model.id(), model.version(), status]).inc();
    result
}

async fn predict_in_time(
    app: &App,
    model: &Arc<ModelVersion>,
    payload: Payload,
    use_cache: bool,
) -> Result<Prediction> {
    check_payload(model, &payload)?;
    if !use_cache || !app.cache.is_on() {
        let answer = Arc::new(run(app, model, payload).await?);
        return Ok(Prediction { answer, cached: false });
    }
    let (hashed, bytes) = (model.clone(), payload.byte_size());
    let (key, payload) = off_async_threads(bytes, move || (cache_key(&hashed, &payload), payload)).await?;
    let (answer, cached) = app.cache.get_or_compute(key, run(app, model, payload)).await?;
    let counter = if cached { &app.metrics.cache_hits } else { &app.metrics.cache_misses };
    counter.inc();
    Ok(Prediction { answer, cached })
}

/// Refuses what the model cannot take before anything is computed.
fn check_payload(model: &ModelVersion, payload: &Payload) -> Result<()> {
    match payload {
        Payload::Raw(_) if model.preprocess.is_none() => Err(Error::invalid_input(format!(
            "model {} has no preprocess plugin, so it takes `features` or `inputs`: {}",
            model.id(),
            describe_inputs(model)
        ))),
        Payload::Raw(_) => Ok(()),
        Payload::Tensors(tensors) => check_tensors(model, tensors).map_err(Error::invalid_input),
    }
}

/// The model's inputs as a client reads them: `X FP32[·,4]`.
pub fn describe_inputs(model: &ModelVersion) -> String {
    let inputs: Vec<String> = model.inputs.iter().map(|input| format!("{} {}", input.spec.name, input.spec)).collect();
    inputs.join(", ")
}

/// Whether these tensors are what the model declares. The message says what was expected and what came.
fn check_tensors(model: &ModelVersion, tensors: &[Tensor]) -> std::result::Result<(), String> {
    for (position, tensor) in tensors.iter().enumerate() {
        let input = model.inputs.iter().find(|input| input.spec.name == tensor.name);
        let Some(input) = input else {
            return Err(format!(
                "model {} has no input {:?}; its inputs: {}",
                model.id(),
                tensor.name,
                describe_inputs(model)
            ));
        };
        if input.spec.datatype != tensor.datatype || !input.spec.accepts(&tensor.shape) {
            let (id, name) = (model.id(), &tensor.name);
            return Err(format!("model {id}, input {name}: expected {}, got {}", input.spec, tensor.describe()));
        }
        if tensors[..position].iter().any(|earlier| earlier.name == tensor.name) {
            return Err(format!("input {} came twice", tensor.name));
        }
    }
    let missing = model
        .inputs
        .iter()
        .find(|input| !input.optional && tensors.iter().all(|tensor| tensor.name != input.spec.name));
    match missing {
        Some(input) => Err(format!("model {} misses its input {} {}", model.id(), input.spec.name, input.spec)),
        None => Ok(()),
    }
}

async fn run(app: &App, model: &Arc<ModelVersion>, payload: Payload) -> Result<Answer> {
    match payload {
        Payload::Tensors(tensors) => Ok(Answer::Outputs(infer(app, model, tensors).await?)),
        Payload::Raw(request) => run_pipeline(app, model, request).await,
    }
}

async fn run_pipeline(app: &App, model: &Arc<ModelVersion>, request: Request) -> Result<Answer> {
    let preprocess = model.preprocess.as_ref().ok_or_else(|| Error::internal("a raw request without a plugin"))?;
    let mut instance = preprocess.start().await?;
    let plugin = preprocess.plugin().reference();
    // Tensors that do not fit the model are the plugin's failure, and counted as one.
    let fitting = async {
        let tensors = instance.preprocess(request).await?;
        let misfit = |problem| Error::new(ErrorCode::PluginFailed, format!("plugin {plugin}, preprocess: {problem}"));
        check_tensors(model, &tensors).map_err(misfit)?;
        Ok(tensors)
    };
    let tensors = timed(app, &plugin, Stage::Preprocess, fitting).await?;
    let outputs = infer(app, model, tensors).await?;
    let Some(postprocess) = &model.postprocess else {
        return Ok(Answer::Outputs(outputs));
    };
    if !Arc::ptr_eq(preprocess, postprocess) {
        drop(instance);
        instance = postprocess.start().await?;
    }
    let plugin = postprocess.plugin().reference();
    let response = finish(app, &plugin, &mut instance, outputs).await?;
    Ok(Answer::Response(response))
}

async fn finish(app: &App, plugin: &str, instance: &mut Instance, outputs: Vec<Output>) -> Result<Response> {
    let tensors = outputs.into_iter().map(|output| match output {
        Output::Tensor(tensor) => Ok(tensor),
        Output::Maps { name, .. } => Err(Error::new(
            ErrorCode::PluginFailed,
            format!("output {name} is a sequence of maps, which plugin {plugin} cannot be given; export the model without ZipMap"),
        )),
    });
    let tensors = tensors.collect::<Result<Vec<Tensor>>>()?;
    timed(app, plugin, Stage::Postprocess, instance.postprocess(tensors)).await
}

/// Records how long a plugin's stage took, and whether it failed by its own fault.
async fn timed<T>(app: &App, plugin: &str, stage: Stage, work: impl Future<Output = Result<T>>) -> Result<T> {
    let started = Instant::now();
    let result = work.await;
    let labels = [plugin, stage.name()];
    app.metrics.plugin_duration.with_label_values(&labels).observe(seconds(started.elapsed()));
    if let Err(error) = &result
        && error.code == ErrorCode::PluginFailed
    {
        app.metrics.plugin_failures.with_label_values(&labels).inc();
    }
    result
}

async fn infer(app: &App, model: &ModelVersion, tensors: Vec<Tensor>) -> Result<Vec<Output>> {
    let inference = model.workers.infer(tensors).await?;
    let labels = [model.id(), model.version()];
    app.metrics.inference_duration.with_label_values(&labels).observe(seconds(inference.ran));
    app.metrics.queue_duration.with_label_values(&labels).observe(seconds(inference.queued));
    Ok(inference.outputs)
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
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
            for tensor in tensors {
                part(tensor.name.as_bytes());
                tensor.shape.iter().for_each(|size| part(&(*size as u64).to_le_bytes()));
                part(b"data");
                match &tensor.data {
                    Data::Raw(bytes) => part(bytes),
                    Data::Strings(strings) => strings.iter().for_each(|string: &Bytes| part(string)),
                }
            }
        }
    }
    CacheKey(hasher.finalize().into())
}
