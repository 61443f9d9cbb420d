//! What the host adds to a model, as ratios within one run: beside ONNX Runtime in a loop, and beside servers that only echo.
//!
//! `cargo xtask bench [-- SECONDS [PART] [--json FILE] [--compare FILE]]`, the seconds for each case. The load comes from the
//! same machine: figures are worth something as ratios only. `cargo xtask bench -- 3600 soak` loads the host for an hour and
//! says whether its memory grew; it runs only where it is named.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod cases;
mod echo;
mod grpc;
mod load;
mod plugins;
mod server;
mod table;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use cases::Bench;
use table::Table;

/// What is run where no part is named.
const PARTS: [&str; 6] = ["iris", "images", "batching", "files", "footprint", "plugins"];
/// What takes as long as one has, and is run only where it is named.
const SOAK: &str = "soak";

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.first().map(String::as_str) {
        Some("--echo") => return echo::json(),
        Some("--grpc-echo") => return echo::grpc(),
        _ => {}
    }
    let mut option = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name)?;
        Some(PathBuf::from(arguments.drain(place..place + 2).nth(1).expect("a file")))
    };
    let (json, compare, rows) = (option("--json"), option("--compare"), option("--rows"));
    if arguments.first().is_some_and(|argument| argument == "--bare") {
        let unused = std::env::temp_dir().join("unused");
        let sessions = arguments[1].parse().expect("sessions of each model");
        return cases::footprint::bare(&Bench::new(Duration::ZERO, Table { file: unused }), sessions);
    }
    let seconds = arguments.first().map_or(6, |seconds| seconds.parse().expect("seconds a case"));
    let part = arguments.get(1).map(String::as_str);
    let known = part.is_none_or(|part| part == SOAK || PARTS.contains(&part));
    assert!(known, "the parts are {PARTS:?} and {SOAK:?}, not {part:?}");
    match (part, rows) {
        (Some(part), Some(rows)) => run(part, Duration::from_secs(seconds), rows),
        (part, _) => run_parts(part, seconds, json, compare),
    }
}

/// Each part as a process of its own: ONNX Runtime is set up once a process.
fn run_parts(part: Option<&str>, seconds: u64, json: Option<PathBuf>, compare: Option<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows");
    for part in part.map_or(PARTS.to_vec(), |part| vec![part]) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([&seconds.to_string(), part, "--rows"]).arg(&rows);
        assert!(command.status().unwrap().success(), "{part} failed");
    }
    let rows = table::read(&rows);
    if let Some(file) = json {
        std::fs::write(file, serde_json::to_vec_pretty(&rows).unwrap()).unwrap();
    }
    if let Some(earlier) = compare {
        table::compare(&rows, &earlier);
    }
}

fn run(part: &str, duration: Duration, rows: PathBuf) {
    let table = Table::new(rows);
    if part == "plugins" {
        return plugins::run(&table);
    }
    let bench = Bench::new(duration, table);
    match part {
        "iris" => cases::iris::run(&bench),
        "images" => cases::images::run(&bench),
        "batching" => cases::batching::run(&bench),
        "files" => cases::files::run(&bench),
        "footprint" => cases::footprint::run(&bench),
        _ => cases::soak::run(&bench),
    }
}
