//! Plugins: WebAssembly components that turn requests into tensors and tensors into answers, each in a sandbox.

mod binding;
mod circuit;
mod compiled;
mod grants;
mod host;
mod inspect;
mod instance;
mod limits;
mod manifest;
mod policy;
mod registry;
mod repository;

mod address;
mod bindings;
mod compiler;
mod contract;
mod egress;
mod engine;
mod fault;
mod guest;
mod log;
mod sandbox;
mod schema;
mod snapshot;

#[cfg(test)]
mod tests;

pub use binding::{Binding, ModelDescription};
pub use circuit::{Circuit, OpenCircuit};
pub use compiled::CompiledCache;
pub use contract::CONTRACT_VERSION;
pub use grants::Grants;
pub use guest::Crossed;
pub use host::{Plugin, PluginHost, Wasm};
pub use inspect::{Access, Import, Inspection};
pub use instance::{Instance, Request, Response};
pub use limits::PluginLimits;
pub use manifest::{Manifest, Stage};
pub use policy::{EgressPolicy, HostPattern, HostPatternError};
pub use registry::{KnownPlugin, NewPlugin, Plugins};
pub use repository::PluginInfo;
