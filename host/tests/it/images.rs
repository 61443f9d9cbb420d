//! The image way: by URL, as a file, as the raw body, as a data URL; and `POST /upload`.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use base64::Engine;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::onnx_file;
use crate::pictures::{BOMB, Pictures};
use crate::support::{Host, answer, bundle, error_message, fixture, repository_root};

/// A host with the bundled models and plugins, and a server of pictures it may fetch from.
async fn host_and_pictures() -> (Host, Pictures, tempfile::TempDir) {
    let pictures = Pictures::serve().await;
    let store = tempfile::tempdir().unwrap();
    let host = Host::start(store.path(), &["--bundle", &bundle(), "--allow-host", &pictures.address]).await;
    (host, pictures, store)
}

fn image(name: &str) -> Vec<u8> {
    std::fs::read(fixture("images").join(name)).unwrap()
}

fn assert_like_reference(name: &str, answer: &Value) {
    let expected: Value =
        serde_json::from_slice(&std::fs::read(fixture("images/expected-top5.json")).unwrap()).unwrap();
    let first = &expected[name][0];
    assert_eq!(answer["predicted_label"], first["label"], "{name}: {answer}");
    let difference = answer["confidence"].as_f64().unwrap() - first["confidence"].as_f64().unwrap();
    assert!(difference.abs() < 0.08, "{name}: {answer}");
}

#[tokio::test]
async fn pictures_behind_urls_get_the_reference_labels() {
    let (host, pictures, _store) = host_and_pictures().await;
    for name in ["cat.jpg", "coffee.jpg", "rocket.jpg", "coffee-2400x1600.jpg"] {
        let (status, answer) = host.predict(json!({ "image_url": pictures.url(name) })).await;
        assert_eq!(status, 200, "{name}: {answer}");
        assert_like_reference(name, &answer);
        assert_eq!(answer["top_k"].as_array().unwrap().len(), 5);
        assert_eq!(answer["top_k"][0]["label"], answer["predicted_label"]);
        assert_eq!((&answer["model_id"], &answer["version"]), (&json!("efficientnet-lite0"), &json!("1")));
    }
    let (_, answer) = host.predict(json!({ "image_url": pictures.url("cat.jpg"), "top_k": 2 })).await;
    assert_eq!(answer["top_k"].as_array().unwrap().len(), 2);
    let response = host.post("/predict", json!({ "image_url": pictures.url("cat.jpg"), "top_k": 1 })).await;
    let timing = response.headers()["server-timing"].to_str().unwrap();
    let fetched = timing.strip_prefix("fetch;dur=").and_then(|rest| rest.split(',').next()?.parse::<f64>().ok());
    assert!(fetched.is_some_and(|milliseconds| milliseconds > 0.0), "{timing}");
    let by_name = json!({ "image_url": pictures.url("moved.jpg"), "model_id": "efficientnet-lite0" });
    assert_like_reference("cat.jpg", &host.predict(by_name).await.1);
}

#[tokio::test]
async fn a_picture_comes_as_a_file_as_the_body_or_as_a_data_url() {
    let (host, _, _store) = host_and_pictures().await;
    let url = format!("{}/predict", host.url);
    let form = Form::new().text("top_k", "3").part("image", Part::bytes(image("cat.png")).file_name("cat.png"));
    let (status, by_form) = answer(host.client.post(&url).multipart(form).send().await.unwrap()).await;
    assert_eq!(status, 200, "{by_form}");
    assert_like_reference("cat.png", &by_form);
    assert_eq!(by_form["top_k"].as_array().unwrap().len(), 3);

    let raw = host.client.post(format!("{url}?top_k=1")).header("content-type", "image/jpeg").body(image("rocket.jpg"));
    let (_, by_body) = answer(raw.send().await.unwrap()).await;
    assert_like_reference("rocket.jpg", &by_body);
    assert_eq!(by_body["top_k"].as_array().unwrap().len(), 1);

    let data = base64::engine::general_purpose::STANDARD.encode(image("cat.jpg"));
    let (_, by_data) = host.predict(json!({ "image_url": format!("data:image/jpeg;base64,{data}") })).await;
    assert_like_reference("cat.jpg", &by_data);
}

#[tokio::test]
async fn a_private_address_that_was_not_granted_is_403_and_names_the_option() {
    let pictures = Pictures::serve().await;
    let store = tempfile::tempdir().unwrap();
    let host = Host::start(store.path(), &["--bundle", &bundle()]).await;
    let (status, answer) = host.predict(json!({ "image_url": pictures.url("cat.jpg") })).await;
    assert_eq!((status, &answer["code"]), (403, &json!("forbidden")), "{answer}");
    assert!(error_message(&answer).contains(&format!("--allow-host {}", pictures.address)), "{answer}");
    assert_eq!(pictures.count(), 0);
}

#[tokio::test]
async fn what_is_no_picture_is_the_clients_fault() {
    let (host, pictures, _store) = host_and_pictures().await;
    // Making it takes longer than a fetch may.
    LazyLock::force(&BOMB);
    for (name, status, expected) in [
        ("missing.jpg", 400, "404"),
        ("gone.jpg", 400, "410"),
        ("page.html", 400, "HTML"),
        ("endless.jpg", 413, "--plugin-fetch-bytes"),
        ("bomb.png", 400, "30000"),
        ("moved-away.jpg", 403, "--allow-host"),
    ] {
        let started = Instant::now();
        let (actual, answer) = host.predict(json!({ "image_url": pictures.url(name) })).await;
        assert_eq!(actual, status, "{name}: {answer}");
        assert!(error_message(&answer).contains(expected), "{name}: {answer}");
        assert!(started.elapsed() < Duration::from_secs(30), "{name} took {:?}", started.elapsed());
    }
    for body in
        [json!({ "image_url": "ftp://example.com/cat.jpg" }), json!({ "image_url": 7 }), json!({ "image_url": "" })]
    {
        let (status, answer) = host.predict(body).await;
        assert_eq!(status, 400, "{answer}");
    }
    let bomb = host.client.post(format!("{}/predict", host.url)).header("content-type", "image/png").body(BOMB.clone());
    assert_eq!(bomb.send().await.unwrap().status(), 400);
    let truncated = image("cat.jpg")[..200].to_vec();
    let truncated =
        host.client.post(format!("{}/predict", host.url)).header("content-type", "image/jpeg").body(truncated);
    assert_eq!(truncated.send().await.unwrap().status(), 400);
    host.assert_serves().await;
}

async fn upload_image_model(host: &Host, name: &str, model: Vec<u8>, labels: Option<&str>) -> (u16, Value) {
    let mut form = Form::new().part("model", Part::bytes(model).file_name(name.to_owned()));
    if let Some(labels) = labels {
        form = form.part("labels", Part::bytes(labels.as_bytes().to_vec()).file_name("labels.json"));
    }
    answer(host.client.post(format!("{}/upload", host.url)).multipart(form).send().await.unwrap()).await
}

/// A PNG of one colour.
fn plain_png(rgb: [u8; 3]) -> Vec<u8> {
    let mut png = Vec::new();
    let picture = image::RgbImage::from_pixel(64, 48, image::Rgb(rgb));
    picture.write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
    png
}

async fn classify(host: &Host, png: Vec<u8>) -> Value {
    let request = host.client.post(format!("{}/predict", host.url)).header("content-type", "image/png").body(png);
    answer(request.send().await.unwrap()).await.1
}

#[tokio::test]
async fn an_uploaded_image_model_is_the_default_from_then_on_restarts_included() {
    let (host, _, store) = host_and_pictures().await;
    // NHWC, float and uint8: all read off the model's input, nothing configured.
    for (version, datatype) in [(1, 1), (2, 2)] {
        let model = onnx_file::nhwc_classifier(datatype);
        let (status, uploaded) = upload_image_model(
            &host,
            "efficientnet-lite4-11-int8.onnx",
            model,
            Some(r#"["none", "red", "green", "blue"]"#),
        )
        .await;
        assert_eq!((status, &uploaded["status"]), (200, &json!("success")), "{uploaded}");
        let folder = format!("models/efficientnet-lite4-11-int8/{version}");
        assert_eq!(uploaded["model"], format!("{folder}/model.onnx"));
        assert_eq!(uploaded["labels"], format!("{folder}/labels.json"));
        for (rgb, label) in [([255, 0, 0], "red"), ([0, 255, 0], "green"), ([0, 0, 255], "blue")] {
            let answer = classify(&host, plain_png(rgb)).await;
            assert_eq!(answer["predicted_label"], label, "{answer}");
            assert_eq!(answer["version"], version.to_string());
        }
    }
    drop(host);
    let host = Host::start(store.path(), &[]).await;
    let answer = classify(&host, plain_png([0, 0, 255])).await;
    assert_eq!((&answer["predicted_label"], &answer["version"]), (&json!("blue"), &json!("2")), "{answer}");
}

#[tokio::test]
async fn an_image_model_without_labels_answers_with_class_numbers() {
    let (host, _, _store) = host_and_pictures().await;
    let model = std::fs::read(repository_root().join("models/efficientnet-lite0/1/model.onnx")).unwrap();
    let (status, uploaded) = upload_image_model(&host, "plain.onnx", model, None).await;
    assert_eq!((status, &uploaded["labels"]), (200, &Value::Null), "{uploaded}");
    let request =
        host.client.post(format!("{}/predict", host.url)).header("content-type", "image/jpeg").body(image("cat.jpg"));
    let (_, answer) = answer(request.send().await.unwrap()).await;
    assert_eq!(answer["predicted_label"], "282", "{answer}");
}

#[tokio::test]
async fn an_upload_that_is_no_image_classifier_leaves_the_default_as_it_was() {
    let (host, _, _store) = host_and_pictures().await;
    let (status, answer) = upload_image_model(&host, "bad.onnx", b"no model".to_vec(), None).await;
    assert_eq!(status, 400, "{answer}");
    let (status, answer) = upload_image_model(&host, "flowers.onnx", crate::support::iris(), None).await;
    assert_eq!(status, 400, "iris takes no image: {answer}");
    assert_like_reference("cat.jpg", &classify(&host, image("cat.jpg")).await);
}

#[tokio::test]
async fn an_image_model_named_like_another_model_does_not_break_that_one() {
    let (host, _, store) = host_and_pictures().await;
    let (status, answer) = upload_image_model(&host, "iris.onnx", onnx_file::nhwc_classifier(1), None).await;
    assert_eq!(status, 409, "{answer}");
    assert!(error_message(&answer).contains("takes no images"), "{answer}");
    drop(host);
    let host = Host::start(store.path(), &[]).await;
    host.assert_serves().await;
}

#[tokio::test]
async fn image_models_of_one_name_sent_at_once_become_versions_and_keep_their_configuration() {
    let (host, _, store) = host_and_pictures().await;
    let config = store.path().join("models/efficientnet-lite0/model.toml");
    let set = std::fs::read_to_string(&config).unwrap() + "config = { top_k = 2 }\n";
    std::fs::write(&config, &set).unwrap();
    let model = std::fs::read(repository_root().join("models/efficientnet-lite0/1/model.onnx")).unwrap();
    let uploads = (0..3).map(|_| upload_image_model(&host, "efficientnet-lite0.onnx", model.clone(), None));
    let mut versions: Vec<String> = futures_util::future::join_all(uploads)
        .await
        .into_iter()
        .map(|(status, answer)| {
            assert_eq!(status, 200, "{answer}");
            answer["version"].as_str().unwrap().to_owned()
        })
        .collect();
    versions.sort();
    assert_eq!(versions, ["2", "3", "4"]);
    assert_eq!(std::fs::read_to_string(&config).unwrap(), set);
}
