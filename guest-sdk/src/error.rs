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

/// Says whose fault an error, or an absence, is: `text.parse::<u32>().or_invalid_input("`top_k`")?`.
///
/// The message is `what`, followed by the error where there is one. `what` is only written on failure, so `format_args!`
/// costs nothing otherwise.
pub trait Blame<T>: Sized {
    /// The client's: see [`Error::invalid_input`].
    fn or_invalid_input(self, what: impl fmt::Display) -> Result<T, Error>;

    /// The binding's configuration's: see [`Error::invalid_config`].
    fn or_invalid_config(self, what: impl fmt::Display) -> Result<T, Error>;

    /// The plugin's own: see [`Error::plugin`].
    fn or_plugin_error(self, what: impl fmt::Display) -> Result<T, Error>;
}

impl<T, E: fmt::Display> Blame<T> for Result<T, E> {
    fn or_invalid_input(self, what: impl fmt::Display) -> Result<T, Error> {
        self.map_err(|error| Error::invalid_input(format!("{what}: {error}")))
    }

    fn or_invalid_config(self, what: impl fmt::Display) -> Result<T, Error> {
        self.map_err(|error| Error::invalid_config(format!("{what}: {error}")))
    }

    fn or_plugin_error(self, what: impl fmt::Display) -> Result<T, Error> {
        self.map_err(|error| Error::plugin(format!("{what}: {error}")))
    }
}

impl<T> Blame<T> for Option<T> {
    fn or_invalid_input(self, what: impl fmt::Display) -> Result<T, Error> {
        self.ok_or_else(|| Error::invalid_input(what.to_string()))
    }

    fn or_invalid_config(self, what: impl fmt::Display) -> Result<T, Error> {
        self.ok_or_else(|| Error::invalid_config(what.to_string()))
    }

    fn or_plugin_error(self, what: impl fmt::Display) -> Result<T, Error> {
        self.ok_or_else(|| Error::plugin(what.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_somebodys() {
        let error = "five".parse::<u32>().or_invalid_input("`top_k`").unwrap_err();
        assert_eq!(error, Error::invalid_input("`top_k`: invalid digit found in string"));
        let error = "five".parse::<u32>().or_invalid_config("`top_k`").unwrap_err();
        assert_eq!(error, Error::invalid_config("`top_k`: invalid digit found in string"));
        let error = "five".parse::<u32>().or_plugin_error("`top_k`").unwrap_err();
        assert_eq!(error, Error::plugin("`top_k`: invalid digit found in string"));
        assert_eq!("5".parse::<u32>().or_plugin_error("`top_k`"), Ok(5));
    }

    #[test]
    fn an_absence_is_somebodys() {
        let field = "width";
        let error = None::<u32>.or_invalid_input(format_args!("`{field}` is missing")).unwrap_err();
        assert_eq!(error, Error::invalid_input("`width` is missing"));
        assert_eq!(None::<u32>.or_invalid_config("no").unwrap_err().code(), "invalid-config");
        assert_eq!(None::<u32>.or_plugin_error("no").unwrap_err().code(), "plugin");
        assert_eq!(Some(5).or_plugin_error("no"), Ok(5));
    }
}
