//! `POST /models/{id}/batch`: files of rows, in and out.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::{Body, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::onnx_file;
use crate::support::{Host, answer, bundle, error_message};

const NDJSON: &str = "application/x-ndjson";
const ROWS: [&str; 3] = ["[5.1,3.5,1.4,0.2]", "[6.7,3.0,5.2,2.3]", "[5.9,3.0,4.2,1.5]"];

async fn post(host: &Host, path: &str, content_type: &str, body: impl Into<Body>) -> Response {
    let request = host.client.post(format!("{}/models/{path}", host.url)).header("content-type", content_type);
    request.body(body).send().await.unwrap()
}

/// The answer's lines.
async fn lines(response: Response) -> Vec<Value> {
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], NDJSON);
    let text = response.text().await.unwrap();
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn ndjson(host: &Host, model: &str, body: impl Into<Body>) -> Vec<Value> {
    lines(post(host, &format!("{model}/batch"), NDJSON, body).await).await
}

/// What `POST /predict` says of the same rows.
async fn labels(host: &Host, rows: &[&str]) -> Vec<Value> {
    let rows: Vec<Value> = rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect();
    let (_, answer) = host.predict(json!({ "model_id": "iris", "features": rows })).await;
    answer["prediction"].as_array().unwrap().clone()
}

#[tokio::test]
async fn every_line_is_answered_by_one_line_as_predict_answers_it() {
    let (host, _store) = Host::with_iris(&[]).await;
    let answers = ndjson(&host, "iris", ROWS.join("\n")).await;
    let expected = labels(&host, &ROWS).await;
    for (row, (answer, label)) in answers.iter().zip(expected).enumerate() {
        assert_eq!((&answer["row"], &answer["prediction"]["label"]), (&json!(row), &label), "{answer}");
        assert_eq!(answer["prediction"]["probabilities"].as_array().unwrap().len(), 3);
    }
    assert_eq!(answers.len(), 3);
    let alone = host.predict(json!({ "model_id": "iris", "features": [5.1, 3.5, 1.4, 0.2] })).await.1;
    let (one, other) = (&answers[0]["prediction"]["probabilities"], &alone["outputs"]["probabilities"]["data"]);
    for (one, other) in one.as_array().unwrap().iter().zip(other.as_array().unwrap()) {
        assert!((one.as_f64().unwrap() - other.as_f64().unwrap()).abs() < 1e-6);
    }
}

#[tokio::test]
async fn lines_are_lists_objects_of_inputs_or_features_with_an_id() {
    let (host, _store) = Host::with_iris(&[]).await;
    let body = concat!(
        "[5.1, 3.5, 1.4, 0.2]\r\n\n",
        r#"{"features": [5.1, 3.5, 1.4, 0.2], "id": "a"}"#,
        "\n",
        r#"{"id": {"n": 1}, "X": [[5.1, 3.5, 1.4, 0.2]]}"#,
        "\n",
        r#"  {"X": [5.1, 3.5, 1.4, "0.2"], "id": 7}"#,
    );
    let answers = ndjson(&host, "iris", body).await;
    let of_rows: Vec<&Value> = answers.iter().take(3).map(|answer| &answer["prediction"]).collect();
    assert!(of_rows.iter().all(|prediction| *prediction == of_rows[0]), "{answers:?}");
    let ids: Vec<&Value> = answers.iter().map(|answer| &answer["id"]).collect();
    assert_eq!(ids, [&Value::Null, &json!("a"), &json!({ "n": 1 }), &json!(7)]);
    assert!(answers[3]["error"].as_str().unwrap().contains("32-bit float"), "{}", answers[3]);
}

#[tokio::test]
async fn a_row_with_two_ids_has_the_last_one_and_the_others_keep_theirs() {
    let (host, _store) = Host::with_iris(&[]).await;
    let row = |ids: &str| format!("{{\"features\": {}, {ids}}}\n", ROWS[0]);
    let body = [row(r#""id": 1"#), row(r#""id": 2, "id": 3"#), row(r#""id": 4"#)].concat();
    let answers = ndjson(&host, "iris", body).await;
    let ids: Vec<&Value> = answers.iter().map(|answer| &answer["id"]).collect();
    assert_eq!(ids, [1, 3, 4]);
}

#[tokio::test]
async fn rows_whose_outputs_are_large_go_in_runs_that_may_answer() {
    let (host, _store) = Host::with_iris(&["--max-output-bytes", "1KiB"]).await;
    host.upload("wide", "1", onnx_file::identity(1, &[-1, 16])).await;
    let row = format!("[{}1]\n", "1,".repeat(15));
    let answers = ndjson(&host, "wide", row.repeat(4000)).await;
    assert_eq!(answers.len(), 4000);
    assert!(answers.iter().all(|answer| answer["error"].is_null()));
    // 16 rows are as much as a run may answer with.
    let runs = host.metric(r#"model_predictions_total{model="wide",status="ok",version="1"}"#).await.unwrap();
    assert!(runs < 1000.0, "{runs} runs");
}

#[tokio::test]
async fn a_bad_row_is_an_error_in_its_place_and_nothing_else() {
    let (host, _store) = Host::with_iris(&["--max-body-bytes", "2KiB"]).await;
    let long = format!("[{}]", "5.1,".repeat(1000));
    let bad = [
        ("[5.1,3.5]", "[4]"),
        ("nonsense", "not JSON"),
        ("[5.1,3.5,1.4,null]", "32-bit float"),
        ("[5.1,3.5,1.4,1e39]", "32-bit float"),
        (r#"{"Y": [5.1,3.5,1.4,0.2]}"#, "misses input X"),
        (r#"{"X": [5.1,3.5,1.4,0.2], "Y": 1}"#, "no input \"Y\""),
        (r#"{"X": [5.1,3.5,1.4,0.2], "X": [5.1,3.5,1.4,0.2]}"#, "twice"),
        ("\u{0}", "not JSON"),
        (long.as_str(), "--max-body-bytes"),
    ];
    let body: Vec<String> = bad.iter().map(|(line, _)| format!("{line}\n{}\n", ROWS[1])).collect();
    let answers = ndjson(&host, "iris", body.concat()).await;
    assert_eq!(answers.len(), bad.len() * 2);
    for (index, (pair, (line, expected))) in answers.chunks(2).zip(bad).enumerate() {
        assert_eq!((&pair[0]["row"], &pair[1]["row"]), (&json!(index * 2), &json!(index * 2 + 1)));
        assert!(pair[0]["error"].as_str().unwrap().contains(expected), "{line}: {}", pair[0]);
        assert_eq!(pair[1]["prediction"]["label"], 2, "{line}: {}", pair[1]);
    }
    host.assert_serves().await;
}

#[tokio::test]
async fn a_hundred_thousand_rows_come_back_in_order() {
    let (host, _store) = Host::with_iris(&[]).await;
    let rows: Vec<String> = (0..100_000).map(|row| format!("[{}.{},3,{},1]\n", row % 7, row % 10, row % 5)).collect();
    let answers = ndjson(&host, "iris", rows.concat()).await;
    assert_eq!(answers.len(), rows.len());
    assert!(answers.iter().enumerate().all(|(row, answer)| answer["row"] == row && answer["error"].is_null()));
    for row in [0, 1, 777, 65_535, 99_999] {
        let features: Value = serde_json::from_str(&rows[row]).unwrap();
        let (_, alone) = host.predict(json!({ "model_id": "iris", "features": features })).await;
        assert_eq!(json!([answers[row]["prediction"]["label"]]), alone["prediction"], "row {row}");
    }
    let counted = host.metric(r#"model_predictions_total{model="iris",status="ok",version="1"}"#).await.unwrap();
    assert!(counted < 10_000.0, "{counted} runs for 100000 rows");
}

#[tokio::test]
async fn a_model_with_a_fixed_first_axis_goes_row_by_row() {
    let (host, _store) = Host::with_iris(&[]).await;
    host.upload("one", "1", onnx_file::identity(1, &[1, 2, 2])).await;
    host.upload("pair", "1", onnx_file::identity(7, &[2])).await;
    host.upload("words", "1", onnx_file::identity(8, &[-1])).await;
    host.upload("any", "1", onnx_file::identity(1, &[-1, -1])).await;
    let predictions =
        |answers: Vec<Value>| answers.iter().map(|answer| answer["prediction"].clone()).collect::<Vec<_>>();
    let body = "[[1,2],[3,4]]\n[5,6,7,8]\n[[[1,2],[3,4]]]\n";
    let expected = [json!([[1.0, 2.0], [3.0, 4.0]]), json!([[5.0, 6.0], [7.0, 8.0]]), json!([[1.0, 2.0], [3.0, 4.0]])];
    assert_eq!(predictions(ndjson(&host, "one", body).await), expected);
    assert_eq!(predictions(ndjson(&host, "pair", "[1,2]\n[3,4]").await), [json!([1, 2]), json!([3, 4])]);
    assert_eq!(predictions(ndjson(&host, "words", "\"a\"\n[\"b\"]").await), [json!("a"), json!("b")]);
    assert_eq!(predictions(ndjson(&host, "any", "[1,2,3]\n[[4]]").await), [json!([1.0, 2.0, 3.0]), json!([4.0])]);
}

#[tokio::test]
async fn rows_of_a_model_that_is_not_to_batch_are_run_one_by_one() {
    let (host, _store) = Host::with_iris(&["--max-batch-size", "1"]).await;
    let answers = ndjson(&host, "iris", format!("{}\n", ROWS[0]).repeat(200)).await;
    assert!(answers.len() == 200 && answers.iter().all(|answer| answer["prediction"]["label"] == 0));
    let runs = host.metric(r#"model_predictions_total{model="iris",status="ok",version="1"}"#).await;
    assert_eq!(runs, Some(200.0));
}

#[tokio::test]
async fn several_inputs_come_by_their_names() {
    let (host, _store) = Host::with_iris(&[]).await;
    host.upload("add", "1", onnx_file::add()).await;
    let body = "{\"right\": 1, \"left\": 2.5}\n{\"left\": [1], \"right\": [1]}\n[1, 2]\n{\"left\": 1}\n";
    let answers = ndjson(&host, "add", body).await;
    assert_eq!((&answers[0]["prediction"], &answers[1]["prediction"]), (&json!(3.5), &json!(2.0)));
    assert!(answers[2]["error"].as_str().unwrap().contains("left FP32[·], right FP32[·]"), "{}", answers[2]);
    assert!(answers[3]["error"].as_str().unwrap().contains("misses input right"), "{}", answers[3]);
}

#[tokio::test]
async fn a_row_goes_to_a_preprocess_plugin_as_a_request_of_its_own() {
    let store = tempfile::tempdir().unwrap();
    let host = Host::start(store.path(), &["--bundle", &bundle()]).await;
    let fields = ["sepal_length", "sepal_width", "petal_length", "petal_width"];
    let fields: Vec<Value> = fields.iter().map(|name| json!({ "name": name, "kind": "numeric" })).collect();
    let stage = json!({ "plugin": "tabular@0.1.0", "config": { "fields": fields } });
    let url = format!("{}/models/iris/pipeline", host.url);
    let bound = host.client.put(url).json(&json!({ "preprocess": stage, "postprocess": stage })).send().await.unwrap();
    assert_eq!(answer(bound).await.0, 200);
    let record =
        r#"{"record": {"sepal_length": 6.3, "sepal_width": 3.3, "petal_length": 6, "petal_width": 2.5}, "id": 1}"#;
    let answers = ndjson(&host, "iris", format!("{record}\n{{\"record\": {{}}}}\n{record}\n")).await;
    let (_, alone) = host
        .predict(
            serde_json::from_str::<Value>(&record.replace("{\"record\"", "{\"model_id\": \"iris\", \"record\""))
                .unwrap(),
        )
        .await;
    assert_eq!(answers[0]["prediction"]["label"], alone["label"], "{answers:?} {alone}");
    assert_eq!((&answers[2]["prediction"], &answers[2]["id"]), (&answers[0]["prediction"], &json!(1)));
    assert!(answers[1]["error"].as_str().unwrap().contains("sepal_length"), "{}", answers[1]);
}

#[tokio::test]
async fn answers_come_while_rows_are_still_sent() {
    let (host, _store) = Host::with_iris(&[]).await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<String, std::io::Error>>(1);
    let body = Body::wrap_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
    sender.send(Ok(format!("{}\n", ROWS[0]))).await.unwrap();
    let response = post(&host, "iris/batch", NDJSON, body).await;
    let mut answers = response.bytes_stream();
    for row in 0..3 {
        let answer = tokio::time::timeout(Duration::from_secs(20), answers.next()).await.unwrap().unwrap().unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["row"], row);
        sender.send(Ok(format!("{}\n", ROWS[1]))).await.unwrap();
    }
    drop(sender);
    assert!(answers.next().await.unwrap().is_ok());
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn a_record_is_answered_before_the_next_one_whatever_its_line_ends_with() {
    let (host, _store) = Host::with_iris(&[]).await;
    for end in ["\n", "\r\n"] {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<String, std::io::Error>>(1);
        let body = Body::wrap_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
        sender.send(Ok(format!("5.1,3.5,1.4,0.2{end}"))).await.unwrap();
        let request = host.client.post(format!("{}/models/iris/batch", host.url)).header("content-type", "text/csv");
        let request = request.header("accept", NDJSON).body(body).send();
        let answers = async {
            let mut answers = request.await.unwrap().bytes_stream();
            for row in 0..3 {
                let answer: Value = serde_json::from_slice(&answers.next().await.unwrap().unwrap()).unwrap();
                assert_eq!(answer["row"], row);
                sender.send(Ok(format!("6.7,3.0,5.2,2.3{end}"))).await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), answers).await.unwrap_or_else(|_| panic!("{end:?}"));
    }
}

/// Waits until the host, which runs one batch at a time, takes another.
async fn wait_for_a_place(host: &Host) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while post(host, "iris/batch", NDJSON, ROWS[0]).await.status() != 200 {
        assert!(std::time::Instant::now() < deadline, "the job goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A connection that has sent rows without end in sight.
async fn half_a_batch(host: &Host) -> TcpStream {
    let mut client = TcpStream::connect(host.url.strip_prefix("http://").unwrap()).await.unwrap();
    let rows = format!("{}\n", ROWS[0]).repeat(2000);
    let head = format!("POST /models/iris/batch HTTP/1.1\r\nHost: x\r\nContent-Type: {NDJSON}\r\n");
    client.write_all(format!("{head}Content-Length: 1000000000\r\n\r\n{rows}").as_bytes()).await.unwrap();
    client
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_job() {
    let (host, _store) = Host::with_iris(&["--max-batches", "1"]).await;
    let mut client = half_a_batch(&host).await;
    let mut first = [0; 100];
    client.read_exact(&mut first).await.unwrap();
    assert!(first.starts_with(b"HTTP/1.1 200 OK"));
    let (status, refused) = answer(post(&host, "iris/batch", NDJSON, ROWS[0]).await).await;
    assert_eq!(status, 503);
    assert!(error_message(&refused).contains("--max-batches"), "{refused}");
    drop(client);
    wait_for_a_place(&host).await;
}

#[tokio::test]
async fn a_client_that_sends_no_more_or_takes_no_answers_ends_the_job() {
    let (host, _store) = Host::with_iris(&["--max-batches", "1", "--body-idle-timeout", "500ms"]).await;
    let mut silent = half_a_batch(&host).await;
    let mut answers = String::new();
    // The connection ends without the answer's end, after the row that says why.
    let read = tokio::time::timeout(Duration::from_secs(60), silent.read_to_string(&mut answers)).await;
    read.expect("it is ended").unwrap();
    let last = answers.lines().rfind(|line| line.starts_with("{\"row\":")).unwrap();
    assert!(last.starts_with("{\"row\":2000,\"error\":") && last.contains("--body-idle-timeout"), "{last}");
    assert!(!answers.ends_with("0\r\n\r\n"));
    wait_for_a_place(&host).await;

    let mut deaf = half_a_batch(&host).await;
    let rows = format!("{}\n", ROWS[0]).repeat(10_000);
    // Until the buffers are full on the way there and back, and the host has waited long enough.
    while deaf.write_all(rows.as_bytes()).await.is_ok() {}
    wait_for_a_place(&host).await;
}

#[tokio::test]
async fn what_is_no_batch_is_refused() {
    let (host, _store) = Host::with_iris(&[]).await;
    for (path, content_type, status, expected) in [
        ("iris/batch", "application/json", 400, "application/x-ndjson"),
        ("rose/batch", NDJSON, 404, "rose"),
        ("iris/batch?version=9", NDJSON, 404, "9"),
    ] {
        let (actual, refused) = answer(post(&host, path, content_type, ROWS[0]).await).await;
        assert_eq!(actual, status, "{path}: {refused}");
        assert!(error_message(&refused).contains(expected), "{path}: {refused}");
    }
    let request = host.client.post(format!("{}/models/iris/batch", host.url)).header("content-type", NDJSON);
    let (status, refused) = answer(request.header("accept", "text/html").body(ROWS[0]).send().await.unwrap()).await;
    assert_eq!(status, 400, "{refused}");
    for (coding, expected) in [("gzip", 400), ("identity", 200)] {
        let request = host.client.post(format!("{}/models/iris/batch", host.url)).header("content-type", NDJSON);
        let response = request.header("content-encoding", coding).body(ROWS[0]).send().await.unwrap();
        assert_eq!(response.status(), expected, "{coding}");
        let text = response.text().await.unwrap();
        assert_eq!(text.contains("Content-Encoding"), expected == 400, "{text}");
    }
}
