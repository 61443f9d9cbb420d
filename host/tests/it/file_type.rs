//! Magika behind the `file-type` plugin: the reference's labels and scores for every sample, however a file is sent.

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::support::{Host, answer, bundle, error_message, fixture};

/// A host with the bundled plugins and Magika, uploaded with its pipeline.
async fn host_with_magika(options: &[&str]) -> (Host, tempfile::TempDir) {
    let store = tempfile::tempdir().unwrap();
    let bundle = bundle();
    let options = [&["--bundle", bundle.as_str()], options].concat();
    let host = Host::start(store.path(), &options).await;
    let stage = json!({ "plugin": "file-type@0.1.0" });
    let model = std::fs::read(fixture("models/magika/model.onnx")).unwrap();
    let form = Form::new()
        .part("file", Part::bytes(model).file_name("model.onnx"))
        .text("id", "magika")
        .text("name", "Magika")
        .text("version", "1")
        .text("pipeline", json!({ "preprocess": stage, "postprocess": stage }).to_string());
    let url = format!("{}/models/upload", host.url);
    let (status, uploaded) = answer(host.client.post(url).multipart(form).send().await.unwrap()).await;
    assert_eq!(status, 201, "{uploaded}");
    (host, store)
}

fn sample(name: &str) -> Vec<u8> {
    std::fs::read(fixture("models/magika/samples").join(name)).unwrap()
}

fn expected() -> serde_json::Map<String, Value> {
    serde_json::from_slice(&std::fs::read(fixture("models/magika/expected.json")).unwrap()).unwrap()
}

async fn identify(host: &Host, content_type: &str, body: Vec<u8>) -> (u16, Value) {
    let url = format!("{}/predict?model_id=magika", host.url);
    answer(host.client.post(url).header("content-type", content_type).body(body).send().await.unwrap()).await
}

fn assert_like_reference(name: &str, answer: &Value, expected: &Value) {
    for field in ["label", "model_label"] {
        assert_eq!(answer[field], expected[field], "{name}: {answer}");
    }
    let difference = answer["score"].as_f64().unwrap() - expected["score"].as_f64().unwrap();
    assert!(difference.abs() < 0.001, "{name}: {answer}");
}

#[tokio::test]
async fn every_sample_gets_the_references_label_and_score() {
    let (host, _store) = host_with_magika(&[]).await;
    let expected = expected();
    assert_eq!(std::fs::read_dir(fixture("models/magika/samples")).unwrap().count(), expected.len());
    for (name, expected) in &expected {
        let (status, answer) = identify(&host, "application/octet-stream", sample(name)).await;
        assert_eq!(status, 200, "{name}: {answer}");
        assert_like_reference(name, &answer, expected);
        assert_eq!((&answer["model_id"], &answer["version"]), (&json!("magika"), &json!("1")));
    }
}

#[tokio::test]
async fn a_file_comes_with_any_content_type_or_in_a_form() {
    let (host, _store) = host_with_magika(&[]).await;
    let expected = expected();
    for content_type in ["text/x-python", "image/png", "application/x-www-form-urlencoded", "text/plain; charset=utf-8"]
    {
        let (status, answer) = identify(&host, content_type, sample("sample.py")).await;
        assert_eq!(status, 200, "{content_type}: {answer}");
        assert_like_reference(content_type, &answer, &expected["sample.py"]);
    }
    for content_type in ["application/octet-stream", "application/json"] {
        let part = Part::bytes(sample("sample.json")).file_name("sample.json").mime_str(content_type).unwrap();
        let form = Form::new().text("model_id", "magika").part("file", part);
        let url = format!("{}/predict", host.url);
        let (status, answer) = answer(host.client.post(url).multipart(form).send().await.unwrap()).await;
        assert_eq!(status, 200, "{content_type}: {answer}");
        assert_like_reference("sample.json", &answer, &expected["sample.json"]);
    }
}

#[tokio::test]
async fn a_request_in_json_is_no_file() {
    let (host, _store) = host_with_magika(&[]).await;
    let (status, answer) = host.predict(json!({ "model_id": "magika", "file": "aGVsbG8=" })).await;
    assert_eq!((status, &answer["code"]), (400, &json!("invalid_input")), "{answer}");
    assert!(error_message(&answer).contains("application/octet-stream"), "{answer}");
}

#[tokio::test]
async fn a_large_file_takes_no_more_memory_than_itself() {
    let limits = ["--plugin-memory-bytes", "36MiB", "--max-body-bytes", "40MiB"];
    let (host, _store) = host_with_magika(&limits).await;
    let wav = [sample("sample.wav"), vec![0; 30 << 20]].concat();
    let (status, answer) = identify(&host, "audio/wav", wav).await;
    assert_eq!((status, &answer["label"]), (200, &json!("wav")), "{answer}");
}
