//! What a plugin writes: log lines, stdout and stderr, capped, on their way to the host's log and into error messages.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::limits::{PluginLimits, option};
use super::manifest::Stage;

/// Lines kept for error messages.
const TAIL_LINES: usize = 10;
/// Most that one write to stdout or stderr carries, in bytes.
const WRITE_BYTES: usize = 64 << 10;

/// The log of one instance. Clones share it, as stdout, stderr and `log.emit` do.
#[derive(Clone)]
pub(super) struct PluginLog {
    state: Arc<Mutex<LogState>>,
}

struct LogState {
    plugin: String,
    version: String,
    stage: Stage,
    lines: usize,
    lines_left: usize,
    line_bytes: usize,
    dropped: bool,
    tail: VecDeque<String>,
    partial: [Vec<u8>; 2],
}

/// The two standard streams a plugin may write to.
#[derive(Clone, Copy)]
pub(super) enum Standard {
    Output,
    Error,
}

impl PluginLog {
    pub(super) fn new(plugin: &str, version: &str, limits: &PluginLimits) -> PluginLog {
        PluginLog {
            state: Arc::new(Mutex::new(LogState {
                plugin: plugin.to_owned(),
                version: version.to_owned(),
                stage: Stage::Describe,
                lines: limits.log_lines,
                lines_left: limits.log_lines,
                line_bytes: limits.log_line_bytes,
                dropped: false,
                tail: VecDeque::new(),
                partial: [Vec::new(), Vec::new()],
            })),
        }
    }

    pub(super) fn enter(&self, stage: Stage) {
        self.lock().stage = stage;
    }

    /// Writes one line to the host's log; the current span says which request it belongs to.
    pub(super) fn emit(&self, level: &str, message: &str) {
        self.lock().emit(level, message);
    }

    /// The last lines, oldest first, in one line of text; `None` where the plugin wrote nothing.
    pub(super) fn tail(&self) -> Option<String> {
        let mut state = self.lock();
        state.end_line(Standard::Output);
        state.end_line(Standard::Error);
        let lines: Vec<&str> = state.tail.iter().map(String::as_str).collect();
        (!lines.is_empty()).then(|| lines.join(" | "))
    }

    pub(super) fn stream(&self, standard: Standard) -> LogStream {
        LogStream { log: self.clone(), standard }
    }

    fn lock(&self) -> MutexGuard<'_, LogState> {
        // The log of an instance whose thread panicked is still only text.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogState {
    fn emit(&mut self, level: &str, message: &str) {
        let message = message.trim_end();
        let cut = message.floor_char_boundary(self.line_bytes);
        let message = if cut < message.len() { format!("{}…", &message[..cut]) } else { message.to_owned() };
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        // In an error message a line stays one line and cannot colour a terminal.
        self.tail.push_back(message.replace(char::is_control, " "));
        if self.lines_left > 0 {
            self.lines_left -= 1;
            self.write(level, &message);
        } else if !self.dropped {
            self.dropped = true;
            let (lines, option) = (self.lines, option("plugin-log-lines"));
            let message =
                format!("it wrote {lines} lines, the limit set by {option}; the rest of this request's are dropped");
            self.write("warn", &message);
        }
    }

    fn write(&self, level: &str, message: &str) {
        macro_rules! event {
            ($level:ident) => {
                tracing::$level!(
                    target: "plugin",
                    plugin = self.plugin,
                    version = self.version,
                    stage = self.stage.name(),
                    "{message}"
                )
            };
        }
        match level {
            "trace" => event!(trace),
            "debug" => event!(debug),
            "warn" => event!(warn),
            "error" => event!(error),
            _ => event!(info),
        }
    }

    fn write_standard(&mut self, standard: Standard, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let room = self.line_bytes.saturating_add(1).saturating_sub(self.partial[standard as usize].len());
            self.partial[standard as usize].extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.end_line(standard);
            }
        }
    }

    fn end_line(&mut self, standard: Standard) {
        let line = std::mem::take(&mut self.partial[standard as usize]);
        let line = String::from_utf8_lossy(&line);
        if line.trim().is_empty() {
            return;
        }
        let level = match standard {
            Standard::Output => "info",
            Standard::Error => "warn",
        };
        self.emit(level, &line);
    }
}

/// A standard stream of an instance, each line a line of its log.
pub(super) struct LogStream {
    log: PluginLog,
    standard: Standard,
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    // Components of WASI 0.2 take the stream below; this one is for worlds the host does not link.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.log.stream(self.standard))
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.log.lock().write_standard(self.standard, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn log(lines: usize, bytes: usize) -> PluginLog {
        let limits = PluginLimits { log_lines: lines, log_line_bytes: bytes, ..PluginLimits::default() };
        PluginLog::new("test", "1", &limits)
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let log = log(10, 4);
        log.emit("info", "abcö and more");
        assert_eq!(log.tail().unwrap(), "abc…");
    }

    #[test]
    fn the_tail_keeps_the_last_lines_even_when_the_log_drops_them() {
        let log = log(2, 100);
        for number in 0..20 {
            log.emit("info", &format!("line {number}"));
        }
        let tail = log.tail().unwrap();
        assert!(tail.starts_with("line 10 | ") && tail.ends_with(" | line 19"), "{tail}");
        assert!(log.lock().dropped);
    }

    #[test]
    fn a_line_goes_to_the_hosts_log_with_plugin_and_stage() {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let log = log(2, 100);
            log.enter(Stage::Preprocess);
            log.emit("warn", "one\ntwo");
            log.emit("nonsense", "three");
            log.emit("info", "four");
            log.emit("info", "five");
        });
        let written = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3, "{written}");
        assert_eq!((&lines[0]["level"], &lines[0]["target"]), (&"WARN".into(), &"plugin".into()));
        let fields = &lines[0]["fields"];
        assert_eq!((&fields["plugin"], &fields["version"]), (&"test".into(), &"1".into()));
        assert_eq!((&fields["stage"], &fields["message"]), (&"preprocess".into(), &"one\ntwo".into()));
        assert_eq!(lines[1]["level"], "INFO");
        let last = lines[2]["fields"]["message"].as_str().unwrap();
        assert!(last.contains("dropped") && last.contains("--plugin-log-lines (NEXUS_PLUGIN_LOG_LINES)"), "{last}");
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn standard_streams_are_cut_into_lines() {
        let log = log(10, 100);
        let mut stream = log.stream(Standard::Error);
        stream.write(Bytes::from_static(b"one\ntw")).unwrap();
        stream.write(Bytes::from_static(b"o\n\nthree\x1b[31m")).unwrap();
        assert_eq!(log.tail().unwrap(), "one | two | three [31m");
        stream.write(Bytes::from(vec![b'x'; 1 << 20])).unwrap();
        assert!(log.lock().partial[1].len() <= 101);
    }
}
