//! What a plugin gets at without a grant: nothing of the machine, nothing of the network, nothing of an earlier request.

use std::net::UdpSocket;
use std::sync::atomic::Ordering;

use super::web::forbidden_ground;
use super::*;

#[tokio::test]
async fn no_state_goes_from_one_request_to_the_next() {
    let plugin = shared_hostile().await;
    for _ in 0..20 {
        assert_eq!(serve_json(&plugin, r#"{"do": "state"}"#, "{}").await["state"], 1);
    }
}

/// One place for instances, so that each gets the memory that the one before has filled.
#[tokio::test]
async fn memory_is_all_zeros_again() {
    let plugin = hostile(PluginLimits { instances: 1, ..small_limits() }, NO_HOSTS).await;
    for count in [16 << 20, 48 << 20, 1 << 20, 32 << 20] {
        let seen = serve_json(&plugin, &format!(r#"{{"do": "residue", "count": {count}}}"#), "{}").await;
        assert_eq!(seen["residue_bytes"], 0);
        // One that does not end well cleans up no less.
        assert!(serve(&plugin, r#"{"do": "memory"}"#, "{}").await.is_err());
    }
}

#[tokio::test]
async fn there_is_no_environment_no_file_and_no_time() {
    let plugin = shared_hostile().await;
    let seen = serve_json(&plugin, r#"{"do": "env"}"#, "{}").await;
    assert_eq!((&seen["env"], &seen["args"]), (&serde_json::json!({}), &serde_json::json!([])));
    assert_eq!(seen["stdin_bytes"], 0);
    let seen = serve_json(&plugin, r#"{"do": "files"}"#, "{}").await;
    assert_eq!(seen["preopens"], serde_json::json!([]));
    assert!(seen["read_bytes"].is_null() && seen["listed"].is_null() && seen["written"] == false, "{seen}");
    let seen = serve_json(&plugin, r#"{"do": "clock"}"#, "{}").await;
    assert_eq!((&seen["unix_seconds"], &seen["elapsed_ns"]), (&serde_json::json!(0), &serde_json::json!(0)));
}

#[tokio::test]
async fn there_is_no_randomness() {
    let plugin = shared_hostile().await;
    let mut first = serve_json(&plugin, r#"{"do": "dice"}"#, "{}").await;
    let second = serve_json(&plugin, r#"{"do": "dice"}"#, "{}").await;
    assert_eq!(first, second);
    assert_eq!(first["bytes"].take().as_array().unwrap().len(), 16);
}

/// HTTP to anywhere is granted here; sockets are not.
#[tokio::test]
async fn there_is_no_socket_and_no_name_lookup() {
    let (address, visitors) = forbidden_ground().await;
    let datagrams = UdpSocket::bind(address).unwrap();
    datagrams.set_nonblocking(true).unwrap();
    let plugin = hostile(small_limits(), &["*", &address.to_string()]).await;
    let seen = serve_json(&plugin, &format!(r#"{{"do": "sockets", "url": "{address}"}}"#), "{}").await;
    let refused: Vec<&str> = seen
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| !["ok", "state", "outputs"].contains(&name.as_str()))
        .map(|(name, outcome)| {
            assert!(outcome.is_string() && outcome != "ok", "{name}: {outcome}");
            name.as_str()
        })
        .collect();
    let attempts =
        ["tcp_connect", "tcp_listen", "udp_bind", "udp_connect", "udp_send", "name_lookup", "address_lookup"];
    assert_eq!(refused, attempts, "{seen}");
    assert_eq!(visitors.load(Ordering::SeqCst), 0);
    assert_eq!(datagrams.recv(&mut [0; 16]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}
