//! The whole plugin, run natively on real pictures.
#![allow(clippy::unwrap_used)]

mod kinds;
mod pictures;
#[path = "../../benches/preprocess/reference.rs"]
mod reference;
mod support;
