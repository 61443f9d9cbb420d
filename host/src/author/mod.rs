//! The author's tools: `model-nexus plugin new`, `check` and `run`. They take plugins in and run them as the host does.

mod attempt;
mod case;
mod check;
mod elements;
mod input;
mod log;
mod new;
mod report;
mod run;
mod sdk;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;
use clap::Subcommand;

pub use check::CheckOptions;
pub use new::NewOptions;
pub use run::RunOptions;

use crate::config::PluginConfig;
use crate::plugin::{CompiledCache, EgressPolicy, HostPattern, PluginHost};

/// What `model-nexus plugin` can do.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Make a folder with a plugin that builds, its tests, and the SDK of this build.
    New(NewOptions),
    /// Say whether this host takes a component, and what it would need granted; exit with 0 if it fits, with 1 if not.
    Check(CheckOptions),
    /// Run a component around a model, as the host does, and show what went through; exit with 1 if it fails.
    Run(Box<RunOptions>),
}

/// Runs one of the author's commands. The answer is the process's exit status.
///
/// # Errors
/// What keeps the command from doing its work at all, such as a file that is not there.
pub async fn run(command: PluginCommand) -> Result<ExitCode, String> {
    let is_well = match command {
        PluginCommand::New(options) => new::run(&options).map(|()| true),
        PluginCommand::Check(options) => check::run(&options).await,
        PluginCommand::Run(options) => run::run(*options).await,
    };
    is_well.map(|is_well| if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The plugin host that `serve` would have with these limits.
fn plugin_host(limits: &PluginConfig, allow_hosts: &[HostPattern]) -> Result<PluginHost, String> {
    let cache = match &limits.plugin_cache {
        Some(folder) => {
            let cache = CompiledCache::open(folder, limits.plugin_cache_bytes.as_u64());
            Some(cache.map_err(|error| format!("--plugin-cache {}: {error}", folder.display()))?)
        }
        None => None,
    };
    PluginHost::new(limits.limits(), EgressPolicy::new(allow_hosts.to_vec()), cache).map_err(|error| error.to_string())
}

async fn read(file: &PathBuf) -> Result<Bytes, String> {
    let content = tokio::fs::read(file).await;
    content.map(Bytes::from).map_err(|error| format!("cannot read {}: {error}", file.display()))
}

/// A size as people read it: `1.2 MiB`.
fn size(bytes: usize) -> String {
    bytesize::ByteSize::b(bytes as u64).display().iec().to_string()
}

/// Milliseconds, to the microsecond.
fn milliseconds(time: std::time::Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}
