//! `POST /predict` with features and tensors.

use serde_json::{Value, json};

use crate::onnx_file;
use crate::support::{Host, answer, error_message, fixture, repository_root};

/// Numbers alike within float32's accuracy over a few operations; anything else must be equal.
fn alike(actual: &Value, expected: &Value) -> bool {
    match (actual, expected) {
        (Value::Number(actual), Value::Number(expected)) => {
            (actual.as_f64().unwrap() - expected.as_f64().unwrap()).abs() < 1e-5
        }
        (Value::Array(actual), Value::Array(expected)) => {
            actual.len() == expected.len() && actual.iter().zip(expected).all(|(a, e)| alike(a, e))
        }
        (Value::Object(actual), Value::Object(expected)) => {
            actual.len() == expected.len()
                && expected.iter().all(|(key, e)| actual.get(key).is_some_and(|a| alike(a, e)))
        }
        _ => actual == expected,
    }
}

/// Nested lists as one; maps stay whole.
fn flat(value: &Value) -> Value {
    match value {
        Value::Array(items) if items.iter().any(Value::is_array) => {
            items.iter().flat_map(|item| flat(item).as_array().unwrap().clone()).collect()
        }
        other => other.clone(),
    }
}

#[tokio::test]
async fn the_reference_outputs_are_reproduced() {
    let (host, _store) = Host::with_iris(&[]).await;
    let expected: Value = serde_json::from_slice(&std::fs::read(fixture("expected-outputs.json")).unwrap()).unwrap();
    let cases = expected.as_object().unwrap();
    assert_eq!(cases.len(), 4);
    for (index, (path, case)) in cases.iter().enumerate() {
        let bundled = repository_root().join("models").join(path.replace("iris/", "iris/1/"));
        let file = if bundled.exists() { bundled } else { fixture("models").join(path) };
        let id = format!("case-{index}");
        let (status, uploaded) = host.upload(&id, "1", std::fs::read(file).unwrap()).await;
        assert_eq!(status, 201, "{path}: {uploaded}");
        let (status, answer) = host.predict(json!({ "model_id": id, "features": case["x"] })).await;
        assert_eq!(status, 200, "{path}: {answer}");
        for (output, expected) in case["outputs"].as_array().unwrap().iter().zip(case["y"].as_array().unwrap()) {
            let actual = &answer["outputs"][output[0].as_str().unwrap()]["data"];
            assert!(alike(actual, &flat(expected)), "{path} {output}: {actual} is not {expected}");
        }
    }
}

#[tokio::test]
async fn an_answer_has_the_documented_fields() {
    let (host, _store) = Host::with_iris(&[]).await;
    let (_, answer) = host.predict(json!({ "model_id": "iris", "features": [5.1, 3.5, 1.4, 0.2] })).await;
    let fields: Vec<&String> = answer.as_object().unwrap().keys().collect();
    let expected = ["model_id", "version", "request_id", "prediction", "outputs", "latency_ms", "timestamp"];
    assert_eq!(fields, expected);
    assert_eq!((&answer["model_id"], &answer["version"]), (&json!("iris"), &json!("1")));
    assert_eq!(answer["outputs"]["label"], json!({ "datatype": "INT64", "shape": [1], "data": [0] }));
    assert_eq!(answer["outputs"]["probabilities"]["shape"], json!([1, 3]));
    assert!(answer["latency_ms"].as_f64().unwrap() > 0.0);
    assert!(answer["timestamp"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test]
async fn features_come_as_a_row_as_rows_or_by_input_name() {
    let (host, _store) = Host::with_iris(&[]).await;
    let rows = json!([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]);
    for body in [
        json!({ "model_id": "iris", "features": rows }),
        json!({ "model_id": "iris", "version": "1", "features": rows }),
        json!({ "model_id": "iris", "inputs": { "X": rows } }),
    ] {
        assert_eq!(host.predict(body).await.1["prediction"], json!([0, 2]));
    }
    host.assert_serves().await;

    host.upload("image", "1", onnx_file::identity(1, &[1, 2, 2, 3])).await;
    let flat: Vec<f64> = (0..12).map(f64::from).collect();
    let nested = json!([[[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]]);
    for features in [json!(flat), nested.clone(), nested[0].clone()] {
        let (status, answer) = host.predict(json!({ "model_id": "image", "features": features })).await;
        assert_eq!((status, &answer["prediction"]), (200, &json!(flat)), "{answer}");
        assert_eq!(answer["outputs"]["y"]["shape"], json!([1, 2, 2, 3]));
    }
}

#[tokio::test]
async fn every_datatype_goes_through_unchanged() {
    let (host, _store) = Host::with_iris(&[]).await;
    let cases = [
        (1, "FP32", json!([0.5, -1.25, 3.0])),
        (2, "UINT8", json!([0, 128, 255])),
        (3, "INT8", json!([-128, 0, 127])),
        (4, "UINT16", json!([0, 65535, 7])),
        (5, "INT16", json!([-32768, 32767, 7])),
        (6, "INT32", json!([-2147483648, 2147483647, 7])),
        (7, "INT64", json!([i64::MIN, i64::MAX, 7])),
        (8, "BYTES", json!(["", "zwölf", "a"])),
        (9, "BOOL", json!([true, false, true])),
        (10, "FP16", json!([0.5, -1.25, 3.0])),
        (11, "FP64", json!([0.1, -1e300, 3.0])),
        (12, "UINT32", json!([0, 4294967295u32, 7])),
        (13, "UINT64", json!([0, u64::MAX, 7])),
        (16, "BF16", json!([0.5, -1.25, 3.0])),
    ];
    for (number, datatype, values) in cases {
        let id = format!("identity-{datatype}");
        let (status, uploaded) = host.upload(&id, "1", onnx_file::identity(number, &[-1])).await;
        assert_eq!(status, 201, "{datatype}: {uploaded}");
        assert_eq!(uploaded["info"]["inputs"][0]["dtype"], number);
        assert_eq!(uploaded["info"]["inputs"][0]["datatype"], datatype);
        let (status, answer) = host.predict(json!({ "model_id": id, "features": values })).await;
        assert_eq!(status, 200, "{datatype}: {answer}");
        assert_eq!(answer["outputs"]["y"], json!({ "datatype": datatype, "shape": [3], "data": values }));
    }
}

#[tokio::test]
async fn a_model_of_several_inputs_takes_them_by_name() {
    let (host, _store) = Host::with_iris(&[]).await;
    host.upload("add", "1", onnx_file::add()).await;
    let (_, answer) = host.predict(json!({ "model_id": "add", "inputs": { "right": [1, 2], "left": [10, 20] } })).await;
    assert_eq!(answer["prediction"], json!([11.0, 22.0]));
    for (body, expected) in [
        (json!({ "features": [1, 2] }), "has not exactly one input"),
        (json!({ "inputs": { "left": [1, 2] } }), "misses its input right FP32[·]"),
        (json!({ "inputs": { "left": [1], "right": [1], "up": [1] } }), "has no input \"up\""),
        (json!({ "inputs": { "left": [1, 2], "right": [1, 2, 3] } }), "ONNX Runtime could not run"),
    ] {
        let mut body = body;
        body["model_id"] = json!("add");
        let (status, answer) = host.predict(body).await;
        assert_eq!(status, 400, "{answer}");
        assert!(error_message(&answer).contains(expected), "{answer}");
    }
    let twice = r#"{"model_id":"add","inputs":{"left":[1],"left":[2],"right":[3]}}"#;
    let response = host.client.post(format!("{}/predict", host.url)).body(twice).send().await.unwrap();
    assert_eq!(response.status(), 400);
    host.assert_serves().await;
}

#[tokio::test]
async fn bad_requests_are_told_what_was_expected_and_what_came() {
    let (host, _store) = Host::with_iris(&[]).await;
    let cases = [
        (r#"{"model_id":"iris","features":[1,2,3]}"#, 400, &["FP32[·,4]", "shape [3] (3 values)"][..]),
        (r#"{"model_id":"iris","features":[[1,2,3,4],[1,2,3]]}"#, 400, &["lists of 4 and of 3"]),
        (r#"{"model_id":"iris","features":[1,[2],3,4]}"#, 400, &["nested"]),
        (r#"{"model_id":"iris","features":[1,2,3,"four"]}"#, 400, &["expected a 32-bit float", "\"four\""]),
        (r#"{"model_id":"iris","features":[1,2,3,1e39]}"#, 400, &["expected a 32-bit float"]),
        (r#"{"model_id":"iris","features":[1,2,3,4],"image_url":"x"}"#, 400, &["not both"]),
        (r#"{"model_id":"iris","features":{"a":1}}"#, 400, &["FP32[·,4]"]),
        (r#"{"model_id":"iris","features":null}"#, 400, &["iris"]),
        (r#"{"model_id":"iris"}"#, 400, &["`features` or `inputs`", "X FP32[·,4]"]),
        (r#"{"model_id":"iris","inputs":{"Y":[1,2,3,4]}}"#, 400, &["no input \"Y\"", "X FP32[·,4]"]),
        (r#"{"model_id":"iris","features":[1,2,3,4],"inputs":{"X":[1,2,3,4]}}"#, 400, &["not both"]),
        (r#"{"model_id":"lily","features":[1,2,3,4]}"#, 404, &["\"lily\"", "models: iris"]),
        (r#"{"model_id":"iris","version":"9","features":[1,2,3,4]}"#, 404, &["\"9\"", "versions: 1"]),
        (r#"{"features":[1,2,3,4]}"#, 400, &["names no model"]),
        (r#"{"image_url":"https://example.com/cat.jpg"}"#, 404, &["no default image model"]),
        (r#"{"model_id":"iris","features":[1,2"#, 400, &["not a prediction request", "EOF"]),
        (r#"["iris"]"#, 400, &["not a prediction request"]),
        ("", 400, &["not a prediction request"]),
        (r#"{"model_id":7,"features":[1,2,3,4]}"#, 400, &["not a prediction request"]),
    ];
    for (body, status, expected) in cases {
        let response = host.client.post(format!("{}/predict", host.url)).body(body).send().await.unwrap();
        let (actual, answer) = crate::support::answer(response).await;
        assert_eq!(actual, status, "{body}: {answer}");
        for text in expected {
            assert!(error_message(&answer).contains(text), "{body}: {text:?} is not in {answer}");
        }
    }
    let deep = format!(r#"{{"model_id":"iris","features":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let response = host.client.post(format!("{}/predict", host.url)).body(deep).send().await.unwrap();
    assert_eq!(response.status(), 400);
    host.assert_serves().await;
}

#[tokio::test]
async fn integers_take_whole_numbers_of_their_range_only() {
    let (host, _store) = Host::with_iris(&[]).await;
    host.upload("bytes", "1", onnx_file::identity(2, &[-1])).await;
    assert_eq!(host.predict(json!({ "model_id": "bytes", "features": [3.0] })).await.1["prediction"], json!([3]));
    for bad in [json!([256]), json!([-1]), json!([1.5]), json!([1e300]), json!([true])] {
        let (status, answer) = host.predict(json!({ "model_id": "bytes", "features": bad })).await;
        assert_eq!(status, 400);
        assert!(error_message(&answer).contains("integer from 0 to 255"), "{answer}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_and_names_the_option() {
    let (host, _store) = Host::with_iris(&["--max-body-bytes", "1KiB"]).await;
    let (status, answer) = host.predict(json!({ "model_id": "iris", "features": vec![1.0; 10_000] })).await;
    assert_eq!(status, 413);
    assert!(error_message(&answer).contains("--max-body-bytes"), "{answer}");
    host.assert_serves().await;
}

#[tokio::test]
async fn a_run_that_nobody_waits_for_any_more_is_ended() {
    // One worker: it serves again only if the endless run before was ended.
    let (host, _store) = Host::with_iris(&["--predict-timeout", "5s"]).await;
    let (status, uploaded) = host.upload("loop", "1", onnx_file::counting_loop()).await;
    assert_eq!(status, 201, "{uploaded}");
    let ask = |trips: u64| json!({ "model_id": "loop", "inputs": { "trips": trips, "x": [0.5] } });
    let (status, answer) = host.predict(ask(1 << 60)).await;
    assert_eq!(status, 504, "{answer}");
    assert!(error_message(&answer).contains("--predict-timeout"), "{answer}");
    let (status, answer) = host.predict(ask(3)).await;
    assert_eq!((status, &answer["prediction"]), (200, &json!([3.5])), "{answer}");
}

#[tokio::test]
async fn a_list_with_another_behind_it_is_no_json_however_long_it_is() {
    let (host, _store) = Host::with_iris(&[]).await;
    host.upload("any", "1", onnx_file::identity(1, &[-1])).await;
    let long = vec!["1.5"; 300].join(",");
    for (path, before, behind) in [
        ("/predict", r#"{"model_id":"any","features":"#, "}"),
        ("/predict", r#"{"model_id":"any","inputs":{"x":"#, "}}"),
        ("/predict", r#"{"model_id":"any","instances":"#, "}"),
        ("/v2/models/any/infer", r#"{"inputs":[{"name":"x","shape":[300],"datatype":"FP32","data":"#, "}]}"),
    ] {
        for (list, expected) in [
            (format!("[{long}]"), 200),
            (format!("[{long}],[7]"), 400),
            (format!("[[{long}]],[[7]]"), 400),
            (format!("[{long}][7]"), 400),
        ] {
            let request = host.client.post(format!("{}{path}", host.url)).header("content-type", "application/json");
            let (status, answer) = answer(request.body(format!("{before}{list}{behind}")).send().await.unwrap()).await;
            assert_eq!(status, expected, "{before}{list:.20}: {}", answer["error"]);
        }
    }
    host.assert_serves().await;
}
