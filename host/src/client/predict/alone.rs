//! Rows through a model in this process: out of a store, or out of a file.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;

use super::output::Output;
use super::{PredictOptions, Watch, is_standard};
use crate::batch::{Batch, Feed, Format, Limits, MOST_ROWS, Outcome, ReadOptions, Runner};
use crate::client::ModelReference;
use crate::config::{AdmissionConfig, object_store_options};
use crate::model::{
    Admission, Batching, Entry, ModelVersion, Repository, Runtime, WorkerLimits, tried_alone, version_key,
};
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
    let mut output = Output::create(&options.out).await?;
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

/// A model's file, and what is known of it.
struct Found {
    file: PathBuf,
    labels: Vec<String>,
    /// `None` where no host has tried it.
    batching: Option<Batching>,
}

/// Loads the model, with a session for each worker.
async fn open(options: &PredictOptions, instances: usize) -> Result<ModelVersion, String> {
    let runtime = Runtime::load(options.onnxruntime.library())?;
    let Found { file, labels, batching } = match (&options.model_file, &options.store, &options.model) {
        (Some(file), ..) => Found { file: file.clone(), labels: Vec::new(), batching: None },
        (None, Some(store), Some(model)) => stored(store, model).await?,
        _ => return Err("no model is named".to_owned()),
    };
    let batching = match batching {
        Some(batching) => batching,
        None => tried_alone(&file, &Admission::new(&AdmissionConfig::default(), &options.onnxruntime)).await,
    };
    let limits = WorkerLimits {
        instances,
        // Nobody else asks this model, so a run may be as long as the file makes it.
        batch_rows: if batching.ok { MOST_ROWS } else { 1 },
        queue_capacity: instances * 4,
        output_bytes: OUTPUT_BYTES,
        steady: false,
    };
    let model = ModelVersion::alone(&runtime, &file, labels, limits).await;
    let model = model.map_err(|error| format!("{}: {}", file.display(), error.message))?;
    if let Some(reason) = batching.reason {
        eprintln!("rows are run one by one, as a host does with this model: {reason}");
    }
    Ok(model)
}

/// A version in a store; the highest one where none is named.
async fn stored(store: &str, model: &ModelReference) -> Result<Found, String> {
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
    let batching = match config.engine_of(&entry.version).max_batch_size {
        Some(rows) if u64::from(rows) == 1 => Some(Batching::off("`max_batch_size` is set to 1 for it")),
        _ => stored.sidecar.batching,
    };
    Ok(Found { file: stored.file, labels: stored.labels, batching })
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
