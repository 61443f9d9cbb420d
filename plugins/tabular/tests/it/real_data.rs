//! Whole data sets through the plugin, natively, against what scikit-learn made of them.

use crate::support::{answer, classifier, fixture, plugin, records, request, spec, vector};
use nexus_guest::{Model, Plugin, Tensor};
use serde_json::{Value, json};

fn json_fixture(path: &str) -> Value {
    serde_json::from_str(&fixture(path)).unwrap()
}

#[test]
fn every_row_of_iris_becomes_its_own_numbers() {
    let names = ["sepal_length", "sepal_width", "petal_length", "petal_width"];
    let fields: Vec<Value> = names.iter().map(|name| json!({ "name": name, "kind": "numeric" })).collect();
    let labels = ["setosa", "versicolor", "virginica"];
    let model = Model { labels: labels.map(str::to_owned).to_vec(), ..classifier(4) };
    let mut plugin = plugin(model, &json!({ "fields": fields, "extra_fields": "ignore" })).unwrap();

    let rows = records(&fixture("iris/iris.csv"));
    assert_eq!(rows.len(), 150);
    for row in &rows {
        let expected = names.map(|name| row[name].as_f64().unwrap() as f32);
        assert_eq!(vector(&mut plugin, &json!(row)).unwrap(), expected);
        // The class as the model gives it, by the label it was uploaded with.
        let class = row["species"].as_i64().unwrap();
        let outputs = vec![
            Tensor::from_i64("label", [1], [class]).unwrap(),
            Tensor::from_f32("probabilities", [1, 3], [0.25, 0.25, 0.5]).unwrap(),
        ];
        assert_eq!(answer(&mut plugin, outputs).unwrap()["label"], labels[class as usize]);
    }
    let all = plugin.preprocess(request(&json!({ "records": rows }))).unwrap();
    assert_eq!((all[0].shape.as_slice(), all[0].data.len()), (&[150, 4][..], 150 * 4 * 4));
}

/// The penguins' columns as the configuration has them; the species is what is predicted.
fn penguins() -> Vec<Value> {
    let mut rows = records(&fixture("penguins/penguins.csv"));
    assert_eq!(rows.len(), 344);
    rows.iter_mut().for_each(|row| drop(row.remove("species")));
    rows.into_iter().map(Value::from).collect()
}

fn penguin_model() -> Model {
    let outputs = vec![spec("label", "BYTES", &[-1]), spec("probabilities", "FP32", &[-1, 3])];
    Model { outputs, ..classifier(12) }
}

#[test]
fn every_penguin_becomes_scikit_learns_vector() {
    let mut plugin = plugin(penguin_model(), &json_fixture("penguins/config.json")).unwrap();
    let rows = penguins();
    let expected = json_fixture("penguins/expected.json")["species"].clone();
    let expected = expected.as_array().unwrap();
    assert_eq!(expected.len(), rows.len());

    let batch = plugin.preprocess(request(&json!({ "records": rows }))).unwrap();
    let batch = batch[0].as_f32().unwrap().into_owned();
    for (row, (record, expected)) in rows.iter().zip(expected).enumerate() {
        let actual = vector(&mut plugin, record).unwrap();
        assert_eq!(actual, batch[12 * row..][..12], "row {row} alone and in a batch");
        let expected = expected[1].as_array().unwrap();
        assert_eq!(expected.len(), actual.len());
        for (column, (actual, expected)) in actual.iter().zip(expected).enumerate() {
            let difference = (f64::from(*actual) - expected.as_f64().unwrap()).abs();
            assert!(difference < 1e-6, "row {row}, column {column}: {actual}, expected {expected}");
        }
    }
    // The data set has values missing in most columns, so imputation was at work.
    assert_eq!(rows.iter().filter(|row| row["sex"].is_null()).count(), 11);
    assert_eq!(rows.iter().filter(|row| row["body_mass_g"].is_null()).count(), 2);
}

#[test]
fn penguins_are_labelled_from_the_models_outputs() {
    let mut plugin = plugin(penguin_model(), &json_fixture("penguins/config.json")).unwrap();
    plugin.preprocess(request(&json!({ "records": penguins() }))).unwrap();
    let expected = json_fixture("penguins/expected.json")["species"].clone();
    let expected = expected.as_array().unwrap();
    let labels: Vec<&str> = expected.iter().map(|row| row[2].as_str().unwrap()).collect();
    let probabilities: Vec<f32> =
        expected.iter().flat_map(|row| row[3].as_array().unwrap()).map(|p| p.as_f64().unwrap() as f32).collect();
    let outputs = vec![
        Tensor::from_strings("label", [344], labels).unwrap(),
        Tensor::from_f32("probabilities", [344, 3], probabilities).unwrap(),
    ];
    let answer = answer(&mut plugin, outputs).unwrap();
    let predictions = answer["predictions"].as_array().unwrap();
    assert_eq!(predictions.len(), 344);
    for (prediction, expected) in predictions.iter().zip(expected) {
        assert_eq!(prediction["label"], expected[2]);
        let names: Vec<&String> = prediction["probabilities"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["Adelie", "Chinstrap", "Gentoo"]);
        assert_eq!(prediction["probabilities"]["Gentoo"], expected[3][2], "printed as short as it came");
    }
}

#[test]
fn a_model_with_an_input_a_column_gets_each_field_in_its_datatype() {
    let inputs = vec![
        spec("island", "BYTES", &[-1, 1]),
        spec("bill_length_mm", "FP32", &[-1, 1]),
        spec("bill_depth_mm", "FP64", &[-1]),
        spec("sex", "BYTES", &[-1, 1]),
        spec("year", "INT64", &[-1, 1]),
    ];
    let fields = json!([
        { "name": "year", "kind": "numeric" },
        { "name": "island", "kind": "text" },
        { "name": "bill_length_mm", "kind": "numeric" },
        { "name": "bill_depth_mm", "kind": "numeric" },
        { "name": "sex", "kind": "text", "missing": { "value": "unknown" } },
    ]);
    let config = json!({ "fields": fields, "extra_fields": "ignore" });
    let mut plugin = plugin(Model { inputs, ..penguin_model() }, &config).unwrap();
    let rows = penguins();
    let tensors = plugin.preprocess(request(&json!({ "records": [rows[0], rows[8]] }))).unwrap();
    let expected = [
        Tensor::from_strings("island", [2, 1], ["Torgersen", "Torgersen"]),
        Tensor::from_f32("bill_length_mm", [2, 1], [39.1, 34.1]),
        Tensor::from_values("bill_depth_mm", [2], [18.7, 18.1]),
        Tensor::from_strings("sex", [2, 1], ["male", "unknown"]),
        Tensor::from_i64("year", [2, 1], [2007, 2007]),
    ];
    assert_eq!(tensors, expected.map(Result::unwrap));

    let broken =
        json!({ "record": { "island": "Dream", "bill_length_mm": 1, "bill_depth_mm": 1, "sex": 3, "year": 1 } });
    let error = plugin.preprocess(request(&broken)).unwrap_err();
    assert_eq!(error.message(), "record: field `sex` expected text, got 3");
    let broken = json!({ "record": { "island": "Dream", "bill_length_mm": 1, "bill_depth_mm": 1, "year": 2007.5 } });
    let error = plugin.preprocess(request(&broken)).unwrap_err();
    assert_eq!(error.message(), "record: field `year` becomes 2007.5, which the model's INT64 input cannot hold");
}
