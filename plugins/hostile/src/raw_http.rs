//! HTTP without the care that `nexus_guest::http` takes: what a plugin in another language could send.

use serde_json::{Value, json};
use wasip2::http::outgoing_handler;
use wasip2::http::types::{ErrorCode, Fields, FutureIncomingResponse, Method, OutgoingBody, OutgoingRequest, Scheme};
use wasip2::io::streams::StreamError;

/// Sends `url` as it stands, with a body of that many bytes, and reads the answer to its end.
///
/// The URL is cut at `://` and the first `/` after it, and not parsed: what a proper client refuses goes to the host.
pub(crate) fn fetch(url: &str, body_bytes: u64) -> Value {
    match send(url, body_bytes).and_then(|(pending, host_header)| {
        pending.subscribe().block();
        Ok((read(&pending)?, host_header))
    }) {
        Ok(((status, length), host_header)) => {
            json!({ "fetch": { "status": status, "length": length, "host_header": host_header } })
        }
        Err(error) => json!({ "fetch": { "error": error } }),
    }
}

/// Sends a GET and neither waits for the answer nor drops it: it is the host's to get rid of.
pub(crate) fn fetch_and_forget(url: &str) -> Value {
    let sent = send(url, 0).map(|(pending, _)| std::mem::forget(pending));
    json!({ "sent": sent.is_ok() })
}

/// The answer to come, and whether a Host header of the plugin's own was let through.
fn send(url: &str, body_bytes: u64) -> Result<(FutureIncomingResponse, bool), String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let headers = Fields::new();
    let host_header = headers.append("host", b"evil.test").is_ok();
    let request = OutgoingRequest::new(headers);
    let method = if body_bytes > 0 { Method::Post } else { Method::Get };
    request
        .set_method(&method)
        .and_then(|()| request.set_scheme(Some(&scheme)))
        .and_then(|()| request.set_authority(Some(authority)))
        .and_then(|()| request.set_path_with_query(Some(path)))
        .map_err(|()| "malformed".to_owned())?;
    let body = request.body().map_err(|()| "no body".to_owned())?;
    let pending = outgoing_handler::handle(request, None).map_err(|code| name(&code))?;
    write(body, body_bytes)?;
    Ok((pending, host_header))
}

fn write(body: OutgoingBody, bytes: u64) -> Result<(), String> {
    let stream = body.write().map_err(|()| "no stream".to_owned())?;
    let (chunk, mut left) = ([b'x'; 4096], bytes);
    while left > 0 {
        let piece = left.min(chunk.len() as u64);
        // The host may have hung up; the answer says why.
        if stream.blocking_write_and_flush(&chunk[..piece as usize]).is_err() {
            break;
        }
        left -= piece;
    }
    drop(stream);
    if left == 0 { OutgoingBody::finish(body, None).map_err(|code| name(&code)) } else { Ok(()) }
}

/// Status, and length of the body.
fn read(pending: &FutureIncomingResponse) -> Result<(u16, usize), String> {
    let answer = match pending.get() {
        Some(Ok(Ok(answer))) => answer,
        Some(Ok(Err(code))) => return Err(name(&code)),
        Some(Err(())) | None => return Err("no answer".to_owned()),
    };
    let body = answer.consume().map_err(|()| "no body".to_owned())?;
    let stream = body.stream().map_err(|()| "no stream".to_owned())?;
    let mut length = 0;
    loop {
        match stream.blocking_read(64 << 10) {
            Ok(chunk) => length += chunk.len(),
            Err(StreamError::Closed) => return Ok((answer.status(), length)),
            Err(StreamError::LastOperationFailed(error)) => return Err(error.to_debug_string()),
        }
    }
}

fn name(code: &ErrorCode) -> String {
    format!("{code:?}")
}
