//! Rows through a model in this process: out of a store, or out of a file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;

use super::output::Output;
use super::{PredictOptions, Watch, is_standard};
use crate::batch::{Batch, Feed, Format, Limits, Outcome, ReadOptions, Runner};
use crate::client::ModelReference;
use crate::config::object_store_options;
use crate::model::{Entry, ModelVersion, Repository, Runtime, WorkerLimits, version_key};
use crate::store::Store;

/// Of a row, and of a model's answer, as `serve` has them by default.
const ROW_BYTES: usize = 32 << 20;
const OUTPUT_BYTES: usize = 256 << 20;

pub(super) async fn run(
    options: &PredictOptions,
    (from, to): (Format, Format),
    watch: &Watch,
) -> Result<Outcome, String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let instances = options.instances.map_or(cores, usize::from);
    let model = Arc::new(open(options, instances).await?);
    let feed = feed(options, from, &watch.read)?;
    let limits = Limits {
        in_flight: instances + 1,
        row_bytes: ROW_BYTES,
        file_bytes: u64::MAX,
        scratch: tempfile::env::temp_dir(),
        patience: Duration::MAX,
    };
    let batch = Batch {
        runner: Runner::Alone { model },
        from,
        to,
        options: ReadOptions { header: options.header, columns: options.columns.clone() },
        limits,
        progress: Arc::clone(&watch.progress),
    };
    let mut answers = batch.start(feed, || {}).await.map_err(|error| error.to_string())?;
    let mut output = Output::create(&options.out)?;
    let write_all = async {
        while let Some(piece) = answers.try_next().await.map_err(|error| error.to_string())? {
            output.write(&piece).await?;
        }
        output.finish().await
    };
    tokio::select! {
        ended = write_all => ended?,
        never = watch.look() => match never {},
    }
    Ok(watch.progress.outcome())
}

/// Loads the model, with a session for each worker.
async fn open(options: &PredictOptions, instances: usize) -> Result<ModelVersion, String> {
    let runtime = Runtime::load(options.onnxruntime.library())?;
    let limits = WorkerLimits { instances, batch_rows: 1, queue_capacity: instances * 4, output_bytes: OUTPUT_BYTES };
    let alone = async |file: &Path, labels| {
        let model = ModelVersion::alone(&runtime, file, labels, limits).await;
        model.map_err(|error| format!("{}: {}", file.display(), error.message))
    };
    match (&options.model_file, &options.store, &options.model) {
        (Some(file), ..) => alone(file, Vec::new()).await,
        (None, Some(store), Some(model)) => {
            let (file, labels) = stored(store, model).await?;
            alone(&file, labels).await
        }
        _ => Err("no model is named".to_owned()),
    }
}

/// The file and the labels of a version in a store; of the highest one where none is named.
async fn stored(store: &str, model: &ModelReference) -> Result<(std::path::PathBuf, Vec<String>), String> {
    let store = Store::open(store, object_store_options()).map_err(|error| error.to_string())?;
    let repository = Repository::of_store(store, &model.id).await.map_err(|error| error.to_string())?;
    let entries = repository.list().await.map_err(|error| error.to_string())?;
    let mut versions: Vec<Entry> = entries.into_iter().filter(|entry| entry.id == model.id).collect();
    versions.retain(|entry| model.version.as_ref().is_none_or(|version| *version == entry.version));
    let newest = versions.into_iter().max_by(|one, other| version_key(&one.version).cmp(&version_key(&other.version)));
    let entry = newest.ok_or_else(|| format!("the store has no model {}", model.id))?;
    let config = repository.config(&entry.id).await.map_err(|error| error.to_string())?;
    let pipeline = config.pipeline_of(&entry.version);
    if pipeline.preprocess.is_some() || pipeline.postprocess.is_some() {
        return Err(format!(
            "plugins are bound to model {}, and only a host runs those: ask one with --url, or give --model-file for the \
             model by itself",
            entry.id
        ));
    }
    let stored = repository.open(&entry).await.map_err(|error| error.to_string())?;
    Ok((stored.file, stored.labels))
}

fn feed(options: &PredictOptions, from: Format, read: &Arc<AtomicU64>) -> Result<Feed, String> {
    if is_standard(&options.input) {
        return Ok(Feed::of_reader(Counted { reader: io::stdin(), read: Arc::clone(read) }));
    }
    let file = File::open(&options.input).map_err(|error| options.unreadable(&error))?;
    Ok(match from {
        // Read from its end, so a count of its bytes would tell nothing.
        Format::Parquet => Feed::of_file(file),
        Format::Ndjson | Format::Csv => Feed::of_reader(Counted { reader: file, read: Arc::clone(read) }),
    })
}

struct Counted<R> {
    reader: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.read.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}
