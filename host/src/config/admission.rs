//! Options of admission: what trying an uploaded model may take.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

/// What trying a model in a process of its own may take, before the host loads it.
#[derive(Debug, Clone, Args)]
pub struct AdmissionConfig {
    /// Time that loading a new model and one run of it may take; past it the model is refused.
    #[arg(long, env = "NEXUS_ADMISSION_TIMEOUT", default_value = "60s", value_parser = humantime::parse_duration)]
    pub admission_timeout: Duration,

    /// Memory that loading a new model and one run of it may take beyond four times the model's own size; past it the
    /// model is refused.
    #[arg(long, env = "NEXUS_ADMISSION_MEMORY_BYTES", default_value = "4GiB", value_name = "BYTES")]
    pub admission_memory_bytes: ByteSize,

    /// New models tried at once; more wait.
    #[arg(long, env = "NEXUS_ADMISSIONS", default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub admissions: u32,

    /// The executable that tries new models, where it is not this one.
    #[arg(long, env = "NEXUS_ADMISSION_BINARY", value_name = "FILE", hide = true)]
    pub admission_binary: Option<PathBuf>,
}

impl Default for AdmissionConfig {
    /// As a host tries models where nothing else is set.
    fn default() -> AdmissionConfig {
        AdmissionConfig {
            admission_timeout: Duration::from_secs(60),
            admission_memory_bytes: ByteSize::gib(4),
            admissions: 2,
            admission_binary: None,
        }
    }
}

/// What `model-nexus admit` takes: the host calls it, nobody else.
#[derive(Debug, Clone, Args)]
pub struct AdmitOptions {
    /// ONNX Runtime's shared library.
    #[arg(long)]
    pub onnxruntime: PathBuf,
    /// Memory the process may take.
    #[arg(long)]
    pub memory_bytes: u64,
    /// Processor time the process may take.
    #[arg(long)]
    pub cpu_seconds: u64,
    /// The model to try.
    pub model: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches, Parser};

    use super::AdmissionConfig;

    #[derive(Parser)]
    struct Options {
        #[command(flatten)]
        admission: AdmissionConfig,
    }

    #[test]
    fn the_defaults_are_those_of_the_options() {
        // Without the environment, in which somebody may have set another.
        let command = Options::command().mut_args(|argument| argument.env(None::<&str>));
        let parsed = command.try_get_matches_from(["serve"]).and_then(|matches| Options::from_arg_matches(&matches));
        let parsed = parsed.map(|options| format!("{:?}", options.admission));
        assert_eq!(parsed.ok(), Some(format!("{:?}", AdmissionConfig::default())));
    }
}
