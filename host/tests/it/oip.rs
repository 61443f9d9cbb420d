//! The Open Inference Protocol's REST, as JSON and with binary tensors.

use std::io::{Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::Compression;
use serde_json::{Value, json};

use crate::onnx_file;
use crate::support::{Host, answer, bundle, error_message, fixture, iris};

const HEADER_LENGTH: &str = "inference-header-content-length";

impl Host {
    async fn infer(&self, model: &str, body: Value) -> (u16, Value) {
        answer(self.post(&format!("/v2/models/{model}/infer"), body).await).await
    }

    /// A request with tensors behind its JSON, and the answer taken apart.
    async fn infer_binary(&self, model: &str, head: &Value, tensors: &[u8]) -> (u16, Value, Bytes) {
        let mut body = head.to_string().into_bytes();
        let request =
            self.client.post(format!("{}/v2/models/{model}/infer", self.url)).header(HEADER_LENGTH, body.len());
        body.extend_from_slice(tensors);
        let response = request.body(body).send().await.unwrap();
        let status = response.status().as_u16();
        let length = response.headers().get(HEADER_LENGTH).map(|length| length.to_str().unwrap().parse().unwrap());
        let is_binary = response.headers()["content-type"] == "application/octet-stream";
        assert_eq!(length.is_some(), is_binary);
        let mut body = response.bytes().await.unwrap();
        let binary = body.split_off(length.unwrap_or(body.len()));
        (status, serde_json::from_slice(&body).unwrap(), binary)
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn tensor(name: &str, datatype: &str, shape: &Value, data: &Value) -> Value {
    json!({ "name": name, "datatype": datatype, "shape": shape, "data": data })
}

fn binary(name: &str, datatype: &str, shape: &Value, size: usize) -> Value {
    json!({ "name": name, "datatype": datatype, "shape": shape, "parameters": { "binary_data_size": size } })
}

async fn host_with_add() -> (Host, tempfile::TempDir) {
    let (host, store) = Host::with_iris(&[]).await;
    assert_eq!(host.upload("add", "1", onnx_file::add()).await.0, 201);
    (host, store)
}

#[tokio::test]
async fn server_and_models_say_what_they_are() {
    let (host, _store) = Host::with_iris(&[]).await;
    let get = async |path: &str| answer(host.get(path).await).await;
    let (status, server) = get("/v2").await;
    assert_eq!((status, &server["name"]), (200, &json!("model-nexus")));
    assert_eq!(server["execution_provider"], "cpu");
    assert!(server["execution_providers"].as_array().unwrap().contains(&json!("cpu")), "{server}");
    let memory = get("/models/info?id=iris").await.1["info"]["memory"]["bytes"].clone();
    let devices = json!([{ "execution_provider": "cpu", "device": "", "versions_loaded": 1, "memory_bytes": memory }]);
    assert_eq!(server["devices"], devices);
    assert_eq!(get("/v2/health/live").await, (200, json!({ "live": true })));
    assert_eq!(get("/v2/health/ready").await, (200, json!({ "ready": true })));
    let expected = json!({
        "name": "iris",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{ "name": "X", "datatype": "FP32", "shape": [-1, 4] }],
        "outputs": [
            { "name": "label", "datatype": "INT64", "shape": [-1] },
            { "name": "probabilities", "datatype": "FP32", "shape": [-1, 3] },
        ],
    });
    for path in ["/v2/models/iris", "/v2/models/iris/versions/1"] {
        assert_eq!(get(path).await, (200, expected.clone()));
        assert_eq!(get(&format!("{path}/ready")).await, (200, json!({ "name": "iris", "ready": true })));
    }
    for path in
        ["/v2/models/lily", "/v2/models/lily/ready", "/v2/models/iris/versions/7", "/v2/models/iris/versions/7/ready"]
    {
        let (status, answer) = get(path).await;
        assert_eq!(status, 404, "{path}");
        error_message(&answer);
    }
    let (status, _) = answer(host.post("/models/iris/versions/1/unload", json!({})).await).await;
    assert_eq!(status, 200);
    assert_eq!(get("/v2/models/iris/versions/1/ready").await.0, 503);
}

#[tokio::test]
async fn tensors_come_flat_or_nested_and_outputs_are_chosen() {
    let (host, _store) = Host::with_iris(&[]).await;
    for data in [json!([5.1, 3.5, 1.4, 0.2]), json!([[5.1, 3.5, 1.4, 0.2]])] {
        let input = tensor("X", "FP32", &json!([1, 4]), &data);
        let (status, answer) = host.infer("iris", json!({ "id": "42", "inputs": [input] })).await;
        assert_eq!(status, 200, "{answer}");
        let fields: Vec<&String> = answer.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["id", "model_name", "model_version", "outputs"]);
        assert_eq!(
            (&answer["id"], &answer["model_name"], &answer["model_version"]),
            (&json!("42"), &json!("iris"), &json!("1"))
        );
        assert_eq!(answer["outputs"][0], tensor("label", "INT64", &json!([1]), &json!([0])));
        assert_eq!(answer["outputs"][1]["shape"], json!([1, 3]));

        let only =
            json!({ "inputs": [input], "outputs": [{ "name": "label", "parameters": { "binary_data": false } }] });
        let (_, answer) = host.infer("iris/versions/1", only).await;
        assert_eq!(answer["outputs"].as_array().unwrap().len(), 1, "{answer}");
        assert_eq!(answer.get("id"), None);
    }
    let metric = r#"model_predictions_total{model="iris",status="ok",version="1"}"#;
    assert_eq!(host.metric(metric).await, Some(4.0));
}

#[tokio::test]
async fn binary_tensors_follow_the_json_in_order() {
    let (host, _store) = host_with_add().await;
    let inputs = json!([binary("left", "FP32", &json!([2]), 8), binary("right", "FP32", &json!([2]), 8)]);
    let both = [bytes_of(&[1.0, f32::INFINITY]), bytes_of(&[10.0, 20.0])].concat();
    let head = json!({ "inputs": inputs, "parameters": { "binary_data_output": true } });
    let (status, answer, tail) = host.infer_binary("add", &head, &both).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["outputs"], json!([binary("sum", "FP32", &json!([2]), 8)]));
    assert_eq!(tail, bytes_of(&[11.0, f32::INFINITY]));

    // Some as bytes and some not, both ways.
    let inputs = json!([tensor("left", "FP32", &json!([2]), &json!([1, "-Infinity"])), inputs[1]]);
    let (_, answer, tail) = host.infer_binary("add", &json!({ "inputs": inputs }), &bytes_of(&[10.0, 20.0])).await;
    assert_eq!(answer["outputs"], json!([tensor("sum", "FP32", &json!([2]), &json!([11.0, "-Infinity"]))]));
    assert_eq!(tail, Bytes::new());

    host.upload("words", "1", onnx_file::identity(8, &[-1])).await;
    let words = [&2u32.to_le_bytes()[..], "ä".as_bytes(), &0u32.to_le_bytes()].concat();
    let output = json!([{ "name": "y", "parameters": { "binary_data": true } }]);
    let head = json!({ "inputs": [binary("x", "BYTES", &json!([2]), words.len())], "outputs": output });
    let (_, answer, tail) = host.infer_binary("words", &head, &words).await;
    assert_eq!(answer["outputs"], json!([binary("y", "BYTES", &json!([2]), words.len())]));
    assert_eq!(tail, words);
}

#[tokio::test]
async fn what_is_no_request_is_told_why() {
    let (host, _store) = host_with_add().await;
    let left = tensor("left", "FP32", &json!([1]), &json!([1]));
    let right = tensor("right", "FP32", &json!([1]), &json!([1]));
    let with = |name: &str, value: Value| {
        let mut right = right.clone();
        right[name] = value;
        json!({ "inputs": [left, right] })
    };
    for (body, status, expected) in [
        (json!({ "inputs": [left] }), 400, "misses its input right"),
        (json!({ "inputs": [left, left] }), 400, "left came twice"),
        (with("name", json!("up")), 400, "no input \"up\""),
        (with("datatype", json!("INT32")), 400, "expected FP32[·], got INT32[1]"),
        (with("datatype", json!("FLOAT")), 400, "no datatype"),
        (with("shape", json!([2])), 400, "its shape is [2]"),
        (with("shape", json!([1, 1])), 400, "expected FP32[·], got FP32[1,1]"),
        (with("shape", json!([-1])), 400, "not an inference request"),
        (with("shape", json!(vec![1; 65])), 400, "has 65 axes; a tensor has 64 at most"),
        (with("data", json!(["a"])), 400, "\"a\""),
        (with("data", json!(null)), 400, "either `data`"),
        (with("parameters", json!({ "binary_data_size": 4 })), 400, "either `data`"),
        (
            json!({ "inputs": [left, right], "outputs": [{ "name": "product" }] }),
            400,
            "no output \"product\"; its outputs: sum",
        ),
        (
            json!({ "inputs": [left, right], "outputs": [{ "name": "sum", "parameters": { "classification": "all" } }] }),
            400,
            "not an inference request",
        ),
        (json!({ "inputs": [left, right], "parameters": { "timeout": "soon" } }), 400, "microseconds"),
        (json!({ "inputs": [left, right], "parameters": { "priority": "urgent" } }), 400, "urgent"),
        (json!({ "inputs": [left, right], "parameters": { "binary_data_output": 1 } }), 400, "true or false"),
        (json!({ "model": "add" }), 400, "not an inference request"),
        (json!([]), 400, "not an inference request"),
    ] {
        let (actual, answer) = host.infer("add", body.clone()).await;
        assert_eq!(actual, status, "{body}: {answer}");
        assert!(error_message(&answer).contains(expected), "{body}: {expected:?} is not in {answer}");
    }
    assert_eq!(host.infer("lily", json!({ "inputs": [left] })).await.0, 404);
    assert_eq!(host.infer("add/versions/7", json!({ "inputs": [left] })).await.0, 404);
    assert_eq!(host.get("/v2/models/add/infer").await.status(), 405);

    let inputs = json!({ "inputs": [left, binary("right", "FP32", &json!([1]), 4)] });
    for (length, expected) in [(3, "3 bytes are left"), (5, "1 bytes follow")] {
        let (status, answer, _) = host.infer_binary("add", &inputs, &vec![0; length]).await;
        assert_eq!(status, 400);
        assert!(error_message(&answer).contains(expected), "{answer}");
    }
    for length in ["999999", "-1", "many"] {
        let request = host.client.post(format!("{}/v2/models/add/infer", host.url)).header(HEADER_LENGTH, length);
        let (status, answer) = answer(request.body("{}").send().await.unwrap()).await;
        assert_eq!(status, 400);
        assert!(error_message(&answer).contains("from 1 to 2"), "{answer}");
    }
    host.assert_serves().await;
}

#[tokio::test]
async fn an_output_that_is_none_is_refused_before_the_model_runs() {
    let (host, _store) = host_with_add().await;
    let inputs = ["left", "right"].map(|name| tensor(name, "FP32", &json!([1]), &json!([1])));
    for name in ["product", "sum.0", "response"] {
        let (status, refused) = host.infer("add", json!({ "inputs": inputs, "outputs": [{ "name": name }] })).await;
        assert_eq!(status, 400, "{refused}");
        assert!(error_message(&refused).contains("its outputs: sum"), "{refused}");
    }
    let statistics: Value = host.get("/v2/models/add/stats").await.json().await.unwrap();
    let stats = &statistics["model_stats"][0];
    assert_eq!((&stats["execution_count"], &stats["inference_stats"]["success"]["count"]), (&json!(0), &json!(0)));
}

#[tokio::test]
async fn a_request_waits_for_a_cold_version_no_longer_than_it_says() {
    let store = tempfile::tempdir().unwrap();
    for id in ["a", "b"] {
        let folder = store.path().join(format!("models/{id}/1"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("model.onnx"), iris()).unwrap();
    }
    let first = Host::start(store.path(), &[]).await;
    let mut bytes = Vec::new();
    for id in ["a", "b"] {
        let info: Value = first.get(&format!("/models/info?id={id}")).await.json().await.unwrap();
        bytes.push(info["info"]["memory"]["bytes"].as_u64().unwrap());
    }
    drop(first);
    // Room for one, and a load that takes its time.
    let limit = bytes.iter().max().unwrap().to_string();
    let host = Host::start(store.path(), &["--max-loaded-bytes", &limit, "--warmup-runs", "1000"]).await;
    let inputs = json!([tensor("X", "FP32", &json!([1, 4]), &json!([5.1, 3.5, 1.4, 0.2]))]);
    let hurried = json!({ "inputs": inputs, "parameters": { "timeout": 1000 } });
    let (status, refused) = host.infer("b", hurried).await;
    assert_eq!((status, &refused["code"]), (503, &json!("not_ready")), "{refused}");
    assert!(error_message(&refused).contains("is still loading"), "{refused}");
    let predict = host.client.post(format!("{}/predict", host.url)).header("x-timeout-ms", "1");
    let asked = json!({ "model_id": "b", "features": [5.1, 3.5, 1.4, 0.2] });
    let (status, refused) = answer(predict.json(&asked).send().await.unwrap()).await;
    assert_eq!(status, 503, "{refused}");
    // It goes on loading, for those who wait.
    assert_eq!(host.infer("b", json!({ "inputs": inputs })).await.0, 200);
}

#[tokio::test]
async fn sequences_and_maps_are_tensors_on_the_wire() {
    let (host, _store) = Host::with_iris(&[]).await;
    for model in ["sequence-of-floats", "sequence-length", "map", "zipmap", "maybe"] {
        let file = std::fs::read(fixture(&format!("models/values/{model}.onnx"))).unwrap();
        assert_eq!(host.upload(model, "1", file).await.0, 201);
    }
    let items =
        json!([tensor("x.0", "FP32", &json!([1]), &json!([1.0])), tensor("x.1", "FP32", &json!([0, 2]), &json!([])),]);
    let (_, answer) = host.infer("sequence-of-floats", json!({ "inputs": items })).await;
    let expected =
        json!([tensor("y.0", "FP32", &json!([1]), &json!([1.0])), tensor("y.1", "FP32", &json!([0, 2]), &json!([])),]);
    assert_eq!(answer["outputs"], expected);
    let (_, answer) =
        host.infer("sequence-of-floats", json!({ "inputs": items, "outputs": [{ "name": "y.1" }] })).await;
    assert_eq!(answer["outputs"], json!([expected[1]]));
    let (_, answer) = host.infer("sequence-of-floats", json!({ "inputs": items, "outputs": [{ "name": "y" }] })).await;
    assert_eq!(answer["outputs"], expected);
    let none = json!([tensor("x", "FP32", &json!([0]), &json!([]))]);
    let (_, answer) = host.infer("sequence-length", json!({ "inputs": none })).await;
    assert_eq!(answer["outputs"][0]["data"], json!([0]));

    let pair = json!([
        tensor("x", "FP32", &json!([2]), &json!([1.5, 2.5])),
        tensor("x.keys", "BYTES", &json!([2]), &json!(["c", "a"])),
    ]);
    let (_, answer) = host.infer("map", json!({ "inputs": pair })).await;
    assert_eq!(answer["outputs"][0]["data"], json!([2.5, 0.0, 1.5]));

    let rows = json!([tensor("x", "FP32", &json!([2, 2]), &json!([0.25, 0.75, 1.0, 0.0]))]);
    let (_, answer) = host.infer("zipmap", json!({ "inputs": rows })).await;
    let expected = json!([
        tensor("y", "FP32", &json!([2, 2]), &json!([0.25, 0.75, 1.0, 0.0])),
        tensor("y.keys", "BYTES", &json!([2]), &json!(["no", "yes"])),
    ]);
    assert_eq!(answer["outputs"], expected);
    let metadata: Value = host.get("/v2/models/zipmap").await.json().await.unwrap();
    let declared = json!([
        { "name": "y", "datatype": "FP32", "shape": [-1, -1] },
        { "name": "y.keys", "datatype": "BYTES", "shape": [-1] },
    ]);
    assert_eq!(metadata["outputs"], declared);

    let inputs =
        json!([tensor("keep", "BOOL", &json!([]), &json!([false])), tensor("x", "FP32", &json!([1]), &json!([1.0])),]);
    let (status, answer) = host.infer("maybe", json!({ "inputs": inputs })).await;
    assert_eq!((status, &answer["outputs"]), (200, &json!([])), "{answer}");
}

#[tokio::test]
async fn each_of_thousands_of_items_is_chosen_by_its_name() {
    let (host, _store) = Host::with_iris(&[]).await;
    let file = std::fs::read(fixture("models/values/sequence-of-floats.onnx")).unwrap();
    assert_eq!(host.upload("sequence", "1", file).await.0, 201);
    let count = 10_000;
    let inputs: Vec<Value> =
        (0..count).map(|index| tensor(&format!("x.{index}"), "FP32", &json!([1]), &json!([index]))).collect();
    let outputs: Vec<Value> = (0..count).rev().map(|index| json!({ "name": format!("y.{index}") })).collect();
    let (status, answer) = host.infer("sequence", json!({ "inputs": inputs, "outputs": outputs })).await;
    assert_eq!(status, 200);
    let answered = answer["outputs"].as_array().unwrap();
    assert_eq!(answered.len(), count);
    for (output, index) in answered.iter().zip((0..count).rev()) {
        assert_eq!((&output["name"], &output["data"]), (&json!(format!("y.{index}")), &json!([index as f32])));
    }
    let one_too_many = json!({ "inputs": inputs, "outputs": [{ "name": "y.0" }, { "name": format!("y.{count}") }] });
    let (status, refused) = host.infer("sequence", one_too_many).await;
    assert_eq!(status, 400);
    assert!(error_message(&refused).contains("its outputs: y"), "{refused}");
}

#[tokio::test]
async fn an_answer_that_is_a_plugins_is_one_output() {
    let store = tempfile::tempdir().unwrap();
    let host = Host::start(store.path(), &["--bundle", &bundle()]).await;
    let pipeline = json!({ "postprocess": { "plugin": "tabular@0.1.0" } });
    let path = format!("{}/models/iris/pipeline", host.url);
    let response = host.client.put(path).json(&pipeline).send().await.unwrap();
    let (status, bound) = answer(response).await;
    assert_eq!(status, 200, "{bound}");
    let input = tensor("X", "FP32", &json!([1, 4]), &json!([6.3, 3.3, 6.0, 2.5]));
    let outputs = json!([{ "name": "label" }]);
    let (status, refused) = host.infer("iris", json!({ "inputs": [input], "outputs": outputs })).await;
    assert_eq!(status, 400);
    assert!(error_message(&refused).contains("its outputs: response"), "{refused}");
    let outputs = json!([{ "name": "response" }]);
    let (status, answer) = host.infer("iris", json!({ "inputs": [input], "outputs": outputs })).await;
    assert_eq!(status, 200, "{answer}");
    let output = &answer["outputs"][0];
    assert_eq!(
        (&output["name"], &output["datatype"], &output["shape"]),
        (&json!("response"), &json!("BYTES"), &json!([1]))
    );
    let said: Value = serde_json::from_str(output["data"][0].as_str().unwrap()).unwrap();
    assert_eq!(said["label"], "virginica");
}

#[tokio::test]
async fn a_map_with_more_keys_than_values_is_refused_and_so_is_an_output_asked_for_twice() {
    let (host, _store) = host_with_add().await;
    let map = std::fs::read(fixture("models/values/map.onnx")).unwrap();
    assert_eq!(host.upload("map", "1", map).await.0, 201);
    let too_many_keys = json!([
        tensor("x", "FP32", &json!([1]), &json!([1.0])),
        tensor("x.keys", "BYTES", &json!([3]), &json!(["a", "b", "c"])),
    ]);
    let (status, refused) = host.infer("map", json!({ "inputs": too_many_keys })).await;
    assert_eq!(status, 400, "{refused}");
    let outputs = json!([{ "name": "label" }, { "name": "label" }]);
    let inputs = json!([tensor("X", "FP32", &json!([1, 4]), &json!([5.1, 3.5, 1.4, 0.2]))]);
    let (status, refused) = host.infer("iris", json!({ "inputs": inputs, "outputs": outputs })).await;
    assert_eq!(status, 400);
    assert!(error_message(&refused).contains("label is asked for twice"), "{refused}");
}

/// A request whose whole body is data.
async fn raw(host: &Host, model: &str, body: impl Into<reqwest::Body>) -> (u16, Value, Bytes) {
    let request = host.client.post(format!("{}/v2/models/{model}/infer", host.url)).header(HEADER_LENGTH, "0");
    let response = request.body(body).send().await.unwrap();
    let status = response.status().as_u16();
    let length = response.headers().get(HEADER_LENGTH).map(|length| length.to_str().unwrap().parse().unwrap());
    let mut body = response.bytes().await.unwrap();
    let binary = body.split_off(length.unwrap_or(body.len()));
    (status, serde_json::from_slice(&body).unwrap(), binary)
}

#[tokio::test]
async fn a_body_without_json_is_the_one_input() {
    let (host, _store) = host_with_add().await;
    let rows = bytes_of(&[5.1, 3.5, 1.4, 0.2, 6.3, 3.3, 6.0, 2.5]);
    let (status, head, tail) = raw(&host, "iris", rows).await;
    assert_eq!(status, 200, "{head}");
    assert_eq!(head["outputs"][0], binary("label", "INT64", &json!([2]), 16));
    assert_eq!(tail[..16], [0i64, 2].map(i64::to_le_bytes).concat());
    host.upload("word", "1", onnx_file::identity(8, &[1])).await;
    let (_, head, tail) = raw(&host, "word", "a word").await;
    assert_eq!(head["outputs"][0], binary("y", "BYTES", &json!([1]), 10));
    assert_eq!(tail[4..], b"a word"[..]);
    host.upload("free", "1", onnx_file::identity(1, &[-1, -1])).await;
    host.upload("words", "1", onnx_file::identity(8, &[2])).await;
    for (model, bytes, expected) in [
        ("iris", 15, "do not tell the shape"),
        ("free", 16, "at most one of its axes"),
        ("words", 16, "one element"),
        ("add", 8, "one input; model add has: left FP32"),
    ] {
        let (status, refused, _) = raw(&host, model, vec![0; bytes]).await;
        assert_eq!(status, 400, "{model}");
        assert!(error_message(&refused).contains(expected), "{refused}");
    }
}

#[tokio::test]
async fn classes_are_the_greatest_values_with_their_places_and_labels() {
    let (host, _store) = Host::with_iris(&[]).await;
    let inputs = json!([tensor("X", "FP32", &json!([2, 4]), &json!([5.1, 3.5, 1.4, 0.2, 6.3, 3.3, 6.0, 2.5]))]);
    let classes = |name: &str, count: u64| json!({ "name": name, "parameters": { "classification": count } });
    let outputs = json!([classes("probabilities", 2), { "name": "label" }]);
    let (status, answer) = host.infer("iris", json!({ "inputs": inputs, "outputs": outputs })).await;
    assert_eq!(status, 200, "{answer}");
    let output = &answer["outputs"][0];
    assert_eq!((&output["datatype"], &output["shape"]), (&json!("BYTES"), &json!([2, 2])));
    let places: Vec<&str> = output["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|class| class.as_str().unwrap().split_once(':').unwrap().1)
        .collect();
    assert_eq!(places, ["0", "1", "2", "1"]);
    assert_eq!(answer["outputs"][1], tensor("label", "INT64", &json!([2]), &json!([0, 2])));

    // Integers, and no more than there are; and bytes, beside what is not.
    let mut wanted = classes("label", 9);
    wanted["parameters"]["binary_data"] = json!(true);
    let (_, head, tail) = host.infer_binary("iris", &json!({ "inputs": inputs, "outputs": [wanted] }), &[]).await;
    assert_eq!(head["outputs"][0]["shape"], json!([2]));
    assert_eq!((&tail[4..7], &tail[11..14]), (&b"2:1"[..], &b"0:0"[..]));
    host.upload("word", "1", onnx_file::identity(8, &[1])).await;
    let word = json!({ "inputs": [tensor("x", "BYTES", &json!([1]), &json!(["a"]))], "outputs": [classes("y", 1)] });
    let (status, refused) = host.infer("word", word).await;
    assert_eq!(status, 400);
    assert!(error_message(&refused).contains("takes numbers"), "{refused}");
}

#[tokio::test]
async fn requests_and_answers_are_compressed_where_their_client_wants_it() {
    let (host, _store) = Host::with_iris(&["--max-body-bytes", "1MiB"]).await;
    let input = binary("X", "FP32", &json!([1, 4]), 16);
    let head = json!({ "inputs": [input], "parameters": { "binary_data_output": true } }).to_string();
    let body = [head.as_bytes(), &bytes_of(&[5.1, 3.5, 1.4, 0.2])].concat();
    let deflate = |coding: &str, body: &[u8]| match coding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        _ => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
    };
    for coding in ["gzip", "deflate"] {
        let request = host.client.post(format!("{}/v2/models/iris/infer", host.url));
        let request = request.header(HEADER_LENGTH, head.len()).header("content-encoding", coding);
        let response = request.header("accept-encoding", coding).body(deflate(coding, &body)).send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-encoding"]),
            (200, &coding.parse().unwrap())
        );
        let length: usize = response.headers()[HEADER_LENGTH].to_str().unwrap().parse().unwrap();
        let (compressed, mut inflated) = (response.bytes().await.unwrap(), Vec::new());
        match coding {
            "gzip" => flate2::read::GzDecoder::new(&compressed[..]).read_to_end(&mut inflated).unwrap(),
            _ => flate2::read::ZlibDecoder::new(&compressed[..]).read_to_end(&mut inflated).unwrap(),
        };
        let answer: Value = serde_json::from_slice(&inflated[..length]).unwrap();
        assert_eq!(answer["outputs"][0], binary("label", "INT64", &json!([1]), 8));
        assert_eq!(inflated[length..length + 8], [0; 8]);
    }
    let bomb = deflate("gzip", &vec![b' '; 2 << 20]);
    for (coding, body, status, expected) in [
        ("gzip", bomb, 413, "--max-body-bytes"),
        ("gzip", b"no gzip".to_vec(), 400, "not what its Content-Encoding says"),
        ("br", b"{}".to_vec(), 400, "gzip, deflate or identity"),
    ] {
        let request = host.client.post(format!("{}/v2/models/iris/infer", host.url)).header("content-encoding", coding);
        let (actual, refused) = answer(request.body(body).send().await.unwrap()).await;
        assert_eq!(actual, status, "{refused}");
        assert!(error_message(&refused).contains(expected), "{refused}");
    }
}

#[tokio::test]
async fn models_come_along_with_their_load_and_go() {
    let (host, _store) = Host::with_iris(&["--max-body-bytes", "1MiB"]).await;
    // As the clients send it: no Content-Type, and often no body.
    let post = async |path: &str, body: Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        answer(host.client.post(format!("{}/v2/repository/{path}", host.url)).body(body).send().await.unwrap()).await
    };
    let index = async |body: Value| {
        let (status, listed) = post("index", body).await;
        assert_eq!(status, 200, "{listed}");
        let listed: Vec<String> = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|model| ["name", "version", "state"].map(|name| model[name].as_str().unwrap()).join(" "))
            .collect();
        listed
    };
    assert_eq!(post("models/rose/load", json!({})).await.0, 404);
    assert_eq!(post("models/rose/unload", json!({})).await, (200, json!({})));
    let config = json!({ "backend": "onnxruntime" }).to_string();
    let brought = json!({ "parameters": { "config": config, "file:a.1/model.onnx": STANDARD.encode(iris()) } });
    assert_eq!(post("models/rose/load", brought.clone()).await, (200, json!({})));
    assert_eq!(post("models/rose/load", brought).await.0, 200);
    assert_eq!(index(Value::Null).await, ["iris 1 READY", "rose a.1 READY"]);
    let listed: Value = host.get("/v2/models").await.json().await.unwrap();
    assert_eq!(listed, json!({ "models": ["iris", "rose"] }));

    assert_eq!(post("models/rose/unload", json!({ "parameters": { "unload_dependents": true } })).await.0, 200);
    assert_eq!(index(json!({})).await, ["iris 1 READY", "rose a.1 UNAVAILABLE"]);
    assert_eq!(index(json!({ "ready": true })).await, ["iris 1 READY"]);
    assert_eq!(host.get("/v2/models/rose/ready").await.status(), 503);
    assert_eq!(post("models/rose/load", Value::Null).await.0, 200);
    assert_eq!(host.get("/v2/models/rose/ready").await.status(), 200);

    let add = STANDARD.encode(onnx_file::add());
    for (parameters, status, expected) in [
        (json!({ "file:a.1/model.onnx": add }), 409, "upload under another version"),
        (json!({ "file:2/model.onnx": "no base64!" }), 400, "is not base64"),
        (json!({ "file:2/model.onnx": STANDARD.encode("no model") }), 400, "not an ONNX model"),
        (json!({ "file:../model.onnx": add }), 400, "\"..\" is not a valid name"),
        (json!({ "file:2/weights": add }), 400, "without its model"),
        (json!({ "config": "{\"platform\": \"tensorrt_plan\"}" }), 400, "onnxruntime_onnx"),
        (json!({ "color": "red" }), 400, "none of loading a model"),
    ] {
        let (actual, refused) = post("models/rose/load", json!({ "parameters": parameters })).await;
        assert_eq!(actual, status, "{refused}");
        assert!(error_message(&refused).contains(expected), "{refused}");
    }
    let large = json!({ "parameters": { "file:2/model.onnx": "A".repeat(2 << 20) } });
    let (status, refused) = post("models/rose/load", large).await;
    assert_eq!(status, 413);
    assert!(error_message(&refused).contains("(--max-body-bytes); a larger model comes by POST"), "{refused}");
    for (path, body) in [("index", json!([1])), ("models/rose/unload", json!({ "parameters": 1 }))] {
        assert_eq!(post(path, body).await.0, 400, "{path}");
    }
}

#[tokio::test]
async fn a_model_that_kserves_agent_laid_down_is_found_and_forgotten_when_it_says_so() {
    let (host, store) = Host::with_iris(&["--store-poll", "0s"]).await;
    let folder = store.path().join("models/laid");
    std::fs::create_dir_all(folder.join("1")).unwrap();
    std::fs::write(folder.join("1/model.onnx"), iris()).unwrap();
    assert_eq!(host.post("/v2/repository/models/laid/load", json!({})).await.status(), 200);
    assert_eq!(host.get("/v2/models/laid/ready").await.status(), 200);
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(host.post("/v2/repository/models/laid/unload", json!({})).await.status(), 200);
    assert_eq!(host.get("/v2/models/laid/ready").await.status(), 404);
    assert!(!folder.exists());
}

#[tokio::test]
async fn configuration_and_statistics_are_in_tritons_words() {
    let (host, _store) = Host::with_iris(&[]).await;
    let get = async |path: &str| answer(host.get(path).await).await;
    let (status, config) = get("/v2/models/iris/versions/1/config").await;
    let expected = json!({
        "name": "iris",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "version_policy": { "all": {} },
        "max_batch_size": 0,
        "input": [{ "name": "X", "data_type": "TYPE_FP32", "dims": [-1, 4] }],
        "output": [
            { "name": "label", "data_type": "TYPE_INT64", "dims": [-1] },
            { "name": "probabilities", "data_type": "TYPE_FP32", "dims": [-1, 3] },
        ],
        "instance_group": [{ "name": "iris", "kind": "KIND_CPU", "count": 1, "gpus": [] }],
        "default_model_filename": "model.onnx",
        "parameters": {
            "execution_provider": { "string_value": "cpu" },
            "max_batch_size": { "string_value": "64" },
        },
    });
    assert_eq!((status, config), (200, expected));
    host.assert_serves().await;
    for path in ["/v2/models/stats", "/v2/models/iris/stats", "/v2/models/iris/versions/1/stats"] {
        let (status, statistics) = get(path).await;
        assert_eq!(status, 200, "{path}");
        let stats = &statistics["model_stats"][0];
        assert_eq!(
            (&stats["name"], &stats["version"], &stats["inference_count"]),
            (&json!("iris"), &json!("1"), &json!(1))
        );
        assert_eq!(stats["inference_stats"]["success"]["count"], 1, "{stats}");
        assert_eq!(stats["response_stats"], json!({}));
        assert_eq!(stats["batch_stats"][0]["batch_size"], 1, "{stats}");
        assert_eq!(stats["memory_usage"][0]["type"], "CPU", "{stats}");
    }
    for path in ["/v2/models/lily/config", "/v2/models/lily/stats", "/v2/models/iris/versions/7/stats"] {
        assert_eq!(get(path).await.0, 404, "{path}");
    }
    for path in ["/v2/logging", "/v2/trace/setting", "/v2/models/iris/trace/setting", "/v2/systemsharedmemory/status"] {
        let (status, refused) = get(path).await;
        assert_eq!((status, &refused["code"]), (501, &json!("unsupported")), "{path}");
    }
}

#[tokio::test]
async fn a_preprocess_plugin_reads_its_request_from_one_input() {
    let store = tempfile::tempdir().unwrap();
    let host = Host::start(store.path(), &["--bundle", &bundle()]).await;
    let picture = std::fs::read(fixture("images/cat.jpg")).unwrap();
    let element = [&u32::try_from(picture.len()).unwrap().to_le_bytes()[..], &picture].concat();
    let mut input = binary("request", "BYTES", &json!([1]), element.len());
    input["parameters"]["content_type"] = json!("image/jpeg");
    let head = json!({ "inputs": [input], "parameters": { "top_k": 3 } });
    let (status, answer, _) = host.infer_binary("efficientnet-lite0", &head, &element).await;
    assert_eq!(status, 200, "{answer}");
    let output = &answer["outputs"][0];
    assert_eq!(
        (&output["name"], &output["parameters"]["content_type"]),
        (&json!("response"), &json!("application/json"))
    );
    let said: Value = serde_json::from_str(output["data"][0].as_str().unwrap()).unwrap();
    assert_eq!((&said["predicted_label"], said["top_k"].as_array().unwrap().len()), (&json!("tiger cat"), 3));

    // What is no element for it is told so, and the model's own inputs are taken as ever.
    let two = tensor("request", "BYTES", &json!([2]), &json!(["a", "b"]));
    let (status, refused) = host.infer("efficientnet-lite0", json!({ "inputs": [two] })).await;
    assert_eq!(status, 400);
    assert!(error_message(&refused).contains("BYTES[1]; BYTES[2] came"), "{refused}");
    let (status, refused) =
        host.infer("iris", json!({ "inputs": [tensor("request", "BYTES", &json!([1]), &json!(["a"]))] })).await;
    assert_eq!(status, 400);
    assert!(error_message(&refused).contains("no input \"request\""), "{refused}");
}
