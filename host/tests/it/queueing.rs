//! Requests that wait for a model of a running host: the urgent first, no more than there is room for, and none whose client
//! left.

use std::pin::Pin;
use std::time::Duration;

use model_nexus::grpc::proto::InferParameter;
use model_nexus::grpc::proto::infer_parameter::ParameterChoice;
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::grpc::{bytes_of, client, input, request};
use crate::onnx_file;
use crate::support::{Host, answer, error_message, until};

/// Trips of a run that somebody has to end.
const ENDLESS: u64 = 1 << 60;

/// A host with one worker, and a model whose runs are as long as their requests say.
async fn host_with_loop(options: &[&str]) -> (Host, tempfile::TempDir) {
    let store = tempfile::tempdir().unwrap();
    let fixed = ["--predict-timeout", "1h", "--cache-bytes", "0"];
    let host = Host::start(store.path(), &[&fixed[..], options].concat()).await;
    let (status, uploaded) = host.upload("loop", "1", onnx_file::counting_loop()).await;
    assert_eq!(status, 201, "{uploaded}");
    (host, store)
}

fn predict(host: &Host, trips: u64) -> RequestBuilder {
    let body = json!({ "model_id": "loop", "inputs": { "trips": trips, "x": [0.5] } });
    host.client.post(format!("{}/predict", host.url)).json(&body)
}

fn infer(host: &Host, trips: u64, parameters: Value) -> RequestBuilder {
    let trips = json!({ "name": "trips", "shape": [], "datatype": "INT64", "data": [trips] });
    let x = json!({ "name": "x", "shape": [1], "datatype": "FP32", "data": [0.5] });
    let body = json!({ "inputs": [trips, x], "parameters": parameters });
    host.client.post(format!("{}/v2/models/loop/infer", host.url)).json(&body)
}

/// Sends it. To abort what comes of this is to be a client that leaves.
fn send(request: RequestBuilder) -> JoinHandle<Response> {
    tokio::spawn(async move { request.send().await.unwrap() })
}

async fn leave(client: JoinHandle<Response>) {
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
}

/// Waits until the one worker runs something or nothing, and so many requests wait for it.
async fn until_there(host: &Host, busy: usize, waiting: usize) {
    let workers = host.workers("loop");
    let what = format!("{busy} run and {waiting} wait");
    until(&what, async || (workers.busy(), workers.waiting()) == (busy, waiting)).await;
}

/// An endless run, so that what is asked next waits.
async fn occupy(host: &Host) -> JoinHandle<Response> {
    until_there(host, 0, 0).await;
    let busy = send(predict(host, ENDLESS));
    until_there(host, 1, 0).await;
    busy
}

type Asked = Pin<Box<dyn Future<Output = ()> + Send>>;

fn ends_well(request: RequestBuilder) -> Asked {
    Box::pin(async move { assert_eq!(request.send().await.unwrap().status(), 200) })
}

/// An urgent request over gRPC.
async fn urgent_call(host: &Host) -> Asked {
    let mut client = client(host).await;
    let trips = (input("trips", "INT64", &[]), 3i64.to_le_bytes().to_vec().into());
    let mut urgent = request("loop", &[trips, (input("x", "FP32", &[1]), bytes_of(&[0.5]))]);
    let high = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(1)) };
    urgent.parameters.insert("priority".to_owned(), high);
    Box::pin(async move { drop(client.model_infer(urgent).await.unwrap()) })
}

#[tokio::test]
async fn urgent_requests_go_first_over_every_protocol() {
    let (host, _store) = host_with_loop(&[]).await;
    for urgent in [
        ends_well(predict(&host, 3).header("x-priority", "high")),
        ends_well(infer(&host, 3, json!({})).header("x-priority", "1")),
        ends_well(infer(&host, 3, json!({ "priority": 1 }))),
        urgent_call(&host).await,
    ] {
        let busy = occupy(&host).await;
        let normal = send(predict(&host, ENDLESS));
        until_there(&host, 1, 1).await;
        let urgent = tokio::spawn(urgent);
        until_there(&host, 1, 2).await;
        leave(busy).await;
        // The other one came first and has no end: behind it there would be no answer.
        tokio::time::timeout(Duration::from_secs(60), urgent).await.unwrap().unwrap();
        until_there(&host, 1, 0).await;
        assert!(!normal.is_finished());
        leave(normal).await;
    }
}

#[tokio::test]
async fn a_full_queue_is_503_and_says_when_to_ask_again() {
    let (host, _store) = host_with_loop(&["--queue-capacity", "1"]).await;
    let busy = occupy(&host).await;
    let waits = send(predict(&host, 3));
    until_there(&host, 1, 1).await;
    for request in [predict(&host, 3), infer(&host, 3, json!({}))] {
        let refused = request.send().await.unwrap();
        assert_eq!(refused.headers()["retry-after"], "1");
        let (status, refused) = answer(refused).await;
        assert_eq!((status, &refused["code"]), (503, &json!("overloaded")), "{refused}");
        assert!(error_message(&refused).contains("--queue-capacity"), "{refused}");
    }
    leave(busy).await;
    assert_eq!(waits.await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_along_whether_it_runs_or_waits() {
    let (host, _store) = host_with_loop(&[]).await;
    let workers = host.workers("loop");
    let busy = occupy(&host).await;
    let (left, stays) = (send(predict(&host, ENDLESS)), send(predict(&host, 3)));
    until_there(&host, 1, 2).await;
    leave(left).await;
    leave(busy).await;
    assert_eq!(stays.await.unwrap().status(), 200);
    until_there(&host, 0, 0).await;
    assert_eq!(workers.statistics.executions(), 1, "the others' runs came to no end of their own");
}

#[tokio::test]
async fn rows_of_a_file_that_wait_for_room_are_no_predictions_that_failed() {
    let (host, _store) = host_with_loop(&["--queue-capacity", "1"]).await;
    let busy = occupy(&host).await;
    let waits = send(predict(&host, 1));
    until_there(&host, 1, 1).await;
    let rows = "{\"trips\": 2, \"x\": 0.5}\n".repeat(3);
    let file =
        host.client.post(format!("{}/models/loop/batch", host.url)).header("content-type", "application/x-ndjson");
    let answers = file.body(rows).send().await.unwrap();
    // Time enough for the job to come to its first row.
    for _ in 0..10 {
        assert_eq!(host.get("/health").await.status(), 200);
    }
    leave(busy).await;
    assert_eq!(waits.await.unwrap().status(), 200);
    let answers = answers.text().await.unwrap();
    let answers: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(answers.len() == 3 && answers.iter().all(|answer| answer["prediction"] == json!(2.5)), "{answers:?}");
    assert_eq!(host.metric(r#"model_predictions_total{model="loop",status="overloaded",version="1"}"#).await, None);
}
