//! What becomes of requests when a bound plugin fails: bypassed where that is asked, and left alone after traps.

use std::time::Duration;

use serde_json::json;

use crate::plugins::{HOSTILE, ask, bind, host_with_hostile, hostile_pipeline};
use crate::support::{answer, error_message};

/// A pipeline of postprocess alone runs on `features` too, and a bypass leaves the model's own outputs.
#[tokio::test]
async fn one_stage_alone_serves_and_a_failing_one_is_bypassed_where_that_is_asked() {
    let (host, _store) = host_with_hostile(&["--plugin-breaker-failures", "0"]).await;
    let features = json!({ "model_id": "iris", "features": [5.1, 3.5, 1.4, 0.2] });
    let stage = |act: &str, policy: &str| json!({ "plugin": HOSTILE, "config": { "do": act, "stage": "postprocess" }, "on_failure": policy });
    let (status, bound) = bind(&host, "iris", &json!({ "postprocess": stage("ok", "fail") })).await;
    assert_eq!((status, &bound["versions"][0]["golden"]), (200, &json!("zeros")), "{bound}");
    let (status, answer) = host.predict(features.clone()).await;
    assert_eq!((status, &answer["ok"]), (200, &json!(true)), "{answer}");

    // Postprocess that fails leaves the model's own outputs; that it fails, a trial with zeros would have shown.
    let both = json!({ "plugin": HOSTILE, "config": { "do": "trap", "stage": "postprocess" }, "on_failure": "bypass" });
    let (status, error) = bind(&host, "iris", &json!({ "postprocess": both })).await;
    assert!(status == 400 && error_message(&error).contains("only goes around the plugin"), "{error}");
    assert_eq!(bind(&host, "iris", &json!({ "preprocess": both, "postprocess": both })).await.0, 200);
    let response = host.post("/predict", json!({ "model_id": "iris", "x": [5.1, 3.5, 1.4, 0.2] })).await;
    assert_eq!(response.headers()["x-bypassed"], "postprocess");
    assert_eq!(crate::support::answer(response).await.1["prediction"], json!([0]));

    let trap = json!({ "preprocess": { "plugin": HOSTILE, "config": { "do": "trap" }, "on_failure": "bypass" } });
    assert_eq!(bind(&host, "iris", &trap).await.0, 200);
    let body: Vec<u8> = [5.1f32, 3.5, 1.4, 0.2].iter().flat_map(|value| value.to_le_bytes()).collect();
    let raw = |body: Vec<u8>| {
        let request = host.client.post(format!("{}/predict?model_id=iris", host.url));
        request.header("content-type", "application/octet-stream").body(body).send()
    };
    let response = raw(body.clone()).await.unwrap();
    assert_eq!(response.headers()["x-bypassed"], "preprocess");
    let (status, bypassed) = crate::support::answer(response).await;
    assert_eq!((status, &bypassed["prediction"]), (200, &json!([0])), "{bypassed}");
    assert_eq!(raw(body.clone()).await.unwrap().headers()["x-cache"], "miss", "an answer made without is not kept");
    // What is not the model's input cannot take its place.
    let (status, error) = crate::support::answer(raw(body[..7].to_vec()).await.unwrap()).await;
    assert_eq!(status, 502, "{error}");
    assert_eq!(ask(&host).await.0, 502);
    // Nor can text of the right length.
    let json = json!({ "model_id": "iris", "x": [1], "pad": "123456789012" }).to_string();
    assert_eq!(json.len() % 16, 0, "{}", json.len());
    assert_eq!(host.predict(serde_json::from_str(&json).unwrap()).await.0, 502);
    assert_eq!(
        host.metric("nexus_plugin_bypasses_total{model=\"iris\",stage=\"preprocess\",version=\"1\"}").await,
        Some(2.0)
    );
}

#[tokio::test]
async fn a_plugin_that_traps_again_and_again_is_left_alone_and_health_says_so() {
    let (host, _store) = host_with_hostile(&["--plugin-breaker-failures", "3", "--plugin-breaker-pause", "3s"]).await;
    assert_eq!(bind(&host, "iris", &hostile_pipeline(&json!({ "do": "trap" }))).await.0, 200);
    for _ in 0..3 {
        assert_eq!(ask(&host).await.0, 502);
    }
    let (status, error) = ask(&host).await;
    assert_eq!(status, 503, "{error}");
    let message = error_message(&error);
    assert!(message.contains("trapped 3 times in a row") && message.contains("--plugin-breaker-pause"), "{message}");
    let (status, health) = answer(host.get("/health").await).await;
    assert_eq!((status, &health["open_circuits"][0]["plugin"]), (200, &json!(HOSTILE)), "{health}");
    assert!(health["open_circuits"][0]["last_failure"].as_str().unwrap().contains("trapped"), "{health}");
    let metric =
        "nexus_plugin_circuit_open{model=\"iris\",plugin=\"hostile@0.1.0\",stage=\"preprocess\",version=\"1\"}";
    assert_eq!(host.metric(metric).await, Some(1.0));
    // Features go by the plugin; and a plugin that is bound anew begins anew.
    host.assert_serves().await;
    tokio::time::sleep(Duration::from_millis(3200)).await;
    assert_eq!(ask(&host).await.0, 502, "after the pause one request tries");
    assert_eq!(ask(&host).await.0, 503);
    assert_eq!(bind(&host, "iris", &hostile_pipeline(&json!({}))).await.0, 200);
    assert_eq!(ask(&host).await.0, 200);
    assert_eq!(host.metric(metric).await, Some(0.0));
    let (_, health) = answer(host.get("/health").await).await;
    assert_eq!(health["open_circuits"], json!([]));
}

/// What a client did wrong opens no circuit, and neither does an error that the plugin returns.
#[tokio::test]
async fn errors_that_are_no_traps_leave_the_circuit_closed() {
    let (host, _store) = host_with_hostile(&["--plugin-breaker-failures", "1"]).await;
    for (act, status) in [("invalid-input", 400), ("plugin-error", 502)] {
        assert_eq!(bind(&host, "iris", &hostile_pipeline(&json!({ "do": act }))).await.0, 200);
        for _ in 0..3 {
            assert_eq!(ask(&host).await.0, status);
        }
    }
    assert_eq!(answer(host.get("/health").await).await.1["open_circuits"], json!([]));
}

/// Where one instance serves both stages, a trap in the second counts although the first went well.
#[tokio::test]
async fn traps_in_postprocess_open_the_circuit_too() {
    let (host, _store) = host_with_hostile(&["--plugin-breaker-failures", "3"]).await;
    let trap = hostile_pipeline(&json!({ "do": "trap", "stage": "postprocess" }));
    assert_eq!(bind(&host, "iris", &trap).await.0, 200);
    for _ in 0..3 {
        assert_eq!(ask(&host).await.0, 502);
    }
    let response = host.post("/predict", json!({ "model_id": "iris", "x": [1, 2, 3, 4] })).await;
    let seconds: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(response.status() == 503 && (2..=10).contains(&seconds), "{seconds} s");
}
