//! A model that takes no time: what is left is what the host costs.

use std::time::Duration;

use serde_json::json;

use super::{Bench, TURNS, bundled};
use crate::grpc;
use crate::load::Request;
use crate::server::Server;
use crate::table::Row;

const BODY: &str = r#"{"model_id":"iris","features":[5.1,3.5,1.4,0.2]}"#;
const V2_BODY: &str = r#"{"inputs":[{"name":"X","shape":[1,4],"datatype":"FP32","data":[5.1,3.5,1.4,0.2]}]}"#;
const CONNECTIONS: usize = 16;

pub fn run(bench: &Bench) {
    let in_process = bench.in_process(&bundled("iris"), &[1, 4], bench.duration);
    bench.table.row(Row::more_is_better("iris: in-process loop, one session a core", "/s", in_process));
    let (host, echo) = (Server::host(), Server::echo());
    rest(bench, &host, &echo);
    alone(bench, &host, &echo);
    plugins(bench, &host);
    drop(echo);
    grpc(bench, &host);
}

fn predict() -> Request {
    Request::post("/predict", "application/json", BODY).fresh()
}

fn rest(bench: &Bench, host: &Server, echo: &Server) {
    let v2 = Request::post("/v2/models/iris/infer", "application/json", V2_BODY).fresh();
    let cached = Request::post("/predict", "application/json", BODY);
    for (case, request, target) in [
        ("iris: POST /predict, 16 connections / bare axum JSON echo", predict(), Some(0.65)),
        ("iris: JSON over /v2, 16 connections / bare axum JSON echo", v2, Some(0.65)),
        ("iris: /predict from the cache, 16 connections / bare axum JSON echo", cached, None),
    ] {
        let echoed = Request { path: "/predict".into(), ..request.clone() };
        let [served, baseline] = bench.beside((host, &request), (echo, &echoed), CONNECTIONS);
        let row = bench.served(case, served).beside(baseline.per_second);
        bench.table.row(target.map_or(row.clone(), |target| row.target(target)));
        if request.path == "/predict" && target.is_some() {
            bench.table.row(bench.served("  the echo itself", baseline));
            // A millisecond is meant for a machine like the one where a prototype of the host's queue had 0.6 ms.
            let case = "iris: p99 of POST /predict, 16 connections / the echo's";
            let row = Row::less_is_better(case, "ms", served.p99_ms).beside(baseline.p99_ms);
            bench.table.row(row.target_figure(1.0));
        }
    }
}

/// A lone request's latency, with and without batching.
fn alone(bench: &Bench, host: &Server, echo: &Server) {
    let unbatched = Server::host_with(&["--max-batch-size", "1"]);
    for (server, case) in [(host, "on"), (&unbatched, "off")] {
        let [served, baseline] = bench.beside((server, &predict()), (echo, &predict()), 1);
        let case = format!("iris: a lone request's p50, batching {case} / the echo's");
        bench.table.row(Row::less_is_better(case, "ms", served.p50_ms).beside(baseline.p50_ms).target(1.5));
    }
    let [on, off] = bench.beside((host, &predict()), (&unbatched, &predict()), CONNECTIONS);
    bench.table.row(bench.served("iris: 16 connections, batching on / off", on).beside(off.per_second).target(0.98));
}

/// The same model with a trivial preprocess and postprocess plugin.
fn plugins(bench: &Bench, host: &Server) {
    let with = Server::host();
    with.upload_plugin(crate::plugins::scaler());
    let stage = json!({ "plugin": "contract-fixture@0.1.0" });
    with.put("/models/iris/pipeline", &json!({ "preprocess": stage, "postprocess": stage }));
    let raw = r#"{"model_id":"iris","x":[5.1,3.5,1.4,0.2]}"#;
    let raw = Request::post("/predict", "application/json", raw).fresh();
    let [with, without] = bench.beside((&with, &raw), (host, &predict()), CONNECTIONS);
    let case = "iris: with trivial preprocess and postprocess plugins / without";
    bench.table.row(bench.served(case, with).beside(without.per_second).target(0.80));
}

fn grpc(bench: &Bench, host: &Server) {
    let echo = Server::grpc_echo();
    let request = grpc::request("iris", "X", &[1, 4], &[5.1, 3.5, 1.4, 0.2]);
    let load = |server: &Server, duration: Duration| grpc::measure(&server.address, &request, 4, 4, duration);
    let turn = bench.duration / TURNS;
    let turns: Vec<_> = (0..TURNS).map(|_| [load(host, turn), load(&echo, turn)]).collect();
    let [served, echoed] = [0, 1].map(|way| super::median(&turns.iter().map(|turn| turn[way]).collect::<Vec<_>>()));
    let case = "iris: gRPC, 16 streams on 4 connections / bare tonic echo";
    bench.table.row(bench.served(case, served).beside(echoed.per_second).target(0.6));
}
