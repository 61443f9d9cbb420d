//! What a Model Nexus plugin is written with: one trait, typed tensors, errors with a code, logging and HTTP.
//!
//! A plugin is a WebAssembly component bound to one model. The host runs [`Plugin::init`] once, keeps the initialised
//! memory, and starts every request from a fresh copy of it: nothing a request leaves behind reaches the next one.
//!
//! ```
//! use nexus_guest::{Error, Manifest, Model, Plugin, Request, Response, Stage, Tensor};
//!
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! struct Config {
//!     /// Factor applied to every feature.
//!     #[serde(default = "one")]
//!     scale: f32,
//! }
//! fn one() -> f32 {
//!     1.0
//! }
//!
//! struct Scaler {
//!     input: String,
//!     scale: f32,
//! }
//!
//! impl Plugin for Scaler {
//!     type Config = Config;
//!
//!     fn manifest() -> Manifest {
//!         Manifest::new("scaler", "0.1.0", [Stage::Preprocess])
//!     }
//!
//!     fn init(model: Model, config: Config) -> Result<Self, Error> {
//!         let input = model.inputs.first().ok_or_else(|| Error::plugin("the model has no input"))?;
//!         Ok(Scaler { input: input.name.clone(), scale: config.scale })
//!     }
//!
//!     fn preprocess(&mut self, request: Request) -> Result<Vec<Tensor>, Error> {
//!         let features: Vec<f32> = request.json()?;
//!         let scaled: Vec<f32> = features.iter().map(|feature| feature * self.scale).collect();
//!         Ok(vec![Tensor::from_f32(&self.input, [1, scaled.len() as u64], scaled)?])
//!     }
//! }
//!
//! nexus_guest::export!(Scaler);
//! # fn main() {}
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod error;
mod manifest;
mod message;
mod model;
mod plugin;
mod tensor;

#[cfg(feature = "http")]
pub mod http;
#[macro_use]
pub mod log;

#[cfg(target_family = "wasm")]
mod component;
mod instance;

pub use error::Error;
pub use manifest::{Manifest, Stage};
pub use message::{Request, Response};
pub use model::{Model, TensorSpec};
pub use plugin::{NoConfig, Plugin};
pub use tensor::{Element, Tensor};

/// What [`export!`] expands to; no part of the interface.
#[doc(hidden)]
#[cfg(target_family = "wasm")]
pub mod __private {
    pub use crate::component::{Component, bindings, export_component};
}

/// Makes a type that implements [`Plugin`] the component's export. Does nothing in a native build.
#[macro_export]
macro_rules! export {
    ($plugin:ty) => {
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code)]
        const _: () = {
            type Component = $crate::__private::Component<$plugin>;
    $crate::__private::export_component!(Component with_types_in $crate::__private::bindings);
        };
    };
}
