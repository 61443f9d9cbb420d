//! Servers that misbehave: too much, too slow, without end.

use std::io::Write;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::web::*;
use super::*;

/// A plugin that may fetch from these servers, and has time.
async fn patient(servers: &[SocketAddr]) -> Arc<Plugin> {
    hostile(small_limits(), &names(servers)).await
}

fn names(servers: &[SocketAddr]) -> Vec<String> {
    servers.iter().map(SocketAddr::to_string).collect()
}

#[tokio::test]
async fn an_answer_is_limited_in_size_whether_it_says_its_length_or_not() {
    let body = "x".repeat(100 << 10);
    let told = answering(ok(&body)).await;
    let untold = answering(format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}")).await;
    let plugin = patient(&[told, untold]).await;
    for address in [told, untold] {
        let error = failing_fetch(&plugin, &format!("http://{address}/")).await;
        let parts =
            ["plugin hostile@", "answered it with more than 64 KiB", "--plugin-fetch-bytes (NEXUS_PLUGIN_FETCH_BYTES)"];
        assert_says(&error, ErrorCode::TooLarge, &parts);
        assert_goes_on(&plugin).await;
    }
}

/// What a server sends before and after it has begun to repeat a piece of text, at once or now and then, until it is cut off.
async fn repeating(head: &'static str, piece: impl Into<String>, pause: Option<Duration>) -> SocketAddr {
    let piece: String = piece.into();
    server(move |_, mut stream| {
        let piece = piece.clone();
        async move {
            let mut written = stream.write_all(head.as_bytes()).await;
            while written.is_ok() {
                if let Some(pause) = pause {
                    tokio::time::sleep(pause).await;
                }
                written = stream.write_all(piece.as_bytes()).await;
            }
        }
    })
    .await
}

const AT_ONCE: Option<Duration> = None;
const NOW_AND_THEN: Option<Duration> = Some(Duration::from_millis(20));

#[tokio::test]
async fn a_body_that_never_ends_is_cut_at_its_size() {
    const CHUNK: &str = "4\r\nmeow\r\n";
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let closed = repeating("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", "meow", AT_ONCE).await;
    let chunked = repeating(chunked, CHUNK, AT_ONCE).await;
    let plugin = patient(&[closed, chunked]).await;
    for address in [closed, chunked] {
        let error = failing_fetch(&plugin, &format!("http://{address}/")).await;
        assert_says(&error, ErrorCode::TooLarge, &["more than 64 KiB", "--plugin-fetch-bytes"]);
        assert_goes_on(&plugin).await;
    }
}

/// A byte now and then keeps a connection alive, but not past the time that the whole fetch has.
#[tokio::test]
async fn an_answer_is_limited_in_time_from_its_head_to_its_last_byte() {
    let silent = server(|_, stream| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    })
    .await;
    let status = repeating("", "H", NOW_AND_THEN).await;
    let head = repeating("HTTP/1.1 200 OK\r\n", "x: y\r\n", NOW_AND_THEN).await;
    let body = repeating("HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n", "x", NOW_AND_THEN).await;
    let chunks = repeating("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "1\r\nx\r\n", NOW_AND_THEN).await;
    let informed = repeating("", "HTTP/1.1 103 Early Hints\r\n\r\n", NOW_AND_THEN).await;
    let addresses = [silent, status, head, body, chunks, informed];
    let hurried = PluginLimits { fetch_time: Duration::from_millis(800), ..small_limits() };
    let plugin = hostile(hurried, &names(&addresses)).await;
    for address in addresses {
        let error = failing_fetch(&plugin, &format!("http://{address}/")).await;
        let fetched = error.message.contains("took longer than 800 ms") && error.code == ErrorCode::DeadlineExceeded;
        // What is no HTTP may end sooner than the time is up.
        let refused = (address == status || address == head) && error.code == ErrorCode::InvalidInput;
        assert!(fetched || refused, "{error}");
        assert_goes_on(&plugin).await;
    }
}

#[tokio::test]
async fn a_head_that_never_ends_is_no_answer() {
    let lines = repeating("HTTP/1.1 200 OK\r\n", "x: y\r\n", AT_ONCE).await;
    let line = repeating("HTTP/1.1 200 OK\r\n", "x".repeat(4096), AT_ONCE).await;
    // A head that ends, but is larger than an answer may be.
    let cookie = format!("cookie: {}\r\n", "x".repeat(1000));
    let large = answering(format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", cookie.repeat(80))).await;
    let plugin = patient(&[lines, line, large]).await;
    for address in [lines, line] {
        let seen = fetched(&plugin, &format!("http://{address}/")).await;
        assert!(seen["error"].is_string(), "{seen}");
        assert_goes_on(&plugin).await;
    }
    let error = failing_fetch(&plugin, &format!("http://{large}/")).await;
    assert_says(&error, ErrorCode::TooLarge, &["more than 64 KiB", "--plugin-fetch-bytes"]);
}

#[tokio::test]
async fn a_length_is_believed_when_it_is_too_large_and_not_when_it_is_none() {
    let length = |length: &str| answering(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\nmeow"));
    let (large, none) = (length("99999999999").await, length("-1").await);
    let plugin = patient(&[large, none]).await;
    assert_eq!(failing_fetch(&plugin, &format!("http://{large}/")).await.code, ErrorCode::TooLarge);
    assert_eq!(failing_fetch(&plugin, &format!("http://{none}/")).await.code, ErrorCode::InvalidInput);
}

/// The host hands a body on as it came: what it would be unpacked is the plugin's to find out, in its own memory.
#[tokio::test]
async fn a_compressed_body_is_not_unpacked() {
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&vec![0; 16 << 20]).unwrap();
    let bomb = bomb.finish().unwrap();
    let length = bomb.len();
    assert!(length < 60 << 10, "{length}");
    let address = server(move |head, mut stream| {
        let bomb = bomb.clone();
        assert!(!head.to_lowercase().contains("accept-encoding"), "{head}");
        async move {
            let length = bomb.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&bomb).await.unwrap();
        }
    })
    .await;
    let plugin = hostile(small_limits(), &[&address.to_string()]).await;
    assert_eq!(fetched(&plugin, &format!("http://{address}/")).await["length"], length);
}

#[tokio::test]
async fn what_a_plugin_sends_is_limited_too() {
    let address = server(|head, mut stream| async move {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        write(stream, ok(&"y".repeat(length))).await;
    })
    .await;
    let plugin = patient(&[address]).await;
    let body = format!(r#"{{"url": "http://{address}/", "x": "not four numbers"}}"#);
    let seen = serve_json(&plugin, r#"{"do": "fetch-raw", "count": 60000}"#, &body.replace(", \"x", ", \"y")).await;
    assert_eq!(seen["fetch"]["length"], 60_000, "{seen}");
    let error = serve(&plugin, r#"{"do": "fetch-raw", "count": 70000}"#, &body).await.unwrap_err();
    assert_says(&error, ErrorCode::PluginFailed, &["it sent 127.0.0.1:", "more than 64 KiB", "--plugin-fetch-bytes"]);
}

#[tokio::test]
async fn a_fetch_that_nobody_waits_for_ends_with_its_instance() {
    let (told, mut events) = tokio::sync::mpsc::unbounded_channel();
    let address = server(move |_, mut stream| {
        let told = told.clone();
        async move {
            told.send("asked").unwrap();
            // The end of the stream, or a reset: the host has hung up.
            drop(stream.read_u8().await);
            told.send("hung up").unwrap();
        }
    })
    .await;
    let limits = PluginLimits { fetch_time: Duration::from_secs(3600), ..small_limits() };
    let plugin = hostile(limits, &[&address.to_string()]).await;
    let config = format!(r#"{{"do": "fetch-and-forget", "url": "http://{address}/"}}"#);
    let mut instance = start(&plugin, &config).await.unwrap();
    preprocess(&mut instance, "{}").await.unwrap();
    assert_eq!(events.recv().await, Some("asked"));
    drop(instance);
    assert_eq!(events.recv().await, Some("hung up"));
}
