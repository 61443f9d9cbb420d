//! The author's tools, by the real binary: `plugin new`, `plugin check`, `plugin run`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::{repository_root, test_plugin};

/// `model-nexus plugin …` in a folder.
fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_model-nexus"));
    command.arg("plugin").args(arguments).current_dir(folder);
    command
}

fn plugin(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

/// Its exit status and standard output in JSON.
fn in_json(folder: &Path, arguments: &[&str]) -> (i32, Value) {
    let output = command(folder, arguments).arg("--json").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let json = serde_json::from_str(&text)
        .unwrap_or_else(|_| panic!("not JSON: {text}\n{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), json)
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn text(path: PathBuf) -> String {
    path.to_str().unwrap().to_owned()
}

fn hostile() -> String {
    text(test_plugin("hostile"))
}

fn iris() -> String {
    text(repository_root().join("models/iris/1/model.onnx"))
}

/// The hostile plugin with another text of the same length in it.
fn patched(folder: &Path, old: &str, new: &str) -> String {
    let mut wasm = std::fs::read(hostile()).unwrap();
    let places: Vec<usize> =
        wasm.windows(old.len()).enumerate().filter(|(_, text)| *text == old.as_bytes()).map(|(at, _)| at).collect();
    assert!(!places.is_empty() && old.len() == new.len());
    for at in places {
        wasm[at..at + new.len()].copy_from_slice(new.as_bytes());
    }
    let file = folder.join("patched.wasm");
    std::fs::write(&file, wasm).unwrap();
    text(file)
}

#[test]
fn a_new_plugin_is_a_whole_crate_with_the_sdk_of_this_build() {
    let folder = tempfile::tempdir().unwrap();
    let made = plugin(folder.path(), &["new", "leaf-size"]);
    assert!(made.status.success(), "{}", stderr(&made));
    assert!(stdout(&made).contains("wasm32-wasip2/release/leaf_size.wasm"), "{}", stdout(&made));
    let content = |path: &str| std::fs::read_to_string(folder.path().join("leaf-size").join(path)).unwrap();
    for path in
        [".gitignore", ".cargo/config.toml", "rust-toolchain.toml", "README.md", "Cargo.lock", "nexus-guest/LICENSE"]
    {
        assert!(!content(path).is_empty(), "{path}");
    }
    let manifest: toml::Table = content("Cargo.toml").parse().unwrap();
    assert_eq!(manifest["package"]["name"].as_str(), Some("leaf-size"));
    assert!(manifest.contains_key("workspace"));
    assert!(content("src/lib.rs").starts_with("//! leaf-size: "));
    assert!(content("README.md").contains("leaf_size.wasm"));
    let sdk: toml::Table = content("nexus-guest/Cargo.toml").parse().unwrap();
    assert_eq!(sdk["package"]["name"].as_str(), Some("nexus-guest"));
    assert!(!content("nexus-guest/Cargo.toml").contains("workspace"));
    for file in ["wit/plugin.wit", "guest-sdk/src/lib.rs", "guest-sdk/src/http/wasi.rs", "guest-sdk/README.md"] {
        let theirs = std::fs::read_to_string(repository_root().join(file)).unwrap();
        assert_eq!(content(&file.replace("guest-sdk", "nexus-guest")), theirs, "{file}");
    }
}

#[test]
fn a_taken_folder_and_a_bad_name_are_refused_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("taken")).unwrap();
    std::fs::write(folder.path().join("taken/thesis.txt"), "years of work").unwrap();
    for arguments in [
        &["new", "taken"][..],
        &["new", "fine", "--folder", "taken"],
        &["new", "fine", "--folder", "taken/thesis.txt"],
        &["new", "Not-Fine"],
        &["new", "../up"],
        &["new", "serde"],
        &["new", "loop"],
    ] {
        let refused = plugin(folder.path(), arguments);
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}");
        assert!(stderr(&refused).starts_with("model-nexus: "), "{}", stderr(&refused));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(folder.path().join("taken")).unwrap().count(), 1);
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    assert!(plugin(folder.path(), &["new", "fine", "--folder", "empty"]).status.success());
}

#[test]
fn check_tells_what_a_component_is_and_what_it_would_need() {
    let folder = tempfile::tempdir().unwrap();
    let (status, verdict) = in_json(folder.path(), &["check", &hostile()]);
    assert_eq!((status, &verdict["fits"], &verdict["problem"]), (0, &json!(true), &Value::Null), "{verdict}");
    assert_eq!((&verdict["name"], &verdict["version"]), (&json!("hostile"), &json!("0.1.0")));
    assert_eq!((&verdict["contract"], &verdict["host_contract"]), (&json!("0.1.0"), &json!("0.1.0")));
    assert_eq!((&verdict["stages"], &verdict["hosts"]), (&json!(["preprocess", "postprocess"]), &json!(["*"])));
    assert_eq!((&verdict["snapshot"], &verdict["golden_export"]), (&json!(true), &json!(true)));
    assert!(verdict["config_schema"]["properties"]["do"].is_object());
    assert_eq!(verdict["size"], std::fs::metadata(hostile()).unwrap().len());
    assert_eq!(verdict["grants"], json!({ "hosts": ["*"], "clock": true, "random": true }));
    let access = |prefix: &str| {
        let mut imports = verdict["imports"].as_array().unwrap().iter();
        let import = imports.find(|import| import["interface"].as_str().unwrap().starts_with(prefix));
        import.unwrap_or_else(|| panic!("{prefix} is not imported: {verdict}"))["access"].clone()
    };
    for (prefix, expected) in [
        ("nexus:plugin/log@", "always"),
        ("wasi:http/outgoing-handler@", "hosts"),
        ("wasi:clocks/", "clock"),
        ("wasi:random/", "random"),
        ("wasi:filesystem/", "never"),
        ("wasi:cli/environment@", "never"),
    ] {
        assert_eq!(access(prefix), expected, "{prefix}");
    }
    let read = stdout(&plugin(folder.path(), &["check", &hostile()]));
    for line in ["hostile@0.1.0 fits this host", "grant \"clock\"", "never granted", "asks for *"] {
        assert!(read.contains(line), "{read}");
    }
}

#[test]
fn check_says_why_a_component_does_not_fit_in_an_uploads_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        text(file)
    };
    let image_classifier = text(test_plugin("image-classifier"));
    let (status, verdict) = in_json(folder.path(), &["check", &image_classifier]);
    assert_eq!((status, &verdict["name"]), (0, &json!("image-classifier")), "{verdict}");
    let later = patched(folder.path(), "nexus:plugin/transform@0.1.0", "nexus:plugin/transform@0.3.0");
    let module = file("module.wasm", b"\0asm\x01\0\0\0");
    for (wasm, reason) in [
        (later, "the component is built for nexus:plugin 0.3.0, this host speaks nexus:plugin 0.1.0"),
        (module, "this is a core WebAssembly module and not a component"),
        (file("text.wasm", b"hello"), "this is no WebAssembly"),
        (iris(), "this is no WebAssembly"),
    ] {
        let (status, verdict) = in_json(folder.path(), &["check", &wasm]);
        assert_eq!((status, &verdict["fits"]), (1, &json!(false)), "{verdict}");
        assert!(verdict["problem"].as_str().unwrap().starts_with(reason), "{verdict}");
        let read = plugin(folder.path(), &["check", &wasm]);
        assert_eq!(read.status.code(), Some(1));
        assert!(stdout(&read).starts_with(&format!("does not fit: {reason}")), "{}", stdout(&read));
    }
    let (status, verdict) = in_json(folder.path(), &["check", &hostile(), "--max-plugin-bytes", "1KiB"]);
    assert_eq!(status, 1);
    assert!(verdict["problem"].as_str().unwrap().contains("--max-plugin-bytes"), "{verdict}");
    let missing = plugin(folder.path(), &["check", "nowhere.wasm"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("nowhere.wasm"), "{}", stderr(&missing));
}

const FLOWER: &str = r#"{"x": [5.1, 3.5, 1.4, 0.2]}"#;

#[test]
fn run_shows_what_went_through_plugin_and_model() {
    let folder = tempfile::tempdir().unwrap();
    let (hostile, iris) = (hostile(), iris());
    let arguments = ["run", &hostile, "--model", &iris, "--input", FLOWER];
    let (status, report) = in_json(folder.path(), &arguments);
    assert_eq!(status, 0, "{report}");
    assert_eq!(report["plugin"]["name"], "hostile", "{report}");
    let input = &report["inputs"][0];
    assert_eq!((&input["type"], &input["first"]), (&json!("FP32[1,4]"), &json!([5.1, 3.5, 1.4, 0.2])));
    assert_eq!((&input["min"], &input["max"]), (&json!(0.2), &json!(5.1)));
    let outputs: Vec<&Value> = report["outputs"].as_array().unwrap().iter().map(|output| &output["type"]).collect();
    assert_eq!(outputs, ["INT64[1]", "FP32[1,3]"]);
    let steps = report["steps"].as_array().unwrap();
    let names: Vec<&Value> = steps.iter().map(|step| &step["name"]).collect();
    assert_eq!(names, ["preprocess", "queue", "infer", "postprocess"]);
    assert_eq!(steps[0]["plugin"]["bytes_in"], FLOWER.len());
    assert_eq!(steps[0]["plugin"]["bytes_out"], 16);
    assert!(steps[3]["plugin"]["peak_memory"].as_u64().unwrap() >= 1 << 16);
    let answer = &report["outcome"]["answer"];
    assert_eq!((&answer["content_type"], &answer["json"]["state"]), (&json!("application/json"), &json!(1)));

    std::fs::write(folder.path().join("flower.json"), FLOWER).unwrap();
    let read = plugin(folder.path(), &["run", &hostile, "--model", &iris, "--input", "flower.json"]);
    assert!(read.status.success(), "{}", stderr(&read));
    for line in ["hostile@0.1.0 (preprocess, postprocess)", "bound     in ", "FP32[1,4]  [5.1, 3.5, 1.4, 0.2]"] {
        assert!(stdout(&read).contains(line), "{}", stdout(&read));
    }
}

#[test]
fn run_takes_its_input_from_standard_input_and_from_the_plugin_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = command(folder.path(), &["run", &hostile(), "--model", &iris(), "--input", "-", "--json"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(FLOWER.as_bytes()).unwrap();
    let report: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(
        report["request"],
        json!({ "content_type": "application/json", "bytes": FLOWER.len(), "golden": false })
    );

    let scaler = text(crate::support::fixture("plugins/contract-0.1.0.wasm"));
    let (status, report) = in_json(folder.path(), &["run", &scaler, "--model", &iris()]);
    assert_eq!((status, &report["request"]["golden"]), (0, &json!(true)), "{report}");
    assert_eq!(report["binding"]["snapshot"], true, "{report}");

    // As over HTTP, features go past the plugin to the model itself, and are checked against it.
    let features = r#"{"features": [5.1, 3.5, 1.4, 0.2]}"#;
    let (status, report) = in_json(folder.path(), &["run", &scaler, "--model", &iris(), "--input", features]);
    assert_eq!((status, &report["outcome"]["answer"]["json"]["prediction"]), (0, &json!([0])), "{report}");
    assert_eq!(report["steps"].as_array().unwrap().len(), 2, "{report}");
    let features = r#"{"features": [1, 2, 3]}"#;
    let (status, report) = in_json(folder.path(), &["run", &scaler, "--model", &iris(), "--input", features]);
    assert_eq!((status, &report["outcome"]["error"]["code"]), (1, &json!("invalid_input")), "{report}");
}

#[test]
fn a_failure_is_shown_as_a_client_reads_it_with_the_plugins_log() {
    let folder = tempfile::tempdir().unwrap();
    let run = |config: &str, more: &[&str]| {
        let (hostile, iris) = (hostile(), iris());
        let arguments = [&["run", &hostile, "--model", &iris, "--input", FLOWER, "--config", config], more].concat();
        in_json(folder.path(), &arguments)
    };
    for (config, at, code, message) in [
        (r#"{"do": "panic"}"#, "request", "plugin_failed", "plugin hostile@0.1.0 failed in preprocess"),
        (r#"{"do": "trap", "stage": "postprocess"}"#, "request", "plugin_failed", "postprocess"),
        (r#"{"do": "invalid-input"}"#, "request", "invalid_input", "hostile invalid input 42"),
        (r#"{"do": "wrong-name"}"#, "request", "plugin_failed", "no input \"no-such-input\""),
        (r#"{"do": "trap", "stage": "init"}"#, "binding", "plugin_failed", "init"),
        (r#"{"do": "fly"}"#, "binding", "invalid_input", "do"),
    ] {
        let (status, report) = run(config, &[]);
        let error = &report["outcome"]["error"];
        assert_eq!((status, &error["at"], &error["code"]), (1, &json!(at), &json!(code)), "{report}");
        assert_eq!(error["status"], if code == "plugin_failed" { 502 } else { 400 });
        assert!(error["message"].as_str().unwrap().contains(message), "{report}");
    }
    let (_, report) = run(r#"{"do": "panic"}"#, &[]);
    let logged = report["log"].as_array().unwrap().iter();
    assert!(
        logged.clone().any(|line| line["stage"] == "preprocess"
            && line["message"].as_str().unwrap().contains("hostile panic 42")),
        "{report}"
    );
    let (status, report) = run(r#"{"do": "loop"}"#, &["--plugin-cpu-time", "200ms"]);
    assert_eq!(status, 1);
    assert!(report["outcome"]["error"]["message"].as_str().unwrap().contains("--plugin-cpu-time"), "{report}");
    // What is granted on the command line is granted to the plugin.
    let (_, still) = run(r#"{"do": "clock"}"#, &[]);
    assert_eq!(still["outcome"]["answer"]["json"]["unix_seconds"], 0, "{still}");
    let (_, moving) = run(r#"{"do": "clock"}"#, &["--clock"]);
    assert!(moving["outcome"]["answer"]["json"]["unix_seconds"].as_u64().unwrap() > 1_000_000_000, "{moving}");
}

#[test]
fn a_recorded_case_is_replayed_and_a_changed_outcome_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let config = r#"{"do": "panic"}"#;
    let (hostile, iris) = (hostile(), iris());
    let arguments = ["run", &hostile, "--model", &iris, "--input", FLOWER, "--config", config];
    let recorded = plugin(folder.path(), &[&arguments[..], &["--record", "case.json"]].concat());
    assert_eq!(recorded.status.code(), Some(1), "{}", stderr(&recorded));
    let case: Value = serde_json::from_slice(&std::fs::read(folder.path().join("case.json")).unwrap()).unwrap();
    assert_eq!(case["plugin"]["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(case["outcome"]["error"]["code"], "plugin_failed");

    let (status, report) = in_json(folder.path(), &["run", "--replay", "case.json"]);
    assert_eq!((status, &report["replay"]["same"]), (0, &json!(true)), "{report}");
    assert_eq!(report["replay"]["changed"], json!([]));

    // Another component: its panic says something else.
    let changed = patched(folder.path(), "hostile panic 42", "hostile panic 43");
    let (status, report) = in_json(folder.path(), &["run", &changed, "--replay", "case.json"]);
    assert_eq!((status, &report["replay"]["same"]), (1, &json!(false)), "{report}");
    assert_eq!(report["replay"]["changed"], json!(["plugin"]));
    let read = plugin(folder.path(), &["run", &changed, "--replay", "case.json"]);
    assert!(stdout(&read).contains("replayed: ends differently") && stdout(&read).contains("hostile panic 42"));

    // The case itself with its fault mended: it answers now, which is another outcome than the recorded one.
    let mended = std::fs::read_to_string(folder.path().join("case.json")).unwrap().replace("\"panic\"", "\"ok\"");
    std::fs::write(folder.path().join("mended.json"), mended).unwrap();
    let (status, report) = in_json(folder.path(), &["run", "--replay", "mended.json"]);
    assert_eq!((status, &report["outcome"]["answer"]["json"]["ok"]), (1, &json!(true)), "{report}");

    let refused = plugin(folder.path(), &["run", "--replay", "case.json", "--input", FLOWER]);
    assert_eq!(refused.status.code(), Some(2));
    let refused = plugin(folder.path(), &["run", "--replay", "patched.wasm"]);
    assert!(stderr(&refused).contains("is no case"), "{}", stderr(&refused));
}
