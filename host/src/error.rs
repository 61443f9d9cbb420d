//! The one error a client sees: a code from a short list, with its HTTP and gRPC status side by side, and a message.

use std::fmt;
use std::time::Duration;

/// What went wrong, as clients tell errors apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    InvalidInput,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Conflict,
    RequestTimeout,
    TooLarge,
    PluginFailed,
    Overloaded,
    NotReady,
    DeadlineExceeded,
    StorageFull,
    Unsupported,
    Internal,
}

impl ErrorCode {
    /// The `code` field of an error answer.
    pub fn name(self) -> &'static str {
        match self {
            ErrorCode::InvalidInput => "invalid_input",
            ErrorCode::Forbidden => "forbidden",
            ErrorCode::NotFound => "not_found",
            ErrorCode::MethodNotAllowed => "method_not_allowed",
            ErrorCode::Conflict => "conflict",
            ErrorCode::RequestTimeout => "request_timeout",
            ErrorCode::TooLarge => "too_large",
            ErrorCode::PluginFailed => "plugin_failed",
            ErrorCode::Overloaded => "overloaded",
            ErrorCode::NotReady => "not_ready",
            ErrorCode::DeadlineExceeded => "deadline_exceeded",
            ErrorCode::StorageFull => "storage_full",
            ErrorCode::Unsupported => "unsupported",
            ErrorCode::Internal => "internal",
        }
    }

    /// The HTTP status.
    pub fn http_status(self) -> u16 {
        match self {
            ErrorCode::InvalidInput => 400,
            ErrorCode::Forbidden => 403,
            ErrorCode::NotFound => 404,
            ErrorCode::MethodNotAllowed => 405,
            ErrorCode::Conflict => 409,
            ErrorCode::RequestTimeout => 408,
            ErrorCode::TooLarge => 413,
            ErrorCode::PluginFailed => 502,
            ErrorCode::Overloaded | ErrorCode::NotReady => 503,
            ErrorCode::DeadlineExceeded => 504,
            ErrorCode::StorageFull => 507,
            ErrorCode::Internal => 500,
            ErrorCode::Unsupported => 501,
        }
    }

    /// The gRPC status, by its number. Source: gRPC's `statuscodes.md`.
    pub fn grpc_status(self) -> i32 {
        match self {
            ErrorCode::InvalidInput => 3,
            ErrorCode::RequestTimeout | ErrorCode::DeadlineExceeded => 4,
            ErrorCode::NotFound => 5,
            ErrorCode::Conflict => 6,
            ErrorCode::Forbidden => 7,
            ErrorCode::TooLarge | ErrorCode::StorageFull => 8,
            ErrorCode::MethodNotAllowed | ErrorCode::Unsupported => 12,
            ErrorCode::PluginFailed | ErrorCode::Internal => 13,
            ErrorCode::Overloaded | ErrorCode::NotReady => 14,
        }
    }
}

/// An error on its way to a client. `message` is for the client; `cause` is for the log and never leaves the host.
#[derive(Debug, Clone)]
pub struct Error {
    pub code: ErrorCode,
    pub message: String,
    pub cause: Option<String>,
    /// When the same may be asked again, where that is known.
    pub retry_after: Option<Duration>,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Error {
        Error { code, message: message.into(), cause: None, retry_after: None }
    }

    pub fn invalid_input(message: impl Into<String>) -> Error {
        Error::new(ErrorCode::InvalidInput, message)
    }

    pub fn not_found(message: impl Into<String>) -> Error {
        Error::new(ErrorCode::NotFound, message)
    }

    /// A fault of the host's own. The client reads that something failed and finds the request's id beside it; the
    /// log has the cause.
    pub fn internal(cause: impl fmt::Display) -> Error {
        Error::new(ErrorCode::Internal, "internal error; the server's log has the cause under this request id")
            .with_cause(cause)
    }

    pub fn retry_after(mut self, time: Duration) -> Error {
        self.retry_after = Some(time);
        self
    }

    /// Whole seconds after which the same may be asked again, and never at once; `None` where asking again does not help.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        let may_help = matches!(self.code, ErrorCode::Overloaded | ErrorCode::NotReady);
        may_help.then(|| self.retry_after.map_or(0, |time| time.as_secs()).saturating_add(1))
    }

    pub fn with_cause(mut self, cause: impl fmt::Display) -> Error {
        // `:#` writes the whole chain of causes of error types that keep one.
        self.cause = Some(format!("{cause:#}"));
        self
    }
}

/// Most of somebody else's text that an error message passes on, in bytes.
const FOREIGN_TEXT_BYTES: usize = 4 << 10;

/// A text that a plugin chose, no longer than a person reads.
pub fn shorten(mut text: String) -> String {
    let cut = text.floor_char_boundary(FOREIGN_TEXT_BYTES);
    if cut < text.len() {
        text.truncate(cut);
        text.push('…');
    }
    text
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message)?;
        match &self.cause {
            Some(cause) => write!(f, " ({cause})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl From<crate::tensor::TensorError> for Error {
    fn from(error: crate::tensor::TensorError) -> Error {
        Error::invalid_input(error.to_string())
    }
}
