//! One table of requests, sent over `/predict`, the protocol's REST as JSON and as bytes, and gRPC: the same answers, and
//! errors that mean the same.

use bytes::Bytes;
use model_nexus::grpc::proto::infer_parameter::ParameterChoice;
use model_nexus::grpc::proto::{InferParameter, ModelInferRequest};
use serde_json::{Value, json};
use tonic::Code;

use crate::grpc::{Client, client, input};
use crate::onnx_file;
use crate::support::{Host, answer, fixture};

const PROTOCOLS: [&str; 4] = ["/predict", "JSON", "binary", "gRPC"];

/// An input as all protocols can say it; `data` is flat.
#[derive(Clone)]
struct Input {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<i64>,
    data: Value,
}

struct Case {
    about: &'static str,
    model: &'static str,
    version: Option<&'static str>,
    inputs: Vec<Input>,
    timeout_ms: Option<u64>,
    /// Statuses over HTTP and gRPC, where it is refused.
    refused: Option<(u16, Code)>,
}

/// An output: its name, datatype and shape, and its elements as bytes.
type Output = (String, String, Vec<i64>, Vec<u8>);

fn input_of(name: &'static str, datatype: &'static str, shape: &[i64], data: Value) -> Input {
    Input { name, datatype, shape: shape.to_vec(), data }
}

fn case(about: &'static str, model: &'static str, inputs: &[Input]) -> Case {
    Case { about, model, version: None, inputs: inputs.to_vec(), timeout_ms: None, refused: None }
}

fn row() -> Input {
    input_of("X", "FP32", &[1, 4], json!([6.3, 3.3, 6.0, 2.5]))
}

/// Elements as the binary forms have them.
fn bytes_of(datatype: &str, data: &Value) -> Vec<u8> {
    let element = |value: &Value| -> Vec<u8> {
        match (datatype, value) {
            ("FP32", Value::String(text)) => text.parse::<f32>().unwrap_or(f32::NAN).to_le_bytes().to_vec(),
            ("FP32", value) => (value.as_f64().unwrap() as f32).to_le_bytes().to_vec(),
            ("INT64", value) => value.as_i64().unwrap().to_le_bytes().to_vec(),
            ("BOOL", value) => vec![u8::from(value.as_bool().unwrap())],
            ("BYTES", value) => {
                let text = value.as_str().unwrap();
                [&u32::try_from(text.len()).unwrap().to_le_bytes()[..], text.as_bytes()].concat()
            }
            _ => panic!("{datatype} {value}"),
        }
    };
    data.as_array().unwrap().iter().flat_map(element).collect()
}

fn outputs_in(list: &Value) -> Vec<Output> {
    let output = |output: &Value| {
        let text = |name: &str| output[name].as_str().unwrap().to_owned();
        let shape = serde_json::from_value(output["shape"].clone()).unwrap();
        (text("name"), text("datatype"), shape, bytes_of(&text("datatype"), &output["data"]))
    };
    list.as_array().unwrap().iter().map(output).collect()
}

async fn by_predict(host: &Host, case: &Case) -> Result<Vec<Output>, u16> {
    let tensor = |input: &Input| (input.name.to_owned(), json!({ "shape": input.shape, "data": input.data }));
    let inputs: serde_json::Map<String, Value> = case.inputs.iter().map(tensor).collect();
    let mut body = json!({ "model_id": case.model, "inputs": inputs });
    if let Some(version) = case.version {
        body["version"] = json!(version);
    }
    let mut request = host.client.post(format!("{}/predict", host.url)).json(&body);
    if let Some(timeout) = case.timeout_ms {
        request = request.header("x-timeout-ms", timeout);
    }
    let (status, answer) = answer(request.send().await.unwrap()).await;
    let outputs = answer["outputs"].as_object().ok_or(status)?;
    let named = outputs.iter().map(|(name, output)| {
        let mut output = output.clone();
        output["name"] = json!(name);
        output
    });
    Ok(outputs_in(&named.collect()))
}

fn url(host: &Host, case: &Case) -> String {
    let version = case.version.map(|version| format!("/versions/{version}")).unwrap_or_default();
    format!("{}/v2/models/{}{version}/infer", host.url, case.model)
}

fn parameters(case: &Case) -> Value {
    case.timeout_ms.map_or_else(|| json!({}), |timeout| json!({ "timeout": timeout * 1000 }))
}

async fn by_json(host: &Host, case: &Case) -> Result<Vec<Output>, u16> {
    let inputs = case.inputs.iter().map(
        |input| json!({ "name": input.name, "datatype": input.datatype, "shape": input.shape, "data": input.data }),
    );
    let body = json!({ "inputs": inputs.collect::<Vec<_>>(), "parameters": parameters(case) });
    let (status, answer) = answer(host.client.post(url(host, case)).json(&body).send().await.unwrap()).await;
    if status == 200 { Ok(outputs_in(&answer["outputs"])) } else { Err(status) }
}

async fn by_binary(host: &Host, case: &Case) -> Result<Vec<Output>, u16> {
    let tensors: Vec<Vec<u8>> = case.inputs.iter().map(|input| bytes_of(input.datatype, &input.data)).collect();
    let inputs = case.inputs.iter().zip(&tensors).map(|(input, bytes)| {
        let size = json!({ "binary_data_size": bytes.len() });
        json!({ "name": input.name, "datatype": input.datatype, "shape": input.shape, "parameters": size })
    });
    let mut parameters = parameters(case);
    parameters["binary_data_output"] = json!(true);
    let head = json!({ "inputs": inputs.collect::<Vec<_>>(), "parameters": parameters }).to_string();
    let request = host.client.post(url(host, case)).header("inference-header-content-length", head.len());
    let response = request.body([head.into_bytes(), tensors.concat()].concat()).send().await.unwrap();
    if response.status() != 200 {
        return Err(response.status().as_u16());
    }
    let length: usize = response.headers()["inference-header-content-length"].to_str().unwrap().parse().unwrap();
    let body = response.bytes().await.unwrap();
    let (head, mut rest) = body.split_at(length);
    let head: Value = serde_json::from_slice(head).unwrap();
    let outputs = head["outputs"].as_array().unwrap().iter().map(|output| {
        let size = output["parameters"]["binary_data_size"].as_u64().unwrap();
        let (bytes, tail) = rest.split_at(usize::try_from(size).unwrap());
        rest = tail;
        let text = |name: &str| output[name].as_str().unwrap().to_owned();
        let shape = serde_json::from_value(output["shape"].clone()).unwrap();
        (text("name"), text("datatype"), shape, bytes.to_vec())
    });
    Ok(outputs.collect())
}

async fn by_grpc(client: &mut Client, case: &Case) -> Result<Vec<Output>, Code> {
    let timeout = case.timeout_ms.map(|timeout| i64::try_from(timeout * 1000).unwrap());
    let parameter = |timeout| InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(timeout)) };
    let request = ModelInferRequest {
        model_name: case.model.to_owned(),
        model_version: case.version.unwrap_or_default().to_owned(),
        parameters: timeout.map(|timeout| ("timeout".to_owned(), parameter(timeout))).into_iter().collect(),
        inputs: case.inputs.iter().map(|one| input(one.name, one.datatype, &one.shape)).collect(),
        raw_input_contents: case.inputs.iter().map(|one| Bytes::from(bytes_of(one.datatype, &one.data))).collect(),
        ..ModelInferRequest::default()
    };
    let answer = client.model_infer(request).await.map_err(|status| status.code())?.into_inner();
    let outputs = answer.outputs.into_iter().zip(answer.raw_output_contents);
    Ok(outputs.map(|(output, raw)| (output.name, output.datatype, output.shape, raw.to_vec())).collect())
}

async fn check(host: &Host, client: &mut Client, case: &Case) {
    let over_http = [by_predict(host, case).await, by_json(host, case).await, by_binary(host, case).await];
    let over_grpc = by_grpc(client, case).await;
    match case.refused {
        Some((http, grpc)) => {
            for (protocol, result) in PROTOCOLS.iter().zip(&over_http) {
                assert_eq!(result.as_ref().unwrap_err(), &http, "{}, {protocol}", case.about);
            }
            assert_eq!(over_grpc.unwrap_err(), grpc, "{}", case.about);
        }
        None => {
            let mut results = over_http.map(Result::unwrap).to_vec();
            results.push(over_grpc.unwrap());
            for (protocol, outputs) in PROTOCOLS.iter().zip(&results) {
                assert!(!outputs.is_empty() && *outputs == results[0], "{}, {protocol}: {results:?}", case.about);
            }
        }
    }
}

#[tokio::test]
async fn every_protocol_gives_the_same_answers() {
    let (host, _store) = Host::with_iris(&["--cache-bytes", "0"]).await;
    host.upload("words", "1", onnx_file::identity(8, &[-1])).await;
    host.upload("flags", "1", onnx_file::identity(9, &[-1, 2])).await;
    host.upload("numbers", "1", onnx_file::identity(7, &[])).await;
    host.upload("add", "1", onnx_file::add()).await;
    let mut client = client(&host).await;
    let rows = json!([5.1, 3.5, 1.4, 0.2, 6.3, 3.3, 6.0, 2.5]);
    let floats = |name, data| input_of(name, "FP32", &[3], data);
    for case in [
        case("a row", "iris", &[row()]),
        Case { version: Some("1"), ..case("a row of a version", "iris", &[row()]) },
        case("two rows", "iris", &[input_of("X", "FP32", &[2, 4], rows)]),
        case("texts", "words", &[input_of("x", "BYTES", &[3], json!(["", "zwölf", "a b"]))]),
        case("no texts", "words", &[input_of("x", "BYTES", &[0], json!([]))]),
        case("truth values", "flags", &[input_of("x", "BOOL", &[1, 2], json!([true, false]))]),
        case("a scalar", "numbers", &[input_of("x", "INT64", &[], json!([i64::MIN]))]),
        case(
            "two inputs, the last first",
            "add",
            &[floats("right", json!([1, 2, "Infinity"])), floats("left", json!([0.1, -2, 3]))],
        ),
    ] {
        check(&host, &mut client, &case).await;
    }
}

#[tokio::test]
async fn every_protocol_refuses_the_same_with_statuses_that_mean_the_same() {
    let (host, _store) = Host::with_iris(&["--max-body-bytes", "64KiB"]).await;
    host.upload("add", "1", onnx_file::add()).await;
    host.upload("gone", "1", onnx_file::add()).await;
    let slow = std::fs::read(fixture("models/batching/slow.onnx")).unwrap();
    assert_eq!(host.upload("slow", "1", slow).await.0, 201);
    let response = host.post("/v2/repository/models/gone/unload", json!({})).await;
    assert_eq!(response.status(), 200);
    let mut client = client(&host).await;
    let invalid = Some((400, Code::InvalidArgument));
    let left = input_of("left", "FP32", &[1], json!([1.0]));
    let many: Value = vec![0.5; 20_000].into();
    for case in [
        Case { refused: Some((404, Code::NotFound)), ..case("unknown model", "lily", &[row()]) },
        Case { version: Some("v9"), refused: Some((404, Code::NotFound)), ..case("unknown version", "iris", &[row()]) },
        Case { refused: invalid, ..case("unknown input", "iris", &[Input { name: "Y", ..row() }]) },
        Case { refused: invalid, ..case("missing input", "add", std::slice::from_ref(&left)) },
        Case { refused: invalid, ..case("no input", "iris", &[]) },
        Case {
            refused: invalid,
            ..case("a shape that is not the model's", "iris", &[Input { shape: vec![4], ..row() }])
        },
        Case {
            refused: invalid,
            ..case("a shape that is not the data's", "iris", &[Input { shape: vec![2, 4], ..row() }])
        },
        Case {
            refused: invalid,
            ..case(
                "texts for numbers",
                "iris",
                &[Input { datatype: "BYTES", data: json!(["a", "b", "c", "d"]), ..row() }],
            )
        },
        Case {
            refused: Some((413, Code::ResourceExhausted)),
            ..case("too large", "iris", &[input_of("X", "FP32", &[5_000, 4], many)])
        },
        Case { refused: Some((503, Code::Unavailable)), ..case("unloaded", "gone", &[left]) },
        Case {
            timeout_ms: Some(1),
            refused: Some((504, Code::DeadlineExceeded)),
            ..case("past its time", "slow", &[input_of("x", "FP32", &[1], json!([0.0]))])
        },
    ] {
        check(&host, &mut client, &case).await;
    }
    host.assert_serves().await;
}
