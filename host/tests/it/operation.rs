//! Request ids, CORS, health, metrics.

use axum::body::Body;
use axum::extract::Request;
use futures_util::StreamExt;
use http_body_util::BodyExt;
use reqwest::Method;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::support::Host;

#[tokio::test]
async fn a_request_id_is_taken_or_made_and_is_in_every_answer() {
    let (host, _store) = Host::with_iris(&[]).await;
    let url = format!("{}/predict", host.url);
    let ask = |id: &str, body: Value| host.client.post(&url).header("x-request-id", id.to_owned()).json(&body).send();
    let good = json!({ "model_id": "iris", "features": [1, 2, 3, 4] });

    let response = ask("abc-123", good.clone()).await.unwrap();
    assert_eq!(response.headers()["x-request-id"], "abc-123");
    assert_eq!(response.json::<Value>().await.unwrap()["request_id"], "abc-123");
    let response = ask("abc-124", json!({ "model_id": "lily" })).await.unwrap();
    assert_eq!(response.headers()["x-request-id"], "abc-124");
    assert_eq!(response.json::<Value>().await.unwrap()["request_id"], "abc-124");

    for unusable in ["", "with space", &"x".repeat(200)] {
        let response = ask(unusable, good.clone()).await.unwrap();
        let made = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        assert!(uuid::Uuid::parse_str(&made).is_ok(), "{made}");
    }
    for path in ["/health", "/metrics", "/models", "/", "/nothing"] {
        assert!(host.get(path).await.headers().contains_key("x-request-id"), "{path}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_answer_in_the_form_of_every_error() {
    let (host, _store) = Host::with_iris(&[]).await;
    let response = host.get("/nothing").await;
    assert_eq!(response.status(), 404);
    assert_eq!(response.json::<Value>().await.unwrap()["code"], "not_found");
    let response = host.client.delete(format!("{}/models", host.url)).send().await.unwrap();
    assert_eq!(response.status(), 405);
    assert_eq!(response.headers()["allow"], "GET,HEAD");
    assert_eq!(response.json::<Value>().await.unwrap()["code"], "method_not_allowed");
}

#[tokio::test]
async fn browsers_of_allowed_origins_may_call() {
    async fn allowed(host: &Host, origin: &str) -> Option<String> {
        let preflight = host
            .client
            .request(Method::OPTIONS, format!("{}/predict", host.url))
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type,x-request-id");
        let response = preflight.send().await.unwrap();
        assert_eq!(response.status(), 200);
        let allowed = response.headers().get("access-control-allow-origin")?;
        Some(allowed.to_str().unwrap().to_owned())
    }
    let (host, _store) = Host::with_iris(&[]).await;
    assert_eq!(allowed(&host, "https://a.example").await.as_deref(), Some("*"));
    let (host, _store) = Host::with_iris(&["--cors-allow-origin", "https://a.example"]).await;
    assert_eq!(allowed(&host, "https://a.example").await.as_deref(), Some("https://a.example"));
    assert_eq!(allowed(&host, "https://b.example").await, None);
}

#[tokio::test]
async fn browsers_may_send_every_header_that_a_request_may_have() {
    let (host, _store) = Host::with_iris(&[]).await;
    let asked = [
        "cache-control",
        "content-encoding",
        "content-type",
        "inference-header-content-length",
        "x-priority",
        "x-request-id",
        "x-timeout-ms",
    ];
    let preflight = host
        .client
        .request(Method::OPTIONS, format!("{}/v2/models/iris/infer", host.url))
        .header("origin", "https://a.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", asked.join(","));
    let response = preflight.send().await.unwrap();
    let allowed = response.headers()["access-control-allow-headers"].to_str().unwrap().to_lowercase();
    let allowed: Vec<&str> = allowed.split(',').map(str::trim).collect();
    for header in asked {
        assert!(allowed.contains(&header), "{header} is not among {allowed:?}");
    }
}

#[tokio::test]
async fn metrics_keep_their_names_and_bounded_labels() {
    let (host, _store) = Host::with_iris(&[]).await;
    host.assert_serves().await;
    host.predict(json!({ "model_id": "iris", "features": [1] })).await;
    host.get("/nothing/1").await;
    host.get("/nothing/2").await;
    let brewed = host.client.request(Method::from_bytes(b"BREW").unwrap(), format!("{}/predict", host.url));
    brewed.send().await.unwrap();
    for (name_and_labels, value) in [
        (r#"http_requests_total{endpoint="/predict",method="POST",status="200"}"#, 1.0),
        (r#"http_requests_total{endpoint="/predict",method="POST",status="400"}"#, 1.0),
        (r#"http_requests_total{endpoint="/predict",method="other",status="405"}"#, 1.0),
        (r#"http_requests_total{endpoint="unmatched",method="GET",status="404"}"#, 2.0),
        (r#"http_request_duration_seconds_count{endpoint="/predict",method="POST"}"#, 2.0),
        (r#"model_predictions_total{model="iris",status="ok",version="1"}"#, 1.0),
        (r#"model_inference_duration_seconds_count{model="iris",version="1"}"#, 1.0),
        ("models_loaded", 1.0),
    ] {
        assert_eq!(host.metric(name_and_labels).await, Some(value), "{name_and_labels}");
    }
}

#[tokio::test]
async fn health_says_what_serves_and_turns_503_when_draining() {
    let (host, _store) = Host::with_iris(&[]).await;
    let response = host.get("/health").await;
    assert_eq!(response.status(), 200);
    let health: Value = response.json().await.unwrap();
    assert_eq!((&health["status"], &health["models_loaded"]), (&json!("healthy"), &json!(1)));
    host.app.begin_draining();
    // Past its connections, which end.
    let router = model_nexus::routes::router(host.app.clone()).unwrap();
    let response = router.oneshot(Request::get("/health").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 503);
    let health = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(serde_json::from_slice::<Value>(&health).unwrap()["status"], "draining");
}

#[tokio::test]
async fn more_predictions_at_once_than_allowed_are_503_with_retry_after() {
    let (host, _store) = Host::with_iris(&["--max-predictions", "1"]).await;
    let permit = host.app.admit_prediction().unwrap();
    let response = host.post("/predict", json!({ "model_id": "iris", "features": [1, 2, 3, 4] })).await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    assert!(response.text().await.unwrap().contains("--max-predictions"));
    drop(permit);
    host.assert_serves().await;
}

#[tokio::test]
async fn the_page_is_served_under_a_strict_policy() {
    let (host, _store) = Host::with_iris(&[]).await;
    let page = host.get("/").await;
    assert!(page.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'self'"));
    assert!(page.text().await.unwrap().contains("<title>"));
    assert_eq!(host.get("/ui/app.js").await.headers()["content-type"], "text/javascript; charset=utf-8");
    assert_eq!(host.get("/ui/style.css").await.headers()["content-type"], "text/css; charset=utf-8");
}

#[tokio::test]
async fn a_client_that_stops_sending_is_let_go() {
    let (host, _store) = Host::with_iris(&["--body-idle-timeout", "200ms", "--max-predictions", "1"]).await;
    let endless =
        futures_util::stream::once(async { Ok::<_, std::io::Error>("{") }).chain(futures_util::stream::pending());
    let stalled = host.client.post(format!("{}/predict", host.url)).body(reqwest::Body::wrap_stream(endless));
    let response = stalled.send().await.unwrap();
    assert_eq!(response.status(), 408);
    assert!(response.text().await.unwrap().contains("--body-idle-timeout"));
    host.assert_serves().await;
}

#[tokio::test]
async fn a_body_that_trickles_in_does_not_hold_a_place_for_ever() {
    let (host, _store) = Host::with_iris(&["--predict-timeout", "3s", "--max-predictions", "1"]).await;
    let trickle = futures_util::stream::unfold((), |()| async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        Some((Ok::<_, std::io::Error>(" "), ()))
    });
    let slow = host.client.post(format!("{}/predict", host.url)).body(reqwest::Body::wrap_stream(trickle));
    assert_eq!(slow.send().await.unwrap().status(), 408);
    host.assert_serves().await;
}

#[tokio::test]
async fn a_browser_may_read_an_error_too() {
    let (host, _store) = Host::with_iris(&[]).await;
    let request = host.client.get(format!("{}/models/info?id=lily", host.url)).header("origin", "https://a.example");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 404);
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    assert_eq!(response.headers()["content-type"], "application/json");
}
