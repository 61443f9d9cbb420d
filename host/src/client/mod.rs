//! `model-nexus models` and `predict`: a running host's models brought in, copied out, listed, removed and asked, over its REST
//! interface.

mod api;
mod list;
mod predict;
mod progress;
mod pull;
mod push;
mod remove;
mod source;

use std::process::ExitCode;

use clap::{Args, Subcommand};

pub use list::ListOptions;
pub use predict::PredictOptions;
pub use pull::PullOptions;
pub use push::PushOptions;
pub use remove::RemoveOptions;

/// What `model-nexus models` can do.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// Bring models to a host: a file, an archive, a folder with one version, or a repository with many.
    ///
    /// FILE is a .onnx, or a .zip, .tar or .tar.gz of a model with its external data. FOLDER is one version (model.onnx, and
    /// beside it labels.json), or a repository: <version>/model.onnx, <id>/<version>/model.onnx or
    /// models/<id>/<version>/model.onnx. Of a repository every version is brought, the oldest first; what the host has
    /// already is left as it is. Files that a .onnx keeps weights in are found by the names that it has for them.
    Push(PushOptions),
    /// Copy a model from a host into a folder that `--store` or Triton can serve: <out>/<id>/<version>/model.onnx.
    ///
    /// Every file is checked against its sha256, and a version appears whole or not at all. What is bound to a model, and its
    /// traffic rule, are the host's, and are not copied.
    Pull(PullOptions),
    /// List a host's models and versions.
    List(ListOptions),
    /// Remove a model with all its versions, or one version, from a host.
    Rm(RemoveOptions),
}

/// Which host.
#[derive(Debug, Clone, Args)]
pub struct HostOptions {
    /// The host to talk to.
    #[arg(long, env = "NEXUS_URL", default_value = "http://127.0.0.1:8080")]
    pub url: url::Url,
}

/// Runs one of the commands. Asked to end by Ctrl-C, it leaves nothing half-done behind.
///
/// # Errors
/// What kept the command from doing all of its work: what the host answered, or that it did not.
pub async fn run(command: ModelsCommand) -> Result<ExitCode, String> {
    let work = async {
        match command {
            ModelsCommand::Push(options) => push::run(&options).await,
            ModelsCommand::Pull(options) => pull::run(&options).await,
            ModelsCommand::List(options) => list::run(&options).await,
            ModelsCommand::Rm(options) => remove::run(&options).await,
        }
    };
    let ended = tokio::select! {
        ended = work => ended,
        _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
    };
    ended.map(|()| ExitCode::SUCCESS)
}

/// `model-nexus predict`. Asked to end by Ctrl-C, it leaves no half of a file behind.
///
/// # Errors
/// What kept the file from being answered whole.
pub async fn predict(options: PredictOptions) -> Result<ExitCode, String> {
    tokio::select! {
        ended = predict::run(&options) => ended,
        _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
    }
}

/// A model, or one version of it, as the command line names it: `ID` or `ID@VERSION`.
#[derive(Debug, Clone)]
pub struct ModelReference {
    id: String,
    version: Option<String>,
}

impl std::str::FromStr for ModelReference {
    type Err = String;

    fn from_str(text: &str) -> Result<ModelReference, String> {
        let (id, version) = text.split_once('@').map_or((text, None), |(id, version)| (id, Some(version)));
        check_name("id", id)?;
        version.map(|version| check_name("version", version)).transpose()?;
        Ok(ModelReference { id: id.to_owned(), version: version.map(str::to_owned) })
    }
}

/// As the host checks it, with the message alone. Names from the host become paths too, so they are not trusted either.
fn check_name(what: &str, name: &str) -> Result<(), String> {
    crate::model::check_name(what, name).map_err(|error| error.message)
}

/// A size as people read it: `1.2 MiB`.
fn size(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::ModelReference;

    #[test]
    fn a_reference_is_an_id_with_or_without_a_version() {
        let read = |text: &str| text.parse().map(|ModelReference { id, version }| (id, version));
        assert_eq!(read("iris").unwrap(), ("iris".to_owned(), None));
        assert_eq!(read("iris@1.0").unwrap(), ("iris".to_owned(), Some("1.0".to_owned())));
        for text in ["", "@1", "iris@", "../iris", "iris@../1", "iris@1@2"] {
            assert!(read(text).unwrap_err().contains("not a valid name"), "{text}");
        }
    }
}
