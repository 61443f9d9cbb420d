//! What the answer is, by the outputs a model has.

use crate::support::{answer, classifier, plugin, request, spec};
use nexus_guest::{Error, Model, Plugin, Tensor, TensorSpec};
use serde_json::{Value, json};
use tabular::Tabular;

/// A plugin for a model of these outputs, which saw that many records; 0: one that came alone.
fn after(outputs: Vec<TensorSpec>, output: Value, records: usize) -> Result<Tabular, Error> {
    let config = json!({ "fields": [{ "name": "x", "kind": "numeric" }], "output": output });
    let mut plugin = plugin(Model { outputs, ..classifier(1) }, &config)?;
    let record = json!({ "x": 1 });
    let body = if records == 0 { json!({ "record": record }) } else { json!({ "records": vec![record; records] }) };
    plugin.preprocess(request(&body)).unwrap();
    Ok(plugin)
}

fn scores(shape: [i64; 2]) -> Vec<TensorSpec> {
    vec![spec("scores", "FP32", &shape)]
}

fn tensor(rows: u64, values: &[f32]) -> Vec<Tensor> {
    vec![Tensor::from_f32("scores", [rows, values.len() as u64 / rows], values).unwrap()]
}

fn single(shape: [i64; 2], output: Value, values: &[f32]) -> Value {
    answer(&mut after(scores(shape), output, 0).unwrap(), tensor(1, values)).unwrap()
}

#[test]
fn probabilities_are_named_and_the_label_is_the_label_outputs() {
    let outputs = || vec![spec("label", "INT64", &[-1]), spec("probabilities", "FP32", &[-1, 3])];
    let tensors = |class: i64| {
        vec![
            Tensor::from_i64("label", [1], [class]).unwrap(),
            Tensor::from_f32("probabilities", [1, 3], [0.1, 0.2, 0.7]).unwrap(),
        ]
    };
    let labels = json!({ "labels": ["a", "b", "c"] });
    let expected = json!({ "label": "c", "probabilities": { "a": 0.1, "b": 0.2, "c": 0.7 } });
    let response = after(outputs(), labels.clone(), 0).unwrap().postprocess(tensors(2)).unwrap();
    assert_eq!(
        String::from_utf8(response.body).unwrap(),
        expected.to_string(),
        "in order, and with no digits too many"
    );
    // The model's label counts where the two differ.
    assert_eq!(answer(&mut after(outputs(), labels.clone(), 0).unwrap(), tensors(1)).unwrap()["label"], "b");
    // A class that has no label, and labels that are missing altogether.
    assert_eq!(answer(&mut after(outputs(), labels, 0).unwrap(), tensors(-1)).unwrap()["label"], "-1");
    let unnamed = answer(&mut after(outputs(), json!({}), 0).unwrap(), tensors(2)).unwrap();
    assert_eq!((&unnamed["label"], &unnamed["probabilities"]["1"]), (&json!("2"), &json!(0.2)));

    let mut only_label = after(vec![spec("label", "INT32", &[-1, 1])], json!({ "labels": ["a", "b"] }), 2).unwrap();
    let output = vec![Tensor::from_values("label", [2, 1], [1_i32, 0]).unwrap()];
    assert_eq!(
        answer(&mut only_label, output).unwrap(),
        json!({ "predictions": [{ "label": "b" }, { "label": "a" }] })
    );
}

#[test]
fn a_bare_vector_of_scores_is_ranked() {
    let abc = |scores: &str| json!({ "labels": ["a", "b", "c"], "scores": scores });
    let logits = single([-1, 3], abc("auto"), &[0.0, 2.0, 0.0]);
    assert_eq!(logits["label"], "b");
    let probability = logits["probabilities"]["b"].as_f64().unwrap();
    assert!((probability - 0.786_986).abs() < 1e-6, "{logits}");
    assert_eq!(single([-1, 3], abc("auto"), &[0.25, 0.25, 0.5])["probabilities"]["c"], 0.5);
    assert!(single([-1, 3], abc("logits"), &[0.25, 0.25, 0.5])["probabilities"]["c"].as_f64().unwrap() < 0.4);
    assert_eq!(single([-1, 3], abc("logits"), &[1000.0, 0.0, 0.0])["probabilities"]["a"], 1.0);
    assert_eq!(
        single([-1, 3], abc("raw"), &[-1.5, 2.0, 0.0]),
        json!({ "label": "b", "scores": { "a": -1.5, "b": 2.0, "c": 0.0 } })
    );
    // The first among equals.
    assert_eq!(single([-1, 3], abc("raw"), &[1.0, 1.0, 1.0])["label"], "a");
}

#[test]
fn a_single_score_is_the_second_class() {
    let binary = |more: Value| {
        let mut output = json!({ "labels": ["no", "yes"] });
        output.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        output
    };
    assert_eq!(
        single([-1, 1], binary(json!({})), &[0.75]),
        json!({ "label": "yes", "probabilities": { "no": 0.25, "yes": 0.75 } })
    );
    assert_eq!(single([-1, 1], binary(json!({})), &[0.25])["label"], "no");
    assert_eq!(single([-1, 1], binary(json!({ "threshold": 0.8 })), &[0.75])["label"], "no");
    let logit = single([-1, 1], binary(json!({ "scores": "logits" })), &[0.0]);
    assert_eq!(logit, json!({ "label": "yes", "probabilities": { "no": 0.5, "yes": 0.5 } }));
    let raw = binary(json!({ "scores": "raw" }));
    assert_eq!(single([-1, 1], raw, &[-0.5]), json!({ "label": "no", "scores": { "yes": -0.5 } }));
    assert_eq!(single([-1, 1], json!({ "task": "classification" }), &[0.75])["label"], "1");
    // A threshold decides between two columns too, over the model's own label.
    assert_eq!(single([-1, 2], binary(json!({ "threshold": 0.2 })), &[0.75, 0.25])["label"], "yes");

    let mut plugin = after(scores([-1, 1]), binary(json!({})), 0).unwrap();
    let error = plugin.postprocess(tensor(1, &[3.5])).unwrap_err();
    assert!(error.code() == "plugin" && error.message().contains("`output.scores`"), "{error}");
}

#[test]
fn a_regression_answers_values() {
    assert_eq!(single([-1, 1], json!({}), &[3.5]), json!({ "value": 3.5 }));
    let task = json!({ "task": "regression", "labels": ["x", "y"] });
    assert_eq!(single([-1, 2], task, &[1.0, 7.0]), json!({ "values": { "x": 1.0, "y": 7.0 } }));
    let mut double = after(vec![spec("y", "FP64", &[-1])], json!({}), 2).unwrap();
    let output = vec![Tensor::from_values("y", [2], [0.1_f64, 1e300]).unwrap()];
    assert_eq!(answer(&mut double, output).unwrap(), json!({ "predictions": [{ "value": 0.1 }, { "value": 1e300 }] }));
}

#[test]
fn a_list_is_answered_with_a_list() {
    let mut bound = after(scores([-1, 2]), json!({ "labels": ["a", "b"] }), 1).unwrap();
    let listed = answer(&mut bound, tensor(1, &[0.5, 0.5])).unwrap();
    assert_eq!(listed["predictions"].as_array().unwrap().len(), 1);
    // Without preprocess, nothing says whether one row came alone; it is answered as one.
    let model = Model { outputs: scores([-1, 2]), ..classifier(1) };
    let mut postprocess_only = plugin(model, &json!({})).unwrap();
    assert_eq!(postprocess_only.golden(), None);
    let error = postprocess_only.preprocess(request(&json!({ "record": {} }))).unwrap_err();
    assert!(error.message().contains("`fields` is empty"), "{error}");
    assert_eq!(answer(&mut postprocess_only, tensor(1, &[0.5, 0.5])).unwrap()["label"], "0");
    let two = answer(&mut postprocess_only, tensor(2, &[0.5, 0.5, 0.0, 1.0])).unwrap();
    assert_eq!(two["predictions"][1]["label"], "1");
}

#[test]
fn outputs_are_checked_against_the_configuration() {
    for (outputs, output, expected) in [
        (
            scores([-1, 3]),
            json!({ "labels": ["a", "b"] }),
            "2 labels (`output.labels`, else the model's) for a score output of 3",
        ),
        (scores([-1, 1]), json!({ "labels": ["a"] }), "expected 2"),
        (scores([-1, 2]), json!({ "labels": ["a", "a"] }), "the label `a` is two classes'"),
        (scores([-1, 3]), json!({ "threshold": 0.5 }), "`output.threshold` is for models with two classes"),
        (
            scores([-1, 3]),
            json!({ "scores_output": "p" }),
            "`output.scores_output`: the model has no output `p`; its outputs: `scores`",
        ),
        (
            scores([-1, 3]),
            json!({ "label_output": "scores" }),
            "`output.label_output`: `scores` is FP32 [-1, 3], expected INT64",
        ),
        (vec![spec("mask", "FP32", &[-1, 1, 8, 8])], json!({}), "no output is a label"),
    ] {
        let Err(error) = after(outputs, output, 0) else { panic!("accepted: {expected}") };
        assert!(error.code() == "invalid-config" && error.message().contains(expected), "{error}");
    }
}

#[test]
fn outputs_that_are_broken_are_the_models_fault() {
    let abc = json!({ "labels": ["a", "b", "c"] });
    let refused =
        |outputs: Vec<Tensor>| after(scores([-1, -1]), abc.clone(), 0).unwrap().postprocess(outputs).unwrap_err();
    for (outputs, expected) in [
        (vec![], "gave no output `scores`"),
        (tensor(1, &[f32::NAN, 0.0, 0.0]), "NaN"),
        (tensor(1, &[0.5, 0.5]), "3 labels for 2 classes"),
        (vec![Tensor::from_f32("scores", [0, 3], []).unwrap()], "is empty"),
    ] {
        let error = refused(outputs);
        assert!(error.code() == "plugin" && error.message().contains(expected), "{error}");
    }
}
