//! What the tests share: models as the host describes them, requests, answers.

use std::path::PathBuf;

use nexus_guest::{Error, Model, Plugin, Request, Tensor, TensorSpec};
use serde_json::{Value, json};
use tabular::Tabular;

pub fn fixture(path: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../host/tests/fixtures/models");
    std::fs::read_to_string(folder.join(path)).unwrap()
}

pub fn spec(name: &str, datatype: &str, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.to_owned(), datatype: datatype.to_owned(), shape: shape.to_vec() }
}

/// A classifier of that many columns, as skl2onnx exports it.
pub fn classifier(columns: i64) -> Model {
    Model {
        inputs: vec![spec("X", "FP32", &[-1, columns])],
        outputs: vec![spec("label", "INT64", &[-1]), spec("probabilities", "FP32", &[-1, 3])],
        ..Model::default()
    }
}

pub fn plugin(model: Model, config: &Value) -> Result<Tabular, Error> {
    let config = serde_json::from_value(config.clone()).unwrap_or_else(|error| panic!("{config}: {error}"));
    Tabular::init(model, config)
}

pub fn request(body: &Value) -> Request {
    let body = body.to_string().into_bytes();
    Request { content_type: "application/json".into(), body, ..Request::default() }
}

/// The vector a record becomes in a model with one FP32 input.
pub fn vector(plugin: &mut Tabular, record: &Value) -> Result<Vec<f32>, Error> {
    let tensors = plugin.preprocess(request(&json!({ "model_id": "m", "version": "1", "record": record })))?;
    let [tensor] = tensors.as_slice() else { panic!("{} tensors", tensors.len()) };
    assert_eq!((tensor.name.as_str(), tensor.shape[0]), ("X", 1));
    Ok(tensor.as_f32()?.into_owned())
}

pub fn answer(plugin: &mut Tabular, outputs: Vec<Tensor>) -> Result<Value, Error> {
    Ok(serde_json::from_slice(&plugin.postprocess(outputs)?.body).unwrap())
}

/// A data set as records: numbers where they are numbers, null for NA.
pub fn records(csv: &str) -> Vec<serde_json::Map<String, Value>> {
    let mut lines = csv.lines().map(|line| line.split(','));
    let header: Vec<&str> = lines.next().unwrap().collect();
    let value = |text: &str| match text {
        "NA" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)),
    };
    let record = |line: std::str::Split<'_, char>| {
        header.iter().zip(line).map(|(name, text)| ((*name).to_owned(), value(text))).collect()
    };
    lines.map(record).collect()
}
