//! What the host takes when nobody asks it anything: memory, and the time from its start until it answers.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Bench, bundled, middle};
use crate::server::{Memory, Server};
use crate::table::Row;

const STARTS: usize = 7;

/// A bare process can be read in two ways: one that loads each model as often as the host does, or one that loads each
/// once. Both are measured, the second beside a host that is told to load each once too.
pub fn run(bench: &Bench) {
    let store = tempfile::tempdir().unwrap();
    // Imports the bundle and compiles its plugins, which later starts find.
    drop(Server::host_in(store.path(), &[]));
    beside_bare(bench, store.path(), &[], bench.cores, "a session a core");
    beside_bare(bench, store.path(), &["--instances", "1"], 1, "one session each");
}

fn beside_bare(bench: &Bench, store: &Path, options: &[&str], sessions: usize, named: &str) {
    let (mut host, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        host.push(Started::of(|| Server::host_in(store, options)));
        bare.push(Started::of(|| Server::bare(sessions)));
    }
    let row = |what: &str, unit: &str, figure: fn(&Started) -> f64| {
        let [host, bare] = [&host, &bare].map(|starts| middle(starts.iter().map(figure)));
        let case = format!("{what}, both models with {named} / a bare process");
        Row::less_is_better(case, unit, host).beside(bare)
    };
    bench.table.row(row("start to ready", "ms", |started| started.milliseconds).target(1.5));
    bench.table.row(row("idle memory", "MB", |started| started.memory.resident).target(1.3));
    bench.table.row(row("  of it the process's own", "MB", |started| started.memory.anonymous));
    bench.table.row(row("  of it files like libraries", "MB", |started| started.memory.files));
}

/// One start of a process, and what it took.
struct Started {
    milliseconds: f64,
    memory: Memory,
}

impl Started {
    fn of(start: impl FnOnce() -> Server) -> Started {
        let began = Instant::now();
        let server = start();
        Started { milliseconds: began.elapsed().as_secs_f64() * 1e3, memory: server.memory() }
    }
}

/// The bare process: ONNX Runtime with both models, that many sessions of each, and nothing else.
pub fn bare(bench: &Bench, sessions: usize) {
    let models: [&Path; 2] = [&bundled("iris"), &bundled("efficientnet-lite0")];
    let sessions: Vec<_> = models.iter().flat_map(|model| (0..sessions).map(|_| bench.session(model))).collect();
    println!("{}", sessions.len());
    std::thread::sleep(Duration::from_secs(600));
}
