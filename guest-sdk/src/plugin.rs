//! The trait a plugin implements.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{Error, Manifest, Model, Request, Response, Tensor};

/// A plugin: how it prepares for a model, and the stages it fills.
pub trait Plugin: Sized + 'static {
    /// What a binding may configure. Missing fields need `#[serde(default)]`; doc comments and types become the JSON
    /// Schema the host shows. [`NoConfig`] where there is nothing to configure.
    type Config: DeserializeOwned + JsonSchema;

    /// Name, version and stages. Called without [`Plugin::init`].
    fn manifest() -> Manifest;

    /// Prepares for one model. Runs once a binding: what it computes is kept, and every request starts from a copy.
    /// Open nothing here (a stream, a request): handles do not survive into the copy, memory does. `println!` opens
    /// standard output, and is dead from then on; [`crate::log`] and `tracing` are not.
    fn init(model: Model, config: Self::Config) -> Result<Self, Error>;

    /// Turns a request into the model's inputs.
    fn preprocess(&mut self, request: Request) -> Result<Vec<Tensor>, Error> {
        let _ = request;
        Err(Error::plugin("this plugin has no preprocess stage"))
    }

    /// Turns the model's outputs into an answer. What `preprocess` stored in `self` for this request is still there.
    fn postprocess(&mut self, outputs: Vec<Tensor>) -> Result<Response, Error> {
        let _ = outputs;
        Err(Error::plugin("this plugin has no postprocess stage"))
    }

    /// A small request that [`Plugin::preprocess`] takes and that needs no network. The host tries a binding with it, unless
    /// the binding brings one of its own.
    fn golden(&self) -> Option<Request> {
        None
    }
}

/// The configuration of a plugin that has none; any field is refused.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}
