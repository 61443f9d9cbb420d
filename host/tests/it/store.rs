//! Stores as others leave them: laid out by other servers, write-protected, full, and damaged.

use std::path::Path;

use model_nexus::digest::sha256_hex;
use serde_json::{Value, json};

use crate::mount::Disk;
use crate::support::{Host, bundle, error_message, iris, store_with_iris};

fn lay(store: &Path, path: &str) {
    let file = store.join(path);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, iris()).unwrap();
}

/// Every file under a folder, by its path in it.
pub fn files(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, root: &Path, files: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                walk(&entry, root, files);
            } else {
                files.push(entry.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut files_of = Vec::new();
    walk(folder, folder, &mut files_of);
    files_of.sort();
    files_of
}

async fn served_version(host: &Host, id: &str) -> Value {
    let (status, answer) = host.predict(json!({ "model_id": id, "features": [5.1, 3.5, 1.4, 0.2] })).await;
    assert_eq!((status, &answer["prediction"]), (200, &json!([0])), "{answer}");
    answer["version"].clone()
}

#[tokio::test]
async fn a_triton_repository_is_served_as_it_is_the_highest_number_first_and_takes_uploads() {
    let store = tempfile::tempdir().unwrap();
    // Copied in the wrong order: the highest number is the oldest file.
    for version in ["10", "9", "2"] {
        lay(store.path(), &format!("flowers/{version}/model.onnx"));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::fs::write(store.path().join("flowers/config.pbtxt"), "platform: \"onnxruntime_onnx\"").unwrap();
    let before = files(store.path());
    let host = Host::start(store.path(), &["--bundle", &bundle()]).await;
    assert_eq!(served_version(&host, "flowers").await, "10");
    assert_eq!(files(store.path()), before, "something was laid into somebody else's repository");
    let (status, answer) = host.upload("flowers", "11", iris()).await;
    assert_eq!(status, 201, "{answer}");
    assert_eq!(served_version(&host, "flowers").await, "11");
    let (status, answer) = host.upload("flowers", "9", iris()).await;
    assert_eq!(status, 409, "{answer}");
    let uploaded = ["flowers/11/model.onnx", "flowers/11/model_info.json"].map(str::to_owned);
    let mut after = [&before[..], &uploaded[..]].concat();
    after.sort();
    assert_eq!(files(store.path()), after);
    drop(host);
    let host = Host::start(store.path(), &[]).await;
    assert_eq!(served_version(&host, "flowers").await, "11");
}

#[tokio::test]
async fn the_folder_of_one_model_is_served_under_the_name_that_is_given_as_kserve_mounts_it() {
    for (path, version) in [("model.onnx", "1"), ("3/model.onnx", "3")] {
        let store = tempfile::tempdir().unwrap();
        lay(store.path(), path);
        let host = Host::start(store.path(), &["--model-name", "flowers"]).await;
        assert_eq!(served_version(&host, "flowers").await, version);
        let (status, answer) = host.upload("other", "1", iris()).await;
        assert_eq!(status, 403, "{answer}");
        assert!(error_message(&answer).contains("--store"), "{answer}");
        assert_eq!(files(store.path()), [path]);
    }
}

#[tokio::test]
async fn a_read_only_store_is_served_and_says_so_to_who_would_change_it() {
    for path in ["models/iris/1/model.onnx", "iris/1/model.onnx"] {
        let Some(disk) = Disk::mount("1m") else { return };
        lay(disk.path(), path);
        disk.protect();
        let host = Host::start(disk.path(), &["--bundle", &bundle()]).await;
        host.assert_serves().await;
        assert!(!host.app.plugins.list().is_empty(), "bundled plugins serve from memory");
        let (status, answer) = host.upload("other", "1", iris()).await;
        assert_eq!((status, &answer["code"]), (403, &json!("forbidden")), "{answer}");
        assert!(error_message(&answer).contains("read-only"), "{answer}");
        host.assert_serves().await;
        assert_eq!(files(disk.path()), [path]);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_an_upload_with_507_and_nothing_of_it_is_left() {
    let Some(disk) = Disk::mount("256k") else { return };
    lay(disk.path(), "models/iris/1/model.onnx");
    let host = Host::start(disk.path(), &[]).await;
    let before = files(disk.path());
    // Down to the last block, so that uploads fail at any of their steps.
    let ballast = disk.path().join("models/ballast");
    let mut size = 256 << 10;
    while size > 0 {
        let mut grown = std::fs::read(&ballast).unwrap_or_default();
        grown.resize(grown.len() + size, 0);
        if std::fs::write(&ballast, &grown).is_err() {
            std::fs::write(&ballast, &grown[..grown.len() - size]).unwrap();
        }
        size /= 2;
    }
    for free in [0, 1] {
        let kept = std::fs::metadata(&ballast).unwrap().len() - free * 4096;
        std::fs::File::options().write(true).open(&ballast).unwrap().set_len(kept).unwrap();
        let (status, answer) = host.upload("more", &free.to_string(), iris()).await;
        assert_eq!((status, &answer["code"]), (507, &json!("storage_full")), "{free} blocks free: {answer}");
        assert!(error_message(&answer).contains("nothing was published"), "{answer}");
        host.assert_serves().await;
    }
    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(files(disk.path()), before, "an upload that failed left something");
    let (status, answer) = host.upload("more", "1", iris()).await;
    assert_eq!(status, 201, "{answer}");
}

#[tokio::test]
async fn a_flipped_bit_in_a_model_is_told_with_the_hash_that_was_and_the_one_that_is() {
    let store = store_with_iris();
    let host = Host::start(store.path(), &["--store-poll", "20ms"]).await;
    let (status, answer) = host.upload("flipped", "1", iris()).await;
    assert_eq!(status, 201, "{answer}");
    let file = store.path().join("models/flipped/1/model.onnx");
    let mut bytes = iris();
    // A weight, so that ONNX Runtime would still load it.
    bytes[300] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    // What is loaded serves on.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(served_version(&host, "flipped").await, "1");
    drop(host);
    let host = Host::start(store.path(), &[]).await;
    host.assert_serves().await;
    let health: Value = host.get("/health").await.json().await.unwrap();
    let reason = health["skipped"][0]["reason"].as_str().unwrap();
    for hash in [sha256_hex(&iris()), sha256_hex(&bytes)] {
        assert!(reason.contains(&hash), "{reason}");
    }
}
