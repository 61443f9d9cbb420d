//! `POST /predict`: tensors or features as JSON, or what the model's plugin reads, as JSON, a file or the raw body.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::body::Body;
use axum::extract::{FromRequest, Multipart, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::{SecondsFormat, Utc};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::instances::{self, PredictionsAnswer};
use super::json::{Text, ValueData, ValueJson, pairs_in_order, read_value};
use super::{Observation, RequestId, body_error, cache_header, prediction_body, terms};
use crate::app::App;
use crate::blocking::off_async_threads;
use crate::error::{Error, Result};
use crate::model::{Entry, InputSpec, ModelVersion, Route, Sticky};
use crate::pipeline::{self, Answer, Payload, Trace};
use crate::plugin;
use crate::predict::{self, Prediction, Target};
use crate::value::Value;

/// What every way of asking comes down to.
struct Parsed {
    target: Target,
    payload: Payload,
    /// Of `instances`, which are answered one by one.
    rows: Option<usize>,
}

/// A request as it came.
struct Asked {
    headers: HeaderMap,
    /// Of the query, or of a form.
    parameters: Vec<(String, String)>,
    content_type: String,
    body: Bytes,
    /// When nobody waits for the answer any more.
    deadline: Instant,
}

/// Inputs by name, in the order in which they came.
type Inputs<'j> = Vec<(String, &'j RawValue)>;

fn inputs_in_order<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Inputs<'de>>, D::Error> {
    pairs_in_order(deserializer).map(Some)
}

/// The JSON body. Numbers stay text until the model, and with it the datatype, is known.
#[derive(Deserialize)]
struct PredictBody<'j> {
    #[serde(borrow, default)]
    model_id: Option<Cow<'j, str>>,
    #[serde(borrow, default)]
    version: Option<Cow<'j, str>>,
    #[serde(borrow, default)]
    features: Option<&'j RawValue>,
    #[serde(borrow, default, deserialize_with = "inputs_in_order")]
    inputs: Option<Inputs<'j>>,
    #[serde(borrow, default)]
    instances: Option<&'j RawValue>,
    #[serde(borrow, default)]
    image_url: Option<&'j RawValue>,
}

pub async fn predict(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    Extension(observation): Extension<Observation>,
    request: Request,
) -> Result<Response> {
    let started = Instant::now();
    let _permit = app.admit_prediction()?;
    let terms = terms(&app, request.headers())?;
    let Parsed { target, payload, rows } = parse(&app, request, terms.deadline).await?;
    observation.serves(&target.model);
    let mut trace = Trace::default();
    let prediction = predict::predict(&app, &target, payload, &terms, &mut trace).await;
    observation.went(trace);
    let prediction = prediction?;
    let bytes = prediction.answer.byte_size();
    off_async_threads(bytes, move || wrap(&target.model, &prediction, &id, started, rows)).await?
}

async fn parse(app: &Arc<App>, request: Request, deadline: Instant) -> Result<Parsed> {
    let content_type = media_type(request.headers());
    if content_type == "multipart/form-data" {
        return Box::pin(parse_form(app, request, deadline)).await;
    }
    let Query(parameters) = Query::<Vec<(String, String)>>::try_from_uri(request.uri())
        .map_err(|error| Error::invalid_input(format!("the query string is not readable: {error}")))?;
    let (parts, body) = request.into_parts();
    let body = prediction_body(app, body).await?;
    let asked = Asked { headers: parts.headers, parameters, content_type, body, deadline };
    let is_object = asked.body.trim_ascii_start().first() == Some(&b'{');
    // What a plugin reads need not be an object.
    if !is_json(&asked.content_type) || (!is_object && asked.parameter("model_id").is_some()) {
        return Box::pin(raw_body(app, asked)).await;
    }
    let asked = Arc::new(asked);
    match parse_off_async_threads(app, &asked, None).await? {
        Ok(parsed) => Ok(parsed),
        Err(Unparsed::Refused(error)) => Err(error),
        // Which datatypes it takes is known once it is loaded.
        Err(Unparsed::Cold(version)) => {
            let model = Box::pin(app.models.ready_by(&version, deadline)).await?;
            let parsed = parse_off_async_threads(app, &asked, Some(model)).await?;
            parsed.map_err(|unparsed| match unparsed {
                Unparsed::Refused(error) => error,
                Unparsed::Cold(_) => Error::internal("a loaded version was not taken"),
            })
        }
    }
}

/// Why a JSON body is not parsed yet.
enum Unparsed {
    /// The version has to be loaded first.
    Cold(Entry),
    Refused(Error),
}

impl From<Error> for Unparsed {
    fn from(error: Error) -> Unparsed {
        Unparsed::Refused(error)
    }
}

async fn parse_off_async_threads(
    app: &Arc<App>,
    asked: &Arc<Asked>,
    loaded: Option<Arc<ModelVersion>>,
) -> Result<std::result::Result<Parsed, Unparsed>> {
    let (app, asked) = (Arc::clone(app), Arc::clone(asked));
    off_async_threads(asked.body.len(), move || parse_json(&app, &asked, loaded)).await
}

/// What a client that says nothing of its body sends is JSON here, and curl's `-d` says that it is a form.
fn is_json(media_type: &str) -> bool {
    matches!(media_type, "" | "application/json" | "application/x-www-form-urlencoded") || media_type.ends_with("+json")
}

fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

impl Asked {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The version that a request comes to; without an id, of the default image model.
    fn route(&self, app: &App, id: Option<&str>, version: Option<&str>) -> Result<Route> {
        let default = || {
            app.models.registry.default_image_model().ok_or_else(|| {
                Error::not_found(
                    "there is no default image model; upload one with POST /upload, or name one with model_id",
                )
            })
        };
        let id = id.map_or_else(default, |id| Ok(id.to_owned()))?;
        app.models.registry.route(&id, version, |sticky| self.key(sticky))
    }

    /// What the request's answers are to stick to.
    fn key(&self, sticky: &Sticky) -> Option<String> {
        match sticky {
            Sticky::Header(name) => self.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned),
            Sticky::Field(name) => match self.parameter(name) {
                Some(value) => Some(value.to_owned()),
                None if is_json(&self.content_type) => json_field(&self.body, name),
                None => None,
            },
        }
    }
}

/// A field of a JSON object: a text, or any other value as it is written.
fn json_field(body: &[u8], name: &str) -> Option<String> {
    let fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(body).ok()?;
    let value = fields.get(name)?.get();
    Some(serde_json::from_str::<String>(value).unwrap_or_else(|_| value.to_owned()))
}

/// `loaded` is the version that the request came to, where it had to be loaded for it.
fn parse_json(app: &App, asked: &Asked, loaded: Option<Arc<ModelVersion>>) -> std::result::Result<Parsed, Unparsed> {
    // Serde would take a list for the struct's fields in order.
    if asked.body.trim_ascii_start().first() == Some(&b'[') {
        return Err(not_a_request(&"it is a list").into());
    }
    let text = Text::new(&asked.body);
    let parsed: PredictBody<'_> = serde_json::from_slice(text.json()).map_err(|error| not_a_request(&error))?;
    if parsed.image_url.is_some() && (parsed.features.is_some() || parsed.inputs.is_some()) {
        return Err(Error::invalid_input("give either `image_url` or `features`/`inputs`, not both").into());
    }
    let id = parsed.model_id.as_deref().or(asked.parameter("model_id"));
    let version = parsed.version.as_deref().or(asked.parameter("version"));
    if id.is_none() && parsed.image_url.is_none() {
        let message =
            "the request names no model: give `model_id` with `features`, `inputs` or `instances`, or `image_url`";
        return Err(Error::invalid_input(message).into());
    }
    let model = match loaded {
        Some(model) => model,
        None => match asked.route(app, id, version)? {
            Route::Ready(model) => model,
            Route::Cold(version) => return Err(Unparsed::Cold(version)),
        },
    };
    // To a preprocess plugin they may be something else.
    let instances = parsed.instances.filter(|_| model.pipeline.preprocess.is_none());
    if instances.is_some() && (parsed.features.is_some() || parsed.inputs.is_some()) {
        return Err(Error::invalid_input("give either `instances` or `features`/`inputs`, not both").into());
    }
    if let Some(instances) = instances {
        let (values, rows) = instances::read(&model, &text, instances)?;
        return Ok(Parsed {
            target: Target::of(app, model, version),
            payload: Payload::Tensors(values),
            rows: Some(rows),
        });
    }
    let payload = match tensors_of(&model, &text, &parsed)? {
        Some(tensors) => Payload::Tensors(tensors),
        None => Payload::Raw(plugin::Request {
            content_type: "application/json".to_owned(),
            body: asked.body.clone(),
            parameters: asked.parameters.clone(),
        }),
    };
    Ok(Parsed { target: Target::of(app, model, version), payload, rows: None })
}

/// The tensors in the body of a request to a model; `None` where the body is the plugin's to read.
///
/// # Errors
/// A JSON object that is no prediction request, or tensors that do not fit the model.
pub fn tensors_in(model: &ModelVersion, request: &plugin::Request) -> Result<Option<Vec<Value>>> {
    if !is_json(&request.content_type) || request.body.trim_ascii_start().first() != Some(&b'{') {
        return Ok(None);
    }
    let text = Text::new(&request.body);
    tensors_of(model, &text, &serde_json::from_slice(text.json()).map_err(|error| not_a_request(&error))?)
}

/// `features` or `inputs`, of the datatypes that the model declares.
fn tensors_of(model: &ModelVersion, text: &Text<'_>, body: &PredictBody<'_>) -> Result<Option<Vec<Value>>> {
    match (body.features, &body.inputs) {
        (Some(_), Some(_)) => Err(Error::invalid_input("give either `features` or `inputs`, not both")),
        (Some(features), None) => Ok(Some(vec![read_features(model, text, features)?])),
        (None, Some(inputs)) => read_inputs(model, text, inputs).map(Some),
        (None, None) => Ok(None),
    }
}

fn not_a_request(problem: &dyn std::fmt::Display) -> Error {
    Error::invalid_input(format!(
        "the body is not a prediction request: {problem}; expected JSON such as \
         {{\"model_id\": \"iris\", \"features\": [5.1, 3.5, 1.4, 0.2]}} or {{\"image_url\": \"https://…\"}}"
    ))
}

/// `features` is the tensor of the one input that a caller has to give.
fn read_features(model: &ModelVersion, text: &Text<'_>, features: &RawValue) -> Result<Value> {
    read_value(&only_or_first_input(model)?.spec, text, features)
}

/// The input that a value without a name is for.
pub(super) fn only_or_first_input(model: &ModelVersion) -> Result<&InputSpec> {
    let required = model.inputs.iter().filter(|input| !input.optional).count();
    pipeline::only_input(model).or(model.inputs.first().filter(|_| required == 0)).ok_or_else(|| {
        Error::invalid_input(format!(
            "model {} has not exactly one input; give `inputs` with a value for each of: {}",
            model.id(),
            pipeline::describe_inputs(model)
        ))
    })
}

fn read_inputs(model: &ModelVersion, text: &Text<'_>, inputs: &[(String, &RawValue)]) -> Result<Vec<Value>> {
    let values = inputs.iter().map(|(name, json)| {
        let input = model.inputs.iter().find(|input| input.spec.name() == *name);
        let input = input.ok_or_else(|| {
            Error::invalid_input(format!(
                "model {} has no input {name:?}; its inputs: {}",
                model.id(),
                pipeline::describe_inputs(model)
            ))
        })?;
        // Nothing for an input that the model has a default for is that default.
        let is_given = !input.optional || json.get() != "null";
        is_given.then(|| read_value(&input.spec, text, json)).transpose()
    });
    values.filter_map(Result::transpose).collect()
}

/// A body for the model's plugin to read. Which model, the parameters say.
async fn raw_body(app: &App, asked: Asked) -> Result<Parsed> {
    let version = asked.parameter("version");
    let model = match asked.route(app, asked.parameter("model_id"), version)? {
        Route::Ready(model) => model,
        Route::Cold(version) => app.models.ready_by(&version, asked.deadline).await?,
    };
    let target = Target::of(app, model, version);
    let Asked { content_type, body, parameters, .. } = asked;
    // A body with `model_id` in the query is JSON, whatever its client calls it.
    let content_type = if is_json(&content_type) { "application/json".to_owned() } else { content_type };
    let payload = Payload::Raw(plugin::Request { content_type, body, parameters });
    Ok(Parsed { target, payload, rows: None })
}

/// A form: the file `image` or `file`, every other field a parameter.
async fn parse_form(app: &App, request: Request, deadline: Instant) -> Result<Parsed> {
    let headers = request.headers().clone();
    let (parts, body) = request.into_parts();
    let body = Body::from(prediction_body(app, body).await?);
    let form = Multipart::from_request(Request::from_parts(parts, body), &()).await;
    let mut form = form.map_err(|error| body_error(&error))?;
    let mut file = None;
    let mut parameters = Vec::new();
    while let Some(field) = form.next_field().await.map_err(|error| body_error(&error))? {
        let name = field.name().unwrap_or_default().to_owned();
        if matches!(name.as_str(), "image" | "file") && file.is_none() {
            let content_type = field.content_type().unwrap_or("application/octet-stream").to_owned();
            file = Some((content_type, field.bytes().await.map_err(|error| body_error(&error))?));
        } else {
            parameters.push((name, field.text().await.map_err(|error| body_error(&error))?));
        }
    }
    let (content_type, bytes) = file.ok_or_else(|| {
        Error::invalid_input("the form has no file `image` or `file`; curl sends one with -F image=@cat.jpg")
    })?;
    raw_body(app, Asked { headers, parameters, content_type, body: bytes, deadline }).await
}

/// Of an answer in JSON, and of what is set on it: what is known to come need not be made room for again and again.
const USUAL_BYTES: usize = 512;
const USUAL_HEADERS: usize = 12;

fn wrap(
    model: &ModelVersion,
    prediction: &Prediction,
    id: &RequestId,
    started: Instant,
    rows: Option<usize>,
) -> Result<Response> {
    let frame = Frame { model, id, started };
    let mut body = Vec::with_capacity(USUAL_BYTES);
    let written = match &*prediction.answer {
        Answer::Outputs(outputs) if let Some(rows) = rows => {
            serde_json::to_writer(&mut body, &PredictionsAnswer::new(frame, outputs, rows)?)
        }
        Answer::Outputs(outputs) => serde_json::to_writer(&mut body, &OutputsAnswer { frame, outputs }),
        Answer::Response(response) if response.content_type == "application/json" => {
            let fields: BTreeMap<&str, &RawValue> = match serde_json::from_slice(&response.body) {
                Ok(fields) => fields,
                // JSON, but no object to merge into: sent as the plugin made it.
                Err(_) => return Ok(as_made(response, prediction.cached)),
            };
            serde_json::to_writer(&mut body, &PluginAnswer { frame, fields })
        }
        Answer::Response(response) => return Ok(as_made(response, prediction.cached)),
    };
    written.map_err(Error::internal)?;
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.reserve(USUAL_HEADERS);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let (cache, cached) = cache_header(prediction.cached);
    headers.insert(cache, cached);
    Ok(response)
}

/// A plugin's answer of its own media type.
fn as_made(response: &plugin::Response, cached: bool) -> Response {
    let content_type = HeaderValue::from_str(&response.content_type)
        .unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"));
    // What a plugin calls a page must not run as one of the web page's own origin.
    let contained = [
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox")),
    ];
    let headers = [(header::CONTENT_TYPE, content_type), cache_header(cached)];
    (headers, contained, response.body.clone()).into_response()
}

/// What every answer says beside its result.
pub(super) struct Frame<'a> {
    model: &'a ModelVersion,
    id: &'a RequestId,
    started: Instant,
}

impl Frame<'_> {
    pub(super) fn serialize_head<M: SerializeMap>(&self, map: &mut M) -> std::result::Result<(), M::Error> {
        map.serialize_entry("model_id", self.model.id())?;
        map.serialize_entry("version", self.model.version())?;
        map.serialize_entry("request_id", &*self.id.0)
    }

    pub(super) fn serialize_tail<M: SerializeMap>(&self, map: &mut M) -> std::result::Result<(), M::Error> {
        // Microseconds are what the clock is good for; more digits only look exact.
        map.serialize_entry("latency_ms", &(self.started.elapsed().as_micros() as f64 / 1e3))?;
        map.serialize_entry("timestamp", &Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

/// `{"model_id", "version", "request_id", "prediction", "outputs", "latency_ms", "timestamp"}`
struct OutputsAnswer<'a> {
    frame: Frame<'a>,
    outputs: &'a [Value],
}

impl Serialize for OutputsAnswer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.frame.serialize_head(&mut map)?;
        if let Some(first) = self.outputs.first() {
            map.serialize_entry("prediction", &ValueData(first))?;
        }
        map.serialize_entry("outputs", &ByName(self.outputs))?;
        self.frame.serialize_tail(&mut map)?;
        map.end()
    }
}

struct ByName<'a>(&'a [Value]);

impl Serialize for ByName<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|output| (output.name(), ValueJson(output))))
    }
}

/// The plugin's object, with what the host knows beside it; where both name a field, the host's is true.
struct PluginAnswer<'a> {
    frame: Frame<'a>,
    fields: BTreeMap<&'a str, &'a RawValue>,
}

const FRAME_FIELDS: [&str; 5] = ["model_id", "version", "request_id", "latency_ms", "timestamp"];

impl Serialize for PluginAnswer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.frame.serialize_head(&mut map)?;
        for (name, value) in self.fields.iter().filter(|(name, _)| !FRAME_FIELDS.contains(*name)) {
            map.serialize_entry(name, value)?;
        }
        self.frame.serialize_tail(&mut map)?;
        map.end()
    }
}
