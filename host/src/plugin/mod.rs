//! Plugins: WebAssembly components that turn requests into tensors and tensors into answers, each in a sandbox.

mod host;
mod instance;
mod limits;
mod manifest;
mod policy;
mod registry;

mod address;
mod bindings;
mod contract;
mod egress;
mod engine;
mod fault;
mod guest;
mod log;
mod sandbox;

#[cfg(test)]
mod tests;

pub use contract::CONTRACT_VERSION;
pub use host::{Plugin, PluginHost};
pub use instance::{Binding, Instance, ModelDescription, Request, Response};
pub use limits::PluginLimits;
pub use manifest::{Manifest, Stage};
pub use policy::{EgressPolicy, HostPattern, HostPatternError};
pub use registry::Plugins;
