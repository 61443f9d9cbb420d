//! Which hosts plugins may fetch from: the operator's `--allow-host` patterns.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::Host;

use super::address::{Names, why_not_public};

/// Hosts that plugins may fetch from. The default lets them fetch from none.
#[derive(Debug, Clone, Default)]
pub struct EgressPolicy {
    patterns: Vec<HostPattern>,
    pub(super) names: Names,
}

/// One `--allow-host` pattern: `HOST`, `HOST:PORT`, `*.example.com`, `1.2.3.4:8080`, `[::1]:80`, or `*`.
///
/// A host named in full may have any address, a private one included. `*` and `*.example.com` allow public addresses
/// only. Without a port, every port is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern {
    host: HostMatch,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostMatch {
    Any,
    /// A domain whose subdomains match; kept without the leading dot.
    Below(String),
    Name(String),
    Address(IpAddr),
}

/// Why a text is no `--allow-host` pattern.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{pattern:?} is no host pattern: {reason}; write HOST, HOST:PORT, *.example.com, 1.2.3.4:8080, [::1]:80 or *")]
pub struct HostPatternError {
    pattern: String,
    reason: &'static str,
}

/// Where a plugin may connect to for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The operator named this host: whatever address it has.
    AnyAddress,
    /// A wildcard matched: public addresses only.
    PublicAddresses,
}

/// Why a plugin may not fetch from a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denial {
    /// The plugin was not granted that host.
    NotGranted,
    /// No pattern matches.
    NotAllowed,
    /// Only a wildcard matches, and this is "a loopback address" or the like.
    Private(&'static str),
}

impl EgressPolicy {
    pub fn new(patterns: Vec<HostPattern>) -> EgressPolicy {
        EgressPolicy { patterns, names: Names::default() }
    }

    #[cfg(test)]
    pub(super) fn with_names(self, names: Names) -> EgressPolicy {
        EgressPolicy { names, ..self }
    }

    /// Judges a request's host and port, before any name is resolved.
    pub(super) fn judge(&self, host: &Host<&str>, port: u16) -> Result<Reach, Denial> {
        let mut by_wildcard = false;
        for pattern in self.patterns.iter().filter(|pattern| pattern.matches(host, port)) {
            match &pattern.host {
                HostMatch::Name(_) | HostMatch::Address(_) => return Ok(Reach::AnyAddress),
                HostMatch::Below(_) | HostMatch::Any => by_wildcard = true,
            }
        }
        match address(host).and_then(why_not_public) {
            _ if !by_wildcard => Err(Denial::NotAllowed),
            Some(kind) => Err(Denial::Private(kind)),
            None => Ok(Reach::PublicAddresses),
        }
    }
}

impl HostPattern {
    /// Whether it names this host and port.
    pub(super) fn matches(&self, host: &Host<&str>, port: u16) -> bool {
        let named = match (&self.host, host) {
            (HostMatch::Any, _) => true,
            (HostMatch::Name(allowed), Host::Domain(name)) => allowed == trim_dot(name),
            (HostMatch::Below(domain), Host::Domain(name)) => is_below(trim_dot(name), domain),
            (HostMatch::Address(allowed), _) => Some(*allowed) == address(host),
            _ => false,
        };
        named && self.port.is_none_or(|allowed| allowed == port)
    }
}

impl TryFrom<String> for HostPattern {
    type Error = HostPatternError;

    fn try_from(pattern: String) -> Result<HostPattern, HostPatternError> {
        pattern.parse()
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> String {
        pattern.to_string()
    }
}

impl FromIterator<HostPattern> for EgressPolicy {
    fn from_iter<I: IntoIterator<Item = HostPattern>>(patterns: I) -> EgressPolicy {
        EgressPolicy::new(patterns.into_iter().collect())
    }
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(pattern: &str) -> Result<HostPattern, HostPatternError> {
        let refuse = |reason| HostPatternError { pattern: pattern.to_owned(), reason };
        if pattern.contains(['/', '@', '?', '#']) {
            return Err(refuse("a host is wanted, not a URL"));
        }
        if !pattern.starts_with('[') && pattern.matches(':').count() > 1 {
            return Err(refuse("an IPv6 address belongs in brackets"));
        }
        let (host, port) = match pattern.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let port = port.parse().ok().filter(|&port: &u16| port > 0);
                (host, Some(port.ok_or_else(|| refuse("the port is no number from 1 to 65535"))?))
            }
            _ => (pattern, None),
        };
        let host = match host.strip_prefix("*.") {
            _ if host == "*" => HostMatch::Any,
            Some(domain) => match parse_host(domain).map_err(refuse)? {
                Host::Domain(domain) => HostMatch::Below(domain),
                Host::Ipv4(_) | Host::Ipv6(_) => return Err(refuse("a wildcard goes before a domain, not an address")),
            },
            None => match parse_host(host).map_err(refuse)? {
                Host::Domain(name) => HostMatch::Name(name),
                Host::Ipv4(address) => HostMatch::Address(address.into()),
                Host::Ipv6(address) => HostMatch::Address(IpAddr::from(address).to_canonical()),
            },
        };
        Ok(HostPattern { host, port })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HostMatch::Any => f.write_str("*")?,
            HostMatch::Below(domain) => write!(f, "*.{domain}")?,
            HostMatch::Name(name) => f.write_str(name)?,
            HostMatch::Address(IpAddr::V4(address)) => write!(f, "{address}")?,
            HostMatch::Address(IpAddr::V6(address)) => write!(f, "[{address}]")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Parses a host exactly as a URL's is parsed, so that both sides of a comparison are in one form: lower case, punycode,
/// `127.1` as 127.0.0.1.
fn parse_host(host: &str) -> Result<Host, &'static str> {
    if host.contains('*') {
        return Err("a wildcard stands for whole leading labels only");
    }
    match Host::parse(host).map_err(|_| "this is neither a name nor an address")? {
        Host::Domain(name) if trim_dot(&name).is_empty() => Err("the host is missing"),
        Host::Domain(name) => Ok(Host::Domain(trim_dot(&name).to_owned())),
        address => Ok(address),
    }
}

/// The address a URL names, IPv4 written as IPv6 taken for the IPv4 it is.
fn address(host: &Host<&str>) -> Option<IpAddr> {
    match host {
        Host::Domain(_) => None,
        Host::Ipv4(address) => Some((*address).into()),
        Host::Ipv6(address) => Some(IpAddr::from(*address).to_canonical()),
    }
}

/// A name with the root's dot is the same name.
fn trim_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|labels| labels.len() > 1 && labels.ends_with('.'))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn judge(patterns: &[&str], url: &str) -> Result<Reach, Denial> {
        let policy: EgressPolicy = patterns.iter().map(|pattern| pattern.parse::<HostPattern>().unwrap()).collect();
        let url = url::Url::parse(url).unwrap();
        policy.judge(&url.host().unwrap(), url.port_or_known_default().unwrap())
    }

    #[test]
    fn patterns_are_written_as_they_are_read() {
        for pattern in
            ["*", "*:443", "example.com", "example.com:8080", "*.example.com", "1.2.3.4:80", "[::1]:80", "[fd00::1]"]
        {
            assert_eq!(pattern.parse::<HostPattern>().unwrap().to_string(), pattern);
        }
        assert_eq!("Bücher.Example.".parse::<HostPattern>().unwrap().to_string(), "xn--bcher-kva.example");
    }

    #[test]
    fn a_bad_pattern_says_why() {
        let reason = |pattern: &str| pattern.parse::<HostPattern>().unwrap_err().reason;
        assert_eq!(reason("http://example.com"), "a host is wanted, not a URL");
        assert_eq!(reason("example.com/x"), "a host is wanted, not a URL");
        assert_eq!(reason("::1"), "an IPv6 address belongs in brackets");
        assert_eq!(reason("example.com:"), "the port is no number from 1 to 65535");
        assert_eq!(reason("example.com:70000"), "the port is no number from 1 to 65535");
        assert_eq!(reason("a*.example.com"), "a wildcard stands for whole leading labels only");
        assert_eq!(reason("*.10.0.0.1"), "a wildcard goes before a domain, not an address");
        for pattern in ["", ".", ":80", "exa mple", "[::1", "*."] {
            assert!(pattern.parse::<HostPattern>().is_err(), "{pattern}");
        }
    }

    #[test]
    fn nothing_is_allowed_by_default() {
        assert_eq!(judge(&[], "https://example.com"), Err(Denial::NotAllowed));
        assert_eq!(judge(&[], "http://127.0.0.1"), Err(Denial::NotAllowed));
    }

    #[test]
    fn a_named_host_may_have_any_address() {
        assert_eq!(judge(&["intern"], "http://intern:9000"), Ok(Reach::AnyAddress));
        assert_eq!(judge(&["intern"], "http://INTERN./"), Ok(Reach::AnyAddress));
        assert_eq!(judge(&["127.0.0.1:9000"], "http://127.1:9000"), Ok(Reach::AnyAddress));
        assert_eq!(judge(&["127.0.0.1:9000"], "http://[::ffff:127.0.0.1]:9000"), Ok(Reach::AnyAddress));
        assert_eq!(judge(&["127.0.0.1:9000"], "http://127.0.0.1:9001"), Err(Denial::NotAllowed));
        assert_eq!(
            judge(&["*", "127.0.0.1:9000"], "http://127.0.0.1:9001"),
            Err(Denial::Private("a loopback address"))
        );
    }

    #[test]
    fn a_wildcard_allows_public_addresses_only() {
        assert_eq!(judge(&["*"], "https://example.com"), Ok(Reach::PublicAddresses));
        assert_eq!(judge(&["*"], "https://1.1.1.1"), Ok(Reach::PublicAddresses));
        assert_eq!(judge(&["*"], "http://169.254.169.254/latest"), Err(Denial::Private("a cloud metadata address")));
        assert_eq!(judge(&["*"], "http://0x7f.1/"), Err(Denial::Private("a loopback address")));
        assert_eq!(judge(&["*"], "http://2130706433/"), Err(Denial::Private("a loopback address")));
        assert_eq!(judge(&["*"], "http://[::ffff:10.0.0.1]/"), Err(Denial::Private("a private address")));
        assert_eq!(judge(&["*:443"], "http://example.com"), Err(Denial::NotAllowed));
    }

    #[test]
    fn a_domain_wildcard_matches_below_it_only() {
        assert_eq!(judge(&["*.example.com"], "https://a.b.example.com"), Ok(Reach::PublicAddresses));
        assert_eq!(judge(&["*.example.com"], "https://example.com"), Err(Denial::NotAllowed));
        assert_eq!(judge(&["*.example.com"], "https://badexample.com"), Err(Denial::NotAllowed));
        assert_eq!(judge(&["*.example.com", "a.example.com"], "https://a.example.com"), Ok(Reach::AnyAddress));
    }
}
