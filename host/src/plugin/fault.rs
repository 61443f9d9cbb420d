//! What is said when a plugin fails: who, where, which limit, its last words, and the option that changes it.

use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::error::{Error, ErrorCode, shorten};

use super::egress::{FetchFault, Place};
use super::limits::{PluginLimits, bytes, option, seconds};
use super::manifest::Stage;
use super::policy::Denial;
use super::sandbox::{CpuTimeSpent, HANDLES, Sandbox};

/// Frames of one function, among the innermost 20, that tell a recursion.
const REPEATED_FRAMES: usize = 8;

/// Who failed, and where.
#[derive(Clone, Copy)]
pub(super) struct Site<'a> {
    /// `name@version`.
    pub(super) plugin: &'a str,
    pub(super) stage: Stage,
    pub(super) limits: &'a PluginLimits,
}

impl Site<'_> {
    /// A failure of the plugin's own.
    pub(super) fn failed(&self, what: impl std::fmt::Display, sandbox: &Sandbox) -> Error {
        let last_words = sandbox.log.tail().map(|tail| format!("; its log ends: {tail}")).unwrap_or_default();
        // What failed may name what the plugin chose: a tensor's name, an error's text.
        let what = shorten(what.to_string());
        let message = format!("plugin {} failed in {}: {what}{last_words}", self.plugin, self.stage.name());
        Error::new(ErrorCode::PluginFailed, message)
    }

    /// The plugin ended in a trap, or an error of the host that it ran into.
    pub(super) fn trapped(&self, error: &wasmtime::Error, sandbox: &Sandbox) -> Error {
        if error.is::<PoolConcurrencyLimitError>() {
            return overloaded(self.limits, self.plugin).with_cause(error);
        }
        self.failed(self.reason(error, sandbox), sandbox).with_cause(error)
    }

    fn reason(&self, error: &wasmtime::Error, sandbox: &Sandbox) -> String {
        let limits = self.limits;
        if error.is::<CpuTimeSpent>() {
            return format!(
                "it ran longer than {} of processor time, the limit set by {}",
                seconds(limits.cpu_time),
                option("plugin-cpu-time")
            );
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::MemoryOutOfBounds) if is_deep(error) => "it recursed too deeply for its own stack".to_owned(),
            Some(Trap::StackOverflow) => format!(
                "it recursed too deeply for {} of stack, the limit set by {}",
                bytes(limits.stack_bytes),
                option("plugin-stack-bytes")
            ),
            Some(trap) => self.abort(sandbox).unwrap_or_else(|| match trap {
                Trap::UnreachableCodeReached => "it trapped: unreachable".to_owned(),
                trap => format!("it trapped: {}", trap.to_string().trim_start_matches("wasm trap: ")),
            }),
            None => match error.downcast_ref::<I32Exit>() {
                Some(I32Exit(status)) => self.abort(sandbox).unwrap_or_else(|| format!("it called exit({status})")),
                None => self.host_error(error),
            },
        }
    }

    /// What a plugin does when it gets no memory is to abort. One that goes on may run into another limit, and is told of that.
    fn abort(&self, sandbox: &Sandbox) -> Option<String> {
        let (limit, option) = (bytes(self.limits.memory_bytes), option("plugin-memory-bytes"));
        let reason = format!("it used more than {limit} of memory, the limit set by {option}");
        sandbox.memory.refused.then_some(reason)
    }

    /// A function of the host, or what copies to it, refused to go on.
    fn host_error(&self, error: &wasmtime::Error) -> String {
        let cause = error.root_cause();
        if is_output_limit(error) && !error.is::<WasmBacktrace>() {
            return self.output_too_large();
        }
        if is_output_limit(error) {
            let (limit, option) = (bytes(self.limits.output_bytes), option("plugin-output-bytes"));
            return format!("it handed the host more than {limit} in one call, the limit set by {option}");
        }
        if cause.is::<std::str::Utf8Error>() {
            return "it handed the host text that is not UTF-8".to_owned();
        }
        if matches!(cause.downcast_ref(), Some(ResourceTableError::Full)) {
            return format!(
                "it kept more than {HANDLES} streams, requests and other things of the host, a fixed limit"
            );
        }
        format!("it ran into an error of the host: {cause}")
    }

    pub(super) fn output_too_large(&self) -> String {
        let limit = bytes(self.limits.output_bytes);
        format!("it returned more than {limit}, the limit set by {}", option("plugin-output-bytes"))
    }

    /// The stage took too long, running or waiting.
    pub(super) fn timed_out(&self, sandbox: &Sandbox) -> Error {
        let limit = seconds(self.limits.wall_time);
        self.failed(format!("it took longer than {limit}, the limit set by {}", option("plugin-wall-time")), sandbox)
    }

    /// The host ended a fetch, and the plugin failed for that.
    pub(super) fn fetch(&self, fault: FetchFault, sandbox: &Sandbox) -> Error {
        let (code, what) = match fault {
            FetchFault::Denied { place, denial } => {
                let why = why_denied(&place, denial);
                (ErrorCode::Forbidden, format!("it may not fetch from {place}: {why}"))
            }
            FetchFault::TooLarge { place } => {
                let (limit, option) = (bytes(self.limits.fetch_bytes), option("plugin-fetch-bytes"));
                (ErrorCode::TooLarge, format!("{place} answered it with more than {limit}, the limit set by {option}"))
            }
            FetchFault::RequestTooLarge { place } => {
                let (limit, option) = (bytes(self.limits.fetch_bytes), option("plugin-fetch-bytes"));
                (ErrorCode::PluginFailed, format!("it sent {place} more than {limit}, the limit set by {option}"))
            }
            FetchFault::TooSlow { place } => {
                let (limit, option) = (seconds(self.limits.fetch_time), option("plugin-fetch-time"));
                let what = format!("{place} took longer than {limit} to answer it, the limit set by {option}");
                (ErrorCode::DeadlineExceeded, what)
            }
            FetchFault::TooMany => {
                let (limit, option) = (self.limits.fetches, option("plugin-fetches"));
                let what = format!("it sent more than {limit} HTTP requests, the limit set by {option}");
                (ErrorCode::PluginFailed, what)
            }
        };
        Error { code, ..self.failed(what, sandbox) }
    }
}

/// Every instance is taken.
pub(super) fn overloaded(limits: &PluginLimits, plugin: &str) -> Error {
    let message = format!(
        "no instance is free for plugin {plugin}, of {} for all plugins, the limit set by {}; try again",
        limits.instances,
        option("plugin-instances")
    );
    Error::new(ErrorCode::Overloaded, message)
}

fn why_denied(place: &Place, denial: Denial) -> String {
    let allow = option("allow-host");
    match denial {
        Denial::NotGranted => format!(
            "it is not granted that host; upload the plugin with grants={{\"hosts\": [\"{}\"]}}, under another version",
            place.host
        ),
        Denial::NotAllowed => {
            format!("no {allow} names that host; start the host with --allow-host {}", place.host)
        }
        Denial::Private(kind) => {
            let verb = if place.is_name { "leads to" } else { "is" };
            format!(
                "that {verb} {kind}, and only hosts named by {allow} may be private; start the host with --allow-host {place}"
            )
        }
    }
}

/// Whether the host stopped copying a plugin's output. Wasmtime gives this error no type of its own; a test holds it to its text.
fn is_output_limit(error: &wasmtime::Error) -> bool {
    error.root_cause().to_string().contains("fuel allocated for hostcalls has been exhausted")
}

/// Whether one function fills the innermost frames. A compiled language keeps its stack in linear memory, where an overflow
/// shows as an access out of bounds.
fn is_deep(error: &wasmtime::Error) -> bool {
    let frames = error.downcast_ref::<WasmBacktrace>().map(WasmBacktrace::frames).unwrap_or_default();
    let Some(innermost) = frames.first() else { return false };
    frames.iter().filter(|frame| frame.func_index() == innermost.func_index()).count() >= REPEATED_FRAMES
}
