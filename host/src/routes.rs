//! Every route, and the order of what every request passes through.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::routing::{any, delete, get, post};
use tower::util::MapRequestLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::app::App;
use crate::error::{Error, ErrorCode, Result};
use crate::http::layers::{ReadPaths, ShareOrigins};
use crate::http::observe::Observe;
use crate::http::rpc::{Calls, Kind};
use crate::{grpc, http};

/// All that is served: REST, and gRPC beside it.
///
/// # Errors
/// An origin in the configuration that is none.
pub fn router(app: Arc<App>) -> Result<Router> {
    let calls = calls(&app)?.layer(Observe(app.clone()));
    Ok(rest(&app)?.merge(calls).with_state(app))
}

/// gRPC alone, for a port of its own.
///
/// # Errors
/// Descriptors that are none.
pub fn grpc_router(app: Arc<App>) -> Result<Router> {
    Ok(calls(&app)?.fallback(http::not_found).layer(Observe(app.clone())).with_state(app))
}

fn rest(app: &Arc<App>) -> Result<Router<Arc<App>>> {
    let cors = cors(&app.config.cors_allow_origins)?;
    let pause = app.config.limits.body_idle_timeout;
    let router = Router::new()
        .route("/", get(http::ui::page))
        .route("/ui/{file}", get(http::ui::asset))
        .route("/docs", get(http::ui::docs))
        .route("/openapi.json", get(http::openapi::document))
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
        .route("/models/{id}/engine", get(http::engine::show).put(http::engine::set).delete(http::engine::clear))
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
        .route("/v2/models", get(http::oip::models))
        .route("/v2/models/stats", get(http::oip::statistics))
        .route("/v2/models/{model}", get(http::oip::model))
        .route("/v2/models/{model}/ready", get(http::oip::model_ready))
        .route("/v2/models/{model}/infer", post(http::oip::infer))
        .route("/v2/models/{model}/config", get(http::oip::config))
        .route("/v2/models/{model}/stats", get(http::oip::statistics))
        .route("/v2/models/{model}/versions/{version}", get(http::oip::model))
        .route("/v2/models/{model}/versions/{version}/ready", get(http::oip::model_ready))
        .route("/v2/models/{model}/versions/{version}/infer", post(http::oip::infer))
        .route("/v2/models/{model}/versions/{version}/config", get(http::oip::config))
        .route("/v2/models/{model}/versions/{version}/stats", get(http::oip::statistics))
        .route("/v2/repository/index", post(http::oip::index))
        .route("/v2/repository/models/{model}/load", post(http::oip::load))
        .route("/v2/repository/models/{model}/unload", post(http::oip::unload))
        .route("/v2/models/{model}/trace/setting", any(http::oip::not_offered))
        .route("/v2/trace/setting", any(http::oip::not_offered))
        .route("/v2/logging", any(http::oip::not_offered))
        .route("/v2/systemsharedmemory/{*call}", any(http::oip::not_offered))
        .route("/v2/cudasharedmemory/{*call}", any(http::oip::not_offered))
        .route("/health", get(http::health::health))
        .route("/metrics", get(http::health::metrics))
        .fallback(http::not_found)
        .method_not_allowed_fallback(http::method_not_allowed)
        // The outermost first: what answers below, a refused method or a panic too, is counted, logged and gets its request
        // id. Together, for each layer by itself costs every request a box.
        .layer((
            Observe(app.clone()),
            ShareOrigins(Arc::new(cors)),
            ReadPaths,
            MapRequestLayer::new(move |mut request| {
                // Handlers cap their bodies themselves, each by its own option.
                DefaultBodyLimit::disable().apply(&mut request);
                http::body::watch(request, pause)
            }),
        ));
    Ok(router)
}

/// gRPC: each call by its own path, which is its name in metrics.
fn calls(app: &Arc<App>) -> Result<Router<Arc<App>>> {
    let (service, small) = (grpc::service(app.clone()), grpc::small_service(app.clone()));
    let infer = Router::new().route_service(grpc::INFER, service.clone());
    let load = Router::new().route_service(grpc::LOAD, service.clone()).route_service(grpc::UNLOAD, small.clone());
    let small = grpc::SMALL.into_iter().fold(Router::new(), |router, path| router.route_service(path, small.clone()));
    let health = grpc::health(app.clone());
    let stream = Router::new().route_service(grpc::STREAM, service);
    let others = Router::new()
        .route_service("/grpc.health.v1.Health/Check", health.clone())
        .route_service("/grpc.health.v1.Health/Watch", health)
        .route_service("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", grpc::reflection()?)
        .route_service("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", grpc::reflection_alpha()?);
    let of = |kind| Calls { app: app.clone(), kind };
    let calls = infer
        .layer(of(Kind::Prediction))
        .merge(load.layer(of(Kind::Upload)))
        .merge(small.layer(of(Kind::Small)))
        .merge(stream.merge(others).layer(of(Kind::Stream)));
    Ok(calls)
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
            header::CONTENT_ENCODING,
            header::CACHE_CONTROL,
            http::INFERENCE_HEADER_CONTENT_LENGTH,
            http::X_REQUEST_ID,
            http::X_PRIORITY,
            http::X_TIMEOUT_MS,
        ])
        .expose_headers([
            http::X_REQUEST_ID,
            http::INFERENCE_HEADER_CONTENT_LENGTH,
            HeaderName::from_static("x-cache"),
            HeaderName::from_static("server-timing"),
            HeaderName::from_static("x-bypassed"),
            HeaderName::from_static("x-model-id"),
            HeaderName::from_static("x-model-version"),
            header::RETRY_AFTER,
            header::ETAG,
        ]))
}
