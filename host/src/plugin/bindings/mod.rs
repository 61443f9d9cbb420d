//! The host's side of the contract, a module for each version of `nexus:plugin` that components may be built for.
//!
//! Types of an interface must match exactly when a component is linked, so a new minor version below 1.0 gets a module of
//! its own: `wit/plugin.wit` as it was moves into the folder of the version it described, the new one is read from
//! `wit/`, and [`super::contract`] picks by the version that the component names. `tests/fixtures/plugins/` keeps a
//! component of each version, which has to go on serving.

pub(super) mod v0_1;
