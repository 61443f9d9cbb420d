//! The one error as gRPC's status, and tonic's own statuses as the one error.

use std::error::Error as _;
use std::sync::Arc;

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::error::{Error, ErrorCode};
use crate::http::body_error;

/// Bytes of a message that travel in a header: clients take 8 KiB of headers, and a byte may become three.
const MESSAGE_BYTES: usize = 2 << 10;

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        let mut message = error.message.clone();
        let cut = message.floor_char_boundary(MESSAGE_BYTES);
        if cut < message.len() {
            message.truncate(cut);
            message.push('…');
        }
        let mut status = Status::new(Code::from_i32(error.code.grpc_status()), message);
        if let Some(seconds) = error.retry_after_seconds() {
            status.metadata_mut().insert("retry-after", MetadataValue::from(seconds));
        }
        status.set_source(Arc::new(error));
        status
    }
}

/// The error that a status is made of.
pub(super) fn error_of(status: &Status) -> Error {
    match status.source().and_then(|source| source.downcast_ref::<Error>()) {
        Some(error) => error.clone(),
        None => of_tonic(status),
    }
}

/// What tonic refuses by itself is no readable request, of which it says too little for a client to mend it.
fn of_tonic(status: &Status) -> Error {
    let message = status.message();
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => {
            let message = format!("the message is larger than this call takes (--max-body-bytes): {message}");
            Error::new(ErrorCode::TooLarge, message)
        }
        Code::Unimplemented => Error::new(ErrorCode::Unsupported, message),
        _ => body_error(status),
    }
}

/// The error that an answer ended in, if it did.
pub fn error_in(answer: &mut http::Extensions) -> Option<Error> {
    answer.remove::<Status>().map(|status| error_of(&status))
}

/// An error as a whole answer: headers that are trailers as well, and no body.
pub fn render<B: Default>(error: &Error) -> http::Response<B> {
    let mut answer = Status::from(error.clone()).into_http();
    answer.extensions_mut().remove::<Status>();
    answer
}
