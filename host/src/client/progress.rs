//! How far a transfer is: a bar on a terminal, plain lines elsewhere. Both go to standard error.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::size;

const BAR: &str = "{msg} [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
const WAITING: &str = "{spinner} {msg}, for {elapsed}";

/// The progress of one transfer. It is gone from the terminal when this is dropped.
#[derive(Clone)]
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// `what` says what is done to which version: `pushing iris, version 2`.
    pub(super) fn start(what: String, bytes: u64) -> Progress {
        // Hidden, and free of cost, where standard error is no terminal.
        let bar = ProgressBar::new(bytes);
        if bar.is_hidden() {
            eprintln!("{what} ({})", size(bytes));
        }
        bar.set_style(style(BAR).progress_chars("=> "));
        bar.set_message(what);
        Progress { bar }
    }

    /// That many bytes more went over.
    pub(super) fn advance(&self, bytes: usize) {
        self.bar.inc(bytes as u64);
    }

    /// All bytes went over; how long the rest takes is not known.
    pub(super) fn wait(&self, what: String) {
        self.bar.reset_elapsed();
        self.bar.set_style(style(WAITING));
        self.bar.set_message(what);
        self.bar.enable_steady_tick(Duration::from_millis(120));
    }

    pub(super) fn end(self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    // Both templates are this file's own, and a test reads them.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use indicatif::ProgressStyle;

    #[test]
    fn the_templates_are_readable() {
        for template in [super::BAR, super::WAITING] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
