//! Where the image file is: in the request body, behind a URL, or inside a data: URL.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use nexus_guest::{Error, Request, http};
use serde::Deserialize;
use serde_json::Value;

use crate::config::Config;

/// AVIF is left out: servers that offer it send it to whoever accepts "image/*".
const ACCEPT: &str = "image/jpeg,image/png,image/webp,image/gif,image/bmp;q=0.9,*/*;q=0.1";

/// An image file and what the request says about it.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    pub(crate) image: Cow<'a, [u8]>,
    /// The file's name in messages: "the request body (image/png)".
    pub(crate) origin: String,
    pub(crate) top_k: Option<usize>,
}

/// The fields of a JSON request this plugin reads; the host's own are there too.
#[derive(Deserialize)]
struct Body {
    image_url: Option<Value>,
    top_k: Option<Value>,
}

impl<'a> Source<'a> {
    /// Finds, and if need be fetches, the image file of a request.
    pub(crate) fn of(request: &'a Request, config: &Config) -> Result<Self, Error> {
        let top_k = request.parameter("top_k").map(|text| parse_top_k(text.trim().parse().ok(), text)).transpose()?;
        let media_type = request.media_type();
        let source = match media_type.as_str() {
            "application/json" => Source::of_json(&request.json()?, top_k, config)?,
            "" | "application/octet-stream" => Source::of_body(request, top_k),
            image if image.starts_with("image/") => Source::of_body(request, top_k),
            other => {
                return Err(Error::invalid_input(format!(
                    "content type `{other}` is not supported: send JSON with an `image_url` as application/json, or the \
                     image file itself as image/* or application/octet-stream"
                )));
            }
        };
        let (size, limit) = (source.image.len(), config.max_image_bytes);
        if size > limit {
            return Err(Error::invalid_input(format!("{} has {size} bytes, over the limit of {limit}", source.origin)));
        }
        Ok(source)
    }

    fn of_body(request: &'a Request, top_k: Option<usize>) -> Self {
        let origin = match request.content_type.as_str() {
            "" => "the request body".to_owned(),
            content_type => format!("the request body ({content_type})"),
        };
        Source { image: Cow::Borrowed(&request.body), origin, top_k }
    }

    fn of_json(body: &Body, top_k: Option<usize>, config: &Config) -> Result<Self, Error> {
        let top_k = match &body.top_k {
            None => top_k,
            Some(value) => Some(parse_top_k(value.as_u64(), &value.to_string())?),
        };
        let url = match &body.image_url {
            Some(Value::String(url)) => url.trim(),
            Some(other) => return Err(Error::invalid_input(format!("`image_url` has to be a string, not {other}"))),
            None => {
                return Err(Error::invalid_input(
                    "`image_url` is missing: send {\"image_url\": \"https://…\"} or a data: URL, or the image file itself \
                     as image/*",
                ));
            }
        };
        let (image, origin) = match data_url(url) {
            Some(rest) => (decode_data_url(rest, config.max_image_bytes)?, "the data: URL".to_owned()),
            None => fetch(url, config.max_image_bytes)?,
        };
        Ok(Source { image: Cow::Owned(image), origin, top_k })
    }
}

fn parse_top_k(number: Option<u64>, sent: &str) -> Result<usize, Error> {
    match number {
        // As many classes as there are, at most: a number beyond usize means all of them.
        Some(number @ 1..) => Ok(usize::try_from(number).unwrap_or(usize::MAX)),
        _ => Err(Error::invalid_input(format!("`top_k` has to be a whole number from 1, not {sent}"))),
    }
}

fn fetch(url: &str, max_bytes: usize) -> Result<(Vec<u8>, String), Error> {
    // The client chose the URL: whatever comes of it is for the client to read and mend.
    let answer = http::get(url, max_bytes, ACCEPT).map_err(|error| Error::invalid_input(error.message()))?;
    let shown: String = url.chars().take(200).collect();
    if answer.status != 200 {
        return Err(Error::invalid_input(format!("{shown} answered {}", answer.status)));
    }
    let origin = match answer.content_type {
        Some(content_type) => format!("what {shown} answered ({content_type})"),
        None => format!("what {shown} answered"),
    };
    Ok((answer.body, origin))
}

/// What follows "data:", if this is such a URL.
fn data_url(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once(':')?;
    scheme.eq_ignore_ascii_case("data").then_some(rest)
}

/// RFC 2397: `[mediatype][;base64],data`. Base64 of either alphabet, padded or not.
fn decode_data_url(rest: &str, max_bytes: usize) -> Result<Vec<u8>, Error> {
    let (meta, data) = rest
        .split_once(',')
        .ok_or_else(|| Error::invalid_input("the data: URL has no comma: expected data:image/png;base64,…"))?;
    if data.len() / 4 > max_bytes {
        return Err(Error::invalid_input(format!("the data: URL holds more than the limit of {max_bytes} bytes")));
    }
    let mut bytes: Cow<'_, [u8]> = percent_encoding::percent_decode_str(data).into();
    let is_base64 = meta.rsplit(';').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("base64"));
    if !is_base64 {
        return Ok(bytes.into_owned());
    }
    if bytes.iter().any(u8::is_ascii_whitespace) {
        bytes.to_mut().retain(|byte| !byte.is_ascii_whitespace());
    }
    let url_safe = bytes.iter().any(|byte| matches!(byte, b'-' | b'_'));
    let alphabet = if url_safe { alphabet::URL_SAFE } else { alphabet::STANDARD };
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&alphabet, lenient)
        .decode(&bytes)
        .map_err(|error| Error::invalid_input(format!("the data: URL is no base64: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(body: &str) -> Request {
        Request { content_type: "application/json".into(), body: body.as_bytes().to_vec(), ..Request::default() }
    }

    fn source(request: &Request) -> Source<'_> {
        Source::of(request, &Config::default()).unwrap()
    }

    fn refusal(request: &Request) -> String {
        let error = Source::of(request, &Config::default()).unwrap_err();
        assert_eq!(error.code(), "invalid-input");
        error.message().to_owned()
    }

    #[test]
    fn data_urls_come_in_many_spellings() {
        for url in [
            "data:image/png;base64,aGn7/w==",
            "DATA:;BASE64,aGn7/w",
            "data:image/png;charset=x;base64,aGn7_w",
            "data:;base64,aGn7%2Fw%3D%3D",
            "data:;base64, aGn7 /w==\\n",
            "data:,hi%FB%FF",
        ] {
            let request = json(&format!(r#"{{"image_url": "{url}"}}"#));
            assert_eq!(source(&request).image.as_ref(), b"hi\xfb\xff", "{url}");
        }
    }

    #[test]
    fn broken_requests_say_what_was_expected() {
        for (body, expected) in [
            ("{}", "`image_url` is missing"),
            (r#"{"image_url": null}"#, "`image_url` is missing"),
            (r#"{"image_url": 7}"#, "has to be a string, not 7"),
            (r#"{"image_url": "data:image/png;base64"}"#, "no comma"),
            (r#"{"image_url": "data:image/png;base64,a*b"}"#, "no base64"),
            (r#"{"image_url": "cat.jpg"}"#, "no absolute URL"),
            (r#"{"image_url": "file:///etc/passwd"}"#, "scheme `file`"),
            (r#"{"image_url": "data:,x", "top_k": 0}"#, "`top_k` has to be a whole number from 1, not 0"),
            (r#"{"image_url": "data:,x", "top_k": "3"}"#, "not \"3\""),
            (r#"{"image_url": "data:,x", "top_k": -1}"#, "not -1"),
            ("not json", "does not fit"),
        ] {
            let message = refusal(&json(body));
            assert!(message.contains(expected), "{body}: {message}");
        }
    }

    #[test]
    fn another_content_type_is_refused() {
        let request = Request { content_type: "text/csv".into(), ..Request::default() };
        assert!(refusal(&request).contains("content type `text/csv` is not supported"));
    }

    #[test]
    fn top_k_comes_from_the_body_or_the_parameters() {
        assert_eq!(source(&json(r#"{"image_url": "data:,x", "top_k": 3, "model_id": "m"}"#)).top_k, Some(3));
        let file = |top_k: &str| Request {
            content_type: "image/png".into(),
            parameters: vec![("top_k".into(), top_k.into())],
            ..Request::default()
        };
        assert_eq!(source(&file("2")).top_k, Some(2));
        for wrong in ["0", "x", "", "-1", "1.5"] {
            assert!(refusal(&file(wrong)).contains("`top_k`"), "{wrong}");
        }
    }

    #[test]
    fn large_files_are_refused() {
        let config = Config { max_image_bytes: 3, ..Config::default() };
        let body = Request { content_type: "image/png".into(), body: vec![0; 4], ..Request::default() };
        for request in
            [json(r#"{"image_url": "data:,four"}"#), body, json(r#"{"image_url": "data:,sixteen-and-more"}"#)]
        {
            let error = Source::of(&request, &config).unwrap_err();
            assert!(error.message().contains("limit of 3"), "{error}");
        }
    }
}
