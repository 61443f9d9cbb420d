//! Repeated predictions are answered from memory, and never with an old answer.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::onnx_file;
use crate::pictures::Pictures;
use crate::support::{Host, bundle};

const RUNS: &str = r#"model_inference_duration_seconds_count{model="iris",version="1"}"#;
const HITS: &str = r#"nexus_cache_hits_total{model="iris",version="1"}"#;

fn iris_request() -> Value {
    json!({ "model_id": "iris", "features": [5.1, 3.5, 1.4, 0.2] })
}

async fn x_cache(host: &Host, body: Value, cache_control: &str) -> String {
    let request = host.client.post(format!("{}/predict", host.url)).json(&body).header("cache-control", cache_control);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.headers()["x-cache"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_second_time_is_a_hit_unless_the_client_wants_it_fresh() {
    let (host, _store) = Host::with_iris(&[]).await;
    assert_eq!(x_cache(&host, iris_request(), "max-age=0").await, "miss");
    assert_eq!(x_cache(&host, iris_request(), "max-age=0").await, "hit");
    assert_eq!(x_cache(&host, iris_request(), "no-cache").await, "miss");
    let other = json!({ "model_id": "iris", "features": [5.1, 3.5, 1.4, 0.3] });
    assert_eq!(x_cache(&host, other, "max-age=0").await, "miss");
    assert_eq!(host.metric(RUNS).await, Some(3.0));
    assert_eq!(host.metric(HITS).await, Some(1.0));
}

#[tokio::test]
async fn a_cached_answer_is_the_same_but_for_what_is_the_requests_own() {
    let (host, _store) = Host::with_iris(&[]).await;
    let (_, first) = host.predict(iris_request()).await;
    let (_, second) = host.predict(iris_request()).await;
    assert_eq!(first["outputs"], second["outputs"]);
    assert_ne!(first["request_id"], second["request_id"]);
}

#[tokio::test]
async fn answers_are_forgotten_after_their_time_and_not_kept_where_there_is_no_room() {
    let (host, _store) = Host::with_iris(&["--cache-ttl", "200ms"]).await;
    assert_eq!(x_cache(&host, iris_request(), "").await, "miss");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(x_cache(&host, iris_request(), "").await, "miss");
    let (host, _store) = Host::with_iris(&["--cache-bytes", "0"]).await;
    assert_eq!(x_cache(&host, iris_request(), "").await, "miss");
    assert_eq!(x_cache(&host, iris_request(), "").await, "miss");
}

#[tokio::test]
async fn a_new_version_never_serves_an_old_answer() {
    let (host, _store) = Host::with_iris(&[]).await;
    let request = json!({ "model_id": "m", "features": [1.0, 2.0] });
    host.upload("m", "1", onnx_file::identity(1, &[2])).await;
    host.predict(request.clone()).await;
    assert_eq!(host.predict(request.clone()).await.1["prediction"], json!([1.0, 2.0]));
    let negated = onnx_file::model(
        vec![onnx_file::node("Neg", &["x"], &["y"])],
        vec![],
        vec![onnx_file::value("x", 1, &[2])],
        vec![onnx_file::value("y", 1, &[2])],
    );
    host.upload("m", "2", negated).await;
    assert_eq!(host.predict(request).await.1["prediction"], json!([-1.0, -2.0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn equal_requests_at_once_are_computed_once() {
    let pictures = Pictures::serve().await;
    let store = tempfile::tempdir().unwrap();
    let options = ["--bundle", &bundle(), "--allow-host", &pictures.address];
    let host = Arc::new(Host::start(store.path(), &options).await);
    let body = json!({ "image_url": pictures.url("slow.jpg") });
    let requests: Vec<_> = (0..8)
        .map(|_| {
            let (host, body) = (host.clone(), body.clone());
            tokio::spawn(async move { host.predict(body).await })
        })
        .collect();
    for request in requests {
        let (status, answer) = request.await.unwrap();
        assert_eq!((status, &answer["predicted_label"]), (200, &json!("tiger cat")), "{answer}");
    }
    assert_eq!(pictures.count(), 1);
    let failing = json!({ "image_url": pictures.url("missing.jpg") });
    host.predict(failing.clone()).await;
    host.predict(failing).await;
    assert_eq!(pictures.count(), 3, "an error was kept");
}
