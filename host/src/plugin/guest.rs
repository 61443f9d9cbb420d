//! One instance of a plugin in its sandbox, and the four calls into it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use wasmtime::Store;
use wasmtime::component::{ComponentExportIndex, Instance};

use crate::error::{Error, ErrorCode, shorten};
use crate::tensor::{DataType, Tensor};

use super::binding::ModelDescription;
use super::bindings::v0_1::{self, GoldenRequest, nexus::plugin::types};
use super::compiler::Linked;
use super::fault::Site;
use super::grants::Grants;
use super::host::Shared;
use super::instance::{Request, Response};
use super::limits::PluginLimits;
use super::log::PluginLog;
use super::manifest::{Manifest, Stage};
use super::sandbox::Sandbox;

/// An instance and its store.
pub(super) struct Guest {
    store: Store<Sandbox>,
    instance: Instance,
    exports: v0_1::Plugin,
    golden: Option<ComponentExportIndex>,
    shared: Arc<Shared>,
    /// `name@version`, as errors name the plugin.
    label: String,
    /// Bytes of requests, tensors and answers that went in and came out.
    crossed: Crossed,
    /// A call was cut off, by a trap, a limit or the caller going away: its memory is in no known state.
    broken: bool,
}

/// Bytes that crossed the border of an instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Crossed {
    pub into_plugin: usize,
    pub out_of_plugin: usize,
}

/// How a call that went through the sandbox ended.
pub(super) enum Failure {
    /// The plugin returned an error.
    Guest(types::Error),
    /// The host's own error in place of what the plugin said, or of a trap.
    Host(Error),
}

impl Guest {
    /// A fresh instance, not yet initialised. The version is empty where it is not known yet.
    pub(super) async fn new(
        shared: &Arc<Shared>,
        linked: &Linked,
        grants: &Arc<Grants>,
        name: &str,
        version: &str,
    ) -> Result<Guest, Error> {
        let label = if version.is_empty() { name.to_owned() } else { format!("{name}@{version}") };
        let limits = &shared.limits;
        let log = PluginLog::new(name, version, limits);
        let mut store = Sandbox::store(&shared.engine, limits, &shared.egress, grants, log);
        let site = Site { plugin: &label, stage: Stage::Init, limits };
        let instantiated = timeout(limits.wall_time, async {
            let instance = linked.component.instantiate_async(&mut store).await?;
            Ok((instance, linked.exports.load(&mut store, &instance)?))
        });
        let (instance, exports) = match instantiated.await {
            Ok(Ok(instantiated)) => instantiated,
            Ok(Err(error)) => return Err(site.trapped(&error, store.data())),
            Err(_) => return Err(site.timed_out(store.data())),
        };
        let (golden, shared, crossed) = (linked.golden, Arc::clone(shared), Crossed::default());
        Ok(Guest { store, instance, exports, golden, shared, label, crossed, broken: false })
    }

    /// The instance itself, to read its memory.
    pub(super) fn into_parts(self) -> (Store<Sandbox>, Instance) {
        (self.store, self.instance)
    }

    pub(super) async fn describe(&mut self) -> Result<Manifest, Error> {
        let time = self.enter(Stage::Describe)?;
        let call = self.exports.nexus_plugin_transform().call_describe(&mut self.store);
        let outcome = timeout(time, call).await.map(|returned| returned.map(Ok));
        let manifest = self.leave(Stage::Describe, outcome).map_err(|failure| self.answer(Stage::Describe, failure))?;
        Manifest::check(manifest).map_err(|what| self.failed(Stage::Describe, &what))
    }

    pub(super) async fn init(&mut self, model: &ModelDescription, config: &str) -> Result<(), Failure> {
        let time = self.enter(Stage::Init).map_err(Failure::Host)?;
        let (inputs, outputs) = (specs(&model.inputs), specs(&model.outputs));
        let labels: Vec<&str> = model.labels.iter().map(String::as_str).collect();
        let model = types::Model {
            id: &model.id,
            version: &model.version,
            inputs: &inputs,
            outputs: &outputs,
            labels: &labels,
        };
        let call = self.exports.nexus_plugin_transform().call_init(&mut self.store, model, config);
        let outcome = timeout(time, call).await;
        self.leave(Stage::Init, outcome)
    }

    /// A request that the plugin itself gives to be tried with, where it does.
    pub(super) async fn golden(&mut self) -> Result<Option<Request>, Error> {
        let Some(golden) = &self.golden else { return Ok(None) };
        let example = self.instance.get_typed_func::<(), (Option<GoldenRequest>,)>(&mut self.store, golden);
        let example = example
            .map_err(|error| Error::invalid_input(format!("plugin {}, golden.example: {error:#}", self.label)))?;
        let time = self.enter(Stage::Golden)?;
        let call = example.call_async(&mut self.store, ());
        let outcome = timeout(time, call).await.map(|returned| returned.map(|(request,)| Ok(request)));
        let request = self.leave(Stage::Golden, outcome).map_err(|failure| self.answer(Stage::Golden, failure))?;
        Ok(request.map(|GoldenRequest { content_type, body, parameters }| Request {
            content_type,
            body: body.into(),
            parameters,
        }))
    }

    pub(super) async fn preprocess(&mut self, request: &Request) -> Result<Vec<Tensor>, Error> {
        let time = self.enter(Stage::Preprocess)?;
        self.crossed.into_plugin += request.body.len();
        let parameters: Vec<(&str, &str)> =
            request.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let request =
            types::Request { content_type: &request.content_type, body: &request.body, parameters: &parameters };
        let call = self.exports.nexus_plugin_transform().call_preprocess(&mut self.store, request);
        let outcome = timeout(time, call).await;
        let tensors =
            self.leave(Stage::Preprocess, outcome).map_err(|failure| self.answer(Stage::Preprocess, failure))?;
        let bytes = tensors.iter().map(|tensor| tensor.data.len()).sum();
        self.check_output(Stage::Preprocess, bytes)?;
        self.crossed.out_of_plugin += bytes;
        let output_bytes = self.limits().output_bytes;
        tensors
            .into_iter()
            .map(|tensor| into_tensor(tensor, output_bytes).map_err(|what| self.failed(Stage::Preprocess, &what)))
            .collect()
    }

    pub(super) async fn postprocess(&mut self, outputs: &[Tensor]) -> Result<Response, Error> {
        let time = self.enter(Stage::Postprocess)?;
        let wire: Vec<(Vec<u64>, Bytes)> = outputs
            .iter()
            .map(|tensor| (tensor.shape.iter().map(|&size| size as u64).collect(), tensor.to_wire()))
            .collect();
        self.crossed.into_plugin += wire.iter().map(|(_, data)| data.len()).sum::<usize>();
        let tensors: Vec<types::TensorParam<'_>> = outputs
            .iter()
            .zip(&wire)
            .map(|(tensor, (shape, data))| types::TensorParam {
                name: &tensor.name,
                datatype: tensor.datatype.name(),
                shape,
                data,
            })
            .collect();
        let call = self.exports.nexus_plugin_transform().call_postprocess(&mut self.store, &tensors);
        let outcome = timeout(time, call).await;
        let response =
            self.leave(Stage::Postprocess, outcome).map_err(|failure| self.answer(Stage::Postprocess, failure))?;
        self.check_output(Stage::Postprocess, response.body.len().saturating_add(response.content_type.len()))?;
        self.crossed.out_of_plugin += response.body.len();
        Ok(Response { content_type: response.content_type, body: response.body.into() })
    }

    pub(super) fn peak_memory(&self) -> usize {
        self.store.data().memory.peak
    }

    pub(super) fn crossed(&self) -> Crossed {
        self.crossed
    }

    pub(super) fn time_fetching(&self) -> Duration {
        self.store.data().egress.time_spent()
    }

    /// Whether a call was cut off, so that no further one can be made.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// The error a client gets: "invalid-input" is the client's fault, all else the plugin's.
    pub(super) fn answer(&self, stage: Stage, failure: Failure) -> Error {
        match failure {
            Failure::Host(error) => error,
            Failure::Guest(error) if error.code == "invalid-input" => Error::invalid_input(shorten(error.message)),
            Failure::Guest(error) => self.failed(stage, &shorten(format!("{}: {}", error.code, error.message))),
        }
    }

    fn enter(&mut self, stage: Stage) -> Result<Duration, Error> {
        if self.broken {
            return Err(self.failed(stage, "an earlier call into this instance was cut off"));
        }
        // Until `leave`: a caller that goes away drops the call's future half-way.
        self.broken = true;
        self.store.set_epoch_deadline(1);
        let sandbox = self.store.data();
        sandbox.log.enter(stage);
        // What an earlier stage recovered from is not this one's fault.
        sandbox.egress.take_fault();
        Ok(self.shared.limits.wall_time)
    }

    fn leave<T>(
        &mut self,
        stage: Stage,
        outcome: Result<wasmtime::Result<Result<T, types::Error>>, Elapsed>,
    ) -> Result<T, Failure> {
        let sandbox = self.store.data();
        let site = Site { plugin: &self.label, stage, limits: &self.shared.limits };
        let ours = |fallback: Failure| match sandbox.egress.take_fault() {
            Some(fault) => Failure::Host(site.fetch(fault, sandbox)),
            None => fallback,
        };
        match outcome {
            Ok(Ok(returned)) => {
                self.broken = false;
                // A plugin that made do without what it asked for, and returned something, is believed.
                returned.map_err(|error| ours(Failure::Guest(error)))
            }
            Ok(Err(error)) => Err(ours(Failure::Host(site.trapped(&error, sandbox)))),
            Err(_) => Err(ours(Failure::Host(site.timed_out(sandbox)))),
        }
    }

    fn check_output(&self, stage: Stage, size: usize) -> Result<(), Error> {
        if size <= self.shared.limits.output_bytes {
            return Ok(());
        }
        let site = self.site(stage);
        Err(site.failed(site.output_too_large(), self.store.data()))
    }

    fn failed(&self, stage: Stage, what: &str) -> Error {
        self.site(stage).failed(what, self.store.data())
    }

    fn site(&self, stage: Stage) -> Site<'_> {
        Site { plugin: &self.label, stage, limits: self.limits() }
    }

    fn limits(&self) -> &PluginLimits {
        &self.shared.limits
    }
}

/// Says of a failed `init` at bind time that the configuration is wrong, where the plugin says so.
pub(super) fn is_config_error(error: &types::Error) -> bool {
    matches!(error.code.as_str(), "invalid-config" | "invalid-input")
}

/// A plugin that fails while it is uploaded is the uploader's to mend.
pub(super) fn as_invalid_input(error: Error) -> Error {
    match error.code {
        ErrorCode::PluginFailed => Error { code: ErrorCode::InvalidInput, ..error },
        _ => error,
    }
}

fn specs(specs: &[crate::tensor::TensorSpec]) -> Vec<types::TensorSpec<'_>> {
    // Without a number of axes there is no way to tell a plugin of it.
    let told = specs.iter().filter_map(|spec| Some((spec, spec.shape.as_deref()?)));
    told.map(|(spec, shape)| types::TensorSpec { name: &spec.name, datatype: spec.datatype.name(), shape }).collect()
}

fn into_tensor(tensor: types::TensorResult, output_bytes: usize) -> Result<Tensor, String> {
    let types::TensorResult { name, datatype, shape, data } = tensor;
    let Some(datatype) = DataType::from_name(&datatype) else {
        return Err(format!("it returned tensor {name:?} of the unknown datatype {datatype:?}"));
    };
    let elements = shape.iter().try_fold(1u64, |count, &size| count.checked_mul(size)).unwrap_or(u64::MAX);
    // A text takes more on the host than in the plugin: one that is empty has 4 bytes there.
    if datatype == DataType::Bytes && elements > (output_bytes / size_of::<Bytes>()) as u64 {
        return Err(format!(
            "it returned tensor {name:?} of {elements} texts, more than {output_bytes} bytes can hold"
        ));
    }
    let sizes: Result<Vec<usize>, _> = shape.iter().map(|&size| usize::try_from(size)).collect();
    let sizes = sizes.map_err(|_| format!("it returned tensor {name:?} of the impossible shape {shape:?}"))?;
    Tensor::from_wire(name, datatype, sizes, Bytes::from(data))
        .map_err(|error| format!("it returned a bad tensor: {error}"))
}
