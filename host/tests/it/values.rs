//! Values of every kind, into models and out of them: sequences, maps, optionals, any shape, and floats that are no numbers.

use serde_json::{Value, json};

use crate::onnx_file;
use crate::support::{Host, error_message, fixture};

/// A host with the models of `fixtures/models/values` that a test names.
async fn host_with(models: &[&str]) -> (Host, tempfile::TempDir) {
    let store = tempfile::tempdir().unwrap();
    let host = Host::start(store.path(), &[]).await;
    for model in models {
        let file = std::fs::read(fixture(&format!("models/values/{model}.onnx"))).unwrap();
        let (status, answer) = host.upload(model, "1", file).await;
        assert_eq!(status, 201, "{model}: {answer}");
    }
    (host, store)
}

impl Host {
    /// The outputs that a model makes of these inputs.
    async fn outputs(&self, model: &str, inputs: Value) -> Value {
        let (status, mut answer) = self.predict(json!({ "model_id": model, "inputs": inputs })).await;
        assert_eq!(status, 200, "{model}: {answer}");
        answer["outputs"].take()
    }

    /// Why a model refuses these inputs.
    async fn refusal(&self, model: &str, inputs: Value) -> String {
        let (status, answer) = self.predict(json!({ "model_id": model, "inputs": inputs })).await;
        assert_eq!(status, 400, "{model}: {answer}");
        error_message(&answer).to_owned()
    }
}

fn floats(values: &Value, shape: &Value) -> Value {
    json!({ "datatype": "FP32", "shape": shape, "data": values })
}

#[tokio::test]
async fn a_sequence_of_tensors_comes_as_a_list_and_goes_as_one() {
    let (host, _store) = host_with(&["split", "join", "sequence-of-floats", "sequence-of-strings"]).await;
    let parts = json!([floats(&json!([1.0]), &json!([1])), floats(&json!([2.0, 3.0]), &json!([2]))]);
    let sequence = json!({ "datatype": "SEQUENCE", "shape": [2], "data": parts });

    let (status, answer) =
        host.predict(json!({ "model_id": "split", "inputs": { "x": [1, 2, 3], "sizes": [1, 2] } })).await;
    assert_eq!((status, &answer["prediction"]), (200, &parts), "{answer}");
    assert_eq!(answer["outputs"]["parts"], sequence);

    // As lists, as what was answered, and as the one input there is.
    let joined = floats(&json!([1.0, 2.0, 3.0]), &json!([3]));
    assert_eq!(host.outputs("join", json!({ "parts": [[1], [2, 3]] })).await["y"], joined);
    assert_eq!(host.outputs("join", json!({ "parts": parts })).await["y"], joined);
    let (_, answer) = host.predict(json!({ "model_id": "join", "features": [[1], [2, 3]] })).await;
    assert_eq!(answer["outputs"]["y"], joined);

    assert_eq!(host.outputs("sequence-of-floats", json!({ "x": parts })).await["y"], sequence);
    let words = json!([["zwölf", ""], [], ["a"]]);
    let answer = host.outputs("sequence-of-strings", json!({ "x": words })).await;
    let back: Vec<&Value> = answer["y"]["data"].as_array().unwrap().iter().map(|item| &item["data"]).collect();
    assert_eq!(json!(back), words);
}

/// Items of an output are the input's own: what frees those first answers with whatever came to lie there.
#[tokio::test]
async fn a_sequence_that_goes_through_is_not_freed_on_the_way() {
    let (host, _store) = host_with(&["append"]).await;
    let items: Vec<Vec<f64>> = (0..50).map(|item| (0..8).map(|i| f64::from(item * 8 + i)).collect()).collect();
    let (last, first) = items.split_last().unwrap();
    let answer = host.outputs("append", json!({ "x": first, "item": last })).await;
    let back: Vec<&Value> = answer["y"]["data"].as_array().unwrap().iter().map(|item| &item["data"]).collect();
    assert_eq!(json!(back), json!(items));
}

#[tokio::test]
async fn a_sequence_may_be_empty() {
    let (host, _store) = host_with(&["sequence-length", "sequence-of-floats", "sequence-of-strings"]).await;
    assert_eq!(host.outputs("sequence-length", json!({ "x": [] })).await["length"]["data"], json!([0]));
    for model in ["sequence-of-floats", "sequence-of-strings"] {
        let empty = json!({ "datatype": "SEQUENCE", "shape": [0], "data": [] });
        assert_eq!(host.outputs(model, json!({ "x": [] })).await["y"], empty);
    }
    assert!(host.refusal("sequence-length", json!({ "x": 7 })).await.contains("expected a list"));
    assert!(host.refusal("sequence-length", json!({ "x": [["a"]] })).await.contains("x.0"));
}

#[tokio::test]
async fn a_map_is_an_object() {
    let (host, _store) = host_with(&["map", "zipmap"]).await;
    let expected = floats(&json!([0.0, 2.5, -1.0]), &json!([1, 3]));
    assert_eq!(host.outputs("map", json!({ "x": { "c": -1, "b": 2.5, "unknown": 7 } })).await["y"], expected);
    for (given, problem) in [(json!([1, 2]), "expected an object"), (json!({ "a": "x" }), "a 32-bit float")] {
        let message = host.refusal("map", json!({ "x": given })).await;
        assert!(message.contains(problem), "{message}");
    }

    let (_, answer) = host.predict(json!({ "model_id": "zipmap", "features": [[0.25, 0.75], [1, 0]] })).await;
    let rows = json!([{ "no": 0.25, "yes": 0.75 }, { "no": 1.0, "yes": 0.0 }]);
    assert_eq!(answer["prediction"], rows);
    assert_eq!(answer["outputs"]["y"], json!({ "datatype": "MAP", "shape": [2], "data": rows }));
}

#[tokio::test]
async fn an_optional_output_may_hold_nothing() {
    let (host, _store) = host_with(&["maybe"]).await;
    // The second one shows that the worker goes on after the first.
    for _ in 0..2 {
        let (status, answer) =
            host.predict(json!({ "model_id": "maybe", "inputs": { "keep": false, "x": [1] } })).await;
        assert_eq!((status, &answer["outputs"]), (200, &json!({ "y": null })), "{answer}");
        assert_eq!(answer["prediction"], Value::Null);
        let full = host.outputs("maybe", json!({ "keep": true, "x": [1] })).await;
        assert_eq!(full["y"], floats(&json!([1.0]), &json!([1])));
    }
}

#[tokio::test]
async fn an_optional_input_is_given_what_it_may_hold_or_refused() {
    let (host, _store) = host_with(&["has-element"]).await;
    assert_eq!(host.outputs("has-element", json!({ "x": [1, 2] })).await["y"]["data"], json!([true]));
    let message = host.refusal("has-element", json!({ "x": null })).await;
    assert!(message.contains("no way to be given an optional without a value"), "{message}");
}

#[tokio::test]
async fn an_input_of_no_declared_shape_takes_any() {
    let (host, _store) = host_with(&["any-shape"]).await;
    for (given, shape) in [
        (json!(7), json!([])),
        (json!([]), json!([0])),
        (json!([[1, 2], [3, 4], [5, 6]]), json!([3, 2])),
        (json!({ "shape": [2, 0, 3], "data": [] }), json!([2, 0, 3])),
        (json!({ "datatype": "FP32", "shape": [2, 1], "data": [1, 2] }), json!([2, 1])),
    ] {
        assert_eq!(host.outputs("any-shape", json!({ "x": given })).await["y"]["shape"], shape, "{given}");
    }
    for (given, problem) in [
        (json!({ "shape": [2, 2], "data": [1] }), "its shape is [2,2], its data is of shape [1] (1 values)"),
        (json!({ "datatype": "INT8", "shape": [1], "data": [1] }), "INT8"),
        (json!({ "shape": [usize::MAX, 2], "data": [1] }), "its shape is"),
        (json!({ "shape": [1], "dta": [1] }), "unknown field"),
    ] {
        let message = host.refusal("any-shape", json!({ "x": given })).await;
        assert!(message.contains(problem), "{message}");
    }
    let info: Value = host.get("/models/info?id=any-shape").await.json().await.unwrap();
    assert_eq!(info["info"]["inputs"][0]["shape"], Value::Null);
}

#[tokio::test]
async fn scalars_and_tensors_without_elements_go_through() {
    let (host, _store) = host_with(&["scalar"]).await;
    assert_eq!(host.outputs("scalar", json!({ "x": 2.5 })).await["y"], floats(&json!([-2.5]), &json!([])));
    assert!(host.refusal("scalar", json!({ "x": [2.5, 1] })).await.contains("got shape [2]"));

    host.upload("rows", "1", onnx_file::identity(1, &[-1, 4])).await;
    for given in [json!([]), json!({ "shape": [0, 4], "data": [] })] {
        assert_eq!(host.outputs("rows", json!({ "x": given })).await["y"], floats(&json!([]), &json!([0, 4])));
    }
    host.upload("words", "1", onnx_file::identity(8, &[-1])).await;
    let none = json!({ "datatype": "BYTES", "shape": [0], "data": [] });
    assert_eq!(host.outputs("words", json!({ "x": [] })).await["y"], none);
}

#[tokio::test]
async fn an_input_with_a_default_need_not_be_given() {
    let (host, _store) = host_with(&["default"]).await;
    let doubled = floats(&json!([2.0, 4.0]), &json!([2]));
    assert_eq!(host.outputs("default", json!({ "x": [1, 2] })).await["y"], doubled);
    assert_eq!(host.outputs("default", json!({ "x": [1, 2], "factor": null })).await["y"], doubled);
    let tripled = floats(&json!([3.0, 6.0]), &json!([2]));
    assert_eq!(host.outputs("default", json!({ "x": [1, 2], "factor": [3] })).await["y"], tripled);
    let (_, answer) = host.predict(json!({ "model_id": "default", "features": [1, 2] })).await;
    assert_eq!(answer["outputs"]["y"], doubled);
}

#[tokio::test]
async fn a_datatype_without_a_place_in_a_request_is_refused_there_and_not_at_upload() {
    let (host, _store) = host_with(&["from-float8", "to-int4"]).await;
    let message = host.refusal("from-float8", json!({ "x": [1] })).await;
    assert!(message.contains("tensor(float8e4m3fn)"), "{message}");
    let message = host.refusal("to-int4", json!({ "x": [1] })).await;
    assert!(message.contains("output y") && message.contains("i4"), "{message}");
}

#[tokio::test]
async fn floats_that_are_no_numbers_are_words_both_ways() {
    let (host, _store) = host_with(&[]).await;
    let words = json!([["NaN", "Infinity"], ["-Infinity", -0.0]]);
    for (number, datatype) in [(1, "FP32"), (10, "FP16"), (11, "FP64"), (16, "BF16")] {
        host.upload(datatype, "1", onnx_file::identity(number, &[-1, -1])).await;
        let outputs = host.outputs(datatype, json!({ "x": words })).await;
        let expected = json!({ "datatype": datatype, "shape": [2, 2], "data": ["NaN", "Infinity", "-Infinity", -0.0] });
        assert_eq!(outputs["y"].to_string(), expected.to_string());
        assert!(host.refusal(datatype, json!({ "x": [["nan"]] })).await.contains("\"Infinity\""));
        assert!(host.refusal(datatype, json!({ "x": [[null]] })).await.contains("null"));
    }
    host.upload("INT32", "1", onnx_file::identity(6, &[-1])).await;
    assert!(host.refusal("INT32", json!({ "x": ["NaN"] })).await.contains("32-bit integer"));
}

#[tokio::test]
async fn a_64_bit_float_comes_back_to_the_last_bit() {
    let (host, _store) = host_with(&[]).await;
    host.upload("doubles", "1", onnx_file::identity(11, &[-1])).await;
    // The first two are where parsers that round twice go wrong.
    let mut values =
        vec![1.00000000000000011102230246251565, 8.533e+68, f64::MIN_POSITIVE, 5e-324, f64::MAX, 0.1 + 0.2];
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    while values.len() < 2000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        values.extend(Some(f64::from_bits(seed)).filter(|value| value.is_finite()));
    }
    let response = host.post("/predict", json!({ "model_id": "doubles", "features": values })).await;
    // Read without this workspace's own JSON parser in between.
    let text = response.text().await.unwrap();
    let data = text.split("\"data\":[").nth(1).unwrap().split(']').next().unwrap();
    let back: Vec<u64> = data.split(',').map(|number| number.parse::<f64>().unwrap().to_bits()).collect();
    let sent: Vec<u64> = values.iter().map(|value| value.to_bits()).collect();
    assert_eq!(back, sent);
}

#[tokio::test]
async fn a_model_without_inputs_is_asked_with_none() {
    let (host, _store) = host_with(&["constant"]).await;
    assert_eq!(host.outputs("constant", json!({})).await["y"], floats(&json!([1.5]), &json!([1])));
    assert!(host.refusal("constant", json!({ "x": [1] })).await.contains("no input \"x\""));
    let (status, answer) = host.predict(json!({ "model_id": "constant" })).await;
    assert_eq!(status, 400, "{answer}");
}
