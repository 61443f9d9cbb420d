//! Everything at once for as long as is wanted, an hour say: does memory grow?

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Bench, binary, median, middle};
use crate::grpc;
use crate::load::{self, Measured, Request};
use crate::plugins::scaler;
use crate::server::{Memory, Server};
use crate::table::Row;

/// With less there are too few samples for a tenth of them to say anything.
const SHORTEST: Duration = Duration::from_secs(60);
const CONNECTIONS: usize = 2;
/// How many figures the trend on the screen has; the JSON has them all.
const SHOWN: usize = 20;

/// One kind of request, sent for as long as it is told.
type Load = Box<dyn Fn(Duration) -> Measured + Sync>;

pub fn run(bench: &Bench) {
    assert!(bench.duration >= SHORTEST, "a soak takes at least {} seconds", SHORTEST.as_secs());
    let host = Server::host();
    host.upload_plugin(scaler());
    let stage = json!({ "plugin": "contract-fixture@0.1.0" });
    host.put("/models/iris/pipeline", &json!({ "preprocess": stage, "postprocess": stage }));
    let loads = loads(&host.address);
    // Connections come and go as clients do, and what the load itself remembers stays small.
    let turn = (bench.duration / 20).min(Duration::from_secs(10));
    let stop = AtomicBool::new(false);
    let (memory, measured) = thread::scope(|scope| {
        let threads: Vec<_> = loads.iter().map(|(_, load)| scope.spawn(|| repeatedly(load, turn, &stop))).collect();
        let memory = sampled(&host, bench.duration, || threads.iter().all(|thread| !thread.is_finished()));
        stop.store(true, Ordering::Relaxed);
        let measured: Vec<_> = threads.into_iter().map(|thread| median(&thread.join().unwrap())).collect();
        (memory, measured)
    });
    for ((case, _), measured) in loads.iter().zip(measured) {
        bench.table.row(bench.served(&format!("soak: {case}"), measured));
    }
    let resident: Vec<f64> = memory.iter().map(|memory| memory.resident).collect();
    let own = memory.iter().map(|memory| memory.anonymous).collect();
    show_trend(&resident, bench.duration);
    let case = "soak: resident memory in the last tenth of the time / in the first after warm-up";
    bench.table.row(growth(case, resident).target(1.05));
    bench.table.row(growth("  of it the process's own, likewise", own));
}

/// Both bundled models over each protocol, with tensors and through plugins.
fn loads(address: &str) -> Vec<(&'static str, Load)> {
    let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images/cat.jpg");
    let picture = Request::post("/predict", "image/jpeg", std::fs::read(picture).unwrap()).fresh();
    let json = |path: &str, body: &str| Request::post(path, "application/json", body);
    let features = r#"{"model_id":"iris","features":[5.1,3.5,1.4,0.2]}"#;
    let inputs = r#"{"inputs":[{"name":"X","shape":[1,4],"datatype":"FP32","data":[5.1,3.5,1.4,0.2]}]}"#;
    let raw = r#"{"model_id":"iris","x":[5.1,3.5,1.4,0.2]}"#;
    let (iris, image) = ([5.1, 3.5, 1.4, 0.2], vec![0.5; 3 * 224 * 224]);
    let image_json = json!({ "model_id": "efficientnet-lite0", "features": image }).to_string();
    let rest = |case, request: Request| -> (&'static str, Load) {
        let address = address.to_owned();
        (case, Box::new(move |duration| load::run(&address, &request, CONNECTIONS, duration)))
    };
    let grpc = |case, model: &str, input: &str, shape: &[usize], values: &[f32]| -> (&'static str, Load) {
        let (address, request) = (address.to_owned(), grpc::request(model, input, shape, values));
        (case, Box::new(move |duration| grpc::measure(&address, &request, 1, CONNECTIONS, duration)))
    };
    vec![
        rest("iris, POST /predict", json("/predict", features).fresh()),
        rest("iris, POST /predict from the cache", json("/predict", features)),
        rest("iris, JSON over /v2", json("/v2/models/iris/infer", inputs).fresh()),
        rest("iris, OIP binary", binary("iris", "X", &[1, 4], &iris)),
        grpc("iris, gRPC raw", "iris", "X", &[1, 4], &iris),
        rest("iris, with trivial preprocess and postprocess plugins", json("/predict", raw).fresh()),
        rest("efficientnet, POST /predict", json("/predict", &image_json).fresh()),
        rest("efficientnet, OIP binary", binary("efficientnet-lite0", "images", &[1, 3, 224, 224], &image)),
        grpc("efficientnet, gRPC raw", "efficientnet-lite0", "images", &[1, 3, 224, 224], &image),
        rest("efficientnet, cat.jpg through the plugin", picture),
    ]
}

fn repeatedly(load: &Load, turn: Duration, stop: &AtomicBool) -> Vec<Measured> {
    let mut turns = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        turns.push(load(turn));
    }
    turns
}

/// The host's memory every few seconds once it is warm, for that long, or until a load has failed.
fn sampled(host: &Server, duration: Duration, is_loaded: impl Fn() -> bool) -> Vec<Memory> {
    let every = (duration / 200).clamp(Duration::from_secs(1), Duration::from_secs(5));
    let warm_up = (duration / 10).min(Duration::from_secs(300));
    let started = Instant::now();
    let mut samples = Vec::new();
    while started.elapsed() < duration && is_loaded() {
        thread::sleep(every);
        if started.elapsed() > warm_up {
            samples.push(host.memory());
        }
    }
    samples
}

fn growth(case: &str, memory: Vec<f64>) -> Row {
    let tenth = memory.len().div_ceil(10);
    let first = middle(memory.iter().copied().take(tenth));
    let last = middle(memory.iter().rev().copied().take(tenth));
    Row::less_is_better(case, "MB", last).beside(first).samples(memory)
}

fn show_trend(resident: &[f64], duration: Duration) {
    let stretches = resident.chunks(resident.len().div_ceil(SHOWN));
    let medians: Vec<String> = stretches.map(|stretch| format!("{:.1}", middle(stretch.iter().copied()))).collect();
    println!("soak: resident memory from warm-up to {} s, MB: {}", duration.as_secs(), medians.join(" "));
}
