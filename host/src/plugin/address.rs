//! What a name leads to, and which addresses are public: a plugin's fetch cannot reach the host's own network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::{fmt, io};

type Addresses = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// How a host's name becomes addresses, and which of those are public. Only tests, whose servers are all on one machine,
/// have others than the system's and the registries'.
#[derive(Clone)]
pub(super) struct Names {
    lookup: Arc<dyn Fn(String) -> Addresses + Send + Sync>,
    why_not_public: Arc<dyn Fn(SocketAddr) -> Option<&'static str> + Send + Sync>,
}

/// A name has no public address.
#[derive(Debug, thiserror::Error)]
#[error("the name leads to {0}")]
pub(super) struct NotPublic(pub(super) &'static str);

impl Names {
    #[cfg(test)]
    pub(super) fn new(
        lookup: impl Fn(&str) -> Vec<SocketAddr> + Send + Sync + 'static,
        why_not_public: impl Fn(SocketAddr) -> Option<&'static str> + Send + Sync + 'static,
    ) -> Names {
        Names {
            lookup: Arc::new(move |name| Box::pin(std::future::ready(Ok(lookup(&name))))),
            why_not_public: Arc::new(why_not_public),
        }
    }

    /// All addresses of a name.
    pub(super) async fn addresses(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        (self.lookup)(name.to_owned()).await
    }

    /// The public ones of these addresses, or why there is none.
    pub(super) fn public(&self, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, NotPublic> {
        let refused = addresses.iter().find_map(|&address| (self.why_not_public)(address));
        let public: Vec<SocketAddr> =
            addresses.into_iter().filter(|&address| (self.why_not_public)(address).is_none()).collect();
        match refused {
            Some(kind) if public.is_empty() => Err(NotPublic(kind)),
            _ => Ok(public),
        }
    }
}

impl Default for Names {
    fn default() -> Names {
        Names {
            lookup: Arc::new(|name| {
                Box::pin(async move { Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.collect()) })
            }),
            why_not_public: Arc::new(|address| why_not_public(address.ip())),
        }
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

/// Says what a plugin would reach there, as "a loopback address"; `None` where the address is public.
///
/// Source: the IANA special-purpose address registries for IPv4 and IPv6, and RFC 6052 (NAT64), RFC 3056 (6to4).
pub(super) fn why_not_public(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => why_not_public_v4(address),
        IpAddr::V6(address) => why_not_public_v6(address),
    }
}

fn why_not_public_v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [0, ..] => Some("an unspecified address"),
        [10, ..] | [192, 168, ..] | [172, 16..=31, ..] => Some("a private address"),
        // Azure answers its guests' metadata questions on this otherwise public address.
        [169, 254, 169, 254] | [168, 63, 129, 16] => Some("a cloud metadata address"),
        [127, ..] => Some("a loopback address"),
        [169, 254, ..] => Some("a link-local address"),
        [100, 64..=127, ..] => Some("a carrier's private address"),
        [224..=239, ..] => Some("a multicast address"),
        [255, 255, 255, 255] => Some("a broadcast address"),
        [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [240..=255, ..] => Some("a reserved address"),
        _ => None,
    }
}

fn why_not_public_v6(address: Ipv6Addr) -> Option<&'static str> {
    let embedded = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("an unspecified address"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("a loopback address"),
        // IPv4 written as IPv6: mapped (::ffff:0:0/96), translated (::ffff:0:0:0/96) and compatible (::/96).
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => {
            why_not_public_v4(embedded(high, low)).or(Some("a reserved address"))
        }
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => why_not_public_v4(embedded(high, low)),
        [0x2002, high, low, ..] => why_not_public_v4(embedded(high, low)),
        [0xfc00..=0xfdff, ..] => Some("a private address"),
        [0xfe80..=0xfebf, ..] => Some("a link-local address"),
        [0xff00..=0xffff, ..] => Some("a multicast address"),
        // Protocol assignments (Teredo among them), documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Some("a reserved address"),
        // Only 2000::/3 is given out as global unicast.
        [0x2000..=0x3fff, ..] => None,
        _ => Some("a reserved address"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_are_public() {
        for address in ["1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "93.184.216.34"] {
            assert_eq!(why_not_public(address.parse().unwrap()), None, "{address}");
        }
        for address in ["2606:4700::1111", "64:ff9b::1.1.1.1", "2002:101:101::1", "2a00:1450::1"] {
            assert_eq!(why_not_public(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn what_is_not_public_is_refused() {
        let refused = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "169.254.0.1",
            "168.63.129.16",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:1.1.1.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "4000::1",
        ];
        for address in refused {
            assert!(why_not_public(address.parse().unwrap()).is_some(), "{address}");
        }
    }

    #[test]
    fn the_reason_names_the_kind_of_address() {
        let reason = |address: &str| why_not_public(address.parse().unwrap());
        assert_eq!(reason("::ffff:127.0.0.1"), Some("a loopback address"));
        assert_eq!(reason("64:ff9b::a9fe:a9fe"), Some("a cloud metadata address"));
        assert_eq!(reason("fd00::1"), Some("a private address"));
    }
}
