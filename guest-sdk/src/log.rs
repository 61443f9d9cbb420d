//! Lines for the host's log, which carries the request's id beside them. Capped by the host in number and length.
//!
//! `nexus_guest::log::info!("{} classes", count)`. In a native build the lines go to standard error. A panic's message and
//! place come here by themselves, and with the feature `tracing` everything said through that crate.

use std::panic::PanicHookInfo;

#[cfg(feature = "tracing")]
mod events;

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

/// Sends panics, and events of `tracing`, where [`emit`] sends its lines. Called more than once it does nothing.
#[cfg_attr(not(target_family = "wasm"), allow(dead_code))]
pub(crate) fn to_host() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // A panic ends in a trap, which carries no text: this is how its message and place get out.
        std::panic::set_hook(Box::new(|panic| emit(Level::Error, &panic_line(panic))));
        #[cfg(feature = "tracing")]
        events::set_global(emit);
    });
}

fn panic_line(panic: &PanicHookInfo<'_>) -> String {
    let message = panic.payload_as_str().unwrap_or("a value that is no text");
    match panic.location() {
        Some(place) => format!("panicked at {place}: {message}"),
        None => format!("panicked: {message}"),
    }
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    #[allow(clippy::panic)]
    fn a_panic_is_one_line_with_message_and_place() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&lines);
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| seen.lock().unwrap().push(panic_line(panic))));
        for payload in ["plain", "formatted"] {
            let thread = std::thread::spawn(move || match payload {
                "plain" => panic!("no class"),
                _ => panic!("no class {}", 42),
            });
            assert!(thread.join().is_err());
        }
        std::panic::set_hook(before);
        let lines = lines.lock().unwrap();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("panicked at guest-sdk/src/log.rs:"), "{lines:?}");
        assert!(lines[0].ends_with(": no class") && lines[1].ends_with(": no class 42"), "{lines:?}");
    }
}
