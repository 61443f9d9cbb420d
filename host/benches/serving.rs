//! What the host adds to a model: requests over REST beside a plain ONNX Runtime loop and a bare axum echo, in one run.
//!
//! `cargo xtask bench [-- SECONDS [serving|plugins]]`. The client runs on the same machine; figures are worth something as ratios only.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod load;
mod plugins;
mod server;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use load::{Load, Measured};
use ort::session::Session;
use ort::value::TensorRef;
use server::Server;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.first().is_some_and(|argument| argument == "--echo") {
        return echo_server();
    }
    let seconds = arguments.first().map_or(5, |seconds| seconds.parse().expect("seconds a case"));
    match arguments.get(1).map(String::as_str) {
        Some("serving") => {
            let bench = Bench::new(Duration::from_secs(seconds));
            bench.iris();
            bench.efficientnet();
        }
        Some("plugins") => plugins::run(),
        Some(other) => panic!("there is `serving` and `plugins`, not {other:?}"),
        // Each as a process of its own: ONNX Runtime is set up once a process.
        None => {
            for part in ["serving", "plugins"] {
                let mut command = Command::new(std::env::current_exe().unwrap());
                assert!(command.args([&seconds.to_string(), part]).status().unwrap().success(), "{part} failed");
            }
        }
    }
}

/// One run: every case takes this long, on as many sessions as the machine has cores.
struct Bench {
    duration: Duration,
    cores: usize,
    environment: ort::environment::Environment,
    models: PathBuf,
}

impl Bench {
    fn new(duration: Duration) -> Bench {
        let library = std::env::var("ORT_DYLIB_PATH").expect("run with `cargo xtask bench`");
        let environment = ort::init_from(library).unwrap().with_telemetry(false).build().unwrap();
        environment.set_log_level(ort::logging::LogLevel::Error);
        let cores = thread::available_parallelism().unwrap().get();
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
        println!("{cores} cores, {} s a case\n", duration.as_secs());
        println!("{:<62}{:>10}{:>8}{:>9}{:>9}", "case", "per s", "ratio", "p50 ms", "p99 ms");
        Bench { duration, cores, environment, models }
    }

    fn iris(&self) {
        let body = r#"{"model_id":"iris","features":[5.1,3.5,1.4,0.2]}"#;
        let in_process = self.in_process("iris", &[1, 4]);
        row("iris: in-process loop, one session a core", in_process, None, None);
        let echo = Server::echo();
        let baseline = self.measure(&echo, post("/predict", "application/json", body.as_bytes()), 16);
        drop(echo);
        row("bare axum JSON echo, 16 connections", baseline.per_second, None, Some(&baseline));
        let host = Server::host();
        let measured = self.measure(&host, fresh("/predict", "application/json", body.as_bytes()), 16);
        row(
            "iris: POST /predict, 16 connections / echo",
            measured.per_second,
            Some(baseline.per_second),
            Some(&measured),
        );
        let cached = self.measure(&host, post("/predict", "application/json", body.as_bytes()), 16);
        row("iris: the same from the cache / echo", cached.per_second, Some(baseline.per_second), Some(&cached));
        let alone = self.measure(&host, fresh("/predict", "application/json", body.as_bytes()), 1);
        drop(host);
        let echo = Server::echo();
        let echo_alone = self.measure(&echo, post("/predict", "application/json", body.as_bytes()), 1);
        println!(
            "{:<62}{:>10}{:>8.2}{:>9.3}",
            "iris: a lone request's p50 latency / echo's",
            "",
            alone.p50_ms / echo_alone.p50_ms,
            alone.p50_ms
        );
    }

    fn efficientnet(&self) {
        let in_process = self.in_process("efficientnet-lite0", &[1, 3, 224, 224]);
        row("efficientnet int8: in-process loop, one session a core", in_process, None, None);
        let host = Server::host();
        let numbers: Vec<String> =
            (0..3 * 224 * 224).map(|index| format!("{:.6}", (index % 255) as f32 / 128.0 - 1.0)).collect();
        let tensor = format!(r#"{{"model_id":"efficientnet-lite0","features":[{}]}}"#, numbers.join(","));
        let measured = self.measure(&host, fresh("/predict", "application/json", tensor.as_bytes()), 8);
        let title = format!("efficientnet: JSON tensor of {:.1} MB, 8 connections / loop", tensor.len() as f64 / 1e6);
        row(&title, measured.per_second, Some(in_process), Some(&measured));
        for picture in ["cat.jpg", "coffee-2400x1600.jpg"] {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(picture);
            let image = std::fs::read(file).unwrap();
            let measured = self.measure(&host, fresh("/predict", "image/jpeg", &image), 8);
            let title = format!("efficientnet: {picture} through the plugin, 8 connections / loop");
            row(&title, measured.per_second, Some(in_process), Some(&measured));
        }
    }

    /// Runs a second, with one session and thread a core and nothing around them.
    fn in_process(&self, model: &str, shape: &[usize]) -> f64 {
        let file = self.models.join(model).join("1/model.onnx");
        let values = vec![0.5f32; shape.iter().product()];
        let runs: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> =
                (0..self.cores).map(|_| scope.spawn(|| self.loop_alone(&file, shape, &values))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        runs.iter().sum::<usize>() as f64 / self.duration.as_secs_f64()
    }

    fn loop_alone(&self, file: &Path, shape: &[usize], values: &[f32]) -> usize {
        let builder = Session::builder(&self.environment).unwrap();
        let builder = builder.with_intra_threads(1).unwrap().with_precise_qmm();
        let mut session = builder.unwrap().commit_from_file(file).unwrap();
        let name = session.inputs()[0].name().to_owned();
        let started = Instant::now();
        let mut runs = 0;
        while started.elapsed() < self.duration {
            let input = TensorRef::from_array_view((shape, values)).unwrap();
            session.run(vec![(name.as_str(), input)]).unwrap();
            runs += 1;
        }
        runs
    }

    fn measure(&self, server: &Server, request: Vec<u8>, connections: usize) -> Measured {
        let load = Load { address: server.address.clone(), request, connections, threads: self.cores };
        load.run(Duration::from_secs(1));
        load.run(self.duration)
    }
}

fn row(case: &str, per_second: f64, baseline: Option<f64>, measured: Option<&Measured>) {
    let ratio = baseline.map_or(String::new(), |baseline| format!("{:.2}", per_second / baseline));
    let (p50, p99) = measured.map_or((String::new(), String::new()), |measured| {
        (format!("{:.3}", measured.p50_ms), format!("{:.3}", measured.p99_ms))
    });
    println!("{case:<62}{per_second:>10.0}{ratio:>8}{p50:>9}{p99:>9}");
}

fn post(path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    request(path, content_type, "", body)
}

/// Asked so that the cache does not answer.
fn fresh(path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    request(path, content_type, "cache-control: no-cache\r\n", body)
}

fn request(path: &str, content_type: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: {content_type}\r\n{headers}content-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Parses a JSON body and writes it again: the least that a JSON server does.
fn echo_server() {
    async fn echo(axum::Json(body): axum::Json<serde_json::Value>) -> axum::Json<serde_json::Value> {
        axum::Json(body)
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        let router = axum::Router::new().route("/predict", axum::routing::post(echo));
        axum::serve(axum::serve::ListenerExt::tap_io(listener, |stream| stream.set_nodelay(true).unwrap()), router)
            .await
            .unwrap();
    });
}
