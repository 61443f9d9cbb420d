//! `POST /predict` with rows: `features` with many, and `instances`, answered by `predictions`.

use serde_json::{Value, json};

use crate::onnx_file;
use crate::support::{Host, error_message, fixture};

async fn predictions(host: &Host, model: &str, instances: Value) -> Value {
    let (status, answer) = host.predict(json!({ "model_id": model, "instances": instances })).await;
    assert_eq!(status, 200, "{answer}");
    answer["predictions"].clone()
}

#[tokio::test]
async fn rows_of_the_one_input_are_answered_row_by_row() {
    let (host, _store) = Host::with_iris(&[]).await;
    let rows = json!([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]);
    let (status, answer) = host.predict(json!({ "model_id": "iris", "instances": rows })).await;
    assert_eq!(status, 200, "{answer}");
    let fields: Vec<&String> = answer.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["model_id", "version", "request_id", "predictions", "latency_ms", "timestamp"]);
    let (_, whole) = host.predict(json!({ "model_id": "iris", "features": rows })).await;
    for (row, prediction) in answer["predictions"].as_array().unwrap().iter().enumerate() {
        assert_eq!(prediction["label"], whole["outputs"]["label"]["data"][row]);
        let of_row = &whole["outputs"]["probabilities"]["data"].as_array().unwrap()[row * 3..row * 3 + 3];
        assert_eq!(prediction["probabilities"], json!(of_row));
    }
    assert_eq!(predictions(&host, "iris", json!([{ "X": rows[0] }, { "X": rows[1] }])).await, answer["predictions"]);
}

#[tokio::test]
async fn a_single_output_is_its_row_and_names_make_several_inputs() {
    let (host, _store) = Host::with_iris(&[]).await;
    host.upload("add", "1", onnx_file::add()).await;
    let rows = json!([{ "left": 1, "right": 2 }, { "right": 0.5, "left": 3 }]);
    assert_eq!(predictions(&host, "add", rows).await, json!([3.0, 3.5]));
    host.upload("square", "1", onnx_file::identity(1, &[-1, 2, 2])).await;
    let rows = json!([[[1, 2], [3, 4]], [[5, 6], [7, 8]]]);
    assert_eq!(predictions(&host, "square", rows).await, json!([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]));
    host.upload("column", "1", onnx_file::identity(7, &[-1, 1])).await;
    assert_eq!(predictions(&host, "column", json!([{ "x": 4 }, { "x": 5 }])).await, json!([[4], [5]]));
    host.upload("open", "1", onnx_file::identity(8, &[-1, -1])).await;
    assert_eq!(predictions(&host, "open", json!([["a", "b"]])).await, json!([["a", "b"]]));
    host.upload("maps", "1", std::fs::read(fixture("models/iris/model-zipmap.onnx")).unwrap()).await;
    let answers = predictions(&host, "maps", json!([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]])).await;
    let maps = answers
        .as_array()
        .unwrap()
        .iter()
        .map(|answer| answer.as_object().unwrap().values().find_map(Value::as_object).unwrap().len());
    assert_eq!(maps.collect::<Vec<_>>(), [3, 3], "{answers}");
}

#[tokio::test]
async fn instances_that_are_no_rows_are_refused_with_what_is_wrong() {
    let (host, _store) = Host::with_iris(&[]).await;
    host.upload("add", "1", onnx_file::add()).await;
    let row = json!([5.1, 3.5, 1.4, 0.2]);
    for (model, instances, expected) in [
        ("iris", json!([]), "empty"),
        ("iris", json!({ "X": row }), "a list with an item for each row"),
        ("iris", json!([row, [1]]), "lists of 4 and of 1"),
        ("iris", row.clone(), "its shape is [4,4]"),
        ("iris", json!([{ "X": row }, { "Y": row }]), "no input \"Y\""),
        ("add", json!([{ "left": 1 }, { "left": 2, "right": 3 }]), "input right is in some rows"),
        ("iris", json!([{ "X": row }, {}]), "input X is in 1 of 2"),
        ("iris", json!([{ "X": row }, row]), "expected an object of inputs"),
        ("iris", json!([{ "Z": row }]), "no input \"Z\""),
        ("add", json!([1, 2]), "not exactly one input"),
        ("add", json!([{ "left": 1 }]), "misses its input right"),
    ] {
        let (status, answer) = host.predict(json!({ "model_id": model, "instances": instances })).await;
        assert_eq!(status, 400, "{instances}: {answer}");
        assert!(error_message(&answer).contains(expected), "{instances}: {answer}");
    }
    let both = json!({ "model_id": "iris", "instances": [row], "features": row });
    assert!(error_message(&host.predict(both).await.1).contains("not both"));
}
