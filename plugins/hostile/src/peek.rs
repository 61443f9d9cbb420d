//! What a plugin can find out without being granted it: time, randomness, environment, files.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::io::Read;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use wasip2::filesystem::preopens;
use wasip2::random::{insecure_seed::insecure_seed, random};

/// Both clocks; the second reading of the monotonic one shows whether it moves.
pub(crate) fn clock() -> Value {
    let start = Instant::now();
    let unix_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    for number in 0..100_000 {
        std::hint::black_box(number);
    }
    json!({ "unix_seconds": unix_seconds, "elapsed_ns": start.elapsed().as_nanos() as u64 })
}

/// Random bytes, the insecure seed, and what the standard library makes of them.
pub(crate) fn dice() -> Value {
    let (seed, _) = insecure_seed();
    json!({ "bytes": random::get_random_bytes(16), "number": random::get_random_u64(), "seed": seed,
        "hash": RandomState::new().hash_one(42) })
}

/// Variables, arguments and what can be read from stdin.
pub(crate) fn environment() -> Value {
    let variables: serde_json::Map<_, _> =
        std::env::vars_os().map(|(key, value)| (lossy(&key), Value::String(lossy(&value)))).collect();
    let arguments: Vec<_> = std::env::args_os().map(|argument| lossy(&argument)).collect();
    let mut typed = Vec::new();
    // What was read before an error counts too.
    drop(std::io::stdin().read_to_end(&mut typed));
    json!({ "env": variables, "args": arguments, "stdin_bytes": typed.len() })
}

fn lossy(text: &std::ffi::OsStr) -> String {
    text.to_string_lossy().into_owned()
}

/// Folders granted, and what came of reading and writing without any.
pub(crate) fn files() -> Value {
    let granted: Vec<_> = preopens::get_directories().into_iter().map(|(_, path)| path).collect();
    let read = fs::read("/etc/passwd").map(|file| file.len());
    let listed = fs::read_dir("/").map(Iterator::count);
    let written = fs::write("/tmp/hostile", "42");
    json!({
        "preopens": granted,
        "read_bytes": read.as_ref().ok(),
        "read_error": read.as_ref().err().map(ToString::to_string),
        "listed": listed.ok(),
        "written": written.is_ok(),
    })
}
