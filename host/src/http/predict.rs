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
use serde::Deserialize;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::json::{ValueData, ValueJson, pairs_in_order, read_value};
use super::{Observation, RequestId, body_error, cache_header, read_body};
use crate::app::App;
use crate::blocking::off_async_threads;
use crate::config::to_usize;
use crate::error::{Error, ErrorCode, Result};
use crate::model::ModelVersion;
use crate::pipeline::{self, Answer, Payload, Trace};
use crate::plugin;
use crate::predict::{self, Prediction};
use crate::value::Value;

/// What every way of asking comes down to.
struct Parsed {
    model: Arc<ModelVersion>,
    payload: Payload,
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
    #[serde(borrow, default, deserialize_with = "pairs_in_order")]
    inputs: Vec<(String, &'j RawValue)>,
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
    let use_cache = !asks_for_fresh(request.headers());
    let limit = app.config.limits.predict_timeout;
    let parsed = tokio::time::timeout(limit, parse(&app, request)).await.map_err(|_| {
        let limit = humantime::format_duration(limit);
        Error::new(ErrorCode::RequestTimeout, format!("the body did not come within {limit} (--predict-timeout)"))
    });
    let Parsed { model, payload } = parsed??;
    observation.serves(&model);
    let mut trace = Trace::default();
    let prediction = predict::predict(&app, &model, payload, use_cache, &mut trace).await;
    observation.went(trace);
    let prediction = prediction?;
    let bytes = prediction.answer.byte_size();
    off_async_threads(bytes, move || wrap(&model, &prediction, &id, started)).await?
}

/// `Cache-Control: no-cache` (or `no-store`) goes round the cache.
fn asks_for_fresh(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| {
        let part = part.trim();
        part.eq_ignore_ascii_case("no-cache") || part.eq_ignore_ascii_case("no-store")
    })
}

async fn parse(app: &Arc<App>, request: Request) -> Result<Parsed> {
    let media_type = media_type(request.headers());
    if media_type == "multipart/form-data" {
        return parse_form(app, request).await;
    }
    let parameters = Query::<Vec<(String, String)>>::try_from_uri(request.uri())
        .map_err(|error| Error::invalid_input(format!("the query string is not readable: {error}")))?;
    let Query(parameters) = parameters;
    let body = body_of(app, request.into_body()).await?;
    if is_json(&media_type) {
        let app = app.clone();
        return off_async_threads(body.len(), move || parse_json(&app, body, parameters)).await?;
    }
    raw_body(app, media_type, body, parameters)
}

/// What a client that says nothing of its body sends is JSON here, and curl's `-d` says that it is a form.
fn is_json(media_type: &str) -> bool {
    matches!(media_type, "" | "application/json" | "application/x-www-form-urlencoded") || media_type.ends_with("+json")
}

fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

async fn body_of(app: &App, body: Body) -> Result<Bytes> {
    read_body(body, to_usize(app.config.limits.max_body_bytes), "--max-body-bytes").await
}

fn parse_json(app: &App, body: Bytes, parameters: Vec<(String, String)>) -> Result<Parsed> {
    let is_object = body.trim_ascii_start().first() == Some(&b'{');
    if !is_object && parameter(&parameters, "model_id").is_some() {
        // What a plugin reads need not be an object.
        return raw_body(app, "application/json".to_owned(), body, parameters);
    }
    // Serde would take a list for the struct's fields in order.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(not_a_request(&"it is a list"));
    }
    let parsed: PredictBody<'_> = serde_json::from_slice(&body).map_err(|error| not_a_request(&error))?;
    let named =
        |field: &Option<Cow<'_, str>>, name: &str| field.as_deref().or(parameter(&parameters, name)).map(str::to_owned);
    let (id, version) = (named(&parsed.model_id, "model_id"), named(&parsed.version, "version"));
    let model = match (&id, &parsed.image_url) {
        (Some(id), _) => app.models.registry.get(id, version.as_deref())?,
        (None, Some(_)) => default_image_model(app, version.as_deref())?,
        (None, None) => {
            return Err(Error::invalid_input(
                "the request names no model: give `model_id` with `features` or `inputs`, or `image_url`",
            ));
        }
    };
    if parsed.image_url.is_some() && (parsed.features.is_some() || !parsed.inputs.is_empty()) {
        return Err(Error::invalid_input("give either `image_url` or `features`/`inputs`, not both"));
    }
    let payload = match tensors_of(&model, &parsed)? {
        Some(tensors) => Payload::Tensors(tensors),
        None => Payload::Raw(plugin::Request { content_type: "application/json".to_owned(), body, parameters }),
    };
    Ok(Parsed { model, payload })
}

/// The tensors in the body of a request to a model; `None` where the body is the plugin's to read.
///
/// # Errors
/// A JSON object that is no prediction request, or tensors that do not fit the model.
pub fn tensors_in(model: &ModelVersion, request: &plugin::Request) -> Result<Option<Vec<Value>>> {
    if !is_json(&request.content_type) || request.body.trim_ascii_start().first() != Some(&b'{') {
        return Ok(None);
    }
    tensors_of(model, &serde_json::from_slice(&request.body).map_err(|error| not_a_request(&error))?)
}

/// `features` or `inputs`, of the datatypes that the model declares.
fn tensors_of(model: &ModelVersion, body: &PredictBody<'_>) -> Result<Option<Vec<Value>>> {
    match (body.features, body.inputs.is_empty()) {
        (Some(_), false) => Err(Error::invalid_input("give either `features` or `inputs`, not both")),
        (Some(features), true) => Ok(Some(vec![read_features(model, features)?])),
        (None, false) => read_inputs(model, &body.inputs).map(Some),
        (None, true) => Ok(None),
    }
}

fn not_a_request(problem: &dyn std::fmt::Display) -> Error {
    Error::invalid_input(format!(
        "the body is not a prediction request: {problem}; expected JSON such as \
         {{\"model_id\": \"iris\", \"features\": [5.1, 3.5, 1.4, 0.2]}} or {{\"image_url\": \"https://…\"}}"
    ))
}

fn default_image_model(app: &App, version: Option<&str>) -> Result<Arc<ModelVersion>> {
    let id = app.models.registry.default_image_model().ok_or_else(|| {
        Error::new(
            ErrorCode::NotFound,
            "there is no default image model; upload one with POST /upload, or name one with model_id",
        )
    })?;
    app.models.registry.get(&id, version)
}

/// `features` is the tensor of the one input that a caller has to give.
fn read_features(model: &ModelVersion, features: &RawValue) -> Result<Value> {
    let required = model.inputs.iter().filter(|input| !input.optional).count();
    match pipeline::only_input(model).or(model.inputs.first().filter(|_| required == 0)) {
        Some(input) => read_value(&input.spec, features),
        None => Err(Error::invalid_input(format!(
            "model {} has not exactly one input; give `inputs` with a value for each of: {}",
            model.id(),
            pipeline::describe_inputs(model)
        ))),
    }
}

fn read_inputs(model: &ModelVersion, inputs: &[(String, &RawValue)]) -> Result<Vec<Value>> {
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
        is_given.then(|| read_value(&input.spec, json)).transpose()
    });
    values.filter_map(Result::transpose).collect()
}

/// A body that is not JSON is for the model's plugin to read. Which model, the parameters say.
fn raw_body(app: &App, content_type: String, body: Bytes, parameters: Vec<(String, String)>) -> Result<Parsed> {
    let version = parameter(&parameters, "version");
    let model = match parameter(&parameters, "model_id") {
        Some(id) => app.models.registry.get(id, version)?,
        None => default_image_model(app, version)?,
    };
    let request = plugin::Request { content_type, body, parameters };
    Ok(Parsed { model, payload: Payload::Raw(request) })
}

fn parameter<'p>(parameters: &'p [(String, String)], name: &str) -> Option<&'p str> {
    parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// A form: the file `image` or `file`, every other field a parameter.
async fn parse_form(app: &App, request: Request) -> Result<Parsed> {
    let limit = to_usize(app.config.limits.max_body_bytes);
    let (parts, body) = request.into_parts();
    let body = Body::from(read_body(body, limit, "--max-body-bytes").await?);
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
    raw_body(app, content_type, bytes, parameters)
}

fn wrap(model: &ModelVersion, prediction: &Prediction, id: &RequestId, started: Instant) -> Result<Response> {
    let frame = Frame { model, id, started };
    let body = match &*prediction.answer {
        Answer::Outputs(outputs) => serde_json::to_vec(&OutputsAnswer { frame, outputs }),
        Answer::Response(response) if response.content_type == "application/json" => {
            let fields: BTreeMap<&str, &RawValue> = match serde_json::from_slice(&response.body) {
                Ok(fields) => fields,
                // JSON, but no object to merge into: sent as the plugin made it.
                Err(_) => return Ok(as_made(response, prediction.cached)),
            };
            serde_json::to_vec(&PluginAnswer { frame, fields })
        }
        Answer::Response(response) => return Ok(as_made(response, prediction.cached)),
    };
    let body = body.map_err(Error::internal)?;
    let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(([json, cache_header(prediction.cached)], body).into_response())
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
struct Frame<'a> {
    model: &'a ModelVersion,
    id: &'a RequestId,
    started: Instant,
}

impl Frame<'_> {
    fn serialize_head<M: SerializeMap>(&self, map: &mut M) -> std::result::Result<(), M::Error> {
        map.serialize_entry("model_id", self.model.id())?;
        map.serialize_entry("version", self.model.version())?;
        map.serialize_entry("request_id", &*self.id.0)
    }

    fn serialize_tail<M: SerializeMap>(&self, map: &mut M) -> std::result::Result<(), M::Error> {
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
