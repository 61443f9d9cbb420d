//! Bind, serve, and end well: on SIGTERM the host says it is not ready, lets running requests end, and stops.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::app::App;
use crate::error::{Error, ErrorCode, Result};
use crate::routes;

/// Pause after a connection could not be accepted, as when the process has no file descriptor left: a loop without it
/// would only burn the processor that frees one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    let connections = Connections::new(&app)?;
    tracing::info!(address = %bound, models = app.models.registry.ready().len(), "listening");
    tokio::select! {
        () = connections.accept(listener) => {}
        () = asked_to_end => {}
    }
    app.begin_draining();
    connections.drain(app.config.limits.drain_timeout).await;
    Ok(())
}

/// The connections of this host, bounded in number, each bounded in the time it may take to ask something.
struct Connections {
    router: Router,
    builder: Builder<TokioExecutor>,
    /// Connections that may be open.
    places: Arc<Semaphore>,
    graceful: GracefulShutdown,
}

impl Connections {
    fn new(app: &Arc<App>) -> Result<Connections> {
        let limits = &app.config.limits;
        // While telling HTTP/2 from HTTP/1 the builder waits without a timeout, and nothing here speaks HTTP/2 yet.
        let mut builder = Builder::new(TokioExecutor::new()).http1_only();
        builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.idle_timeout);
        Ok(Connections {
            router: routes::router(app.clone())?,
            builder,
            places: Arc::new(Semaphore::new(limits.max_connections as usize)),
            graceful: GracefulShutdown::new(),
        })
    }

    /// Takes connections for as long as it is polled. Where all places are taken, clients wait in the listener's backlog.
    async fn accept(&self, listener: TcpListener) {
        while let Ok(place) = self.places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => self.serve(stream, place),
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve(&self, stream: TcpStream, place: OwnedSemaphorePermit) {
        // Answers are written whole, so waiting to fill a packet only adds latency.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was not set");
        }
        let service = TowerToHyperService::new(self.router.clone());
        let connection = self.builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = self.graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error, "a connection ended early");
            }
            drop(place);
        });
    }

    /// Lets running requests end, up to a limit.
    async fn drain(self, limit: Duration) {
        tracing::info!(limit_s = limit.as_secs_f64(), "draining: new connections are refused, running requests end");
        match tokio::time::timeout(limit, self.graceful.shutdown()).await {
            Ok(()) => tracing::info!("drained: every request ended"),
            Err(_) => tracing::warn!("drain timeout: requests still running are cut off (--drain-timeout)"),
        }
    }
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
