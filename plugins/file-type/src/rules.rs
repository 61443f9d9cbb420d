//! From the model's scores to a label: Magika's thresholds and its overwrite map.

use std::borrow::Cow;
use std::collections::BTreeMap;

use nexus_guest::{Error, Model, Tensor};
use serde::Serialize;

use crate::config::{PredictionMode, Settings};
use crate::content_types::ContentTypes;

/// What a model's score is measured against.
pub(crate) struct Rules {
    labels: Vec<String>,
    thresholds: BTreeMap<String, f32>,
    medium_confidence_threshold: f32,
    overwrite_map: BTreeMap<String, String>,
    prediction_mode: PredictionMode,
}

/// What is answered, and why.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict<'r> {
    pub(crate) label: Cow<'r, str>,
    /// What the model said; "undefined" where it was not asked.
    pub(crate) model_label: Cow<'r, str>,
    pub(crate) score: f32,
    pub(crate) overwrite_reason: OverwriteReason,
}

/// Why the label is not the model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OverwriteReason {
    None,
    LowConfidence,
    OverwriteMap,
}

impl Rules {
    /// The labels are the binding's, else those the model was uploaded with, else Magika's. Errs where there is not one
    /// for each of the model's classes.
    pub(crate) fn new(model: &Model, settings: Settings) -> Result<Self, Error> {
        let (labels, whose) = match (settings.labels, model.labels.is_empty()) {
            (Some(labels), true) => (labels, "`target_labels_space`"),
            (Some(labels), false) if labels == model.labels => (labels, "`target_labels_space`"),
            (Some(_), false) => {
                return Err(Error::invalid_config(
                    "`target_labels_space` differs from the labels the model was uploaded with; leave one of them out",
                ));
            }
            (None, false) => (model.labels.clone(), "the labels the model was uploaded with"),
            (None, true) => (settings.builtin_labels, "the built-in labels of standard_v3_3"),
        };
        let [output] = model.outputs.as_slice() else {
            return Err(Error::invalid_config(format!(
                "expected a model with one output, the scores; this one has {}",
                model.outputs.len()
            )));
        };
        let fits = match *output.shape.as_slice() {
            [_, classes] => classes == -1 || classes == labels.len() as i64,
            _ => false,
        };
        if output.datatype != "FP32" || !fits {
            return Err(Error::invalid_config(format!(
                "expected the output FP32 [·,{}], a score for each of {whose}; it is `{}` {} {:?}",
                labels.len(),
                output.name,
                output.datatype,
                output.shape
            )));
        }
        Ok(Rules {
            labels,
            thresholds: settings.thresholds,
            medium_confidence_threshold: settings.medium_confidence_threshold,
            overwrite_map: settings.overwrite_map,
            prediction_mode: settings.prediction_mode,
        })
    }

    /// The label for the model's scores.
    pub(crate) fn judge(&self, outputs: &[Tensor], content_types: &ContentTypes) -> Result<Verdict<'_>, Error> {
        let (class, score) = best(outputs, self.labels.len())?;
        let model_label = self.labels[class].as_str();
        let mapped = self.overwrite_map.get(model_label).map_or(model_label, String::as_str);
        let (label, overwrite_reason) = match score >= self.threshold(model_label) {
            true if mapped == model_label => (mapped, OverwriteReason::None),
            true => (mapped, OverwriteReason::OverwriteMap),
            // A model in doubt between two kinds of text still knows that it is text.
            false => match if content_types.is_text(mapped) { "txt" } else { "unknown" } {
                generic if generic == model_label => (generic, OverwriteReason::None),
                generic => (generic, OverwriteReason::LowConfidence),
            },
        };
        Ok(Verdict { label: label.into(), model_label: model_label.into(), score, overwrite_reason })
    }

    fn threshold(&self, label: &str) -> f32 {
        match self.prediction_mode {
            PredictionMode::BestGuess => 0.0,
            PredictionMode::MediumConfidence => self.medium_confidence_threshold,
            PredictionMode::HighConfidence => {
                self.thresholds.get(label).copied().unwrap_or(self.medium_confidence_threshold)
            }
        }
    }
}

impl Verdict<'static> {
    /// For files the model is not asked about.
    pub(crate) fn without_the_model(label: &'static str) -> Self {
        let (model_label, overwrite_reason) = ("undefined".into(), OverwriteReason::None);
        Verdict { label: label.into(), model_label, score: 1.0, overwrite_reason }
    }
}

/// The best class, the first among equals.
fn best(outputs: &[Tensor], classes: usize) -> Result<(usize, f32), Error> {
    let [output] = outputs else {
        return Err(Error::plugin(format!("expected one output, the model gave {}", outputs.len())));
    };
    let scores = output.as_f32()?;
    if scores.len() != classes {
        return Err(Error::plugin(format!(
            "output `{}` {:?} holds {} scores, expected [1,{classes}]",
            output.name,
            output.shape,
            scores.len()
        )));
    }
    let mut best = (0, f32::NEG_INFINITY);
    for (class, &score) in scores.iter().enumerate() {
        if !score.is_finite() {
            return Err(Error::plugin(format!("output `{}` holds {score}", output.name)));
        }
        if score > best.1 {
            best = (class, score);
        }
    }
    Ok(best)
}
