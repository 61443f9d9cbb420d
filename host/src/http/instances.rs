//! `instances` and `predictions`: rows in one request and their answers, as KServe's first protocol and TensorFlow Serving
//! have them.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::json::{Text, pairs_in_order, read_shaped, read_value};
use super::predict::{Frame, only_or_first_input};
use crate::batch;
use crate::error::{Error, Result, shorten};
use crate::model::{InputSpec, ModelVersion};
use crate::pipeline::describe_inputs;
use crate::tensor::Tensor;
use crate::value::{Value, ValueSpec};

/// Reads `[row, …]` for the one input, or `[{"input": row, …}, …]`: the inputs, and how many rows they have.
///
/// # Errors
/// No list, or rows that are not all of one form.
pub(super) fn read(model: &ModelVersion, text: &Text<'_>, instances: &RawValue) -> Result<(Vec<Value>, usize)> {
    let list = text.of(instances);
    let items: Vec<&RawValue> = serde_json::from_str(list)
        .map_err(|error| Error::invalid_input(format!("`instances` is a list with an item for each row: {error}")))?;
    let rows = items.len();
    let values = match items.first() {
        None => return Err(Error::invalid_input("`instances` is empty: give an item for each row")),
        Some(first) if first.get().starts_with('{') => by_name(model, text, &items)?,
        Some(_) => vec![read_rows(only_or_first_input(model)?, rows, list)?],
    };
    Ok((values, rows))
}

/// Each input's rows put together, and read as one.
fn by_name(model: &ModelVersion, text: &Text<'_>, items: &[&RawValue]) -> Result<Vec<Value>> {
    let mut lists: Vec<(String, String, usize)> = Vec::new();
    for (row, item) in items.iter().enumerate() {
        let pairs = pairs_in_order(&mut serde_json::Deserializer::from_str(item.get())).map_err(|error| {
            Error::invalid_input(format!(
                "`instances`[{row}]: expected an object of inputs, as the first one is: {error}"
            ))
        })?;
        for (name, value) in pairs {
            let known = lists.iter().position(|(known, ..)| *known == name).unwrap_or(lists.len());
            if known == lists.len() {
                // There are as many as the model has inputs, however many names come.
                input_named(model, &name)?;
                lists.push((name, String::from("["), 0));
            }
            let (name, list, rows) = &mut lists[known];
            if *rows != row {
                return Err(Error::invalid_input(format!(
                    "`instances`[{row}]: input {name} is in some rows and not in others, or twice in one"
                )));
            }
            list.push_str(if row > 0 { "," } else { "" });
            list.push_str(text.of(value));
            *rows += 1;
        }
    }
    let values = lists.into_iter().map(|(name, mut list, rows)| {
        list.push(']');
        let input = input_named(model, &name)?;
        if rows != items.len() {
            return Err(Error::invalid_input(format!("input {name} is in {rows} of {} `instances`", items.len())));
        }
        read_rows(input, rows, &list)
    });
    values.collect()
}

fn input_named<'m>(model: &'m ModelVersion, name: &str) -> Result<&'m InputSpec> {
    model.inputs.iter().find(|input| input.spec.name() == name).ok_or_else(|| {
        let (id, inputs) = (model.id(), describe_inputs(model));
        Error::invalid_input(format!("model {id} has no input {:?}; its inputs: {inputs}", shorten(name.to_owned())))
    })
}

/// A list with an item for each row.
fn read_rows(input: &InputSpec, rows: usize, list: &str) -> Result<Value> {
    let Some(spec) = input.spec.tensor() else {
        let (name, spec) = (input.spec.name(), &input.spec);
        return Err(Error::invalid_input(format!(
            "input {name} takes {spec}, of which there are no rows; give `inputs`"
        )));
    };
    let axes = spec.shape.as_deref().and_then(|axes| axes.get(1..)).unwrap_or_default();
    let fixed = axes.iter().map(|&size| usize::try_from(size).ok()).collect::<Option<Vec<usize>>>();
    if let Some(axes) = fixed.filter(|_| spec.shape.is_some()) {
        let shape: Vec<usize> = std::iter::once(rows).chain(axes).collect();
        return read_shaped(&spec.name, spec.datatype, &shape, list).map(Value::Tensor);
    }
    let json: &RawValue = serde_json::from_str(list).map_err(Error::internal)?;
    let value = read_value(&ValueSpec::Tensor(spec.clone()), &Text::new(b""), json)?;
    match &value {
        Value::Tensor(Tensor { shape, .. }) if shape.first() == Some(&rows) => Ok(value),
        other => Err(Error::invalid_input(format!(
            "input {}: expected {rows} rows of {spec}, got {}",
            spec.name,
            other.describe()
        ))),
    }
}

/// `{"model_id", "version", "request_id", "predictions", "latency_ms", "timestamp"}`
pub(super) struct PredictionsAnswer<'a> {
    frame: Frame<'a>,
    predictions: Box<RawValue>,
}

impl<'a> PredictionsAnswer<'a> {
    /// # Errors
    /// The outputs have not one row for each that went in.
    pub(super) fn new(frame: Frame<'a>, outputs: &[Value], rows: usize) -> Result<PredictionsAnswer<'a>> {
        let predictions = batch::predictions(outputs, rows)?;
        Ok(PredictionsAnswer { frame, predictions: RawValue::from_string(predictions).map_err(Error::internal)? })
    }
}

impl Serialize for PredictionsAnswer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.frame.serialize_head(&mut map)?;
        map.serialize_entry("predictions", &self.predictions)?;
        self.frame.serialize_tail(&mut map)?;
        map.end()
    }
}
