//! What a component names: its contract, what it exports and imports, and what an import gets. It need not fit, nor compile.

use serde::Serialize;
use wasmparser::{Parser, Payload};

use super::contract::{OFFERED, VERSION_SECTION};

/// What a component says by its names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The version of `nexus:plugin` that it was built for, where it names one.
    pub contract: Option<String>,
    pub exports: Vec<String>,
    pub imports: Vec<Import>,
}

/// An interface that a component imports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Import {
    pub interface: String,
    pub access: Access,
    /// What the plugin finds behind it.
    pub means: &'static str,
}

/// Who gets what is behind an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Every plugin.
    Always,
    /// A plugin that is granted hosts.
    Hosts,
    /// A plugin that is granted the clock.
    Clock,
    /// A plugin that is granted random bytes.
    Random,
    /// Nobody: it can be imported, and there is nothing behind it.
    Never,
    /// Nobody, and a component that imports it is refused.
    Refused,
}

impl Inspection {
    /// Reads the names in a component. Of what is no component there are none.
    pub fn of(wasm: &[u8]) -> Inspection {
        let mut found = Inspection::default();
        let mut depth = 0usize;
        for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
            match payload {
                Payload::Version { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                // The SDK's section is in a core module inside the component.
                Payload::CustomSection(section) if section.name() == VERSION_SECTION && found.contract.is_none() => {
                    found.contract = Some(String::from_utf8_lossy(section.data()).chars().take(32).collect());
                }
                Payload::ComponentImportSection(section) if depth == 1 => {
                    let names = section.into_iter().map_while(Result::ok).map(|import| import.name.name.to_owned());
                    found.imports.extend(names.map(Import::of));
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    let names = section.into_iter().map_while(Result::ok).map(|export| export.name.name.to_owned());
                    found.exports.extend(names);
                }
                _ => {}
            }
        }
        if found.contract.is_none() {
            let names = found.exports.iter().chain(found.imports.iter().map(|import| &import.interface));
            let versions = names.filter_map(|name| name.strip_prefix("nexus:plugin/")?.split_once('@'));
            found.contract = versions.map(|(_, version)| version.to_owned()).next();
        }
        found
    }

    /// Whether it brings a request of its own to be tried with.
    pub fn has_golden(&self) -> bool {
        self.exports.iter().any(|name| name.starts_with("nexus:plugin/golden@"))
    }
}

/// What is behind the interfaces whose names begin so, the most special first.
const MEANINGS: [(&str, Access, &str); 14] = [
    ("nexus:plugin/log@", Access::Always, "lines go to the host's log"),
    ("nexus:plugin/types@", Access::Always, "the contract's types"),
    ("wasi:cli/stdout@", Access::Always, "lines go to the host's log"),
    ("wasi:cli/stderr@", Access::Always, "lines go to the host's log"),
    ("wasi:cli/exit@", Access::Always, "ends the request, as a failure"),
    ("wasi:cli/environment@", Access::Never, "no variables, no arguments"),
    ("wasi:cli/", Access::Never, "no terminal, nothing to read"),
    ("wasi:clocks/", Access::Clock, "without it clocks stand at 0"),
    ("wasi:filesystem/", Access::Never, "no folder is there"),
    ("wasi:http/types@", Access::Always, "HTTP's types"),
    ("wasi:http/", Access::Hosts, "without any every request is refused"),
    ("wasi:io/", Access::Always, "streams and waiting"),
    ("wasi:random/", Access::Random, "without it the bytes are the same in every instance"),
    ("wasi:sockets/", Access::Never, "every connection and look-up is refused"),
];

impl Import {
    fn of(interface: String) -> Import {
        let offered = OFFERED.iter().any(|offered| interface.starts_with(offered));
        let meaning = MEANINGS.iter().find(|(prefix, ..)| offered && interface.starts_with(prefix));
        let (access, means) =
            meaning.map_or((Access::Refused, "this host does not offer it"), |(_, access, means)| (*access, *means));
        Import { interface, access, means }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_what_the_sandbox_makes_of_it() {
        for (interface, access) in [
            ("nexus:plugin/log@0.1.0", Access::Always),
            ("wasi:http/outgoing-handler@0.2.6", Access::Hosts),
            ("wasi:http/types@0.2.6", Access::Always),
            ("wasi:clocks/monotonic-clock@0.2.6", Access::Clock),
            ("wasi:random/insecure-seed@0.2.6", Access::Random),
            ("wasi:cli/environment@0.2.6", Access::Never),
            ("wasi:cli/stdin@0.2.6", Access::Never),
            ("wasi:filesystem/preopens@0.2.6", Access::Never),
            ("wasi:gpu/run@1.0.0", Access::Refused),
        ] {
            assert_eq!(Import::of(interface.to_owned()).access, access, "{interface}");
        }
    }

    #[test]
    fn everything_that_is_offered_has_a_meaning() {
        for offered in OFFERED {
            assert!(MEANINGS.iter().any(|(prefix, ..)| prefix.starts_with(offered)), "{offered}");
        }
    }

    #[test]
    fn what_is_no_component_names_nothing() {
        for bytes in [&b""[..], b"PK\x03\x04", b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0\xff\xff"] {
            assert_eq!(Inspection::of(bytes), Inspection::default());
        }
    }
}
