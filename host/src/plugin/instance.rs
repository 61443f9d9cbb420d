//! A plugin bound to a model, and the instance that serves one request with it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::{Error, Result};
use crate::tensor::{Tensor, TensorSpec};

use super::guest::{Failure, Guest, is_config_error, shorten};
use super::host::Plugin;
use super::manifest::Stage;

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

/// What the client sent, undecoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The body's media type.
    pub content_type: String,
    pub body: Bytes,
    /// Query parameters and form fields, in the order sent.
    pub parameters: Vec<(String, String)>,
}

/// A plugin's answer to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub content_type: String,
    pub body: Bytes,
}

/// A plugin bound to a model version with a configuration. Cloning shares all three.
#[derive(Debug, Clone)]
pub struct Binding {
    plugin: Arc<Plugin>,
    model: Arc<ModelDescription>,
    config: Arc<str>,
}

impl Binding {
    /// `config` is JSON, "{}" where there is none. Nothing runs yet: see [`Binding::check`].
    pub fn new(plugin: Arc<Plugin>, model: Arc<ModelDescription>, config: impl Into<Arc<str>>) -> Binding {
        Binding { plugin, model, config: config.into() }
    }

    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    /// Runs `init` once in a throw-away instance, so that a bad configuration is refused when a plugin is bound.
    ///
    /// # Errors
    /// `InvalidInput` where the plugin refuses model or configuration, `PluginFailed` where it fails, `Overloaded` where
    /// no instance is free.
    pub async fn check(&self) -> Result<()> {
        let _permit = self.plugin.shared.spare_instance().await?;
        let mut guest = self.plugin.instantiate().await?;
        guest.init(&self.model, &self.config).await.map_err(|failure| match failure {
            Failure::Guest(error) if is_config_error(&error) => {
                let plugin = &self.plugin.manifest;
                let message =
                    format!("plugin {}@{} refuses its configuration: {}", plugin.name, plugin.version, error.message);
                Error::invalid_input(shorten(message))
            }
            failure => guest.answer(Stage::Init, failure),
        })
    }

    /// A fresh, initialised instance for one request. It holds one of the places for instances until it is dropped.
    ///
    /// # Errors
    /// `Overloaded` where no instance gets free in time, `PluginFailed` where `init` fails.
    pub async fn start(&self) -> Result<Instance> {
        let permit = self.plugin.shared.instance().await?;
        let mut guest = self.plugin.instantiate().await?;
        match guest.init(&self.model, &self.config).await {
            Ok(()) => Ok(Instance { guest, _permit: permit }),
            Err(failure) => Err(guest.answer(Stage::Init, failure)),
        }
    }
}

/// One instance of a plugin, for one request. After a trap, a timeout or a call that was dropped half-way, every further
/// call fails.
pub struct Instance {
    guest: Guest,
    /// Declared last, so that the instance is gone before its place is given to the next.
    _permit: OwnedSemaphorePermit,
}

impl Instance {
    /// Turns a request into tensors. Their sizes match their shapes; whether they fit the model is the caller's to check.
    ///
    /// # Errors
    /// `InvalidInput` where the plugin blames the client; `Forbidden`, `TooLarge` or `DeadlineExceeded` where the host ended
    /// what the plugin fetched; else `PluginFailed`.
    pub async fn preprocess(&mut self, request: Request) -> Result<Vec<Tensor>> {
        self.guest.preprocess(&request).await
    }

    /// Turns the model's outputs into an answer.
    ///
    /// # Errors
    /// As [`Instance::preprocess`].
    pub async fn postprocess(&mut self, outputs: Vec<Tensor>) -> Result<Response> {
        self.guest.postprocess(&outputs).await
    }

    /// The most linear memory that the instance has had, in bytes.
    pub fn peak_memory(&self) -> usize {
        self.guest.peak_memory()
    }
}
