//! `model-nexus predict`: a file of rows through a model, of a running host or in this process.

mod alone;
mod count;
mod output;
mod remote;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use super::{HostOptions, ModelReference, size};
use crate::batch::{Format, Outcome, Progress};
use crate::config::OnnxRuntimeConfig;

/// What `model-nexus predict` takes.
#[derive(Debug, Args)]
pub struct PredictOptions {
    /// The rows: a file, or - for standard input.
    #[arg(value_name = "FILE|-")]
    input: PathBuf,

    /// The model, or one version of it.
    #[arg(long, value_name = "ID[@VERSION]", required_unless_present = "model_file")]
    model: Option<ModelReference>,

    /// Where the answers go: a file, which appears when it is whole, a device, a named pipe or what is open already
    /// (/dev/fd/3), or - for standard output.
    #[arg(long, short, value_name = "FILE|-", default_value = "-")]
    out: PathBuf,

    /// What the rows are in [default: by the file's extension: .ndjson, .jsonl, .csv, .parquet].
    #[arg(long, value_enum)]
    from: Option<FileFormat>,

    /// What the answers are to be in [default: by the extension of --out, else as the rows].
    #[arg(long, value_enum)]
    to: Option<FileFormat>,

    /// Whether the first record of a CSV file names its columns [default: if any of its cells is no number].
    #[arg(long, value_name = "true|false")]
    header: Option<bool>,

    /// The columns that are the model's, in its order.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    columns: Option<Vec<String>>,

    #[command(flatten)]
    host: HostOptions,

    /// Run the model of this store in this process, without a host.
    #[arg(long, value_name = "FOLDER|URL")]
    store: Option<String>,

    /// Run this model in this process, without a host.
    #[arg(long, value_name = "FILE.onnx", conflicts_with_all = ["store", "model"])]
    model_file: Option<PathBuf>,

    /// Sessions in this process, each with a thread of its own [default: one per core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    instances: Option<u16>,

    #[command(flatten)]
    onnxruntime: OnnxRuntimeConfig,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FileFormat {
    Ndjson,
    Csv,
    Parquet,
}

impl From<FileFormat> for Format {
    fn from(format: FileFormat) -> Format {
        match format {
            FileFormat::Ndjson => Format::Ndjson,
            FileFormat::Csv => Format::Csv,
            FileFormat::Parquet => Format::Parquet,
        }
    }
}

/// A name that stands for standard input or output.
fn is_standard(path: &std::path::Path) -> bool {
    path.as_os_str() == "-"
}

fn by_extension(path: &std::path::Path) -> Option<Format> {
    Format::from_extension(path.extension()?.to_str()?)
}

impl PredictOptions {
    fn formats(&self) -> Result<(Format, Format), String> {
        let from = self.from.map(Format::from).or_else(|| by_extension(&self.input));
        let from = from.ok_or_else(|| {
            let input = self.input.display();
            format!("{input} has none of the extensions .ndjson, .jsonl, .csv and .parquet: say what it is with --from")
        })?;
        let to = self.to.map(Format::from).or_else(|| by_extension(&self.out));
        Ok((from, to.unwrap_or(from)))
    }

    /// Bytes of the input, where it is a file.
    fn size(&self) -> Result<Option<u64>, String> {
        if is_standard(&self.input) {
            return Ok(None);
        }
        let metadata = self.input.metadata().map_err(|error| self.unreadable(&error))?;
        Ok(metadata.is_file().then_some(metadata.len()))
    }

    fn unreadable(&self, error: &std::io::Error) -> String {
        format!("cannot read {}: {error}", self.input.display())
    }
}

pub(super) async fn run(options: &PredictOptions) -> Result<ExitCode, String> {
    let started = Instant::now();
    let formats = options.formats()?;
    let is_alone = options.store.is_some() || options.model_file.is_some();
    // Of a table that a host sends packed nobody can say which rows have come.
    let counts_rows = is_alone || formats.1 != Format::Parquet;
    let watch = Watch::start(options.size()?, counts_rows);
    let ended = match is_alone {
        true => alone::run(options, formats, &watch).await,
        false => remote::run(options, formats, &watch).await,
    };
    watch.bar.finish_and_clear();
    let Outcome { rows, failed } = ended?;
    let took = started.elapsed().as_secs_f64();
    let rate = rows as f64 / took.max(1e-9);
    eprintln!("{rows} rows in {took:.1} s, {rate:.0} a second");
    if failed == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("{failed} of {rows} rows failed; why, their answers say");
    Ok(ExitCode::FAILURE)
}

/// What is shown while a file goes through: a bar on a terminal, nothing elsewhere.
struct Watch {
    bar: ProgressBar,
    /// Bytes of the input that were read.
    read: Arc<AtomicU64>,
    /// Bytes of answers that came.
    answered: AtomicU64,
    progress: Arc<Progress>,
    size: Option<u64>,
    /// Whether rows that were answered are counted.
    counts_rows: bool,
}

const BAR: &str = "[{bar:30}] {bytes} of {total_bytes}, {msg}, {eta} left";
const WITHOUT_END: &str = "{spinner} {bytes}, {msg}";
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

impl Watch {
    fn start(size: Option<u64>, counts_rows: bool) -> Watch {
        let bar = size.map_or_else(ProgressBar::no_length, ProgressBar::new);
        // The template is this file's own, and a test reads it.
        let style = ProgressStyle::with_template(if size.is_some() { BAR } else { WITHOUT_END });
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        let (read, progress) = (Arc::default(), Arc::default());
        Watch { bar, read, answered: AtomicU64::new(0), progress, size, counts_rows }
    }

    /// Shows how far it is, until this is dropped.
    async fn look(&self) -> std::convert::Infallible {
        let started = Instant::now();
        loop {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            self.bar.set_position(self.position());
            self.bar.set_message(self.message(started.elapsed()));
        }
    }

    /// Bytes of the input that are done with.
    fn position(&self) -> u64 {
        // A file that says how many rows it has is read, or sent as a whole, in no order that bytes would tell.
        let total = self.progress.total().filter(|_| self.counts_rows);
        match total.zip(self.size) {
            Some((total, size)) => {
                let rows = self.progress.outcome().rows.min(total);
                let bytes = u128::from(size) * u128::from(rows) / u128::from(total);
                u64::try_from(bytes).unwrap_or(size)
            }
            None => self.read.load(Ordering::Relaxed),
        }
    }

    fn message(&self, elapsed: Duration) -> String {
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let (rows, answered) = (self.progress.outcome().rows, self.answered.load(Ordering::Relaxed));
        match self.progress.total().filter(|_| self.counts_rows) {
            _ if rows == 0 && answered == 0 => "no rows yet".to_owned(),
            _ if !self.counts_rows => {
                format!("{} answered, {}/s", size(answered), size((answered as f64 / seconds) as u64))
            }
            Some(total) => format!("{rows} of {total} rows, {:.0}/s", rows as f64 / seconds),
            None => format!("{rows} rows, {:.0}/s", rows as f64 / seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_readable() {
        for template in [BAR, WITHOUT_END] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn what_is_shown_are_rows_where_they_are_counted_and_else_bytes() {
        let seconds = Duration::from_secs(4);
        let lines = Watch::start(Some(1000), true);
        assert_eq!((lines.position(), lines.message(seconds)), (0, "no rows yet".to_owned()));
        lines.read.store(300, Ordering::Relaxed);
        lines.progress.add(20, 0);
        assert_eq!((lines.position(), lines.message(seconds)), (300, "20 rows, 5/s".to_owned()));
        // As soon as it is known how many there are, they say how far it is.
        lines.progress.expect(80);
        assert_eq!((lines.position(), lines.message(seconds)), (250, "20 of 80 rows, 5/s".to_owned()));

        let packed = Watch::start(Some(1000), false);
        packed.progress.expect(80);
        packed.read.store(700, Ordering::Relaxed);
        packed.answered.store(8 << 20, Ordering::Relaxed);
        assert_eq!((packed.position(), packed.message(seconds)), (700, "8.0 MiB answered, 2.0 MiB/s".to_owned()));
    }
}
