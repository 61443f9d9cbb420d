//! The plugin's tests, natively, as the host calls it.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod fields;
mod outputs;
mod real_data;
mod support;
