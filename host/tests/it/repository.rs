//! Models loaded and unloaded as clients of the Open Inference Protocol do it: what they may bring, what is the same as what
//! is there, whose place it takes, and when a model says that it is ready.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt;
use model_nexus::error::{Error, ErrorCode};
use model_nexus::grpc::proto::{ModelReadyRequest, RepositoryModelLoadRequest, RepositoryModelUnloadRequest};
use model_nexus::model::{Entry, State};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::grpc::{channel, client};
use crate::onnx_file::{self, external_weight, model, node, value};
use crate::support::{Host, answer, error_message, iris, until};

async fn post(host: &Host, path: &str, body: Value) -> (u16, Value) {
    answer(host.post(&format!("/v2/repository/{path}"), body).await).await
}

/// A load that brings files along.
async fn bring(host: &Host, id: &str, files: &[(&str, &[u8])]) -> (u16, Value) {
    let files = files.iter().map(|(path, content)| (format!("file:{path}"), json!(STANDARD.encode(content))));
    let parameters: serde_json::Map<String, Value> = files.collect();
    post(host, &format!("models/{id}/load"), json!({ "parameters": parameters })).await
}

fn iris_entry() -> Entry {
    Entry { id: "iris".to_owned(), version: "1".to_owned() }
}

/// iris loads from now on, until the test lets it end: what tells that somebody waits for it, and what ends it.
fn hold_loading(host: &Host) -> (oneshot::Receiver<()>, oneshot::Sender<()>) {
    let (waits, waited_for) = oneshot::channel();
    let (release, released) = oneshot::channel();
    let registry = &host.app.models.registry;
    registry.change(&iris_entry(), |_| Some(State::Cold));
    let load = async move {
        waits.send(()).ok();
        released.await.ok();
        Err(Error::new(ErrorCode::NotReady, "the test let it end"))
    };
    drop(registry.loading(&iris_entry(), |_| load.boxed().shared()).unwrap());
    (waited_for, release)
}

#[tokio::test]
async fn a_load_keeps_its_place_when_its_client_goes_away() {
    let (host, _store) = Host::with_iris(&["--max-uploads", "1", "--store-poll", "0s"]).await;
    let (waited_for, release) = hold_loading(&host);
    let mut client = client(&host).await;
    let load = RepositoryModelLoadRequest { model_name: "iris".to_owned(), ..Default::default() };
    let call = tokio::spawn(async move { client.repository_model_load(load).await });
    waited_for.await.unwrap();
    call.abort();
    let path = "/inference.GRPCInferenceService/RepositoryModelLoad";
    let gone = format!("http_requests_total{{endpoint=\"{path}\",method=\"POST\",status=\"499\"}}");
    until("the call is counted as left", async || host.metric(&gone).await == Some(1.0)).await;
    assert!(host.app.admit_upload().is_err(), "the load goes on, and somebody else has its place");
    release.send(()).unwrap();
    until("its place is free", async || host.app.admit_upload().is_ok()).await;
}

#[tokio::test]
async fn loads_and_unloads_have_places_among_the_uploads() {
    let (host, _store) = Host::with_iris(&["--max-uploads", "1"]).await;
    let mut client = client(&host).await;
    let place = host.app.admit_upload().unwrap();
    for path in ["models/iris/load", "models/iris/unload"] {
        let (status, refused) = post(&host, path, json!({})).await;
        assert_eq!(status, 503, "{path}: {refused}");
        assert!(error_message(&refused).contains("--max-uploads"), "{refused}");
    }
    let load = RepositoryModelLoadRequest { model_name: "iris".to_owned(), ..Default::default() };
    let unload = RepositoryModelUnloadRequest { model_name: "iris".to_owned(), ..Default::default() };
    assert_eq!(client.repository_model_load(load.clone()).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(client.repository_model_unload(unload.clone()).await.unwrap_err().code(), Code::Unavailable);
    drop(place);
    client.repository_model_unload(unload).await.unwrap();
    client.repository_model_load(load).await.unwrap();
    host.assert_serves().await;
}

#[tokio::test]
async fn a_load_brings_no_more_than_an_upload_may() {
    let options = ["--max-model-files", "1", "--max-labels-bytes", "16B", "--max-upload-bytes", "2KiB"];
    let (host, _store) = Host::with_iris(&options).await;
    let (iris, large) = (&iris()[..], &[0; 3 << 10][..]);
    let labels: &[u8] = br#"["setosa", "versicolor"]"#;
    for (files, option) in [
        (&[("1/model.onnx", iris), ("1/a.bin", b"a"), ("1/b.bin", b"b")][..], "--max-model-files"),
        (&[("1/model.onnx", iris), ("1/labels.json", labels)][..], "--max-labels-bytes"),
        (&[("1/model.onnx", large)][..], "--max-upload-bytes"),
    ] {
        let (status, refused) = bring(&host, "rose", files).await;
        assert_eq!(status, 413, "{refused}");
        assert!(error_message(&refused).contains(option), "{refused}");
    }
    let within: [(&str, &[u8]); 2] = [("1/model.onnx", iris), ("1/labels.json", br#"["a", "b", "c"]"#)];
    assert_eq!(bring(&host, "rose", &within).await, (200, json!({})));
}

#[tokio::test]
async fn what_a_load_brings_is_the_same_only_with_the_same_labels_and_files() {
    let (host, _store) = Host::with_iris(&[]).await;
    let (iris, labels) = (iris(), br#"["a", "b", "c"]"#);
    let with = |labels: &'static [u8]| [("1/model.onnx", iris.clone()), ("1/labels.json", labels.to_vec())];
    let bring = async |id: &str, files: &[(&str, Vec<u8>)]| {
        let files: Vec<(&str, &[u8])> = files.iter().map(|(path, content)| (*path, &content[..])).collect();
        bring(&host, id, &files).await
    };
    assert_eq!(bring("rose", &with(labels)).await.0, 200);
    assert_eq!(bring("rose", &with(labels)).await.0, 200);
    for other in [&with(br#"["a", "b", "d"]"#)[..], &with(labels)[..1]] {
        let (status, refused) = bring("rose", other).await;
        assert_eq!(status, 409, "{refused}");
        assert!(error_message(&refused).contains("version 1 already, which differs in labels.json"), "{refused}");
    }

    let weights = vec![external_weight("w", &[2], "w.bin", 0)];
    let nodes = vec![node("Add", &["x", "w"], &["y"])];
    let adds = model(nodes, weights, vec![value("x", 1, &[2])], vec![value("y", 1, &[2])]);
    let with = |weight: f32| [("1/model.onnx", adds.clone()), ("1/w.bin", [weight; 2].map(f32::to_le_bytes).concat())];
    assert_eq!(bring("adds", &with(1.0)).await, (200, json!({})));
    assert_eq!(bring("adds", &with(1.0)).await.0, 200);
    let (status, refused) = bring("adds", &with(2.0)).await;
    assert_eq!(status, 409, "{refused}");
    assert!(error_message(&refused).contains("differs in w.bin"), "{refused}");
    let other = [("1/model.onnx", onnx_file::add()), ("1/w.bin", with(1.0)[1].1.clone())];
    assert!(error_message(&bring("adds", &other).await.1).contains("differs in model.onnx"));
}

#[tokio::test]
async fn a_load_finds_a_new_version_of_a_model_that_is_there() {
    let (host, store) = Host::with_iris(&["--store-poll", "0s"]).await;
    let inputs = json!([{ "name": "X", "datatype": "FP32", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2] }]);
    let serving = async || {
        let (status, answer) = answer(host.post("/v2/models/iris/infer", json!({ "inputs": inputs })).await).await;
        assert_eq!(status, 200, "{answer}");
        answer["model_version"].clone()
    };
    assert_eq!(serving().await, "1");
    let folder = store.path().join("models/iris/2");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("model.onnx"), iris()).unwrap();
    assert_eq!(post(&host, "models/iris/load", json!({})).await, (200, json!({})));
    assert_eq!(serving().await, "2");

    let broken = store.path().join("models/iris/3");
    std::fs::create_dir_all(&broken).unwrap();
    std::fs::write(broken.join("model.onnx"), b"no model").unwrap();
    let (status, refused) = post(&host, "models/iris/load", json!({})).await;
    assert_eq!(status, 503, "{refused}");
    assert!(error_message(&refused).contains("version 3 cannot serve"), "{refused}");
    assert_eq!(serving().await, "2");
}

/// What each way of asking says of iris: whether it is ready, over REST and gRPC, and its state and whether the index has it
/// among those that are ready.
async fn said_of_iris(host: &Host) -> (u16, bool, String, bool) {
    let status = host.get("/v2/models/iris/ready").await.status().as_u16();
    let asked = ModelReadyRequest { name: "iris".to_owned(), version: String::new() };
    let ready = client(host).await.model_ready(asked).await.unwrap().into_inner().ready;
    let (_, index) = post(host, "index", json!({})).await;
    let (_, only_ready) = post(host, "index", json!({ "ready": true })).await;
    (status, ready, index[0]["state"].as_str().unwrap().to_owned(), only_ready != json!([]))
}

#[tokio::test]
async fn a_model_is_ready_when_the_index_says_so() {
    let (host, _store) = Host::with_iris(&[]).await;
    assert_eq!(said_of_iris(&host).await, (200, true, "READY".to_owned(), true));
    let held = hold_loading(&host);
    assert_eq!(said_of_iris(&host).await, (503, false, "LOADING".to_owned(), false));
    let (_, refused) = answer(host.get("/v2/models/iris/ready").await).await;
    assert!(error_message(&refused).contains("model iris, version 1 is loading"), "{refused}");
    drop(held);
    // One that another took its memory from is loaded when it is asked for.
    host.app.models.registry.change(&iris_entry(), |_| Some(State::Cold));
    assert_eq!(said_of_iris(&host).await, (200, true, "READY".to_owned(), true));

    let (host, _store) = Host::with_iris(&["--max-loaded-bytes", "1KiB"]).await;
    assert_eq!(said_of_iris(&host).await, (503, false, "UNAVAILABLE".to_owned(), false));
    let (_, index) = post(&host, "index", json!({})).await;
    assert!(index[0]["reason"].as_str().unwrap().contains("--max-loaded-bytes"), "{index}");
}

#[tokio::test]
async fn who_watches_a_models_health_is_told_when_it_changes() {
    let (host, _store) = Host::with_iris(&["--max-predictions", "1"]).await;
    let mut health = HealthClient::new(channel(&host.url).await);
    let iris = || HealthCheckRequest { service: "iris".to_owned() };
    let mut watched = health.watch(iris()).await.unwrap().into_inner();
    let mut next = async || {
        let said = tokio::time::timeout(Duration::from_secs(30), watched.message()).await.expect("nothing is said");
        said.unwrap().map(|said| said.status)
    };
    assert_eq!(next().await, Some(1));
    assert_eq!(post(&host, "models/iris/unload", json!({})).await.0, 200);
    assert_eq!(next().await, Some(2));
    // It has the place of a stream.
    assert_eq!(health.watch(iris()).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(post(&host, "models/iris/load", json!({})).await.0, 200);
    assert_eq!(next().await, Some(1));
    host.app.begin_draining();
    assert_eq!(next().await, Some(2));
    assert_eq!(next().await, None);
}
