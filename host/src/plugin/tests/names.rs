//! Where a name leads: what is checked is what is connected to, however a URL is written and whatever a resolver says.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::web::*;
use super::*;
use crate::plugin::address::{Names, why_not_public};

/// A plugin whose host resolves names by `lookup` and takes for public what the registries do, and `public`.
async fn hostile_with(
    allowed: &[&str],
    public: SocketAddr,
    lookup: impl Fn(&str) -> Vec<SocketAddr> + Send + Sync + 'static,
) -> Arc<Plugin> {
    let names = Names::new(lookup, move |address| if address == public { None } else { why_not_public(address.ip()) });
    let host = host_with(small_limits(), policy(allowed).with_names(names));
    load(&host, component("hostile")).await.unwrap()
}

fn found(location: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
}

fn none() -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, 0).into()
}

#[tokio::test]
async fn a_name_that_leads_to_no_public_address_is_refused() {
    const KINDS: [(&str, &str); 10] = [
        ("127.0.0.1:0", "a loopback address"),
        ("10.1.2.3:0", "a private address"),
        ("172.16.0.1:0", "a private address"),
        ("192.168.0.1:0", "a private address"),
        ("100.64.0.1:0", "a carrier's private address"),
        ("169.254.169.254:0", "a cloud metadata address"),
        ("[::1]:0", "a loopback address"),
        ("[::ffff:127.0.0.1]:0", "a loopback address"),
        ("[fc00::1]:0", "a private address"),
        ("[fe80::1]:0", "a link-local address"),
    ];
    let lookup = |name: &str| vec![KINDS[name[..1].parse::<usize>().unwrap()].0.parse().unwrap()];
    let plugin = hostile_with(&["*.test"], none(), lookup).await;
    for (number, (_, kind)) in KINDS.iter().enumerate() {
        let error = failing_fetch(&plugin, &format!("http://{number}.test/")).await;
        let named = format!("--allow-host {number}.test:80");
        let parts = ["hostile@", "in preprocess", &named, &format!("that leads to {kind}")];
        assert_says(&error, ErrorCode::Forbidden, &parts);
    }
    assert_goes_on(&plugin).await;
}

#[tokio::test]
async fn a_name_with_a_public_address_is_reached_there_and_nowhere_else() {
    let public = answering(ok("meow")).await;
    let (private, visitors) = forbidden_ground().await;
    let lookup = move |name: &str| match name {
        "one.test" => vec![public],
        "first.test" => vec![public, private],
        _ => vec![private, public],
    };
    let plugin = hostile_with(&["*.test"], public, lookup).await;
    for name in ["one.test", "first.test", "last.test"] {
        assert_eq!(fetched(&plugin, &format!("http://{name}/")).await["length"], 4, "{name}");
    }
    assert_eq!(visitors.load(Ordering::SeqCst), 0);
}

/// DNS rebinding: the name is public when it is checked and private when it is connected to, if those were two lookups.
#[tokio::test]
async fn a_name_that_changes_its_answer_gains_nothing() {
    let public = answering(ok("meow")).await;
    let (private, visitors) = forbidden_ground().await;
    for first_is_public in [true, false] {
        let lookups = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&lookups);
        let plugin = hostile_with(&["*.test"], public, move |_| {
            let even = counted.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
            vec![if even == first_is_public { public } else { private }]
        })
        .await;
        for number in 0..6 {
            let seen = fetched(&plugin, "http://name.test/").await;
            assert_eq!(seen["length"] == 4, (number % 2 == 0) == first_is_public, "{number}: {seen}");
        }
        assert_eq!(lookups.load(Ordering::SeqCst), 6, "one lookup, and so one answer, for each connection");
    }
    assert_eq!(visitors.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_redirect_from_public_to_private_is_refused() {
    let (private, visitors) = forbidden_ground().await;
    let port = private.port();
    let redirects = [
        (format!("http://inner.test:{port}/"), "leads to a loopback address"),
        (format!("http://{private}/"), "is a loopback address"),
        (format!("http://2130706433:{port}/"), "is a loopback address"),
        (format!("http://[::ffff:7f00:1]:{port}/"), "is a loopback address"),
        ("http://169.254.169.254/latest/meta-data/".to_owned(), "is a cloud metadata address"),
    ];
    let locations = redirects.clone().map(|(location, _)| location);
    let public = server(move |head, stream| {
        let number: usize = head["GET /".len()..][..1].parse().unwrap();
        write(stream, found(&locations[number]))
    })
    .await;
    let lookup = move |name: &str| vec![if name.starts_with("outer") { public } else { private }];
    let plugin = hostile_with(&["*"], public, lookup).await;
    for (number, (_, kind)) in redirects.iter().enumerate() {
        let error = failing_fetch(&plugin, &format!("http://outer.test/{number}")).await;
        assert_says(&error, ErrorCode::Forbidden, &[kind]);
    }
    assert_eq!(visitors.load(Ordering::SeqCst), 0);
    let public = answering(ok("meow")).await;
    let outer = answering(found("http://b.test/")).await;
    let lookup = move |name: &str| vec![if name.starts_with('a') { outer } else { public }];
    let plugin = hostile_with(&["a.test", "*"], public, lookup).await;
    assert_eq!(fetched(&plugin, "http://a.test/").await["url"], "http://b.test/");
}

/// Every way to write 127.0.0.1 and its like in a URL. A server listens there, and nobody comes.
#[tokio::test]
async fn an_address_is_itself_however_it_is_written() {
    let (private, visitors) = forbidden_ground().await;
    let port = private.port();
    let plugin = hostile_with(&["*"], none(), move |_| vec![private]).await;
    for host in [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "127.000.000.001",
        "2130706433",
        "017700000001",
        "0177.0.0.1",
        "0x7f000001",
        "0x7f.1",
        "0x7F.0X0.0x0.0x1",
        "127.0.0.1.",
        "%31%32%37.0.0.1",
        "１２７.０.０.１",
        "127。0。0。1",
        "0",
        "0.0.0.0",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "localhost",
        "LOCALHOST.",
        "name.test",
        "name.test.",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "0xa9fea9fe",
        "[fd00:ec2::254]",
        "[fc00::1]",
        "[fe80::1]",
        "[ff02::1]",
    ] {
        let error = failing_fetch(&plugin, &format!("http://{host}:{port}/")).await;
        assert_says(&error, ErrorCode::Forbidden, &["and only hosts named by --allow-host"]);
        let seen = fetched_raw(&plugin, &format!("http://{host}:{port}/")).await;
        assert!(seen["error"].is_string(), "{host}: {seen}");
    }
    assert_eq!(visitors.load(Ordering::SeqCst), 0);
    // The same spellings, once the operator has named the address.
    let named = hostile_with(&[&private.to_string()], none(), move |_| Vec::new()).await;
    for host in ["127.0.0.1", "2130706433", "0x7f.1", "127.0.0.1.", "[::ffff:127.0.0.1]"] {
        let seen = fetched(&named, &format!("http://{host}:{port}/")).await;
        // Linux connects ::ffff:127.0.0.1 to 127.0.0.1; not every system does.
        assert!(seen["length"] == 6 || host.starts_with('['), "{host}: {seen}");
    }
}

/// What looks like one host to a person and like another to a parser: what is judged is what is connected to.
#[tokio::test]
async fn a_user_name_is_no_host() {
    let public = answering(ok("meow")).await;
    let (private, visitors) = forbidden_ground().await;
    let plugin = hostile_with(&["*.test"], public, move |_| vec![public]).await;
    assert_eq!(fetched_raw(&plugin, "http://name.test/").await["length"], 4);
    for url in [
        format!("http://name.test@{private}/"),
        format!("http://name.test:80@{private}/"),
        format!("http://{private}@name.test/"),
        format!("http://user:secret@{private}/"),
        format!("http://{private}#@name.test/"),
        format!("http://{private}?@name.test/"),
        format!("http://{private}\\\\@name.test/"),
        format!("http://name.test%00@{private}/"),
        format!("http://name.test\\r\\nhost: {private}/"),
        format!("ftp://{private}/"),
        format!("file://{private}/etc/passwd"),
        "http:///etc/passwd".to_owned(),
    ] {
        for seen in [fetched(&plugin, &url).await, fetched_raw(&plugin, &url).await] {
            assert!(seen["error"].is_string(), "{url}: {seen}");
        }
    }
    // To a browser, and so to both sides here, this is a path of name.test.
    assert_eq!(fetched(&plugin, &format!("http://name.test\\\\@{private}/")).await["length"], 4);
    assert_eq!(visitors.load(Ordering::SeqCst), 0);
    assert_goes_on(&plugin).await;
}

/// A server behind several names serves the one that was judged, not the one a plugin writes into its head.
#[tokio::test]
async fn the_host_header_is_the_hosts_to_write() {
    let public = server(|head, stream| async move {
        assert!(head.contains("\r\nhost: name.test\r\n") && !head.contains("evil.test"), "{head}");
        write(stream, ok("meow")).await;
    })
    .await;
    let plugin = hostile_with(&["*.test"], public, move |_| vec![public]).await;
    let seen = fetched_raw(&plugin, "http://name.test/").await;
    assert_eq!((&seen["host_header"], &seen["length"]), (&false.into(), &4.into()), "{seen}");
}
