//! One request through a plugin and a model, by the host's own code: taken in, bound, run, and reported as far as it came.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::case::{Moment, Outcome, RequestRecord, Setup};
use super::log::PluginLines;
use super::report::{BindingLine, ModelLine, PluginLine, Report, RequestLine, Seen};
use super::{input, milliseconds};
use crate::error::{Error, Result};
use crate::http::json::{ValueData, ValueJson};
use crate::http::predict::tensors_in;
use crate::model::{ModelVersion, describe};
use crate::pipeline::{self, Answer, Payload, Tensors, Trace};
use crate::plugin::{Binding, Plugin, PluginHost, Request, Wasm};
use crate::predict::check_payload;
use crate::tensor::TensorSpec;
use crate::terms::Terms;
use crate::value::Value;

/// Where plugins are tried: a host, a model, and the log of what plugins say.
pub(super) struct Bench {
    pub(super) host: PluginHost,
    pub(super) model: ModelVersion,
    pub(super) lines: PluginLines,
}

impl Bench {
    /// Runs one request. Where the setup has none, the plugin's golden request is taken, and put there.
    ///
    /// # Errors
    /// There is no request to run. That the plugin fails is no error, but the report's outcome.
    pub(super) async fn attempt(mut self, setup: &mut Setup, wasm: Bytes) -> std::result::Result<Report, String> {
        let mut seen = Seen::default();
        let outcome = match self.try_all(setup, wasm, &mut seen).await {
            Ok(outcome) => outcome,
            Err(Stopped::Failed(at, error)) => Outcome::failed(at, &error),
            Err(Stopped::NothingToRun) => {
                return Err("the plugin brings no golden request: give one with --input".to_owned());
            }
        };
        Ok(Report { model: model_line(&self.model), seen, log: self.lines.take(), outcome, replay: None })
    }

    async fn try_all(
        &mut self,
        setup: &mut Setup,
        wasm: Bytes,
        seen: &mut Seen,
    ) -> std::result::Result<Outcome, Stopped> {
        let started = Instant::now();
        let plugin = self.host.load(Wasm::Held(wasm), setup.grants.clone()).await;
        let plugin = Arc::new(plugin.map_err(|error| Stopped::Failed(Moment::Upload, error))?);
        seen.plugin = Some(PluginLine::of(&plugin, milliseconds(started.elapsed())));

        let started = Instant::now();
        let binding = self.bind(&plugin, setup).await.map_err(|error| Stopped::Failed(Moment::Binding, error))?;
        seen.binding = Some(BindingLine::of(&binding, milliseconds(started.elapsed())));

        let golden = setup.request.is_none();
        let request = match &setup.request {
            Some(request) => Request::from(request),
            None => {
                let brought = binding.golden().await.map_err(|error| Stopped::Failed(Moment::Binding, error))?;
                brought.ok_or(Stopped::NothingToRun)?
            }
        };
        setup.request = Some(RequestRecord::from(&request));
        let (content_type, bytes) = (request.content_type.clone(), request.body.len());
        seen.request = Some(RequestLine { content_type, bytes, golden });
        let mut trace = Trace { tensors: Some(Tensors::default()), ..Trace::default() };
        let answer = self.run(request, &mut trace).await;
        seen.went(&trace);
        answer.map_err(|error| Stopped::Failed(Moment::Request, error))
    }

    async fn bind(&mut self, plugin: &Arc<Plugin>, setup: &Setup) -> Result<Arc<Binding>> {
        let stage = input::stage(&plugin.reference(), &setup.config)?;
        self.model.bind_alone(plugin, &stage).await
    }

    async fn run(&self, request: Request, trace: &mut Trace) -> Result<Outcome> {
        let payload = match tensors_in(&self.model, &request)? {
            Some(tensors) => Payload::Tensors(tensors),
            None => Payload::Raw(request),
        };
        check_payload(&self.model, &payload)?;
        match pipeline::run(&self.model, payload, &Terms::within(Duration::MAX), trace).await? {
            Answer::Response(response) => {
                Ok(Outcome::Answer { content_type: response.content_type, body: response.body.into() })
            }
            Answer::Outputs(outputs) => {
                let body = serde_json::to_vec(&ModelAnswer(&outputs)).map_err(Error::internal)?;
                Ok(Outcome::Answer { content_type: "application/json".to_owned(), body })
            }
        }
    }
}

fn model_line(model: &ModelVersion) -> ModelLine {
    let described = describe(model);
    let lines = |specs: &[TensorSpec]| specs.iter().map(|spec| format!("{} {spec}", spec.name)).collect();
    let (inputs, outputs) = (lines(&described.inputs), lines(&described.outputs));
    ModelLine { file: model.path.clone(), inputs, outputs }
}

/// Why there is no answer.
enum Stopped {
    Failed(Moment, Error),
    NothingToRun,
}

/// `{"prediction", "outputs"}`, as `/predict` answers without a postprocess plugin.
struct ModelAnswer<'a>(&'a [Value]);

impl Serialize for ModelAnswer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(first) = self.0.first() {
            map.serialize_entry("prediction", &ValueData(first))?;
        }
        map.serialize_entry("outputs", &ByName(self.0))?;
        map.end()
    }
}

struct ByName<'a>(&'a [Value]);

impl Serialize for ByName<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|output| (output.name(), ValueJson(output))))
    }
}
