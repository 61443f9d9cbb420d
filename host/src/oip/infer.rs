//! An inference request and its answer, whichever way they travel.

use std::collections::HashMap;
use std::sync::Arc;

use super::classification::classify;
use super::parameters::{Parameters, hurry};
use crate::app::App;
use crate::blocking::off_async_threads;
use crate::error::{Error, Result};
use crate::model::{ModelVersion, OnFailure, Route, Sticky, value_spec};
use crate::onnx::ValueInfo;
use crate::pipeline::{Answer, Payload, Trace};
use crate::plugin;
use crate::predict::{self, Target};
use crate::tensor::{Data, Tensor};
use crate::terms::Terms;
use crate::value::{Value, ValueSpec};

/// The name of the one input that a request to a preprocess plugin is.
pub const RAW_REQUEST: &str = "request";
/// The name of the one output that a postprocess plugin's answer is.
const RESPONSE: &str = "response";
/// As many tensors are put in order without a map of them.
const FEW: usize = 32;
/// Axes that a tensor may have: more than any model's, and few enough for a shape to be read out in an error.
const MOST_AXES: usize = 64;

/// What was asked of a model.
#[derive(Debug, Default)]
pub struct Asked {
    /// Names as they came: they may be none of the model's, or come twice.
    pub tensors: Vec<Tensor>,
    /// The media type of the input `request`, where it says one.
    pub content_type: Option<String>,
    pub parameters: Parameters,
    /// None: all of them.
    pub outputs: Vec<WantedOutput>,
    /// Whether outputs come as bytes where nothing else is said.
    pub binary: bool,
}

#[derive(Debug)]
pub struct WantedOutput {
    pub name: String,
    /// So many of the greatest values of each row, in place of the tensor; 0 for the tensor itself.
    pub classes: usize,
    pub binary: bool,
}

/// What was answered.
#[derive(Debug)]
pub struct Inferred {
    pub outputs: Vec<Output>,
    /// Whether the answer was in memory.
    pub cached: bool,
}

#[derive(Debug)]
pub struct Output {
    pub tensor: Tensor,
    /// Whether it is wanted as bytes.
    pub binary: bool,
    /// The media type of the output `response`.
    pub content_type: Option<String>,
}

/// The version that a request comes to, loaded if it is not. `key` looks into the request for what its answers stick to, and
/// `timeout` for its parameter of that name, which counts while the version is loaded.
///
/// # Errors
/// No such model or version, or it cannot serve, or not in the time that the request allows.
pub async fn resolve(
    app: &App,
    id: &str,
    version: Option<&str>,
    terms: &mut Terms,
    key: impl FnOnce(&Sticky) -> Option<String>,
    timeout: impl FnOnce() -> Option<String>,
) -> Result<Arc<ModelVersion>> {
    match app.models.registry.route(id, version, key)? {
        Route::Ready(model) => Ok(model),
        Route::Cold(version) => {
            if let Some(timeout) = timeout() {
                hurry(terms, &timeout)?;
            }
            Box::pin(app.models.ready_by(&version, terms.deadline)).await
        }
    }
}

/// Runs a request on a model.
///
/// # Errors
/// Inputs or outputs that are none of the model's, and whatever a prediction may end in.
pub async fn infer(
    app: &Arc<App>,
    target: &Target,
    asked: Asked,
    mut terms: Terms,
    trace: &mut Trace,
) -> Result<Inferred> {
    asked.parameters.apply(&mut terms)?;
    let (model, binary) = (Arc::clone(&target.model), asked.binary);
    let parts = (asked.tensors.len() + asked.outputs.len()) * size_of::<Tensor>();
    let (payload, wanted) = off_async_threads(parts, move || prepare(&model, asked)).await??;
    let prediction = predict::predict(app, target, payload, &terms, trace).await?;
    let answer = prediction.answer;
    // Without classes no numbers are looked into, however many there are.
    let has_classes = wanted.iter().any(|output| output.classes > 0);
    let bytes = if has_classes { answer.byte_size() } else { bytes_to_move(&answer) };
    let model = Arc::clone(&target.model);
    let outputs = off_async_threads(bytes, move || select(&model, answer, &wanted, binary)).await??;
    Ok(Inferred { outputs, cached: prediction.cached })
}

/// What the model is to be given, and what is wanted of its answer.
fn prepare(model: &ModelVersion, asked: Asked) -> Result<(Payload, Vec<WantedOutput>)> {
    let Asked { tensors, content_type, parameters, outputs: wanted, .. } = asked;
    check_wanted(&wanted)?;
    let payload = match raw_request(model, &tensors, content_type, &parameters)? {
        Some(request) => Payload::Raw(request),
        None => Payload::Tensors(put_together(model, tensors)?),
    };
    check_names(model, &payload, &wanted)?;
    Ok((payload, wanted))
}

/// Bytes that taking an answer apart goes through: the elements of a tensor of numbers are shared, and not among them.
fn bytes_to_move(answer: &Answer) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            Value::Tensor(Tensor { data: Data::Raw(_), .. }) | Value::None { .. } => 0,
            Value::Tensor(Tensor { data: Data::Strings(strings), .. }) => size_of_val(&strings[..]),
            Value::Sequence { items, .. } => items.iter().map(|item| size_of::<Value>() + of(item)).sum(),
            // Those of a sequence may become a table.
            Value::Map(_) => value.byte_size(),
        }
    }
    match answer {
        Answer::Outputs(values) => values.iter().map(of).sum(),
        Answer::Response(_) => 0,
    }
}

/// Looks at how many axes a tensor comes with, before its shape is gone through.
///
/// # Errors
/// They are more than a tensor may have.
pub fn check_axes(name: &str, axes: usize) -> Result<()> {
    if axes <= MOST_AXES {
        return Ok(());
    }
    Err(Error::invalid_input(format!("input {name}: its shape has {axes} axes; a tensor has {MOST_AXES} at most")))
}

/// What comes twice is refused: an answer is as large as the model makes it, and not as often as it is asked for.
fn check_wanted(wanted: &[WantedOutput]) -> Result<()> {
    let mut names: Vec<&str> = wanted.iter().map(|output| output.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::invalid_input(format!("output {} is asked for twice", pair[0]))),
        None => Ok(()),
    }
}

/// Refuses what cannot be among the outputs before the model runs for it.
fn check_names(model: &ModelVersion, payload: &Payload, wanted: &[WantedOutput]) -> Result<()> {
    let (is_raw, pipeline) = (matches!(payload, Payload::Raw(_)), &model.pipeline);
    // As the pipeline has it: who sends what a preprocess plugin makes, speaks to the model itself.
    let postprocess = pipeline.postprocess.as_ref().filter(|_| is_raw || pipeline.preprocess.is_none());
    let outputs: &[ValueInfo] = match postprocess {
        Some(stage) if stage.on_failure != OnFailure::Bypass => &[],
        _ => &model.info.metadata.outputs,
    };
    let response = postprocess.map(|_| RESPONSE);
    for WantedOutput { name, .. } in wanted {
        if response != Some(name) && !outputs.iter().any(|output| may_be_of(output, name)) {
            return Err(unknown(response.into_iter().chain(outputs.iter().map(|output| output.name.as_str())), name));
        }
    }
    Ok(())
}

/// Whether a tensor may come of an output. Of what is no tensor, the answer says of how many it is.
fn may_be_of(output: &ValueInfo, name: &str) -> bool {
    let Some(rest) = name.strip_prefix(output.name.as_str()) else { return false };
    rest.is_empty() || rest.starts_with('.') && !matches!(value_spec(output), ValueSpec::Tensor(_))
}

/// The request for the model's preprocess plugin, where the one input is that.
fn raw_request(
    model: &ModelVersion,
    tensors: &[Tensor],
    content_type: Option<String>,
    parameters: &Parameters,
) -> Result<Option<plugin::Request>> {
    let is_the_models = || model.inputs.iter().any(|input| input.spec.name() == RAW_REQUEST);
    let [tensor] = tensors else { return Ok(None) };
    if tensor.name != RAW_REQUEST || model.pipeline.preprocess.is_none() || is_the_models() {
        return Ok(None);
    }
    match &tensor.data {
        Data::Strings(strings) if strings.len() == 1 => Ok(Some(plugin::Request {
            content_type: content_type.unwrap_or_else(|| "application/json".to_owned()),
            body: strings[0].clone(),
            parameters: parameters.for_plugin(),
        })),
        _ => Err(Error::invalid_input(format!(
            "input {RAW_REQUEST}: what the model's preprocess plugin reads is one element, BYTES[1]; {} came",
            tensor.describe()
        ))),
    }
}

/// The model's inputs out of tensors, in the model's order, so that equal requests are found in memory. What is none of its
/// inputs stays, for the check of all inputs to refuse.
fn put_together(model: &ModelVersion, mut tensors: Vec<Tensor>) -> Result<Vec<Value>> {
    let inputs = &model.inputs;
    if tensors.len() <= FEW && inputs.iter().all(|input| input.spec.tensor().is_some()) {
        let place = |name: &str| inputs.iter().position(|input| input.spec.name() == name).unwrap_or(inputs.len());
        tensors.sort_by_key(|tensor| place(&tensor.name));
        return Ok(tensors.into_iter().map(Value::Tensor).collect());
    }
    let mut by_name = HashMap::with_capacity(tensors.len());
    for tensor in tensors {
        if let Some(earlier) = by_name.insert(tensor.name.clone(), tensor) {
            return Err(Error::invalid_input(format!("input {} came twice", earlier.name)));
        }
    }
    let mut values: Vec<Value> = inputs.iter().filter_map(|input| input.spec.take_from(&mut by_name)).collect();
    values.extend(by_name.into_values().map(Value::Tensor));
    Ok(values)
}

/// The tensors that were asked for, by an output's name or by that of one of its tensors.
fn select(model: &ModelVersion, answer: Arc<Answer>, wanted: &[WantedOutput], binary: bool) -> Result<Vec<Output>> {
    let (values, content_type) = match Arc::unwrap_or_clone(answer) {
        Answer::Outputs(values) => (values, None),
        Answer::Response(response) => {
            let body = Tensor::from_strings(RESPONSE.to_owned(), vec![1], vec![response.body])?;
            (vec![Value::Tensor(body)], Some(response.content_type))
        }
    };
    let output = |tensor: Tensor, binary: bool| Output { tensor, binary, content_type: content_type.clone() };
    if wanted.is_empty() {
        return Ok(tensors_of(values).into_iter().map(|tensor| output(tensor, binary)).collect());
    }
    let parts = parts_by_name(&values, wanted);
    let mut selected = Vec::with_capacity(wanted.len());
    for WantedOutput { name, classes, binary } in wanted {
        let tensors = match values.iter().find(|value| value.name() == name) {
            Some(value) => value.to_tensors(),
            None => match parts.get(name) {
                Some(tensor) => vec![tensor.clone()],
                None => return Err(unknown(values.iter().map(Value::name), name)),
            },
        };
        for tensor in tensors {
            let tensor = if *classes > 0 { classify(&tensor, *classes, &model.labels)? } else { tensor };
            selected.push(output(tensor, *binary));
        }
    }
    Ok(selected)
}

/// The tensors that sequences and maps are made of, by name; none where nothing but whole outputs is wanted.
fn parts_by_name(values: &[Value], wanted: &[WantedOutput]) -> HashMap<String, Tensor> {
    let is_output = |output: &WantedOutput| values.iter().any(|value| value.name() == output.name);
    if wanted.iter().all(is_output) {
        return HashMap::new();
    }
    let are_made_of_others = values.iter().filter(|value| !matches!(value, Value::Tensor(_)));
    let mut parts = HashMap::new();
    for tensor in are_made_of_others.flat_map(Value::to_tensors) {
        parts.entry(tensor.name.clone()).or_insert(tensor);
    }
    parts
}

fn tensors_of(values: Vec<Value>) -> Vec<Tensor> {
    let mut tensors = Vec::with_capacity(values.len());
    for value in values {
        match value {
            Value::Tensor(tensor) => tensors.push(tensor),
            other => tensors.extend(other.to_tensors()),
        }
    }
    tensors
}

fn unknown<'n>(names: impl Iterator<Item = &'n str>, name: &str) -> Error {
    let names: Vec<&str> = names.collect();
    Error::invalid_input(format!("the model has no output {name:?}; its outputs: {}", names.join(", ")))
}
