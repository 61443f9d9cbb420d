//! `model-nexus predict`, by the real binary: against a host, and without one.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::binary::Process;
use crate::onnx_file;
use crate::support::{Host, bundle, fixture, repository_root, store_with_iris};

async fn predict(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_model-nexus"));
    command.arg("predict").args(arguments).stdin(Stdio::null());
    // The host runs on this thread.
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn ended(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{}{said}", String::from_utf8_lossy(&output.stdout));
    said
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

const COLUMNS: [&str; 2] = ["--columns", "sepal_length,sepal_width,petal_length,petal_width"];

#[tokio::test]
async fn a_file_goes_through_a_host_and_without_one_to_the_same_answers() {
    let (host, store) = Host::with_iris(&[]).await;
    let work = tempfile::tempdir().unwrap();
    let (iris, model) = (fixture("models/iris/iris.csv"), repository_root().join("models/iris/1/model.onnx"));
    let mut answers = Vec::new();
    let ways: [&[&str]; 3] = [
        &["--model", "iris@1", "--url", &host.url],
        &["--model", "iris", "--store", text(store.path())],
        &["--model-file", text(&model)],
    ];
    for (index, way) in ways.into_iter().enumerate() {
        let parquet = work.path().join(format!("{index}.parquet"));
        let output = predict(&[&[text(&iris), "-o", text(&parquet)], way, &COLUMNS].concat()).await;
        assert!(ended(&output, 0).starts_with("150 rows in "), "{}", ended(&output, 0));
        assert!(output.stdout.is_empty());
        // Out of the Parquet file, whose columns are not the model's, come as many bad rows or a refusal.
        let refused = predict(&[&[text(&parquet)], way].concat()).await;
        assert!(ended(&refused, 1).contains("columns for the model"), "{}", ended(&refused, 1));
        let lines = predict(&[&[text(&iris), "--to", "ndjson"], way, &COLUMNS].concat()).await;
        ended(&lines, 0);
        answers.push(String::from_utf8(lines.stdout).unwrap());
    }
    let labels = |lines: &str| -> Vec<Value> {
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["prediction"]["label"].clone()).collect()
    };
    assert_eq!(labels(&answers[0]).len(), 150);
    assert_eq!(labels(&answers[0]), labels(&answers[1]));
    assert_eq!(labels(&answers[1]), labels(&answers[2]));
    assert_eq!(std::fs::read_dir(work.path()).unwrap().count(), 3, "nothing else is left there");
}

#[tokio::test]
async fn rows_that_know_of_one_another_are_run_one_by_one_without_a_host_too() {
    let (host, store) = Host::with_iris(&[]).await;
    let work = tempfile::tempdir().unwrap();
    let rows: Vec<Value> = (0..40).map(|row| json!([row as f64 / 7.0, -3.5, row % 5, 0.25])).collect();
    let file = work.path().join("rows.ndjson");
    std::fs::write(&file, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    // The last one ends the process that runs it on several rows.
    for (name, are_apart) in [("dense", false), ("less-mean", true), ("quantized", true), ("trap", true)] {
        let model = fixture(&format!("models/rows/{name}.onnx"));
        assert_eq!(host.upload(name, "1", std::fs::read(&model).unwrap()).await.0, 201);
        let mut expected = Vec::new();
        for row in &rows {
            expected.push(host.predict(json!({ "model_id": name, "features": row })).await.1["prediction"].take());
        }
        let ways: [&[&str]; 2] = [&["--model-file", text(&model)], &["--model", name, "--store", text(store.path())]];
        for way in ways {
            let output = predict(&[&[text(&file)], way].concat()).await;
            let said = ended(&output, 0);
            assert_eq!(said.contains("one by one"), are_apart, "{way:?}: {said}");
            let lines = String::from_utf8(output.stdout).unwrap();
            let answers = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["prediction"].take());
            for (answer, expected) in answers.zip(&expected) {
                match are_apart {
                    true => assert_eq!(answer, *expected, "{way:?}"),
                    // Together, the last digits may differ.
                    false => assert!(are_close(&answer, expected), "{way:?}: {answer} is not {expected}"),
                }
            }
            assert_eq!(lines.lines().count(), rows.len());
        }
    }
}

fn are_close(one: &Value, other: &Value) -> bool {
    let numbers =
        |list: &Value| list.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect::<Vec<_>>();
    numbers(one).iter().zip(numbers(other)).all(|(one, other)| (one - other).abs() < 1e-5)
}

#[tokio::test]
async fn what_keeps_a_models_rows_apart_in_a_host_does_so_without_one() {
    let (host, store) = Host::with_iris(&[]).await;
    let options = host.client.put(format!("{}/models/iris/engine", host.url)).json(&json!({ "max_batch_size": 1 }));
    assert_eq!(options.send().await.unwrap().status(), 200);
    let iris = fixture("models/iris/iris.csv");
    let way = ["--model", "iris", "--store", text(store.path())];
    let said = ended(&predict(&[&[text(&iris)], &way[..], &COLUMNS].concat()).await, 0);
    assert!(said.contains("`max_batch_size` is set to 1") && said.contains("150 rows in "), "{said}");
}

#[tokio::test]
async fn rows_that_fail_are_counted_and_make_the_exit_status() {
    let (host, _store) = Host::with_iris(&[]).await;
    let work = tempfile::tempdir().unwrap();
    let rows = work.path().join("rows.jsonl");
    std::fs::write(&rows, "[5.1,3.5,1.4,0.2]\n[1]\nno\n[6.7,3.0,5.2,2.3]\n").unwrap();
    let model = repository_root().join("models/iris/1/model.onnx");
    let ways: [&[&str]; 2] = [&["--model", "iris", "--url", &host.url], &["--model-file", text(&model)]];
    for way in ways {
        for to in ["ndjson", "csv", "parquet"] {
            let out = work.path().join(format!("out.{to}"));
            let output = predict(&[&[text(&rows), "-o", text(&out)], way].concat()).await;
            assert!(ended(&output, 1).contains("2 of 4 rows failed"), "{}", ended(&output, 1));
            assert!(out.metadata().unwrap().len() > 50, "what was answered is there");
            std::fs::remove_file(out).unwrap();
        }
    }
}

#[tokio::test]
async fn what_cannot_be_done_leaves_no_file_and_says_why() {
    let (host, store) = Host::with_iris(&[]).await;
    let work = tempfile::tempdir().unwrap();
    let (rows, out) = (work.path().join("rows.ndjson"), work.path().join("out.ndjson"));
    std::fs::write(&rows, "[5.1,3.5,1.4,0.2]\n").unwrap();
    let (rows, at) = (text(&rows), ["-o", text(&out)]);
    let store = text(store.path());
    let cases: [(&[&str], &str); 7] = [
        (&[rows, "--model", "rose", "--url", &host.url], "rose"),
        (&[rows, "--model", "rose", "--store", store], "no model rose"),
        (&[rows, "--model", "iris", "--url", "http://127.0.0.1:1"], "no answer from"),
        (&["gone.ndjson", "--model", "iris", "--url", &host.url], "cannot read gone.ndjson"),
        (&["rows.txt", "--model", "iris", "--url", &host.url], "--from"),
        (&[rows, "--model-file", rows], "rows.ndjson"),
        (&[rows, "--from", "parquet", "--model", "iris", "--url", &host.url], "not readable as Parquet"),
    ];
    for (arguments, expected) in cases {
        let said = ended(&predict(&[arguments, &at].concat()).await, 1);
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert_eq!(std::fs::read_dir(work.path()).unwrap().count(), 1, "{arguments:?}");
    }
}

#[tokio::test]
async fn a_model_with_plugins_needs_a_host() {
    let store = tempfile::tempdir().unwrap();
    let host = Host::start(store.path(), &["--bundle", &bundle()]).await;
    let work = tempfile::tempdir().unwrap();
    let rows = work.path().join("rows.ndjson");
    std::fs::write(&rows, "{\"image_url\": \"data:,\"}\n").unwrap();
    let arguments = [text(&rows), "--model", "efficientnet-lite0"];
    let said = ended(&predict(&[&arguments[..], &["--store", text(store.path())]].concat()).await, 1);
    assert!(said.contains("plugins are bound"), "{said}");
    let said = ended(&predict(&[&arguments[..], &["--url", &host.url]].concat()).await, 1);
    assert!(said.contains("1 of 1 rows failed"), "{said}");
}

#[tokio::test]
async fn rows_come_through_pipes_as_well() {
    let work = tempfile::tempdir().unwrap();
    let model = work.path().join("words.onnx");
    std::fs::write(&model, onnx_file::identity(8, &[-1])).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_model-nexus"));
    command.args(["predict", "-", "--from", "ndjson", "--model-file", text(&model)]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let answers = tokio::task::spawn_blocking(move || {
        use std::io::Write;
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"\"a\"\n\"b\"").unwrap();
        child.wait_with_output().unwrap()
    });
    let answers = String::from_utf8(answers.await.unwrap().stdout).unwrap();
    assert_eq!(answers, "{\"row\":0,\"prediction\":\"a\"}\n{\"row\":1,\"prediction\":\"b\"}\n");
}

/// Sends that many rows of iris through a host of its own; answers what its memory grew by.
#[cfg(target_os = "linux")]
async fn growth(rows: usize, from: &str, to: &str) -> u64 {
    let store = store_with_iris();
    let mut process =
        Process::start(store.path(), &["--listen", "127.0.0.1:0", "--log", "model_nexus=info"], &[], store.path());
    process.healthy().await;
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("rows.ndjson");
    let block: String = (0..1000)
        .map(|row| format!("[{}.{},3.{},{}.5,1.{}]\n", row % 8, row % 10, row % 7, row % 6, row % 9))
        .collect();
    let mut writer = std::fs::File::create(&file).unwrap();
    for _ in 0..rows / 1000 {
        std::io::Write::write_all(&mut writer, block.as_bytes()).unwrap();
    }
    let url = process.url("");
    let way = ["--model", "iris", "--url", url.as_str()];
    let input = match from {
        "parquet" => {
            let model = work.path().join("identity.onnx");
            std::fs::write(&model, onnx_file::identity(1, &[-1, 4])).unwrap();
            let parquet = work.path().join("rows.parquet");
            ended(&predict(&[text(&file), "--model-file", text(&model), "-o", text(&parquet)]).await, 0);
            parquet
        }
        _ => file,
    };
    let before = process.most_resident();
    let out = work.path().join(format!("out.{to}"));
    let columns: &[&str] = if from == "parquet" { &["--columns", "y"] } else { &[] };
    let said = ended(&predict(&[&[text(&input), "-o", text(&out)], &way[..], columns].concat()).await, 0);
    assert!(said.starts_with(&format!("{rows} rows in ")), "{said}");
    println!("{from} to {to}: {}", said.trim());
    let line = process.wait_for("batch");
    assert_eq!((&line["rows"], &line["failed"]), (&json!(rows), &json!(0)));
    process.most_resident() - before
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn memory_does_not_grow_with_the_file() {
    for (from, to) in [("ndjson", "ndjson"), ("parquet", "parquet")] {
        let grown = growth(300_000, from, to).await;
        assert!(grown < 150 << 20, "{from} to {to}: {grown} bytes");
    }
}

/// By hand: `cargo xtask test -- --test it ten_million -- --ignored` takes minutes; with `--release` before `--test` less.
#[cfg(target_os = "linux")]
#[tokio::test]
#[ignore = "takes minutes"]
async fn ten_million_rows_pass_in_little_memory() {
    for (from, to) in [("ndjson", "ndjson"), ("parquet", "parquet")] {
        let grown = growth(10_000_000, from, to).await;
        assert!(grown < 500 << 20, "{from} to {to}: {grown} bytes");
    }
}
