//! The one error type: a code the host acts on and a message a person reads.

use std::borrow::Cow;
use std::fmt;

/// Why a stage failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    code: Cow<'static, str>,
    message: String,
}

impl Error {
    /// The client's fault: the host answers 400 and shows `message`. Say what was expected, what came and how to fix it.
    pub fn invalid_input(message: impl Into<String>) -> Self {
        Error::with_code("invalid-input", message)
    }

    /// The plugin's own failure: the host answers 502.
    pub fn plugin(message: impl Into<String>) -> Self {
        Error::with_code("plugin", message)
    }

    /// The binding's configuration does not fit: the host refuses the binding.
    pub fn invalid_config(message: impl Into<String>) -> Self {
        Error::with_code("invalid-config", message)
    }

    /// An error with a code of the plugin's own. Every code but "invalid-input" is treated as the plugin's failure.
    pub fn with_code(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Error { code: code.into(), message: message.into() }
    }

    /// The code, "invalid-input" for instance.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The message without the code.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Error {}
