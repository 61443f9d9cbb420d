//! A plugin bound to a model with a configuration: initialised once, and started afresh for each request.

use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::digest::hex;
use crate::error::{Error, ErrorCode, Result, shorten};
use crate::tensor::TensorSpec;

use super::circuit::Circuit;
use super::compiler::Linked;
use super::guest::{Failure, Guest, is_config_error};
use super::host::Plugin;
use super::instance::{Instance, Request};
use super::manifest::Stage;
use super::snapshot;

/// The model version that a plugin is bound to, as `init` gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelDescription {
    pub id: String,
    pub version: String,
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
    /// Label of class i at index i; empty where the model came without labels.
    pub labels: Vec<String>,
}

/// A plugin bound to a model version with a configuration.
#[derive(Debug)]
pub struct Binding {
    plugin: Arc<Plugin>,
    model: Arc<ModelDescription>,
    config: String,
    initialised: Initialised,
    /// Shared by the stages that this binding fills.
    pub circuit: Circuit,
}

/// Where an instance gets the state from that `init` makes.
enum Initialised {
    /// `init` ran once, and its memory is part of this component.
    Snapshot(Box<Linked>),
    /// `init` runs in each instance.
    EachTime { why: String },
}

impl Binding {
    /// Binds a plugin: checks the configuration against the plugin's schema, runs `init` and keeps what it leaves in memory.
    /// `config` is JSON, "{}" where there is none.
    ///
    /// # Errors
    /// `InvalidInput` where schema or plugin refuse model or configuration, `PluginFailed` where `init` fails,
    /// `Overloaded` where no instance is free.
    pub async fn new(plugin: Arc<Plugin>, model: Arc<ModelDescription>, config: String) -> Result<Binding> {
        let (checked, checking) = (config.clone(), Arc::clone(&plugin));
        tokio::task::spawn_blocking(move || checking.check_config(&checked)).await.map_err(Error::internal)??;
        let initialised = Initialised::new(&plugin, &model, &config).await?;
        let limits = &plugin.shared.limits;
        let circuit = Circuit::new(limits.breaker_failures, limits.breaker_pause);
        Ok(Binding { plugin, model, config, initialised, circuit })
    }

    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    /// Why `init` runs in each instance; `None` where it ran once and its memory is copied.
    pub fn no_snapshot(&self) -> Option<&str> {
        match &self.initialised {
            Initialised::Snapshot(_) => None,
            Initialised::EachTime { why } => Some(why),
        }
    }

    /// A fresh, initialised instance for one request. It holds one of the places for instances until it is dropped.
    ///
    /// # Errors
    /// `Overloaded` where no instance gets free in time, `PluginFailed` where `init` fails, `NotReady` while the circuit
    /// is open.
    pub async fn start(&self) -> Result<Instance> {
        self.circuit.admit().map_err(|open| {
            let message = format!(
                "plugin {} trapped {} times in a row and is left alone for {} more ms (--plugin-breaker-pause); the last time: {}",
                self.plugin.reference(),
                open.failures_in_a_row,
                open.next_try_in.as_millis(),
                open.last_failure
            );
            Error::new(ErrorCode::NotReady, message).retry_after(open.next_try_in)
        })?;
        let place = self.plugin.place().await?;
        let guest = self.guest().await.inspect_err(|error| {
            if error.code == ErrorCode::PluginFailed {
                self.circuit.failed(&error.message);
            }
        })?;
        Ok(Instance::new(guest, place))
    }

    /// The plugin's own golden request, where it has one.
    ///
    /// # Errors
    /// The plugin fails.
    pub async fn golden(&self) -> Result<Option<Request>> {
        let _permit = self.plugin.shared.spare_instance().await?;
        self.guest().await?.golden().await
    }

    async fn guest(&self) -> Result<Guest> {
        match &self.initialised {
            Initialised::Snapshot(linked) => self.plugin.instantiate(linked).await,
            Initialised::EachTime { .. } => {
                let mut guest = self.plugin.instantiate(&self.plugin.linked).await?;
                match guest.init(&self.model, &self.config).await {
                    Ok(()) => Ok(guest),
                    Err(failure) => Err(guest.answer(Stage::Init, failure)),
                }
            }
        }
    }
}

impl Initialised {
    async fn new(plugin: &Plugin, model: &ModelDescription, config: &str) -> Result<Initialised> {
        let compiler = &plugin.shared.compiler;
        let key = format!("{}.snapshot", snapshot_key(plugin, model, config)?);
        if plugin.unfit_for_snapshots.is_none()
            && let Some(linked) = compiler.find(key.clone()).await?
        {
            return Ok(Initialised::Snapshot(Box::new(linked)));
        }
        // Held for as long as the instance lives.
        let _spare = plugin.shared.spare_instance().await?;
        let guest = init(plugin, model, config).await?;
        if let Some(why) = &plugin.unfit_for_snapshots {
            return Ok(Initialised::EachTime { why: why.clone() });
        }
        let component = match snapshot::take(plugin.wasm.read().await?, guest).await {
            Ok(component) => component,
            Err(why) => return Ok(Initialised::EachTime { why }),
        };
        Ok(match compiler.add(key, component).await {
            Ok(linked) => Initialised::Snapshot(Box::new(linked)),
            Err(error) => Initialised::EachTime { why: error.message },
        })
    }
}

/// Runs `init` for the first time, when what it refuses is the binder's to mend.
async fn init(plugin: &Plugin, model: &ModelDescription, config: &str) -> Result<Guest> {
    let mut guest = plugin.instantiate(&plugin.linked).await?;
    match guest.init(model, config).await {
        Ok(()) => Ok(guest),
        Err(Failure::Guest(error)) if is_config_error(&error) => Err(plugin.refuses_config(&shorten(error.message))),
        Err(failure) => Err(guest.answer(Stage::Init, failure)),
    }
}

/// The sha256 of everything that the memory after `init` depends on.
fn snapshot_key(plugin: &Plugin, model: &ModelDescription, config: &str) -> Result<String> {
    let specs = |specs: &[TensorSpec]| -> Value {
        specs.iter().map(|spec| serde_json::json!([spec.name, spec.datatype.name(), spec.shape])).collect()
    };
    let ModelDescription { id, version, inputs, outputs, labels } = model;
    let known = (&plugin.sha256, &*plugin.grants, id, version, specs(inputs), specs(outputs), labels, config);
    Ok(hex(&Sha256::digest(serde_json::to_vec(&known).map_err(Error::internal)?)))
}

impl std::fmt::Debug for Initialised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Initialised::Snapshot(_) => f.write_str("Snapshot"),
            Initialised::EachTime { why } => f.debug_struct("EachTime").field("why", why).finish(),
        }
    }
}
