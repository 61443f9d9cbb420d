//! The log: one JSON object a line, the request's id in every line written on its behalf.

use std::fmt;
use std::io::{self, BufWriter, Write, stdout};
use std::time::Duration;

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogFormat;

/// Lines that may wait for whoever reads the log. It takes far more than that to be slower than the host for long; past
/// it lines are dropped, for a log that nobody reads must not stop requests.
const WAITING_LINES: usize = 65_536;

/// Between two times that the log is written. Lines that come meanwhile have no thread to wake, which costs a request more than
/// its line does.
const PAUSE: Duration = Duration::from_millis(10);

/// A writer that rests each time after it wrote all that was there.
struct Unhurried<W>(W);

impl<W: Write> Write for Unhurried<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()?;
        std::thread::sleep(PAUSE);
        Ok(())
    }
}

/// Starts the log, on standard output. A thread of its own writes it, all lines that wait at once; dropping the guard
/// writes what is left.
///
/// # Errors
/// A filter that cannot be read.
pub fn start(filter: &str, format: LogFormat) -> Result<WorkerGuard, String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("--log {filter:?}: {error}"))?;
    let writer = NonBlockingBuilder::default().buffered_lines_limit(WAITING_LINES);
    let (writer, guard) = writer.finish(Unhurried(BufWriter::with_capacity(64 << 10, stdout())));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let started = match format {
        LogFormat::Json => builder.fmt_fields(JsonPairs).event_format(JsonLine).try_init(),
        LogFormat::Text => builder.try_init(),
    };
    started.map_err(|error| error.to_string())?;
    Ok(guard)
}

/// A span's fields, written once when it begins: a JSON object without its closing brace.
struct JsonPairs;

impl<'writer> FormatFields<'writer> for JsonPairs {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = Line(Vec::with_capacity(128));
        fields.record(&mut line);
        writer.write_str(&String::from_utf8_lossy(&line.0))
    }
}

/// `{"timestamp","level","target","request_id",…,"message",…}`: the fields of the spans around the event, then its own.
struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        let mut line = Line(Vec::with_capacity(512));
        line.entry("timestamp", &now);
        line.entry("level", event.metadata().level().as_str());
        line.entry("target", event.metadata().target());
        for span in ctx.event_scope().into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
                line.entries(fields.fields.trim_start_matches('{'));
            }
        }
        event.record(&mut line);
        writeln!(writer, "{}}}", String::from_utf8_lossy(&line.0))
    }
}

/// A JSON object under construction, without its closing brace.
struct Line(Vec<u8>);

impl Line {
    fn entry(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        self.begin_entry();
        // Writing numbers and text to memory does not fail.
        serde_json::to_writer(&mut self.0, name).unwrap_or_default();
        self.0.push(b':');
        serde_json::to_writer(&mut self.0, value).unwrap_or_default();
    }

    fn entries(&mut self, json: &str) {
        if !json.is_empty() {
            self.begin_entry();
            self.0.extend_from_slice(json.as_bytes());
        }
    }

    fn begin_entry(&mut self) {
        self.0.push(if self.0.is_empty() { b'{' } else { b',' });
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.entry(field.name(), &format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.entry(field.name(), value);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.entry(field.name(), &value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.entry(field.name(), &value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.entry(field.name(), &value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.entry(field.name(), &value);
    }
}
