//! One error type: a sentence for the person at the terminal, saying what failed and how to mend it.

use std::fmt;
use std::path::Path;

pub(crate) type Result<T> = std::result::Result<T, Error>;

#[derive(Debug)]
pub(crate) struct Error(String);

impl Error {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Turns an I/O error into a sentence that names the file: `cannot write target/x: disk full`.
pub(crate) trait At<T> {
    fn at(self, verb: &str, path: &Path) -> Result<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, verb: &str, path: &Path) -> Result<T> {
        self.map_err(|error| Error::new(format!("cannot {verb} {}: {error}", path.display())))
    }
}
