//! The web console and the page of the REST interface, embedded in the binary.

use axum::extract::Path;
use axum::http::header;
use axum::response::IntoResponse;

use crate::error::{Error, Result};

/// Only the page's own scripts and styles run; pictures may come from anywhere, since a prediction shows the one asked for.
const CONTENT_SECURITY_POLICY: &str =
    "default-src 'self'; img-src * data: blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// What the pages load from `/ui/`: name, media type, text.
const ASSETS: [(&str, &str, &str); 12] = [
    ("style.css", CSS, include_str!("../../ui/style.css")),
    ("answer.js", JAVASCRIPT, include_str!("../../ui/answer.js")),
    ("app.js", JAVASCRIPT, include_str!("../../ui/app.js")),
    ("common.js", JAVASCRIPT, include_str!("../../ui/common.js")),
    ("docs.css", CSS, include_str!("../../ui/docs.css")),
    ("docs.js", JAVASCRIPT, include_str!("../../ui/docs.js")),
    ("health.js", JAVASCRIPT, include_str!("../../ui/health.js")),
    ("models.js", JAVASCRIPT, include_str!("../../ui/models.js")),
    ("pipeline.js", JAVASCRIPT, include_str!("../../ui/pipeline.js")),
    ("plugins.js", JAVASCRIPT, include_str!("../../ui/plugins.js")),
    ("traffic.js", JAVASCRIPT, include_str!("../../ui/traffic.js")),
    ("versions.js", JAVASCRIPT, include_str!("../../ui/versions.js")),
];

/// The web console.
pub async fn page() -> impl IntoResponse {
    html(include_str!("../../ui/index.html"))
}

/// `/openapi.json` as a page.
pub async fn docs() -> impl IntoResponse {
    html(include_str!("../../ui/docs.html"))
}

fn html(text: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text)
}

pub async fn asset(Path(name): Path<String>) -> Result<impl IntoResponse> {
    let found = ASSETS.iter().find(|(known, ..)| *known == name);
    let (_, content_type, text) = *found
        .ok_or_else(|| Error::not_found(format!("there is nothing at /ui/{name}; see the README for what there is")))?;
    Ok(([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache")], text))
}
