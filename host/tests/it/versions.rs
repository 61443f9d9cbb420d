//! Versions of a model: which one serves, what is loaded, what is removed; and the traffic between them.

use std::collections::BTreeMap;

use model_nexus::model::Entry;
use serde_json::{Value, json};

use crate::support::{Host, answer, error_message, fixture, iris, until};

/// A model with iris' input whose answers differ from iris' own: versions are told apart by what they say.
fn zipmap() -> Vec<u8> {
    std::fs::read(fixture("models/iris/model-zipmap.onnx")).unwrap()
}

async fn put(host: &Host, path: &str, body: Value) -> (u16, Value) {
    answer(host.client.put(format!("{}{path}", host.url)).json(&body).send().await.unwrap()).await
}

async fn post(host: &Host, path: &str) -> (u16, Value) {
    answer(host.client.post(format!("{}{path}", host.url)).send().await.unwrap()).await
}

async fn delete(host: &Host, path: &str) -> (u16, Value) {
    answer(host.client.delete(format!("{}{path}", host.url)).send().await.unwrap()).await
}

async fn get(host: &Host, path: &str) -> (u16, Value) {
    answer(host.get(path).await).await
}

/// iris with versions 1 (laid down by hand), 2 and 3.
async fn three_versions() -> (Host, tempfile::TempDir) {
    let (host, store) = Host::with_iris(&[]).await;
    for version in ["2", "3"] {
        assert_eq!(host.upload("iris", version, zipmap()).await.0, 201);
    }
    (host, store)
}

fn ask() -> Value {
    json!({ "model_id": "iris", "features": [5.1, 3.5, 1.4, 0.2] })
}

/// The version that answers.
async fn serving(host: &Host, body: Value) -> String {
    let (status, answer) = host.predict(body).await;
    assert_eq!(status, 200, "{answer}");
    answer["version"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_newest_serves_until_a_default_is_set_and_a_named_version_always_does() {
    let (host, _store) = three_versions().await;
    assert_eq!(serving(&host, ask()).await, "3");
    let (status, set) = put(&host, "/models/iris/traffic", json!({ "default": "1" })).await;
    assert_eq!((status, &set["traffic"]), (200, &json!({ "default": "1" })));
    assert_eq!(serving(&host, ask()).await, "1");
    assert_eq!(serving(&host, json!({ "model_id": "iris", "version": "2", "features": [1, 2, 3, 4] })).await, "2");
    let (_, info) = get(&host, "/models/info?id=iris").await;
    assert_eq!((&info["model"]["version"], &info["versions"][0]["default"]), (&json!("1"), &json!(true)));
    assert_eq!(host.upload("iris", "4", iris()).await.0, 201);
    assert_eq!(serving(&host, ask()).await, "1", "a new version takes no traffic from a default that is set");
    assert_eq!(delete(&host, "/models/iris/traffic").await.0, 200);
    assert_eq!(serving(&host, ask()).await, "4");
}

#[tokio::test]
async fn every_answer_names_the_version_in_its_headers_too() {
    let (host, _store) = Host::with_iris(&[]).await;
    let response = host.post("/predict", ask()).await;
    assert_eq!(response.headers()["x-model-id"], "iris");
    assert_eq!(response.headers()["x-model-version"], "1");
}

#[tokio::test]
async fn weights_split_the_traffic_and_a_rollback_undoes_it_at_once() {
    let (host, store) = three_versions().await;
    let rule = json!({ "weights": { "1": 70.0, "2": 30.0 } });
    assert_eq!(put(&host, "/models/iris/traffic", rule.clone()).await.0, 200);
    let mut served = BTreeMap::new();
    for _ in 0..400 {
        *served.entry(serving(&host, ask()).await).or_insert(0) += 1;
    }
    // Six standard deviations: the exact fractions are measured where 100,000 are drawn.
    assert!((220..=340).contains(&served["1"]), "{served:?}");
    assert_eq!(served.len(), 2);
    assert_eq!(host.metric("model_predictions_total{model=\"iris\",status=\"ok\",version=\"3\"}").await, None);

    let (status, rolled) = post(&host, "/models/iris/traffic/rollback").await;
    assert_eq!((status, &rolled["traffic"], &rolled["previous"]), (200, &json!({}), &rule));
    assert_eq!(serving(&host, ask()).await, "3");
    assert_eq!(post(&host, "/models/iris/traffic/rollback").await.1["traffic"], rule);

    let again = Host::start(store.path(), &[]).await;
    assert_eq!(get(&again, "/models/iris/traffic").await.1["traffic"], rule, "kept over a start");
}

#[tokio::test]
async fn one_user_sees_one_version() {
    let (host, _store) = three_versions().await;
    for sticky in [json!({ "header": "x-user-id" }), json!({ "field": "user_id" })] {
        let rule = json!({ "weights": { "1": 1, "2": 1 }, "sticky": sticky });
        assert_eq!(put(&host, "/models/iris/traffic", rule).await.0, 200);
        let mut seen = BTreeMap::new();
        for user in 0..12 {
            for _ in 0..5 {
                let mut body = ask();
                body["user_id"] = json!(user);
                let request = host.client.post(format!("{}/predict", host.url)).json(&body);
                let (_, answered) = answer(request.header("x-user-id", user.to_string()).send().await.unwrap()).await;
                let version = answered["version"].as_str().unwrap().to_owned();
                assert_eq!(*seen.entry(user).or_insert_with(|| version.clone()), version, "user {user}");
            }
        }
        assert!(seen.values().any(|version| version == "1") && seen.values().any(|version| version == "2"), "{seen:?}");
    }
}

#[tokio::test]
async fn what_a_request_sticks_to_is_looked_up_while_others_may_change_things() {
    let (host, _store) = Host::with_iris(&[]).await;
    let rule = json!({ "weights": { "1": 1 }, "sticky": { "field": "user" } });
    assert_eq!(put(&host, "/models/iris/traffic", rule).await.0, 200);
    let registry = host.app.models.registry.clone();
    let entry = Entry { id: "iris".to_owned(), version: "1".to_owned() };
    let routed = host.app.models.registry.route("iris", None, |_| {
        let (sender, is_changed) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            registry.change(&entry, |_| None);
            sender.send(()).ok();
        });
        is_changed.recv_timeout(std::time::Duration::from_secs(20)).expect("the registry's lock is held meanwhile");
        Some("a user".to_owned())
    });
    assert!(routed.is_ok());
}

#[tokio::test]
async fn a_shadow_version_gets_copies_whose_answers_nobody_sees() {
    let (host, _store) = three_versions().await;
    let rule = json!({ "default": "1", "shadow": { "version": "2" } });
    assert_eq!(put(&host, "/models/iris/traffic", rule).await.0, 200);
    for _ in 0..20 {
        assert_eq!(serving(&host, ask()).await, "1");
    }
    let copies = "nexus_shadow_predictions_total{model=\"iris\",outcome=\"ok\",version=\"2\"}";
    until("all copies have run", async || host.metric(copies).await == Some(20.0)).await;
    assert_eq!(
        host.metric("nexus_shadow_answers_total{answer=\"same\",model=\"iris\",version=\"2\"}").await,
        Some(20.0)
    );
    assert_eq!(host.metric("model_predictions_total{model=\"iris\",status=\"ok\",version=\"2\"}").await, None);
    let named = json!({ "model_id": "iris", "version": "1", "features": [1, 2, 3, 4] });
    assert_eq!(serving(&host, named).await, "1");
    assert_eq!(host.metric(copies).await, Some(20.0), "a request that names its version is not traffic to be split");
}

#[tokio::test]
async fn a_rule_that_makes_no_sense_is_refused_and_the_old_one_stays() {
    let (host, _store) = three_versions().await;
    put(&host, "/models/iris/traffic", json!({ "default": "2" })).await;
    for (rule, text) in [
        (json!({ "default": "9" }), "no version \"9\""),
        (json!({ "weights": { "1": -1 } }), "weights are numbers"),
        (json!({ "weights": { "1": "much" } }), "not readable"),
        (json!({ "wieghts": { "1": 1 } }), "wieghts"),
        (json!({ "shadow": { "version": "1", "fraction": 7 } }), "from 0 to 1"),
    ] {
        let (status, refused) = put(&host, "/models/iris/traffic", rule).await;
        assert_eq!(status, 400, "{refused}");
        assert!(error_message(&refused).contains(text), "{refused}");
    }
    assert_eq!(get(&host, "/models/iris/traffic").await.1["traffic"], json!({ "default": "2" }));
    assert_eq!(put(&host, "/models/rose/traffic", json!({})).await.0, 404);
}

#[tokio::test]
async fn an_unloaded_version_takes_no_requests_until_it_is_loaded_again() {
    let (host, store) = three_versions().await;
    assert_eq!(post(&host, "/models/iris/versions/3/unload").await.1["state"], "unloaded");
    assert_eq!(serving(&host, ask()).await, "2");
    let named = json!({ "model_id": "iris", "version": "3", "features": [1, 2, 3, 4] });
    let (status, refused) = host.predict(named.clone()).await;
    assert_eq!(status, 503);
    assert!(error_message(&refused).contains("/versions/3/load"), "{refused}");
    assert_eq!(host.metric("models_loaded").await, Some(2.0));

    let again = Host::start(store.path(), &[]).await;
    assert_eq!(get(&again, "/models/info?id=iris&version=3").await.1["info"]["state"], "unloaded");
    assert_eq!(serving(&again, ask()).await, "2");
    assert_eq!(post(&again, "/models/iris/versions/3/load").await.1["state"], "ready");
    assert_eq!(serving(&again, named).await, "3");
    assert_eq!(post(&again, "/models/iris/versions/9/load").await.0, 404);
}

#[tokio::test]
async fn what_the_traffic_rule_names_is_neither_unloaded_nor_removed() {
    let (host, _store) = three_versions().await;
    let rule = json!({ "weights": { "1": 1, "2": 0 }, "shadow": { "version": "3" } });
    assert_eq!(put(&host, "/models/iris/traffic", rule).await.0, 200);
    for version in ["1", "3"] {
        assert_eq!(post(&host, &format!("/models/iris/versions/{version}/unload")).await.0, 409);
        let (status, refused) = delete(&host, &format!("/models/iris/versions/{version}")).await;
        assert_eq!(status, 409);
        assert!(error_message(&refused).contains("PUT /models/iris/traffic"), "{refused}");
    }
    assert_eq!(delete(&host, "/models/iris/versions/2").await.0, 200, "a weight of nothing is no traffic");
    assert_eq!(get(&host, "/models/iris/traffic").await.1["traffic"]["weights"], json!({ "1": 1.0 }));
}

#[tokio::test]
async fn a_removed_version_is_gone_and_its_name_is_free_again() {
    let (host, store) = three_versions().await;
    assert_eq!(delete(&host, "/models/iris/versions/3").await, (200, json!({ "model_id": "iris", "removed": ["3"] })));
    assert!(!store.path().join("models/iris/3").exists());
    assert_eq!(serving(&host, ask()).await, "2");
    assert_eq!(delete(&host, "/models/iris/versions/3").await.0, 404);
    assert_eq!(host.upload("iris", "3", iris()).await.0, 201);
    assert_eq!(serving(&host, ask()).await, "3");

    assert_eq!(delete(&host, "/models/iris").await.1["removed"], json!(["1", "2", "3"]));
    assert_eq!(host.predict(ask()).await.0, 404);
    assert!(!store.path().join("models/iris").exists(), "nothing of it is left");
    let text = host.get("/metrics").await.text().await.unwrap();
    assert!(!text.contains("model=\"iris\""), "{text}");
    assert_eq!(host.upload("iris", "1", iris()).await.0, 201);
}

#[tokio::test]
async fn past_the_memory_limit_the_least_recently_used_is_unloaded_and_comes_back_when_asked_for() {
    let store = tempfile::tempdir().unwrap();
    for id in ["a", "b", "c"] {
        let folder = store.path().join(format!("models/{id}/1"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("model.onnx"), iris()).unwrap();
    }
    let first = Host::start(store.path(), &[]).await;
    let mut all = 0;
    for id in ["a", "b", "c"] {
        let (_, info) = get(&first, &format!("/models/info?id={id}")).await;
        all += info["info"]["memory"]["bytes"].as_u64().unwrap();
    }
    drop(first);
    let limit = (all - 1).to_string();
    let host = Host::start(store.path(), &["--max-loaded-bytes", &limit]).await;
    let states = async || -> Vec<String> {
        let (_, listed) = get(&host, "/models").await;
        let states = listed["models"].as_array().unwrap().iter();
        states.map(|model| model["state"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(states().await, ["ready", "ready", "cold"]);
    let ask = |id: &str| json!({ "model_id": id, "features": [5.1, 3.5, 1.4, 0.2] });
    for id in ["b", "a"] {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        serving(&host, ask(id)).await;
    }
    let at_once = (0..16).map(|_| host.predict(ask("c")));
    for (status, answered) in futures_util::future::join_all(at_once).await {
        assert_eq!(status, 200, "{answered}");
    }
    assert_eq!(states().await, ["ready", "cold", "ready"]);
    let loads = "nexus_model_loads_total{model=\"c\",outcome=\"ok\",version=\"1\"}";
    assert_eq!(host.metric(loads).await, Some(1.0), "16 requests at once, one load");
    let unloads = "nexus_model_unloads_total{model=\"b\",reason=\"memory\",version=\"1\"}";
    assert_eq!(host.metric(unloads).await, Some(1.0));

    let tiny = Host::start(store.path(), &["--max-loaded-bytes", "10"]).await;
    let (status, refused) = tiny.predict(ask("a")).await;
    assert_eq!(status, 413);
    assert!(error_message(&refused).contains("--max-loaded-bytes"), "{refused}");
}

#[tokio::test]
async fn plugins_come_to_versions_that_are_not_loaded_too() {
    let (host, _store) = three_versions().await;
    post(&host, "/models/iris/versions/3/unload").await;
    let pipeline = json!({});
    assert_eq!(put(&host, "/models/iris/pipeline", pipeline).await.0, 200);
    assert_eq!(post(&host, "/models/iris/versions/3/load").await.0, 200);
    assert_eq!(serving(&host, ask()).await, "3");
}

#[tokio::test]
async fn what_the_weights_leave_out_does_not_answer_for_what_cannot_serve() {
    let store = tempfile::tempdir().unwrap();
    for (version, model) in [("1", b"no model".to_vec()), ("2", iris())] {
        let folder = store.path().join("models/iris").join(version);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("model.onnx"), model).unwrap();
    }
    std::fs::write(store.path().join("models/iris/model.toml"), "[traffic.weights]\n1 = 1\n").unwrap();
    let host = Host::start(store.path(), &[]).await;
    let (status, refused) = host.predict(ask()).await;
    assert_eq!(status, 503);
    assert!(error_message(&refused).contains("not an ONNX model"), "{refused}");
    assert_eq!(serving(&host, json!({ "model_id": "iris", "version": "2", "features": [1, 2, 3, 4] })).await, "2");
    assert_eq!(delete(&host, "/models/iris/traffic").await.0, 200);
    assert_eq!(serving(&host, ask()).await, "2");
}

#[tokio::test]
async fn what_is_set_for_a_model_goes_with_its_last_version() {
    let (host, store) = Host::with_iris(&[]).await;
    assert_eq!(post(&host, "/models/iris/versions/1/unload").await.0, 200);
    assert!(store.path().join("models/iris/model.toml").exists());
    assert_eq!(delete(&host, "/models/iris/versions/1").await.0, 200);
    assert!(!store.path().join("models/iris").exists());
    assert_eq!(host.upload("iris", "1", iris()).await.0, 201);
    assert_eq!(serving(&host, ask()).await, "1");
}

#[tokio::test]
async fn many_cold_models_asked_for_at_once_share_the_memory_there_is() {
    let store = tempfile::tempdir().unwrap();
    let ids = ["a", "b", "c", "d", "e", "f"];
    for id in ids {
        let folder = store.path().join(format!("models/{id}/1"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("model.onnx"), iris()).unwrap();
    }
    let first = Host::start(store.path(), &[]).await;
    let mut largest = 0;
    for id in ids {
        let (_, info) = get(&first, &format!("/models/info?id={id}")).await;
        largest = largest.max(info["info"]["memory"]["bytes"].as_u64().unwrap());
    }
    drop(first);
    let limit = largest * 2;
    let host = Host::start(store.path(), &["--max-loaded-bytes", &limit.to_string()]).await;
    let asked = ids.map(|id| host.predict(json!({ "model_id": id, "features": [5.1, 3.5, 1.4, 0.2] })));
    for (status, answered) in futures_util::future::join_all(asked).await {
        assert_eq!(status, 200, "{answered}");
    }
    let mut loaded = 0.0;
    for id in ids {
        let memory = format!("nexus_model_memory_bytes{{model=\"{id}\",version=\"1\"}}");
        loaded += host.metric(&memory).await.unwrap_or_default();
    }
    assert!(loaded > 0.0 && loaded <= limit as f64, "{loaded} of {limit}");
}

#[tokio::test]
async fn a_triton_repository_takes_no_model_by_the_name_of_the_hosts_own_folders() {
    let store = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(store.path().join("flowers/1")).unwrap();
    std::fs::write(store.path().join("flowers/1/model.onnx"), iris()).unwrap();
    let host = Host::start(store.path(), &[]).await;
    for id in ["models", "plugins"] {
        let (status, refused) = host.upload(id, "1", iris()).await;
        assert_eq!(status, 400);
        assert!(error_message(&refused).contains("give the model another id"), "{refused}");
    }
    assert_eq!(host.upload("roses", "1", iris()).await.0, 201);
    let again = Host::start(store.path(), &[]).await;
    for id in ["flowers", "roses"] {
        assert_eq!(serving(&again, json!({ "model_id": id, "features": [1, 2, 3, 4] })).await, "1");
    }
}

#[tokio::test]
async fn a_model_whose_configuration_is_damaged_does_not_serve_without_it() {
    let (host, store) = Host::with_iris(&[]).await;
    assert_eq!(host.upload("iris", "2", zipmap()).await.0, 201);
    assert_eq!(put(&host, "/models/iris/traffic", json!({ "default": "1" })).await.0, 200);
    let file = store.path().join("models/iris/model.toml");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, "[traffic").unwrap();
    let again = Host::start(store.path(), &["--store-poll", "50ms"]).await;
    let (status, refused) = again.predict(ask()).await;
    assert_eq!(status, 503);
    assert!(error_message(&refused).contains("model.toml is not readable"), "{refused}");
    std::fs::write(&file, whole).unwrap();
    until("it is readable again", async || again.predict(ask()).await.0 == 200).await;
    assert_eq!(serving(&again, ask()).await, "1");
}
