//! What one plugin may have beyond its memory and its log. Nothing, unless it is granted when the plugin is uploaded.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

use super::policy::HostPattern;

/// What a plugin is granted. Files, environment and sockets cannot be: no plugin gets them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// Hosts it may fetch from, among those that `--allow-host` lets plugins fetch from.
    pub hosts: Vec<HostPattern>,
    /// Clocks that move. Without, both stand at 0.
    pub clock: bool,
    /// Random bytes that differ. Without, they are the same in every instance.
    pub random: bool,
}

impl Grants {
    /// Reads grants as an upload's form has them.
    ///
    /// # Errors
    /// The JSON is no object of grants, or a host is no pattern.
    pub fn parse(json: &[u8]) -> Result<Grants> {
        serde_json::from_slice(json).map_err(|error| {
            Error::invalid_input(format!(
                "grants: {error}; expected JSON such as {{\"hosts\": [\"*.example.com\"], \"clock\": true, \"random\": true}}"
            ))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_read_and_written_alike() {
        let grants = Grants::parse(br#"{"hosts": ["*.example.com", "[::1]:80"], "clock": true}"#).unwrap();
        assert!(grants.clock && !grants.random);
        let json = serde_json::to_string(&grants).unwrap();
        assert_eq!(json, r#"{"hosts":["*.example.com","[::1]:80"],"clock":true,"random":false}"#);
        assert_eq!(Grants::parse(json.as_bytes()).unwrap(), grants);
        assert_eq!(Grants::parse(b"{}").unwrap(), Grants::default());
    }

    #[test]
    fn what_cannot_be_granted_is_refused() {
        for (json, reason) in [
            (r#"{"files": ["/"]}"#, "unknown field `files`"),
            (r#"{"hosts": ["http://x/"]}"#, "not a URL"),
            (r#"["*"]"#, "expected JSON such as"),
        ] {
            let message = Grants::parse(json.as_bytes()).unwrap_err().message;
            assert!(message.contains(reason), "{message}");
        }
    }
}
