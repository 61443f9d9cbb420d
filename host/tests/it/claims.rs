//! Requests that claim more than they bring: a few bytes that speak of very many.

use std::io::Write;
use std::sync::Arc;

use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field};
use futures_util::StreamExt;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};

use crate::batch_tables::parquet;
use crate::binary::{Process, client};
use crate::onnx_file::{self, int, ints, node, value};
use crate::parquet_file::{
    BYTE_ARRAY, DELTA_LENGTH_BYTE_ARRAY, FLOAT, GZIP, LZ4, PLAIN, REPEATED, REQUIRED, Struct, group, leaf, of_columns,
    of_packed_page, of_page, of_schema, varint,
};
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

/// What comes of a file of rows, as far as it comes.
async fn batch(process: &Process, model: &str, file: Vec<u8>) -> String {
    let request = client().post(process.url(&format!("/models/{model}/batch")));
    let request =
        request.header("content-type", "application/vnd.apache.parquet").header("accept", "application/x-ndjson");
    let mut pieces = request.body(file).send().await.unwrap().bytes_stream();
    let mut answers = Vec::new();
    while let Some(Ok(piece)) = pieces.next().await {
        answers.extend_from_slice(&piece);
    }
    String::from_utf8(answers).unwrap()
}

#[tokio::test]
async fn a_parquet_file_that_claims_more_than_it_has_is_refused() {
    let models = [("rows", onnx_file::rows_of_any_length()), ("words", onnx_file::identity(8, &[-1]))];
    let (process, _store) = process_with(&models).await;
    // One list of two thousand million numbers: a level of 0 and then 1, as often as that, in a few bytes.
    let most = i64::from(i32::MAX);
    let levels = [vec![2, 0], varint((most as u64 - 1) * 2), vec![1]].concat();
    let levels = [(levels.len() as u32).to_le_bytes().to_vec(), levels].concat();
    let there = [varint(most as u64 * 2), vec![1]].concat();
    let there = [(there.len() as u32).to_le_bytes().to_vec(), there].concat();
    let long_list = of_page(FLOAT, REPEATED, most, PLAIN, &[levels, there].concat());
    // Texts with so many lengths in front of them: blocks of 128 in 4 parts.
    let lengths = [vec![0x80, 0x01, 4], varint(1 << 40), vec![0]].concat();
    let many_lengths = of_page(BYTE_ARRAY, REQUIRED, 1, DELTA_LENGTH_BYTE_ARRAY, &lengths);
    let many_columns = of_schema(vec![group("schema", most), leaf("x", FLOAT, REQUIRED)]);
    let nested = std::iter::repeat_n(group("x", 1), 200_000).chain([leaf("x", FLOAT, REQUIRED)]);
    let nested = of_schema(nested.collect());
    // The library knows fields by their numbers, of which it takes the lower 16 bits, whatever their kind is.
    let by_other_means = |group: fn(i64) -> Struct| {
        let nested = std::iter::repeat_n(group(1), 200_000).chain([leaf("x", FLOAT, REQUIRED)]);
        [of_schema(nested.collect()), of_schema(vec![group(i64::from(i32::MAX)), leaf("x", FLOAT, REQUIRED)])]
    };
    let [wide_nested, wide_columns] =
        by_other_means(|children| Struct::default().i32(3, 0).text(4, "x").i64(5, children));
    let [far_nested, far_columns] =
        by_other_means(|children| Struct::default().i32(3, 0).text(4, "x").i32_at(65_541, children));
    for (model, file, expected) in [
        ("rows", long_list, "smaller pages"),
        ("words", many_lengths, "lengths of a page's texts are damaged"),
        ("rows", many_columns, "more columns than it has"),
        ("rows", nested, "nested too deep"),
        ("rows", wide_nested, "footer is damaged"),
        ("rows", wide_columns, "footer is damaged"),
        ("rows", far_nested, "footer is damaged"),
        ("rows", far_columns, "footer is damaged"),
    ] {
        let answer = batch(&process, model, file).await;
        assert!(answer.contains("not readable as Parquet") && answer.contains(expected), "{expected}: {answer}");
    }
    // What is made in the same way and claims nothing that is not there is read.
    let text = of_page(BYTE_ARRAY, REQUIRED, 1, DELTA_LENGTH_BYTE_ARRAY, &[0x80, 0x01, 4, 1, 6, b'a', b'b', b'c']);
    assert_eq!(batch(&process, "words", text).await, "{\"row\":0,\"prediction\":\"abc\"}\n");
    let list = [&[2, 0, 0, 0, 2, 0][..], &[2, 0, 0, 0, 2, 1], &1.5f32.to_le_bytes()].concat();
    let list = of_page(FLOAT, REPEATED, 1, PLAIN, &list);
    assert_eq!(batch(&process, "rows", list).await, "{\"row\":0,\"prediction\":[1.5]}\n");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_page_unpacks_to_no_more_than_a_page_may_have() {
    let (process, _store) = process_with(&[("words", onnx_file::identity(8, &[-1]))]).await;
    let gzip = |bytes: &[u8]| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    };
    let before = process.most_resident();
    // 1 GiB of nothing in a page that speaks of a hundred bytes.
    let zeros = gzip(&vec![0; 1 << 20]).repeat(1024);
    let zeros = of_packed_page(BYTE_ARRAY, REQUIRED, 1, PLAIN, (GZIP, 100), &zeros);
    let answer = batch(&process, "words", zeros).await;
    assert!(answer.contains("unpacks to more than 268435456 bytes"), "{answer}");
    let grown = process.most_resident() - before;
    assert!(grown < 600 << 20, "{grown} bytes");
    let text = [&3u32.to_le_bytes()[..], b"abc"].concat();
    let file = of_packed_page(BYTE_ARRAY, REQUIRED, 1, PLAIN, (GZIP, text.len()), &gzip(&text));
    assert_eq!(batch(&process, "words", file).await, "{\"row\":0,\"prediction\":\"abc\"}\n");
    // One block, as it is, in the frame that LZ4's own tool makes, of which there is no telling how much it unpacks to.
    let frame = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
    let frame = [&frame[..], &(7u32 | 1 << 31).to_le_bytes(), &text, &[0; 4]].concat();
    let file = of_packed_page(BYTE_ARRAY, REQUIRED, 1, PLAIN, (LZ4, text.len()), &frame);
    let answer = batch(&process, "words", file).await;
    assert!(answer.contains("not readable as Parquet"), "{answer}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn pages_of_many_columns_have_a_limit_together() {
    const PAGE: usize = 8 << 20;
    let (process, _store) = process_with(&[("rows", onnx_file::rows_of_any_length())]).await;
    let mut zeros = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zeros.write_all(&vec![0; PAGE]).unwrap();
    let zeros = zeros.finish().unwrap();
    let columns = |count: usize| (0..count).map(|column| format!("x{column}")).collect::<Vec<_>>();
    let numbers = |count: usize| of_columns(&columns(count), (FLOAT, REQUIRED), 1, PLAIN, (GZIP, PAGE), &zeros);
    // Lengths of texts, each of nothing, in one block: a few bytes for 64 MiB in memory.
    let most = 16 << 20;
    let lengths = [varint(most), varint(1), varint(most), vec![0, 0, 0]].concat();
    let packed = (0, lengths.len());
    let texts =
        of_columns(&columns(50), (BYTE_ARRAY, REQUIRED), most as i64, DELTA_LENGTH_BYTE_ARRAY, packed, &lengths);
    let before = process.most_resident();
    for file in [numbers(1000), texts] {
        assert!(file.len() < 1 << 20, "{} bytes", file.len());
        let answer = batch(&process, "rows", file).await;
        assert!(answer.contains("take more than 2147483648 bytes"), "{answer}");
    }
    let grown = process.most_resident() - before;
    assert!(grown < 2600 << 20, "{grown} bytes");
    // As many as fit are looked at row by row, for which these are the wrong ones.
    let answer = batch(&process, "rows", numbers(3)).await;
    assert!(answer.starts_with("{\"row\":0,\"error\""), "{answer}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn rows_of_long_texts_are_decoded_few_at_a_time() {
    const LENGTH: usize = 8 << 20;
    const ROWS: usize = 60;
    let (process, _store) = process_with(&[("words", onnx_file::identity(8, &[-1]))]).await;
    let long = "a".repeat(LENGTH);
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..ROWS).map(|row| format!("{row}{long}"))));
    let texts = RecordBatch::try_from_iter([("x", texts)]).unwrap();
    for encoding in [Encoding::PLAIN, Encoding::DELTA_BYTE_ARRAY] {
        let properties = WriterProperties::builder().set_dictionary_enabled(false).set_write_batch_size(1);
        let properties = properties.set_compression(Compression::SNAPPY).set_encoding(encoding).build();
        let mut writer = ArrowWriter::try_new(Vec::new(), texts.schema(), Some(properties)).unwrap();
        writer.write(&texts).unwrap();
        let file = writer.into_inner().unwrap();
        let before = process.most_resident();
        let answers = batch(&process, "words", file).await;
        assert_eq!(answers.lines().count(), ROWS, "{answers:.200}");
        assert!(answers.lines().all(|line| line.len() > LENGTH), "{answers:.200}");
        // All texts at once are 500 MB.
        let grown = process.most_resident() - before;
        assert!(grown < 300 << 20, "{encoding}: {grown} bytes");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn rows_of_long_lists_are_decoded_few_at_a_time() {
    const LENGTH: usize = 200_000;
    const ROWS: usize = 130;
    let mean = node("ReduceMean", &["x"], &["y"]).message(5, ints("axes", &[1])).message(5, int("keepdims", 0));
    let (x, y) = (value("x", 1, &[-1, LENGTH as i64]), value("y", 1, &[-1]));
    let (process, _store) = process_with(&[("mean", onnx_file::model(vec![mean], vec![], vec![x], vec![y]))]).await;
    let numbers = Arc::new(Float32Array::from(vec![0.5; LENGTH * ROWS]));
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let file = parquet(vec![("x", Arc::new(FixedSizeListArray::new(item, LENGTH as i32, numbers, None)))]);
    assert!(file.len() < 1 << 20, "{} bytes", file.len());
    let before = process.most_resident();
    let answers = batch(&process, "mean", file).await;
    assert!(answers.lines().all(|line| line.ends_with("\"prediction\":0.5}")), "{answers:.200}");
    assert_eq!(answers.lines().count(), ROWS);
    // All rows at once are more than 200 MB.
    let grown = process.most_resident() - before;
    assert!(grown < 150 << 20, "{grown} bytes");
}
