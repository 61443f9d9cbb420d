//! What a plugin may use, and the operator's options that change it.

use std::time::Duration;

/// What one plugin instance may use. An instance serves one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginLimits {
    /// Linear memory of one instance, in bytes.
    pub memory_bytes: usize,
    /// Instances serving requests at once. More requests wait, up to `instance_wait`.
    pub instances: u32,
    /// How long a request waits for an instance before it is turned away.
    pub instance_wait: Duration,
    /// Time one instance may run WebAssembly, over all its stages; counted in steps of 2 ms.
    pub cpu_time: Duration,
    /// Time one stage may take, waiting for the network included.
    pub wall_time: Duration,
    /// Stack of one instance, in bytes.
    pub stack_bytes: usize,
    /// Tensors or answer that one stage returns, in bytes.
    pub output_bytes: usize,
    /// Lines one instance may log.
    pub log_lines: usize,
    /// Length of one log line, in bytes; what is longer is cut.
    pub log_line_bytes: usize,
    /// Headers and body of one HTTP answer, and the body of one HTTP request, in bytes.
    pub fetch_bytes: usize,
    /// Time one fetch may take, from connecting to the body's last byte.
    pub fetch_time: Duration,
    /// HTTP requests one instance may send.
    pub fetches: usize,
    /// Time the compiler may take for one plugin.
    pub compile_time: Duration,
    /// Traps in a row after which a binding is left alone; 0: never.
    pub breaker_failures: u32,
    /// How long it is left alone.
    pub breaker_pause: Duration,
}

impl Default for PluginLimits {
    fn default() -> PluginLimits {
        PluginLimits {
            memory_bytes: 256 << 20,
            instances: 64,
            instance_wait: Duration::from_secs(1),
            cpu_time: Duration::from_secs(10),
            wall_time: Duration::from_secs(30),
            stack_bytes: 1 << 20,
            output_bytes: 256 << 20,
            log_lines: 100,
            log_line_bytes: 4 << 10,
            fetch_bytes: 20 << 20,
            fetch_time: Duration::from_secs(10),
            fetches: 32,
            compile_time: Duration::from_secs(120),
            breaker_failures: 5,
            breaker_pause: Duration::from_secs(10),
        }
    }
}

/// Writes a number of bytes as `256 MiB`, where it is a whole number of them.
pub(super) fn bytes(size: usize) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if size >= 1 << shift && size.trailing_zeros() >= shift {
            return format!("{} {unit}", size >> shift);
        }
    }
    format!("{size} bytes")
}

/// Writes a duration as `10 s`, or as `250 ms` below a second.
pub(super) fn seconds(duration: Duration) -> String {
    if duration.subsec_millis() == 0 && duration >= Duration::from_secs(1) {
        return format!("{} s", duration.as_secs());
    }
    format!("{} ms", duration.as_millis())
}

/// Names an option on the command line and in the environment, as `--plugin-cpu-time (NEXUS_PLUGIN_CPU_TIME)`.
pub(super) fn option(flag: &str) -> String {
    format!("--{flag} (NEXUS_{})", flag.replace('-', "_").to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_durations_and_options_read_well() {
        assert_eq!(bytes(256 << 20), "256 MiB");
        assert_eq!(bytes(1000), "1000 bytes");
        assert_eq!(bytes(1 << 30), "1 GiB");
        assert_eq!(seconds(Duration::from_secs(10)), "10 s");
        assert_eq!(seconds(Duration::from_millis(1500)), "1500 ms");
        assert_eq!(option("plugin-cpu-time"), "--plugin-cpu-time (NEXUS_PLUGIN_CPU_TIME)");
    }
}
