//! gzip and deflate, of requests and of answers. Only where a client asks for it, and off the async threads where it is much.

use std::io::{self, Read, Write};

use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};

use crate::app::App;
use crate::blocking::off_async_threads;
use crate::config::to_usize;
use crate::error::{Error, ErrorCode, Result};

/// Answers of fewer bytes are sent as they are: they would hardly be any smaller.
const WORTH_BYTES: usize = 128;
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Coding {
    Gzip,
    Deflate,
}

impl Coding {
    fn of(name: &str) -> Option<Coding> {
        match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Coding::Gzip),
            "deflate" => Some(Coding::Deflate),
            _ => None,
        }
    }

    pub(super) fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Coding::Gzip => "gzip",
            Coding::Deflate => "deflate",
        })
    }
}

/// The body as it was before its client compressed it. The limit of a body holds for it too.
///
/// # Errors
/// A coding that is not known here, data that is not what the header says, or too much of it.
pub(super) async fn decode(app: &App, headers: &HeaderMap, body: Bytes) -> Result<Bytes> {
    let Some(name) = headers.get(header::CONTENT_ENCODING) else { return Ok(body) };
    let name = name.to_str().unwrap_or_default();
    if name.trim().eq_ignore_ascii_case("identity") {
        return Ok(body);
    }
    let coding = Coding::of(name).ok_or_else(|| {
        Error::invalid_input(format!("Content-Encoding is gzip, deflate or identity here; {name:?} came"))
    })?;
    let limit = to_usize(app.config.limits.max_body_bytes);
    let compressed = body.len();
    let work = move || match coding {
        Coding::Gzip => inflate(MultiGzDecoder::new(&body[..]), limit),
        Coding::Deflate => inflate(ZlibDecoder::new(&body[..]), limit),
    };
    // Few bytes may become a thousand times as many.
    off_async_threads(compressed.saturating_mul(1024), work).await?
}

fn inflate(reader: impl Read, limit: usize) -> Result<Bytes> {
    let mut inflated = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    reader
        .take(most)
        .read_to_end(&mut inflated)
        .map_err(|error| Error::invalid_input(format!("the body is not what its Content-Encoding says: {error}")))?;
    if inflated.len() > limit {
        let message = format!("the body, decompressed, is larger than {limit} bytes (--max-body-bytes)");
        return Err(Error::new(ErrorCode::TooLarge, message));
    }
    Ok(inflated.into())
}

/// The coding that a client takes answers in, the first that it names.
pub(super) fn wanted(headers: &HeaderMap) -> Option<Coding> {
    let accepted = headers.get(header::ACCEPT_ENCODING)?.to_str().ok()?;
    accepted.split(',').find_map(|offer| {
        let (name, weight) = offer.split_once(';').unwrap_or((offer, ""));
        let is_refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
        Coding::of(name).filter(|_| !is_refused)
    })
}

/// An answer as its client takes it; `None` where it stays as it is.
///
/// # Errors
/// None that memory would give.
pub(super) fn encode(body: &[u8], coding: Option<Coding>) -> io::Result<Option<(Vec<u8>, Coding)>> {
    let Some(coding) = coding.filter(|_| body.len() >= WORTH_BYTES) else { return Ok(None) };
    let deflated = Vec::with_capacity(body.len() / 2);
    let deflated = match coding {
        Coding::Gzip => {
            let mut encoder = GzEncoder::new(deflated, Compression::fast());
            encoder.write_all(body)?;
            encoder.finish()?
        }
        Coding::Deflate => {
            let mut encoder = ZlibEncoder::new(deflated, Compression::fast());
            encoder.write_all(body)?;
            encoder.finish()?
        }
    };
    Ok(Some((deflated, coding)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn accepting(value: &'static str) -> Option<Coding> {
        wanted(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]))
    }

    #[test]
    fn the_first_coding_that_a_client_takes_is_used() {
        assert_eq!(accepting("gzip, deflate, br"), Some(Coding::Gzip));
        assert_eq!(accepting("br, deflate;q=0.5"), Some(Coding::Deflate));
        assert_eq!(accepting("gzip;q=0, identity"), None);
        assert_eq!(accepting("*"), None);
    }

    #[test]
    fn what_is_compressed_comes_back_up_to_the_limit() {
        let body = vec![7; 10_000];
        for coding in [Coding::Gzip, Coding::Deflate] {
            let (deflated, _) = encode(&body, Some(coding)).unwrap().unwrap();
            assert!(deflated.len() < 1000);
            let inflate = |limit| match coding {
                Coding::Gzip => inflate(MultiGzDecoder::new(&deflated[..]), limit),
                Coding::Deflate => inflate(ZlibDecoder::new(&deflated[..]), limit),
            };
            assert_eq!(inflate(10_000).unwrap(), body);
            assert_eq!(inflate(9_999).unwrap_err().code, ErrorCode::TooLarge);
        }
        assert!(encode(&body[..10], Some(Coding::Gzip)).unwrap().is_none());
    }
}
