//! How models are run: together or not, by options of their own, on what; changed without a request that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::support::{Host, answer, error_message, fixture, iris, store_with_iris, until};

fn model(name: &str) -> Vec<u8> {
    std::fs::read(fixture(&format!("models/rows/{name}.onnx"))).unwrap()
}

async fn put(host: &Host, path: &str, body: Value) -> (u16, Value) {
    answer(host.client.put(format!("{}{path}", host.url)).json(&body).send().await.unwrap()).await
}

async fn delete(host: &Host, path: &str) -> (u16, Value) {
    answer(host.client.delete(format!("{}{path}", host.url)).send().await.unwrap()).await
}

async fn get(host: &Host, path: &str) -> Value {
    answer(host.get(path).await).await.1
}

/// How iris is run, as it is told to those who ask for the model.
async fn engine(host: &Host) -> Value {
    get(host, "/models/info?id=iris").await["info"]["engine"].clone()
}

async fn batching(host: &Host, name: &str) -> (bool, String) {
    let (status, answer) = host.upload(name, "1", model(name)).await;
    assert_eq!(status, 201, "{name}: {answer}");
    let info = get(host, &format!("/models/info?id={name}")).await;
    let engine = &info["info"]["engine"];
    let ok = engine["batching"]["ok"].as_bool().unwrap();
    assert_eq!(engine["batch_rows"], if ok { 64 } else { 1 }, "{name}: {info}");
    (ok, engine["batching"]["reason"].as_str().unwrap_or_default().to_owned())
}

/// A provider that the library of this machine does not have.
async fn missing_provider(host: &Host) -> &'static str {
    let health = get(host, "/health").await;
    let offered = health["execution_providers"].as_array().unwrap().clone();
    assert!(offered.contains(&json!("cpu")), "{health}");
    ["directml", "coreml", "rocm"].into_iter().find(|name| !offered.contains(&json!(name))).unwrap()
}

#[tokio::test]
async fn models_whose_rows_do_not_know_of_one_another_are_run_together() {
    let (host, _store) = Host::with_iris(&[]).await;
    assert_eq!(engine(&host).await["batching"], json!({ "ok": true }));
    for name in ["dense", "tokens", "words", "half", "undeclared"] {
        assert_eq!(batching(&host, name).await, (true, String::new()), "{name}");
    }
}

#[tokio::test]
async fn models_whose_rows_do_are_found_out() {
    let (host, _store) = Host::with_iris(&[]).await;
    for (name, why) in [
        ("less-mean", "differs from that of the rows one by one"),
        ("softmax-over-rows", "differs from that of the rows one by one"),
        ("running-sum", "differs from that of the rows one by one"),
        ("quantized", "differs from that of the rows one by one"),
        ("random", "differs from that of the rows one by one"),
        ("sum-of-rows", "3 rows went in, and output y came with the shape [1, 4]"),
        ("flattened", "came with the shape [6, 1]"),
        ("fixed-output", "output y has no first axis of any size: FP32[1,4]"),
        ("fixed-input", "input x has no first axis of any size: FP32[1,4]"),
        ("largest-row", "output y has no first axis of any size"),
        ("square", "another axis of the same size as the batch"),
        ("one-at-a-time", "it does not run on 3 rows at once"),
    ] {
        let (ok, reason) = batching(&host, name).await;
        assert!(!ok && reason.contains(why), "{name}: {reason}");
    }
}

#[tokio::test]
async fn a_batch_that_ends_the_trial_does_not_keep_the_model_out() {
    let options = ["--admission-timeout", "10s", "--admission-memory-bytes", "512MiB"];
    let (host, _store) = Host::with_iris(&options).await;
    for (name, why) in
        [("memory", "memory"), ("trap", "(SIGFPE)"), ("time", "took more than 10s (--admission-timeout)")]
    {
        let (ok, reason) = batching(&host, name).await;
        assert!(!ok && reason.contains(why), "{name}: {reason}");
        let (status, answer) = host.predict(json!({ "model_id": name, "features": [1, 2, 3, 4] })).await;
        assert_eq!(status, 200, "{name}: {answer}");
    }
}

#[tokio::test]
async fn what_the_trial_found_is_kept_and_found_again_where_an_older_host_kept_less() {
    let (host, store) = Host::with_iris(&[]).await;
    host.assert_serves().await;
    let file = store.path().join("models/iris/1/model_info.json");
    let mut sidecar: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(sidecar["batching"], json!({ "ok": true }));
    drop(host);
    sidecar.as_object_mut().unwrap().remove("batching");
    std::fs::write(&file, sidecar.to_string()).unwrap();
    let again = Host::start(store.path(), &[]).await;
    again.assert_serves().await;
    assert_eq!(engine(&again).await["batching"], json!({ "ok": true }));
    let kept: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(kept["batching"], json!({ "ok": true }));
}

#[tokio::test]
async fn what_is_set_for_a_model_goes_before_the_hosts_options_and_lasts() {
    let (host, store) = Host::with_iris(&["--max-batch-size", "16", "--queue-capacity", "77"]).await;
    let now = engine(&host).await;
    let expected = json!({
        "instances": 1, "threads": 1, "max_batch_size": 16, "batch_rows": 16, "batching": { "ok": true },
        "queue_capacity": 77, "execution_provider": "cpu", "device": "", "cache": true,
    });
    assert_eq!(now, expected);
    let options = json!({ "instances": 3, "max_batch_size": 1, "queue_capacity": 5, "cache": false, "execution_provider": "cpu" });
    let (status, set) = put(&host, "/models/iris/engine", options.clone()).await;
    assert_eq!((status, &set["engine"]), (200, &options), "{set}");
    let effective = &set["versions"][0]["effective"];
    assert_eq!((&effective["instances"], &effective["batch_rows"]), (&json!(3), &json!(1)));
    host.assert_serves().await;
    assert_eq!(engine(&host).await, *effective);
    drop(host);

    let again = Host::start(store.path(), &[]).await;
    assert_eq!(engine(&again).await["instances"], 3);
    let memory = |info: Value| info["info"]["memory"]["bytes"].as_u64().unwrap();
    let three = memory(get(&again, "/models/info?id=iris").await);
    assert_eq!(delete(&again, "/models/iris/engine").await.1["engine"], json!({}));
    let now = engine(&again).await;
    assert_eq!((&now["instances"], &now["cache"]), (&json!(1), &json!(true)));
    assert_eq!(memory(get(&again, "/models/info?id=iris").await) * 3, three);
    again.assert_serves().await;
}

#[tokio::test]
async fn a_version_may_have_options_of_its_own() {
    let (host, _store) = Host::with_iris(&[]).await;
    assert_eq!(host.upload("iris", "2", iris()).await.0, 201);
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(put(&host, "/models/iris/engine", json!({ "instances": 2 })).await.0, 200);
    let latency = json!({ "profile": "latency" });
    assert_eq!(put(&host, "/models/iris/engine?version=2", latency.clone()).await.0, 200);
    let shown = get(&host, "/models/iris/engine").await;
    let of = |shown: &Value, version: usize, what: &str| shown["versions"][version]["effective"][what].clone();
    assert_eq!((of(&shown, 0, "instances"), of(&shown, 0, "threads")), (json!(2), json!(1)), "{shown}");
    assert_eq!((of(&shown, 1, "instances"), of(&shown, 1, "threads")), (json!(1), json!(cores)), "{shown}");
    assert_eq!(shown["versions"][1]["engine"], latency);
    let one = get(&host, "/models/iris/engine?version=2").await;
    assert_eq!(one["versions"].as_array().unwrap().len(), 1);
    let mixed = json!({ "profile": "latency", "instances": 2, "threads": 1 });
    assert_eq!(put(&host, "/models/iris/engine?version=2", mixed).await.0, 200);
    let shown = get(&host, "/models/iris/engine?version=2").await;
    assert_eq!((of(&shown, 0, "instances"), of(&shown, 0, "threads")), (json!(2), json!(1)), "explicit values win");
    assert_eq!(delete(&host, "/models/iris/engine?version=2").await.0, 200);
    let shown = get(&host, "/models/iris/engine").await;
    assert_eq!((of(&shown, 1, "instances"), &shown["versions"][1]["engine"]), (json!(2), &Value::Null), "{shown}");
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused_and_change_nothing() {
    let (host, store) = Host::with_iris(&[]).await;
    for (options, why) in [
        (json!({ "instances": 0 }), "expected a number from 1 to 1024, 0 came"),
        (json!({ "queue_capacity": 1e12 as u64 }), "expected a number from 1 to 1000000"),
        (json!({ "max_batch_size": -1 }), "not readable"),
        (json!({ "workers": 2 }), "unknown field `workers`"),
        (json!({ "profile": "fast" }), "`throughput` or `latency`"),
        (json!({ "execution_provider": "gpu" }), "expected one of cpu, cuda, tensorrt"),
        (json!({ "execution_provider": "cuda:x" }), "as in cuda:0"),
        (json!([]), "not readable"),
    ] {
        let (status, refused) = put(&host, "/models/iris/engine", options).await;
        assert_eq!(status, 400, "{refused}");
        assert!(error_message(&refused).contains(why), "{refused}");
    }
    assert_eq!(put(&host, "/models/rose/engine", json!({})).await.0, 404);
    assert_eq!(put(&host, "/models/iris/engine?version=9", json!({})).await.0, 404);
    assert!(!store.path().join("models/iris/model.toml").exists());
    host.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_options_change() {
    let (host, _store) = Host::with_iris(&["--cache-bytes", "0"]).await;
    let (host, done) = (Arc::new(host), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (host, done) = (Arc::clone(&host), Arc::clone(&done));
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    host.assert_serves().await;
                }
            })
        })
        .collect();
    for round in 0..10 {
        let options = json!({ "instances": 1 + round % 3, "max_batch_size": 1 + round * 3 });
        let (status, answer) = put(&host, "/models/iris/engine", options).await;
        assert_eq!(status, 200, "{answer}");
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn what_there_is_no_memory_for_twice_serves_on() {
    let (host, store) = Host::with_iris(&[]).await;
    host.assert_serves().await;
    let bytes = get(&host, "/models/info?id=iris").await["info"]["memory"]["bytes"].as_u64().unwrap();
    drop(host);
    let host = Host::start(store.path(), &["--max-loaded-bytes", &(bytes * 2).to_string()]).await;
    host.assert_serves().await;
    let (status, refused) = put(&host, "/models/iris/engine", json!({ "instances": 2 })).await;
    assert_eq!(status, 413);
    let message = error_message(&refused);
    assert!(message.contains("--max-loaded-bytes") && message.contains("serves on as before"), "{refused}");
    assert_eq!(engine(&host).await["instances"], 1);
    host.assert_serves().await;
    assert_eq!(put(&host, "/models/iris/engine", json!({ "queue_capacity": 9 })).await.0, 200, "twice one fits");
    assert_eq!(engine(&host).await["queue_capacity"], 9);
    assert_eq!(put(&host, "/models/iris/engine", json!({ "queue_capacity": 10 })).await.0, 200, "what it was is free");
}

#[tokio::test]
async fn a_provider_that_is_missing_is_an_error_and_never_the_cpu_instead() {
    let (host, store) = Host::with_iris(&[]).await;
    let missing = missing_provider(&host).await;
    let (status, refused) = put(&host, "/models/iris/engine", json!({ "execution_provider": missing })).await;
    assert_eq!(status, 400);
    let message = error_message(&refused);
    assert!(message.contains(missing) && message.contains("it offers: cpu"), "{refused}");
    host.assert_serves().await;
    assert_eq!(engine(&host).await["execution_provider"], "cpu");

    // Set by hand, or by another host that has it: this one says why it cannot serve the model.
    let file = store.path().join("models/iris/model.toml");
    std::fs::write(&file, format!("[engine]\nexecution_provider = \"{missing}\"\n")).unwrap();
    let again = Host::start(store.path(), &[]).await;
    let (status, refused) = again.predict(json!({ "model_id": "iris", "features": [1, 2, 3, 4] })).await;
    assert_eq!(status, 503);
    assert!(error_message(&refused).contains("it offers: cpu"), "{refused}");
    assert_eq!(get(&again, "/health").await["skipped"][0]["id"], "iris");
    let (status, refused) = again.upload("iris", "2", iris()).await;
    assert_eq!(status, 400);
    assert!(error_message(&refused).contains("it offers: cpu"), "{refused}");
    assert_eq!(delete(&again, "/models/iris/engine").await.0, 200);
    let ask = json!({ "model_id": "iris", "features": [1, 2, 3, 4] });
    until("the model serves again", async || again.predict(ask.clone()).await.0 == 200).await;
}

#[tokio::test]
async fn a_host_does_not_start_without_the_provider_it_was_told_to_use() {
    let (host, _store) = Host::with_iris(&[]).await;
    let missing = missing_provider(&host).await;
    let store = store_with_iris();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_model-nexus"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--execution-provider", missing, "--store"]).arg(store.path());
    let ended = command.kill_on_drop(true).output().await.unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success());
    assert!(stderr.contains("--execution-provider") && stderr.contains("it offers: cpu"), "{stderr}");
}

#[tokio::test]
async fn other_hosts_follow() {
    let (one, store) = Host::with_iris(&["--store-poll", "50ms"]).await;
    one.assert_serves().await;
    let other = Host::start(store.path(), &["--store-poll", "50ms"]).await;
    other.assert_serves().await;
    assert_eq!(put(&one, "/models/iris/engine", json!({ "instances": 2, "max_batch_size": 7 })).await.0, 200);
    until("the other host follows", async || {
        other.assert_serves().await;
        engine(&other).await["instances"] == 2
    })
    .await;
    assert_eq!(engine(&other).await["batch_rows"], 7);
    assert_eq!(delete(&other, "/models/iris/engine").await.0, 200);
    until("the first host follows", async || engine(&one).await["instances"] == 1).await;
    one.assert_serves().await;
}

#[tokio::test]
async fn a_model_that_is_not_deterministic_is_not_answered_from_memory() {
    let (host, _store) = Host::with_iris(&[]).await;
    assert_eq!(host.upload("random", "1", model("random")).await.0, 201);
    let ask = json!({ "model_id": "random", "features": [1, 2, 3, 4] });
    let answer = async || host.predict(ask.clone()).await.1["prediction"].clone();
    assert_eq!(answer().await, answer().await);
    assert_eq!(put(&host, "/models/random/engine", json!({ "cache": false })).await.0, 200);
    assert_ne!(answer().await, answer().await);
    let hits = "nexus_cache_hits_total{model=\"random\",version=\"1\"}";
    assert_eq!(host.metric(hits).await, Some(1.0));
    assert_eq!(host.metric("nexus_cache_misses_total{model=\"random\",version=\"1\"}").await, Some(1.0));
    assert_eq!(delete(&host, "/models/random").await.0, 200);
    assert_eq!(host.metric(hits).await, None);
}

#[tokio::test]
async fn metrics_say_what_a_version_runs_on() {
    let (host, _store) = Host::with_iris(&[]).await;
    host.assert_serves().await;
    let info = "nexus_model_info{device=\"\",model=\"iris\",provider=\"cpu\",version=\"1\"}";
    assert_eq!(host.metric(info).await, Some(1.0));
    assert_eq!(delete(&host, "/models/iris").await.0, 200);
    assert_eq!(host.metric(info).await, None);
}

#[tokio::test]
async fn a_model_runs_on_a_gpu_and_answers_as_on_the_cpu() {
    let (host, _store) = Host::with_iris(&[]).await;
    let offered = get(&host, "/health").await["execution_providers"].clone();
    if !offered.as_array().unwrap().contains(&json!("cuda")) {
        eprintln!("SKIPPED: a GPU is not tested, ONNX Runtime's library offers {offered}");
        return;
    }
    assert_eq!(host.upload("dense", "1", model("dense")).await.0, 201);
    let ask = json!({ "model_id": "dense", "features": [0.5, -1.0, 2.0, 0.25] });
    let fresh = async || {
        let request = host.client.post(format!("{}/predict", host.url)).header("cache-control", "no-cache");
        let (status, answer) = answer(request.json(&ask).send().await.unwrap()).await;
        assert_eq!(status, 200, "{answer}");
        serde_json::from_value::<Vec<f32>>(answer["prediction"].clone()).unwrap()
    };
    let on_cpu = fresh().await;
    let (status, set) = put(&host, "/models/dense/engine", json!({ "execution_provider": "cuda:0" })).await;
    assert_eq!(status, 200, "{set}");
    let effective = &set["versions"][0]["effective"];
    assert_eq!((&effective["execution_provider"], &effective["instances"]), (&json!("cuda:0"), &json!(1)), "{set}");
    let on_gpu = fresh().await;
    // Tensor cores round to fewer digits.
    assert!(on_cpu.iter().zip(&on_gpu).all(|(cpu, gpu)| (cpu - gpu).abs() < 1e-2), "{on_cpu:?} {on_gpu:?}");
    let info = "nexus_model_info{device=\"0\",model=\"dense\",provider=\"cuda\",version=\"1\"}";
    assert_eq!(host.metric(info).await, Some(1.0));
    let (status, refused) = put(&host, "/models/dense/engine", json!({ "execution_provider": "cuda:99" })).await;
    assert_eq!(status, 400, "{refused}");
    assert!(error_message(&refused).contains("does not start on this host"), "{refused}");
    assert_eq!(fresh().await, on_gpu);
}
