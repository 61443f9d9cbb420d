//! A web server of pictures, good and bad, on a free port of this machine.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use tokio::net::TcpListener;

use crate::support::fixture;

/// A running server; it counts what it is asked.
pub struct Pictures {
    pub address: String,
    pub asked: Arc<AtomicUsize>,
}

impl Pictures {
    pub async fn serve() -> Pictures {
        let asked = Arc::new(AtomicUsize::new(0));
        let router = Router::new().route("/{name}", get(picture)).with_state(asked.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Pictures { address, asked }
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    pub fn count(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn picture(State(asked): State<Arc<AtomicUsize>>, Path(name): Path<String>) -> Response {
    asked.fetch_add(1, Ordering::Relaxed);
    match name.as_str() {
        "gone.jpg" => StatusCode::GONE.into_response(),
        "page.html" => ([(header::CONTENT_TYPE, "text/html")], "<!doctype html><title>Cats</title>").into_response(),
        // It would take 10 GB to the end of it.
        "endless.jpg" => {
            let zeros = Bytes::from(vec![0u8; 1 << 20]);
            let chunks = stream::iter((0..10_240).map(move |_| Ok::<_, std::io::Error>(zeros.clone())));
            ([(header::CONTENT_TYPE, "image/jpeg")], Body::from_stream(chunks)).into_response()
        }
        "bomb.png" => ([(header::CONTENT_TYPE, "image/png")], BOMB.clone()).into_response(),
        "moved.jpg" => (StatusCode::FOUND, [(header::LOCATION, "/cat.jpg")]).into_response(),
        "moved-away.jpg" => (StatusCode::FOUND, [(header::LOCATION, "http://[::1]:9/cat.jpg")]).into_response(),
        "slow.jpg" => {
            tokio::time::sleep(Duration::from_secs(2)).await;
            file("cat.jpg")
        }
        name => file(name),
    }
}

fn file(name: &str) -> Response {
    match std::fs::read(fixture("images").join(name)) {
        Ok(bytes) => ([(header::CONTENT_TYPE, "image/jpeg")], bytes).into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A valid greyscale PNG of 30,000×30,000 pixels, 900 MB decoded, in a file of under 1 MB.
pub static BOMB: LazyLock<Vec<u8>> = LazyLock::new(bomb);

fn bomb() -> Vec<u8> {
    const SIDE: u32 = 30_000;
    let mut header = Vec::new();
    header.extend_from_slice(&SIDE.to_be_bytes());
    header.extend_from_slice(&SIDE.to_be_bytes());
    header.extend_from_slice(&[8, 0, 0, 0, 0]);
    let mut pixels = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    let row = vec![0; SIDE as usize + 1];
    (0..SIDE).for_each(|_| pixels.write_all(&row).unwrap());
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in [(b"IHDR", header), (b"IDAT", pixels.finish().unwrap()), (b"IEND", Vec::new())] {
        png.extend_from_slice(&(data.len() as u32).to_be_bytes());
        let start = png.len();
        png.extend_from_slice(kind);
        png.extend_from_slice(&data);
        let checksum = crc32fast::hash(&png[start..]);
        png.extend_from_slice(&checksum.to_be_bytes());
    }
    png
}
