//! Lines for the host's log, which carries the request's id beside them. Capped by the host in number and length.
//!
//! `nexus_guest::log::info!("{} classes", count)`. In a native build the lines go to standard error.

pub use crate::{
    __log_debug as debug, __log_error as error, __log_info as info, __log_trace as trace, __log_warn as warn,
};

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    /// The name the contract uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

/// Writes one line.
pub fn emit(level: Level, message: &str) {
    #[cfg(target_family = "wasm")]
    crate::component::bindings::nexus::plugin::log::emit(level.as_str(), message);
    #[cfg(not(target_family = "wasm"))]
    eprintln!("{}: {message}", level.as_str());
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_trace {
    ($($argument:tt)*) => { $crate::log::emit($crate::log::Level::Trace, &::std::format!($($argument)*)) };
}
#[doc(hidden)]
#[macro_export]
macro_rules! __log_debug {
    ($($argument:tt)*) => { $crate::log::emit($crate::log::Level::Debug, &::std::format!($($argument)*)) };
}
#[doc(hidden)]
#[macro_export]
macro_rules! __log_info {
    ($($argument:tt)*) => { $crate::log::emit($crate::log::Level::Info, &::std::format!($($argument)*)) };
}
#[doc(hidden)]
#[macro_export]
macro_rules! __log_warn {
    ($($argument:tt)*) => { $crate::log::emit($crate::log::Level::Warn, &::std::format!($($argument)*)) };
}
#[doc(hidden)]
#[macro_export]
macro_rules! __log_error {
    ($($argument:tt)*) => { $crate::log::emit($crate::log::Level::Error, &::std::format!($($argument)*)) };
}
