//! What plugins cost: a fresh instance, a tensor's way, an upload, a start, a swap; each beside the least it could be.

mod instance;
mod life;
#[path = "../../../plugins/image-classifier/benches/preprocess/reference.rs"]
mod native;

use std::time::{Duration, Instant};

use crate::table::{Row, Table};

pub fn run(table: &Table) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        table.row(instance::trivial().await);
        table.row(instance::copies().await);
        instance::pictures(table).await;
        life::uploads_and_starts(table).await;
        table.row(life::swaps().await);
    });
}

/// A component that the project builds or keeps.
fn component(name: &str) -> Vec<u8> {
    let folder = std::path::PathBuf::from(std::env::var("NEXUS_BUNDLE").expect("run with `cargo xtask bench`"));
    std::fs::read(folder.join("plugins").join(format!("{name}.wasm"))).unwrap()
}

/// A plugin that does next to nothing.
pub fn scaler() -> Vec<u8> {
    std::fs::read(fixture("plugins/contract-0.1.0.wasm")).unwrap()
}

fn fixture(path: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

/// The same component with another text of the same length in it.
fn with_text(wasm: &[u8], old: &str, new: &str) -> Vec<u8> {
    let mut changed = wasm.to_vec();
    assert!(wasm.windows(old.len()).any(|text| text == old.as_bytes()), "{old:?} is not in the component");
    for at in 0..wasm.len() - old.len() {
        if wasm[at..].starts_with(old.as_bytes()) {
            changed[at..at + new.len()].copy_from_slice(new.as_bytes());
        }
    }
    changed
}

fn time(case: impl Into<String>, took: Duration, beside: Duration) -> Row {
    Row::less_is_better(case, "ms", took.as_secs_f64() * 1e3).beside(beside.as_secs_f64() * 1e3)
}

/// The median time of each of several ways to do a thing, in turns, so that a busy moment meets all of them.
async fn medians<const N: usize>(rounds: usize, mut once: impl AsyncFnMut(usize)) -> [Duration; N] {
    let mut times: [Vec<Duration>; N] = std::array::from_fn(|_| Vec::with_capacity(rounds));
    for _ in 0..rounds {
        for (way, times) in times.iter_mut().enumerate() {
            let started = Instant::now();
            once(way).await;
            times.push(started.elapsed());
        }
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    })
}
