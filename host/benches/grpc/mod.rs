//! Load over gRPC, and the least that a server of the same messages does.

use std::time::{Duration, Instant};

use model_nexus::grpc::proto::grpc_inference_service_client::GrpcInferenceServiceClient;
use model_nexus::grpc::proto::model_infer_request::InferInputTensor;
use model_nexus::grpc::proto::model_infer_response::InferOutputTensor;
use model_nexus::grpc::proto::{ModelInferRequest, ModelInferResponse};
use tonic::transport::Endpoint;

use crate::load::Measured;

pub fn request(model: &str, input: &str, shape: &[usize], values: &[f32]) -> ModelInferRequest {
    let elements: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = InferInputTensor {
        name: input.into(),
        datatype: "FP32".into(),
        shape: shape.iter().map(|&size| size as i64).collect(),
        ..InferInputTensor::default()
    };
    ModelInferRequest {
        model_name: model.into(),
        inputs: vec![tensor],
        raw_input_contents: vec![elements.into()],
        ..ModelInferRequest::default()
    }
}

/// Sends on that many streams of each connection, after a second that does not count.
pub fn measure(
    address: &str,
    request: &ModelInferRequest,
    connections: usize,
    streams: usize,
    duration: Duration,
) -> Measured {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut clients = Vec::new();
        for _ in 0..connections {
            let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
            clients.push(GrpcInferenceServiceClient::new(channel).max_decoding_message_size(usize::MAX));
        }
        let rounds = [Duration::from_secs(1), duration];
        let mut measured = None;
        for round in rounds {
            let started = Instant::now();
            let tasks: Vec<_> = clients
                .iter()
                .flat_map(|client| std::iter::repeat_n(client, streams))
                .map(|client| tokio::spawn(send(client.clone(), request.clone(), started + round)))
                .collect();
            let mut latencies = Vec::new();
            for task in tasks {
                latencies.extend(task.await.unwrap());
            }
            measured = Some(Measured::of(latencies, started.elapsed()));
        }
        measured.unwrap()
    })
}

async fn send(
    mut client: GrpcInferenceServiceClient<tonic::transport::Channel>,
    request: ModelInferRequest,
    until: Instant,
) -> Vec<Duration> {
    let mut latencies = Vec::new();
    while Instant::now() < until {
        let sent = Instant::now();
        let mut asked = tonic::Request::new(request.clone());
        asked.metadata_mut().insert("cache-control", "no-cache".parse().unwrap());
        client.model_infer(asked).await.unwrap();
        latencies.push(sent.elapsed());
    }
    latencies
}

/// What iris answers, whatever came.
pub fn answer(request: ModelInferRequest) -> ModelInferResponse {
    let output = |name: &str, datatype: &str, shape: Vec<i64>| InferOutputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape,
        ..InferOutputTensor::default()
    };
    ModelInferResponse {
        model_name: request.model_name,
        model_version: "1".into(),
        id: request.id,
        outputs: vec![output("label", "INT64", vec![1]), output("probabilities", "FP32", vec![1, 3])],
        raw_output_contents: vec![vec![0; 8].into(), vec![0; 12].into()],
        ..ModelInferResponse::default()
    }
}
