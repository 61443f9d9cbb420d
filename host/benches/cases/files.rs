//! Files of rows through `model-nexus predict`, in one process: read, run and written.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, Float32Array, RecordBatch};
use parquet::arrow::ArrowWriter;

use super::{Bench, TURNS, bundled, middle};
use crate::table::Row;

const ROWS: usize = 2_000_000;
const COLUMNS: [&str; 4] = ["sepal_length", "sepal_width", "petal_length", "petal_width"];

pub fn run(bench: &Bench) {
    let folder = tempfile::tempdir().unwrap();
    let one = ndjson(folder.path(), "one.ndjson", 1);
    let files =
        [("NDJSON", ndjson(folder.path(), "rows.ndjson", ROWS), 0.10), ("Parquet", parquet(folder.path()), 0.30)];
    let (mut in_process, mut rates) = (Vec::new(), [Vec::new(), Vec::new()]);
    for _ in 0..TURNS {
        in_process.push(bench.in_process(&bundled("iris"), &[64, 4], bench.duration / TURNS) * 64.0);
        // What starting takes, and one row, is none of the rows' time.
        let starting = predict(&one);
        for (rates, (_, file, _)) in rates.iter_mut().zip(&files) {
            rates.push(ROWS as f64 / (predict(file) - starting).as_secs_f64());
        }
    }
    let in_process = middle(in_process);
    bench.table.row(Row::more_is_better("iris: in-process loop at batch 64, rows", "/s", in_process));
    for (rates, (format, _, target)) in rates.into_iter().zip(files) {
        let case = format!("batch file: {ROWS} iris rows, {format} in and out / in-process loop, rows");
        bench.table.row(Row::more_is_better(case, "/s", middle(rates)).beside(in_process).target(target));
    }
}

fn predict(file: &Path) -> Duration {
    let out = file.with_file_name(format!("out-{}", file.file_name().unwrap().to_str().unwrap()));
    let started = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_model-nexus"));
    command.arg("predict").arg("--model-file").arg(bundled("iris")).arg(file).arg("-o").arg(out);
    assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    started.elapsed()
}

fn value(row: usize, column: usize) -> f32 {
    ((row * 7 + column * 13) % 80) as f32 / 10.0
}

fn ndjson(folder: &Path, name: &str, rows: usize) -> PathBuf {
    let file = folder.join(name);
    let mut text = String::new();
    for row in 0..rows {
        let numbers = std::array::from_fn::<f32, 4, _>(|column| value(row, column));
        writeln!(text, "{numbers:?}").unwrap();
    }
    std::fs::write(&file, text).unwrap();
    file
}

fn parquet(folder: &Path) -> PathBuf {
    let file = folder.join("rows.parquet");
    let columns = COLUMNS.iter().enumerate().map(|(column, name)| {
        let numbers = (0..ROWS).map(|row| value(row, column));
        (*name, Arc::new(Float32Array::from_iter_values(numbers)) as ArrayRef)
    });
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(&file).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    file
}
