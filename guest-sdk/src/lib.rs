//! What a Model Nexus plugin is written with: one trait, typed tensors, errors with a code, logging and HTTP.
//!
//! A plugin is a WebAssembly component bound to one model. The host runs [`Plugin::init`] once, keeps the initialised
//! memory, and starts every request from a fresh copy of it: nothing a request leaves behind reaches the next one.
//!
//! ```
//! use nexus_guest::{Blame, Error, Manifest, Model, Plugin, Request, Stage, Tensor};
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
//!         let input = model.inputs.first().or_invalid_config("the model has no input")?;
//!         Ok(Scaler { input: input.name.clone(), scale: config.scale })
//!     }
//!
//!     fn preprocess(&mut self, request: Request) -> Result<Vec<Tensor>, Error> {
//!         let features: Vec<f32> = request.json()?;
//!         let scaled: Vec<f32> = features.iter().map(|feature| feature * self.scale).collect();
//!         Ok(vec![Tensor::from_f32(&self.input, [1, scaled.len() as u64], scaled)?])
//!     }
//!
//!     fn golden(&self) -> Option<Request> {
//!         Some(Request::new("application/json", "[5.1, 3.5, 1.4, 0.2]"))
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

pub use error::{Blame, Error};
pub use half::{bf16, f16};
pub use manifest::{Manifest, Stage};
pub use message::{Request, Response};
pub use model::{Model, TensorSpec};
pub use plugin::{NoConfig, Plugin};
pub use tensor::{Element, Tensor};

/// What [`export!`] expands to; no part of the interface.
#[doc(hidden)]
pub mod __private {
    #[cfg(target_family = "wasm")]
    pub use crate::component::{Component, bindings, export_component};

    /// The version of the package `nexus:plugin` that plugins are built for with this crate.
    pub const CONTRACT_VERSION: [u8; 5] = *b"0.1.0";
}

/// Makes a type that implements [`Plugin`] the component's export, and writes the contract's version into the component as
/// the custom section `nexus:plugin-version`. Does nothing in a native build.
#[macro_export]
macro_rules! export {
    ($plugin:ty) => {
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code)]
        const _: () = {
            type Component = $crate::__private::Component<$plugin>;
    $crate::__private::export_component!(Component with_types_in $crate::__private::bindings);

            #[used]
            #[unsafe(link_section = "nexus:plugin-version")]
            static CONTRACT_VERSION: [u8; $crate::__private::CONTRACT_VERSION.len()] =
                $crate::__private::CONTRACT_VERSION;
        };
    };
}

/// The guide's plugin, compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_in_the_component_is_that_of_the_wit() {
        let version = std::str::from_utf8(&super::__private::CONTRACT_VERSION).unwrap();
        assert!(include_str!("../../wit/plugin.wit").contains(&format!("\npackage nexus:plugin@{version};\n")));
    }
}
