//! What a plugin can do to its host: use up time, stack, memory, handles, log and randomness.

use std::hint::black_box;
use std::io::Write;
use std::time::Duration;

use nexus_guest::log;
use serde_json::{Value, json};

/// Never ends and never calls the host.
pub(crate) fn endless_loop() -> Value {
    let mut number: u64 = 0;
    loop {
        number = black_box(number.wrapping_add(1));
    }
}

/// Never ends, and spends its time in calls of the host.
pub(crate) fn endless_calls() -> Value {
    loop {
        black_box(wasip2::clocks::monotonic_clock::now());
    }
}

/// Recurses, in frames no optimiser can fold, until the stack is gone.
#[allow(unconditional_recursion)]
pub(crate) fn endless_recursion(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    endless_recursion(black_box(depth + 1)) + frame[(depth % 64) as usize]
}

/// Allocates until the host refuses, then does what most programs do: gives up and aborts.
pub(crate) fn eat_memory() -> Value {
    let mut eaten: Vec<Vec<u8>> = Vec::new();
    loop {
        eaten.push(black_box(vec![1; CHUNK]));
    }
}

/// Allocates until the host refuses, then goes on; the bytes it got.
pub(crate) fn allocate_until_refused() -> usize {
    let mut eaten: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut chunk = Vec::new();
        if chunk.try_reserve_exact(CHUNK).is_err() {
            return eaten.len() * CHUNK;
        }
        chunk.resize(CHUNK, 1);
        eaten.push(black_box(chunk));
    }
}

const CHUNK: usize = 1 << 20;

/// Takes memory that should be all zeros, counts what is not, and fills it for the next to find.
pub(crate) fn residue(bytes: u64) -> usize {
    let mut memory = vec![0_u8; bytes as usize];
    let left = black_box(&memory).iter().filter(|&&byte| byte != 0).count();
    memory.fill(0x5e);
    black_box(memory);
    left
}

pub(crate) fn log_lines(count: u64) -> Value {
    for line in 0..count {
        log::info!("flood line {line}");
    }
    json!({ "logged_lines": count })
}

pub(crate) fn log_one_line(bytes: u64) -> Value {
    log::info!("{}", "x".repeat(bytes as usize));
    json!({ "logged_bytes": bytes })
}

pub(crate) fn log_bad_utf8() -> Value {
    log::emit(log::Level::Info, &crate::outputs::not_utf8());
    json!({})
}

pub(crate) fn print(bytes: u64) -> Value {
    let chunk = [b'x'; 65_536];
    let (mut stdout, mut printed) = (std::io::stdout(), 0);
    while printed < bytes {
        if let Err(error) = stdout.write_all(&chunk) {
            return json!({ "printed_bytes": printed, "print_error": error.to_string() });
        }
        printed += chunk.len() as u64;
    }
    json!({ "printed_bytes": printed })
}

/// Blocks in a host call, where an epoch deadline does not reach.
pub(crate) fn sleep(seconds: u64) -> Value {
    std::thread::sleep(Duration::from_secs(seconds));
    json!({ "slept_seconds": seconds })
}

/// Makes host-side objects and never drops them.
pub(crate) fn open_handles(count: u64) -> Value {
    for _ in 0..count {
        std::mem::forget(wasip2::clocks::monotonic_clock::subscribe_duration(1));
    }
    json!({ "handles": count })
}

/// Asks for random bytes, more than anyone needs.
pub(crate) fn random_bytes(count: u64) -> usize {
    wasip2::random::random::get_random_bytes(count).len()
}
