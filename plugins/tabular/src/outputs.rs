//! From the model's outputs to labels, probabilities and values.

use std::collections::HashSet;

use nexus_guest::{Error, Model, Tensor, TensorSpec};

use crate::answer::{Named, Number, Prediction};
use crate::config::{Output, Scores, Task};

/// Which outputs are read, and as what.
pub(crate) struct Outputs {
    task: Task,
    /// Label of class i at index i; may be empty.
    labels: Vec<String>,
    label_output: Option<String>,
    scores_output: Option<String>,
    scores: Scores,
    threshold: Option<f64>,
}

/// The scores of all records, a row each.
struct Matrix {
    values: Vec<f64>,
    rows: usize,
    columns: usize,
    /// Whether they were FP32.
    single: bool,
}

impl Outputs {
    /// Errs where the configuration names outputs the model does not have, or labels it has no scores for.
    pub(crate) fn new(model: Model, config: Output) -> Result<Self, Error> {
        let label_output = match (&config.label_output, config.task) {
            (Some(name), _) => Some(named(&model, "output.label_output", name, may_be_label, "INT64, INT32 or BYTES")?),
            (None, Task::Regression) => None,
            (None, _) => model.outputs.iter().find(|output| may_be_label(output)),
        };
        let scores_output = match &config.scores_output {
            Some(name) => Some(named(&model, "output.scores_output", name, may_be_scores, "FP32 or FP64")?),
            None => model.outputs.iter().find(|output| may_be_scores(output)),
        };
        let columns = scores_output.and_then(|output| output.shape.get(1)).and_then(|&n| usize::try_from(n).ok());
        let labels = config.labels.unwrap_or_else(|| model.labels.clone());
        if label_output.is_none() && scores_output.is_none() {
            let outputs: Vec<String> =
                model.outputs.iter().map(|o| format!("`{}` {} {:?}", o.name, o.datatype, o.shape)).collect();
            return Err(Error::invalid_config(format!(
                "no output is a label (INT64, INT32 or BYTES, one a record) or scores (FP32 or FP64, up to two axes); \
                 the model's outputs: {}",
                outputs.join(", ")
            )));
        }
        check_labels(&labels, columns, config.task)?;
        if config.threshold.is_some() && (columns.unwrap_or(2) > 2 || labels.len() > 2) {
            return Err(Error::invalid_config("`output.threshold` is for models with two classes"));
        }
        Ok(Outputs {
            task: config.task,
            labels,
            label_output: label_output.map(|output| output.name.clone()),
            scores_output: scores_output.map(|output| output.name.clone()),
            scores: config.scores,
            threshold: config.threshold,
        })
    }

    /// A prediction for each record.
    pub(crate) fn read(&self, outputs: &[Tensor]) -> Result<Vec<Prediction>, Error> {
        let find = |name: &Option<String>| {
            let Some(name) = name else { return Ok(None) };
            let found = outputs.iter().find(|output| output.name == *name);
            found.map(Some).ok_or_else(|| Error::plugin(format!("the model gave no output `{name}`")))
        };
        let labels = find(&self.label_output)?.map(|output| self.labels_of(output)).transpose()?;
        let scores = find(&self.scores_output)?.map(Matrix::new).transpose()?;
        match (labels, scores) {
            (None, Some(scores)) if self.is_regression(&scores) => Ok(self.values(&scores)),
            (labels, Some(scores)) => self.classes(labels, scores),
            (Some(labels), None) => {
                Ok(labels.into_iter().map(|label| Prediction { label: Some(label), ..Prediction::default() }).collect())
            }
            (None, None) => Ok(Vec::new()),
        }
    }

    fn is_regression(&self, scores: &Matrix) -> bool {
        match self.task {
            Task::Regression => true,
            Task::Classification => false,
            Task::Auto => scores.columns == 1 && self.labels.is_empty(),
        }
    }

    fn values(&self, scores: &Matrix) -> Vec<Prediction> {
        let prediction = |row: &[f64]| match *row {
            [value] => Prediction { value: Some(scores.number(value)), ..Prediction::default() },
            _ => Prediction { values: Some(self.name(row, scores.single)), ..Prediction::default() },
        };
        scores.values.chunks(scores.columns).map(prediction).collect()
    }

    fn classes(&self, labels: Option<Vec<String>>, scores: Matrix) -> Result<Vec<Prediction>, Error> {
        if let Some(labels) = labels.as_ref().filter(|labels| labels.len() != scores.rows) {
            return Err(Error::plugin(format!("{} labels and {} rows of scores", labels.len(), scores.rows)));
        }
        let is_raw = self.scores == Scores::Raw;
        let is_single = scores.columns == 1;
        let scores = self.probabilities(scores)?;
        let classes = scores.columns.max(2);
        if !self.labels.is_empty() && self.labels.len() != classes {
            return Err(Error::plugin(format!("{} labels for {classes} classes", self.labels.len())));
        }
        let threshold = self.threshold.or(is_single.then_some(if is_raw { 0.0 } else { 0.5 }));
        let mut labels = labels.map(Vec::into_iter);
        let prediction = |row: &[f64]| {
            // The iterator moves with every row, whether the label is the one answered or not.
            let given = labels.as_mut().and_then(Iterator::next);
            let label = match (threshold, given) {
                (Some(threshold), given) if self.threshold.is_some() || given.is_none() => {
                    self.label(usize::from(row.last().is_some_and(|&score| score >= threshold)))
                }
                (_, Some(label)) => label,
                (_, None) => self.label(largest(row)),
            };
            let named = Some(self.name(row, scores.single));
            let (probabilities, scores) = if is_raw { (None, named) } else { (named, None) };
            Prediction { label: Some(label), probabilities, scores, ..Prediction::default() }
        };
        Ok(scores.values.chunks(scores.columns).map(prediction).collect())
    }

    /// Scores as probabilities, a column for each class; raw ones as they are.
    fn probabilities(&self, scores: Matrix) -> Result<Matrix, Error> {
        let logits = match self.scores {
            Scores::Raw => return Ok(scores),
            Scores::Logits => true,
            Scores::Probabilities => false,
            Scores::Auto => scores.columns > 1 && !scores.are_probabilities(),
        };
        if scores.columns > 1 {
            let values = match logits {
                true => scores.values.chunks(scores.columns).flat_map(softmax).collect(),
                false => scores.values,
            };
            return Ok(Matrix { values, ..scores });
        }
        let second = |score: f64| if logits { 1.0 / (1.0 + (-score).exp()) } else { score };
        let values: Vec<f64> = scores.values.iter().flat_map(|&score| [1.0 - second(score), second(score)]).collect();
        if values.iter().any(|value| !(0.0..=1.0).contains(value)) {
            return Err(Error::plugin(
                "a score is no probability; set `output.scores` to \"logits\" or \"raw\", or `output.task` to \"regression\"",
            ));
        }
        Ok(Matrix { values, columns: 2, ..scores })
    }

    /// A single raw score is the second class's.
    fn name(&self, row: &[f64], single: bool) -> Named {
        let first = usize::from(row.len() == 1);
        let named = |(column, &value): (usize, &f64)| (self.label(first + column), Number { value, single });
        Named(row.iter().enumerate().map(named).collect())
    }

    fn label(&self, class: usize) -> String {
        match self.labels.get(class) {
            Some(label) if !label.is_empty() => label.clone(),
            _ => class.to_string(),
        }
    }

    /// A label output's numbers are classes where there are labels for them; its texts are labels.
    fn labels_of(&self, output: &Tensor) -> Result<Vec<String>, Error> {
        let label = |class: i64| usize::try_from(class).map_or_else(|_| class.to_string(), |class| self.label(class));
        match output.datatype.as_str() {
            "INT64" => Ok(output.as_i64()?.iter().copied().map(label).collect()),
            "INT32" => Ok(output.values::<i32>()?.iter().map(|&class| label(class.into())).collect()),
            _ => Ok(output.as_strings()?.into_iter().map(str::to_owned).collect()),
        }
    }
}

impl Matrix {
    fn new(output: &Tensor) -> Result<Self, Error> {
        let (values, single): (Vec<f64>, bool) = match output.datatype.as_str() {
            "FP64" => (output.values::<f64>()?.into_owned(), false),
            _ => (output.as_f32()?.iter().copied().map(f64::from).collect(), true),
        };
        let (rows, columns) = match *output.shape.as_slice() {
            [] => (1, 1),
            [rows] => (rows, 1),
            [rows, columns] => (rows, columns),
            _ => {
                return Err(Error::plugin(format!(
                    "output `{}` {:?} has no rows of scores",
                    output.name, output.shape
                )));
            }
        };
        if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
            return Err(Error::plugin(format!("output `{}` is empty, or holds NaN or infinity", output.name)));
        }
        Ok(Matrix { values, rows: rows as usize, columns: columns as usize, single })
    }

    fn number(&self, value: f64) -> Number {
        Number { value, single: self.single }
    }

    fn are_probabilities(&self) -> bool {
        self.values.chunks(self.columns).all(|row| {
            let sum: f64 = row.iter().sum();
            row.iter().all(|score| (0.0..=1.0).contains(score)) && (sum - 1.0).abs() <= 0.01
        })
    }
}

fn softmax(row: &[f64]) -> Vec<f64> {
    // Shifted by the largest, so that no exponential overflows.
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponentials: Vec<f64> = row.iter().map(|score| (score - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.into_iter().map(|exponential| exponential / sum).collect()
}

/// The first among equals.
fn largest(row: &[f64]) -> usize {
    (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or_default()
}

fn named<'m>(
    model: &'m Model,
    option: &str,
    name: &str,
    fits: fn(&TensorSpec) -> bool,
    expected: &str,
) -> Result<&'m TensorSpec, Error> {
    match model.output(name) {
        Some(output) if fits(output) => Ok(output),
        Some(output) => Err(Error::invalid_config(format!(
            "`{option}`: `{name}` is {} {:?}, expected {expected}, records first",
            output.datatype, output.shape
        ))),
        None => {
            let outputs: Vec<String> = model.outputs.iter().map(|output| format!("`{}`", output.name)).collect();
            let outputs = outputs.join(", ");
            Err(Error::invalid_config(format!("`{option}`: the model has no output `{name}`; its outputs: {outputs}")))
        }
    }
}

fn may_be_label(output: &TensorSpec) -> bool {
    let one_a_record = matches!(output.shape.as_slice(), [] | [_] | [_, 1]);
    one_a_record && matches!(output.datatype.as_str(), "INT64" | "INT32" | "BYTES")
}

fn may_be_scores(output: &TensorSpec) -> bool {
    output.shape.len() <= 2 && matches!(output.datatype.as_str(), "FP32" | "FP64")
}

fn check_labels(labels: &[String], columns: Option<usize>, task: Task) -> Result<(), Error> {
    let mut seen = HashSet::new();
    if let Some(twice) = labels.iter().find(|label| !label.is_empty() && !seen.insert(label.as_str())) {
        return Err(Error::invalid_config(format!("the label `{twice}` is two classes'")));
    }
    let (Some(columns), false) = (columns, labels.is_empty()) else { return Ok(()) };
    // A classifier's single score is that of the second of two classes.
    let expected = if columns == 1 && task != Task::Regression { 2 } else { columns };
    if labels.len() == expected {
        return Ok(());
    }
    Err(Error::invalid_config(format!(
        "{} labels (`output.labels`, else the model's) for a score output of {columns} columns, expected {expected}",
        labels.len()
    )))
}
