//! The whole plugin, natively, against what Magika's reference takes from files and says of them.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use file_type::{Config, FileType};
use nexus_guest::{Error, Model, Plugin, Request, Tensor, TensorSpec};
use serde_json::{Value, json};

fn fixture(path: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../host/tests/fixtures/models/magika");
    std::fs::read(folder.join(path)).unwrap()
}

fn json_fixture(path: &str) -> Value {
    serde_json::from_slice(&fixture(path)).unwrap()
}

/// The labels of the model's classes, from the file it comes with.
fn labels() -> Vec<String> {
    serde_json::from_value(json_fixture("config.min.json")["target_labels_space"].clone()).unwrap()
}

/// What the host says of the model.
fn magika() -> Model {
    let spec = |name: &str, datatype: &str, shape: [i64; 2]| TensorSpec {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
    };
    Model {
        inputs: vec![spec("bytes", "INT32", [-1, 2048])],
        outputs: vec![spec("target_label", "FP32", [-1, 214])],
        ..Model::default()
    }
}

fn plugin() -> FileType {
    FileType::init(magika(), Config::default()).unwrap()
}

fn file(body: &[u8]) -> Request {
    Request { content_type: "application/octet-stream".into(), body: body.to_vec(), ..Request::default() }
}

fn features(plugin: &mut FileType, body: &[u8]) -> Vec<i32> {
    let tensors = plugin.preprocess(file(body)).unwrap();
    let [tensor] = tensors.as_slice() else { panic!("{} tensors", tensors.len()) };
    assert_eq!((tensor.name.as_str(), tensor.shape.as_slice()), ("bytes", &[1, 2048][..]));
    tensor.values::<i32>().unwrap().into_owned()
}

/// Scores in which one class stands out, the others share the rest.
fn scores(label: &str, score: f32) -> Tensor {
    let labels = labels();
    let mut scores = vec![(1.0 - score) / (labels.len() - 1) as f32; labels.len()];
    if let Some(class) = labels.iter().position(|other| other == label) {
        scores[class] = score;
    }
    Tensor::from_f32("target_label", [1, labels.len() as u64], scores).unwrap()
}

fn answer(plugin: &mut FileType, outputs: Vec<Tensor>) -> Value {
    serde_json::from_slice(&plugin.postprocess(outputs).unwrap().body).unwrap()
}

fn bytes(hex: &Value) -> Vec<i32> {
    let hex = hex.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|at| i32::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// One file through both stages, the model's part played by what the reference's model said.
fn assert_like_reference(name: &str, body: &[u8], expected: &Value) {
    let mut plugin = plugin();
    let features = features(&mut plugin, body);
    let (beginning, end) = (bytes(&expected["beg"]), bytes(&expected["end"]));
    let padding = |count: usize| vec![256; count];
    let vector = [beginning.clone(), padding(1024 - beginning.len()), padding(1024 - end.len()), end].concat();
    assert!(
        features == vector,
        "{name}: features differ from {:?} on",
        features.iter().zip(&vector).position(|(a, b)| a != b)
    );

    let score = expected["score"].as_f64().unwrap() as f32;
    let answer = answer(&mut plugin, vec![scores(expected["model_label"].as_str().unwrap(), score)]);
    assert_eq!((&answer["label"], &answer["model_label"]), (&expected["label"], &expected["model_label"]), "{name}");
    assert!((answer["score"].as_f64().unwrap() - f64::from(score)).abs() < 1e-6, "{name}: {answer}");
}

#[test]
fn every_sample_gives_the_references_features_and_label() {
    let samples = json_fixture("features.json")["samples"].as_object().unwrap().clone();
    assert_eq!(samples.len(), 15);
    for (name, expected) in &samples {
        assert_like_reference(name, &fixture(&format!("samples/{name}")), expected);
    }
    // Those expectations agree with the ones that came with the samples.
    for (name, expected) in json_fixture("expected.json").as_object().unwrap() {
        for field in ["label", "model_label", "score"] {
            assert_eq!(samples[name][field], expected[field], "{name}");
        }
    }
}

#[test]
fn odd_files_give_the_references_features_and_label() {
    let spaces = |count: usize| vec![b' '; count];
    let files: [(&str, Vec<u8>); 14] = [
        ("vertical tab and form feed", b"\x0b\x0c \t\r\n<?xml version='1.0'?>\x0b\x0c".to_vec()),
        ("other separators stay", b"\x1c\x1d\x1e\x1f\x85\xa0 separators \x1c\x1d\x1e\x1f\x85\xa0".to_vec()),
        ("long", (0..=255).collect::<Vec<u8>>().repeat(40)),
        ("white space longer than a block", [spaces(5000), b"text after it".to_vec(), vec![b'\n'; 5000]].concat()),
        ("white space, then a block's rest", [spaces(4090), b"0123456789abcdef".to_vec()].concat()),
        ("exactly one block", [spaces(1000), vec![b'x'; 2096], spaces(1000)].concat()),
        ("eight bytes", b"12345678".to_vec()),
        ("seven bytes", b"1234567".to_vec()),
        ("seven bytes in white space", b"  1234567  \n".to_vec()),
        ("seven bytes after white space", b" \n 1234567".to_vec()),
        ("seven bytes, no text", b"  \xff\xfe12345".to_vec()),
        ("empty", Vec::new()),
        ("only white space", b" \n".repeat(50)),
        ("a character cut by the block's end", [spaces(4095), "é".as_bytes().to_vec()].concat()),
    ];
    let expected = &json_fixture("features.json")["odd"];
    assert_eq!(expected.as_object().unwrap().len(), files.len());
    for (name, body) in &files {
        assert_like_reference(name, body, &expected[name]);
    }
}

#[test]
fn the_answer_says_what_magika_knows_of_the_label() {
    let mut plugin = plugin();
    features(&mut plugin, b"import sys\n");
    assert_eq!(
        answer(&mut plugin, vec![scores("python", 0.75)]),
        json!({
            "label": "python", "score": 0.75, "model_label": "python", "overwrite_reason": "none", "is_text": true,
            "mime_type": "text/x-python", "group": "code", "description": "Python source", "extensions": ["py", "pyi"]
        })
    );
}

fn judged(plugin: &mut FileType, label: &str, score: f32) -> [String; 2] {
    let answer = answer(plugin, vec![scores(label, score)]);
    ["label", "overwrite_reason"].map(|field| answer[field].as_str().unwrap().to_owned())
}

#[test]
fn a_score_under_its_threshold_becomes_text_or_unknown() {
    let mut plugin = plugin();
    for (label, score, expected) in [
        ("python", 0.5, ["python", "none"]),
        ("python", 0.499, ["txt", "low_confidence"]),
        ("png", 0.499, ["unknown", "low_confidence"]),
        // These have thresholds of their own.
        ("latex", 0.949, ["txt", "low_confidence"]),
        ("latex", 0.951, ["latex", "none"]),
        ("sql", 0.899, ["txt", "low_confidence"]),
        // The overwrite map comes first, and what it maps to decides which of the two it is.
        ("randomtxt", 0.9, ["txt", "overwrite_map"]),
        ("randombytes", 0.9, ["unknown", "overwrite_map"]),
        ("randombytes", 0.3, ["unknown", "low_confidence"]),
        ("txt", 0.3, ["txt", "none"]),
    ] {
        assert_eq!(judged(&mut plugin, label, score), expected, "{label} {score}");
    }
}

#[test]
fn the_mode_decides_how_sure_the_model_has_to_be() {
    for (mode, score, expected) in [
        ("high-confidence", 0.6, ["txt", "low_confidence"]),
        ("medium-confidence", 0.6, ["latex", "none"]),
        ("medium-confidence", 0.4, ["txt", "low_confidence"]),
        ("best-guess", 0.1, ["latex", "none"]),
    ] {
        let config = serde_json::from_value(json!({ "prediction_mode": mode })).unwrap();
        let mut plugin = FileType::init(magika(), config).unwrap();
        assert_eq!(judged(&mut plugin, "latex", score), expected, "{mode} {score}");
    }
}

#[test]
fn state_of_few_bytes_ends_with_the_next_file() {
    let mut plugin = plugin();
    features(&mut plugin, b"");
    assert_eq!(judged(&mut plugin, "python", 0.9)[0], "empty");
    features(&mut plugin, b"import sys\n");
    assert_eq!(judged(&mut plugin, "python", 0.9)[0], "python");
}

#[test]
fn magikas_own_file_is_a_configuration() {
    let config: Config = serde_json::from_slice(&fixture("config.min.json")).unwrap();
    let mut plugin = FileType::init(magika(), config).unwrap();
    assert_eq!(judged(&mut plugin, "markdown", 0.7), ["txt", "low_confidence"]);
    let config = json!({ "thresholds": { "markdown": 0.6 }, "overwrite_map": { "markdown": "mine" } });
    let mut plugin = FileType::init(magika(), serde_json::from_value(config).unwrap()).unwrap();
    assert_eq!(judged(&mut plugin, "markdown", 0.7), ["mine", "overwrite_map"]);
    // Nothing is known of a label that is not Magika's; it counts as binary.
    let answer = answer(&mut plugin, vec![scores("markdown", 0.7)]);
    assert_eq!((&answer["mime_type"], &answer["description"]), (&json!("application/octet-stream"), &json!("mine")));
    assert_eq!(judged(&mut plugin, "markdown", 0.5), ["unknown", "low_confidence"]);
}

fn refusal(model: Model, config: Value) -> String {
    let Err(error) = FileType::init(model, serde_json::from_value(config.clone()).unwrap()) else {
        panic!("{config} was accepted")
    };
    assert_eq!(error.code(), "invalid-config");
    error.message().to_owned()
}

#[test]
fn the_configuration_is_checked() {
    for (config, named) in [
        (json!({ "mid_size": 512 }), "`mid_size`"),
        (json!({ "use_inputs_at_offsets": true }), "`use_inputs_at_offsets`"),
        (json!({ "protection": "aes" }), "`protection`"),
        (json!({ "block_size": 0 }), "`block_size`"),
        (json!({ "block_size": 1000 }), "`beg_size` 1024 is over `block_size` 1000"),
        (json!({ "min_file_size_for_dl": 0 }), "`min_file_size_for_dl`"),
        (json!({ "thresholds": { "sql": 2 } }), "`thresholds.sql`"),
        (json!({ "medium_confidence_threshold": -1 }), "`medium_confidence_threshold`"),
        (json!({ "beg_size": 512 }), "INT32 [·,1536]"),
        (json!({ "target_labels_space": ["a", "b"] }), "FP32 [·,2], a score for each of `target_labels_space`"),
    ] {
        let message = refusal(magika(), config);
        assert!(message.contains(named), "{message}");
    }
    assert!(serde_json::from_value::<Config>(json!({ "begin_size": 1 })).is_err());
}

#[test]
fn a_model_of_another_kind_is_refused() {
    let with_labels = |labels: Vec<String>| Model { labels, ..magika() };
    assert!(FileType::init(with_labels(labels()), Config::default()).is_ok());
    assert!(refusal(with_labels(vec!["cat".into()]), json!({})).contains("the labels the model was uploaded with"));
    let own = json!({ "target_labels_space": labels() });
    assert!(refusal(with_labels(vec!["cat".into()]), own).contains("differs from the labels"));

    let mut floats = magika();
    floats.inputs[0].datatype = "FP32".into();
    assert!(refusal(floats, json!({})).contains("this one has `bytes` FP32 [-1, 2048]"));
    let two_outputs = Model { outputs: [magika().outputs, magika().outputs].concat(), ..magika() };
    assert!(refusal(two_outputs, json!({})).contains("one output"));
}

#[test]
fn a_request_in_json_is_told_from_a_file_of_json() {
    let body = br#"{"model_id": "magika", "file": "aGVsbG8="}"#;
    let request = Request { content_type: "application/json; charset=utf-8".into(), ..file(body) };
    let error = plugin().preprocess(request.clone()).unwrap_err();
    assert_eq!(error.code(), "invalid-input");
    assert!(error.message().contains("application/octet-stream"), "{error}");
    // Named in the query or a form, the model is known, and the body is a file.
    let parameters = vec![("model_id".to_owned(), "magika".to_owned())];
    assert!(plugin().preprocess(Request { parameters, ..request }).is_ok());
}

#[test]
fn outputs_that_are_no_scores_are_the_models_fault() {
    let refused = |outputs: Vec<Tensor>| -> Error {
        let mut plugin = plugin();
        features(&mut plugin, b"import sys\n");
        plugin.postprocess(outputs).unwrap_err()
    };
    let mut nan = vec![0.0; 214];
    nan[3] = f32::NAN;
    for (outputs, expected) in [
        (vec![], "one output"),
        (vec![Tensor::from_f32("s", [1, 3], [0.0; 3]).unwrap()], "3 scores"),
        (vec![Tensor::from_f32("s", [2, 214], [0.0; 428]).unwrap()], "428 scores"),
        (vec![Tensor::from_f32("s", [1, 214], nan).unwrap()], "NaN"),
        (vec![Tensor::from_i64("s", [1, 214], [0; 214]).unwrap()], "INT64"),
    ] {
        let error = refused(outputs);
        assert!(error.code() == "plugin" && error.message().contains(expected), "{error}");
    }
}

#[test]
fn the_golden_request_is_a_file_that_is_taken() {
    let mut plugin = plugin();
    let golden = plugin.golden().unwrap();
    plugin.preprocess(golden).unwrap();
    assert_eq!(judged(&mut plugin, "python", 0.9)[0], "python");
}
