//! The real binary as a process: its log, its signals, its environment, and what kill -9 leaves.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::binary::{Process, client};
use crate::pictures::Pictures;
use crate::support::{bundle, iris, store_with_iris, until};

#[tokio::test]
async fn every_line_of_a_request_is_json_with_its_id() {
    let store = store_with_iris();
    let mut process = Process::start(store.path(), &["--listen", "127.0.0.1:0"], &[], store.path());
    let body = json!({ "model_id": "iris", "features": [1, 2, 3, 4] });
    let request = client().post(process.url("/predict")).header("x-request-id", "req-7").json(&body);
    assert_eq!(request.send().await.unwrap().status(), 200);
    let line = process.wait_for("request");
    for (field, value) in [
        ("request_id", json!("req-7")),
        ("endpoint", json!("/predict")),
        ("status", json!(200)),
        ("model", json!("iris")),
        ("version", json!("1")),
        ("level", json!("INFO")),
    ] {
        assert_eq!(line[field], value, "{line}");
    }
}

#[tokio::test]
async fn sigterm_lets_the_running_request_end_and_exits_with_0() {
    let pictures = Pictures::serve().await;
    let store = tempfile::tempdir().unwrap();
    let options = ["--listen", "127.0.0.1:0", "--bundle", &bundle(), "--allow-host", &pictures.address];
    let mut process = Process::start(store.path(), &options, &[], store.path());
    let body = json!({ "image_url": pictures.url("slow.jpg") });
    let running = tokio::spawn(client().post(process.url("/predict")).json(&body).send());
    until("the picture is asked for", async || pictures.count() > 0).await;
    process.terminate();
    let response = running.await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.json::<Value>().await.unwrap()["predicted_label"], "tiger cat");
    assert_eq!(process.child.wait().unwrap().code(), Some(0));
    process.wait_for("drained: every request ended");
}

#[tokio::test]
async fn a_request_longer_than_the_drain_timeout_is_cut_off_and_the_exit_is_0_all_the_same() {
    let store = store_with_iris();
    let options = ["--listen", "127.0.0.1:0", "--drain-timeout", "300ms"];
    let mut process = Process::start(store.path(), &options, &[], store.path());
    let mut stream = TcpStream::connect(&process.address).unwrap();
    stream
        .write_all(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\nexpect: 100-continue\r\n\r\n")
        .unwrap();
    // Said once the handler wants the body.
    let mut wanted = [0; 12];
    stream.read_exact(&mut wanted).unwrap();
    assert_eq!(&wanted, b"HTTP/1.1 100");
    process.terminate();
    assert_eq!(process.child.wait().unwrap().code(), Some(0));
    process.wait_for("drain timeout: requests still running are cut off (--drain-timeout)");
}

#[tokio::test]
async fn half_a_head_and_a_silent_connection_are_closed_and_give_their_places_back() {
    let store = store_with_iris();
    let options = ["--listen", "127.0.0.1:0", "--idle-timeout", "2s", "--max-connections", "2"];
    let process = Process::start(store.path(), &options, &[], store.path());
    let mut half = TcpStream::connect(&process.address).unwrap();
    half.write_all(b"POST /predict HTTP/1.1\r\nhost").unwrap();
    let mut silent = TcpStream::connect(&process.address).unwrap();
    // Both places are taken; the request is served as soon as one is given back.
    assert_eq!(client().get(process.url("/health")).send().await.unwrap().status(), 200);
    for stream in [&mut half, &mut silent] {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
}

#[tokio::test]
async fn sigterm_while_models_load_ends_with_0() {
    let store = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_model-nexus"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--store"]).arg(store.path()).args(["--bundle", &bundle()]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stdout.take().unwrap());
    // The plugin is being compiled as soon as the store is there.
    let lock = store.path().join(".lock");
    until("the store is locked", async || lock.exists()).await;
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert!(!text.contains("listening"), "{text}");
}

#[tokio::test]
async fn port_and_library_come_from_the_environment_and_a_dotenv_file() {
    let store = store_with_iris();
    // Free when asked, and nobody else takes it in the meantime but by bad luck.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    std::fs::write(store.path().join(".env"), format!("PORT={port}\nNEXUS_QUEUE_CAPACITY=7\n")).unwrap();
    let library = std::env::var("ORT_DYLIB_PATH").unwrap();
    let process = Process::start(store.path(), &[], &[("ONNX_LIBRARY_PATH", &library)], store.path());
    assert_eq!(process.address, format!("0.0.0.0:{port}"));
    let health = Command::new(env!("CARGO_BIN_EXE_model-nexus")).arg("health").env("PORT", port.to_string()).output();
    let health = health.unwrap();
    assert!(health.status.success(), "{health:?}");
    assert!(String::from_utf8_lossy(&health.stdout).contains("healthy"));
}

#[test]
fn what_keeps_the_host_from_starting_is_said_with_what_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str], library: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_model-nexus"));
        command.arg("serve").args(arguments).current_dir(folder.path()).env_remove("ORT_DYLIB_PATH");
        if let Some(library) = library {
            command.env("ORT_DYLIB_PATH", library);
        }
        let output = command.env_remove("ONNX_LIBRARY_PATH").env_remove("NEXUS_BUNDLE").output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let library = std::env::var("ORT_DYLIB_PATH").unwrap();
    for (arguments, library, code, expected) in [
        (&["--instances", "none"][..], Some(library.as_str()), 2, "--instances"),
        (&["--allow-host", "a b"], Some(&library), 2, "--allow-host"),
        (&["--store", "ftp://x/y"], Some(&library), 1, "ftp://x/y"),
        (&[], Some("/nowhere/libonnxruntime.so"), 1, "/nowhere/libonnxruntime.so"),
        (&[], None, 1, "ORT_DYLIB_PATH"),
        (&["--listen", "192.0.2.1:80"], Some(&library), 1, "--listen"),
    ] {
        let (actual, message) = run(arguments, library);
        assert_eq!(actual, Some(code), "{arguments:?}: {message}");
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}

#[tokio::test]
async fn kill_9_amid_uploads_leaves_no_half_model() {
    let store = store_with_iris();
    let mut acknowledged = Vec::new();
    for round in 0..4u64 {
        let mut process = Process::start(store.path(), &["--listen", "127.0.0.1:0"], &[], store.path());
        // One upload that is only half sent, and others that end while the process dies.
        let mut half = TcpStream::connect(&process.address).unwrap();
        half.write_all(b"POST /models/upload HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n").unwrap();
        half.write_all(b"content-type: multipart/form-data; boundary=b\r\n\r\n--b\r\n").unwrap();
        half.write_all(b"content-disposition: form-data; name=\"file\"; filename=\"m.onnx\"\r\n\r\n").unwrap();
        half.write_all(&iris()[..300]).unwrap();
        let uploads: Vec<_> = (0..8)
            .map(|index| {
                let id = format!("killed-{round}-{index}");
                let url = process.url("/models/upload");
                tokio::spawn(async move {
                    let form = reqwest::multipart::Form::new()
                        .part("file", reqwest::multipart::Part::bytes(iris()).file_name("m.onnx"))
                        .text("id", id.clone())
                        .text("name", "n")
                        .text("version", "1");
                    let sent = client().post(url).multipart(form).send().await;
                    (id, sent.is_ok_and(|response| response.status() == 201))
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(3 + round * 7)).await;
        process.child.kill().unwrap();
        process.child.wait().unwrap();
        for upload in uploads {
            let (id, created) = upload.await.unwrap();
            if created {
                acknowledged.push(id);
            }
        }
        let mut rest = Vec::new();
        half.read_to_end(&mut rest).ok();
    }
    let process = Process::start(store.path(), &["--listen", "127.0.0.1:0"], &[], store.path());
    let health: Value = client().get(process.url("/health")).send().await.unwrap().json().await.unwrap();
    assert_eq!(health["skipped"], json!([]), "a half model was left");
    for version in std::fs::read_dir(store.path().join("models")).unwrap() {
        let folder = version.unwrap().path().join("1");
        let Ok(files) = std::fs::read_dir(&folder) else { continue };
        let mut files: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        assert_eq!(files, ["model.onnx", "model_info.json"], "stray files in {}", folder.display());
    }
    let scratch = std::fs::read_dir(store.path().join(".scratch")).unwrap().count();
    assert_eq!(scratch, 1, "a killed host's scratch folder was left");
    let listed: Value = client().get(process.url("/models")).send().await.unwrap().json().await.unwrap();
    let listed: Vec<_> =
        listed["models"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    for id in &acknowledged {
        assert!(listed.contains(&id.as_str()), "{id} was acknowledged and is gone");
    }
    for id in listed {
        let body = json!({ "model_id": id, "features": [1, 2, 3, 4] });
        assert_eq!(client().post(process.url("/predict")).json(&body).send().await.unwrap().status(), 200, "{id}");
    }
}

/// What was compiled is kept: the next start compiles nothing, and one whose files were damaged compiles anew.
#[tokio::test]
async fn a_second_start_compiles_nothing() {
    let store = store_with_iris();
    let options = ["--listen", "127.0.0.1:0", "--bundle", &bundle()];
    let compiled =
        |process: &Process| process.log.iter().filter(|line| line["message"] == "component compiled").count();
    let first = Process::start(store.path(), &options, &[], store.path());
    assert!(compiled(&first) >= 3, "{:?}", first.log);
    drop(first);
    let second = Process::start(store.path(), &options, &[], store.path());
    assert_eq!(compiled(&second), 0, "{:?}", second.log);
    drop(second);
    for file in std::fs::read_dir(store.path().join(".compiled")).unwrap() {
        let file = file.unwrap().path();
        let half = std::fs::metadata(&file).unwrap().len() / 2;
        std::fs::File::options().write(true).open(file).unwrap().set_len(half).unwrap();
    }
    let third = Process::start(store.path(), &options, &[], store.path());
    assert!(compiled(&third) >= 2, "{:?}", third.log);
}
