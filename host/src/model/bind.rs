//! Plugins come to a model: bound, tried with a golden request, and put in place of those that served before.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::load::Models;
use super::model_toml::{OnFailure, Pipeline, StageBinding};
use super::registry::{BoundPipeline, BoundStage, KnownVersion, ModelVersion};
use super::repository::Entry;
use super::spec::{value_spec, zeros};
use crate::error::{Error, ErrorCode, Result};
use crate::pipeline::{self, Payload, Trace, only_input};
use crate::plugin::{Binding, Manifest, ModelDescription, Plugin, Request, Stage};
use crate::tensor::DataType;
use crate::terms::Terms;

/// The request that a pipeline was tried with, by where it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Golden {
    /// The binding brought it.
    Binding,
    /// The plugin brought it.
    Plugin,
    /// Inputs of nothing but zeros: there is no preprocess stage, so any tensors of the right shape do.
    Zeros,
    /// There was none, so that preprocess has not run yet.
    None,
}

/// A version that serves with new plugins.
pub struct Rebound {
    pub model: Arc<ModelVersion>,
    pub golden: Golden,
}

impl Models {
    /// Puts plugins around the versions of a model, all of them or the one named. Requests under way end with the
    /// plugins they began with; where one version does not take them, all go on as they were.
    ///
    /// # Errors
    /// No such model, version or plugin; a configuration that the plugin refuses; a golden request that fails, with what
    /// differs.
    pub async fn set_pipeline(&self, id: &str, version: Option<&str>, pipeline: Pipeline) -> Result<Vec<Rebound>> {
        // Before anybody else has to wait: loading and compiling may take long.
        let versions = self.loaded(id, version).await?;
        let mut rebound = self.rebind(&versions, &pipeline).await?;
        let _change = self.changes.acquire().await.map_err(Error::internal)?;
        let serials =
            |versions: &[Arc<ModelVersion>]| -> Vec<u64> { versions.iter().map(|model| model.serial).collect() };
        // Those that are loaded now: memory may have been needed for others meanwhile.
        let now = self.ready_of(id, version)?;
        let are_current = rebound.iter().all(|(model, _)| self.are_current(&model.pipeline));
        if serials(&now) != serials(&versions) || !are_current {
            // A version came or went, a plugin went, or another change was first.
            rebound = self.rebind(&now, &pipeline).await?;
        }
        self.change_config(id, |config| match version {
            Some(version) => config.version_mut(version).pipeline = Some(pipeline.clone()),
            None => {
                config.pipeline = pipeline.clone();
                config.versions.values_mut().for_each(|version| version.pipeline = None);
            }
        })
        .await?;
        tracing::info!(model = id, versions = rebound.len(), "pipeline changed");
        Ok(rebound.into_iter().map(|(model, golden)| Rebound { model: self.registry.insert(model), golden }).collect())
    }

    /// The versions that plugins are to be bound to, loaded. One that is unloaded or cannot serve takes the plugins when
    /// it is loaded again, unless it is the one that was named.
    async fn loaded(&self, id: &str, version: Option<&str>) -> Result<Vec<Arc<ModelVersion>>> {
        let mut loaded = Vec::new();
        match version {
            Some(version) => {
                let entry = Entry { id: id.to_owned(), version: version.to_owned() };
                loaded.push(self.ready(&entry).await?);
            }
            None => {
                for known in self.registry.versions(id)?.iter().filter(|known| known.can_serve()) {
                    loaded.push(self.ready(&known.entry()).await?);
                }
            }
        }
        Ok(loaded)
    }

    /// The versions with other plugins around them, bound and tried, but not serving yet.
    pub(super) async fn rebind(
        &self,
        versions: &[Arc<ModelVersion>],
        pipeline: &Pipeline,
    ) -> Result<Vec<(ModelVersion, Golden)>> {
        let mut rebound = Vec::new();
        for serving in versions {
            let mut model = ModelVersion { serial: ModelVersion::next_serial(), ..(**serving).clone() };
            let golden = self.bind_and_try(&mut model, pipeline).await.map_err(|mut error| {
                let (id, version) = (serving.id(), serving.version());
                error.message = format!("model {id}, version {version}: {}; it serves on as before", error.message);
                error
            })?;
            rebound.push((model, golden));
        }
        Ok(rebound)
    }

    /// Removes a plugin that no model is bound to.
    ///
    /// # Errors
    /// There is none of that name and version, or models are bound to it.
    pub async fn remove_plugin(&self, name: &str, version: &str) -> Result<()> {
        let _change = self.changes.acquire().await.map_err(Error::internal)?;
        let reference = format!("{name}@{version}");
        let names = |known: &KnownVersion| {
            let config = self.registry.config(&known.id);
            let Pipeline { preprocess, postprocess, .. } = config.pipeline_of(&known.version);
            [preprocess, postprocess].into_iter().flatten().any(|stage| stage.plugin == reference)
        };
        let bound = self.registry.list().into_iter().filter(names);
        let bound: Vec<String> = bound.map(|known| format!("{}/{}", known.id, known.version)).collect();
        if !bound.is_empty() {
            let message = format!(
                "plugin {reference} is bound to {}; bind them to another one first, with PUT /models/ID/pipeline",
                bound.join(", ")
            );
            return Err(Error::new(ErrorCode::Conflict, message));
        }
        self.plugins.remove(name, version).await
    }

    /// The versions, and the stages of theirs, that a plugin is bound to.
    pub fn bound_to(&self, reference: &str) -> Vec<(Arc<ModelVersion>, Vec<Stage>)> {
        let stages = |model: &ModelVersion| -> Vec<Stage> {
            let bound = model.pipeline.stages();
            bound.filter(|(_, stage)| stage.binding.plugin().reference() == reference).map(|(name, _)| name).collect()
        };
        let bound = self.registry.ready().into_iter().map(|model| (stages(&model), model));
        bound.filter(|(stages, _)| !stages.is_empty()).map(|(stages, model)| (model, stages)).collect()
    }

    /// Binds plugins to a version that does not serve yet, and tries them.
    pub(super) async fn bind_and_try(&self, model: &mut ModelVersion, pipeline: &Pipeline) -> Result<Golden> {
        model.pipeline = self.bind(pipeline, model).await?;
        tokio::time::timeout(self.predict_timeout, try_golden(model)).await.map_err(|_| {
            let limit = humantime::format_duration(self.predict_timeout);
            Error::invalid_input(format!("the golden request took longer than {limit} (--predict-timeout)"))
        })?
    }

    /// Whether the plugins that a version was bound to are still those of their names.
    pub(super) fn are_current(&self, pipeline: &BoundPipeline) -> bool {
        let current = |plugin: &Plugin| {
            let Manifest { name, version, .. } = &plugin.manifest;
            self.plugins.find(name, Some(version)).is_ok_and(|known| known.info.sha256 == plugin.sha256)
        };
        pipeline.stages().all(|(_, stage)| current(stage.binding.plugin()))
    }

    /// Binds plugins to a version: each is initialised for it.
    pub(super) async fn bind(&self, pipeline: &Pipeline, model: &ModelVersion) -> Result<BoundPipeline> {
        let description = Arc::new(describe(model));
        let preprocess = self.bind_stage(pipeline.preprocess.as_ref(), Stage::Preprocess, &description).await?;
        if let Some(stage) = &preprocess
            && stage.on_failure == OnFailure::Bypass
        {
            check_bypass(model)?;
        }
        let postprocess = match (&pipeline.preprocess, &pipeline.postprocess, &preprocess) {
            (Some(before), Some(after), Some(stage)) if before.is_same_plugin(after) => {
                check_stage(&stage.binding, Stage::Postprocess)?;
                Some(BoundStage { binding: Arc::clone(&stage.binding), on_failure: after.on_failure })
            }
            (_, after, _) => self.bind_stage(after.as_ref(), Stage::Postprocess, &description).await?,
        };
        Ok(BoundPipeline { preprocess, postprocess, configured: pipeline.clone() })
    }

    async fn bind_stage(
        &self,
        stage: Option<&StageBinding>,
        name: Stage,
        model: &Arc<ModelDescription>,
    ) -> Result<Option<BoundStage>> {
        let Some(stage) = stage else { return Ok(None) };
        let plugin = self.plugins.get(&stage.plugin).await?;
        let config = serde_json::to_string(&stage.config).map_err(Error::internal)?;
        let binding = Arc::new(Binding::new(plugin, Arc::clone(model), config).await?);
        check_stage(&binding, name)?;
        Ok(Some(BoundStage { binding, on_failure: stage.on_failure }))
    }
}

fn check_stage(binding: &Binding, stage: Stage) -> Result<()> {
    let plugin = binding.plugin();
    if plugin.manifest.has(stage) {
        return Ok(());
    }
    let stages: Vec<&str> = plugin.manifest.stages.iter().map(|stage| stage.name()).collect();
    Err(Error::invalid_input(format!(
        "plugin {} has no {} stage; it has: {}",
        plugin.reference(),
        stage.name(),
        stages.join(", ")
    )))
}

/// A body can be the model's input only where there is one, of elements with a size.
fn check_bypass(model: &ModelVersion) -> Result<()> {
    match only_input(model) {
        Some(input) if input.spec.tensor().is_some_and(|spec| spec.datatype != DataType::Bytes) => Ok(()),
        _ => Err(Error::invalid_input(format!(
            "preprocess cannot be bypassed for model {}: a request's body can only take the place of one input, of numbers; \
             its inputs: {}",
            model.id(),
            pipeline::describe_inputs(model)
        ))),
    }
}

/// A version as plugins are told of it.
pub fn describe(model: &ModelVersion) -> ModelDescription {
    ModelDescription {
        id: model.id().to_owned(),
        version: model.version().to_owned(),
        inputs: model.inputs.iter().filter_map(|input| input.spec.tensor().cloned()).collect(),
        // As the tensors that a plugin is given of them.
        outputs: model.info.metadata.outputs.iter().flat_map(|output| value_spec(output).to_tensor_specs()).collect(),
        labels: model.labels.clone(),
    }
}

/// Sends a golden request all the way through: its tensors are checked against the model as every request's are.
async fn try_golden(model: &ModelVersion) -> Result<Golden> {
    let (payload, golden) = match (&model.pipeline.preprocess, &model.pipeline.postprocess) {
        (Some(stage), _) => match &model.pipeline.configured.golden {
            Some(json) => (Payload::Raw(json_request(json)), Golden::Binding),
            None => match stage.binding.golden().await? {
                Some(request) => (Payload::Raw(request), Golden::Plugin),
                None => return Ok(Golden::None),
            },
        },
        (None, Some(_)) => match zeros(&model.inputs) {
            Some(values) => (Payload::Tensors(values), Golden::Zeros),
            None => return Ok(Golden::None),
        },
        (None, None) => return Ok(Golden::None),
    };
    let mut trace = Trace::default();
    let answer = pipeline::run(model, payload, &Terms::within(Duration::MAX), &mut trace).await;
    match (answer, trace.bypassed.is_empty()) {
        (Ok(_), true) => Ok(golden),
        (Ok(_), false) => Err(Error::invalid_input("the golden request fails, and only goes around the plugin")),
        (Err(error), _) if matches!(error.code, ErrorCode::Overloaded | ErrorCode::NotReady | ErrorCode::Internal) => {
            Err(error)
        }
        (Err(error), _) => {
            Err(Error::invalid_input(format!("the golden request fails: {}", error.message)).with_cause(error))
        }
    }
}

fn json_request(json: &str) -> Request {
    let body = Bytes::copy_from_slice(json.as_bytes());
    Request { content_type: "application/json".to_owned(), body, parameters: Vec::new() }
}
