//! `POST /models/{id}/batch` with tables: CSV and Parquet.

use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, Float64Builder, ListBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int64Type};
use arrow_array::{
    Array, ArrayRef, BinaryArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use reqwest::Body;
use serde_json::{Value, json};

use crate::onnx_file;
use crate::support::{Host, answer, bundle, error_message, fixture};

const CSV: &str = "text/csv";
const NDJSON: &str = "application/x-ndjson";
const PARQUET: &str = "application/vnd.apache.parquet";

/// The answer's body, in the format that was asked for.
async fn ask(host: &Host, path: &str, from: &str, to: &str, body: impl Into<Body>) -> Bytes {
    let request = host.client.post(format!("{}/models/{path}", host.url)).header("content-type", from);
    let response = request.header("accept", to).body(body).send().await.unwrap();
    let content_type = response.headers()["content-type"].clone();
    let answers = response.bytes().await.unwrap();
    assert_eq!(content_type, to, "{}", String::from_utf8_lossy(&answers));
    answers
}

async fn csv(host: &Host, path: &str, body: impl Into<Body>) -> Vec<String> {
    let answers = ask(host, path, CSV, CSV, body).await;
    String::from_utf8(answers.to_vec()).unwrap().lines().map(str::to_owned).collect()
}

async fn refused(host: &Host, path: &str, from: &str, body: impl Into<Body>) -> (u16, String) {
    let request = host.client.post(format!("{}/models/{path}", host.url)).header("content-type", from);
    let (status, refused) = answer(request.body(body).send().await.unwrap()).await;
    (status, error_message(&refused).to_owned())
}

/// The label column of records that have one after the row.
fn labels(records: &[String]) -> Vec<&str> {
    records.iter().skip(1).map(|record| record.split(',').nth(1).unwrap()).collect()
}

#[tokio::test]
async fn a_csv_file_has_its_columns_in_order_or_is_told_which() {
    let (host, _store) = Host::with_iris(&[]).await;
    let header = "row,label,probabilities.0,probabilities.1,probabilities.2,error";
    let plain = csv(&host, "iris/batch", "5.1,3.5,1.4,0.2\n6.7, 3.0 ,5.2,2.3\n").await;
    assert_eq!((plain[0].as_str(), plain.len(), labels(&plain)), (header, 3, vec!["0", "2"]));
    assert!(plain[1].starts_with("0,0,0.98") && plain[1].ends_with(','), "{}", plain[1]);
    let named = csv(&host, "iris/batch", "\u{feff}a,b,c,d\r\n5.1,3.5,1.4,0.2\r\n\"6.7\",3.0,5.2,2.3").await;
    assert_eq!(named, plain);

    let file = std::fs::read(fixture("models/iris/iris.csv")).unwrap();
    let (status, message) = refused(&host, "iris/batch", CSV, file.clone()).await;
    assert_eq!(status, 400);
    assert!(message.contains("5 columns") && message.contains("species") && message.contains("columns="), "{message}");
    let columns = "iris/batch?columns=sepal_length,sepal_width,petal_length,petal_width";
    let answers = csv(&host, columns, file.clone()).await;
    let species: Vec<Value> =
        String::from_utf8(file).unwrap().lines().skip(1).map(|line| json!(line.rsplit(',').next().unwrap())).collect();
    let right = labels(&answers).iter().zip(&species).filter(|(label, species)| **species == json!(label)).count();
    assert_eq!(answers.len(), species.len() + 1);
    assert!(right * 10 > species.len() * 9, "{right} of {}", species.len());
    let (status, message) = refused(&host, "iris/batch?columns=a,b", CSV, "c,d\n1,2\n").await;
    assert!(status == 400 && message.contains("no column \"a\""), "{message}");

    host.upload("add", "1", onnx_file::add()).await;
    let answers = csv(&host, "add/batch", "right,other,id,left\n1,x,first,2.5\n1,y,\"a \"\"b\"\", c\",3\n").await;
    assert_eq!(answers, ["row,id,sum,error", "0,first,3.5,", "1,\"a \"\"b\"\", c\",4.0,"]);
    assert_eq!(csv(&host, "iris/batch", "").await, [header]);
    assert_eq!(csv(&host, "iris/batch?header=true", "1,2,3,4\n").await, [header]);
}

#[tokio::test]
async fn a_bad_record_is_an_error_in_its_place() {
    let (host, _store) = Host::with_iris(&["--max-body-bytes", "8KiB"]).await;
    let body = "5.1,3.5,1.4,0.2\n1,2,3\n1,2,,4\n1,\"x,\"\"y\",3,4\n1e99,2,3,4\nnan,2,3,4\n6.7,3.0,5.2,2.3\n";
    let answers = csv(&host, "iris/batch?header=false", body).await;
    assert_eq!(answers.len(), 8);
    assert!(answers[1].starts_with("0,0,") && answers[7].starts_with("6,2,"), "{answers:?}");
    let expected = [
        (2, "3 cells, the file 4 columns"),
        (3, "the cell is empty"),
        (4, "got \"\"x,\\\"\"y\"\""),
        (5, "expected FP32, got"),
    ];
    for (line, problem) in expected {
        assert!(answers[line].starts_with(&format!("{},,,,,", line - 1)), "{}", answers[line]);
        assert!(answers[line].contains(problem), "{problem}: {}", answers[line]);
    }
    assert!(answers[6].contains("NaN"), "{}", answers[6]);
    // What cannot be found the end of ends the job, after an error in its place.
    let mut open = String::from("5.1,3.5,1.4,0.2\n\"1,2,3,4\n");
    open.extend(std::iter::repeat_n("1,2,3,4\n", 100_000));
    let request = host.client.post(format!("{}/models/iris/batch", host.url)).header("content-type", CSV);
    let response = request.body(open).send().await.unwrap();
    assert!(response.bytes().await.is_err());
    host.assert_serves().await;
}

pub fn parquet(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    // In two row groups.
    let half = batch.num_rows() / 2;
    writer.write(&batch.slice(0, half)).unwrap();
    writer.flush().unwrap();
    writer.write(&batch.slice(half, batch.num_rows() - half)).unwrap();
    writer.into_inner().unwrap()
}

/// All rows of a file, as one batch.
fn rows_of(file: Bytes) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().with_batch_size(1 << 20).build().unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    assert!(batches.len() <= 1, "{} batches", batches.len());
    batches.into_iter().next().unwrap()
}

fn iris_columns(rows: usize) -> Vec<(&'static str, ArrayRef)> {
    let column = |first: f32| -> ArrayRef {
        Arc::new(Float32Array::from_iter_values((0..rows).map(|row| first + (row % 30) as f32 / 10.0)))
    };
    vec![("a", column(4.5)), ("b", column(2.0)), ("c", column(1.0)), ("d", column(0.1))]
}

fn integers(batch: &RecordBatch, name: &str) -> Vec<i64> {
    batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().values().to_vec()
}

#[tokio::test]
async fn a_parquet_file_comes_back_with_the_outputs_as_columns() {
    let (host, _store) = Host::with_iris(&[]).await;
    let rows = 20_000;
    let columns = iris_columns(rows);
    let file = parquet(columns.clone());
    let answers = rows_of(ask(&host, "iris/batch", PARQUET, PARQUET, file.clone()).await);
    let names: Vec<String> = answers.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["row", "label", "probabilities", "error"]);
    assert_eq!(integers(&answers, "row"), (0..rows as i64).collect::<Vec<_>>());
    assert_eq!(answers.column_by_name("error").unwrap().null_count(), rows);
    let lists = answers.column_by_name("probabilities").unwrap().as_fixed_size_list();
    assert_eq!((lists.value_length(), lists.values().len()), (3, rows * 3));
    let value = |column: usize, row: usize| columns[column].1.as_primitive::<Float32Type>().value(row);
    for row in [0, 1, 8191, 8192, 10_000, rows - 1] {
        let features = [value(0, row), value(1, row), value(2, row), value(3, row)];
        let (_, alone) = host.predict(json!({ "model_id": "iris", "features": features })).await;
        assert_eq!(json!([integers(&answers, "label")[row]]), alone["prediction"], "row {row}");
        let probabilities = lists.value(row);
        for (one, other) in probabilities
            .as_primitive::<Float32Type>()
            .values()
            .iter()
            .zip(alone["outputs"]["probabilities"]["data"].as_array().unwrap())
        {
            assert!((f64::from(*one) - other.as_f64().unwrap()).abs() < 1e-5, "row {row}");
        }
    }
    let lines = ask(&host, "iris/batch", PARQUET, NDJSON, file).await;
    let labels: Vec<i64> = String::from_utf8(lines.to_vec())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["prediction"]["label"].as_i64().unwrap())
        .collect();
    assert_eq!(labels, integers(&answers, "label"));
    let none = rows_of(ask(&host, "iris/batch", NDJSON, PARQUET, "[1]\n").await);
    assert!(none.column_by_name("error").unwrap().as_string::<i32>().value(0).contains("[1]"));
}

#[tokio::test]
async fn numbers_of_other_types_lists_names_and_nulls() {
    let (host, _store) = Host::with_iris(&[]).await;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(StringArray::from(vec![Some("x"), None, Some("z"), Some("w")]))),
        ("a", Arc::new(Float64Array::from(vec![5.1, 6.7, 1e99, 5.1]))),
        ("b", Arc::new(Int32Array::from(vec![Some(3), Some(3), Some(3), None]))),
        ("c", Arc::new(Float32Array::from(vec![1.4, 5.2, 1.0, 1.4]))),
        ("d", Arc::new(Int64Array::from(vec![0, 2, 0, 0]))),
    ];
    let answers = rows_of(ask(&host, "iris/batch", PARQUET, PARQUET, parquet(columns)).await);
    let label = answers.column_by_name("label").unwrap().as_primitive::<Int64Type>();
    assert_eq!(label.iter().collect::<Vec<_>>(), [Some(0), Some(2), None, None]);
    let ids = answers.column_by_name("id").unwrap().as_string::<i32>();
    assert_eq!(ids.iter().collect::<Vec<_>>(), [Some("x"), None, Some("z"), Some("w")]);
    let errors = answers.column_by_name("error").unwrap().as_string::<i32>();
    assert!(errors.value(2).contains("column a: expected FP32, got 1e99"), "{}", errors.value(2));
    assert!(errors.value(3).contains("column b: the value is null"), "{}", errors.value(3));
    assert!(answers.column_by_name("probabilities").unwrap().is_null(2));

    let mut lists = ListBuilder::new(Float64Builder::new());
    for list in [&[5.1, 3.5, 1.4, 0.2][..], &[1.0], &[6.7, 3.0, 5.2, 2.3]] {
        lists.append_value(list.iter().copied().map(Some));
    }
    let lists: ArrayRef = Arc::new(lists.finish());
    for name in ["X", "features"] {
        let file = parquet(vec![(name, Arc::clone(&lists))]);
        let answers = rows_of(ask(&host, "iris/batch", PARQUET, PARQUET, file).await);
        let label = answers.column_by_name("label").unwrap().as_primitive::<Int64Type>();
        assert_eq!(label.iter().collect::<Vec<_>>(), [Some(0), None, Some(2)]);
    }
    host.upload("words", "1", onnx_file::identity(8, &[-1, 2])).await;
    let texts = |texts: [&str; 2]| -> ArrayRef { Arc::new(StringArray::from(texts.to_vec())) };
    let answers = rows_of(
        ask(&host, "words/batch", PARQUET, PARQUET, parquet(vec![("p", texts(["a", "b"])), ("q", texts(["c", "d"]))]))
            .await,
    );
    let pairs = answers.column_by_name("y").unwrap().as_fixed_size_list().value(1);
    assert_eq!(pairs.as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["b", "d"]);
    let (status, message) = refused(&host, "iris/batch", PARQUET, parquet(vec![("p", texts(["a", "b"]))])).await;
    assert!(status == 400 && message.contains("X FP32[·,4]"), "{message}");
}

#[tokio::test]
async fn a_parquet_file_may_be_packed_by_any_common_codec() {
    let (host, _store) = Host::with_iris(&[]).await;
    let columns = iris_columns(3000);
    let expected = ask(&host, "iris/batch", PARQUET, NDJSON, parquet(columns.clone())).await;
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let gzip = Compression::GZIP(GzipLevel::default());
    let zstd = Compression::ZSTD(ZstdLevel::default());
    for codec in [Compression::SNAPPY, gzip, Compression::LZ4, Compression::LZ4_RAW, zstd] {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            let properties = WriterProperties::builder().set_compression(codec).set_writer_version(version).build();
            let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
            writer.write(&batch).unwrap();
            let answers = ask(&host, "iris/batch", PARQUET, NDJSON, writer.into_inner().unwrap()).await;
            assert_eq!(answers, expected, "{codec} {version:?}");
        }
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_are_a_bad_row() {
    let (host, _store) = Host::with_iris(&[]).await;
    host.upload("pairs", "1", onnx_file::identity(8, &[-1, 2])).await;
    let [x, y] = ["x", "y"].map(|name| onnx_file::open_value(name, 8, &["batch", "length"]));
    let any = onnx_file::model(vec![onnx_file::node("Identity", &["x"], &["y"])], vec![], vec![x], vec![y]);
    host.upload("any", "1", any).await;
    let (good, bad) = (&b"a"[..], &b"\xff\xfe"[..]);
    let bytes = |values: [&[u8]; 3]| -> ArrayRef { Arc::new(BinaryArray::from(values.to_vec())) };
    let mut lists = ListBuilder::new(BinaryBuilder::new());
    for value in [good, bad, good] {
        lists.append_value([Some(good), Some(value)]);
    }
    let lists: ArrayRef = Arc::new(lists.finish());
    let scalars = vec![("p", bytes([good; 3])), ("q", bytes([good, bad, good]))];
    let ids = |id: ArrayRef| vec![("id", id), ("x", Arc::clone(&lists))];
    let good_lists = {
        let mut lists = ListBuilder::new(BinaryBuilder::new());
        (0..3).for_each(|_| lists.append_value([Some(good), Some(good)]));
        Arc::new(lists.finish())
    };
    let bad_id: Vec<(&str, ArrayRef)> = vec![("id", bytes([good, bad, good])), ("x", good_lists)];
    for (model, columns, column) in [
        ("pairs", scalars, "column q"),
        ("pairs", ids(bytes([good; 3])), "column x"),
        ("pairs", bad_id.clone(), "column id"),
        ("any", ids(bytes([good; 3])), "column x"),
        ("any", bad_id, "column id"),
    ] {
        let answers = ask(&host, &format!("{model}/batch"), PARQUET, NDJSON, parquet(columns)).await;
        let answers: Vec<Value> = String::from_utf8(answers.to_vec())
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(answers.len(), 3, "{model}, {column}: {answers:?}");
        assert_eq!((&answers[0]["prediction"], &answers[2]["prediction"]), (&json!(["a", "a"]), &json!(["a", "a"])));
        let problem = answers[1]["error"].as_str().unwrap();
        assert!(problem.contains(column) && problem.contains("UTF-8"), "{model}, {column}: {problem}");
    }
}

#[tokio::test]
async fn what_is_said_to_be_json_and_is_no_text_is_a_bad_row() {
    let (host, _store) = Host::with_iris(&[]).await;
    host.upload("words", "1", onnx_file::identity(8, &[-1])).await;
    let schema = Arc::new(parse_message_type("message rows { required binary x (JSON); }").unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values = [ByteArray::from("1"), ByteArray::from(vec![0xff, 0xfe])];
    column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    let answers = ask(&host, "words/batch", PARQUET, NDJSON, writer.into_inner().unwrap()).await;
    let expected = "{\"row\":0,\"prediction\":\"1\"}\n{\"row\":1,\"error\":\"column x: the value is not UTF-8\"}\n";
    assert_eq!(answers, expected);
}

#[tokio::test]
async fn rows_of_any_length_have_floats_that_are_no_numbers() {
    let (host, _store) = Host::with_iris(&[]).await;
    host.upload("rows", "1", onnx_file::rows_of_any_length()).await;
    let mut lists = ListBuilder::new(Float64Builder::new());
    lists.append_value([Some(1.5), Some(f64::NAN)]);
    lists.append_value([Some(f64::INFINITY), Some(f64::NEG_INFINITY)]);
    let file = parquet(vec![("x", Arc::new(lists.finish()))]);
    let answers = ask(&host, "rows/batch", PARQUET, NDJSON, file).await;
    let expected =
        "{\"row\":0,\"prediction\":[1.5,\"NaN\"]}\n{\"row\":1,\"prediction\":[\"Infinity\",\"-Infinity\"]}\n";
    assert_eq!(answers, expected);
}

#[tokio::test]
async fn a_row_of_any_length_whose_name_is_null_has_none() {
    let (host, _store) = Host::with_iris(&[]).await;
    host.upload("rows", "1", onnx_file::rows_of_any_length()).await;
    let mut lists = ListBuilder::new(Float64Builder::new());
    (0..2).for_each(|_| lists.append_value([Some(1.5)]));
    let ids: ArrayRef = Arc::new(StringArray::from(vec![Some("one"), None]));
    let file = parquet(vec![("id", ids), ("x", Arc::new(lists.finish()))]);
    let answers = rows_of(ask(&host, "rows/batch", PARQUET, PARQUET, file).await);
    let ids = answers.column_by_name("id").unwrap().as_string::<i32>();
    assert_eq!(ids.iter().collect::<Vec<_>>(), [Some("one"), None]);
}

#[tokio::test]
async fn a_text_that_a_file_has_once_and_its_rows_often_is_no_larger_than_a_row_may_be() {
    let (host, _store) = Host::with_iris(&["--max-body-bytes", "64KiB"]).await;
    host.upload("words", "1", onnx_file::identity(8, &[-1])).await;
    let (long, fit) = ("x".repeat(200 << 10), "y".repeat(50 << 10));
    let texts = (0..8000).map(|row| {
        if row % 4 == 0 {
            long.as_str()
        } else if row % 4 == 1 {
            &fit
        } else {
            "z"
        }
    });
    let file = parquet(vec![("x", Arc::new(StringArray::from_iter_values(texts)))]);
    assert!(file.len() < 1 << 20, "{} bytes", file.len());
    let answers = ask(&host, "words/batch", PARQUET, NDJSON, file).await;
    let lines = answers.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let mut rows = 0;
    for (row, line) in lines.enumerate() {
        let answer: Value = serde_json::from_slice(line).unwrap();
        match row % 4 {
            0 => assert!(answer["error"].as_str().unwrap().contains("--max-body-bytes"), "{row}: {}", answer["error"]),
            1 => assert_eq!(answer["prediction"], fit),
            _ => assert_eq!(answer["prediction"], "z"),
        }
        rows += 1;
    }
    assert_eq!(rows, 8000);
}

#[tokio::test]
async fn every_datatype_goes_through_a_table_unchanged() {
    let (host, _store) = Host::with_iris(&[]).await;
    for (number, text) in [
        (1, "-1.25"),
        (2, "255"),
        (3, "-128"),
        (4, "65535"),
        (5, "-32768"),
        (6, "-2147483648"),
        (7, "-9223372036854775808"),
        (8, "zwölf"),
        (9, "true"),
        (10, "-1.25"),
        (11, "0.30000000000000004"),
        (12, "4294967295"),
        (13, "18446744073709551615"),
        (16, "-1.25"),
    ] {
        let id = format!("identity-{number}");
        host.upload(&id, "1", onnx_file::identity(number, &[-1])).await;
        let path = format!("{id}/batch");
        let body = format!("x\n{text}\n");
        let to_csv = csv(&host, &path, body.clone()).await;
        assert_eq!(to_csv, ["row,y,error".to_owned(), format!("0,{text},")]);
        // Through Parquet and back.
        let file = ask(&host, &path, CSV, PARQUET, body).await;
        let back = ask(&host, &format!("{path}?columns=y"), PARQUET, CSV, file).await;
        assert_eq!(back, format!("row,y,error\n0,{text},\n"), "{number}");
    }
}

#[tokio::test]
async fn a_table_is_records_to_a_preprocess_plugin() {
    let store = tempfile::tempdir().unwrap();
    let host = Host::start(store.path(), &["--bundle", &bundle()]).await;
    let fields = ["sepal_length", "sepal_width", "petal_length", "petal_width"];
    let fields: Vec<Value> = fields.iter().map(|name| json!({ "name": name, "kind": "numeric" })).collect();
    let stage = json!({ "plugin": "tabular@0.1.0", "config": { "fields": fields } });
    let url = format!("{}/models/iris/pipeline", host.url);
    let bound = host.client.put(url).json(&json!({ "preprocess": stage, "postprocess": stage })).send().await.unwrap();
    assert_eq!(answer(bound).await.0, 200);
    let body = "sepal_width,sepal_length,petal_length,petal_width,id\n3.5,5.1,1.4,0.2,one\n3,wide,5.2,2.3,two\n";
    let answers = csv(&host, "iris/batch", body).await;
    assert_eq!(answers[0], "row,id,prediction,error");
    assert!(answers[1].starts_with("0,one,\"{\"\"label\"\":"), "{}", answers[1]);
    assert!(answers[2].starts_with("1,two,,") && answers[2].contains("sepal_length"), "{}", answers[2]);
    let names = ["sepal_length", "sepal_width", "petal_length", "petal_width"];
    let file = parquet(iris_columns(5).into_iter().zip(names).map(|((_, column), name)| (name, column)).collect());
    let answers = rows_of(ask(&host, "iris/batch", PARQUET, PARQUET, file).await);
    assert!(answers.column_by_name("prediction").unwrap().as_string::<i32>().value(4).contains("label"));
}

#[tokio::test]
async fn what_is_no_parquet_file_is_refused() {
    let (host, _store) = Host::with_iris(&["--max-batch-bytes", "100KiB"]).await;
    let file = parquet(iris_columns(1000));
    let (status, message) = refused(&host, "iris/batch", PARQUET, file[..file.len() - 20].to_vec()).await;
    assert!(status == 400 && message.contains("not readable as Parquet"), "{message}");
    let mut damaged = file.clone();
    damaged[100..2000].fill(0x55);
    let request = host.client.post(format!("{}/models/iris/batch", host.url)).header("content-type", PARQUET);
    // The damage shows when the rows are read, when the answer has begun.
    let response = request.body(damaged).send().await.unwrap();
    assert!(response.status() == 400 || response.bytes().await.is_err());
    let (status, message) = refused(&host, "iris/batch", PARQUET, vec![0; 200 << 10]).await;
    assert!(status == 413 && message.contains("--max-batch-bytes"), "{message}");
    host.assert_serves().await;
}
