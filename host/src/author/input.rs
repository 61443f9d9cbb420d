//! What an author gives on the command line: requests, configurations, labels, from a file, standard input or in place.

use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::{Map, Value};

use super::read;
use crate::http::pipeline::read_pipeline;
use crate::model::{Pipeline, StageBinding, parse_labels};
use crate::plugin::Request;

const OCTETS: &str = "application/octet-stream";

/// Media types by a file's extension, of what plugins are likely to be given.
const MEDIA_TYPES: [(&str, &str); 18] = [
    ("bmp", "image/bmp"),
    ("csv", "text/csv"),
    ("flac", "audio/flac"),
    ("gif", "image/gif"),
    ("html", "text/html"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("json", "application/json"),
    ("md", "text/markdown"),
    ("mp3", "audio/mpeg"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("tif", "image/tiff"),
    ("tiff", "image/tiff"),
    ("txt", "text/plain"),
    ("wav", "audio/wav"),
    ("webp", "image/webp"),
    ("xml", "application/xml"),
];

/// Reads `--input`: a file, `-` for standard input, or JSON itself.
pub(super) async fn request(
    input: &str,
    content_type: Option<&str>,
    parameters: &[(String, String)],
) -> Result<Request, String> {
    let (guessed, body) = if is_json(input.as_bytes()) {
        ("application/json", Bytes::copy_from_slice(input.as_bytes()))
    } else if input == "-" {
        let body = tokio::task::spawn_blocking(standard_input).await.map_err(|error| error.to_string())??;
        (if is_json(&body) { "application/json" } else { OCTETS }, body)
    } else {
        (media_type(Path::new(input)), read(&PathBuf::from(input)).await?)
    };
    let content_type = content_type.unwrap_or(guessed).to_owned();
    Ok(Request { content_type, body, parameters: parameters.to_vec() })
}

fn standard_input() -> Result<Bytes, String> {
    let mut body = Vec::new();
    std::io::stdin().read_to_end(&mut body).map_err(|error| format!("cannot read standard input: {error}"))?;
    Ok(body.into())
}

fn is_json(text: &[u8]) -> bool {
    matches!(text.trim_ascii_start().first(), Some(b'{' | b'['))
}

fn media_type(file: &Path) -> &'static str {
    let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_ascii_lowercase();
    MEDIA_TYPES.iter().find(|(known, _)| *known == extension).map_or(OCTETS, |(_, media_type)| media_type)
}

/// Reads `--config`: a file, or JSON itself.
pub(super) async fn config(config: Option<&str>) -> Result<Map<String, Value>, String> {
    let Some(config) = config else { return Ok(Map::new()) };
    let json = match is_json(config.as_bytes()) {
        true => Bytes::copy_from_slice(config.as_bytes()),
        false => read(&PathBuf::from(config)).await?,
    };
    let object = serde_json::from_slice(&json);
    object.map_err(|error| format!("--config is not readable: {error}; expected a JSON object, or a file of one"))
}

/// A stage as a pipeline over HTTP would have it, and refused where that would be.
pub(super) fn stage(plugin: &str, config: &Map<String, Value>) -> crate::error::Result<StageBinding> {
    let json = serde_json::json!({ "preprocess": { "plugin": plugin, "config": config } });
    let Pipeline { preprocess, .. } = read_pipeline(json.to_string().as_bytes())?;
    preprocess.ok_or_else(|| crate::error::Error::internal("a pipeline lost its stage"))
}

/// Reads `--labels`, a file as an upload has it.
pub(super) async fn labels(file: Option<&PathBuf>) -> Result<Vec<String>, String> {
    match file {
        Some(file) => parse_labels(&read(file).await?).map_err(|error| error.message),
        None => Ok(Vec::new()),
    }
}

/// Reads `--parameter name=value`.
pub(super) fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_files_extension_tells_its_media_type() {
        for (file, expected) in
            [("a/b.JPG", "image/jpeg"), ("flower.json", "application/json"), ("x.bin", OCTETS), ("Makefile", OCTETS)]
        {
            assert_eq!(media_type(Path::new(file)), expected, "{file}");
        }
    }

    #[tokio::test]
    async fn json_in_place_is_taken_as_it_stands() {
        let parameters = [parameter("k=a=b").unwrap()];
        let taken = request(" {\"x\": 1 ", None, &parameters).await.unwrap();
        assert_eq!((taken.content_type.as_str(), &taken.body[..]), ("application/json", &b" {\"x\": 1 "[..]));
        assert_eq!(taken.parameters, [("k".to_owned(), "a=b".to_owned())]);
        assert_eq!(request("[1]", Some("text/csv"), &[]).await.unwrap().content_type, "text/csv");
        assert!(request("no/such.file", None, &[]).await.unwrap_err().contains("no/such.file"));
        assert!(parameter("k").is_err());
    }

    #[tokio::test]
    async fn a_configuration_is_an_object_that_a_pipeline_takes() {
        assert_eq!(config(None).await.unwrap(), Map::new());
        assert!(config(Some("[1]")).await.unwrap_err().contains("expected a JSON object"));
        let with_null = config(Some(r#"{"a": {"b": null}}"#)).await.unwrap();
        assert!(stage("x@1", &with_null).unwrap_err().message.contains("a.b is null"));
    }
}
