//! `GET /openapi.json`: the whole REST surface as an OpenAPI 3.1 document. It is written by hand, in parts beside this file,
//! and is what the handlers are held to: a test compares it with the routes, runs its examples and checks answers against it.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::IntoResponse;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// What all parts share, then the parts: each has `paths` and the `schemas` that they use.
const BASE: &str = include_str!("openapi/base.json");
const PARTS: [&str; 6] = [
    include_str!("openapi/predict.json"),
    include_str!("openapi/oip.json"),
    include_str!("openapi/models.json"),
    include_str!("openapi/versions.json"),
    include_str!("openapi/plugins.json"),
    include_str!("openapi/host.json"),
];

static DOCUMENT: LazyLock<std::result::Result<Bytes, String>> =
    LazyLock::new(|| serde_json::to_vec(&join()?).map(Bytes::from).map_err(|error| error.to_string()));

/// # Errors
/// A part that is not JSON, which a test keeps from happening.
pub async fn document() -> Result<impl IntoResponse> {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")];
    DOCUMENT.as_ref().map(|document| (headers, document.clone())).map_err(Error::internal)
}

fn join() -> std::result::Result<Value, String> {
    let mut document = parse(BASE)?;
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for part in PARTS {
        let mut part = parse(part)?;
        take(&mut part, "paths", &mut paths)?;
        take(&mut part, "schemas", &mut schemas)?;
    }
    paths.values_mut().for_each(complete);
    add_request_ids(&mut document["components"]["responses"]);
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    document["paths"] = Value::Object(paths);
    let mut shared = std::mem::take(&mut document["components"]["schemas"]);
    if let Some(shared) = shared.as_object_mut() {
        schemas.append(shared);
    }
    document["components"]["schemas"] = Value::Object(schemas);
    Ok(document)
}

fn parse(text: &str) -> std::result::Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("a part of the OpenAPI document: {error}"))
}

/// Moves a part's entries to the others.
fn take(part: &mut Value, name: &str, to: &mut Map<String, Value>) -> std::result::Result<(), String> {
    let Value::Object(entries) = part[name].take() else { return Ok(()) };
    for (key, entry) in entries {
        if to.insert(key.clone(), entry).is_some() {
            return Err(format!("two parts of the OpenAPI document have {key}"));
        }
    }
    Ok(())
}

/// Adds what is true of every operation: a request may bring its id, every answer has it, and a fault of the host's own is a 500.
fn complete(path: &mut Value) {
    for operation in path.as_object_mut().into_iter().flat_map(Map::values_mut) {
        operation["responses"]["500"] = json!({ "$ref": "#/components/responses/Internal" });
        add_request_ids(&mut operation["responses"]);
    }
    path["parameters"] = json!([{ "$ref": "#/components/parameters/RequestId" }]);
}

fn add_request_ids(responses: &mut Value) {
    let responses = responses.as_object_mut().into_iter().flat_map(Map::values_mut);
    for response in responses.filter(|response| response.get("$ref").is_none()) {
        response["headers"]["X-Request-ID"] = json!({ "$ref": "#/components/headers/RequestId" });
    }
}
