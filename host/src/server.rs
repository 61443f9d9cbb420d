//! Bind, serve, and end well: on SIGTERM the host says it is not ready, lets running requests end, and stops.

use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::app::App;
use crate::error::{Error, ErrorCode, Result};
use crate::routes;

/// Serves until asked to end, then drains.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve(app: Arc<App>, asked_to_end: impl Future<Output = ()>) -> Result<()> {
    let address = app.config.listen_address();
    let listener = TcpListener::bind(address).await.map_err(|error| {
        Error::new(ErrorCode::Internal, format!("cannot listen on {address}: {error}; choose another with --listen"))
    })?;
    let bound = listener.local_addr().map_err(Error::internal)?;
    // Answers are written whole, so waiting to fill a packet only adds latency.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was not set");
        }
    });
    tracing::info!(address = %bound, models = app.models.registry.list().len(), "listening");
    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, routes::router(app.clone())?).with_graceful_shutdown(async move {
        // An error means that the sender is gone, which is a stop as well.
        stopped.await.unwrap_or_default();
    });
    let mut server = tokio::spawn(server.into_future());
    tokio::select! {
        ended = &mut server => return ended.map_err(Error::internal)?.map_err(Error::internal),
        () = asked_to_end => {}
    }
    app.begin_draining();
    if stop.send(()).is_err() {
        tracing::warn!("the server ended before it was asked to");
    }
    drain(server, app.config.limits.drain_timeout).await
}

async fn drain(server: tokio::task::JoinHandle<std::io::Result<()>>, limit: Duration) -> Result<()> {
    tracing::info!(limit_s = limit.as_secs_f64(), "draining: new connections are refused, running requests end");
    match tokio::time::timeout(limit, server).await {
        Ok(ended) => {
            ended.map_err(Error::internal)?.map_err(Error::internal)?;
            tracing::info!("drained: every request ended");
        }
        Err(_) => tracing::warn!("drain timeout: requests still running are cut off (--drain-timeout)"),
    }
    Ok(())
}

/// Resolves at SIGTERM or SIGINT. From the call on, neither ends the process by itself.
///
/// # Errors
/// The handlers cannot be installed.
pub fn asked_to_end() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::internal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::internal)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
