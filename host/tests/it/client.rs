//! `model-nexus models`, by the real binary against a host: push, pull, list, rm.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::onnx_file::{self, external_weight, node, value};
use crate::support::{Host, answer, error_message, fixture, iris, repository_root, store_with_iris, until};

/// `model-nexus models …` against a host; standard error is no terminal.
async fn models(host: &Host, arguments: &[&str]) -> Output {
    models_at(&host.url, arguments).await
}

async fn models_at(url: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_model-nexus"));
    command.arg("models").args(arguments).env("NEXUS_URL", url).stdin(Stdio::null());
    // The host runs on this thread.
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn succeeded(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(output), stderr(output));
    stdout(output)
}

fn failed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}{}", stdout(output), stderr(output));
    stderr(output)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn bundled(path: &str) -> PathBuf {
    repository_root().join("models").join(path)
}

/// Every file below a folder, by its path in it.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.push((name, std::fs::read(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn names(folder: &Path) -> Vec<String> {
    contents(folder).into_iter().map(|(name, _)| name).collect()
}

#[tokio::test]
async fn a_pushed_file_serves_and_counts_up() {
    let (host, _store) = Host::with_iris(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flowers.onnx");
    std::fs::write(&file, iris()).unwrap();
    for version in ["1", "2"] {
        let pushed = succeeded(&models(&host, &["push", text(&file)]).await);
        assert!(pushed.starts_with(&format!("pushed flowers, version {version}: ")), "{pushed}");
        let body = json!({ "model_id": "flowers", "features": [6.7, 3.0, 5.2, 2.3] });
        let (status, answer) = host.predict(body).await;
        assert_eq!((status, &answer["prediction"], &answer["version"]), (200, &json!([2]), &json!(version)));
    }
    let named = ["push", text(&file), "--id", "iris", "--version", "v2", "--name", "Iris by name"];
    succeeded(&models(&host, &named).await);
    let (_, info) = answer(host.get("/models/info?id=iris&version=v2").await).await;
    assert_eq!(info["model"]["name"], "Iris by name");
}

#[tokio::test]
async fn a_folder_brings_its_labels_and_a_pipeline_comes_beside() {
    let store = tempfile::tempdir().unwrap();
    let host = Host::start(store.path(), &["--bundle", &crate::support::bundle()]).await;
    let folder = bundled("efficientnet-lite0/1");
    let work = tempfile::tempdir().unwrap();
    let pipeline = work.path().join("pipeline.json");
    std::fs::write(
        &pipeline,
        r#"{"preprocess": {"plugin": "image-classifier@0.1.0"}, "postprocess": {"plugin": "image-classifier@0.1.0"}}"#,
    )
    .unwrap();
    let arguments = ["push", text(&folder), "--id", "cats", "--pipeline", text(&pipeline)];
    assert!(succeeded(&models(&host, &arguments).await).starts_with("pushed cats, version 1: "));
    let picture = std::fs::read(fixture("images/cat.jpg")).unwrap();
    let request = host.client.post(format!("{}/predict?model_id=cats", host.url)).header("content-type", "image/jpeg");
    let (status, answer) = answer(request.body(picture).send().await.unwrap()).await;
    assert_eq!((status, &answer["predicted_label"]), (200, &json!("tiger cat")), "{answer}");
}

#[tokio::test]
async fn weights_beside_a_model_or_elsewhere_come_along_and_back() {
    let (host, _store) = Host::with_iris(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let (w, v) = (external_weight("w", &[2], "./weights/w.bin", 0), external_weight("v", &[2], "v.bin", 0));
    let nodes = vec![node("Add", &["x", "w"], &["a"]), node("Add", &["a", "v"], &["y"])];
    let adds = onnx_file::model(nodes, vec![w, v], vec![value("x", 1, &[2])], vec![value("y", 1, &[2])]);
    let files: [(&str, &[u8]); 4] = [
        ("adds/adds.onnx", &adds),
        ("adds/weights/w.bin", &floats(&[1.0, 2.0])),
        ("adds/notes.txt", b"not the model's"),
        ("v.bin", &floats(&[10.0, 20.0])),
    ];
    for (path, bytes) in files {
        std::fs::create_dir_all(folder.path().join(path).parent().unwrap()).unwrap();
        std::fs::write(folder.path().join(path), bytes).unwrap();
    }
    let (model, elsewhere) = (folder.path().join("adds"), folder.path().join("v.bin"));
    let said = failed(&models(&host, &["push", text(&model)]).await);
    assert!(said.contains("v.bin") && said.contains("--data"), "{said}");
    succeeded(&models(&host, &["push", text(&model), "--data", text(&elsewhere)]).await);
    let (status, answer) = host.predict(json!({ "model_id": "adds", "inputs": { "x": [100.0, 100.0] } })).await;
    assert_eq!((status, &answer["prediction"]), (200, &json!([111.0, 122.0])), "{answer}");

    let out = tempfile::tempdir().unwrap();
    succeeded(&models(&host, &["pull", "adds", "--out", text(out.path())]).await);
    let expected = ["adds/1/model.onnx", "adds/1/model_info.json", "adds/1/v.bin", "adds/1/weights/w.bin"];
    assert_eq!(names(out.path()), expected);
    let there = succeeded(&models(&host, &["push", text(&out.path().join("adds"))]).await);
    assert!(there.contains("is there already"), "{there}");
    std::fs::write(out.path().join("adds/1/v.bin"), floats(&[0.0, 0.0])).unwrap();
    let said = failed(&models(&host, &["push", text(&out.path().join("adds"))]).await);
    assert!(said.contains("another model"), "{said}");
    let file = out.path().join("adds/1/model.onnx");
    let said =
        failed(&models(&host, &["push", text(&file), "--data", text(&folder.path().join("adds/notes.txt"))]).await);
    assert!(said.contains("names no such file"), "{said}");
}

#[tokio::test]
async fn a_model_that_names_files_elsewhere_gets_none_sent() {
    let (host, _store) = Host::with_iris(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret.bin"), floats(&[1.0, 2.0])).unwrap();
    std::fs::create_dir(folder.path().join("m")).unwrap();
    for location in ["../secret.bin".to_owned(), text(&folder.path().join("secret.bin")).to_owned()] {
        let weights = vec![external_weight("w", &[2], &location, 0)];
        let nodes = vec![node("Add", &["x", "w"], &["y"])];
        let model = onnx_file::model(nodes, weights, vec![value("x", 1, &[2])], vec![value("y", 1, &[2])]);
        let file = folder.path().join("m/model.onnx");
        std::fs::write(&file, model).unwrap();
        let said = failed(&models(&host, &["push", text(&file)]).await);
        assert!(said.contains("the model keeps weights in") && !said.contains("HTTP"), "{said}");
    }
}

#[tokio::test]
async fn a_repository_goes_over_whole_and_what_is_there_stays() {
    let (host, _store) = Host::with_iris(&[]).await;
    let repository = tempfile::tempdir().unwrap();
    for version in ["models/digits/9", "models/digits/10", "models/iris/1"] {
        std::fs::create_dir_all(repository.path().join(version)).unwrap();
        let model =
            if version.contains("iris") { iris() } else { std::fs::read(fixture("models/digits/mlp.onnx")).unwrap() };
        std::fs::write(repository.path().join(version).join("model.onnx"), model).unwrap();
    }
    let pushed = succeeded(&models(&host, &["push", text(repository.path())]).await);
    let lines: Vec<&str> = pushed.lines().map(|line| line.split(": ").next().unwrap()).collect();
    let there = "iris, version 1, is there already";
    assert_eq!(lines, ["pushed digits, version 9", "pushed digits, version 10", there]);
    let (_, newest) = answer(host.get("/models/info?id=digits").await).await;
    assert_eq!(newest["model"]["version"], "10");

    let another = std::fs::read(fixture("models/digits/mlp.onnx")).unwrap();
    std::fs::write(repository.path().join("models/iris/1/model.onnx"), another).unwrap();
    std::fs::create_dir_all(repository.path().join("models/broken/1")).unwrap();
    std::fs::write(repository.path().join("models/broken/1/model.onnx"), b"no model").unwrap();
    let again = models(&host, &["push", text(repository.path())]).await;
    let said = failed(&again);
    assert!(said.contains("iris, version 1: the host has another model under this version"), "{said}");
    assert!(said.contains("broken, version 1: ") && said.contains("not an ONNX model"), "{said}");
    assert!(said.contains("2 of 4 versions"), "{said}");
    let said = failed(&models(&host, &["push", text(repository.path()), "--id", "x"]).await);
    assert!(said.contains("repository of 4 versions"), "{said}");
}

#[tokio::test]
async fn a_pulled_model_is_the_same_bytes_and_serves_elsewhere() {
    let (host, store) = Host::with_iris(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let labelled = folder.path().join("labelled");
    std::fs::create_dir(&labelled).unwrap();
    std::fs::write(labelled.join("labels.json"), r#"["setosa", "versicolor", "virginica"]"#).unwrap();
    std::fs::write(labelled.join("model.onnx"), iris()).unwrap();
    succeeded(&models(&host, &["push", text(&labelled), "--id", "iris", "--version", "2"]).await);

    // A repository as Triton has it; one in a folder `models` is a host's own.
    let other = tempfile::tempdir().unwrap();
    let out = other.path();
    let pulled = succeeded(&models(&host, &["pull", "iris", "--out", text(out)]).await);
    assert_eq!(pulled.lines().count(), 2, "{pulled}");
    assert_eq!(contents(&out.join("iris")), contents(&store.path().join("models/iris")));
    let again = succeeded(&models(&host, &["pull", "iris@2", "--out", text(out)]).await);
    assert!(again.contains("already"), "{again}");

    let elsewhere = Host::start(out, &[]).await;
    elsewhere.assert_serves().await;
    let (_, newest) = answer(elsewhere.get("/models/info?id=iris").await).await;
    assert_eq!((&newest["model"]["version"], &newest["info"]["labels"]), (&json!("2"), &json!(3)));
    // And a host takes what was pulled, as a file of a repository or all of it.
    assert!(succeeded(&models(&elsewhere, &["push", text(&out.join("iris"))]).await).contains("is there already"));
}

#[tokio::test]
async fn what_differs_or_breaks_off_leaves_what_was_there() {
    let (host, store) = Host::with_iris(&[]).await;
    let out = tempfile::tempdir().unwrap();
    let pull = ["pull", "iris@1", "--out", text(out.path())];
    succeeded(&models(&host, &pull).await);
    let mine = out.path().join("iris/1/model.onnx");
    std::fs::write(&mine, b"mine").unwrap();
    let said = failed(&models(&host, &pull).await);
    assert!(said.contains("other content") && said.contains("--out"), "{said}");
    assert_eq!(std::fs::read(&mine).unwrap(), b"mine");

    // A byte flipped in the host's store while the version is loaded.
    let model = store.path().join("models/iris/1/model.onnx");
    let mut bytes = iris();
    bytes[100] ^= 1;
    std::fs::write(&model, bytes).unwrap();
    std::fs::remove_dir_all(out.path().join("iris")).unwrap();
    let said = failed(&models(&host, &pull).await);
    assert!(said.contains("model.onnx is damaged"), "{said}");
    assert_eq!(names(out.path()), Vec::<String>::new());
}

/// A way to the host on which so many bytes of its answers go over; then the connection is closed, or nothing more comes.
async fn narrow_way(host: &Host, bytes: u64, closes: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let address = host.url.strip_prefix("http://").unwrap().to_owned();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (from_host, mut to_host) = TcpStream::connect(&address).await.unwrap().into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_host).await });
            tokio::spawn(async move {
                let passed = tokio::io::copy(&mut from_host.take(bytes), &mut to_client).await;
                if !closes {
                    std::future::pending::<()>().await;
                }
                passed
            });
        }
    });
    url
}

#[tokio::test]
async fn a_pull_that_breaks_off_or_is_interrupted_leaves_nothing() {
    let store = tempfile::tempdir().unwrap();
    let host = Host::start(store.path(), &["--bundle", &crate::support::bundle()]).await;
    let out = tempfile::tempdir().unwrap();
    let pull = ["pull", "efficientnet-lite0", "--out", text(out.path())];
    let said = failed(&models_at(&narrow_way(&host, 1 << 20, true).await, &pull).await);
    assert!(said.contains("broke off its answer"), "{said}");
    assert_eq!(names(out.path()), Vec::<String>::new());

    let url = narrow_way(&host, 1 << 20, false).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_model-nexus"));
    let child = command.arg("models").args(pull).env("NEXUS_URL", url).stderr(Stdio::piped()).spawn().unwrap();
    until("the model is coming", async || names(out.path()).iter().any(|name| name.ends_with("model.onnx"))).await;
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert!(failed(&ended).contains("interrupted"));
    assert_eq!(names(out.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_client_that_is_refused_gets_to_send_all_of_it_and_reads_why() {
    let (host, _store) = Host::with_iris(&["--max-upload-bytes", "1KiB"]).await;
    let mut connection = TcpStream::connect(host.url.strip_prefix("http://").unwrap()).await.unwrap();
    // More than the buffers of a connection hold.
    let file = vec![0; 16 << 20];
    let start = "--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.onnx\"\r\n\r\n";
    let (length, end) = (start.len() + file.len() + 9, "\r\n--b--\r\n");
    let head = format!(
        "POST /models/upload HTTP/1.1\r\nhost: a\r\ncontent-type: multipart/form-data; boundary=b\r\ncontent-length: {length}\r\n\r\n"
    );
    for part in [head.as_bytes(), start.as_bytes(), &file, end.as_bytes()] {
        connection.write_all(part).await.unwrap();
    }
    let mut answer = vec![0; 1024];
    let read = connection.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("--max-upload-bytes"), "{answer}");
}

#[tokio::test]
async fn errors_say_what_the_host_said() {
    let (host, _store) = Host::with_iris(&["--max-upload-bytes", "1MiB"]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.onnx");
    std::fs::write(&file, b"no model").unwrap();
    let said = failed(&models(&host, &["push", text(&file)]).await);
    assert!(said.contains("a.onnx: not an ONNX model"), "{said}");
    std::fs::write(&file, iris()).unwrap();
    let said = failed(&models(&host, &["push", text(&file), "--labels", text(&file)]).await);
    assert!(said.contains("label file") && said.contains("HTTP 400"), "{said}");
    let said = failed(&models(&host, &["push", text(&file), "--id", "iris", "--version", "1"]).await);
    assert!(said.contains("has a version 1 of iris already"), "{said}");
    let said = failed(&models(&host, &["push", text(&file), "--id", "a b"]).await);
    assert!(said.contains("not a valid name") && said.contains("--id"), "{said}");
    // The host says no long before all of it is sent.
    let large = folder.path().join("large.zip");
    std::fs::write(&large, vec![0; 64 << 20]).unwrap();
    let said = failed(&models(&host, &["push", text(&large)]).await);
    assert!(said.contains("--max-upload-bytes") && said.contains("HTTP 413"), "{said}");
    let out = text(folder.path());
    assert!(failed(&models(&host, &["pull", "nope", "--out", out]).await).contains("no model nope"));
    let said = failed(&models(&host, &["pull", "iris@7", "--out", out]).await);
    assert!(said.contains("has no version") && said.contains("HTTP 404"), "{said}");
    let nobody = models_at("http://127.0.0.1:9", &["pull", "iris"]).await;
    assert!(failed(&nobody).contains("no answer from http://127.0.0.1:9/: "), "{}", stderr(&nobody));
}

#[tokio::test]
async fn files_are_those_of_the_listing_and_no_others() {
    let store = store_with_iris();
    std::fs::write(store.path().join("models/iris/1/notes.txt"), "not the model's").unwrap();
    let host = Host::start(store.path(), &[]).await;
    let (_, listing) = answer(host.get("/models/iris/versions/1/files").await).await;
    let paths: Vec<&Value> = listing["files"].as_array().unwrap().iter().map(|file| &file["path"]).collect();
    assert_eq!(paths, ["model.onnx", "model_info.json"]);
    let model = &listing["files"][0];
    assert_eq!(model["size"], iris().len());
    let file = host.get("/models/iris/versions/1/files/model.onnx").await;
    assert_eq!(file.headers()["etag"], format!("\"{}\"", model["sha256"].as_str().unwrap()));
    assert_eq!(file.content_length(), Some(iris().len() as u64));
    assert_eq!(file.bytes().await.unwrap(), iris());
    for path in ["notes.txt", "..%2F..%2F..%2Fsettings.json", "%2Fetc%2Fpasswd", "model.onnx%00"] {
        let (status, body) = answer(host.get(&format!("/models/iris/versions/1/files/{path}")).await).await;
        assert_eq!(status, 404, "{path}");
        assert!(error_message(&body).contains("files: model.onnx, model_info.json"), "{body}");
    }
    for (path, expected) in [("nope/versions/1", 404), ("iris/versions/9", 404), ("..%2Firis/versions/1", 404)] {
        let (status, body) = answer(host.get(&format!("/models/{path}/files")).await).await;
        assert_eq!(status, expected, "{body}");
    }
}

#[tokio::test]
async fn the_list_tells_of_every_version_and_what_it_does() {
    let (host, _store) = Host::with_iris(&[]).await;
    for version in ["2", "10"] {
        assert_eq!(host.upload("iris", version, iris()).await.0, 201);
    }
    let url = format!("{}/models/iris", host.url);
    let rule = json!({ "weights": { "1": 90, "2": 10 } });
    let (status, _) = answer(host.client.put(format!("{url}/traffic")).json(&rule).send().await.unwrap()).await;
    assert_eq!(status, 200);
    let (status, _) = answer(host.client.post(format!("{url}/versions/10/unload")).send().await.unwrap()).await;
    assert_eq!(status, 200);

    let listed: Value = serde_json::from_str(&succeeded(&models(&host, &["list", "--json"]).await)).unwrap();
    let of = |name: &str| listed.as_array().unwrap().iter().map(|row| row[name].clone()).collect::<Vec<_>>();
    assert_eq!(of("version"), ["1", "2", "10"]);
    assert_eq!(of("state"), ["ready", "ready", "unloaded"]);
    assert_eq!(of("default"), [false, true, false]);
    assert_eq!(of("weight"), [json!(90.0), json!(10.0), Value::Null]);
    assert_eq!(of("size"), vec![iris().len(); 3]);
    assert!(of("memory_bytes")[0].as_u64().unwrap() > 0 && of("uploaded_at")[0].is_string(), "{listed}");

    let table = succeeded(&models(&host, &["list"]).await);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["MODEL", "VERSION", "STATE", "DEFAULT", "WEIGHT", "SIZE", "MEMORY", "UPLOADED"]);
    assert_eq!(rows[1][..4], ["iris", "1", "ready", "90"]);
    assert_eq!(rows[2][..5], ["iris", "2", "ready", "yes", "10"]);
}

#[tokio::test]
async fn a_version_and_a_whole_model_are_removed_when_somebody_says_so() {
    let (host, store) = Host::with_iris(&[]).await;
    for id in ["iris", "flowers"] {
        assert_eq!(host.upload(id, "2", iris()).await.0, 201);
    }
    let said = failed(&models(&host, &["rm", "iris@2"]).await);
    assert!(said.contains("--yes"), "{said}");
    assert_eq!(succeeded(&models(&host, &["rm", "iris@2", "--yes"]).await), "removed iris, version 2\n");
    assert!(failed(&models(&host, &["rm", "iris@2", "--yes"]).await).contains("HTTP 404"));
    host.assert_serves().await;
    assert_eq!(succeeded(&models(&host, &["rm", "flowers", "-y"]).await), "removed flowers, version 2\n");
    assert!(!store.path().join("models/flowers").exists() || names(&store.path().join("models/flowers")).is_empty());
}
