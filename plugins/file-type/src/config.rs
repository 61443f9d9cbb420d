//! What a binding may configure: Magika's own `config.min.json`, whole or in part.

use std::collections::BTreeMap;

use nexus_guest::Error;
use schemars::JsonSchema;
use serde::Deserialize;

/// The file that belongs to the model `standard_v3_3`.
const BUILTIN: &str = include_str!("../magika/config.min.json");

/// The fields of Magika's `config.min.json`, so that the file of another model of its family can be given as it is, and
/// `prediction_mode`. What is left out is `standard_v3_3`'s.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How sure the model has to be. Default: "high-confidence".
    pub prediction_mode: Option<PredictionMode>,
    /// Label of class i at index i. Default: the labels the model was uploaded with, else `standard_v3_3`'s.
    pub target_labels_space: Option<Vec<String>>,
    /// Lowest score at which a label is believed, by label.
    pub thresholds: Option<BTreeMap<String, f32>>,
    /// Lowest score at which any other label is believed.
    pub medium_confidence_threshold: Option<f32>,
    /// Labels of the model that are answered as another.
    pub overwrite_map: Option<BTreeMap<String, String>>,
    /// Bytes taken from the beginning, once white space is stripped.
    pub beg_size: Option<usize>,
    /// Bytes taken from the end, once white space is stripped.
    pub end_size: Option<usize>,
    /// Bytes looked at on either end.
    pub block_size: Option<usize>,
    /// What stands where there is no byte.
    pub padding_token: Option<i32>,
    /// Files of fewer bytes are not judged by the model.
    pub min_file_size_for_dl: Option<usize>,
    /// Only 0 is supported, as in Magika itself.
    pub mid_size: Option<usize>,
    /// Only false is supported, as in Magika itself.
    pub use_inputs_at_offsets: Option<bool>,
    /// Only "none" is supported: an encrypted model cannot be served.
    pub protection: Option<String>,
    /// Of no meaning without `protection`.
    pub aes_key_hex: Option<String>,
    /// Version of the file's own form.
    pub version_major: Option<u32>,
}

/// How sure the model has to be before its label is answered instead of `txt` or `unknown`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PredictionMode {
    /// The label's own threshold, else `medium_confidence_threshold`.
    #[default]
    HighConfidence,
    /// `medium_confidence_threshold` for every label.
    MediumConfidence,
    /// The best label, however low its score.
    BestGuess,
}

/// A configuration in which nothing is open but the labels.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) prediction_mode: PredictionMode,
    /// The binding's own labels, if it has some.
    pub(crate) labels: Option<Vec<String>>,
    pub(crate) builtin_labels: Vec<String>,
    pub(crate) thresholds: BTreeMap<String, f32>,
    pub(crate) medium_confidence_threshold: f32,
    pub(crate) overwrite_map: BTreeMap<String, String>,
    pub(crate) beg_size: usize,
    pub(crate) end_size: usize,
    pub(crate) block_size: usize,
    pub(crate) padding_token: i32,
    pub(crate) min_file_size: usize,
}

impl Config {
    /// What this configuration leaves out is taken from `standard_v3_3`'s. Errs where the two together make no sense.
    pub(crate) fn over_builtin(self) -> Result<Settings, Error> {
        self.refuse_unsupported()?;
        let builtin: Config = serde_json::from_str(BUILTIN)
            .map_err(|error| Error::plugin(format!("the built-in configuration does not fit: {error}")))?;
        let settings = Settings {
            prediction_mode: self.prediction_mode.unwrap_or_default(),
            labels: self.target_labels_space,
            builtin_labels: builtin.target_labels_space.unwrap_or_default(),
            thresholds: either(self.thresholds, builtin.thresholds)?,
            medium_confidence_threshold: either(self.medium_confidence_threshold, builtin.medium_confidence_threshold)?,
            overwrite_map: either(self.overwrite_map, builtin.overwrite_map)?,
            beg_size: either(self.beg_size, builtin.beg_size)?,
            end_size: either(self.end_size, builtin.end_size)?,
            block_size: either(self.block_size, builtin.block_size)?,
            padding_token: either(self.padding_token, builtin.padding_token)?,
            min_file_size: either(self.min_file_size_for_dl, builtin.min_file_size_for_dl)?,
        };
        settings.check()?;
        Ok(settings)
    }

    fn refuse_unsupported(&self) -> Result<(), Error> {
        let refuse = |message: &str| Err(Error::invalid_config(message));
        if self.mid_size.is_some_and(|size| size != 0) {
            return refuse("`mid_size` has to be 0: no features are taken from the middle of a file");
        }
        if self.use_inputs_at_offsets == Some(true) {
            return refuse("`use_inputs_at_offsets` has to be false: no features are taken at fixed offsets");
        }
        if self.protection.as_deref().is_some_and(|protection| protection != "none") {
            return refuse("`protection` has to be \"none\": an encrypted model cannot be served");
        }
        Ok(())
    }
}

fn either<T>(own: Option<T>, builtin: Option<T>) -> Result<T, Error> {
    own.or(builtin).ok_or_else(|| Error::plugin("the built-in configuration lacks a field"))
}

/// Blocks larger than this are a mistake: the model sees a few thousand bytes.
const MAX_BLOCK: usize = 1 << 20;

impl Settings {
    fn check(&self) -> Result<(), Error> {
        let refuse = |message: String| Err(Error::invalid_config(message));
        if !(1..=MAX_BLOCK).contains(&self.block_size) {
            return refuse(format!("`block_size` has to be from 1 to {MAX_BLOCK}, not {}", self.block_size));
        }
        for (name, size) in [("beg_size", self.beg_size), ("end_size", self.end_size)] {
            if size > self.block_size {
                return refuse(format!("`{name}` {size} is over `block_size` {}", self.block_size));
            }
        }
        if !(1..=self.beg_size).contains(&self.min_file_size) {
            return refuse(format!(
                "`min_file_size_for_dl` has to be from 1 to `beg_size` {}, not {}",
                self.beg_size, self.min_file_size
            ));
        }
        let thresholds = self.thresholds.iter().map(|(label, threshold)| (format!("thresholds.{label}"), *threshold));
        let medium = ("medium_confidence_threshold".to_owned(), self.medium_confidence_threshold);
        for (name, threshold) in thresholds.chain([medium]) {
            if !(0.0..=1.0).contains(&threshold) {
                return refuse(format!("`{name}` has to be from 0 to 1, not {threshold}"));
            }
        }
        Ok(())
    }
}
