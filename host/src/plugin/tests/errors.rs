//! What an error says: plugin, version, stage, limit, the log's last lines, and the option that changes the limit.

use std::net::SocketAddr;

use super::web::*;
use super::*;

struct Row {
    /// The configuration of the hostile plugin.
    config: String,
    limits: PluginLimits,
    /// The operator's host pattern.
    allowed: String,
    code: ErrorCode,
    /// The limit in words.
    limit: &'static str,
    option: &'static str,
}

fn row(config: &str, limit: &'static str, option: &'static str) -> Row {
    let limits = PluginLimits { cpu_time: Duration::from_millis(300), ..small_limits() };
    Row {
        config: config.to_owned(),
        limits,
        allowed: "example.org".into(),
        code: ErrorCode::PluginFailed,
        limit,
        option,
    }
}

fn rows() -> Vec<Row> {
    let wait = PluginLimits { wall_time: Duration::from_secs(3), ..small_limits() };
    vec![
        row(r#""do": "memory""#, "used more than 64 MiB of memory", "plugin-memory-bytes"),
        row(r#""do": "loop""#, "ran longer than 300 ms of processor time", "plugin-cpu-time"),
        row(r#""do": "huge-output""#, "returned more than 4 MiB", "plugin-output-bytes"),
        row(r#""do": "log-huge", "count": 8000000"#, "handed the host more than 4 MiB", "plugin-output-bytes"),
        Row { limits: wait, ..row(r#""do": "sleep""#, "took longer than 3 s", "plugin-wall-time") },
    ]
}

/// Fetches fail the plugin only where it fails for them, as `x` makes it.
fn fetch_rows(large: SocketAddr, silent: SocketAddr) -> Vec<Row> {
    let fetch = |server: SocketAddr, code, limits: PluginLimits, limit, option| Row {
        limits: PluginLimits { fetch_bytes: 4 << 10, ..limits },
        allowed: server.to_string(),
        code,
        ..row(&format!(r#""do": "fetch", "url": "http://{server}/""#), limit, option)
    };
    let hurried = PluginLimits { fetch_time: Duration::from_millis(800), ..small_limits() };
    let none = PluginLimits { fetches: 0, ..small_limits() };
    let upload = format!(r#""do": "fetch-raw", "url": "http://{silent}/", "count": 5000"#);
    vec![
        fetch(large, ErrorCode::TooLarge, small_limits(), "answered it with more than 4 KiB", "plugin-fetch-bytes"),
        fetch(silent, ErrorCode::DeadlineExceeded, hurried, "took longer than 800 ms", "plugin-fetch-time"),
        fetch(silent, ErrorCode::PluginFailed, none, "sent more than 0 HTTP requests", "plugin-fetches"),
        Row {
            config: upload,
            ..fetch(silent, ErrorCode::PluginFailed, small_limits(), "more than 4 KiB", "plugin-fetch-bytes")
        },
        Row {
            allowed: "example.org".into(),
            ..fetch(silent, ErrorCode::Forbidden, small_limits(), "may not fetch from 127.0.0.1:", "allow-host")
        },
        Row {
            allowed: "*".into(),
            ..fetch(silent, ErrorCode::Forbidden, small_limits(), "a loopback address", "allow-host")
        },
    ]
}

async fn assert_complete(row: &Row, body: &str) {
    let plugin = hostile(row.limits.clone(), &[&row.allowed]).await;
    let config = format!("{{{}}}", row.config);
    let error = serve(&plugin, &config, body).await.unwrap_err();
    let option = format!("--{} (NEXUS_{})", row.option, row.option.replace('-', "_").to_uppercase());
    let version = &plugin.manifest.version;
    let who = format!("plugin hostile@{version} failed in preprocess: ");
    assert_says(&error, row.code, &[&who, row.limit, &option, "; its log ends: ", "hostile means it"]);
}

#[tokio::test]
async fn an_error_of_a_limit_says_it_all() {
    for row in rows() {
        assert_complete(&row, "{}").await;
    }
}

#[tokio::test]
async fn an_error_of_a_fetch_says_it_all() {
    let large = answering(ok(&"x".repeat(8 << 10))).await;
    let silent = server(|_, stream| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    })
    .await;
    for row in fetch_rows(large, silent) {
        assert_complete(&row, r#"{"x": "not four numbers"}"#).await;
    }
}
