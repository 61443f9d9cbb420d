//! Several hosts on one store: what one changes the others serve, the store decides who wins, and its loss stops nobody.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use model_nexus::digest::sha256_hex;
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::binary::{Process, client};
use crate::s3::{S3, STORE};
use crate::support::{answer, iris};

/// How often the hosts look at the store.
const POLL: &str = "300ms";

async fn start(s3: &S3, folder: &Path) -> Process {
    let environment = s3.environment();
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let options = ["--listen", "127.0.0.1:0", "--store-poll", POLL];
    let mut process = Process::start(STORE, &options, &environment, folder);
    process.healthy().await;
    process
}

/// An S3 server and two hosts on it.
async fn two_hosts(folder: &Path) -> Option<(S3, Process, Process)> {
    let s3 = S3::start().await?;
    let (one, other) = (start(&s3, folder).await, start(&s3, folder).await);
    Some((s3, one, other))
}

async fn ask(host: &Process, method: Method, path: &str, body: Value) -> (u16, Value) {
    answer(client().request(method, host.url(path)).json(&body).send().await.unwrap()).await
}

async fn upload(host: &Process, id: &str, version: &str) -> (u16, Value) {
    upload_file(host, id, version, iris()).await
}

async fn upload_file(host: &Process, id: &str, version: &str, file: Vec<u8>) -> (u16, Value) {
    let form = Form::new().part("file", Part::bytes(file).file_name("model.onnx"));
    let form = form.text("id", id.to_owned()).text("name", "n").text("version", version.to_owned());
    answer(client().post(host.url("/models/upload")).multipart(form).send().await.unwrap()).await
}

/// The version that answers, or the status where none does.
async fn served(host: &Process, id: &str) -> Result<String, u16> {
    let body = json!({ "model_id": id, "features": [5.1, 3.5, 1.4, 0.2] });
    let (status, answer) = ask(host, Method::POST, "/predict", body).await;
    if status == 200 { Ok(answer["version"].as_str().unwrap().to_owned()) } else { Err(status) }
}

/// Waits until a host serves as expected. Answers after how long, which is for people to read: machines differ.
async fn until_served(host: &Process, id: &str, expected: Result<&str, u16>) -> Duration {
    let began = Instant::now();
    loop {
        let found = served(host, id).await;
        if found.as_deref().map_err(|status| *status) == expected {
            return began.elapsed();
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{id}: {found:?} instead of {expected:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_host_changes_the_other_serves() {
    let folder = tempfile::tempdir().unwrap();
    let Some((s3, one, other)) = two_hosts(folder.path()).await else { return };
    let mut times = Vec::new();
    for version in ["1", "2"] {
        let (status, answer) = upload(&one, "flowers", version).await;
        assert_eq!(status, 201, "{answer}");
        times.push(("upload", until_served(&other, "flowers", Ok(version)).await));
    }
    let rule = json!({ "default": "1" });
    let (status, answer) = ask(&other, Method::PUT, "/models/flowers/traffic", rule).await;
    assert_eq!(status, 200, "{answer}");
    times.push(("traffic", until_served(&one, "flowers", Ok("1")).await));
    let (status, answer) = ask(&one, Method::DELETE, "/models/flowers/versions/2", Value::Null).await;
    assert_eq!(status, 200, "{answer}");
    let asked = json!({ "model_id": "flowers", "version": "2", "features": [1, 2, 3, 4] });
    let began = Instant::now();
    while ask(&other, Method::POST, "/predict", asked.clone()).await.0 != 404 {
        assert!(began.elapsed() < Duration::from_secs(60), "a deleted version serves on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (status, answer) = ask(&other, Method::DELETE, "/models/flowers", Value::Null).await;
    assert_eq!(status, 200, "{answer}");
    times.push(("delete", until_served(&one, "flowers", Err(404)).await));
    assert_eq!(s3.keys().await, ["some/prefix/store.json"], "something of a deleted model is left");
    println!("looking every {POLL}: {times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_equal_uploads_to_two_hosts_exactly_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_s3, one, other)) = two_hosts(folder.path()).await else { return };
    for round in 0..20 {
        let id = format!("raced-{round}");
        let (first, second) = tokio::join!(upload(&one, &id, "1"), upload(&other, &id, "1"));
        let statuses = BTreeSet::from([first.0, second.0]);
        assert_eq!(statuses, BTreeSet::from([201, 409]), "{first:?}, {second:?}");
        until_served(&one, &id, Ok("1")).await;
        until_served(&other, &id, Ok("1")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_one_model_at_two_hosts_at_once_do_not_undo_one_another() {
    let folder = tempfile::tempdir().unwrap();
    let Some((s3, one, other)) = two_hosts(folder.path()).await else { return };
    for version in ["1", "2", "3"] {
        assert_eq!(upload(&one, "both", version).await.0, 201);
    }
    until_served(&other, "both", Ok("3")).await;
    for round in 0..20 {
        // Both are kept in the same file.
        let what = ["unload", "load"][round % 2];
        let default = ["2", "3"][round / 2 % 2];
        let (path, rule) = (format!("/models/both/versions/1/{what}"), json!({ "default": default }));
        let (loaded, set) = tokio::join!(
            ask(&one, Method::POST, &path, Value::Null),
            ask(&other, Method::PUT, "/models/both/traffic", rule)
        );
        assert_eq!((loaded.0, set.0), (200, 200), "{loaded:?}, {set:?}");
        let kept: toml::Table = s3.object("some/prefix/models/both/model.toml").await.parse().unwrap();
        let unloaded = kept.get("versions").is_some_and(|versions| versions["1"]["unloaded"].as_bool() == Some(true));
        let found = (kept["traffic"]["default"].as_str(), unloaded);
        assert_eq!(found, (Some(default), what == "unload"), "round {round}: {kept}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_removed_and_uploaded_anew_is_served_anew_by_the_other_host() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_s3, one, other)) = two_hosts(folder.path()).await else { return };
    assert_eq!(upload(&one, "flowers", "0").await.0, 201);
    for round in 0..6u8 {
        // The same model with another description: field 6 of the file.
        let file = [&iris()[..], &[0x32, 1, b'a' + round]].concat();
        let (status, answer) = upload_file(&one, "flowers", "1", file.clone()).await;
        assert_eq!(status, 201, "{answer}");
        let began = Instant::now();
        loop {
            let (_, info) = ask(&other, Method::GET, "/models/info?id=flowers&version=1", Value::Null).await;
            if info["info"]["sha256"] == sha256_hex(&file) && info["info"]["state"] == "ready" {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "round {round}: {info}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(served(&other, "flowers").await, Ok("1".into()), "round {round}");
        if round % 2 == 0 {
            // The other host sees it gone in every second round; in the others it is there again at its next look.
            assert_eq!(ask(&one, Method::DELETE, "/models/flowers/versions/1", Value::Null).await.0, 200);
            until_served(&other, "flowers", Ok("0")).await;
        } else {
            assert_eq!(ask(&one, Method::DELETE, "/models/flowers/versions/1", Value::Null).await.0, 200);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_lost_leaves_what_is_loaded_serving_and_one_that_lost_everything_too() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut s3) = S3::start().await else { return };
    let host = start(&s3, folder.path()).await;
    assert_eq!(upload(&host, "flowers", "1").await.0, 201);
    assert_eq!(store_of(&host).await, ("healthy".into(), json!({ "reachable": true }), 1.0));
    s3.cut();
    until_store(&host, false).await;
    let (status, store, up) = store_of(&host).await;
    assert_eq!((status.as_str(), up), ("degraded", 0.0));
    assert!(store["error"].is_string() && store["since"].is_string(), "{store}");
    assert_eq!(served(&host, "flowers").await, Ok("1".into()));
    let (status, answer) = upload(&host, "flowers", "2").await;
    assert_eq!((status, &answer["code"]), (503, &json!("not_ready")), "{answer}");
    s3.mend();
    until_store(&host, true).await;
    assert_eq!(upload(&host, "flowers", "2").await.0, 201);
    s3.freeze();
    until_store(&host, false).await;
    assert_eq!(served(&host, "flowers").await, Ok("2".into()));
    s3.thaw();
    until_store(&host, true).await;
    s3.lose_everything().await;
    until_store(&host, false).await;
    for _ in 0..5 {
        // Several looks at a store without its bucket are not a deletion of every model.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(served(&host, "flowers").await, Ok("2".into()));
    }
}

/// What /health and /metrics say of the store.
async fn store_of(host: &Process) -> (String, Value, f64) {
    let (status, health) = answer(client().get(host.url("/health")).send().await.unwrap()).await;
    assert_eq!(status, 200, "{health}");
    let metrics = client().get(host.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let up = metrics.lines().find_map(|line| line.strip_prefix("nexus_store_up ")).unwrap().parse().unwrap();
    (health["status"].as_str().unwrap().to_owned(), health["store"].clone(), up)
}

async fn until_store(host: &Process, reachable: bool) {
    let began = Instant::now();
    while store_of(host).await.1["reachable"] != reachable {
        assert!(began.elapsed() < Duration::from_secs(60), "the host does not notice its store");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("store reachable: {reachable}, noticed after {:?}", began.elapsed());
}
