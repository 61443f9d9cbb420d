//! What plugins fetch, and what keeps them from it.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::web::*;
use super::*;

#[tokio::test]
async fn a_host_that_is_named_is_fetched_from() {
    let address = server(|head, stream| {
        assert!(head.starts_with("GET /cat.jpg?size=1 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("host: 127.0.0.1:") && head.contains("user-agent: "), "{head}");
        assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
        write(stream, ok("meow"))
    })
    .await;
    let plugin = hostile(small_limits(), &[&address.to_string()]).await;
    let seen = fetched(&plugin, &format!("http://{address}/cat.jpg?size=1")).await;
    assert_eq!((&seen["status"], &seen["length"]), (&serde_json::json!(200), &serde_json::json!(4)), "{seen}");
}

#[tokio::test]
async fn a_private_address_is_refused_unless_it_is_named() {
    let address = answering(ok("secret")).await;
    let port = address.port();
    let plugin = hostile(small_limits(), &["*"]).await;
    let by_name = format!("http://localhost:{port}/");
    for url in [
        format!("http://{address}/"),
        format!("http://127.1:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        by_name.clone(),
    ] {
        let seen = fetched(&plugin, &url).await;
        assert!(seen["error"].is_string(), "{url}: {seen}");
    }
    let error = failing_fetch(&plugin, &format!("http://{address}/")).await;
    assert_eq!(error.code, ErrorCode::Forbidden);
    assert_eq!(
        error.message,
        format!(
            "plugin hostile@{} failed in preprocess: it may not fetch from {address}: that is a loopback address, and only hosts named by --allow-host \
             (NEXUS_ALLOW_HOST) may be private; start the host with --allow-host {address}; its log ends: hostile means it",
            plugin.manifest.version
        )
    );
    let error = failing_fetch(&plugin, &by_name).await;
    let hint = format!("--allow-host localhost:{port}");
    assert_says(&error, ErrorCode::Forbidden, &["that leads to a loopback address", &hint]);
    let named = hostile(small_limits(), &["localhost"]).await;
    assert_eq!(fetched(&named, &by_name).await["length"], 6);
    assert_goes_on(&plugin).await;
}

#[tokio::test]
async fn a_host_that_is_not_allowed_is_refused() {
    let plugin = hostile(small_limits(), &["example.org"]).await;
    let error = failing_fetch(&plugin, "http://93.184.216.34/").await;
    let parts = ["may not fetch from 93.184.216.34:80", "names that host", "--allow-host 93.184.216.34"];
    assert_says(&error, ErrorCode::Forbidden, &parts);
}

#[tokio::test]
async fn a_redirect_is_judged_like_any_request() {
    let inner = answering(ok("secret")).await;
    let outer =
        answering(format!("HTTP/1.1 302 Found\r\nlocation: http://{inner}/\r\ncontent-length: 0\r\n\r\n")).await;
    let plugin = hostile(small_limits(), &["*", &outer.to_string()]).await;
    let error = failing_fetch(&plugin, &format!("http://{outer}/")).await;
    assert_says(&error, ErrorCode::Forbidden, &[&format!("may not fetch from {inner}"), "loopback"]);
    let both = hostile(small_limits(), &[&inner.to_string(), &outer.to_string()]).await;
    assert_eq!(fetched(&both, &format!("http://{outer}/")).await["length"], 6);
}

#[tokio::test]
async fn requests_are_limited_in_number() {
    let address = answering(ok("meow")).await;
    let plugin = hostile(PluginLimits { fetches: 0, ..small_limits() }, &[&address.to_string()]).await;
    let error = failing_fetch(&plugin, &format!("http://{address}/")).await;
    assert_says(&error, ErrorCode::PluginFailed, &["sent more than 0 HTTP requests"]);
}

#[tokio::test]
async fn a_failure_of_the_network_is_the_plugins_to_report() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let plugin = hostile(small_limits(), &[&address.to_string()]).await;
    let seen = fetched(&plugin, &format!("http://{address}/")).await;
    assert!(seen["error"].as_str().unwrap().contains("refused"), "{seen}");
    let error = failing_fetch(&plugin, &format!("http://{address}/")).await;
    assert_eq!(error.code, ErrorCode::InvalidInput);
}

#[tokio::test]
async fn a_classifier_fetches_its_picture_or_says_why_not() {
    let picture = include_bytes!("../../../tests/fixtures/images/cat.jpg");
    let address = server(move |_, mut stream| async move {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: image/jpeg\r\ncontent-length: {}\r\n\r\n", picture.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(picture).await.unwrap();
    })
    .await;
    let limits = PluginLimits {
        cpu_time: Duration::from_secs(20),
        fetch_time: Duration::from_secs(10),
        fetch_bytes: 1 << 20,
        ..small_limits()
    };
    let spec = |name: &str, shape: &[i64]| TensorSpec {
        name: name.into(),
        datatype: DataType::Fp32,
        shape: Some(shape.to_vec()),
    };
    let model = ModelDescription {
        id: "classifier".into(),
        version: "1".into(),
        inputs: vec![spec("images", &[1, 224, 224, 3])],
        outputs: vec![spec("scores", &[1, 3])],
        labels: vec!["cat".into(), "dog".into(), "cup".into()],
    };
    let body = format!(r#"{{"image_url": "http://{address}/cat.jpg"}}"#);

    let plugin = load(&host(limits.clone(), &[&address.to_string()]), component("image-classifier")).await.unwrap();
    let mut instance = start_for(&plugin, model.clone(), "{}").await.unwrap();
    let tensors = preprocess(&mut instance, &body).await.unwrap();
    assert_eq!((tensors[0].shape.as_slice(), tensors[0].byte_size()), (&[1, 224, 224, 3][..], 602_112));
    let response = postprocess(&mut instance, scores()).await.unwrap();
    assert!(std::str::from_utf8(&response.body).unwrap().contains("dog"));

    let plugin = load(&host(limits, &["*"]), component("image-classifier")).await.unwrap();
    let mut instance = start_for(&plugin, model, "{}").await.unwrap();
    let error = preprocess(&mut instance, &body).await.unwrap_err();
    assert_says(&error, ErrorCode::Forbidden, &["plugin image-classifier@", "loopback address", "--allow-host"]);
}
