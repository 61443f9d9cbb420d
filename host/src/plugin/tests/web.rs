//! Servers for plugins to fetch from, on free ports of 127.0.0.1, and plugins that fetch.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// An HTTP server on a free port of 127.0.0.1 that reads each request's head and lets `answer` write what it likes.
pub(super) async fn server<F>(answer: impl Fn(String, TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            tokio::spawn(answer(String::from_utf8(head).unwrap(), stream));
        }
    });
    address
}

pub(super) async fn write(mut stream: TcpStream, answer: String) {
    // A client that had enough closes the connection.
    drop(stream.write_all(answer.as_bytes()).await);
}

pub(super) async fn answering(answer: String) -> SocketAddr {
    server(move |_, stream| write(stream, answer.clone())).await
}

pub(super) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

/// A server that nobody may reach: who connects is counted.
pub(super) async fn forbidden_ground() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            write(stream, ok("secret")).await;
        }
    });
    (address, count)
}

/// Fetches and reports in the answer how it went.
pub(super) async fn fetched(plugin: &Arc<Plugin>, url: &str) -> serde_json::Value {
    serve_json(plugin, r#"{"do": "fetch"}"#, &format!(r#"{{"url": "{url}"}}"#)).await["fetch"].clone()
}

/// Fetches and fails afterwards, as plugins do that cannot go on without.
pub(super) async fn failing_fetch(plugin: &Arc<Plugin>, url: &str) -> Error {
    let body = format!(r#"{{"url": "{url}", "x": "not four numbers"}}"#);
    serve(plugin, r#"{"do": "fetch"}"#, &body).await.unwrap_err()
}

/// Sends a URL as it stands, and reports in the answer how it went.
pub(super) async fn fetched_raw(plugin: &Arc<Plugin>, url: &str) -> serde_json::Value {
    serve_json(plugin, r#"{"do": "fetch-raw"}"#, &format!(r#"{{"url": "{url}"}}"#)).await["fetch"].clone()
}
