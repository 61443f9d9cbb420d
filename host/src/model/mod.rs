//! Models: what is loaded, where it is kept, how it comes in, and the threads that run it.

/// New models, tried in a process of their own.
pub mod admission;
mod alone;
mod archive;
mod batch;
mod bind;
mod bundle;
mod engine;
mod files;
mod incoming;
mod labels;
mod layout;
mod lifecycle;
mod load;
mod memory;
mod model_toml;
mod provider;
mod publish;
mod queue;
mod registry;
mod reload;
mod removal;
mod repository;
mod runner;
mod runtime;
mod spec;
mod statistics;
mod sync;
mod traffic;
mod upload;
mod values;
mod worker;

pub use admission::{Admission, Batching};
pub use alone::tried_alone;
pub use archive::{Archive, ArchiveLimits};
pub use bind::{Golden, Rebound, describe};
pub use engine::{Engine, EngineOptions};
pub use incoming::{CameAs, NewFiles, path_in_folder};
pub use labels::parse as parse_labels;
pub use layout::{ModelMarks, Snapshot, VersionMarks};
pub use load::Models;
pub use model_toml::{ModelConfig, OnFailure, Pipeline, StageBinding, VersionConfig};
pub use provider::{ExecutionProvider, ProviderKind};
pub(crate) use registry::version_key;
pub use registry::{BoundPipeline, BoundStage, KnownVersion, ModelVersion, Registry, Route, State};
pub use repository::{DataFile, Entry, Repository, RepositoryError, Sidecar, Stored};
pub use runner::{Inference, InferenceTimes};
pub use runtime::{Placement, Runtime, SessionOptions};
pub use spec::{InputSpec, value_spec};
pub use statistics::{BatchTimes, RunTimes, Statistics, Tally};
pub use sync::{StoreHealth, StoreTrouble};
pub use traffic::{Shadow, Sticky, Traffic};
pub use upload::{IMAGE_PLUGIN, NewModel};
pub use worker::{WorkerLimits, Workers};

use crate::error::{Error, Result};

/// Checks a model's id, a version or a plugin's name.
///
/// # Errors
/// It is not of the form `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`, which is safe in paths, URLs and labels.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = bytes.all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if first && rest && name.len() <= 128 {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "{what} {name:?} is not a valid name: 1 to 128 letters, digits, '.', '_' or '-', the first a letter or a digit"
    )))
}
