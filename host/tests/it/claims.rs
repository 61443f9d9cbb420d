//! Requests that claim more than they bring: a few bytes that speak of very many.

use serde_json::{Value, json};

use crate::binary::{Process, client};
use crate::onnx_file;
use crate::support::answer;

/// A host of its own, so that one that ends is one failure and not that of all tests, with these models.
async fn process_with(models: &[(&str, Vec<u8>)]) -> (Process, tempfile::TempDir) {
    let store = tempfile::tempdir().unwrap();
    for (id, model) in models {
        let folder = store.path().join(format!("models/{id}/1"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("model.onnx"), model).unwrap();
    }
    let mut process = Process::start(store.path(), &["--listen", "127.0.0.1:0"], &[], store.path());
    process.healthy().await;
    (process, store)
}

#[tokio::test]
async fn rows_that_hold_nothing_take_no_memory_however_many_there_are() {
    let (process, _store) = process_with(&[("rows", onnx_file::rows_of_any_length())]).await;
    let info = client().get(process.url("/models/info?id=rows")).send().await.unwrap();
    let (_, info) = answer(info).await;
    assert_eq!(info["info"]["engine"]["batch_rows"], 64, "{info}");
    let predict = async |shape: Value| {
        let input = json!({ "shape": shape, "data": [] });
        let body = json!({ "model_id": "rows", "inputs": { "x": input } });
        answer(client().post(process.url("/predict")).json(&body).send().await.unwrap()).await
    };
    let infer = async |shape: Value| {
        let input = json!({ "name": "x", "shape": shape, "datatype": "FP32", "data": [] });
        let body = json!({ "inputs": [input] });
        answer(client().post(process.url("/v2/models/rows/infer")).json(&body).send().await.unwrap()).await
    };
    for shape in [json!([1_000_000_000_000_000_u64, 0]), json!([10_000_000_000_u64, 0]), json!([0, 10_000_000_000_u64])]
    {
        for (status, refused) in [predict(shape.clone()).await, infer(shape.clone()).await] {
            assert_eq!(status, 400, "{shape}: {refused}");
            assert!(refused["error"].as_str().unwrap().contains("has no elements"), "{refused}");
        }
    }
    // What somebody may well send goes through, as it is.
    for shape in [json!([100_000, 0]), json!([0, 3]), json!([0, 0])] {
        let (status, answer) = predict(shape.clone()).await;
        assert_eq!((status, &answer["outputs"]["y"]["shape"]), (200, &shape), "{answer}");
        let (status, answer) = infer(shape.clone()).await;
        assert_eq!((status, &answer["outputs"][0]["shape"]), (200, &shape), "{answer}");
    }
    let (status, answer) = predict(json!([2, 2])).await;
    assert_eq!(status, 400, "{answer}");
}
