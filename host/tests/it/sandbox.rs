//! Plugins that misbehave, seen from a client: an answer in bounded time, and a host that serves on.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Host, error_message, store_with_iris, test_plugin};

/// A host whose model `hostile` is iris behind the hostile plugin, told what to do.
async fn hostile(act: &str, stage: &str) -> (Host, tempfile::TempDir) {
    hostile_models(&[("hostile", &format!("do = \"{act}\", stage = \"{stage}\", count = 4194304"))]).await
}

/// A host with several such models: each an id and what the plugin is told.
async fn hostile_models(models: &[(&str, &str)]) -> (Host, tempfile::TempDir) {
    let store = store_with_iris();
    let plugin = store.path().join("plugins/hostile/0.1.0");
    std::fs::create_dir_all(&plugin).unwrap();
    std::fs::copy(test_plugin("hostile"), plugin.join("plugin.wasm")).unwrap();
    for (id, config) in models {
        let model = store.path().join("models").join(id);
        std::fs::create_dir_all(model.join("1")).unwrap();
        std::fs::copy(store.path().join("models/iris/1/model.onnx"), model.join("1/model.onnx")).unwrap();
        let stage_binding = format!("plugin = \"hostile@0.1.0\"\nconfig = {{ {config} }}\n");
        let config = format!("[pipeline.preprocess]\n{stage_binding}[pipeline.postprocess]\n{stage_binding}");
        std::fs::write(model.join("model.toml"), config).unwrap();
    }
    let limits = [
        "--plugin-cpu-time",
        "200ms",
        "--plugin-wall-time",
        "5s",
        "--plugin-memory-bytes",
        "32MiB",
        "--plugin-output-bytes",
        "1MiB",
    ];
    (Host::start(store.path(), &limits).await, store)
}

async fn ask(host: &Host) -> (u16, Value) {
    host.predict(json!({ "model_id": "hostile", "x": [5.1, 3.5, 1.4, 0.2] })).await
}

#[tokio::test]
async fn a_proper_plugin_serves_and_no_state_outlives_a_request() {
    let (host, _store) = hostile("ok", "preprocess").await;
    for _ in 0..3 {
        let request = host.client.post(format!("{}/predict", host.url)).header("cache-control", "no-cache");
        let request = request.json(&json!({ "model_id": "hostile", "x": [5.1, 3.5, 1.4, 0.2] }));
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!((&answer["ok"], &answer["state"]), (&json!(true), &json!(1)), "{answer}");
    }
}

#[tokio::test]
async fn a_plugin_that_misbehaves_is_502_in_bounded_time_and_the_host_serves_on() {
    for (act, expected) in [
        ("loop", "--plugin-cpu-time"),
        ("memory", "--plugin-memory-bytes"),
        ("recurse", "stack"),
        ("trap", "trap"),
        ("panic", "hostile panic 42"),
        ("sleep", "--plugin-wall-time"),
        ("plugin-error", "hostile plugin error 42"),
        ("wrong-name", "has no input"),
        ("wrong-datatype", "expected FP32[·,4], got"),
        ("bad-shape", "preprocess"),
        ("overflow-shape", "preprocess"),
    ] {
        let (host, _store) = hostile(act, "preprocess").await;
        let started = Instant::now();
        let (status, answer) = ask(&host).await;
        assert!(started.elapsed() < Duration::from_secs(60), "{act} took {:?}", started.elapsed());
        assert_eq!((status, &answer["code"]), (502, &json!("plugin_failed")), "{act}: {answer}");
        let message = error_message(&answer);
        assert!(message.contains(expected) && message.contains("hostile@0.1.0"), "{act}: {message}");
        host.assert_serves().await;
        let failures = host.metric(r#"nexus_plugin_failures_total{plugin="hostile@0.1.0",stage="preprocess"}"#).await;
        assert_eq!(failures, Some(1.0), "{act}");
    }
}

/// Tensors that agree with themselves, or not, and do not fit the model: no run, and a reason.
#[tokio::test]
async fn what_does_not_fit_the_model_is_the_plugins_failure() {
    let acts = [
        ("no-tensors", "misses its input"),
        ("extra-tensor", "has no input"),
        ("twice-tensor", "came twice"),
        ("negative-shape", "more elements than can be counted"),
        ("zero-by-overflow", "more elements than can be counted"),
        ("bytes-truncated", "runs past the end"),
        ("bytes-bad-utf8", "got BYTES[1]"),
        ("unknown-datatype", "unknown datatype"),
        ("bad-utf8", "UTF-8"),
    ];
    let configs = acts.map(|(act, _)| (act, format!("do = \"{act}\"")));
    let (host, _store) = hostile_models(&configs.each_ref().map(|(id, config)| (*id, config.as_str()))).await;
    for (act, expected) in acts {
        let (status, answer) = host.predict(json!({ "model_id": act, "x": [5.1, 3.5, 1.4, 0.2] })).await;
        assert_eq!((status, &answer["code"]), (502, &json!("plugin_failed")), "{act}: {answer}");
        let message = error_message(&answer);
        assert!(message.contains(expected) && message.contains("hostile@0.1.0"), "{act}: {message}");
        assert!(message.len() < 10_000, "{act}: {} bytes of message", message.len());
    }
    host.assert_serves().await;
}

/// What a plugin chose does not fill an answer, or a log.
#[tokio::test]
async fn a_misfit_is_told_in_few_words() {
    let huge = [("shape", "do = \"huge-shape\", count = 100000"), ("name", "do = \"huge-name\", count = 500000")];
    let (host, _store) = hostile_models(&huge).await;
    for (id, _) in huge {
        let (status, answer) = host.predict(json!({ "model_id": id, "x": [5.1, 3.5, 1.4, 0.2] })).await;
        assert_eq!(status, 502, "{id}");
        assert!(error_message(&answer).len() < 10_000, "{id}: {} bytes of message", error_message(&answer).len());
    }
}

/// What says that it is JSON, and is not, is the plugin's failure.
#[tokio::test]
async fn an_answer_that_is_no_json_does_not_go_out_as_json() {
    let acts = ["bad-utf8-json", "broken-json", "json-array"];
    let configs = acts.map(|act| (act, format!("do = \"{act}\", stage = \"postprocess\"")));
    let (host, _store) = hostile_models(&configs.each_ref().map(|(id, config)| (*id, config.as_str()))).await;
    for act in acts {
        let answer = host.post("/predict", json!({ "model_id": act, "x": [5.1, 3.5, 1.4, 0.2] })).await;
        let expected = if act == "json-array" { 200 } else { 502 };
        assert_eq!(answer.status().as_u16(), expected, "{act}");
        let body = answer.bytes().await.unwrap();
        assert!(serde_json::from_slice::<Value>(&body).is_ok(), "{act}: {body:?}");
    }
}

/// No rows are as many as the model takes.
#[tokio::test]
async fn a_tensor_of_size_zero_ends_in_an_answer() {
    let (host, _store) = hostile("zero-size", "preprocess").await;
    let (status, answer) = ask(&host).await;
    assert!(status == 200 || (400..=502).contains(&status) && status != 500, "{status}: {answer}");
    host.assert_serves().await;
}

#[tokio::test]
async fn an_input_the_plugin_refuses_is_the_clients_fault() {
    let (host, _store) = hostile("invalid-input", "preprocess").await;
    let (status, answer) = ask(&host).await;
    assert_eq!(status, 400, "{answer}");
    assert!(error_message(&answer).contains("hostile invalid input 42"), "{answer}");
}

#[tokio::test]
async fn postprocess_is_held_to_the_same_limits() {
    for (act, expected) in [("loop", "--plugin-cpu-time"), ("trap", "trap"), ("huge-output", "--plugin-output-bytes")] {
        let (host, _store) = hostile(act, "postprocess").await;
        let (status, answer) = ask(&host).await;
        assert_eq!(status, 502, "{act}: {answer}");
        let message = error_message(&answer);
        assert!(message.contains("postprocess") && message.contains(expected), "{act}: {message}");
        host.assert_serves().await;
    }
}

#[tokio::test]
async fn a_plugin_that_cannot_start_keeps_its_model_from_serving_and_nothing_else() {
    let (host, _store) = hostile("trap", "init").await;
    host.assert_serves().await;
    let (status, refused) = ask(&host).await;
    assert_eq!(status, 503);
    assert!(error_message(&refused).contains("init"), "{refused}");
    let health: Value = host.get("/health").await.json().await.unwrap();
    assert_eq!(health["skipped"][0]["id"], "hostile");
    assert!(health["skipped"][0]["reason"].as_str().unwrap().contains("init"), "{health}");
}
