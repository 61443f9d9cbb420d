//! Real models behind the `tabular` plugin: records by field names in, labels, probabilities and values out.

use std::path::Path;

use reqwest::multipart::{Form, Part};
use serde_json::{Map, Value, json};

use crate::support::{Host, answer, bundle, error_message, fixture};

async fn host() -> (Host, tempfile::TempDir) {
    let store = tempfile::tempdir().unwrap();
    (Host::start(store.path(), &["--bundle", &bundle()]).await, store)
}

/// Uploads a model whose records the plugin prepares.
async fn upload(host: &Host, id: &str, model: &Path, config: &Value) -> (u16, Value) {
    let stage = json!({ "plugin": "tabular@0.1.0", "config": config });
    let form = Form::new()
        .part("file", Part::bytes(std::fs::read(model).unwrap()).file_name("model.onnx"))
        .text("id", id.to_owned())
        .text("name", id.to_owned())
        .text("version", "1")
        .text("pipeline", json!({ "preprocess": stage, "postprocess": stage }).to_string());
    let url = format!("{}/models/upload", host.url);
    answer(host.client.post(url).multipart(form).send().await.unwrap()).await
}

fn json_fixture(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(path)).unwrap()).unwrap()
}

/// A data set as records, without the column that is to be predicted; null for NA.
fn records(path: &str, predicted: &str) -> Vec<Map<String, Value>> {
    let csv = std::fs::read_to_string(fixture(path)).unwrap();
    let mut lines = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header: Vec<String> = lines.next().unwrap().into_iter().map(str::to_owned).collect();
    let value = |text: &str| match text {
        "NA" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)),
    };
    let record = |line: Vec<&str>| {
        let fields = header.iter().cloned().zip(line.into_iter().map(value));
        fields.filter(|(name, _)| name != predicted).collect()
    };
    lines.map(record).collect()
}

fn numeric(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({ "name": name, "kind": "numeric" })).collect()
}

fn assert_close(actual: &Value, expected: &Value, tolerance: f64, what: &dyn std::fmt::Display) {
    let difference = (actual.as_f64().unwrap() - expected.as_f64().unwrap()).abs();
    assert!(difference <= tolerance, "{what}: {actual}, expected {expected}");
}

#[tokio::test]
async fn every_penguin_is_classified_as_by_scikit_learns_own_columns() {
    let (host, _store) = host().await;
    let model = fixture("models/penguins/species.onnx");
    let (status, uploaded) = upload(&host, "penguins", &model, &json_fixture("models/penguins/config.json")).await;
    assert_eq!(status, 201, "{uploaded}");

    let rows = records("models/penguins/penguins.csv", "species");
    let (status, answer) = host.predict(json!({ "model_id": "penguins", "records": rows })).await;
    assert_eq!(status, 200, "{answer}");
    let predictions = answer["predictions"].as_array().unwrap();
    let expected = json_fixture("models/penguins/expected.json")["species"].clone();
    assert_eq!((predictions.len(), expected.as_array().unwrap().len()), (344, 344));
    for (prediction, expected) in predictions.iter().zip(expected.as_array().unwrap()) {
        assert_eq!(prediction["label"], expected[2], "row {}", expected[0]);
        for (class, species) in ["Adelie", "Chinstrap", "Gentoo"].into_iter().enumerate() {
            assert_close(&prediction["probabilities"][species], &expected[3][class], 1e-5, &expected[0]);
        }
    }
    let (status, alone) = host.predict(json!({ "model_id": "penguins", "record": rows[0] })).await;
    assert_eq!((status, &alone["label"]), (200, &expected[0][2]), "{alone}");
    assert!(alone["predictions"].is_null(), "{alone}");
}

#[tokio::test]
async fn every_iris_gets_the_class_that_its_plain_numbers_get() {
    let (host, _store) = host().await;
    let names = ["sepal_length", "sepal_width", "petal_length", "petal_width"];
    let species = ["setosa", "versicolor", "virginica"];
    let config = json!({ "fields": numeric(&names), "output": { "labels": species } });
    let model = crate::support::repository_root().join("models/iris/1/model.onnx");
    let (status, uploaded) = upload(&host, "irises", &model, &config).await;
    assert_eq!(status, 201, "{uploaded}");

    let rows = records("models/iris/iris.csv", "species");
    let features: Vec<Vec<&Value>> = rows.iter().map(|row| names.map(|name| &row[name]).to_vec()).collect();
    let (_, plain) = host.predict(json!({ "model_id": "iris", "features": features })).await;
    let (status, named) = host.predict(json!({ "model_id": "irises", "records": rows })).await;
    assert_eq!(status, 200, "{named}");
    let predictions = named["predictions"].as_array().unwrap();
    assert_eq!(predictions.len(), 150);
    for (row, prediction) in predictions.iter().enumerate() {
        let class = plain["outputs"]["label"]["data"][row].as_u64().unwrap() as usize;
        assert_eq!(prediction["label"], species[class], "row {row}");
        let probability = &plain["outputs"]["probabilities"]["data"][3 * row + class];
        assert_close(&prediction["probabilities"][species[class]], probability, 1e-6, &row);
    }
}

#[tokio::test]
async fn a_model_with_an_input_a_column_and_a_regression_answer_too() {
    let (host, _store) = host().await;
    let mut rows = records("models/penguins/penguins.csv", "species");
    rows.retain(|row| row.values().all(|value| !value.is_null()));
    let expected = json_fixture("models/penguins/expected.json");

    let text = |name: &str| json!({ "name": name, "kind": "text" });
    let mut fields = numeric(&["bill_length_mm", "bill_depth_mm", "year"]);
    fields.extend([text("island"), text("sex")]);
    let config = json!({ "fields": fields, "extra_fields": "ignore",
        "output": { "labels": ["Adelie", "Chinstrap", "Gentoo"] } });
    let model = fixture("models/penguins/species-per-column.onnx");
    let (status, uploaded) = upload(&host, "per-column", &model, &config).await;
    assert_eq!(status, 201, "{uploaded}");
    let (_, answer) = host.predict(json!({ "model_id": "per-column", "records": rows })).await;
    for (prediction, expected) in all(&answer).iter().zip(all_rows(&expected["species-per-column"])) {
        assert_eq!(prediction["label"], expected[1], "row {}", expected[0]);
        assert_close(&prediction["probabilities"]["Gentoo"], &expected[2][2], 1e-5, &expected[0]);
    }

    let fields = numeric(&["bill_length_mm", "bill_depth_mm", "flipper_length_mm"]);
    let config = json!({ "fields": fields, "extra_fields": "ignore" });
    let (status, uploaded) = upload(&host, "mass", &fixture("models/penguins/body-mass.onnx"), &config).await;
    assert_eq!(status, 201, "{uploaded}");
    let (_, answer) = host.predict(json!({ "model_id": "mass", "records": rows })).await;
    for (prediction, expected) in all(&answer).iter().zip(all_rows(&expected["body-mass"])) {
        assert_close(&prediction["value"], &expected[1], 0.01, &expected[0]);
    }
}

/// The predictions for the penguins of whom everything is known.
fn all(answer: &Value) -> &Vec<Value> {
    let predictions = answer["predictions"].as_array().unwrap_or_else(|| panic!("{answer}"));
    assert_eq!(predictions.len(), 333);
    predictions
}

fn all_rows(expected: &Value) -> &Vec<Value> {
    let rows = expected.as_array().unwrap();
    assert_eq!(rows.len(), 333);
    rows
}

#[tokio::test]
async fn what_does_not_fit_is_told_with_its_row_and_field() {
    let (host, _store) = host().await;
    let config = json_fixture("models/penguins/config.json");
    let model = fixture("models/penguins/species.onnx");
    assert_eq!(upload(&host, "penguins", &model, &config).await.0, 201);
    let rows = records("models/penguins/penguins.csv", "species");
    for (field, value, expected) in [
        ("sex", json!("Male"), "records[1]: field `sex` expected one of \"female\", \"male\", got the text \"Male\""),
        ("bill_length_mm", json!("39.5"), "records[1]: field `bill_length_mm` expected a number"),
        ("island", Value::Null, "records[1]: field `island` expected one of"),
        ("Island", json!("Dream"), "records[1]: there is no field \"Island\""),
    ] {
        let mut wrong = rows[1].clone();
        wrong.insert(field.to_owned(), value);
        let (status, answer) = host.predict(json!({ "model_id": "penguins", "records": [rows[0], wrong] })).await;
        assert_eq!((status, &answer["code"]), (400, &json!("invalid_input")), "{answer}");
        assert!(error_message(&answer).contains(expected), "{answer}");
    }
    // A configuration that does not fit its model is refused with the model, and leaves nothing behind.
    let (status, answer) = upload(&host, "wrong", &model, &json!({ "fields": numeric(&["age"]) })).await;
    assert_eq!(status, 400, "{answer}");
    assert!(error_message(&answer).contains("the input `X` has 12 columns, the fields make 1: `age` 1"), "{answer}");
    let (status, _) = host.predict(json!({ "model_id": "wrong", "record": { "age": 1 } })).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn the_maps_that_scikit_learn_exports_by_default_are_a_table_to_a_plugin() {
    let (host, _store) = host().await;
    let fields = numeric(&["sepal_length", "sepal_width", "petal_length", "petal_width"]);
    let (status, uploaded) =
        upload(&host, "maps", &fixture("models/iris/model-zipmap.onnx"), &json!({ "fields": fields })).await;
    assert_eq!(status, 201, "{uploaded}");
    let record = json!({ "sepal_length": 6.3, "sepal_width": 3.3, "petal_length": 6.0, "petal_width": 2.5 });
    let (status, answer) = host.predict(json!({ "model_id": "maps", "record": record })).await;
    assert_eq!((status, &answer["label"]), (200, &json!("2")), "{answer}");
    let (_, alone) = host.predict(json!({ "model_id": "maps", "inputs": { "X": [6.3, 3.3, 6.0, 2.5] } })).await;
    let expected = alone["outputs"].as_object().unwrap().values().find(|output| output["datatype"] == "MAP").unwrap();
    for class in ["0", "1", "2"] {
        assert_close(&answer["probabilities"][class], &expected["data"][0][class], 1e-6, &class);
    }
}
