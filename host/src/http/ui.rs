//! The web page, embedded in the binary.

use axum::http::header;
use axum::response::IntoResponse;

/// Only the page's own scripts and styles run; pictures may come from anywhere, since a prediction shows the one asked for.
const CONTENT_SECURITY_POLICY: &str =
    "default-src 'self'; img-src * data: blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

pub async fn page() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, include_str!("../../ui/index.html"))
}

pub async fn style() -> impl IntoResponse {
    asset("text/css; charset=utf-8", include_str!("../../ui/style.css"))
}

pub async fn script() -> impl IntoResponse {
    asset("text/javascript; charset=utf-8", include_str!("../../ui/app.js"))
}

fn asset(content_type: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache")], text)
}
