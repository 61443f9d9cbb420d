//! Uploads, what is listed of them, and what the store holds afterwards.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::onnx_file;
use crate::support::{Host, answer, error_message, iris};

fn files(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let below = self::files(&path);
            let name = path.file_name().unwrap().to_str().unwrap();
            files.extend(below.into_iter().map(|file| format!("{name}/{file}")));
        } else {
            files.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    files.sort();
    files
}

async fn post_form(host: &Host, path: &str, form: Form) -> (u16, Value) {
    answer(host.client.post(format!("{}{path}", host.url)).multipart(form).send().await.unwrap()).await
}

#[tokio::test]
async fn an_upload_answers_in_the_documented_form_and_serves_at_once() {
    let (host, store) = Host::with_iris(&[]).await;
    let (status, uploaded) = host.upload("flowers", "v1.0", iris()).await;
    assert_eq!(status, 201);
    assert_eq!(
        uploaded["model"],
        json!({ "id": "flowers", "name": "flowers by test", "version": "v1.0", "path": "models/flowers/v1.0/model.onnx" })
    );
    assert_eq!(uploaded["info"]["inputs"], json!([{ "name": "X", "dtype": 1, "datatype": "FP32", "shape": [-1, 4] }]));
    assert_eq!(uploaded["info"]["outputs"][0]["dtype"], 7);
    let info: Value = host.get("/models/info?id=flowers").await.json().await.unwrap();
    assert_eq!((&info["model"], &info["info"]), (&uploaded["model"], &uploaded["info"]));
    let file = std::fs::metadata(store.path().join("models/flowers/v1.0/model.onnx")).unwrap();
    let sidecar = std::fs::metadata(store.path().join("models/flowers/v1.0/model_info.json")).unwrap();
    assert_eq!(file.permissions().mode(), sidecar.permissions().mode());
    let listed: Value = host.get("/models").await.json().await.unwrap();
    let ids: Vec<&Value> = listed["models"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(ids, ["flowers", "iris"]);
    let (_, answer) = host.predict(json!({ "model_id": "flowers", "features": [6.7, 3.0, 5.2, 2.3] })).await;
    assert_eq!((&answer["prediction"], &answer["version"]), (&json!([2]), &json!("v1.0")));
}

#[tokio::test]
async fn a_symbolic_size_is_shown_by_its_name() {
    let (host, _store) = Host::with_iris(&[]).await;
    let (_, uploaded) = host.upload("named", "1", onnx_file::identity(1, &[-1, 3])).await;
    assert_eq!(uploaded["info"]["inputs"][0]["shape"], json!([-1, 3]));
    assert_eq!(uploaded["info"]["inputs"][0]["symbolic"], json!(["n", null]));
}

#[tokio::test]
async fn a_form_that_misses_something_or_brings_no_model_is_400() {
    let (host, store) = Host::with_iris(&[]).await;
    let before = files(store.path());
    let text = |form: Form, names: &[&'static str]| names.iter().fold(form, |form, name| form.text(*name, "a"));
    let file = |bytes: &[u8]| Form::new().part("file", Part::bytes(bytes.to_vec()).file_name("m.onnx"));
    let truncated = &iris()[..300];
    let cases = [
        (text(Form::new(), &["id", "name", "version"]), "`file`"),
        (text(file(&iris()), &["name", "version"]), "`id`"),
        (text(file(&iris()), &["id", "version"]), "`name`"),
        (text(file(&iris()), &["id", "name"]), "`version`"),
        (text(file(b"this is no model"), &["id", "name", "version"]), "not an ONNX model"),
        (text(file(b"PK\x03\x04 this is no archive"), &["id", "name", "version"]), "the archive is not readable"),
        (text(file(b""), &["id", "name", "version"]), "not an ONNX model"),
        (text(file(truncated), &["id", "name", "version"]), "not an ONNX model"),
        (text(file(&iris()), &["name", "version"]).text("id", "../etc"), "not a valid name"),
        (text(file(&iris()), &["id", "name"]).text("version", "a/b"), "not a valid name"),
        (text(file(&iris()), &["id", "name", "version"]).text("labels", "cat, dog"), "label file"),
    ];
    for (form, expected) in cases {
        let (status, answer) = post_form(&host, "/models/upload", form).await;
        assert_eq!(status, 400, "{expected}: {answer}");
        assert!(error_message(&answer).contains(expected), "{expected}: {answer}");
    }
    let response = host.client.post(format!("{}/models/upload", host.url)).body("{}").send().await.unwrap();
    let (status, answer) = answer(response).await;
    assert_eq!(status, 400);
    assert!(error_message(&answer).contains("multipart/form-data"), "{answer}");
    assert_eq!(files(store.path()), before);
    host.assert_serves().await;
}

#[tokio::test]
async fn a_model_onnx_runtime_refuses_is_400_with_its_sentence() {
    let (host, _store) = Host::with_iris(&[]).await;
    let model = onnx_file::model(
        vec![onnx_file::node("NoSuchOperator", &["x"], &["y"])],
        vec![],
        vec![onnx_file::value("x", 1, &[1])],
        vec![onnx_file::value("y", 1, &[1])],
    );
    let (status, answer) = host.upload("strange", "1", model).await;
    assert_eq!(status, 400);
    assert!(error_message(&answer).contains("NoSuchOperator"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_sixteen_equal_uploads_at_once_exactly_one_wins() {
    let (host, store) = Host::with_iris(&[]).await;
    let host = std::sync::Arc::new(host);
    for round in 0..5 {
        let id = format!("raced-{round}");
        let uploads: Vec<_> = (0..16)
            .map(|_| {
                let (host, id) = (host.clone(), id.clone());
                tokio::spawn(async move { host.upload(&id, "1", iris()).await })
            })
            .collect();
        let mut statuses = Vec::new();
        for upload in uploads {
            statuses.push(upload.await.unwrap().0);
        }
        statuses.sort_unstable();
        assert_eq!(statuses[0], 201);
        assert_eq!(statuses[1..], [409; 15]);
        assert_eq!(files(&store.path().join("models").join(&id)), ["1/model.onnx", "1/model_info.json"]);
        let (status, _) = host.predict(json!({ "model_id": id, "features": [1, 2, 3, 4] })).await;
        assert_eq!(status, 200);
    }
}

#[tokio::test]
async fn after_a_restart_every_model_is_back() {
    let (host, store) = Host::with_iris(&[]).await;
    let form = Form::new()
        .part("file", Part::bytes(iris()).file_name("m.onnx"))
        .part("labels", Part::bytes(r#"{"0":"setosa","1":"versicolor","2":"virginica"}"#.as_bytes()))
        .text("id", "flowers")
        .text("name", "Flowers")
        .text("version", "2");
    let (status, uploaded) = post_form(&host, "/models/upload", form).await;
    assert_eq!((status, &uploaded["info"]["labels"]), (201, &json!(3)));
    let (status, _) = host.upload("flowers", "1", iris()).await;
    assert_eq!(status, 201);
    drop(host);

    let host = Host::start(store.path(), &[]).await;
    let info: Value = host.get("/models/info?id=flowers&version=2").await.json().await.unwrap();
    assert_eq!((&info["model"], &info["info"]), (&uploaded["model"], &uploaded["info"]));
    // The newest uploaded is the default, not the highest.
    let (_, answer) = host.predict(json!({ "model_id": "flowers", "features": [1, 2, 3, 4] })).await;
    assert_eq!(answer["version"], "1");
    let (status, answer) = host.upload("flowers", "2", iris()).await;
    assert_eq!(status, 409);
    assert!(error_message(&answer).contains("version 2"), "{answer}");
}

#[tokio::test]
async fn a_corrupt_entry_is_reported_and_skipped_and_the_others_serve() {
    let (host, store) = Host::with_iris(&[]).await;
    for id in ["flipped", "sidecar", "labels"] {
        assert_eq!(host.upload(id, "1", iris()).await.0, 201);
    }
    drop(host);
    let model = store.path().join("models/flipped/1/model.onnx");
    let mut bytes = std::fs::read(&model).unwrap();
    bytes[500] ^= 1;
    std::fs::write(&model, bytes).unwrap();
    std::fs::write(store.path().join("models/sidecar/1/model_info.json"), "{").unwrap();
    std::fs::write(store.path().join("models/labels/1/labels.json"), "[").unwrap();
    let garbage = store.path().join("models/garbage/1");
    std::fs::create_dir_all(&garbage).unwrap();
    std::fs::write(garbage.join("model.onnx"), "no model").unwrap();

    let host = Host::start(store.path(), &[]).await;
    host.assert_serves().await;
    let health: Value = host.get("/health").await.json().await.unwrap();
    let skipped: Vec<_> = health["skipped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|skipped| (skipped["id"].as_str().unwrap(), skipped["reason"].as_str().unwrap()))
        .collect();
    let expected = [
        ("flipped", "sha256"),
        ("garbage", "not an ONNX model"),
        ("labels", "label file"),
        ("sidecar", "model_info.json"),
    ];
    assert_eq!(skipped.len(), expected.len(), "{skipped:?}");
    for ((id, reason), (expected_id, text)) in skipped.iter().zip(expected) {
        assert_eq!(*id, expected_id);
        assert!(reason.contains(text), "{reason}");
    }
}

#[tokio::test]
async fn an_upload_that_did_not_end_is_removed_and_can_be_repeated() {
    let store = crate::support::store_with_iris();
    // What is left by a host that dies between the sidecar and the model.
    let half = store.path().join("models/half/1");
    std::fs::create_dir_all(&half).unwrap();
    std::fs::write(half.join("model_info.json"), "{}").unwrap();
    let host = Host::start(store.path(), &[]).await;
    assert_eq!(host.get("/models/info?id=half").await.status(), 404);
    assert_eq!(host.upload("half", "1", iris()).await.0, 201);
}

#[tokio::test]
async fn asking_for_a_model_that_is_not_there_is_404_and_for_none_400() {
    let (host, _store) = Host::with_iris(&[]).await;
    assert_eq!(host.get("/models/info?id=lily").await.status(), 404);
    assert_eq!(host.get("/models/info?id=iris&version=7").await.status(), 404);
    assert_eq!(host.get("/models/info").await.status(), 400);
}

#[tokio::test]
async fn a_model_over_the_size_limit_is_413() {
    let (host, _store) = Host::with_iris(&["--max-upload-bytes", "600B"]).await;
    let (status, answer) = host.upload("large", "1", iris()).await;
    assert_eq!(status, 413);
    assert!(error_message(&answer).contains("--max-upload-bytes"), "{answer}");
}

#[tokio::test]
async fn a_field_that_is_unknown_or_comes_twice_is_refused_by_its_name() {
    let (host, _store) = Host::with_iris(&[]).await;
    let part = || Part::bytes(iris()).file_name("m.onnx");
    for (path, form) in [
        ("/models/upload", Form::new().part("model", part())),
        ("/models/upload", Form::new().part("file", part()).part("file", part())),
        ("/models/upload", Form::new().text("id", "a").text("id", "b")),
        ("/upload", Form::new().part("file", part())),
    ] {
        let (status, answer) = post_form(&host, path, form).await;
        assert_eq!(status, 400, "{answer}");
        assert!(error_message(&answer).contains("unknown here or came twice"), "{answer}");
    }
}

#[tokio::test]
async fn a_start_removes_what_an_upload_left_and_nothing_else() {
    let store = crate::support::store_with_iris();
    let model = |path: &str| store.path().join("models").join(path);
    for folder in ["plan/1", "half/1"] {
        std::fs::create_dir_all(model(folder)).unwrap();
    }
    // Somebody's own: a model of another kind, which this host does not serve.
    std::fs::write(model("plan/1/model.plan"), "plan").unwrap();
    std::fs::write(model("plan/1/labels.json"), "[]").unwrap();
    // Ours: what a host that was killed leaves, at each step.
    std::fs::write(model("half/1/model_info.json"), "{}").unwrap();
    std::fs::write(model("half/1/labels.json"), "[]").unwrap();
    std::fs::write(model("half/1/model.onnx#1"), "half").unwrap();
    std::fs::create_dir_all(store.path().join(".scratch/old")).unwrap();
    std::fs::write(store.path().join(".scratch/old/upload-x"), "half").unwrap();
    let host = Host::start(store.path(), &[]).await;
    host.assert_serves().await;
    assert_eq!(files(&model("plan")), ["1/labels.json", "1/model.plan"]);
    assert_eq!(files(&model("half")), [""; 0]);
    assert!(!store.path().join(".scratch/old").exists());

    // A second host on the same folder leaves the first one's uploads alone.
    std::fs::create_dir_all(model("half/1")).unwrap();
    std::fs::write(model("half/1/model_info.json"), "{}").unwrap();
    let second = Host::start(store.path(), &[]).await;
    second.assert_serves().await;
    assert_eq!(files(&model("half")), ["1/model_info.json"]);
}

#[tokio::test]
async fn an_answer_over_the_limit_is_413() {
    let (host, _store) = Host::with_iris(&["--max-output-bytes", "1KiB"]).await;
    host.upload("wide", "1", onnx_file::identity(1, &[-1])).await;
    assert_eq!(host.predict(json!({ "model_id": "wide", "features": vec![1.0; 256] })).await.0, 200);
    let (status, answer) = host.predict(json!({ "model_id": "wide", "features": vec![1.0; 257] })).await;
    assert_eq!(status, 413);
    assert!(error_message(&answer).contains("--max-output-bytes"), "{answer}");
}

#[tokio::test]
async fn texts_count_for_their_bytes_in_an_answer() {
    let (host, _store) = Host::with_iris(&["--max-output-bytes", "1KiB"]).await;
    host.upload("words", "1", onnx_file::identity(8, &[-1])).await;
    // Each takes 32 bytes beside its own.
    for (count, length, expected) in [(1, 992, 200), (1, 993, 413), (8, 96, 200), (8, 97, 413)] {
        let features = vec!["x".repeat(length); count];
        let (status, answer) = host.predict(json!({ "model_id": "words", "features": features })).await;
        assert_eq!(status, expected, "{count} of {length}: {answer}");
        if status == 413 {
            assert!(error_message(&answer).contains("--max-output-bytes"), "{answer}");
        }
    }
}

#[tokio::test]
async fn an_input_larger_than_can_be_counted_is_refused_and_not_a_panic() {
    let (host, _store) = Host::with_iris(&[]).await;
    let (status, _) = host.upload("vast", "1", onnx_file::identity(1, &[1, 1 << 40, 1 << 40])).await;
    assert_eq!(status, 201);
    assert_eq!(host.predict(json!({ "model_id": "vast", "features": [1] })).await.0, 400);
    host.assert_serves().await;
}
