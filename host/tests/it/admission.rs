//! Files that mean harm: each ends a process of its own, is refused with the reason, and leaves the host as it was.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::onnx_file::{self, Message, int_weight, node, value, weight};
use crate::support::{Host, error_message, fixture, iris, repository_root};

/// Uploads a model that has to be refused, and says why it was.
async fn refusal(host: &Host, model: Vec<u8>) -> String {
    let (status, answer) = host.upload("hostile", "1", model).await;
    assert_eq!(status, 400, "{answer}");
    host.assert_serves().await;
    error_message(&answer).to_owned()
}

fn scratch_files(store: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(store.join(".scratch")).unwrap();
    let folders = folders.map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
    folders.flatten().map(|entry| entry.unwrap().path()).collect()
}

/// `y` = the sum of a tensor of 10^9 floats that the model itself makes.
fn billion_elements() -> Vec<u8> {
    let nodes = vec![node("ConstantOfShape", &["size"], &["vast"]), node("ReduceSum", &["vast"], &["y"])];
    onnx_file::model(nodes, vec![int_weight("size", &[1], &[1_000_000_000])], vec![], vec![value("y", 1, &[1])])
}

/// The smallest integer over -1: ONNX Runtime divides while it loads, and the processor ends the process.
fn division_that_traps() -> Vec<u8> {
    let weights = vec![int_weight("least", &[1], &[i64::MIN]), int_weight("minus", &[1], &[-1])];
    onnx_file::model(vec![node("Div", &["least", "minus"], &["y"])], weights, vec![], vec![value("y", 7, &[1])])
}

/// A loop whose trip count is the largest there is, with nothing to give from outside.
fn endless_loop() -> Vec<u8> {
    let weights = vec![int_weight("trips", &[], &[i64::MAX]), weight("x", &[1], &[0.0]), weight("one", &[1], &[1.0])];
    onnx_file::model(vec![onnx_file::counting_loop_node()], weights, vec![], vec![value("y", 1, &[1])])
}

/// `levels` functions, each of which calls the next `calls` times.
fn nested_functions(levels: usize, calls: usize) -> Vec<u8> {
    let opset = |domain: &str, version| Message::default().bytes(1, domain).varint(2, version);
    let call = |level: usize, input: &str, output: &str| {
        node(&format!("F{level}"), &[input], &[output]).bytes(7, "test.functions")
    };
    let function = |level: usize| {
        let head = Message::default().bytes(1, format!("F{level}")).bytes(4, "v0").bytes(5, format!("v{calls}"));
        let body = (0..calls).fold(head, |function, index| {
            let (input, output) = (format!("v{index}"), format!("v{}", index + 1));
            function.message(
                7,
                if level + 1 < levels { call(level + 1, &input, &output) } else { node("Relu", &[&input], &[&output]) },
            )
        });
        body.message(9, opset("", 17)).message(9, opset("test.functions", 1)).bytes(10, "test.functions")
    };
    let (inputs, outputs) = (vec![value("x", 1, &[1])], vec![value("y", 1, &[1])]);
    let model = Message::of(onnx_file::model(vec![call(0, "x", "y")], vec![], inputs, outputs));
    let model = model.message(8, opset("test.functions", 1));
    (0..levels).fold(model, |model, level| model.message(25, function(level))).finish()
}

/// Subgraphs in subgraphs.
fn nested_conditions(levels: usize) -> Vec<u8> {
    let graph =
        |node: Message| Message::default().message(1, node).bytes(2, "branch").message(12, value("branch", 1, &[1]));
    let attribute = |name: &str, graph: Message| Message::default().bytes(1, name).message(6, graph).varint(20, 5);
    let leaf = || graph(node("Identity", &["x"], &["branch"]));
    let condition = |output: &str, then: Message| {
        node("If", &["yes"], &[output])
            .message(5, attribute("then_branch", then))
            .message(5, attribute("else_branch", leaf()))
    };
    let nested = (0..levels).fold(leaf(), |inner, _| graph(condition("branch", inner)));
    let inputs = vec![value("x", 1, &[1]), value("yes", 9, &[])];
    onnx_file::model(vec![condition("y", nested)], vec![], inputs, vec![value("y", 1, &[1])])
}

#[tokio::test]
async fn a_model_that_eats_memory_is_refused_by_the_limit() {
    let (host, store) = Host::with_iris(&["--admission-memory-bytes", "512MiB"]).await;
    let refused = refusal(&host, billion_elements()).await;
    assert!(refused.contains("--admission-memory-bytes"), "{refused}");
    assert!(scratch_files(store.path()).is_empty());
    // The same with what it takes.
    let small = onnx_file::model(
        vec![node("ConstantOfShape", &["size"], &["vast"]), node("ReduceSum", &["vast"], &["y"])],
        vec![int_weight("size", &[1], &[1000])],
        vec![],
        vec![value("y", 1, &[1])],
    );
    assert_eq!(host.upload("small", "1", small).await.0, 201);
}

#[tokio::test]
async fn a_model_that_kills_onnx_runtime_is_refused_with_the_signal() {
    let (host, store) = Host::with_iris(&[]).await;
    let refused = refusal(&host, division_that_traps()).await;
    assert_eq!(refused, "loading this model ended ONNX Runtime with signal 8 (SIGFPE)");
    assert!(scratch_files(store.path()).is_empty());
}

#[tokio::test]
async fn a_model_that_never_ends_is_refused_after_its_time() {
    let (host, _store) = Host::with_iris(&["--admission-timeout", "10s"]).await;
    let refused = refusal(&host, endless_loop()).await;
    assert!(refused.contains("took more than 10s (--admission-timeout)"), "{refused}");
    // 2^30 copies of one operator.
    let refused = refusal(&host, nested_functions(30, 2)).await;
    assert!(refused.contains("--admission-timeout") || refused.contains("--admission-memory-bytes"), "{refused}");
    assert_eq!(host.upload("functions", "1", nested_functions(5, 2)).await.0, 201);
}

#[tokio::test]
async fn a_model_nested_thousands_of_levels_deep_is_refused() {
    let (host, _store) = Host::with_iris(&[]).await;
    for (model, why) in [
        (nested_conditions(3000), "graphs in graphs, more than 64 levels deep"),
        (nested_functions(10_000, 1), "ONNX Runtime refuses this model"),
    ] {
        let refused = refusal(&host, model).await;
        assert!(refused.contains(why), "{refused}");
        assert!(!refused.contains(".scratch"), "a path of the host's: {refused}");
    }
    assert_eq!(host.upload("conditions", "1", nested_conditions(10)).await.0, 201);
}

#[tokio::test]
async fn a_model_laid_down_by_hand_is_tried_too_and_keeps_what_was_seen() {
    let store = crate::support::store_with_iris();
    let folder = store.path().join("models/trap/1");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("model.onnx"), division_that_traps()).unwrap();
    let host = Host::start(store.path(), &[]).await;
    host.assert_serves().await;
    let sidecar = std::fs::read(store.path().join("models/iris/1/model_info.json")).unwrap();
    let sidecar: Value = serde_json::from_slice(&sidecar).unwrap();
    assert!(sidecar["session_bytes"].as_u64().unwrap() > 100_000, "{sidecar}");
    let (status, answer) = host.predict(json!({ "model_id": "trap", "features": [] })).await;
    assert_ne!(status, 200, "{answer}");
}

/// The next number of a small generator (xorshift), so that every run sees the same bytes.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn damaged(model: &[u8], seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = model.to_vec();
    for _ in 0..=next(&mut state) % 8 {
        let place = (next(&mut state) % bytes.len() as u64) as usize;
        bytes[place] = match next(&mut state) % 3 {
            0 => bytes[place] ^ (1 << (next(&mut state) % 8)),
            1 => next(&mut state) as u8,
            _ => [0, 1, 0x7f, 0x80, 0xff][(next(&mut state) % 5) as usize],
        };
    }
    if next(&mut state).is_multiple_of(8) {
        bytes.truncate((next(&mut state) % bytes.len() as u64) as usize);
    }
    bytes
}

/// How many damaged models are tried; more by hand.
const DAMAGED: u64 = 90;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_models_are_taken_or_refused_and_never_end_the_host() {
    let (host, _store) = Host::with_iris(&["--admission-timeout", "10s", "--admission-memory-bytes", "1GiB"]).await;
    let models = [
        iris(),
        std::fs::read(fixture("models/iris/model-zipmap.onnx")).unwrap(),
        std::fs::read(fixture("models/digits/mlp.onnx")).unwrap(),
        std::fs::read(fixture("models/penguins/species.onnx")).unwrap(),
        onnx_file::counting_loop(),
        std::fs::read(repository_root().join("host/tests/fixtures/models/digits/random-forest.onnx")).unwrap(),
    ];
    let count = std::env::var("NEXUS_TEST_DAMAGED_MODELS").map_or(DAMAGED, |count| count.parse().unwrap());
    for seed in 0..count {
        let model = damaged(&models[seed as usize % models.len()], seed);
        let (status, answer) = host.upload(&format!("damaged-{seed}"), "1", model).await;
        assert!(status == 201 || (400..500).contains(&status), "seed {seed}: {status} {answer}");
    }
    host.assert_serves().await;
}
