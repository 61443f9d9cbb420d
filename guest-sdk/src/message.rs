//! What the client sent and what it gets.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// A client's request, undecoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// The body's media type, "application/json" for a JSON prediction request.
    pub content_type: String,
    pub body: Vec<u8>,
    /// Query parameters and form fields, in the order sent.
    pub parameters: Vec<(String, String)>,
}

impl Request {
    /// A request without parameters, for [`crate::Plugin::golden`] and for tests.
    pub fn new(content_type: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Request { content_type: content_type.into(), body: body.into(), parameters: Vec::new() }
    }

    /// The media type in lower case, without "; charset=…" and the like.
    pub fn media_type(&self) -> String {
        let end = self.content_type.find(';').unwrap_or(self.content_type.len());
        self.content_type[..end].trim().to_ascii_lowercase()
    }

    /// The parameter of that name; the last one where it was sent more than once.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON. The error is the client's and names the field that does not fit.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        from_json(&self.body).map_err(|reason| Error::invalid_input(format!("the request body does not fit: {reason}")))
    }
}

/// A plugin's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub content_type: String,
    pub body: Vec<u8>,
}

impl Response {
    /// A JSON answer. The host merges an object into its own answer.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, Error> {
        let body =
            serde_json::to_vec(value).map_err(|error| Error::plugin(format!("the answer is no JSON: {error}")))?;
        Ok(Response::new("application/json", body))
    }

    /// An answer of any media type; the host sends it as it is.
    pub fn new(content_type: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Response { content_type: content_type.into(), body: body.into() }
    }
}

/// Parses JSON; an error says which field it is about, which serde_json's own does not always.
pub(crate) fn from_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value =
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| match error.path().to_string() {
            path if path == "." => error.inner().to_string(),
            path => format!("`{path}`: {}", error.inner()),
        })?;
    deserializer.end().map_err(|error| error.to_string())?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_parameter_of_a_name_counts() {
        let pairs = [("k", "1"), ("k", "2")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let request = Request { parameters: pairs.to_vec(), ..Request::default() };
        assert_eq!(request.parameter("k"), Some("2"));
        assert_eq!(request.parameter("absent"), None);
    }

    #[test]
    fn a_media_type_loses_its_parameters() {
        let request = Request::new("Application/JSON; charset=utf-8", "");
        assert_eq!(request.media_type(), "application/json");
    }

    #[test]
    fn an_error_names_the_field() {
        #[derive(Debug, serde::Deserialize)]
        struct Body {
            #[allow(dead_code)]
            sizes: Vec<u32>,
        }
        let request = Request::new("application/json", r#"{"sizes": [1, "two"]}"#);
        let error = request.json::<Body>().unwrap_err();
        assert_eq!(error.code(), "invalid-input");
        assert!(error.message().contains("`sizes[1]`"), "{error}");
        assert!(from_json::<u32>(b"1 trailing").is_err());
    }
}
