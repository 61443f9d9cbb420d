//! What a binding configures: the fields of a record, and what the model's outputs mean.

use schemars::JsonSchema;
use serde::Deserialize;

/// Fields of a record, in the order of the model's columns, and what comes of the model's outputs.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The fields of a record. Those of one input are its columns, in this order. Empty for postprocess alone.
    #[serde(default)]
    pub fields: Vec<Field>,
    /// What to do with a field of a record that is not among `fields`.
    #[serde(default)]
    pub extra_fields: ExtraFields,
    /// Most records of one request.
    #[serde(default = "default_max_records")]
    pub max_records: usize,
    /// What the model's outputs mean.
    #[serde(default)]
    pub output: Output,
}

fn default_max_records() -> usize {
    1000
}

/// A field of the record that the configuration does not name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExtraFields {
    /// The request is refused: a misspelt name would otherwise count as a missing value.
    #[default]
    Error,
    /// It is passed over.
    Ignore,
}

/// One field of a record.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[schemars(transform = crate::schema::decide_by_kind)]
pub enum Field {
    Numeric(Numeric),
    OneHot(OneHot),
    Ordinal(Ordinal),
    Boolean(Boolean),
    Text(Text),
}

/// A number, scaled: log1p first, then `(x - mean) / std` or `(x - min) / (max - min)`. One column.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Numeric {
    /// Name in the record.
    pub name: String,
    /// Model input it belongs to. Default: the only one, else the one of the field's name.
    pub input: Option<String>,
    /// Takes the logarithm of 1 + x first.
    #[serde(default)]
    pub log1p: bool,
    /// Subtracted.
    pub mean: Option<f64>,
    /// Divided by, after `mean` is subtracted.
    pub std: Option<f64>,
    /// Becomes 0.
    pub min: Option<f64>,
    /// Becomes 1.
    pub max: Option<f64>,
    /// What stands for a missing value.
    #[serde(default)]
    pub missing: MissingNumber,
    /// Adds a column: 1 where the value is missing, else 0.
    #[serde(default)]
    pub missing_indicator: bool,
    /// Takes text that holds a number ("22") as well; blank text counts as missing.
    #[serde(default)]
    pub coerce: bool,
}

/// What stands for a number that is missing or null.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissingNumber {
    /// Nothing: the request is refused.
    #[default]
    Error,
    /// `mean`, which scaling makes 0.
    Mean,
    /// NaN, for models that know what to do with it.
    Nan,
    /// This number, scaled as any other.
    Value(f64),
}

/// A column for each category: 1 in the one the value is, else 0.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OneHot {
    /// Name in the record.
    pub name: String,
    /// Model input it belongs to. Default: the only one, else the one of the field's name.
    pub input: Option<String>,
    /// The categories, in the order of their columns.
    pub categories: Vec<Category>,
    /// Leaves out the first category's column: it is all zeros then.
    #[serde(default)]
    pub drop_first: bool,
    /// What comes of a value that is no category. "other" adds a last column for it.
    #[serde(default)]
    pub unknown: UnknownCategory,
    /// What stands for a missing value. "zeros" with `missing_indicator` makes it a category of its own.
    #[serde(default)]
    pub missing: MissingCategory,
    /// Adds a last column: 1 where the value is missing, else 0.
    #[serde(default)]
    pub missing_indicator: bool,
    /// Takes text that holds a category's number or truth value ("3", "true") as well; blank text counts as missing.
    #[serde(default)]
    pub coerce: bool,
}

/// A value of a table: text, a whole number, true or false.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Category {
    Text(String),
    Whole(i64),
    Truth(bool),
}

/// What comes of a value that is in no column of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnknownCategory {
    /// The request is refused.
    #[default]
    Error,
    /// 0 in every column.
    Zeros,
    /// 1 in a last column of its own.
    Other,
}

/// What stands for a category that is missing or null.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissingCategory {
    /// Nothing: the request is refused.
    #[default]
    Error,
    /// 0 in every column.
    Zeros,
    /// 1 in the last column, which `unknown` "other" makes.
    Other,
    /// This category.
    Value(Category),
}

/// A number for each category. One column.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ordinal {
    /// Name in the record.
    pub name: String,
    /// Model input it belongs to. Default: the only one, else the one of the field's name.
    pub input: Option<String>,
    /// The categories.
    pub categories: Vec<Category>,
    /// The number of each. Default: 0, 1, 2 …
    pub codes: Option<Vec<f64>>,
    /// What comes of a value that is no category.
    #[serde(default)]
    pub unknown: UnknownCode,
    /// What stands for a missing value.
    #[serde(default)]
    pub missing: MissingCode,
    /// Adds a column: 1 where the value is missing, else 0.
    #[serde(default)]
    pub missing_indicator: bool,
    /// Takes text that holds a category's number or truth value ("3", "true") as well; blank text counts as missing.
    #[serde(default)]
    pub coerce: bool,
}

/// What comes of a value that is no category.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnknownCode {
    /// The request is refused.
    #[default]
    Error,
    /// This number.
    Code(f64),
}

/// What stands for a category that is missing or null.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissingCode {
    /// Nothing: the request is refused.
    #[default]
    Error,
    /// NaN, for models that know what to do with it.
    Nan,
    /// This number.
    Code(f64),
    /// This category's number.
    Value(Category),
}

/// 1 for true, 0 for false. One column.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Boolean {
    /// Name in the record.
    pub name: String,
    /// Model input it belongs to. Default: the only one, else the one of the field's name.
    pub input: Option<String>,
    /// What stands for a missing value.
    #[serde(default)]
    pub missing: MissingTruth,
    /// Adds a column: 1 where the value is missing, else 0.
    #[serde(default)]
    pub missing_indicator: bool,
    /// Takes 0 and 1, and the texts "true", "false", "1" and "0" in any case, as well; blank text counts as missing.
    #[serde(default)]
    pub coerce: bool,
}

/// What stands for a truth value that is missing or null.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissingTruth {
    /// Nothing: the request is refused.
    #[default]
    Error,
    /// NaN, for models that know what to do with it.
    Nan,
    /// This.
    Value(bool),
}

/// Text as it is, for a model whose input is BYTES. One column.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// Name in the record.
    pub name: String,
    /// Model input it belongs to. Default: the only one, else the one of the field's name.
    pub input: Option<String>,
    /// What stands for a missing value.
    #[serde(default)]
    pub missing: MissingText,
}

/// What stands for a text that is missing or null.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissingText {
    /// Nothing: the request is refused.
    #[default]
    Error,
    /// This.
    Value(String),
}

/// What the model's outputs mean.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Output {
    pub task: Task,
    /// Label of class i at index i. Default: those the model was uploaded with, else "0", "1" …
    pub labels: Option<Vec<String>>,
    /// The output that holds the label. Default: the first INT64, INT32 or BYTES one with one value a record.
    pub label_output: Option<String>,
    /// The output that holds the scores or the value. Default: the first FP32 or FP64 one with up to two axes.
    pub scores_output: Option<String>,
    pub scores: Scores,
    /// Lowest probability (or raw score) of the second of two classes at which it is the label. Default for a single
    /// score: 0.5 (raw: 0); for two: the label output, else the larger one.
    pub threshold: Option<f64>,
}

/// What the model is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Regression where there is one score a record, no label output and no labels; else classification.
    #[default]
    Auto,
    Classification,
    Regression,
}

/// What a classifier's scores are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scores {
    /// Probabilities where they are within [0,1] and each record's add up to 1, else logits; a single one a probability.
    #[default]
    Auto,
    /// Answered as they are; a single one is the second class's.
    Probabilities,
    /// Softmax makes them probabilities; for a single one, the logistic function.
    Logits,
    /// Answered as `scores`, not as `probabilities`.
    Raw,
}
