//! HTTP GET over wasi:http. The host decides which hosts and addresses a plugin may reach, on every hop.

use url::Url;

use crate::Error;

#[cfg(target_family = "wasm")]
mod wasi;

/// How many redirects [`get`] follows.
pub const MAX_REDIRECTS: usize = 5;

/// The code of every error of [`get`].
pub const FETCH_FAILED: &str = "fetch-failed";

/// What is read of an answer whose status is not 2xx: enough for an error's text.
#[cfg(target_family = "wasm")]
const MAX_ERROR_BODY: usize = 64 * 1024;

/// An answer, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpResponse {
    /// Where it came from in the end, after redirects.
    pub url: String,
    pub status: u16,
    pub content_type: Option<String>,
    /// At most the bytes asked for; of an answer that is not 2xx, the first 64 KiB.
    pub body: Vec<u8>,
}

/// Fetches `url` ("http://…" or "https://…"), following up to [`MAX_REDIRECTS`] redirects.
///
/// `accept` is the Accept header, "image/*" for instance. Any status is an `Ok`; errors carry the code
/// [`FETCH_FAILED`] and say in a client's words what happened: a URL that is none, a refusal by the host's policy, DNS,
/// a connection refused, a timeout, a body over `max_bytes`. Natively there is no host and every call fails.
pub fn get(url: &str, max_bytes: usize, accept: &str) -> Result<HttpResponse, Error> {
    get_with(url, |hop| {
        #[cfg(target_family = "wasm")]
        return wasi::get(hop, max_bytes, accept);
        #[cfg(not(target_family = "wasm"))]
        return Err(failed(hop, &format!("no host here to fetch {accept} of up to {max_bytes} bytes")));
    })
}

/// What one request gave.
#[cfg_attr(not(target_family = "wasm"), allow(dead_code))]
enum Hop {
    Answer(HttpResponse),
    /// A redirect, with its Location header.
    Redirect(String),
}

fn get_with(url: &str, mut fetch: impl FnMut(&Url) -> Result<Hop, Error>) -> Result<HttpResponse, Error> {
    let mut hop = Url::parse(url).map_err(|error| failed_text(url, &format!("this is no absolute URL ({error})")))?;
    check(&hop)?;
    for _ in 0..=MAX_REDIRECTS {
        match fetch(&hop)? {
            Hop::Answer(answer) => return Ok(answer),
            Hop::Redirect(location) => hop = follow(&hop, &location)?,
        }
    }
    Err(failed_text(url, &format!("more than {MAX_REDIRECTS} redirects")))
}

/// Where a redirect leads, if it may be followed.
fn follow(from: &Url, location: &str) -> Result<Url, Error> {
    let to = from.join(location).map_err(|error| failed(from, &format!("it redirects to no URL ({error})")))?;
    check(&to)?;
    if from.scheme() == "https" && to.scheme() == "http" {
        return Err(failed(from, &format!("it redirects from https to unencrypted {}", shorten(to.as_str()))));
    }
    Ok(to)
}

fn check(url: &Url) -> Result<(), Error> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(failed(url, &format!("the scheme `{}` is not supported, only http and https", url.scheme())));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // Not shown: the message may end up in a log.
        return Err(Error::with_code(FETCH_FAILED, "a URL with a user name or password is not supported"));
    }
    Ok(())
}

fn failed(url: &Url, reason: &str) -> Error {
    failed_text(url.as_str(), reason)
}

fn failed_text(url: &str, reason: &str) -> Error {
    Error::with_code(FETCH_FAILED, format!("cannot fetch {}: {reason}", shorten(url)))
}

/// URLs may be megabytes long; messages should not.
fn shorten(url: &str) -> String {
    const LONGEST: usize = 200;
    match url.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &url[..end]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(url: &Url) -> Result<Hop, Error> {
        Ok(Hop::Answer(HttpResponse { url: url.to_string(), status: 200, content_type: None, body: Vec::new() }))
    }

    fn redirect(to: &str) -> Result<Hop, Error> {
        Ok(Hop::Redirect(to.to_owned()))
    }

    #[test]
    fn redirects_are_resolved_against_the_hop_they_come_from() {
        let answer = get_with("http://a.test/x/y", |url| match url.as_str() {
            "http://a.test/x/y" => redirect("z?q=1"),
            "http://a.test/x/z?q=1" => redirect("https://b.test"),
            _ => answer(url),
        });
        assert_eq!(answer.unwrap().url, "https://b.test/");
    }

    #[test]
    fn redirects_end() {
        let mut hops = 0;
        let error = get_with("http://a.test/", |_| {
            hops += 1;
            redirect("/")
        });
        assert!(error.unwrap_err().message().contains("more than 5 redirects"));
        assert_eq!(hops, 1 + MAX_REDIRECTS);
    }

    #[test]
    fn what_may_not_be_followed_is_refused() {
        for (location, reason) in
            [("http://a.test/", "unencrypted"), ("file:///etc/passwd", "scheme `file`"), ("http://[::1", "no URL")]
        {
            let error = get_with("https://a.test/", |_| redirect(location)).unwrap_err();
            assert_eq!(error.code(), FETCH_FAILED);
            assert!(error.message().contains(reason), "{location}: {error}");
        }
    }

    #[test]
    fn what_is_no_http_url_is_refused() {
        for (url, reason) in [
            ("cat.jpg", "no absolute URL"),
            ("ftp://a.test/cat.jpg", "scheme `ftp`"),
            ("http://", "no absolute URL"),
            ("http://me:secret@a.test/", "user name or password"),
        ] {
            let error = get_with(url, answer).unwrap_err();
            assert!(error.message().contains(reason), "{url}: {error}");
            assert!(!error.message().contains("secret"), "{error}");
        }
    }

    #[test]
    fn odd_characters_are_encoded_and_long_urls_cut() {
        let fetched = get_with("http://bücher.test/ä b?q=ü", answer).unwrap();
        assert_eq!(fetched.url, "http://xn--bcher-kva.test/%C3%A4%20b?q=%C3%BC");
        let error = get_with(&format!("x:{}", "ä".repeat(10_000)), answer).unwrap_err();
        assert!(error.message().len() < 1500, "{}", error.message().len());
    }
}
