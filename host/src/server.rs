//! Bind, serve HTTP/1 and HTTP/2 on one port, and end well: on SIGTERM the host says it is not ready, lets running requests
//! end, and stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tower::Service;

use crate::app::App;
use crate::error::{Error, ErrorCode, Result};
use crate::http::answers::Answers;
use crate::routes;

/// Pause after a connection could not be accepted, as when the process has no file descriptor left: a loop without it
/// would only burn the processor that frees one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Between two looks at a connection that has sent a part of what HTTP/2 begins with.
const PREFACE_PAUSE: Duration = Duration::from_millis(20);
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests that one HTTP/2 connection may have in progress at once.
const MAX_STREAMS: u32 = 256;
/// Of the headers of a request over HTTP/2.
const MAX_HEADER_BYTES: u32 = 64 << 10;
/// Larger frames than the least that HTTP/2 asks for: a tensor comes in fewer pieces.
const MAX_FRAME_BYTES: u32 = 256 << 10;

/// Serves until asked to end, then drains.
///
/// # Errors
/// An address cannot be listened on.
pub async fn serve(app: Arc<App>, asked_to_end: impl Future<Output = ()>) -> Result<()> {
    let (listener, _) = listen(app.config.listen_address(), "--listen").await?;
    serve_on(listener, app, asked_to_end).await
}

/// As [`serve`], where the caller already listens for it.
///
/// # Errors
/// The address for gRPC alone cannot be listened on.
pub async fn serve_on(listener: TcpListener, app: Arc<App>, asked_to_end: impl Future<Output = ()>) -> Result<()> {
    let bound = listener.local_addr().map_err(Error::internal)?;
    let calls = match app.config.grpc_listen {
        Some(address) => Some((listen(address, "--grpc-listen").await?, routes::grpc_router(app.clone())?)),
        None => None,
    };
    let (connections, router) = (Connections::new(&app), routes::router(app.clone())?);
    tracing::info!(address = %bound, models = app.models.registry.ready().len(), "listening");
    let accept_calls = async {
        match calls {
            Some(((listener, bound), router)) => {
                tracing::info!(address = %bound, "listening for gRPC alone");
                connections.accept(listener, &router).await;
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = connections.accept(listener, &router) => {}
        () = accept_calls => {}
        () = asked_to_end => {}
    }
    app.begin_draining();
    connections.drain(app.config.limits.drain_timeout).await;
    Ok(())
}

async fn listen(address: SocketAddr, option: &str) -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        Error::new(ErrorCode::Internal, format!("cannot listen on {address}: {error}; choose another with {option}"))
    })?;
    let bound = listener.local_addr().map_err(Error::internal)?;
    Ok((listener, bound))
}

/// The connections of this host, bounded in number, each bounded in the time it may take to ask something.
struct Connections {
    app: Arc<App>,
    builder: Builder<TokioExecutor>,
    /// Connections that may be open.
    places: Arc<Semaphore>,
}

impl Connections {
    fn new(app: &Arc<App>) -> Connections {
        let limits = &app.config.limits;
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.idle_timeout);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADER_BYTES)
            .max_frame_size(MAX_FRAME_BYTES)
            // A client that is gone without a word is noticed, and its place given to another.
            .keep_alive_interval(limits.idle_timeout)
            .keep_alive_timeout(limits.idle_timeout);
        Connections { app: app.clone(), builder, places: Arc::new(Semaphore::new(limits.max_connections as usize)) }
    }

    /// Takes connections for as long as it is polled. Where all places are taken, one client waits for the next, and the others
    /// in the listener's backlog.
    async fn accept(&self, listener: TcpListener, router: &Router) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Only now: a port that nobody asks would keep a place from the other. Places are never closed.
                    let Ok(place) = self.places.clone().acquire_owned().await else { return };
                    self.serve(stream, router.clone(), place);
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve(&self, stream: TcpStream, router: Router, place: OwnedSemaphorePermit) {
        // Answers are written whole, so waiting to fill a packet only adds latency.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was not set");
        }
        let (app, builder) = (self.app.clone(), self.builder.clone());
        tokio::spawn(async move {
            let limit = app.config.limits.idle_timeout;
            let has_begun = tokio::select! {
                biased;
                begun = tokio::time::timeout(limit, begins(&stream)) => matches!(begun, Ok(Ok(()))),
                // It has asked nothing yet.
                () = app.drains() => false,
            };
            if has_begun && let Err(error) = converse(&app, &builder, stream, router).await {
                tracing::debug!(error, "a connection ended early");
            }
            drop(place);
        });
    }

    /// Lets running requests end, up to a limit.
    async fn drain(self, limit: Duration) {
        tracing::info!(limit_s = limit.as_secs_f64(), "draining: new connections are refused, running requests end");
        // All places are free when the last connection has ended.
        let ended = self.places.acquire_many(self.app.config.limits.max_connections);
        match tokio::time::timeout(limit, ended).await {
            Ok(_) => tracing::info!("drained: every request ended"),
            Err(_) => tracing::warn!("drain timeout: requests still running are cut off (--drain-timeout)"),
        }
    }
}

/// Answers a connection's requests, until its client closes it, has asked nothing for too long, or the host drains. Then those
/// under way end, streams too, and no more are taken.
async fn converse(
    app: &App,
    builder: &Builder<TokioExecutor>,
    stream: TcpStream,
    router: Router,
) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let limits = &app.config.limits;
    let asked = Asked { router, began: Instant::now(), last: Arc::default(), answers: Arc::default() };
    let graceful = GracefulShutdown::new();
    let service = TowerToHyperService::new(asked.clone());
    let mut stream = TimeoutStream::new(stream);
    // A client that takes nothing of its answer would keep its connection, and what is left of the answer, for ever.
    stream.set_write_timeout(Some(limits.body_idle_timeout));
    let stream = TokioIo::new(Box::pin(stream));
    let mut connection = std::pin::pin!(graceful.watch(builder.serve_connection(stream, service)));
    let mut are_left = std::pin::pin!(asked.answers.are_left(limits.body_idle_timeout));
    tokio::select! {
        ended = &mut connection => return ended,
        () = &mut are_left => return Err(NOT_TAKEN.into()),
        // Pings alone keep no place: over HTTP/1 the time for a request's head bounds the same.
        () = asked.is_idle(limits.idle_timeout) => {}
        () = app.drains() => {}
    }
    tokio::select! {
        ended = &mut connection => ended,
        () = &mut are_left => Err(NOT_TAKEN.into()),
        // Asks the connection to end, and ends no sooner than it is dropped.
        () = graceful.shutdown() => Ok(()),
    }
}

const NOT_TAKEN: &str = "its client took nothing of an answer for as long as it may (--body-idle-timeout)";

/// The router, when it was last asked something, and what it answered over HTTP/2.
#[derive(Clone)]
struct Asked {
    router: Router,
    began: Instant,
    /// Milliseconds after the beginning.
    last: Arc<AtomicU64>,
    answers: Arc<Answers>,
}

impl Asked {
    fn milliseconds(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Resolves when nothing was asked for so long.
    async fn is_idle(&self, limit: Duration) {
        loop {
            let quiet = Duration::from_millis(self.milliseconds().saturating_sub(self.last.load(Ordering::Relaxed)));
            match limit.checked_sub(quiet).filter(|left| !left.is_zero()) {
                Some(left) => tokio::time::sleep(left).await,
                None => return,
            }
        }
    }
}

impl<B> Service<Request<B>> for Asked
where
    Router: Service<Request<B>>,
{
    type Response = <Router as Service<Request<B>>>::Response;
    type Error = <Router as Service<Request<B>>>::Error;
    type Future = <Router as Service<Request<B>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        self.router.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        self.last.store(self.milliseconds(), Ordering::Relaxed);
        if request.version() == Version::HTTP_2 {
            request.extensions_mut().insert(Arc::clone(&self.answers));
        }
        self.router.call(request)
    }
}

/// Resolves when a connection has sent enough to tell HTTP/2 from HTTP/1, for which the builder would wait without a limit.
async fn begins(stream: &TcpStream) -> std::io::Result<()> {
    let mut first = [0; HTTP2_PREFACE.len()];
    loop {
        let length = stream.peek(&mut first).await?;
        if length == 0 || length == first.len() || first[..length] != HTTP2_PREFACE[..length] {
            return Ok(());
        }
        // What is there already makes the stream readable at once, so there is nothing to wait for but time.
        tokio::time::sleep(PREFACE_PAUSE).await;
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
