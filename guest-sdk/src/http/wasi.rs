//! One request over wasi:http: no redirects, the body read in chunks up to a limit.

use url::Url;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{ErrorCode, Headers, IncomingResponse, Method, OutgoingRequest, Scheme, http_error_code};
use wasip2::io::streams::StreamError;

use super::{Hop, HttpResponse, MAX_ERROR_BODY, failed};
use crate::Error;

const USER_AGENT: &str = concat!("model-nexus-plugin/", env!("CARGO_PKG_VERSION"));
const CHUNK: u64 = 256 * 1024;

/// Sends a GET and reads the answer.
pub(super) fn get(url: &Url, max_bytes: usize, accept: &str) -> Result<Hop, Error> {
    let request = request(url, accept)?;
    // No timeouts here: the host sets them, and its operator can change them.
    let pending = outgoing_handler::handle(request, None).map_err(|code| refused(url, &code))?;
    pending.subscribe().block();
    let response = match pending.get() {
        Some(Ok(Ok(response))) => response,
        Some(Ok(Err(code))) => return Err(refused(url, &code)),
        Some(Err(())) | None => return Err(failed(url, "the host gave no answer")),
    };

    let status = response.status();
    let headers = response.headers();
    if matches!(status, 301 | 302 | 303 | 307 | 308)
        && let Some(location) = first(&headers, "location")
    {
        return Ok(Hop::Redirect(location));
    }
    let content_type = first(&headers, "content-type");
    let body = if (200..300).contains(&status) {
        let declared = first(&headers, "content-length").and_then(|length| length.trim().parse().ok());
        read_whole(url, &response, declared, max_bytes)?
    } else {
        read(url, &response, MAX_ERROR_BODY.min(max_bytes), 0)?.0
    };
    Ok(Hop::Answer(HttpResponse { url: url.to_string(), status, content_type, body }))
}

fn request(url: &Url, accept: &str) -> Result<OutgoingRequest, Error> {
    let headers = [("accept", accept), ("user-agent", USER_AGENT)]
        .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
    let headers = Headers::from_list(&headers).map_err(|error| failed(url, &format!("headers refused ({error:?})")))?;
    let request = OutgoingRequest::new(headers);
    let scheme = if url.scheme() == "https" { Scheme::Https } else { Scheme::Http };
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let set = request
        .set_method(&Method::Get)
        .and_then(|()| request.set_scheme(Some(&scheme)))
        .and_then(|()| request.set_authority(Some(url.authority())))
        .and_then(|()| request.set_path_with_query(Some(&path)));
    set.map_err(|()| failed(url, "the host takes this URL for malformed"))?;
    Ok(request)
}

/// The whole body, or an error if it is over `max_bytes`; a length the server declares is believed when it is too large.
fn read_whole(
    url: &Url,
    response: &IncomingResponse,
    declared: Option<u64>,
    max_bytes: usize,
) -> Result<Vec<u8>, Error> {
    let too_large = || failed(url, &format!("the answer is over the limit of {max_bytes} bytes"));
    let declared = declared.unwrap_or(0);
    if declared > max_bytes as u64 {
        return Err(too_large());
    }
    match read(url, response, max_bytes, declared as usize)? {
        (body, true) => Ok(body),
        (_, false) => Err(too_large()),
    }
}

/// At most `max_bytes` of the body, and whether that was all of it.
fn read(url: &Url, response: &IncomingResponse, max_bytes: usize, capacity: usize) -> Result<(Vec<u8>, bool), Error> {
    let unreadable = |()| failed(url, "the answer's body cannot be read");
    // The stream is a child of the body: declared later, it is dropped earlier.
    let incoming = response.consume().map_err(unreadable)?;
    let stream = incoming.stream().map_err(unreadable)?;
    let mut body = Vec::with_capacity(capacity);
    loop {
        let chunk = match stream.blocking_read(CHUNK) {
            Ok(chunk) => chunk,
            Err(StreamError::Closed) => return Ok((body, true)),
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(match http_error_code(&error) {
                    Some(code) => refused(url, &code),
                    None => failed(url, &format!("the answer broke off ({})", error.to_debug_string())),
                });
            }
        };
        let room = max_bytes - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return Ok((body, false));
        }
    }
}

fn first(headers: &Headers, name: &str) -> Option<String> {
    let values = headers.get(name);
    values.first().map(|value| String::from_utf8_lossy(value).into_owned())
}

/// A code in words, with its name: the words are for the client, the name is for whoever searches for it.
fn refused(url: &Url, code: &ErrorCode) -> Error {
    let words = match code {
        ErrorCode::HttpRequestDenied => "the host's network policy does not allow it",
        ErrorCode::DestinationIpProhibited => "the host's network policy does not allow its address",
        ErrorCode::DnsError(_) | ErrorCode::DnsTimeout => "its host name could not be resolved",
        ErrorCode::DestinationNotFound | ErrorCode::DestinationUnavailable | ErrorCode::DestinationIpUnroutable => {
            "it cannot be reached"
        }
        ErrorCode::ConnectionRefused => "the connection was refused",
        ErrorCode::ConnectionTerminated | ErrorCode::HttpResponseIncomplete => "the connection broke off",
        ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::HttpResponseTimeout => "it took too long",
        ErrorCode::TlsProtocolError | ErrorCode::TlsCertificateError | ErrorCode::TlsAlertReceived(_) => {
            "no secure connection could be made"
        }
        ErrorCode::HttpResponseBodySize(_) => "the answer is larger than the host allows",
        ErrorCode::HttpRequestUriInvalid => "the host takes this URL for malformed",
        _ => "the request failed",
    };
    if let ErrorCode::InternalError(Some(text)) = code {
        return failed(url, &format!("{words} (InternalError: {text})"));
    }
    let code = format!("{code:?}");
    let name = code.trim_start_matches("ErrorCode::").split('(').next().unwrap_or_default();
    failed(url, &format!("{words} ({name})"))
}
