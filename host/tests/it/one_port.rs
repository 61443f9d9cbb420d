//! The real binary's connections: HTTP/1 and HTTP/2 on one port, gRPC on one of its own, and both end well.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use model_nexus::grpc::proto::grpc_inference_service_client::GrpcInferenceServiceClient;
use model_nexus::grpc::proto::{ServerLiveRequest, ServerReadyRequest};
use tonic::Code;

use crate::binary::{Process, client};
use crate::grpc::{channel, iris_request};
use crate::support::store_with_iris;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[tokio::test]
async fn rest_and_grpc_share_a_port_and_grpc_has_one_of_its_own() {
    let store = store_with_iris();
    let options = ["--listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0"];
    let mut process = Process::start(store.path(), &options, &[], store.path());
    let own = process.wait_for("listening for gRPC alone")["address"].as_str().unwrap().to_owned();
    for url in [process.url(""), format!("http://{own}")] {
        let mut client = GrpcInferenceServiceClient::new(channel(&url).await);
        let answer = client.model_infer(iris_request()).await.unwrap();
        assert_eq!(answer.metadata().get("x-model-id").unwrap(), "iris");
    }
    assert_eq!(client().get(process.url("/health")).send().await.unwrap().status(), 200);
    let h2c = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let response = h2c.get(process.url("/v2/models/iris")).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, reqwest::Version::HTTP_2));
    assert_eq!(h2c.get(format!("http://{own}/health")).send().await.unwrap().status(), 404);
    let line = process.wait_for("request");
    assert_eq!(line["endpoint"], "/inference.GRPCInferenceService/ModelInfer", "{line}");
    assert_eq!((line["status"].as_u64(), line["model"].as_str()), (Some(200), Some("iris")), "{line}");
}

#[tokio::test]
async fn one_place_for_connections_serves_both_ports() {
    let store = store_with_iris();
    let options = ["--listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0", "--max-connections", "1"];
    let mut process = Process::start(store.path(), &options, &[], store.path());
    let own = process.wait_for("listening for gRPC alone")["address"].as_str().unwrap().to_owned();
    let turns = async {
        for _ in 0..3 {
            let once = client().get(process.url("/health")).header("connection", "close");
            assert_eq!(once.send().await.unwrap().status(), 200);
        }
        for _ in 0..3 {
            let mut client = GrpcInferenceServiceClient::new(channel(&format!("http://{own}")).await);
            client.server_live(ServerLiveRequest {}).await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), turns).await.expect("each port is served in its turn");
}

#[tokio::test]
async fn who_sends_nothing_or_half_of_what_begins_http2_is_cut_off() {
    let store = store_with_iris();
    let options = ["--listen", "127.0.0.1:0", "--idle-timeout", "300ms", "--max-connections", "4"];
    let process = Process::start(store.path(), &options, &[], store.path());
    let mut streams: Vec<TcpStream> = [&b""[..], b"P", &PREFACE[..14], PREFACE]
        .into_iter()
        .map(|first| {
            let mut stream = TcpStream::connect(&process.address).unwrap();
            stream.write_all(first).unwrap();
            stream
        })
        .collect();
    // All places are taken; the request is served as soon as one is given back.
    assert_eq!(client().get(process.url("/health")).send().await.unwrap().status(), 200);
    for stream in &mut streams {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // HTTP/2 has settings and pings to send before it gives up.
        stream.read_to_end(&mut Vec::new()).ok();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    }
}

#[tokio::test]
async fn an_answer_over_http2_that_nobody_takes_ends_its_connection() {
    let store = store_with_iris();
    let options = ["--listen", "127.0.0.1:0", "--body-idle-timeout", "300ms", "--max-connections", "1"];
    let process = Process::start(store.path(), &options, &[], store.path());
    let without_a_window =
        reqwest::Client::builder().no_proxy().http2_prior_knowledge().http2_initial_stream_window_size(0);
    let asked = without_a_window.build().unwrap().get(process.url("/models")).send().await.unwrap();
    assert_eq!(asked.status(), 200);
    let taken = tokio::time::timeout(Duration::from_secs(30), asked.bytes()).await;
    assert!(taken.expect("the connection ends").is_err());
    // Its place is free.
    assert_eq!(client().get(process.url("/health")).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_connection_that_only_answers_pings_gives_its_place_back_and_streams_on_it_go_on() {
    let store = store_with_iris();
    let options = ["--listen", "127.0.0.1:0", "--idle-timeout", "2s", "--max-connections", "1"];
    let process = Process::start(store.path(), &options, &[], store.path());
    let mut client = GrpcInferenceServiceClient::new(channel(&process.url("")).await);
    let (requests, open) = tokio::sync::mpsc::channel(1);
    requests.send(iris_request()).await.unwrap();
    let open = futures_util::stream::unfold(open, |mut open| async { Some((open.recv().await?, open)) });
    let mut answers = client.model_stream_infer(open).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
    // Longer than a connection may be silent.
    tokio::time::sleep(Duration::from_secs(5)).await;
    requests.send(iris_request()).await.unwrap();
    assert!(answers.message().await.unwrap().is_some());
    drop(requests);
    assert!(answers.message().await.unwrap().is_none());
    // The place is free, though the client still has the connection.
    let waiting = crate::binary::client().get(process.url("/health")).send();
    let waiting = tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap();
    assert_eq!(waiting.unwrap().status(), 200);
    drop(client);
}

#[tokio::test]
async fn sigterm_ends_streams_and_idle_connections_and_the_exit_is_0() {
    let store = store_with_iris();
    let options = ["--listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0", "--drain-timeout", "30s"];
    let mut process = Process::start(store.path(), &options, &[], store.path());
    let own = process.wait_for("listening for gRPC alone")["address"].as_str().unwrap().to_owned();
    let _silent = TcpStream::connect(&process.address).unwrap();
    let mut half = TcpStream::connect(&process.address).unwrap();
    half.write_all(&PREFACE[..10]).unwrap();
    let mut streams = Vec::new();
    for url in [process.url(""), format!("http://{own}")] {
        let mut client = GrpcInferenceServiceClient::new(channel(&url).await);
        let open = futures_util::StreamExt::chain(tokio_stream::iter([iris_request()]), tokio_stream::pending());
        let mut answers = client.model_stream_infer(open).await.unwrap().into_inner();
        assert!(answers.message().await.unwrap().is_some());
        assert!(client.server_live(ServerLiveRequest {}).await.unwrap().into_inner().live);
        assert!(client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
        streams.push((client, answers));
    }
    process.terminate();
    for (_, answers) in &mut streams {
        assert_eq!(answers.message().await.unwrap_err().code(), Code::Unavailable);
    }
    // The connections' clients take part in their end, in this thread.
    let ended = loop {
        match process.child.try_wait().unwrap() {
            Some(ended) => break ended,
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    assert_eq!(ended.code(), Some(0));
    process.wait_for("drained: every request ended");
}
