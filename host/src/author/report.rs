//! What is shown of a run: the same fields for people and, with `--json`, for programs.

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::case::Outcome;
use super::elements::TensorLine;
use super::log::LogLine;
use super::milliseconds;
use crate::pipeline::{StageTrace, Trace};
use crate::plugin::{Binding, Plugin};

/// A run and its end.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) model: ModelLine,
    #[serde(flatten)]
    pub(super) seen: Seen,
    pub(super) log: Vec<LogLine>,
    #[serde(serialize_with = "readable")]
    pub(super) outcome: Outcome,
    /// How that compares with the case that was replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) replay: Option<ReplayLine>,
}

/// What was seen on the way, as far as the run came.
#[derive(Default, Serialize)]
pub(super) struct Seen {
    pub(super) plugin: Option<PluginLine>,
    pub(super) binding: Option<BindingLine>,
    pub(super) request: Option<RequestLine>,
    /// What went into the model.
    pub(super) inputs: Vec<TensorLine>,
    /// What came out of it.
    pub(super) outputs: Vec<TensorLine>,
    pub(super) steps: Vec<Step>,
}

#[derive(Serialize)]
pub(super) struct PluginLine {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) stages: Vec<&'static str>,
    pub(super) sha256: String,
    pub(super) size: usize,
    /// Compiling it, and all else that an upload does.
    pub(super) took_ms: f64,
}

#[derive(Serialize)]
pub(super) struct ModelLine {
    pub(super) file: String,
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct BindingLine {
    pub(super) took_ms: f64,
    /// Whether `init` ran once and its memory is copied.
    pub(super) snapshot: bool,
    pub(super) no_snapshot: Option<String>,
}

#[derive(Serialize)]
pub(super) struct RequestLine {
    pub(super) content_type: String,
    pub(super) bytes: usize,
    /// The plugin's own.
    pub(super) golden: bool,
}

/// One step of the pipeline.
#[derive(Serialize)]
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) ms: f64,
    /// Part of it: what the plugin fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fetching_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) plugin: Option<StepInPlugin>,
}

/// What a step took of a plugin's sandbox.
#[derive(Serialize)]
pub(super) struct StepInPlugin {
    /// The most linear memory of the instance so far, in bytes.
    pub(super) peak_memory: usize,
    pub(super) bytes_in: usize,
    pub(super) bytes_out: usize,
}

#[derive(Serialize)]
pub(super) struct ReplayLine {
    pub(super) same: bool,
    /// Files that are no longer those of the case.
    pub(super) changed: Vec<&'static str>,
    #[serde(serialize_with = "readable")]
    pub(super) recorded: Outcome,
}

impl PluginLine {
    pub(super) fn of(plugin: &Plugin, took_ms: f64) -> PluginLine {
        PluginLine {
            name: plugin.manifest.name.clone(),
            version: plugin.manifest.version.clone(),
            stages: plugin.manifest.stages.iter().map(|stage| stage.name()).collect(),
            sha256: plugin.sha256.clone(),
            size: plugin.size,
            took_ms,
        }
    }
}

impl BindingLine {
    pub(super) fn of(binding: &Binding, took_ms: f64) -> BindingLine {
        let no_snapshot = binding.no_snapshot().map(str::to_owned);
        BindingLine { took_ms, snapshot: no_snapshot.is_none(), no_snapshot }
    }
}

impl Seen {
    /// Takes in what the pipeline saw.
    pub(super) fn went(&mut self, trace: &Trace) {
        if let Some(tensors) = &trace.tensors {
            self.inputs = tensors.inputs.iter().flat_map(TensorLine::of_value).collect();
            self.outputs = tensors.outputs.iter().flat_map(TensorLine::of_value).collect();
        }
        self.steps.extend(trace.preprocess.as_ref().map(|stage| Step::in_plugin("preprocess", stage)));
        if let Some(took) = trace.inference {
            let step = |name, time| Step { name, ms: milliseconds(time), fetching_ms: None, plugin: None };
            self.steps.extend([step("queue", took.queued), step("infer", took.ran)]);
        }
        self.steps.extend(trace.postprocess.as_ref().map(|stage| Step::in_plugin("postprocess", stage)));
    }
}

impl Step {
    fn in_plugin(name: &'static str, stage: &StageTrace) -> Step {
        Step {
            name,
            ms: milliseconds(stage.took),
            fetching_ms: Some(stage.fetching).filter(|time| !time.is_zero()).map(milliseconds),
            plugin: Some(StepInPlugin {
                peak_memory: stage.peak_memory,
                bytes_in: stage.crossed.into_plugin,
                bytes_out: stage.crossed.out_of_plugin,
            }),
        }
    }
}

/// An outcome with the answer's body as JSON or text where it is that, and in base64 where it is neither.
fn readable<S: Serializer>(outcome: &Outcome, serializer: S) -> Result<S::Ok, S::Error> {
    let Outcome::Answer { content_type, body } = outcome else { return outcome.serialize(serializer) };
    let (kind, body) = match (serde_json::from_slice::<Value>(body), std::str::from_utf8(body)) {
        (Ok(json), _) => ("json", json),
        (_, Ok(text)) => ("text", json!(text)),
        _ => return outcome.serialize(serializer),
    };
    json!({ "answer": { "content_type": content_type, kind: body } }).serialize(serializer)
}
