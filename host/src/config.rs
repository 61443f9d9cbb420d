//! Every option, and the only reader of the environment: flags first, then the environment, then a `.env` file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueEnum};

mod admission;
mod engine;

pub use admission::{AdmissionConfig, AdmitOptions};
pub use engine::EngineConfig;

use crate::author::PluginCommand;
use crate::client::{ModelsCommand, PredictOptions};
use crate::model::check_name;
use crate::plugin::{HostPattern, PluginLimits};

/// Serves ONNX models over HTTP, with sandboxed WebAssembly plugins around them.
#[derive(Debug, Parser)]
#[command(name = "model-nexus", version, about)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve models until SIGTERM or SIGINT.
    Serve(Box<Config>),
    /// Ask a running host for its health; exit with 0 if it is healthy, with 1 if not.
    Health(HealthOptions),
    /// Bring models to a running host, copy them out, list and remove them.
    #[command(subcommand)]
    Models(Box<ModelsCommand>),
    /// Run a file of rows through a model: of a running host, of a store, or out of a file.
    Predict(Box<PredictOptions>),
    /// Write a plugin, check it and try it, without a server.
    #[command(subcommand)]
    Plugin(Box<PluginCommand>),
    /// Load a model and run it once, within limits, and say how it went: what the host does with every new model.
    #[command(hide = true)]
    Admit(AdmitOptions),
}

#[derive(Debug, Clone, Args)]
pub struct HealthOptions {
    /// The host to ask.
    #[arg(long, env = "NEXUS_URL", default_value = "http://127.0.0.1:8080")]
    pub url: url::Url,
    /// The port to ask instead of the URL's, as a platform sets it for the host.
    #[arg(long, env = "PORT")]
    pub port: Option<u16>,
}

/// What `model-nexus serve` takes. Sizes read `64MiB`, durations `15s`, `2m`.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Address and port to listen on [default: 0.0.0.0 and --port].
    #[arg(long, env = "NEXUS_LISTEN", value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,

    /// Port to listen on, where --listen is not given.
    #[arg(long, env = "PORT", default_value_t = 8080)]
    pub port: u16,

    /// Another address and port to serve gRPC on, and nothing else; it is served beside REST in any case [default: none].
    #[arg(long, env = "NEXUS_GRPC_LISTEN", value_name = "ADDR:PORT")]
    pub grpc_listen: Option<SocketAddr>,

    /// Where models and plugins are kept: a folder, or s3://, gs://, az:// and a prefix.
    #[arg(long, env = "NEXUS_STORE", default_value = "store", value_name = "FOLDER|URL")]
    pub store: String,

    /// How often the store is looked at for what other hosts changed; 0s: never.
    #[arg(long, env = "NEXUS_STORE_POLL", default_value = "1s", value_parser = humantime::parse_duration)]
    pub store_poll: Duration,

    /// Id of the model, where the store is the folder of one: `model.onnx`, or `1/model.onnx`, lies in it.
    #[arg(long, env = "NEXUS_MODEL_NAME", default_value = "model", value_name = "ID", value_parser = model_name)]
    pub model_name: String,

    /// Folder of bundled models and plugins: the models are imported into an empty store at first start, the plugins at
    /// every start in place of those of their names and versions.
    #[arg(long, env = "NEXUS_BUNDLE", value_name = "FOLDER")]
    pub bundle: Option<PathBuf>,

    #[command(flatten)]
    pub onnxruntime: OnnxRuntimeConfig,

    /// Host plugins may fetch from; repeatable. `*`: any public address; `*.example.com`: public addresses under a
    /// name; a host or address named in full may be private.
    #[arg(
        long = "allow-host",
        env = "NEXUS_ALLOW_HOST",
        value_name = "HOST[:PORT]",
        value_delimiter = ',',
        default_value = "*"
    )]
    pub allow_hosts: Vec<HostPattern>,

    #[command(flatten)]
    pub engine: EngineConfig,

    #[command(flatten)]
    pub admission: AdmissionConfig,

    #[command(flatten)]
    pub limits: LimitsConfig,

    #[command(flatten)]
    pub cache: CacheConfig,

    #[command(flatten)]
    pub plugin: PluginConfig,

    /// Origins that browsers may call from; repeatable. `*`: any.
    #[arg(
        long = "cors-allow-origin",
        env = "NEXUS_CORS_ALLOW_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ',',
        default_value = "*"
    )]
    pub cors_allow_origins: Vec<String>,

    /// What to log, as `info` or `warn,model_nexus=debug`.
    #[arg(long, env = "NEXUS_LOG", default_value = "info,ort=warn", value_name = "FILTER")]
    pub log: String,

    /// How to write the log.
    #[arg(long, env = "NEXUS_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Json,
    Text,
}

/// Where ONNX Runtime is.
#[derive(Debug, Clone, Args)]
pub struct OnnxRuntimeConfig {
    /// ONNX Runtime's shared library [also ONNX_LIBRARY_PATH].
    #[arg(long, env = "ORT_DYLIB_PATH", value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,

    /// ONNX Runtime's shared library, by the variable of the service this one replaces.
    #[arg(long, env = "ONNX_LIBRARY_PATH", hide = true)]
    pub onnx_library_path: Option<PathBuf>,
}

/// What one client may ask of the host.
#[derive(Debug, Clone, Args)]
pub struct LimitsConfig {
    /// Connections open at once; more wait to be taken.
    #[arg(long, env = "NEXUS_MAX_CONNECTIONS", default_value_t = 8192, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,

    /// Time a connection may take to send the head of a request, the pause before it included; past it, it is closed.
    #[arg(long, env = "NEXUS_IDLE_TIMEOUT", default_value = "75s", value_parser = humantime::parse_duration)]
    pub idle_timeout: Duration,

    /// Predictions in progress at once, and streams of them open at once; past it the answer is 503.
    #[arg(long, env = "NEXUS_MAX_PREDICTIONS", default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_predictions: u32,

    /// Time one prediction may take; past it the answer is 504.
    #[arg(long, env = "NEXUS_PREDICT_TIMEOUT", default_value = "60s", value_parser = humantime::parse_duration)]
    pub predict_timeout: Duration,

    /// Size of a prediction request's body; of a batch, that of one row, and of what may wait in memory to be read.
    #[arg(long, env = "NEXUS_MAX_BODY_BYTES", default_value = "32MiB", value_name = "BYTES")]
    pub max_body_bytes: ByteSize,

    /// Files of rows in progress at once; past it the answer is 503.
    #[arg(long, env = "NEXUS_MAX_BATCHES", default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=128))]
    pub max_batches: u32,

    /// Size of a file of rows that has to be there whole before it can be read: Parquet. It lies on the disk meanwhile.
    #[arg(long, env = "NEXUS_MAX_BATCH_BYTES", default_value = "4GiB", value_name = "BYTES")]
    pub max_batch_bytes: ByteSize,

    /// Time a client may pause amid sending a body, or a message of a stream, past which the answer is 408, or amid taking an
    /// answer, past which its connection is closed.
    #[arg(long, env = "NEXUS_BODY_IDLE_TIMEOUT", default_value = "30s", value_parser = humantime::parse_duration)]
    pub body_idle_timeout: Duration,

    /// Time one upload may take; past it the answer is 408.
    #[arg(long, env = "NEXUS_UPLOAD_TIMEOUT", default_value = "30m", value_parser = humantime::parse_duration)]
    pub upload_timeout: Duration,

    /// Size of an uploaded model, with the files it keeps weights in; of an archive, packed and unpacked.
    #[arg(long, env = "NEXUS_MAX_UPLOAD_BYTES", default_value = "4GiB", value_name = "BYTES")]
    pub max_upload_bytes: ByteSize,

    /// Files that an uploaded model may keep weights in, and files and folders of an uploaded archive.
    #[arg(long, env = "NEXUS_MAX_MODEL_FILES", default_value_t = 4096, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_model_files: u32,

    /// Size of an uploaded label file.
    #[arg(long, env = "NEXUS_MAX_LABELS_BYTES", default_value = "8MiB", value_name = "BYTES")]
    pub max_labels_bytes: ByteSize,

    /// Uploads in progress at once, and loads and unloads of the Open Inference Protocol; past it the answer is 503.
    #[arg(long, env = "NEXUS_MAX_UPLOADS", default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_uploads: u32,

    /// Time that running requests have to end after SIGTERM.
    #[arg(long, env = "NEXUS_DRAIN_TIMEOUT", default_value = "15s", value_parser = humantime::parse_duration)]
    pub drain_timeout: Duration,
}

/// The answers kept in memory.
#[derive(Debug, Clone, Args)]
pub struct CacheConfig {
    /// Memory for cached predictions; 0 turns the cache off.
    #[arg(long, env = "NEXUS_CACHE_BYTES", default_value = "64MiB", value_name = "BYTES")]
    pub cache_bytes: ByteSize,

    /// Age at which a cached prediction is forgotten.
    #[arg(long, env = "NEXUS_CACHE_TTL", default_value = "5m", value_parser = parse_cache_ttl)]
    pub cache_ttl: Duration,
}

/// What one plugin may use.
#[derive(Debug, Clone, Args)]
pub struct PluginConfig {
    /// Memory of one plugin instance.
    #[arg(long, env = "NEXUS_PLUGIN_MEMORY_BYTES", default_value = "256MiB", value_name = "BYTES", value_parser = parse_plugin_memory)]
    pub plugin_memory_bytes: ByteSize,

    /// Plugin instances running at once; more wait.
    #[arg(long, env = "NEXUS_PLUGIN_INSTANCES", default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub plugin_instances: u32,

    /// Time a request waits for a plugin instance; past it the answer is 503.
    #[arg(long, env = "NEXUS_PLUGIN_INSTANCE_WAIT", default_value = "1s", value_parser = humantime::parse_duration)]
    pub plugin_instance_wait: Duration,

    /// Processor time of one plugin instance.
    #[arg(long, env = "NEXUS_PLUGIN_CPU_TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub plugin_cpu_time: Duration,

    /// Time one plugin stage may take, waiting included.
    #[arg(long, env = "NEXUS_PLUGIN_WALL_TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub plugin_wall_time: Duration,

    /// Stack of one plugin instance.
    #[arg(long, env = "NEXUS_PLUGIN_STACK_BYTES", default_value = "1MiB", value_name = "BYTES")]
    pub plugin_stack_bytes: ByteSize,

    /// Lines one plugin instance may log.
    #[arg(long, env = "NEXUS_PLUGIN_LOG_LINES", default_value_t = 100, value_name = "N")]
    pub plugin_log_lines: usize,

    /// Length of one log line of a plugin; what is longer is cut.
    #[arg(long, env = "NEXUS_PLUGIN_LOG_LINE_BYTES", default_value = "4KiB", value_name = "BYTES")]
    pub plugin_log_line_bytes: ByteSize,

    /// Bytes one plugin stage may return.
    #[arg(long, env = "NEXUS_PLUGIN_OUTPUT_BYTES", default_value = "64MiB", value_name = "BYTES")]
    pub plugin_output_bytes: ByteSize,

    /// Bytes of one answer that a plugin fetches over HTTP.
    #[arg(long, env = "NEXUS_PLUGIN_FETCH_BYTES", default_value = "20MiB", value_name = "BYTES")]
    pub plugin_fetch_bytes: ByteSize,

    /// Time one fetch of a plugin may take, from connecting to the body's last byte.
    #[arg(long, env = "NEXUS_PLUGIN_FETCH_TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub plugin_fetch_time: Duration,

    /// HTTP requests one plugin instance may send.
    #[arg(long, env = "NEXUS_PLUGIN_FETCHES", default_value_t = 32, value_name = "N")]
    pub plugin_fetches: usize,

    /// Time that compiling one plugin may take.
    #[arg(long, env = "NEXUS_PLUGIN_COMPILE_TIME", default_value = "2m", value_parser = humantime::parse_duration)]
    pub plugin_compile_time: Duration,

    /// Traps in a row after which a model's plugin is left alone for a while; 0: never.
    #[arg(long, env = "NEXUS_PLUGIN_BREAKER_FAILURES", default_value_t = 5, value_name = "N")]
    pub plugin_breaker_failures: u32,

    /// How long a plugin that trapped again and again is left alone; then one request tries it.
    #[arg(long, env = "NEXUS_PLUGIN_BREAKER_PAUSE", default_value = "10s", value_parser = humantime::parse_duration)]
    pub plugin_breaker_pause: Duration,

    /// Folder of compiled plugins, which has to be this user's alone [default: .compiled in a store that is a folder;
    /// else none].
    #[arg(long, env = "NEXUS_PLUGIN_CACHE", value_name = "FOLDER")]
    pub plugin_cache: Option<PathBuf>,

    /// Size of that folder, past which what was not used for longest is removed; 0: nothing is kept.
    #[arg(long, env = "NEXUS_PLUGIN_CACHE_BYTES", default_value = "2GiB", value_name = "BYTES")]
    pub plugin_cache_bytes: ByteSize,

    /// Plugins that there may be, versions counted; past it the answer to an upload is 413.
    #[arg(long, env = "NEXUS_MAX_PLUGINS", default_value_t = 500, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_plugins: u32,

    /// Size of one plugin's component.
    #[arg(long, env = "NEXUS_MAX_PLUGIN_BYTES", default_value = "64MiB", value_name = "BYTES")]
    pub max_plugin_bytes: ByteSize,
}

impl Cli {
    /// Reads `.env` and the command line; on a mistake or `--help` prints and ends the process, as command lines do.
    ///
    /// Call it first, while the process has one thread: it writes environment variables.
    ///
    /// # Errors
    /// A `.env` file that is there but cannot be read.
    pub fn from_process() -> Result<Cli, dotenvy::Error> {
        // What tries a stranger's model is to know nothing that the host knows.
        let is_admission = std::env::args_os().nth(1).is_some_and(|command| command == "admit");
        match if is_admission { Ok(PathBuf::new()) } else { dotenvy::dotenv() } {
            Ok(_) => {}
            Err(error) if error.not_found() => {}
            Err(error) => return Err(error),
        }
        disable_onnxruntime_telemetry();
        Ok(Cli::parse())
    }
}

impl Config {
    pub fn listen_address(&self) -> SocketAddr {
        self.listen.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], self.port)))
    }
}

impl OnnxRuntimeConfig {
    pub fn library(&self) -> Option<&PathBuf> {
        self.onnxruntime.as_ref().or(self.onnx_library_path.as_ref())
    }
}

impl PluginConfig {
    /// The limits as the plugin host takes them.
    pub fn limits(&self) -> PluginLimits {
        PluginLimits {
            memory_bytes: to_usize(self.plugin_memory_bytes),
            instances: self.plugin_instances,
            cpu_time: self.plugin_cpu_time,
            wall_time: self.plugin_wall_time,
            output_bytes: to_usize(self.plugin_output_bytes),
            fetch_bytes: to_usize(self.plugin_fetch_bytes),
            fetch_time: self.plugin_fetch_time,
            fetches: self.plugin_fetches,
            instance_wait: self.plugin_instance_wait,
            stack_bytes: to_usize(self.plugin_stack_bytes),
            log_lines: self.plugin_log_lines,
            log_line_bytes: to_usize(self.plugin_log_line_bytes),
            compile_time: self.plugin_compile_time,
            breaker_failures: self.plugin_breaker_failures,
            breaker_pause: self.plugin_breaker_pause,
        }
    }
}

/// The cache counts in nanoseconds of 64 bits, so an age needs a bound.
fn parse_cache_ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if ttl > Duration::from_secs(365 * 24 * 3600) { Err("at most 365days".to_owned()) } else { Ok(ttl) }
}

/// WebAssembly's 32-bit memories end at 4 GiB.
fn parse_plugin_memory(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse()?;
    if (64 << 10..=4 << 30).contains(&size.as_u64()) { Ok(size) } else { Err("from 64KiB to 4GiB".to_owned()) }
}

/// A size as the platform counts memory; more than it can address is the same as all of it.
pub fn to_usize(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

fn model_name(text: &str) -> Result<String, String> {
    check_name("model name", text).map(|()| text.to_owned()).map_err(|error| error.message)
}

/// Environment variables that configure an object store, as their vendors name them: `AWS_*`, `AZURE_*`, `GOOGLE_*`.
pub fn object_store_options() -> Vec<(String, String)> {
    std::env::vars()
        .filter(|(key, _)| ["AWS_", "AZURE_", "GOOGLE_"].iter().any(|prefix| key.starts_with(prefix)))
        .map(|(key, value)| (key.to_ascii_lowercase(), value))
        .collect()
}

impl AdmissionConfig {
    /// The executable that tries new models.
    pub fn binary(&self) -> std::io::Result<PathBuf> {
        match &self.admission_binary {
            Some(binary) => Ok(binary.clone()),
            // The one that runs, even where an upgrade has replaced its file.
            None if cfg!(target_os = "linux") => Ok(PathBuf::from("/proc/self/exe")),
            None => std::env::current_exe(),
        }
    }
}

/// The environment of the process that tries new models: where to find libraries and temporary files, no secrets.
pub fn admission_environment() -> Vec<(String, String)> {
    let kept = ["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "TZ"];
    kept.into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?))).collect()
}

/// Official builds of ONNX Runtime send telemetry from 1.29 on unless this is set before the library starts.
#[allow(unsafe_code)]
fn disable_onnxruntime_telemetry() {
    // SAFETY: called from `Cli::from_process`, before the process starts a second thread.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn serve(args: &[&str]) -> Config {
        let args = ["model-nexus", "serve"].iter().chain(args);
        match Cli::try_parse_from(args).unwrap().command {
            Command::Serve(config) => *config,
            _ => unreachable!(),
        }
    }

    #[test]
    fn port_is_used_where_no_address_is_given() {
        assert_eq!(serve(&["--port", "9000"]).listen_address().to_string(), "0.0.0.0:9000");
        let config = serve(&["--port", "9000", "--listen", "127.0.0.1:7000"]);
        assert_eq!(config.listen_address().to_string(), "127.0.0.1:7000");
    }

    #[test]
    fn sizes_and_durations_read_as_people_write_them() {
        let config = serve(&["--plugin-memory-bytes", "64MiB", "--drain-timeout", "2m"]);
        assert_eq!(config.plugin.limits().memory_bytes, 64 << 20);
        assert_eq!(config.limits.drain_timeout, Duration::from_secs(120));
    }

    #[test]
    fn an_option_that_makes_no_sense_is_refused() {
        for args in [["--instances", "0"], ["--cache-ttl", "soon"], ["--listen", "localhost"]] {
            assert!(Cli::try_parse_from(["model-nexus", "serve"].iter().chain(&args)).is_err(), "{args:?}");
        }
    }

    #[test]
    fn every_option_has_an_environment_variable() {
        use clap::CommandFactory;
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        for argument in serve.get_arguments().filter(|argument| argument.get_id() != "help") {
            assert!(argument.get_env().is_some(), "--{} has no environment variable", argument.get_id());
        }
    }
}
