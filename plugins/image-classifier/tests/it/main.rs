//! The whole plugin, run natively on real pictures.
#![allow(clippy::unwrap_used)]

mod kinds;
mod pictures;
mod support;
