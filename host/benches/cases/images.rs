//! A model that takes its time, and a tensor of 600 KB: what is left is what moving it costs.

use std::path::Path;
use std::time::Duration;

use model_nexus::grpc::proto::ModelInferRequest;

use super::{Bench, TURNS, binary, bundled, median, middle};
use crate::grpc;
use crate::load::{Measured, Request, measure};
use crate::server::Server;
use crate::table::Row;

const MODEL: &str = "efficientnet-lite0";
const SHAPE: [usize; 4] = [1, 3, 224, 224];
const CONNECTIONS: usize = 8;

/// What is sent to the host, and how.
enum Wire {
    Rest(Request),
    Grpc(Box<ModelInferRequest>),
}

struct Case {
    name: String,
    wire: Wire,
    target: Option<f64>,
}

impl Case {
    fn new(name: impl Into<String>, wire: Wire, target: impl Into<Option<f64>>) -> Case {
        Case { name: name.into(), wire, target: target.into() }
    }

    fn measure(&self, host: &Server, duration: Duration) -> Measured {
        match &self.wire {
            Wire::Rest(request) => measure(&host.address, request, CONNECTIONS, duration),
            Wire::Grpc(request) => grpc::measure(&host.address, request, CONNECTIONS, 1, duration),
        }
    }
}

pub fn run(bench: &Bench) {
    let values: Vec<f32> = (0..SHAPE.iter().product()).map(|index| (index % 255) as f32 / 128.0 - 1.0).collect();
    let name = bench.session(&bundled(MODEL)).inputs()[0].name().to_owned();
    let tensor = binary(MODEL, &name, &SHAPE, &values);
    let raw = Box::new(grpc::request(MODEL, &name, &SHAPE, &values));
    let (json, megabytes) = json(&values);
    let mut cases = vec![
        Case::new("OIP binary", Wire::Rest(tensor.clone()), 0.90),
        Case::new("gRPC raw", Wire::Grpc(raw), 0.90),
        Case::new(format!("JSON tensor of {megabytes:.1} MB"), Wire::Rest(json), 0.40),
    ];
    cases.extend(
        ["cat.jpg", "coffee-2400x1600.jpg"]
            .map(|name| Case::new(format!("{name} through the plugin"), Wire::Rest(picture(name)), None)),
    );
    let host = Server::host();
    beside_loop(bench, &host, &cases);

    let unbatched = Server::host_with(&["--max-batch-size", "1"]);
    let [on, off] = bench.beside((&host, &tensor), (&unbatched, &tensor), 16);
    let row = bench.served("efficientnet: 16 clients, batching on / off", on);
    bench.table.row(row.beside(off.per_second).target(0.98));
}

/// The loop and the cases in turns, so that a busy moment meets all of them.
fn beside_loop(bench: &Bench, host: &Server, cases: &[Case]) {
    let duration = bench.duration / TURNS;
    let (mut in_process, mut turns) = (Vec::new(), vec![Vec::new(); cases.len()]);
    for _ in 0..TURNS {
        in_process.push(bench.in_process(&bundled(MODEL), &SHAPE, duration));
        for (turns, case) in turns.iter_mut().zip(cases) {
            turns.push(case.measure(host, duration));
        }
    }
    let in_process = middle(in_process);
    bench.table.row(Row::more_is_better("efficientnet int8: in-process loop, one session a core", "/s", in_process));
    for (case, turns) in cases.iter().zip(turns) {
        let named = format!("efficientnet: {}, {CONNECTIONS} connections / in-process loop", case.name);
        let row = bench.served(&named, median(&turns)).beside(in_process);
        bench.table.row(match case.target {
            Some(target) => row.target(target),
            None => row,
        });
    }
}

/// As Python writes floats of 32 bits: every digit that 64 bits have. With its megabytes.
fn json(values: &[f32]) -> (Request, f64) {
    let numbers: Vec<String> = values.iter().map(|&value| (f64::from(value) * 0.9921875 + 1e-3).to_string()).collect();
    let body = format!(r#"{{"model_id":"{MODEL}","features":[{}]}}"#, numbers.join(", "));
    let megabytes = body.len() as f64 / 1e6;
    (Request::post("/predict", "application/json", body).fresh(), megabytes)
}

fn picture(name: &str) -> Request {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(name);
    Request::post("/predict", "image/jpeg", std::fs::read(file).unwrap()).fresh()
}
