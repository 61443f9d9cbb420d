//! The Open Inference Protocol over gRPC, asked by tonic's client.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use model_nexus::grpc::proto::grpc_inference_service_client::GrpcInferenceServiceClient;
use model_nexus::grpc::proto::infer_parameter::ParameterChoice;
use model_nexus::grpc::proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use model_nexus::grpc::proto::model_repository_parameter::ParameterChoice as RepositoryChoice;
use model_nexus::grpc::proto::*;
use serde_json::{Value, json};
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::onnx_file;
use crate::support::{Host, answer, bundle, fixture, iris, until};

pub type Client = GrpcInferenceServiceClient<Channel>;

pub async fn channel(url: &str) -> Channel {
    Channel::from_shared(url.to_owned()).unwrap().connect().await.unwrap()
}

pub async fn client(host: &Host) -> Client {
    GrpcInferenceServiceClient::new(channel(&host.url).await).max_decoding_message_size(64 << 20)
}

pub fn bytes_of(values: &[f32]) -> Bytes {
    values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
}

pub fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    let (name, datatype) = (name.to_owned(), datatype.to_owned());
    InferInputTensor { name, datatype, shape: shape.to_vec(), ..InferInputTensor::default() }
}

pub fn request(model: &str, inputs: &[(InferInputTensor, Bytes)]) -> ModelInferRequest {
    let (inputs, raw_input_contents) = inputs.iter().cloned().unzip();
    ModelInferRequest { model_name: model.to_owned(), inputs, raw_input_contents, ..ModelInferRequest::default() }
}

pub fn iris_request() -> ModelInferRequest {
    request("iris", &[(input("X", "FP32", &[1, 4]), bytes_of(&[5.1, 3.5, 1.4, 0.2]))])
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

fn output(name: &str, parameters: &[(&str, ParameterChoice)]) -> InferRequestedOutputTensor {
    let parameters = parameters.iter().map(|(name, choice)| ((*name).to_owned(), parameter(choice.clone())));
    InferRequestedOutputTensor { name: name.to_owned(), parameters: parameters.collect() }
}

fn texts(raw: &Bytes) -> Vec<String> {
    let (mut rest, mut texts) = (&raw[..], Vec::new());
    while let Some((length, tail)) = rest.split_first_chunk() {
        let (text, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
        texts.push(String::from_utf8(text.to_vec()).unwrap());
        rest = tail;
    }
    texts
}

#[tokio::test]
async fn server_and_models_say_what_they_are() {
    let (host, _store) = Host::with_iris(&[]).await;
    let mut client = client(&host).await;
    assert!(client.server_live(ServerLiveRequest {}).await.unwrap().into_inner().live);
    assert!(client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    let server = client.server_metadata(ServerMetadataRequest {}).await.unwrap().into_inner();
    assert_eq!(server.name, "model-nexus");
    assert!(server.extensions.iter().any(|extension| extension == "statistics"), "{server:?}");
    for (name, version, ready) in [("iris", "", true), ("iris", "1", true), ("iris", "9", false), ("lily", "", false)] {
        let asked = ModelReadyRequest { name: name.to_owned(), version: version.to_owned() };
        assert_eq!(client.model_ready(asked).await.unwrap().into_inner().ready, ready, "{name} {version}");
    }
    let asked = ModelMetadataRequest { name: "iris".to_owned(), version: String::new() };
    let metadata = client.model_metadata(asked).await.unwrap().into_inner();
    assert_eq!((&*metadata.platform, &metadata.versions[..]), ("onnxruntime_onnx", &["1".to_owned()][..]));
    let input = &metadata.inputs[0];
    assert_eq!((&*input.name, &*input.datatype, &input.shape[..]), ("X", "FP32", &[-1, 4][..]));
    assert_eq!(metadata.outputs.len(), 2);
    let asked = ModelMetadataRequest { name: "lily".to_owned(), version: String::new() };
    assert_eq!(client.model_metadata(asked).await.unwrap_err().code(), Code::NotFound);

    let asked = ModelConfigRequest { name: "iris".to_owned(), version: "1".to_owned() };
    let config = client.model_config(asked).await.unwrap().into_inner().config.unwrap();
    assert_eq!((&*config.backend, config.max_batch_size), ("onnxruntime", 0));
    assert_eq!((config.input[0].data_type(), &config.input[0].dims[..]), (DataType::TypeFp32, &[-1, 4][..]));
    assert_eq!(config.output[0].data_type(), DataType::TypeInt64);
    let group = &config.instance_group[0];
    assert_eq!((group.kind(), group.count, &group.gpus[..]), (model_instance_group::Kind::Cpu, 1, &[][..]));
    assert_eq!(config.parameters["execution_provider"].string_value, "cpu");
}

#[tokio::test]
async fn a_request_is_answered_in_raw_contents_with_its_id_and_headers() {
    let (host, _store) = Host::with_iris(&[]).await;
    let mut client = client(&host).await;
    let mut asked = tonic::Request::new(ModelInferRequest { id: "42".to_owned(), ..iris_request() });
    asked.metadata_mut().insert("x-request-id", "call-7".parse().unwrap());
    let answer = client.model_infer(asked).await.unwrap();
    for (name, value) in [("x-request-id", "call-7"), ("x-model-id", "iris"), ("x-model-version", "1")] {
        assert_eq!(answer.metadata().get(name).unwrap(), value);
    }
    let answer = answer.into_inner();
    assert_eq!((&*answer.id, &*answer.model_name, &*answer.model_version), ("42", "iris", "1"));
    assert_eq!((&*answer.outputs[0].name, &answer.outputs[0].shape[..]), ("label", &[1][..]));
    assert_eq!(answer.raw_output_contents[0], 0i64.to_le_bytes()[..]);
    assert_eq!((&*answer.outputs[1].datatype, &answer.outputs[1].shape[..]), ("FP32", &[1, 3][..]));
    assert_eq!(answer.raw_output_contents[1].len(), 12);

    let classes = [("classification", ParameterChoice::Int64Param(2))];
    let outputs = vec![output("probabilities", &classes), output("label", &[])];
    let answer = client.model_infer(ModelInferRequest { outputs, ..iris_request() }).await.unwrap().into_inner();
    assert_eq!((&*answer.outputs[0].datatype, &answer.outputs[0].shape[..]), ("BYTES", &[1, 2][..]));
    let classes = texts(&answer.raw_output_contents[0]);
    assert!(classes[0].starts_with("0.") && classes[0].ends_with(":0") && classes[1].ends_with(":1"), "{classes:?}");
    assert_eq!(answer.raw_output_contents[1], 0i64.to_le_bytes()[..]);

    let metric = r#"model_predictions_total{model="iris",status="ok",version="1"}"#;
    assert_eq!(host.metric(metric).await, Some(2.0));
    let endpoint = "/inference.GRPCInferenceService/ModelInfer";
    let metric = format!("http_requests_total{{endpoint=\"{endpoint}\",method=\"POST\",status=\"200\"}}");
    assert_eq!(host.metric(&metric).await, Some(2.0));
}

#[tokio::test]
async fn every_datatype_comes_raw_and_in_the_field_it_has() {
    let (host, _store) = Host::with_iris(&[]).await;
    let mut client = client(&host).await;
    let contents = InferTensorContents::default;
    let cases: Vec<(i32, &str, Vec<u8>, Option<InferTensorContents>)> = vec![
        (9, "BOOL", vec![1, 0], Some(InferTensorContents { bool_contents: vec![true, false], ..contents() })),
        (3, "INT8", vec![0x80, 1], Some(InferTensorContents { int_contents: vec![-128, 1], ..contents() })),
        (5, "INT16", vec![0, 0x80, 1, 0], Some(InferTensorContents { int_contents: vec![-32768, 1], ..contents() })),
        (
            6,
            "INT32",
            [-7i32, 1].map(i32::to_le_bytes).concat(),
            Some(InferTensorContents { int_contents: vec![-7, 1], ..contents() }),
        ),
        (
            7,
            "INT64",
            [i64::MIN, 1].map(i64::to_le_bytes).concat(),
            Some(InferTensorContents { int64_contents: vec![i64::MIN, 1], ..contents() }),
        ),
        (2, "UINT8", vec![255, 1], Some(InferTensorContents { uint_contents: vec![255, 1], ..contents() })),
        (4, "UINT16", vec![255, 255, 1, 0], Some(InferTensorContents { uint_contents: vec![65535, 1], ..contents() })),
        (
            12,
            "UINT32",
            [u32::MAX, 1].map(u32::to_le_bytes).concat(),
            Some(InferTensorContents { uint_contents: vec![u32::MAX, 1], ..contents() }),
        ),
        (
            13,
            "UINT64",
            [u64::MAX, 1].map(u64::to_le_bytes).concat(),
            Some(InferTensorContents { uint64_contents: vec![u64::MAX, 1], ..contents() }),
        ),
        (
            1,
            "FP32",
            bytes_of(&[1.5, f32::INFINITY]).to_vec(),
            Some(InferTensorContents { fp32_contents: vec![1.5, f32::INFINITY], ..contents() }),
        ),
        (
            11,
            "FP64",
            [0.1f64, -1.0].map(f64::to_le_bytes).concat(),
            Some(InferTensorContents { fp64_contents: vec![0.1, -1.0], ..contents() }),
        ),
        (
            8,
            "BYTES",
            [&2u32.to_le_bytes()[..], "ä".as_bytes(), &0u32.to_le_bytes()].concat(),
            Some(InferTensorContents { bytes_contents: vec!["ä".into(), Bytes::new()], ..contents() }),
        ),
        (10, "FP16", vec![0, 0x3c, 0, 0xc0], None),
        (16, "BF16", vec![0x80, 0x3f, 0, 0xc0], None),
    ];
    for (onnx, datatype, raw, typed) in cases {
        let model = datatype.to_lowercase();
        assert_eq!(host.upload(&model, "1", onnx_file::identity(onnx, &[-1])).await.0, 201, "{datatype}");
        let by_bytes = request(&model, &[(input("x", datatype, &[2]), raw.clone().into())]);
        let answer = client.model_infer(by_bytes).await.unwrap().into_inner();
        assert_eq!((&*answer.outputs[0].datatype, &answer.outputs[0].shape[..]), (datatype, &[2][..]));
        assert_eq!(answer.raw_output_contents, [Bytes::from(raw.clone())], "{datatype}");
        let fields = InferInputTensor {
            contents: Some(
                typed.clone().unwrap_or(InferTensorContents { fp32_contents: vec![1.0, 2.0], ..contents() }),
            ),
            ..input("x", datatype, &[2])
        };
        let by_fields = ModelInferRequest { model_name: model, inputs: vec![fields], ..ModelInferRequest::default() };
        let answer = client.model_infer(by_fields).await;
        match typed {
            Some(_) => assert_eq!(answer.unwrap().into_inner().raw_output_contents, [Bytes::from(raw)], "{datatype}"),
            None => assert!(answer.unwrap_err().message().contains("raw_input_contents"), "{datatype}"),
        }
    }
}

#[tokio::test]
async fn what_is_no_request_is_told_why_with_the_requests_id() {
    let (host, _store) = Host::with_iris(&["--max-body-bytes", "5MiB"]).await;
    let mut client = client(&host).await;
    let typed = |contents: InferTensorContents| ModelInferRequest {
        inputs: vec![InferInputTensor { contents: Some(contents), ..input("X", "FP32", &[1, 4]) }],
        raw_input_contents: Vec::new(),
        ..iris_request()
    };
    let with_input = |input: InferInputTensor| ModelInferRequest { inputs: vec![input], ..iris_request() };
    let contents = InferTensorContents::default;
    let with_parameter = |name: &str, choice| ModelInferRequest {
        parameters: HashMap::from([(name.to_owned(), parameter(choice))]),
        ..iris_request()
    };
    for (asked, code, expected) in [
        (ModelInferRequest { model_name: "lily".into(), ..iris_request() }, Code::NotFound, "no model \"lily\""),
        (ModelInferRequest { model_version: "v9".into(), ..iris_request() }, Code::NotFound, "no version \"v9\""),
        (with_input(input("Y", "FP32", &[1, 4])), Code::InvalidArgument, "no input \"Y\""),
        (with_input(input("X", "FP64", &[1, 2])), Code::InvalidArgument, "expected FP32[·,4], got FP64[1,2]"),
        (with_input(input("X", "FLOAT", &[1, 4])), Code::InvalidArgument, "no datatype"),
        (with_input(input("X", "FP32", &[1, 5])), Code::InvalidArgument, "takes 20 bytes, 16 came"),
        (with_input(input("X", "FP32", &[4])), Code::InvalidArgument, "expected FP32[·,4], got FP32[4]"),
        (with_input(input("X", "FP32", &[-1, 4])), Code::InvalidArgument, "not negative"),
        (with_input(input("X", "FP32", &[1; 65])), Code::InvalidArgument, "has 65 axes; a tensor has 64 at most"),
        (request("iris", &[]), Code::InvalidArgument, "misses its input X"),
        (
            ModelInferRequest { raw_input_contents: vec![Bytes::new(); 2], ..iris_request() },
            Code::InvalidArgument,
            "has 2 tensors, and the inputs are 1: X",
        ),
        (
            ModelInferRequest { outputs: vec![output("color", &[])], ..iris_request() },
            Code::InvalidArgument,
            "no output \"color\"; its outputs: label, probabilities",
        ),
        (
            ModelInferRequest { outputs: vec![output("label", &[]), output("label", &[])], ..iris_request() },
            Code::InvalidArgument,
            "label is asked for twice",
        ),
        (typed(InferTensorContents { fp32_contents: vec![1.0; 3], ..contents() }), Code::InvalidArgument, "12 came"),
        (
            typed(InferTensorContents { fp64_contents: vec![1.0; 4], ..contents() }),
            Code::InvalidArgument,
            "`fp32_contents`",
        ),
        (
            ModelInferRequest {
                raw_input_contents: iris_request().raw_input_contents,
                ..typed(InferTensorContents { fp32_contents: vec![1.0; 4], ..contents() })
            },
            Code::InvalidArgument,
            "either `contents` or `raw_input_contents`",
        ),
        (with_parameter("timeout", ParameterChoice::StringParam("soon".into())), Code::InvalidArgument, "microseconds"),
        (with_parameter("timeout", ParameterChoice::Int64Param(1)), Code::DeadlineExceeded, "longer than"),
        (
            request("iris", &[(input("X", "FP32", &[400_000, 4]), vec![0; 6_400_000].into())]),
            Code::ResourceExhausted,
            "--max-body-bytes",
        ),
    ] {
        let about = format!("{:?} {:?}", asked.model_name, asked.inputs.first());
        let refused = client.model_infer(asked).await.unwrap_err();
        assert_eq!(refused.code(), code, "{about}: {refused:?}");
        assert!(refused.message().contains(expected), "{about}: {expected:?} is not in {refused:?}");
        assert!(refused.metadata().contains_key("x-request-id"), "{refused:?}");
    }
    // More than what tonic takes by default.
    let rows = request("iris", &[(input("X", "FP32", &[300_000, 4]), vec![0; 4_800_000].into())]);
    assert_eq!(client.model_infer(rows).await.unwrap().into_inner().outputs[0].shape, [300_000]);
    let path = "/inference.GRPCInferenceService/ModelInfer";
    let metric = format!("http_requests_total{{endpoint=\"{path}\",method=\"POST\",status=\"404\"}}");
    assert_eq!(host.metric(&metric).await, Some(2.0));
    host.assert_serves().await;
}

#[tokio::test]
async fn what_is_not_offered_is_unimplemented_and_what_is_overloaded_says_when_to_ask_again() {
    let (host, _store) = Host::with_iris(&["--max-predictions", "1"]).await;
    let mut client = client(&host).await;
    let refused = client.system_shared_memory_status(SystemSharedMemoryStatusRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("system shared memory is not offered"), "{refused:?}");
    assert_eq!(client.trace_setting(TraceSettingRequest {}).await.unwrap_err().code(), Code::Unimplemented);
    assert_eq!(client.log_settings(LogSettingsRequest {}).await.unwrap_err().code(), Code::Unimplemented);

    let place = host.app.admit_prediction().unwrap();
    let refused = client.model_infer(iris_request()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(refused.metadata().get("retry-after").unwrap(), "1");
    assert!(refused.message().contains("--max-predictions"), "{refused:?}");
    drop(place);
    assert!(client.model_infer(iris_request()).await.is_ok());

    // A call that is none, and a request that is no call.
    let response = host.client.post(format!("{}/inference.GRPCInferenceService/ModelInfer", host.url)).body("{}");
    let (status, refused) = answer(response.send().await.unwrap()).await;
    assert_eq!(status, 400);
    assert!(crate::support::error_message(&refused).contains("is a gRPC call"), "{refused}");
    let unknown = host.client.post(format!("{}/inference.GRPCInferenceService/Train", host.url));
    let response = unknown.header("content-type", "application/grpc").send().await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &"12".parse().unwrap()));
}

fn with_id(id: usize, request: ModelInferRequest) -> ModelInferRequest {
    ModelInferRequest { id: id.to_string(), ..request }
}

#[tokio::test]
async fn a_stream_answers_in_order_with_errors_in_band() {
    let (host, _store) = Host::with_iris(&[]).await;
    let mut client = client(&host).await;
    let requests: Vec<ModelInferRequest> = (0..100)
        .map(|id| match id % 10 {
            3 => with_id(id, ModelInferRequest { model_name: "lily".into(), ..iris_request() }),
            7 => ModelInferRequest {
                parameters: HashMap::from([(
                    "triton_enable_empty_final_response".to_owned(),
                    parameter(ParameterChoice::BoolParam(true)),
                )]),
                ..with_id(id, iris_request())
            },
            _ => with_id(id, iris_request()),
        })
        .collect();
    let mut answers = client.model_stream_infer(tokio_stream::iter(requests)).await.unwrap().into_inner();
    for id in 0..100 {
        let answer = answers.message().await.unwrap().unwrap();
        let response = answer.infer_response.unwrap();
        assert_eq!(response.id, id.to_string());
        assert_eq!(answer.error_message.contains("no model \"lily\""), id % 10 == 3, "{}", answer.error_message);
        assert_eq!(response.raw_output_contents.len(), if id % 10 == 3 { 0 } else { 2 });
        let last = parameter(ParameterChoice::BoolParam(true));
        let expected = (id % 10 == 7).then_some(&last);
        assert_eq!(response.parameters.get("triton_final_response"), expected);
    }
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test]
async fn a_stream_ends_when_the_host_drains() {
    let (host, _store) = Host::with_iris(&[]).await;
    let mut client = client(&host).await;
    let open = futures_util::StreamExt::chain(tokio_stream::iter([iris_request()]), tokio_stream::pending());
    let mut answers = client.model_stream_infer(open).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
    host.app.begin_draining();
    let ended = answers.message().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    assert!(ended.metadata().contains_key("x-request-id"), "{ended:?}");
    // Past its connections, which end.
    let mut client = GrpcInferenceServiceClient::new(model_nexus::grpc::service(host.app.clone()));
    assert!(!client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
}

#[tokio::test]
async fn streams_are_as_many_as_predictions_and_take_none_of_their_places() {
    let (host, _store) = Host::with_iris(&["--max-predictions", "1"]).await;
    let mut client = client(&host).await;
    let open = || futures_util::StreamExt::chain(tokio_stream::iter([iris_request()]), tokio_stream::pending());
    let (requests, first) = tokio::sync::mpsc::channel(1);
    requests.send(iris_request()).await.unwrap();
    let first = futures_util::stream::unfold(first, |mut first| async { Some((first.recv().await?, first)) });
    let mut answers = client.model_stream_infer(first).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().unwrap().error_message.is_empty());
    client.model_infer(iris_request()).await.unwrap();
    let refused = client.model_stream_infer(open()).await.unwrap_err();
    assert!(refused.message().contains("--max-predictions"), "{refused:?}");
    drop(requests);
    until("its place is free", async || client.clone().model_stream_infer(open()).await.is_ok()).await;
}

#[tokio::test]
async fn a_stream_may_pause_between_messages_and_not_amid_one() {
    let (host, _store) = Host::with_iris(&["--body-idle-timeout", "200ms"]).await;
    let mut quiet = client(&host).await;
    let late = futures_util::stream::once(async {
        tokio::time::sleep(Duration::from_millis(800)).await;
        iris_request()
    });
    let requests = futures_util::StreamExt::chain(tokio_stream::iter([iris_request()]), late);
    let mut answers = quiet.model_stream_infer(requests).await.unwrap().into_inner();
    for _ in 0..2 {
        assert!(answers.message().await.unwrap().unwrap().error_message.is_empty());
    }

    let begun: Result<_, std::io::Error> = Ok(Bytes::from_static(&[0, 0, 0, 1, 0, 42, 42, 42]));
    let begun = futures_util::StreamExt::chain(tokio_stream::iter([begun]), tokio_stream::pending());
    let h2 = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let call = h2.post(format!("{}/inference.GRPCInferenceService/ModelStreamInfer", host.url));
    let call = call.header("content-type", "application/grpc").header("te", "trailers");
    let response = call.body(reqwest::Body::wrap_stream(begun)).send().await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), response.bytes()).await.expect("it is ended").ok();
}

#[tokio::test]
async fn a_stream_whose_client_takes_no_answers_is_ended() {
    let options = ["--body-idle-timeout", "200ms", "--cache-bytes", "0", "--max-predictions", "16"];
    let (host, _store) = Host::with_iris(&options).await;
    assert_eq!(host.upload("large", "1", onnx_file::identity(1, &[250_000])).await.0, 201);
    let narrow = Channel::from_shared(host.url.clone()).unwrap().initial_stream_window_size(65_535);
    let mut client = GrpcInferenceServiceClient::new(narrow.connect().await.unwrap());
    let large = request("large", &[(input("x", "FP32", &[250_000]), vec![0; 1_000_000].into())]);
    let requests = futures_util::StreamExt::chain(tokio_stream::iter(vec![large; 8]), tokio_stream::pending());
    // All the places of streams but this one's.
    let places: Vec<_> = (1..16).map(|_| host.app.admit_stream().unwrap()).collect();
    let mut answers = client.model_stream_infer(requests).await.unwrap().into_inner();
    until("the stream is ended", async || host.app.admit_stream().is_ok()).await;
    drop(places);
    let ended = loop {
        match tokio::time::timeout(Duration::from_secs(60), answers.message()).await.expect("it is ended") {
            Ok(answer) => assert!(answer.is_some()),
            Err(ended) => break ended,
        }
    };
    assert!(ended.message().contains("--body-idle-timeout"), "{ended:?}");
    client.model_infer(iris_request()).await.unwrap();
}

#[tokio::test]
async fn messages_are_compressed_both_ways() {
    let (host, _store) = Host::with_iris(&["--max-body-bytes", "1MiB"]).await;
    let channel = channel(&host.url).await;
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Deflate] {
        let client = GrpcInferenceServiceClient::new(channel.clone());
        let mut client = client.send_compressed(encoding).accept_compressed(encoding);
        let answer = client.model_infer(iris_request()).await.unwrap();
        let expected = if encoding == CompressionEncoding::Gzip { "gzip" } else { "deflate" };
        assert_eq!(answer.metadata().get("grpc-encoding").unwrap(), expected);
        assert_eq!(answer.into_inner().outputs.len(), 2);
        // Small on its way, and too large out of it.
        let zeros = request("iris", &[(input("X", "FP32", &[100_000, 4]), vec![0; 1_600_000].into())]);
        let refused = client.model_infer(zeros).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    }
}

#[tokio::test]
async fn a_message_of_many_small_parts_is_refused_before_it_is_in_memory() {
    let (host, _store) = Host::with_iris(&[]).await;
    let client = GrpcInferenceServiceClient::new(channel(&host.url).await);
    let mut client = client.send_compressed(CompressionEncoding::Gzip);
    let inputs = ModelInferRequest { inputs: vec![InferInputTensor::default(); 200_000], ..iris_request() };
    let refused = client.model_infer(inputs.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("many small parts"), "{refused:?}");
    let mut answers = client.model_stream_infer(tokio_stream::iter([inputs])).await.unwrap().into_inner();
    let refused = answers.message().await.unwrap_err();
    assert!(refused.message().contains("many small parts"), "{refused:?}");
    host.assert_serves().await;
}

#[tokio::test]
async fn who_compresses_nothing_gets_answers_as_they_are() {
    let (host, _store) = Host::with_iris(&[]).await;
    // As clients in C++ and Python say with every call, whether they want it or not.
    let client = GrpcInferenceServiceClient::new(channel(&host.url).await);
    let mut client =
        client.accept_compressed(CompressionEncoding::Deflate).accept_compressed(CompressionEncoding::Gzip);
    let answer = client.model_infer(iris_request()).await.unwrap();
    assert_eq!(answer.metadata().get("grpc-encoding"), None);
    let answers = client.model_stream_infer(tokio_stream::iter([iris_request()])).await.unwrap();
    assert_eq!(answers.metadata().get("grpc-encoding"), None);
    let server = client.server_metadata(ServerMetadataRequest {}).await.unwrap();
    assert_eq!(server.metadata().get("grpc-encoding"), None);
}

#[tokio::test]
async fn models_come_along_with_their_load_and_go() {
    let (host, _store) = Host::with_iris(&[]).await;
    let mut client = client(&host).await;
    let load = |name: &str, parameters: &[(&str, RepositoryChoice)]| RepositoryModelLoadRequest {
        model_name: name.to_owned(),
        parameters: parameters
            .iter()
            .map(|(name, choice)| {
                let choice = ModelRepositoryParameter { parameter_choice: Some(choice.clone()) };
                ((*name).to_owned(), choice)
            })
            .collect(),
        ..RepositoryModelLoadRequest::default()
    };
    let refused = client.repository_model_load(load("rose", &[])).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");

    let config = RepositoryChoice::StringParam(r#"{"backend": "onnxruntime", "max_batch_size": 8}"#.to_owned());
    let file = RepositoryChoice::BytesParam(iris().into());
    let brought = [("config", config), ("file:3/model.onnx", file)];
    client.repository_model_load(load("rose", &brought)).await.unwrap();
    // The same again is there already; another one under its name is not taken.
    client.repository_model_load(load("rose", &brought)).await.unwrap();
    let other = RepositoryChoice::BytesParam(onnx_file::add().into());
    let refused = client.repository_model_load(load("rose", &[("file:3/model.onnx", other)])).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused:?}");
    let rose = ModelInferRequest { model_name: "rose".to_owned(), ..iris_request() };
    assert_eq!(client.model_infer(rose.clone()).await.unwrap().into_inner().model_version, "3");

    let broken = RepositoryChoice::BytesParam(Bytes::from_static(b"no model"));
    let tensorflow = RepositoryChoice::StringParam(r#"{"backend": "tensorflow"}"#.to_owned());
    for parameters in [
        ("file:4/model.onnx", broken.clone()),
        ("file:model.onnx", broken.clone()),
        ("file:4/../../model.onnx", broken.clone()),
        ("file:4/weights.bin", broken.clone()),
        ("config", tensorflow),
        ("config", RepositoryChoice::StringParam("{".to_owned())),
        ("config", broken),
        ("color", RepositoryChoice::BoolParam(true)),
    ] {
        let about = format!("{parameters:?}");
        let refused = client.repository_model_load(load("rose", &[parameters])).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{about}: {refused:?}");
    }

    let index = async |client: &mut Client, ready: bool| {
        let asked = RepositoryIndexRequest { ready, ..RepositoryIndexRequest::default() };
        let models = client.repository_index(asked).await.unwrap().into_inner().models;
        models.into_iter().map(|model| [model.name, model.version, model.state].join(" ")).collect::<Vec<_>>()
    };
    assert_eq!(index(&mut client, false).await, ["iris 1 READY", "rose 3 READY"]);
    // Where KServe has its only field, Triton has a repository's name.
    let unload = RepositoryModelUnloadRequest { repository_name: "rose".into(), ..Default::default() };
    client.repository_model_unload(unload).await.unwrap();
    assert_eq!(index(&mut client, false).await, ["iris 1 READY", "rose 3 UNAVAILABLE"]);
    assert_eq!(index(&mut client, true).await, ["iris 1 READY"]);
    let ready = ModelReadyRequest { name: "rose".to_owned(), version: String::new() };
    assert!(!client.model_ready(ready.clone()).await.unwrap().into_inner().ready);
    assert_eq!(client.model_infer(rose.clone()).await.unwrap_err().code(), Code::Unavailable);
    client.repository_model_load(load("rose", &[])).await.unwrap();
    assert!(client.model_ready(ready).await.unwrap().into_inner().ready);
    assert!(client.model_infer(rose).await.is_ok());
    let unload = RepositoryModelUnloadRequest { model_name: "lily".into(), ..Default::default() };
    client.repository_model_unload(unload).await.unwrap();
}

#[tokio::test]
async fn statistics_count_what_was_asked() {
    let (host, _store) = Host::with_iris(&[]).await;
    let mut client = client(&host).await;
    client.model_infer(iris_request()).await.unwrap();
    client.model_infer(iris_request()).await.unwrap();
    client.model_infer(request("iris", &[])).await.unwrap_err();
    for (name, version) in [("", ""), ("iris", ""), ("iris", "1")] {
        let asked = ModelStatisticsRequest { name: name.to_owned(), version: version.to_owned() };
        let statistics = client.model_statistics(asked).await.unwrap().into_inner().model_stats;
        assert_eq!(statistics.len(), 1, "{name} {version}");
        assert_eq!((&*statistics[0].name, &*statistics[0].version), ("iris", "1"));
        assert!(statistics[0].last_inference > 1_600_000_000_000, "{statistics:?}");
        let stats = statistics[0].inference_stats.as_ref().unwrap();
        let count = |duration: &Option<StatisticDuration>| duration.as_ref().unwrap().count;
        assert_eq!((count(&stats.success), count(&stats.fail)), (2, 1), "{stats:?}");
        assert_eq!((count(&stats.cache_hit), count(&stats.cache_miss)), (1, 1), "{stats:?}");
        assert!(statistics[0].memory_usage[0].byte_size > 0);
    }
    let asked = ModelStatisticsRequest { name: "lily".to_owned(), version: String::new() };
    assert_eq!(client.model_statistics(asked).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn health_follows_the_host_and_reflection_lists_the_services() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let (host, _store) = Host::with_iris(&[]).await;
    let channel = channel(&host.url).await;
    let mut reflection = ServerReflectionClient::new(channel.clone());
    let asked = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = reflection.server_reflection_info(tokio_stream::iter([asked])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(listed)) = answer else { panic!("{answer:?}") };
    let mut services: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
    services.sort();
    assert_eq!(
        services,
        ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "inference.GRPCInferenceService"]
    );

    let mut health = HealthClient::new(channel);
    let named = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for service in ["", "inference.GRPCInferenceService", "iris"] {
        assert_eq!(health.check(named(service)).await.unwrap().into_inner().status, 1, "{service}");
    }
    assert_eq!(health.check(named("lily")).await.unwrap_err().code(), Code::NotFound);
    let mut watched = health.watch(named("")).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status, 1);
    host.app.begin_draining();
    assert_eq!(watched.message().await.unwrap().unwrap().status, 2);
    assert!(watched.message().await.unwrap().is_none());
    // Past its connections, which end.
    let mut health = HealthClient::new(model_nexus::grpc::health(host.app.clone()));
    assert_eq!(health.check(named("")).await.unwrap().into_inner().status, 2);
}

#[tokio::test]
async fn a_plugins_request_and_answer_are_bytes_with_their_media_types() {
    let store = tempfile::tempdir().unwrap();
    let host = Host::start(store.path(), &["--bundle", &bundle()]).await;
    let mut client = client(&host).await;
    let picture = std::fs::read(fixture("images/cat.jpg")).unwrap();
    let element = [&u32::try_from(picture.len()).unwrap().to_le_bytes()[..], &picture].concat();
    let media_type = parameter(ParameterChoice::StringParam("image/jpeg".to_owned()));
    let raw = InferInputTensor {
        parameters: HashMap::from([("content_type".to_owned(), media_type)]),
        ..input("request", "BYTES", &[1])
    };
    let asked = ModelInferRequest {
        parameters: HashMap::from([("top_k".to_owned(), parameter(ParameterChoice::Int64Param(2)))]),
        ..request("efficientnet-lite0", &[(raw, element.into())])
    };
    let answer = client.model_infer(asked.clone()).await.unwrap().into_inner();
    let output = &answer.outputs[0];
    assert_eq!((&*output.name, &*output.datatype, &output.shape[..]), ("response", "BYTES", &[1][..]));
    let json = parameter(ParameterChoice::StringParam("application/json".to_owned()));
    assert_eq!(output.parameters["content_type"], json);
    let said: Value = serde_json::from_str(&texts(&answer.raw_output_contents[0])[0]).unwrap();
    assert_eq!((&said["predicted_label"], said["top_k"].as_array().unwrap().len()), (&json!("tiger cat"), 2));

    let twice = ModelInferRequest {
        inputs: vec![input("request", "FP32", &[1])],
        raw_input_contents: vec![bytes_of(&[1.0])],
        ..asked
    };
    let refused: Status = client.model_infer(twice).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("BYTES[1]"), "{refused:?}");
}
