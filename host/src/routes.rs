//! Every route, and the order of what every request passes through.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{from_fn_with_state, map_request};
use axum::routing::{delete, get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::timeout::RequestBodyTimeoutLayer;

use crate::app::App;
use crate::error::{Error, ErrorCode, Result};
use crate::http;

/// The whole REST surface.
///
/// # Errors
/// An origin in the configuration that is none.
pub fn router(app: Arc<App>) -> Result<Router> {
    let cors = cors(&app.config.cors_allow_origins)?;
    let router = Router::new()
        .route("/", get(http::ui::page))
        .route("/ui/{file}", get(http::ui::asset))
        .route("/predict", post(http::predict::predict))
        .route("/upload", post(http::upload::upload_image_model))
        .route("/models", get(http::models::list))
        .route("/models/info", get(http::models::show))
        .route("/models/upload", post(http::upload::upload_model))
        .route("/models/{id}/versions/{version}/files", get(http::files::list))
        .route("/models/{id}/versions/{version}/files/{*path}", get(http::files::download))
        .route(
            "/models/{id}/pipeline",
            get(http::pipeline::show).put(http::pipeline::bind).delete(http::pipeline::unbind),
        )
        .route("/models/{id}/batch", post(http::batch::batch))
        .route("/models/{id}", delete(http::versions::remove_model))
        .route("/models/{id}/versions/{version}", delete(http::versions::remove))
        .route("/models/{id}/versions/{version}/load", post(http::versions::load))
        .route("/models/{id}/versions/{version}/unload", post(http::versions::unload))
        .route("/models/{id}/traffic", get(http::traffic::show).put(http::traffic::set).delete(http::traffic::clear))
        .route("/models/{id}/traffic/rollback", post(http::traffic::roll_back))
        .route("/plugins", get(http::plugins::list).delete(http::plugins::remove))
        .route("/plugins/info", get(http::plugins::show))
        .route("/plugins/upload", post(http::plugins::upload))
        .route("/v2", get(http::oip::server))
        .route("/v2/health/live", get(http::oip::live))
        .route("/v2/health/ready", get(http::oip::ready))
        .route("/v2/models/{model}", get(http::oip::model))
        .route("/v2/models/{model}/ready", get(http::oip::model_ready))
        .route("/v2/models/{model}/infer", post(http::oip::infer))
        .route("/v2/models/{model}/versions/{version}", get(http::oip::model))
        .route("/v2/models/{model}/versions/{version}/ready", get(http::oip::model_ready))
        .route("/v2/models/{model}/versions/{version}/infer", post(http::oip::infer))
        .route("/health", get(http::health::health))
        .route("/metrics", get(http::health::metrics))
        .fallback(http::not_found)
        .method_not_allowed_fallback(http::method_not_allowed)
        // Handlers cap their bodies themselves, each by its own option.
        .layer(DefaultBodyLimit::disable())
        // A client that stops sending does not hold its place for ever.
        .layer(RequestBodyTimeoutLayer::new(app.config.limits.body_idle_timeout))
        // A client that is refused amid sending gets to read why.
        .layer(map_request(http::linger::linger))
        .layer(CatchPanicLayer::custom(http::panicked))
        .layer(cors)
        // Outermost: what answers below, a refused method or a panic too, is counted, logged and gets its request id.
        .layer(from_fn_with_state(app.clone(), http::observe));
    Ok(router.with_state(app))
}

fn cors(origins: &[String]) -> Result<CorsLayer> {
    let origins = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        let values = origins.iter().map(|origin| {
            HeaderValue::from_str(origin).map_err(|_| {
                Error::new(ErrorCode::Internal, format!("--cors-allow-origin: {origin:?} is not an origin"))
            })
        });
        AllowOrigin::list(values.collect::<Result<Vec<_>>>()?)
    };
    Ok(CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([
            header::CONTENT_TYPE,
            header::CACHE_CONTROL,
            http::X_REQUEST_ID,
            http::X_PRIORITY,
            http::X_TIMEOUT_MS,
        ])
        .expose_headers([
            http::X_REQUEST_ID,
            HeaderName::from_static("inference-header-content-length"),
            HeaderName::from_static("x-cache"),
            HeaderName::from_static("server-timing"),
            HeaderName::from_static("x-bypassed"),
            HeaderName::from_static("x-model-id"),
            HeaderName::from_static("x-model-version"),
            header::RETRY_AFTER,
            header::ETAG,
        ]))
}
