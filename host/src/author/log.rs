//! What a plugin logs while it is tried, kept beside everything else that is shown.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// The target that plugins' lines have in the host's log.
const TARGET: &str = "plugin";

/// A line that a plugin wrote.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct LogLine {
    pub(super) level: String,
    pub(super) stage: String,
    pub(super) message: String,
}

/// The lines so far. Clones share them.
#[derive(Clone, Default)]
pub(super) struct PluginLines(Arc<Mutex<Vec<LogLine>>>);

impl PluginLines {
    /// Keeps plugins' lines from now on, of every level; what the host itself warns of goes to standard error.
    ///
    /// # Errors
    /// The process has a log already.
    pub(super) fn keep() -> Result<PluginLines, String> {
        let lines = PluginLines::default();
        let plugins = Targets::new().with_target(TARGET, Level::TRACE);
        let host =
            Targets::new().with_default(Level::WARN).with_target(TARGET, tracing::level_filters::LevelFilter::OFF);
        let log = tracing_subscriber::registry()
            .with(lines.clone().with_filter(plugins))
            .with(fmt::layer().with_writer(std::io::stderr).with_filter(host));
        log.try_init().map_err(|error| error.to_string())?;
        Ok(lines)
    }

    pub(super) fn take(&self) -> Vec<LogLine> {
        // Lines are pushed whole, so those of a thread that panicked are all right.
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S: Subscriber> Layer<S> for PluginLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = LogLine { level: event.metadata().level().as_str().to_lowercase(), ..LogLine::default() };
        event.record(&mut line);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

impl Visit for LogLine {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "stage" => value.clone_into(&mut self.stage),
            "message" => value.clone_into(&mut self.message),
            _ => {}
        }
    }
}
