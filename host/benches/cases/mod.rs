//! The cases, and what they are measured beside: ONNX Runtime in a loop with nothing around it, and servers that only echo.

pub mod batching;
pub mod files;
pub mod footprint;
pub mod images;
pub mod iris;
pub mod soak;

use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use ort::environment::Environment;
use ort::session::Session;
use ort::value::TensorRef;

use crate::load::{Measured, Request, measure};
use crate::server::Server;
use crate::table::{Row, Table};

/// How often what is measured beside another is measured, in turns.
pub const TURNS: u32 = 3;

/// One part of a run.
pub struct Bench {
    pub duration: Duration,
    pub cores: usize,
    pub table: Table,
    environment: Environment,
}

impl Bench {
    pub fn new(duration: Duration, table: Table) -> Bench {
        let library = std::env::var("ORT_DYLIB_PATH").expect("run with `cargo xtask bench`");
        let environment = ort::init_from(library).unwrap().with_telemetry(false).build().unwrap();
        environment.set_log_level(ort::logging::LogLevel::Error);
        Bench { duration, cores: thread::available_parallelism().unwrap().get(), table, environment }
    }

    /// Two servers in turns, so that a busy moment meets both; the median of each one's turns.
    pub fn beside(&self, one: (&Server, &Request), other: (&Server, &Request), connections: usize) -> [Measured; 2] {
        let mut turns: [Vec<Measured>; 2] = Default::default();
        for _ in 0..TURNS {
            for (turns, (server, request)) in turns.iter_mut().zip([one, other]) {
                turns.push(measure(&server.address, request, connections, self.duration / TURNS));
            }
        }
        turns.map(|turns| median(&turns))
    }

    pub fn served(&self, case: &str, measured: Measured) -> Row {
        Row::more_is_better(case, "/s", measured.per_second).latencies(measured.p50_ms, measured.p99_ms)
    }

    /// Runs a second of a model, with one session and thread a core and nothing around them.
    pub fn in_process(&self, model: &Path, shape: &[usize], duration: Duration) -> f64 {
        let values = vec![0.5f32; shape.iter().product()];
        let begin = Barrier::new(self.cores);
        let runs: Vec<usize> = thread::scope(|scope| {
            let run = || self.loop_alone(model, shape, &values, &begin, duration);
            let threads: Vec<_> = (0..self.cores).map(|_| scope.spawn(run)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        runs.iter().sum::<usize>() as f64 / duration.as_secs_f64()
    }

    /// A session as the host makes them.
    pub fn session(&self, model: &Path) -> Session {
        let builder = Session::builder(&self.environment).unwrap();
        let builder = builder.with_intra_threads(1).unwrap().with_precise_qmm();
        builder.unwrap().commit_from_file(model).unwrap()
    }

    fn loop_alone(&self, model: &Path, shape: &[usize], values: &[f32], begin: &Barrier, duration: Duration) -> usize {
        let mut session = self.session(model);
        let name = session.inputs()[0].name().to_owned();
        let mut run = || {
            let input = TensorRef::from_array_view((shape, values)).unwrap();
            session.run(vec![(name.as_str(), input)]).unwrap();
        };
        run();
        // All at once, and none beside the making of another session.
        begin.wait();
        let started = Instant::now();
        let mut runs = 0;
        while started.elapsed() < duration {
            run();
            runs += 1;
        }
        runs
    }
}

pub fn median(turns: &[Measured]) -> Measured {
    let middle = |figure: fn(&Measured) -> f64| middle(turns.iter().map(figure));
    Measured { per_second: middle(|m| m.per_second), p50_ms: middle(|m| m.p50_ms), p99_ms: middle(|m| m.p99_ms) }
}

/// The median.
pub fn middle(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// A model of the bundle.
pub fn bundled(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(model).join("1/model.onnx")
}

/// A request as the Open Inference Protocol has it with its tensors behind the JSON, and the answer wanted likewise.
pub fn binary(model: &str, input: &str, shape: &[usize], values: &[f32]) -> Request {
    let size = values.len() * 4;
    let head = format!(
        r#"{{"inputs":[{{"name":"{input}","shape":{shape:?},"datatype":"FP32","parameters":{{"binary_data_size":{size}}}}}],"parameters":{{"binary_data_output":true}}}}"#
    );
    let elements: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let length = head.len().to_string();
    Request::post(
        &format!("/v2/models/{model}/infer"),
        "application/octet-stream",
        [head.as_bytes(), &elements].concat(),
    )
    .header("inference-header-content-length", &length)
    .fresh()
}
