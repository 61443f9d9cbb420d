//! Events of the crate `tracing` as lines of the host's log: "target: message field=value". Spans are not shown.

use std::fmt::{Debug, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Id, Record};
use tracing_core::{Dispatch, Event, Metadata, Subscriber, dispatcher};

use super::Level;

/// Makes `emit` get every event from now on, unless somebody else already does.
pub(super) fn set_global(emit: fn(Level, &str)) {
    // Refused where the plugin's own `main` of a test, say, has set a subscriber: then that one is wanted.
    drop(dispatcher::set_global_default(Dispatch::new(Lines::new(emit))));
}

/// Turns each event into one line.
struct Lines {
    emit: fn(Level, &str),
    /// Ids must not be zero, and a span's stays its own.
    next_span: AtomicU64,
}

impl Lines {
    fn new(emit: fn(Level, &str)) -> Self {
        Lines { emit, next_span: AtomicU64::new(1) }
    }
}

impl Subscriber for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        // Which levels are wanted is the host's to say.
        true
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let metadata = event.metadata();
        (self.emit)(level(metadata.level()), &format!("{}: {}{}", metadata.target(), line.message, line.fields));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(self.next_span.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn level(level: &tracing_core::Level) -> Level {
    match *level {
        tracing_core::Level::TRACE => Level::Trace,
        tracing_core::Level::DEBUG => Level::Debug,
        tracing_core::Level::INFO => Level::Info,
        tracing_core::Level::WARN => Level::Warn,
        tracing_core::Level::ERROR => Level::Error,
    }
}

#[derive(Default)]
struct Line {
    message: String,
    /// Each with a space before it.
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        static LINES: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
    }

    fn keep(level: Level, line: &str) {
        LINES.with_borrow_mut(|lines| lines.push((level, line.to_owned())));
    }

    #[test]
    fn an_event_is_a_line_with_target_message_and_fields() {
        dispatcher::with_default(&Dispatch::new(Lines::new(keep)), || {
            let span = tracing::info_span!("decode", width = 3);
            let _entered = span.enter();
            tracing::info!("plain");
            tracing::warn!(target: "jpeg", width = 3, name = "cat", path = %"a b", "read {} bytes", 7);
            tracing::trace!(done = true);
        });
        let lines = LINES.take();
        let here = "nexus_guest::log::events::tests";
        assert_eq!(
            lines,
            [
                (Level::Info, format!("{here}: plain")),
                (Level::Warn, "jpeg: read 7 bytes width=3 name=\"cat\" path=a b".to_owned()),
                (Level::Trace, format!("{here}:  done=true")),
            ]
        );
    }
}
