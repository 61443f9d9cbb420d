//! The life of a plugin over HTTP: uploaded, bound, tried, swapped under load, removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::pictures::Pictures;
use crate::support::{Host, answer, error_message, fixture, iris, repository_root, store_with_iris, test_plugin};

fn hostile() -> Vec<u8> {
    std::fs::read(test_plugin("hostile")).unwrap()
}

/// The same component with another text of the same length in it, such as another version.
fn with_text(wasm: &[u8], old: &str, new: &str) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let mut changed = wasm.to_vec();
    let places: Vec<usize> =
        wasm.windows(old.len()).enumerate().filter(|(_, text)| *text == old.as_bytes()).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "{old:?} is not in the component");
    for at in places {
        changed[at..at + new.len()].copy_from_slice(new.as_bytes());
    }
    changed
}

/// The component kept for contract 0.1.0.
fn scaler() -> Vec<u8> {
    std::fs::read(fixture("plugins/contract-0.1.0.wasm")).unwrap()
}

/// The same plugin of another version, as its manifest says it. Versions in names of interfaces stay.
fn scaler_of_version(version: &str) -> Vec<u8> {
    let (old, mut wasm) = (b"0.1.0", scaler());
    for at in 1..wasm.len() - old.len() {
        let before = &wasm[..at];
        if wasm[at..].starts_with(old) && !before.ends_with(b"@") && !before.ends_with(b"version") {
            wasm[at..at + old.len()].copy_from_slice(version.as_bytes());
        }
    }
    wasm
}

/// The same plugin in other bytes: a custom section at the end.
fn with_remark(wasm: &[u8]) -> Vec<u8> {
    let mut longer = wasm.to_vec();
    longer.extend_from_slice(b"\0\x07\x06remark");
    longer
}

async fn upload(host: &Host, wasm: Vec<u8>, grants: Option<Value>) -> (u16, Value) {
    let mut form = Form::new().part("file", Part::bytes(wasm).file_name("plugin.wasm"));
    if let Some(grants) = grants {
        form = form.text("grants", grants.to_string());
    }
    answer(host.client.post(format!("{}/plugins/upload", host.url)).multipart(form).send().await.unwrap()).await
}

pub async fn bind(host: &Host, model: &str, pipeline: &Value) -> (u16, Value) {
    let url = format!("{}/models/{model}/pipeline", host.url);
    answer(host.client.put(url).json(pipeline).send().await.unwrap()).await
}

/// Both stages by the hostile plugin, told what to do.
pub fn hostile_pipeline(config: &Value) -> Value {
    let stage = json!({ "plugin": HOSTILE, "config": config });
    json!({ "preprocess": stage, "postprocess": stage })
}

pub const HOSTILE: &str = "hostile@0.1.0";

pub async fn host_with_hostile(options: &[&str]) -> (Host, tempfile::TempDir) {
    let (host, store) = Host::with_iris(options).await;
    let (status, uploaded) = upload(&host, hostile(), None).await;
    assert_eq!(status, 201, "{uploaded}");
    (host, store)
}

pub async fn ask(host: &Host) -> (u16, Value) {
    let request = host.client.post(format!("{}/predict", host.url)).header("cache-control", "no-cache");
    answer(request.json(&json!({ "model_id": "iris", "x": [5.1, 3.5, 1.4, 0.2] })).send().await.unwrap()).await
}

#[tokio::test]
async fn an_upload_says_what_the_plugin_says_of_itself_and_outlives_a_restart() {
    let store = store_with_iris();
    let uploaded = {
        let host = Host::start(store.path(), &[]).await;
        let (status, uploaded) =
            upload(&host, hostile(), Some(json!({ "hosts": ["127.0.0.1:1"], "clock": true }))).await;
        assert_eq!(status, 201, "{uploaded}");
        uploaded["plugin"].clone()
    };
    assert_eq!((&uploaded["name"], &uploaded["version"]), (&json!("hostile"), &json!("0.1.0")));
    assert_eq!(
        (&uploaded["stages"], &uploaded["size"]),
        (&json!(["preprocess", "postprocess"]), &json!(hostile().len()))
    );
    assert_eq!(uploaded["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(uploaded["contract"], "nexus:plugin@0.1.0");
    assert_eq!(uploaded["grants"], json!({ "hosts": ["127.0.0.1:1"], "clock": true, "random": false }));
    assert!(uploaded["config_schema"]["properties"]["do"].is_object(), "{uploaded}");
    assert_eq!(uploaded["snapshot"], true, "{uploaded}");

    let host = Host::start(store.path(), &[]).await;
    let (_, listed) = answer(host.get("/plugins").await).await;
    assert_eq!(listed["plugins"], json!([uploaded]));
    let (_, shown) = answer(host.get("/plugins/info?name=hostile").await).await;
    assert_eq!((&shown["plugin"], &shown["bound_to"]), (&uploaded, &json!([])));
    assert_eq!(answer(host.get("/plugins/info?name=nobody").await).await.0, 404);
    assert_eq!(answer(host.get("/plugins/info").await).await.0, 400);
}

#[tokio::test]
async fn the_same_bytes_and_the_same_version_are_conflicts_and_another_version_lies_beside() {
    let (host, _store) = host_with_hostile(&[]).await;
    let (status, error) = upload(&host, hostile(), None).await;
    assert_eq!((status, error_message(&error)), (409, "this component is plugin hostile@0.1.0 already"));
    let (status, error) = upload(&host, with_remark(&hostile()), None).await;
    assert_eq!(status, 409);
    assert!(error_message(&error).contains("there is a plugin hostile@0.1.0 already"), "{error}");
    for wasm in [scaler(), scaler_of_version("0.9.0"), scaler_of_version("0.3.0")] {
        let (status, uploaded) = upload(&host, wasm, None).await;
        assert_eq!(status, 201, "{uploaded}");
    }
    let (_, listed) = answer(host.get("/plugins").await).await;
    assert_eq!(listed["plugins"].as_array().unwrap().len(), 4);
    let (_, newest) = answer(host.get("/plugins/info?name=contract-fixture").await).await;
    assert_eq!(newest["plugin"]["version"], "0.9.0");
}

#[tokio::test]
async fn there_are_only_so_many_plugins() {
    let (host, _store) = host_with_hostile(&["--max-plugins", "1"]).await;
    let (status, error) = upload(&host, scaler(), None).await;
    assert_eq!(status, 413);
    assert!(error_message(&error).contains("--max-plugins"), "{error}");
}

#[tokio::test]
async fn what_is_no_plugin_is_refused_and_leaves_nothing() {
    let (host, store) = Host::with_iris(&["--max-plugin-bytes", "1MiB"]).await;
    for (wasm, status, reason) in [
        (b"\0asm\x01\0\0\0".to_vec(), 400, "a core WebAssembly module and not a component"),
        (b"PK\x03\x04".to_vec(), 400, "no WebAssembly"),
        (iris(), 400, "no WebAssembly"),
        (vec![0; 2 << 20], 413, "--max-plugin-bytes"),
        (
            with_text(&hostile(), "plugin/transform@0.1.0", "plugin/transform@0.3.0"),
            400,
            "built for nexus:plugin 0.3.0",
        ),
    ] {
        let (got, error) = upload(&host, wasm, None).await;
        assert_eq!(got, status, "{error}");
        assert!(error_message(&error).contains(reason), "{error}");
    }
    let (status, error) = upload(&host, hostile(), Some(json!({ "files": "/" }))).await;
    assert_eq!(status, 400);
    assert!(error_message(&error).contains("unknown field `files`"), "{error}");
    let (_, listed) = answer(host.get("/plugins").await).await;
    assert_eq!(listed["plugins"], json!([]));
    assert!(
        !store.path().join("plugins").exists() || std::fs::read_dir(store.path().join("plugins")).unwrap().count() == 0
    );
    host.assert_serves().await;
}

/// Components of contract 0.1.0 go on serving, whatever the host speaks besides.
#[tokio::test]
async fn a_component_of_an_older_build_serves() {
    let (host, _store) = Host::with_iris(&[]).await;
    let wasm = scaler();
    let (status, uploaded) = upload(&host, wasm.clone(), None).await;
    assert_eq!(status, 201, "{uploaded}");
    let plugin = &uploaded["plugin"];
    let stage =
        json!({ "plugin": format!("{}@{}", plugin["name"].as_str().unwrap(), plugin["version"].as_str().unwrap()) });
    let (status, bound) = bind(&host, "iris", &json!({ "preprocess": stage, "postprocess": stage })).await;
    assert_eq!(status, 200, "{bound}");
    assert_eq!(bound["versions"][0]["init"], json!({ "preprocess": "snapshot", "postprocess": "snapshot" }));
    let (status, answer) = ask(&host).await;
    assert_eq!(status, 200, "{answer}");

    let other = with_text(&wasm, "nexus:plugin-version0.1.0", "nexus:plugin-version0.9.0");
    let (status, error) = upload(&host, other, None).await;
    assert_eq!(status, 400);
    assert_eq!(
        error_message(&error),
        "the component is built for nexus:plugin 0.9.0, this host speaks nexus:plugin 0.1.0"
    );
}

#[tokio::test]
async fn a_bound_plugin_serves_says_how_it_is_initialised_and_stays_after_a_restart() {
    let (host, store) = host_with_hostile(&[]).await;
    let (status, bound) = bind(&host, "iris", &hostile_pipeline(&json!({}))).await;
    assert_eq!(status, 200, "{bound}");
    // It uses files, for which its C library opens the standard streams before anything else.
    let init = bound["versions"][0]["init"]["preprocess"].as_str().unwrap();
    assert!(init.starts_with("each instance: after init it holds resources of the host"), "{init}");
    assert_eq!(bound["versions"][0]["pipeline"]["preprocess"]["plugin"], HOSTILE);
    for _ in 0..3 {
        let (status, answer) = ask(&host).await;
        assert_eq!((status, &answer["ok"], &answer["state"]), (200, &json!(true), &json!(1)), "{answer}");
    }
    let (_, shown) = answer(host.get("/plugins/info?name=hostile").await).await;
    let stages: Vec<&Value> = shown["bound_to"].as_array().unwrap().iter().map(|bound| &bound["stage"]).collect();
    assert_eq!(stages, ["preprocess", "postprocess"]);
    let (status, error) =
        answer(host.client.delete(format!("{}/plugins?name=hostile&version=0.1.0", host.url)).send().await.unwrap())
            .await;
    assert_eq!(status, 409);
    assert!(error_message(&error).contains("is bound to iris/1"), "{error}");
    drop(host);

    let host = Host::start(store.path(), &[]).await;
    assert_eq!(ask(&host).await.1["ok"], true);
    let (_, shown) = answer(host.get("/models/iris/pipeline").await).await;
    assert_eq!(shown["versions"][0]["pipeline"]["postprocess"]["plugin"], HOSTILE);
    // Taken away again, the model takes features, and the plugin may go.
    let unbound = host.client.delete(format!("{}/models/iris/pipeline", host.url)).send().await.unwrap();
    assert_eq!(answer(unbound).await.0, 200);
    assert_eq!(ask(&host).await.0, 400);
    host.assert_serves().await;
    let metric = "nexus_plugin_memory_bytes_count{plugin=\"hostile@0.1.0\"}";
    assert!(host.metric(metric).await.is_some());
    let removed = host.client.delete(format!("{}/plugins?name=hostile&version=0.1.0", host.url)).send().await.unwrap();
    assert_eq!(answer(removed).await.0, 200);
    assert_eq!(host.metric(metric).await, None);
    assert_eq!(answer(host.get("/plugins").await).await.1["plugins"], json!([]));
    assert!(!store.path().join("plugins/hostile/0.1.0/plugin.wasm").exists());
}

#[tokio::test]
async fn a_pipeline_that_does_not_fit_is_refused_with_what_differs_and_the_old_one_serves_on() {
    let (host, _store) = host_with_hostile(&[]).await;
    assert_eq!(bind(&host, "iris", &hostile_pipeline(&json!({}))).await.0, 200);
    let golden = json!({ "x": [1, 2, 3, 4] });
    for (pipeline, status, reason) in [
        (json!({ "preprocess": { "plugin": "nobody@1" } }), 404, "no plugin \"nobody@1\""),
        (json!({ "preprocess": { "plugin": "hostile" } }), 404, "no plugin \"hostile\""),
        (hostile_pipeline(&json!({ "count": "many" })), 400, "refuses its configuration: /count: \"many\" is not"),
        (hostile_pipeline(&json!({ "do": "fly" })), 400, "/do: "),
        (hostile_pipeline(&json!({ "nonsense": 1 })), 400, "nonsense"),
        (hostile_pipeline(&json!({ "count": null })), 400, "count is null; leave the field out"),
        (hostile_pipeline(&json!({ "stage": "init", "do": "trap" })), 502, "failed in init"),
        (json!({ "midprocess": {} }), 400, "unknown field `midprocess`"),
    ] {
        let (got, error) = bind(&host, "iris", &pipeline).await;
        assert_eq!(got, status, "{pipeline}: {error}");
        assert!(error_message(&error).contains(reason), "{pipeline}: {error}");
        assert_eq!(ask(&host).await.1["ok"], true);
    }
    for (act, differs) in [
        ("wrong-datatype", "expected FP32[·,4], got INT32[1,4]"),
        ("wrong-name", "has no input \"no-such-input\""),
        ("no-tensors", "misses its input"),
        ("trap", "failed in preprocess"),
    ] {
        let mut pipeline = hostile_pipeline(&json!({ "do": act }));
        pipeline["golden"] = golden.clone();
        let (status, error) = bind(&host, "iris", &pipeline).await;
        assert_eq!(status, 400, "{error}");
        let message = error_message(&error);
        assert!(message.contains("the golden request fails") && message.contains(differs), "{message}");
        assert!(message.contains("model iris, version 1") && message.contains("serves on as before"), "{message}");
        assert_eq!(ask(&host).await.1["ok"], true);
    }
    let mut pipeline = hostile_pipeline(&json!({}));
    pipeline["golden"] = golden;
    let (status, bound) = bind(&host, "iris", &pipeline).await;
    assert_eq!((status, &bound["versions"][0]["golden"]), (200, &json!("binding")), "{bound}");
    assert_eq!(bind(&host, "nobody", &json!({})).await.0, 404);
}

#[tokio::test]
async fn a_model_comes_with_its_pipeline_and_one_version_may_have_its_own() {
    let (host, store) = host_with_hostile(&[]).await;
    let form = |version: &str, pipeline: &Value| {
        Form::new()
            .part("file", Part::bytes(iris()).file_name("model.onnx"))
            .text("id", "flowers")
            .text("name", "flowers")
            .text("version", version.to_owned())
            .text("pipeline", pipeline.to_string())
    };
    let post = async |form: Form| {
        answer(host.client.post(format!("{}/models/upload", host.url)).multipart(form).send().await.unwrap()).await
    };
    let mut failing = hostile_pipeline(&json!({ "do": "trap" }));
    failing["golden"] = json!({});
    let (status, error) = post(form("1", &failing)).await;
    assert_eq!(status, 400, "{error}");
    assert!(!store.path().join("models/flowers").exists(), "a refused upload leaves nothing");

    let (status, uploaded) = post(form("1", &hostile_pipeline(&json!({})))).await;
    assert_eq!(status, 201, "{uploaded}");
    assert_eq!(uploaded["info"]["pipeline"]["preprocess"], HOSTILE);
    // A later version takes the model's plugins, or brings its own.
    assert_eq!(host.upload("flowers", "2", iris()).await.0, 201);
    assert_eq!(post(form("3", &json!({}))).await.0, 201);
    drop(host);
    let host = Host::start(store.path(), &[]).await;
    for (version, status) in [("1", 200), ("2", 200), ("3", 400)] {
        let (got, answer) = host.predict(json!({ "model_id": "flowers", "version": version, "x": [1, 2, 3, 4] })).await;
        assert_eq!(got, status, "version {version}: {answer}");
    }
    // One version alone; then all alike.
    let url = format!("{}/models/flowers/pipeline?version=3", host.url);
    let (status, bound) = answer(host.client.put(url).json(&hostile_pipeline(&json!({}))).send().await.unwrap()).await;
    assert_eq!((status, bound["versions"].as_array().unwrap().len()), (200, 1), "{bound}");
    assert_eq!(bind(&host, "flowers", &json!({})).await.1["versions"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn an_answer_says_how_long_each_step_took() {
    let (host, _store) = host_with_hostile(&[]).await;
    assert_eq!(bind(&host, "iris", &hostile_pipeline(&json!({}))).await.0, 200);
    let body = json!({ "model_id": "iris", "x": [5.1, 3.5, 1.4, 0.2] });
    let response = host.post("/predict", body.clone()).await;
    let timing = response.headers()["server-timing"].to_str().unwrap().to_owned();
    let steps: Vec<&str> = timing.split(", ").map(|step| step.split(';').next().unwrap()).collect();
    assert_eq!(steps, ["preprocess", "queue", "infer", "postprocess"], "{timing}");
    assert!(
        timing.split(", ").all(|step| step.split_once(";dur=").unwrap().1.parse::<f64>().unwrap() >= 0.0),
        "{timing}"
    );
    // From memory nothing is timed.
    let again = host.post("/predict", body).await;
    assert_eq!(again.headers()["x-cache"], "hit");
    assert!(!again.headers().contains_key("server-timing"));
    let metric =
        |name: &str| format!("nexus_plugin_{name}{{direction=\"in\",plugin=\"hostile@0.1.0\",stage=\"preprocess\"}}");
    assert!(host.metric(&metric("bytes_total")).await.unwrap() > 20.0);
    assert_eq!(host.metric("nexus_plugin_memory_bytes_count{plugin=\"hostile@0.1.0\"}").await, Some(2.0));
}

#[tokio::test]
async fn random_bytes_and_clocks_move_only_where_granted() {
    let seen = async |act: &str, grants: Option<Value>| {
        let (host, _store) = Host::with_iris(&[]).await;
        assert_eq!(upload(&host, hostile(), grants).await.0, 201);
        assert_eq!(bind(&host, "iris", &hostile_pipeline(&json!({ "do": act }))).await.0, 200);
        (ask(&host).await.1, ask(&host).await.1)
    };
    assert_eq!(seen("clock", None).await.0["unix_seconds"], 0);
    assert!(seen("clock", Some(json!({ "clock": true }))).await.0["unix_seconds"].as_u64().unwrap() > 1_700_000_000);
    let (first, second) = seen("dice", None).await;
    assert_eq!(first["bytes"], second["bytes"]);
    let (first, second) = seen("dice", Some(json!({ "random": true }))).await;
    assert!(first["bytes"].is_array() && first["bytes"] != second["bytes"], "{first}");
}

#[tokio::test]
async fn a_plugin_fetches_only_from_hosts_it_was_granted() {
    let pictures = Pictures::serve().await;
    let fetch = hostile_pipeline(&json!({ "do": "fetch", "url": pictures.url("cat.jpg") }));
    let fetched = async |granted: &str| {
        let (host, _store) = Host::with_iris(&["--allow-host", "127.0.0.1"]).await;
        assert_eq!(upload(&host, hostile(), Some(json!({ "hosts": [granted] }))).await.0, 201);
        assert_eq!(bind(&host, "iris", &fetch).await.0, 200);
        ask(&host).await
    };
    for other in ["*.example.com", "127.0.0.1:1", "localhost"] {
        let (_, answer) = fetched(other).await;
        assert!(answer["fetch"]["error"].is_string(), "{other}: {answer}");
        assert_eq!(pictures.count(), 0, "{other}");
    }
    let (status, answer) = fetched("127.0.0.1").await;
    assert_eq!((status, &answer["fetch"]["status"], pictures.count()), (200, &json!(200), 1), "{answer}");
}

/// One that cannot go on without what it fetches tells the client what to grant.
#[tokio::test]
async fn a_host_that_was_not_granted_is_403_and_says_how_to_grant_it() {
    let pictures = Pictures::serve().await;
    let store = tempfile::tempdir().unwrap();
    let options = ["--allow-host", &pictures.address];
    let host = Host::start(store.path(), &options).await;
    let classifier = std::fs::read(test_plugin("image-classifier")).unwrap();
    assert_eq!(upload(&host, classifier, Some(json!({ "hosts": ["images.example.com"] }))).await.0, 201);
    let model = std::fs::read(repository_root().join("models/efficientnet-lite0/1/model.onnx")).unwrap();
    assert_eq!(host.upload("pictures", "1", model).await.0, 201);
    let stage = json!({ "plugin": "image-classifier@0.1.0" });
    assert_eq!(bind(&host, "pictures", &json!({ "preprocess": stage, "postprocess": stage })).await.0, 200);
    let (status, error) = host.predict(json!({ "model_id": "pictures", "image_url": pictures.url("cat.jpg") })).await;
    assert_eq!(status, 403, "{error}");
    let message = error_message(&error);
    assert!(message.contains("it is not granted that host") && message.contains("grants={"), "{message}");
    assert_eq!(pictures.count(), 0);
}

/// A hundred swaps while two hundred requests a second come: none of them fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn plugins_are_swapped_under_load_and_no_request_fails() {
    let (host, _store) = host_with_hostile(&["--cache-bytes", "0", "--plugin-instance-wait", "30s"]).await;
    let host = Arc::new(host);
    let mut pipelines = vec![hostile_pipeline(&json!({}))];
    for version in ["0.1.0", "0.2.0"] {
        let (status, uploaded) = upload(&host, scaler_of_version(version), None).await;
        assert_eq!(status, 201, "{uploaded}");
        let stage = json!({ "plugin": format!("contract-fixture@{version}") });
        pipelines.push(json!({ "preprocess": stage, "postprocess": stage }));
    }
    assert_eq!(bind(&host, "iris", &pipelines[0]).await.0, 200);

    let (ended, served, swapped) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let state = Arc::new((ended, served, swapped));
    let load = {
        let (host, state) = (Arc::clone(&host), Arc::clone(&state));
        tokio::spawn(async move {
            let mut requests = tokio::task::JoinSet::new();
            let mut tick = tokio::time::interval(Duration::from_millis(5));
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while !state.0.load(Ordering::Relaxed) {
                tick.tick().await;
                // A machine too slow for that many is not what this is about.
                while requests.len() >= 16 {
                    requests.join_next().await.unwrap().unwrap();
                }
                let (host, state) = (Arc::clone(&host), Arc::clone(&state));
                requests.spawn(async move {
                    let (status, answer) = ask(&host).await;
                    assert_eq!(status, 200, "{answer}");
                    state.1.fetch_add(1, Ordering::Relaxed);
                });
            }
            while let Some(request) = requests.join_next().await {
                request.unwrap();
            }
        })
    };
    for turn in 0..100 {
        let (status, bound) = bind(&host, "iris", &pipelines[(turn + 1) % 3]).await;
        assert_eq!(status, 200, "{bound}");
        state.2.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    state.0.store(true, Ordering::Relaxed);
    load.await.unwrap();
    assert_eq!(state.2.load(Ordering::Relaxed), 100);
    assert!(state.1.load(Ordering::Relaxed) > 100, "{} requests", state.1.load(Ordering::Relaxed));
}
