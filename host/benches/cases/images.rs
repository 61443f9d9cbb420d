//! A model that takes its time, and a tensor of 600 KB: what is left is what moving it costs.

use std::path::Path;

use super::{Bench, binary, bundled};
use crate::grpc;
use crate::load::Request;
use crate::server::Server;
use crate::table::Row;

const MODEL: &str = "efficientnet-lite0";
const SHAPE: [usize; 4] = [1, 3, 224, 224];
const CONNECTIONS: usize = 8;

pub fn run(bench: &Bench) {
    let in_process = || bench.in_process(&bundled(MODEL), &SHAPE, bench.duration);
    let before = in_process();
    bench.table.row(Row::more_is_better("efficientnet int8: in-process loop, one session a core", "/s", before));
    let host = Server::host();
    let values: Vec<f32> = (0..SHAPE.iter().product()).map(|index| (index % 255) as f32 / 128.0 - 1.0).collect();
    let name = bench.session(&bundled(MODEL)).inputs()[0].name().to_owned();

    let served = bench.measure(&host, &binary(MODEL, &name, &SHAPE, &values), CONNECTIONS);
    let case = "efficientnet: OIP binary, 8 connections / in-process loop";
    bench.table.row(bench.served(case, served).beside(before).target(0.90));

    let request = grpc::request(MODEL, &name, &SHAPE, &values);
    let served = grpc::measure(&host.address, &request, CONNECTIONS, 1, bench.duration);
    let between = in_process();
    let case = "efficientnet: gRPC raw, 8 connections / in-process loop";
    bench.table.row(bench.served(case, served).beside(between).target(0.90));

    // As Python writes floats of 32 bits: every digit that 64 bits have.
    let numbers: Vec<String> = values.iter().map(|&value| (f64::from(value) * 0.9921875 + 1e-3).to_string()).collect();
    let body = format!(r#"{{"model_id":"{MODEL}","features":[{}]}}"#, numbers.join(", "));
    let case =
        format!("efficientnet: JSON tensor of {:.1} MB, 8 connections / in-process loop", body.len() as f64 / 1e6);
    let request = Request::post("/predict", "application/json", body).fresh();
    let served = bench.measure(&host, &request, CONNECTIONS);
    bench.table.row(bench.served(&case, served).beside(between).target(0.40));

    let unbatched = Server::host_with(&["--max-batch-size", "1"]);
    let request = binary(MODEL, &name, &SHAPE, &values);
    let [on, off] = bench.beside((&host, &request), (&unbatched, &request), 16);
    bench
        .table
        .row(bench.served("efficientnet: 16 clients, batching on / off", on).beside(off.per_second).target(0.98));

    for picture in ["cat.jpg", "coffee-2400x1600.jpg"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(picture);
        let request = Request::post("/predict", "image/jpeg", std::fs::read(file).unwrap()).fresh();
        let served = bench.measure(&host, &request, CONNECTIONS);
        let case = format!("efficientnet: {picture} through the plugin, 8 connections / in-process loop");
        bench.table.row(bench.served(&case, served).beside(between));
    }
}
