//! What one request goes through at a model: preprocess, inference, postprocess, and how long each of them took.

use std::fmt::Write;
use std::time::{Duration, Instant};

use serde::de::IgnoredAny;

use crate::blocking::off_async_threads;
use crate::error::{Error, ErrorCode, Result, shorten};
use crate::model::{BoundStage, InferenceTimes, ModelVersion, OnFailure};
use crate::plugin::{Crossed, Instance, Request, Response, Stage};
use crate::tensor::Tensor;
use crate::terms::Terms;
use crate::value::{Value, ValueSpec};

/// What a client asks of a model. Cloning shares the elements.
#[derive(Debug, Clone)]
pub enum Payload {
    /// Values for the model's inputs, such as the tensors that a preprocess plugin would make.
    Tensors(Vec<Value>),
    /// What the client sent, for the model's preprocess plugin to read.
    Raw(Request),
}

impl Payload {
    /// Memory the payload takes, in bytes.
    pub fn byte_size(&self) -> usize {
        match self {
            Payload::Tensors(tensors) => tensors.iter().map(Value::byte_size).sum(),
            Payload::Raw(request) => request.body.len(),
        }
    }
}

/// What a model answers. Cloning shares the elements.
#[derive(Debug, Clone)]
pub enum Answer {
    Outputs(Vec<Value>),
    /// What the postprocess plugin made of the outputs.
    Response(Response),
}

impl Answer {
    /// Memory the answer takes, in bytes.
    pub fn byte_size(&self) -> usize {
        match self {
            Answer::Outputs(outputs) => outputs.iter().map(Value::byte_size).sum(),
            Answer::Response(response) => response.body.len(),
        }
    }
}

/// What happened on the way, filled in as far as the request came.
#[derive(Debug, Default)]
pub struct Trace {
    pub preprocess: Option<StageTrace>,
    pub inference: Option<InferenceTimes>,
    pub postprocess: Option<StageTrace>,
    /// Stages that failed and were gone around.
    pub bypassed: Vec<Stage>,
    /// The tensors that went through the model, where somebody wants to see them.
    pub tensors: Option<Tensors>,
}

/// What went into a model and what came out.
#[derive(Debug, Default)]
pub struct Tensors {
    pub inputs: Vec<Value>,
    pub outputs: Vec<Value>,
}

/// One call into a plugin.
#[derive(Debug, Clone)]
pub struct StageTrace {
    /// `name@version`.
    pub plugin: String,
    /// From asking for an instance to the stage's end, fetching included.
    pub took: Duration,
    /// Time spent on what the plugin fetched.
    pub fetching: Duration,
    pub crossed: Crossed,
    /// The most linear memory that the instance has had, in bytes.
    pub peak_memory: usize,
    /// Ended in an error of the plugin's own.
    pub failed: bool,
}

impl StageTrace {
    /// Time in the plugin itself.
    pub fn computing(&self) -> Duration {
        self.took.saturating_sub(self.fetching)
    }
}

impl Trace {
    /// Time that plugins spent on what they fetched, where they fetched anything.
    pub fn fetching(&self) -> Option<Duration> {
        let stages = [&self.preprocess, &self.postprocess].into_iter().flatten();
        Some(stages.map(|stage| stage.fetching).sum()).filter(|time: &Duration| !time.is_zero())
    }

    /// The `Server-Timing` header: milliseconds of each step that was gone through. What a plugin fetched counts as `fetch`,
    /// and not as its stage.
    ///
    /// Source: W3C Server Timing.
    pub fn server_timing(&self) -> String {
        let steps = [
            ("fetch", self.fetching()),
            ("preprocess", self.preprocess.as_ref().map(StageTrace::computing)),
            ("queue", self.inference.map(|took| took.queued)),
            ("infer", self.inference.map(|took| took.ran)),
            ("postprocess", self.postprocess.as_ref().map(StageTrace::computing)),
        ];
        let mut header = String::with_capacity(64);
        for (name, time) in steps.into_iter().filter_map(|(name, time)| Some((name, time?.as_micros()))) {
            let comma = if header.is_empty() { "" } else { ", " };
            // Writing to a string does not fail.
            write!(header, "{comma}{name};dur={}.{:03}", time / 1000, time % 1000).unwrap_or_default();
        }
        header
    }
}

/// Runs a model on a payload that was checked, with its plugins around it.
///
/// # Errors
/// Whatever [`Error`] says: bad input, a plugin's failure, a full queue.
pub async fn run(model: &ModelVersion, payload: Payload, terms: &Terms, trace: &mut Trace) -> Result<Answer> {
    let request = match payload {
        Payload::Raw(request) => request,
        Payload::Tensors(tensors) => {
            let outputs = infer(model, tensors, terms, trace).await?;
            // Who sends what a preprocess plugin makes, speaks to the model itself.
            return match model.pipeline.preprocess {
                Some(_) => Ok(Answer::Outputs(outputs)),
                None => finish(model, None, outputs, trace).await,
            };
        }
    };
    let stage = &model.pipeline.preprocess;
    let stage = stage.as_ref().ok_or_else(|| Error::internal("a raw request without a preprocess plugin"))?;
    // Large, and no part of requests to models without plugins.
    let (tensors, instance) = match Box::pin(preprocess(model, stage, &request, trace)).await {
        Ok((tensors, instance)) => (tensors, Some(instance)),
        Err(error) => (go_around_preprocess(model, stage, &request, error, trace)?, None),
    };
    let outputs = infer(model, tensors, terms, trace).await?;
    finish(model, instance.filter(|_| model.pipeline.shares_instance()), outputs, trace).await
}

async fn preprocess(
    model: &ModelVersion,
    stage: &BoundStage,
    request: &Request,
    trace: &mut Trace,
) -> Result<(Vec<Value>, Instance)> {
    let started = Instant::now();
    let mut instance = stage.binding.start().await?;
    let tensors = instance.preprocess(request).await.and_then(|tensors| {
        // Tensors that do not fit the model are the plugin's failure, and counted as one.
        let plugin = stage.binding.plugin().reference();
        let misfit =
            |problem| Error::new(ErrorCode::PluginFailed, format!("plugin {plugin}, preprocess: {}", shorten(problem)));
        let inputs: Vec<Value> = tensors.into_iter().map(Value::Tensor).collect();
        check_inputs(model, &inputs).map_err(misfit)?;
        Ok(inputs)
    });
    // Where the same instance has more to do, how it ends is not known yet.
    let has_ended = !model.pipeline.shares_instance();
    trace.preprocess = Some(settle(stage, &instance, started, None, tensors.as_ref().err(), has_ended));
    Ok((tensors?, instance))
}

/// The body itself as the model's input, where the binding allows it and it is one.
fn go_around_preprocess(
    model: &ModelVersion,
    stage: &BoundStage,
    request: &Request,
    error: Error,
    trace: &mut Trace,
) -> Result<Vec<Value>> {
    if !may_bypass(stage, &error) {
        return Err(error);
    }
    let Some(tensor) = body_as_input(model, request) else { return Err(error) };
    tracing::warn!(model = model.id(), %error, "preprocess was bypassed");
    trace.bypassed.push(Stage::Preprocess);
    Ok(vec![Value::Tensor(tensor)])
}

async fn infer(model: &ModelVersion, inputs: Vec<Value>, terms: &Terms, trace: &mut Trace) -> Result<Vec<Value>> {
    if let Some(kept) = &mut trace.tensors {
        kept.inputs.clone_from(&inputs);
    }
    let inference = model.workers.infer(inputs, terms).await?;
    trace.inference = Some(inference.took);
    if let Some(kept) = &mut trace.tensors {
        kept.outputs.clone_from(&inference.outputs);
    }
    Ok(inference.outputs)
}

/// Makes the answer: by the postprocess plugin, in the instance that made the inputs if it is the same.
async fn finish(
    model: &ModelVersion,
    instance: Option<Instance>,
    outputs: Vec<Value>,
    trace: &mut Trace,
) -> Result<Answer> {
    let Some(stage) = &model.pipeline.postprocess else { return Ok(Answer::Outputs(outputs)) };
    match Box::pin(postprocess(stage, instance, &outputs, trace)).await {
        Ok(response) => Ok(Answer::Response(response)),
        Err(error) if may_bypass(stage, &error) => {
            tracing::warn!(model = model.id(), %error, "postprocess was bypassed");
            trace.bypassed.push(Stage::Postprocess);
            Ok(Answer::Outputs(outputs))
        }
        Err(error) => Err(error),
    }
}

async fn postprocess(
    stage: &BoundStage,
    instance: Option<Instance>,
    outputs: &[Value],
    trace: &mut Trace,
) -> Result<Response> {
    let tensors: Vec<Tensor> = outputs.iter().flat_map(Value::to_tensors).collect();
    let started = Instant::now();
    let earlier = instance.as_ref().and(trace.preprocess.clone());
    let mut instance = match instance {
        Some(instance) => instance,
        None => stage.binding.start().await?,
    };
    let mut response = instance.postprocess(&tensors).await;
    if let Ok(answer) = &response
        && let Err(problem) = check_json(answer).await?
    {
        let plugin = stage.binding.plugin().reference();
        let message =
            format!("plugin {plugin} failed in postprocess: its answer says that it is JSON, and is none: {problem}");
        response = Err(Error::new(ErrorCode::PluginFailed, message));
    }
    trace.postprocess = Some(settle(stage, &instance, started, earlier, response.as_ref().err(), true));
    response
}

/// An answer that says it is JSON has to be: clients parse it unseen.
async fn check_json(answer: &Response) -> Result<std::result::Result<(), String>> {
    if answer.content_type != "application/json" {
        return Ok(Ok(()));
    }
    let body = answer.body.clone();
    off_async_threads(body.len(), move || {
        // What is ignored is not looked at for its encoding.
        let text = std::str::from_utf8(&body).map_err(|error| error.to_string())?;
        serde_json::from_str::<IgnoredAny>(text).map(|_| ()).map_err(|error| error.to_string())
    })
    .await
}

/// Tells the circuit how a stage ended, and sums up what it took. `earlier` is what the same instance did before.
fn settle(
    stage: &BoundStage,
    instance: &Instance,
    started: Instant,
    earlier: Option<StageTrace>,
    error: Option<&Error>,
    has_ended: bool,
) -> StageTrace {
    let failed = error.filter(|error| error.code == ErrorCode::PluginFailed);
    match failed {
        Some(error) if instance.is_broken() => stage.binding.circuit.failed(&error.message),
        // Cut off for a reason that is not the plugin's, such as a host it may not fetch from: that tells nothing of it.
        None if instance.is_broken() => {}
        _ if has_ended || failed.is_some() => stage.binding.circuit.succeeded(),
        _ => {}
    }
    let (crossed, fetched) = (instance.crossed(), instance.time_fetching());
    let before = earlier.map(|trace| (trace.crossed, trace.fetching)).unwrap_or_default();
    StageTrace {
        plugin: stage.binding.plugin().reference(),
        took: started.elapsed(),
        fetching: fetched.saturating_sub(before.1),
        crossed: Crossed {
            into_plugin: crossed.into_plugin - before.0.into_plugin,
            out_of_plugin: crossed.out_of_plugin - before.0.out_of_plugin,
        },
        peak_memory: instance.peak_memory(),
        failed: failed.is_some(),
    }
}

fn may_bypass(stage: &BoundStage, error: &Error) -> bool {
    // `NotReady` is what an open circuit answers.
    stage.on_failure == OnFailure::Bypass && matches!(error.code, ErrorCode::PluginFailed | ErrorCode::NotReady)
}

/// The body's bytes as the elements of the model's one input, where there are as many as a shape of it takes.
fn body_as_input(model: &ModelVersion, request: &Request) -> Option<Tensor> {
    if request.content_type != "application/octet-stream" {
        return None;
    }
    let spec = only_input(model)?.spec.tensor()?;
    let element = spec.datatype.size()?;
    let axes = spec.shape.as_ref()?;
    let fixed = axes
        .iter()
        .filter(|&&size| size >= 0)
        .try_fold(element, |bytes, &size| bytes.checked_mul(usize::try_from(size).ok()?))?;
    let open = axes.iter().filter(|&&size| size < 0).count();
    // One axis may be of any size, and the body's length tells which.
    let free = request.body.len().checked_div(fixed)?;
    if open > 1 || fixed * (if open == 1 { free } else { 1 }) != request.body.len() || free == 0 {
        return None;
    }
    let shape = axes.iter().map(|&size| usize::try_from(size).unwrap_or(free)).collect();
    Tensor::from_wire(spec.name.clone(), spec.datatype, shape, request.body.clone()).ok()
}

/// The one input that a request has to give, where there is just one.
pub fn only_input(model: &ModelVersion) -> Option<&crate::model::InputSpec> {
    let mut required = model.inputs.iter().filter(|input| !input.optional);
    match (required.next(), required.next()) {
        (Some(input), None) => Some(input),
        _ => None,
    }
}

/// The model's inputs as a client reads them: `X FP32[·,4]`.
pub fn describe_inputs(model: &ModelVersion) -> String {
    let inputs: Vec<String> =
        model.inputs.iter().map(|input| format!("{} {}", input.spec.name(), input.spec)).collect();
    inputs.join(", ")
}

/// Whether these values are what the model declares.
///
/// # Errors
/// A sentence of what was expected and what came.
pub fn check_inputs(model: &ModelVersion, values: &[Value]) -> std::result::Result<(), String> {
    for (position, value) in values.iter().enumerate() {
        let (id, name) = (model.id(), value.name());
        let Some(input) = model.inputs.iter().find(|input| input.spec.name() == name) else {
            return Err(format!("model {id} has no input {name:?}; its inputs: {}", describe_inputs(model)));
        };
        if let ValueSpec::Unsupported { kind, .. } = &input.spec {
            return Err(format!("model {id}, input {name}: it takes a {kind}, which the host cannot give it"));
        }
        if !input.spec.accepts(value) {
            return Err(format!("model {id}, input {name}: expected {}, got {}", input.spec, value.describe()));
        }
        if values[..position].iter().any(|earlier| earlier.name() == name) {
            return Err(format!("input {name} came twice"));
        }
    }
    let is_missing = |name: &str| values.iter().all(|value| value.name() != name);
    match model.inputs.iter().find(|input| !input.optional && is_missing(input.spec.name())) {
        Some(input) => Err(format!("model {} misses its input {} {}", model.id(), input.spec.name(), input.spec)),
        None => Ok(()),
    }
}
