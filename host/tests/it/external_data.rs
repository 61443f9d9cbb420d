//! Models that keep weights in files beside themselves, as parts of a form and as archives; and what their paths may not do.

use std::io::Write;
use std::path::Path;

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::onnx_file::{self, Message, external_weight, model, node, value};
use crate::support::{Host, answer, error_message, store_with_iris};

/// `y` = `x` + the two floats at `location`.
fn adds(location: &str) -> Vec<u8> {
    let weights = vec![external_weight("w", &[2], location, 0)];
    model(vec![node("Add", &["x", "w"], &["y"])], weights, vec![value("x", 1, &[2])], vec![value("y", 1, &[2])])
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

async fn upload(host: &Host, id: &str, file: Vec<u8>, data: &[(&str, Vec<u8>)]) -> (u16, Value) {
    let part = |bytes: &[u8], name: &str| Part::bytes(bytes.to_vec()).file_name(name.to_owned());
    let form = Form::new().text("id", id.to_owned()).text("name", "external").text("version", "1");
    let form = form.part("file", part(&file, "model.onnx"));
    let form = data.iter().fold(form, |form, (name, bytes)| form.part("data", part(bytes, name)));
    answer(host.client.post(format!("{}/models/upload", host.url)).multipart(form).send().await.unwrap()).await
}

async fn assert_adds(host: &Host, id: &str) {
    let (status, answer) = host.predict(json!({ "model_id": id, "inputs": { "x": [1.0, 1.0] } })).await;
    assert_eq!((status, &answer["prediction"]), (200, &json!([11.0, 21.0])), "{answer}");
}

fn zip_of(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    for (name, bytes) in files {
        match name.strip_suffix('/') {
            Some(folder) => zip.add_directory(folder, options).unwrap(),
            None => {
                zip.start_file(*name, options).unwrap();
                zip.write_all(bytes).unwrap();
            }
        }
    }
    zip.finish().unwrap().into_inner()
}

fn tar_of(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        // As it is: the library would not write a path that leaves the folder.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(if name.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_cksum();
        tar.append(&header, bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn tar_with_link() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "w.bin", "/etc/passwd").unwrap();
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn staged(store: &Path) -> usize {
    let folders = std::fs::read_dir(store.join(".scratch")).unwrap();
    folders.map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
}

#[tokio::test]
async fn a_model_serves_with_the_files_that_came_as_parts_and_after_a_restart() {
    let store = store_with_iris();
    let host = Host::start(store.path(), &[]).await;
    let data = [("weights/part 1.bin", floats(&[10.0, 20.0]))];
    let (status, uploaded) = upload(&host, "parts", adds("./weights/part 1.bin"), &data).await;
    assert_eq!(status, 201, "{uploaded}");
    assert_adds(&host, "parts").await;
    let folder = store.path().join("models/parts/1");
    assert_eq!(std::fs::read(folder.join("weights/part 1.bin")).unwrap(), floats(&[10.0, 20.0]));
    let sidecar: Value = serde_json::from_slice(&std::fs::read(folder.join("model_info.json")).unwrap()).unwrap();
    assert_eq!((&sidecar["files"][0]["path"], &sidecar["files"][0]["size"]), (&json!("weights/part 1.bin"), &json!(8)));
    assert_eq!(staged(store.path()), 0);
    drop(host);

    let host = Host::start(store.path(), &[]).await;
    assert_adds(&host, "parts").await;
    drop(host);

    std::fs::write(folder.join("weights/part 1.bin"), floats(&[10.0, 21.0])).unwrap();
    let host = Host::start(store.path(), &[]).await;
    let (status, _) = host.predict(json!({ "model_id": "parts", "inputs": { "x": [1.0, 1.0] } })).await;
    assert_ne!(status, 200, "a changed file of weights served");
    host.assert_serves().await;
}

#[tokio::test]
async fn an_archive_of_any_kind_is_taken_with_its_model_in_any_folder() {
    let (host, store) = Host::with_iris(&[]).await;
    let files = [
        ("export/", vec![]),
        ("export/README #1.md", b"not the model's".to_vec()),
        ("export/net.onnx", adds("w.bin")),
        ("export/w.bin", floats(&[10.0, 20.0])),
        ("__MACOSX/export/._net.onnx", b"Mac".to_vec()),
    ];
    for (id, archive) in [("zip", zip_of(&files)), ("tar", tar_of(&files)), ("targz", gzip(&tar_of(&files)))] {
        let (status, uploaded) = upload(&host, id, archive, &[]).await;
        assert_eq!(status, 201, "{id}: {uploaded}");
        assert_adds(&host, id).await;
        let kept: Vec<_> = std::fs::read_dir(store.path().join(format!("models/{id}/1"))).unwrap().collect();
        assert_eq!(kept.len(), 3, "{kept:?}");
    }
    assert_eq!(staged(store.path()), 0);
}

#[tokio::test]
async fn a_model_laid_down_by_hand_serves_with_its_files() {
    let store = store_with_iris();
    let folder = store.path().join("models/hand/1");
    std::fs::create_dir_all(folder.join("data")).unwrap();
    std::fs::write(folder.join("model.onnx"), adds("data/w")).unwrap();
    std::fs::write(folder.join("data/w"), floats(&[10.0, 20.0])).unwrap();
    let host = Host::start(store.path(), &[]).await;
    assert_adds(&host, "hand").await;
    let sidecar: Value = serde_json::from_slice(&std::fs::read(folder.join("model_info.json")).unwrap()).unwrap();
    assert_eq!(sidecar["files"][0]["path"], "data/w");
}

#[tokio::test]
async fn files_that_are_missing_too_many_or_not_named_are_refused_by_their_names() {
    let (host, store) = Host::with_iris(&["--max-model-files", "3"]).await;
    let w = || floats(&[10.0, 20.0]);
    let cases = [
        (adds("a/w.bin"), vec![], 400, "did not come with it: a/w.bin"),
        (adds("a/w.bin"), vec![("w.bin", w())], 400, "did not come with it: a/w.bin"),
        (adds("w.bin"), vec![("w.bin", w()), ("v.bin", w())], 400, "names no file v.bin"),
        (adds("w.bin"), vec![("w.bin", w()), ("./w.bin", w())], 400, "two parts `data`"),
        (adds("w.bin"), vec![("w.bin", w()), ("1", w()), ("2", w()), ("3", w())], 413, "--max-model-files"),
        (zip_of(&[("m.onnx", adds("w.bin"))]), vec![("w.bin", w())], 400, "an archive holds all files"),
        (adds("w.bin"), vec![("w.bin", w()[..4].to_vec())], 400, "ONNX Runtime refuses this model"),
    ];
    for (file, data, expected, text) in cases {
        let (status, answer) = upload(&host, "refused", file, &data).await;
        assert_eq!(status, expected, "{text}: {answer}");
        assert!(error_message(&answer).contains(text), "{text}: {answer}");
    }
    assert_eq!(staged(store.path()), 0);
    assert!(!store.path().join("models/refused/1/model_info.json").exists());
}

#[tokio::test]
async fn a_path_that_leaves_the_models_folder_is_refused_wherever_it_is_hidden() {
    let (host, store) = Host::with_iris(&[]).await;
    let iris = "../../iris/1/model.onnx";
    for location in [iris, "/etc/passwd", "a/../../b", "*/_ORT_MEM_ADDR_/*", "model.onnx", "..", "C:\\w", "a#1"] {
        let (status, answer) = upload(&host, "escape", adds(location), &[]).await;
        assert_eq!(status, 400, "{location}: {answer}");
        assert!(error_message(&answer).contains("the model keeps weights in"), "{location}: {answer}");
    }
    // In an attribute, in a subgraph's weights, in a function's node.
    let constant = node("Constant", &[], &["c"])
        .message(5, Message::default().bytes(1, "value").message(5, external_weight("c", &[2], iris, 0)).varint(20, 4));
    let subgraph = Message::default().message(1, constant.clone()).bytes(2, "branch").message(12, value("c", 1, &[2]));
    let branch = |name: &str| Message::default().bytes(1, name).message(6, subgraph.clone()).varint(20, 5);
    let condition = node("If", &["yes"], &["y"]).message(5, branch("then_branch")).message(5, branch("else_branch"));
    let outputs = || vec![value("y", 1, &[2])];
    let in_subgraph = model(vec![condition], vec![], vec![value("yes", 9, &[])], outputs());
    let in_function = Message::of(onnx_file::identity(1, &[2]))
        .message(25, Message::default().bytes(1, "F").bytes(10, "f").bytes(5, "c").message(7, constant.clone()));
    let in_attribute = model(vec![constant, node("Identity", &["c"], &["y"])], vec![], vec![], outputs());
    for file in [in_attribute, in_subgraph, in_function.finish()] {
        let (status, answer) = upload(&host, "escape", file, &[]).await;
        assert_eq!(status, 400, "{answer}");
        assert!(error_message(&answer).contains("outside of the model's folder"), "{answer}");
    }
    for name in ["../w.bin", "/w.bin", "", "model_info.json"] {
        let (status, answer) = upload(&host, "escape", adds("w.bin"), &[(name, floats(&[1.0, 2.0]))]).await;
        assert_eq!(status, 400, "{name}: {answer}");
    }
    assert_eq!(staged(store.path()), 0);
    host.assert_serves().await;
}

#[tokio::test]
async fn an_archive_that_means_harm_is_refused_and_leaves_nothing() {
    let (host, store) = Host::with_iris(&["--max-upload-bytes", "4MiB", "--max-model-files", "50"]).await;
    let w = || ("w.bin", floats(&[10.0, 20.0]));
    let many: Vec<String> = (0..60).map(|number| format!("file{number}")).collect();
    let many: Vec<(&str, Vec<u8>)> = many.iter().map(|name| (name.as_str(), vec![])).collect();
    let mut long_name = tar::Header::new_gnu();
    long_name.set_entry_type(tar::EntryType::GNULongName);
    long_name.set_size(1 << 30);
    long_name.set_cksum();
    let long_name = [long_name.as_bytes().as_slice(), &[b'a'; 3 << 20]].concat();
    let mut damaged = zip_of(&[("m.onnx", adds("w.bin")), w()]);
    let middle = damaged.len() / 4;
    damaged[middle..middle + 20].fill(0xaa);
    let cases = [
        (zip_of(&[("m.onnx", adds("w.bin")), ("w.bin", vec![0; 5 << 20])]), 413, "--max-upload-bytes"),
        (gzip(&tar_of(&[("m.onnx", adds("w.bin")), ("w.bin", vec![0; 5 << 20])])), 413, "--max-upload-bytes"),
        (zip_of(&many), 413, "--max-model-files"),
        (tar_of(&[("../m.onnx", adds("w.bin"))]), 400, "outside of the archive's folder"),
        (zip_of(&[("../m.onnx", adds("w.bin"))]), 400, "outside of the archive's folder"),
        (tar_of(&[("/tmp/m.onnx", adds("w.bin"))]), 400, "outside of the archive's folder"),
        (tar_with_link(), 400, "is a link or a device"),
        (tar_of(&[w(), w()]), 400, "twice"),
        (zip_of(&[w()]), 400, "exactly one .onnx file; it holds 0"),
        (zip_of(&[("a.onnx", adds("w.bin")), ("b.onnx", adds("w.bin"))]), 400, "it holds 2: a.onnx, b.onnx"),
        (zip_of(&[("m.onnx", adds("../w.bin")), w()]), 400, "outside of the model's folder"),
        (zip_of(&[("m.onnx", adds("v.bin")), w()]), 400, "did not come with it: v.bin"),
        (gzip(&long_name), 400, "of headers"),
        (gzip(&[0; 100]), 400, "the archive"),
        (damaged, 400, "the archive is not readable"),
    ];
    for (archive, expected, text) in cases {
        let (status, answer) = upload(&host, "harm", archive, &[]).await;
        assert_eq!(status, expected, "{text}: {answer}");
        assert!(error_message(&answer).contains(text), "{text}: {answer}");
        assert_eq!(staged(store.path()), 0, "{text}");
    }
    host.assert_serves().await;
}

#[tokio::test]
async fn the_head_of_a_part_does_not_grow_in_memory() {
    let (host, _store) = Host::with_iris(&[]).await;
    let mut body = b"--b\r\nContent-Disposition: form-data; name=\"".to_vec();
    body.resize(6 << 20, b'a');
    let request = host.client.post(format!("{}/models/upload", host.url)).body(body);
    let request = request.header("content-type", "multipart/form-data; boundary=b");
    let (status, answer) = answer(request.send().await.unwrap()).await;
    assert_eq!(status, 400);
    assert!(error_message(&answer).contains("the head of a part is larger than"), "{answer}");
}

#[tokio::test]
async fn custom_operators_are_refused_with_their_names_and_functions_are_not() {
    let (host, _store) = Host::with_iris(&[]).await;
    let custom = |name: &str, input: &str, output: &str| node(name, &[input], &[output]).bytes(7, "my.domain");
    let nodes = vec![custom("First", "x", "a"), custom("Second", "a", "b"), custom("First", "b", "y")];
    let file = model(nodes, vec![], vec![value("x", 1, &[2])], vec![value("y", 1, &[2])]);
    let (status, answer) = upload(&host, "custom", file, &[]).await;
    assert_eq!(status, 400);
    assert_eq!(
        error_message(&answer),
        "the model uses custom operators that ONNX Runtime does not have: my.domain.First, my.domain.Second"
    );
    let opset = |domain: &str| Message::default().bytes(1, domain).varint(2, 1);
    let function = Message::default().bytes(1, "First").bytes(10, "my.domain").bytes(4, "in").bytes(5, "out");
    let function = function.message(7, node("Relu", &["in"], &["out"])).message(9, Message::default().varint(2, 17));
    let inputs = (vec![value("x", 1, &[2])], vec![value("y", 1, &[2])]);
    let file = Message::of(model(vec![custom("First", "x", "y")], vec![], inputs.0, inputs.1));
    let file = file.message(8, opset("my.domain")).message(25, function).finish();
    let (status, answer) = upload(&host, "function", file, &[]).await;
    assert_eq!(status, 201, "{answer}");
}

#[tokio::test]
async fn a_model_of_a_newer_format_gets_onnx_runtimes_own_sentence_and_old_ones_serve() {
    let (host, _store) = Host::with_iris(&[]).await;
    // Protobuf keeps the last value of a field that comes twice.
    let newer = Message::of(onnx_file::identity(1, &[2])).varint(1, 99).finish();
    let (status, answer) = upload(&host, "newer", newer, &[]).await;
    assert_eq!(status, 400);
    assert!(error_message(&answer).contains("Unsupported model IR version: 99, max supported IR version"), "{answer}");
    let newer = Message::of(onnx_file::identity(1, &[2])).message(8, Message::default().varint(2, 99)).finish();
    let (status, answer) = upload(&host, "newer", newer, &[]).await;
    assert_eq!(status, 400);
    assert!(error_message(&answer).contains("Opset 99 is under development"), "{answer}");
    let old = onnx_file::old_identity(3, 7);
    let (status, answer) = upload(&host, "old", old, &[]).await;
    assert_eq!(status, 201, "{answer}");
    let (_, answer) = host.predict(json!({ "model_id": "old", "features": [1.0, 2.0] })).await;
    assert_eq!(answer["prediction"], json!([1.0, 2.0]));
}
