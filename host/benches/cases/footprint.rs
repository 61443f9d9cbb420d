//! What the host takes when nobody asks it anything: memory, and the time from its start until it answers.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Bench, bundled};
use crate::server::Server;
use crate::table::Row;

const STARTS: usize = 7;

pub fn run(bench: &Bench) {
    let store = tempfile::tempdir().unwrap();
    // Imports the bundle and compiles its plugins, which later starts find.
    drop(Server::host_in(store.path()));
    let (mut host_times, mut bare_times) = (Vec::new(), Vec::new());
    let (mut host_memory, mut bare_memory) = (0.0, 0.0);
    for _ in 0..STARTS {
        let started = Instant::now();
        let host = Server::host_in(store.path());
        host_times.push(started.elapsed());
        host_memory = host.resident_megabytes();
        drop(host);
        let started = Instant::now();
        let bare = Server::bare();
        bare_times.push(started.elapsed());
        bare_memory = bare.resident_megabytes();
    }
    let [host, bare] = [host_times, bare_times].map(median);
    let case = "start to ready with iris and efficientnet / a bare process's";
    bench.table.row(Row::less_is_better(case, "ms", milliseconds(host)).beside(milliseconds(bare)).target(1.5));
    let case = "idle memory with iris and efficientnet / a bare process's";
    bench.table.row(Row::less_is_better(case, "MB", host_memory).beside(bare_memory).target(1.3));
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The bare process: ONNX Runtime with both models, as many sessions of each as the host has workers, and nothing else.
pub fn bare(bench: &Bench) {
    let models: [&Path; 2] = [&bundled("iris"), &bundled("efficientnet-lite0")];
    let sessions: Vec<_> = models.iter().flat_map(|model| (0..bench.cores).map(|_| bench.session(model))).collect();
    println!("{}", sessions.len());
    std::thread::sleep(Duration::from_secs(600));
}
