//! `plugin run`: a component around a model on this machine, through the host's own pipeline; recorded and replayed.

use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;

use super::attempt::Bench;
use super::case::{Case, FileRef, Outcome, RequestRecord, Setup};
use super::log::PluginLines;
use super::report::{ReplayLine, Report};
use super::{input, plugin_host, read};
use crate::config::{OnnxRuntimeConfig, PluginConfig};
use crate::digest::{sha256_hex, sha256_of_file};
use crate::model::{ModelVersion, Runtime, WorkerLimits};
use crate::plugin::{Grants, HostPattern};

/// What `model-nexus plugin run` takes.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// The component; with --replay, another one than the case's.
    #[arg(value_name = "FILE.wasm", required_unless_present = "replay")]
    pub file: Option<PathBuf>,

    /// The model; with --replay, another one than the case's.
    #[arg(long, value_name = "FILE.onnx", required_unless_present = "replay")]
    pub model: Option<PathBuf>,

    /// The request's body: a file, `-` for standard input, or JSON that begins with { or [ [default: the plugin's golden
    /// request].
    #[arg(long, value_name = "FILE|-|JSON", conflicts_with = "replay")]
    pub input: Option<String>,

    /// The plugin's configuration: a file, or a JSON object.
    #[arg(long, value_name = "FILE|JSON", conflicts_with = "replay")]
    pub config: Option<String>,

    /// The model's labels: a file, as an upload has it.
    #[arg(long, value_name = "FILE", conflicts_with = "replay")]
    pub labels: Option<PathBuf>,

    /// The body's media type [default: by the file's extension].
    #[arg(long, value_name = "TYPE", requires = "input")]
    pub content_type: Option<String>,

    /// A parameter of the request, as in a query; repeatable.
    #[arg(long = "parameter", value_name = "NAME=VALUE", requires = "input", value_parser = input::parameter)]
    pub parameters: Vec<(String, String)>,

    /// Host that the plugin may fetch from, granted and allowed; repeatable. Without, it may fetch from none. A case that
    /// was recorded with hosts is replayed with the same ones given again.
    #[arg(long = "allow-host", value_name = "HOST[:PORT]", value_delimiter = ',')]
    pub allow_hosts: Vec<HostPattern>,

    /// Grant the plugin a clock; without, it stands at 0.
    #[arg(long, conflicts_with = "replay")]
    pub clock: bool,

    /// Grant the plugin random bytes; without, they are the same each time.
    #[arg(long, conflicts_with = "replay")]
    pub random: bool,

    /// Write all that the run depended on, and how it ended, to a file.
    #[arg(long, value_name = "FILE", conflicts_with = "replay")]
    pub record: Option<PathBuf>,

    /// Run a recorded case again; exit with 0 if it ends as it did, with 1 if not.
    #[arg(long, value_name = "FILE")]
    pub replay: Option<PathBuf>,

    /// Answer in JSON.
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub onnxruntime: OnnxRuntimeConfig,

    #[command(flatten, next_help_heading = "Limits, as of `serve`")]
    pub limits: PluginConfig,
}

/// Of a model's answer, as `serve` has it by default.
const OUTPUT_BYTES: usize = 256 << 20;

pub(super) async fn run(options: RunOptions) -> Result<bool, String> {
    let recorded = options.replay.as_deref().map(Case::read).transpose()?;
    let (mut setup, wasm) = setup(&options, recorded.as_ref()).await?;
    let lines = PluginLines::keep()?;
    let host = plugin_host(&options.limits, &setup.grants.hosts)?;
    let runtime = Runtime::load(options.onnxruntime.library())?;
    let limits =
        WorkerLimits { instances: 1, batch_rows: 1, queue_capacity: 1, output_bytes: OUTPUT_BYTES, steady: false };
    let model = ModelVersion::alone(&runtime, &setup.model.file, setup.labels.clone(), limits).await;
    let model = model.map_err(|error| format!("{}: {error}", setup.model.file.display()))?;
    let mut report = Bench { host, model, lines }.attempt(&mut setup, wasm).await?;
    if let Some(recorded) = recorded {
        report.replay = Some(compare(&setup, recorded, &report));
    }
    show(&options, &report)?;
    if let Some(file) = &options.record {
        Case::new(setup, report.outcome.clone()).write(file)?;
        eprintln!("recorded in {}; run it again with --replay {}", file.display(), file.display());
    }
    Ok(match &report.replay {
        Some(replay) => replay.same,
        None => matches!(report.outcome, Outcome::Answer { .. }),
    })
}

/// What the options say, or the case with what they put in its place; and the component.
async fn setup(options: &RunOptions, recorded: Option<&Case>) -> Result<(Setup, Bytes), String> {
    let file = |given: &Option<PathBuf>, of_case: Option<&FileRef>| {
        let file = given.as_ref().or(of_case.map(|of_case| &of_case.file)).ok_or("a file is missing")?;
        std::path::absolute(file).map_err(|error| format!("{}: {error}", file.display()))
    };
    let plugin = file(&options.file, recorded.map(|case| &case.setup.plugin))?;
    let model = file(&options.model, recorded.map(|case| &case.setup.model))?;
    let wasm = read(&plugin).await?;
    let plugin = FileRef { sha256: sha256_hex(&wasm), file: plugin };
    let hashed = model.clone();
    let sha256 =
        tokio::task::spawn_blocking(move || sha256_of_file(&hashed)).await.map_err(|error| error.to_string())?;
    let sha256 = sha256.map_err(|error| format!("cannot read {}: {error}", model.display()))?;
    let model = FileRef { sha256, file: model };
    let setup = match recorded {
        Some(case) => {
            let hosts = &case.setup.grants.hosts;
            // A case may be somebody else's, and the network is this machine's.
            if let Some(host) = hosts.iter().find(|host| !options.allow_hosts.contains(host)) {
                return Err(format!(
                    "the case was recorded with --allow-host {host}; its plugin may fetch from there only if you give that again"
                ));
            }
            Setup { plugin, model, ..case.setup.clone() }
        }
        None => {
            let grants = Grants { hosts: options.allow_hosts.clone(), clock: options.clock, random: options.random };
            let request = match &options.input {
                Some(input) => {
                    let content_type = options.content_type.as_deref();
                    Some(input::request(input, content_type, &options.parameters).await?)
                }
                None => None,
            };
            Setup {
                plugin,
                model,
                labels: input::labels(options.labels.as_ref()).await?,
                config: input::config(options.config.as_deref()).await?,
                grants,
                request: request.as_ref().map(RequestRecord::from),
            }
        }
    };
    Ok((setup, wasm))
}

fn compare(now: &Setup, recorded: Case, report: &Report) -> ReplayLine {
    let files = [("plugin", &now.plugin, &recorded.setup.plugin), ("model", &now.model, &recorded.setup.model)];
    let changed = files.into_iter().filter(|(_, now, then)| now.sha256 != then.sha256).map(|(name, ..)| name);
    ReplayLine {
        same: report.outcome.is_same(&recorded.outcome),
        changed: changed.collect(),
        recorded: recorded.outcome,
    }
}

fn show(options: &RunOptions, report: &Report) -> Result<(), String> {
    if options.json {
        println!("{}", serde_json::to_string_pretty(report).map_err(|error| error.to_string())?);
    } else {
        print!("{report}");
    }
    Ok(())
}
