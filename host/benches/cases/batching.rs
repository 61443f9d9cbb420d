//! Two layers of 4096×4096, whose weights are read from memory once a run, however many rows it has.

use std::path::Path;

use tempfile::TempDir;

use super::{Bench, binary};
use crate::server::Server;
use crate::table::Row;

const WIDTH: usize = 4096;

pub fn run(bench: &Bench) {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/models/mlp.onnx");
    for rows in [1, 8] {
        let runs = bench.in_process(&model, &[rows, WIDTH], bench.duration);
        let case = format!("mlp: in-process loop, batch {rows}, rows");
        bench.table.row(Row::more_is_better(case, "/s", runs * rows as f64));
    }
    let request = binary("mlp", "x", &[1, WIDTH], &[0.5; WIDTH]);
    let stores = [store_with(&model), store_with(&model)];
    let host = |store: &TempDir, options: &[&str]| Server::host_on(store.path(), options);
    let [batching, unbatched] = [host(&stores[0], &[]), host(&stores[1], &["--max-batch-size", "1"])];
    let [on, off] = bench.beside((&batching, &request), (&unbatched, &request), 32);
    bench.table.row(bench.served("mlp: 32 clients, batching off", off));
    bench.table.row(bench.served("mlp: 32 clients, batching on / off", on).beside(off.per_second).target(4.0));
}

fn store_with(model: &Path) -> TempDir {
    let store = tempfile::tempdir().unwrap();
    let folder = store.path().join("models/mlp/1");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(model, folder.join("model.onnx")).unwrap();
    store
}
