//! Whether a file is a component that this host can run, and what to say where it is not.

use wasmparser::{Parser, Payload};
use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use crate::error::{Error, Result};

use super::limits::option;

/// The version of the package `nexus:plugin` that this host speaks.
pub const CONTRACT_VERSION: &str = "0.1.0";

pub(super) const OFFERED: [&str; 9] = [
    "nexus:plugin/log@",
    "nexus:plugin/types@",
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:http/",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/",
];

/// Tells a component from everything else by its first bytes, before the compiler sees it.
///
/// Source: the component model's Binary.md; a core module has layer 0, a component layer 1.
pub(super) fn check_header(wasm: &[u8]) -> Result<()> {
    let refuse = |what: &str| {
        let message =
            format!("{what}; a plugin is a WebAssembly component, such as `cargo build --target wasm32-wasip2` makes");
        Err(Error::invalid_input(message))
    };
    match wasm {
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', _, _, 0, 0, ..] => refuse("this is a core WebAssembly module and not a component"),
        [] => refuse("the file is empty"),
        _ => refuse("this is no WebAssembly"),
    }
}

/// What to say when the compiler refuses a component, or the pool of instances cannot hold it.
pub(super) fn cannot_compile(error: &wasmtime::Error) -> Error {
    let reason = format!("{error:#}");
    let hint = match reason.contains("memory has a minimum byte size") {
        true => format!("; the limit is set by {}", option("plugin-memory-bytes")),
        false => String::new(),
    };
    Error::invalid_input(format!("the component cannot be compiled for this host: {reason}{hint}"))
}

/// The custom section in which the SDK writes the contract's version.
pub(super) const VERSION_SECTION: &str = "nexus:plugin-version";

/// Checks the version that a component says it was built for, before the compiler sees it.
pub(super) fn check_version(wasm: &[u8]) -> Result<()> {
    // What cannot be parsed is for the compiler to refuse, with its reason.
    for payload in Parser::new(0).parse_all(wasm).map_while(std::result::Result::ok) {
        if let Payload::CustomSection(section) = payload
            && section.name() == VERSION_SECTION
        {
            let version = String::from_utf8_lossy(section.data());
            return if is_compatible(&version) { Ok(()) } else { Err(other_version(&version)) };
        }
    }
    Ok(())
}

/// Checks that a component is a plugin of this contract. Returns the names of the interfaces it exports.
pub(super) fn check(engine: &Engine, component: &Component) -> Result<Vec<String>> {
    let types = component.component_type();
    let exports: Vec<String> = types
        .exports(engine)
        .filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentInstance(_)))
        .map(|(name, _)| name.to_owned())
        .collect();
    let imports: Vec<String> = types.imports(engine).map(|(name, _)| name.to_owned()).collect();
    check_names(&exports, &imports)?;
    Ok(exports)
}

fn other_version(version: &str) -> Error {
    let version: String = version.chars().take(32).collect();
    Error::invalid_input(format!(
        "the component is built for nexus:plugin {version}, this host speaks nexus:plugin {CONTRACT_VERSION}"
    ))
}

fn check_names(exports: &[String], imports: &[String]) -> Result<()> {
    let speaks = |name: &String| {
        let (interface, version) = name.strip_prefix("nexus:plugin/")?.split_once('@')?;
        Some((interface.to_owned(), version.to_owned()))
    };
    if let Some((_, version)) =
        exports.iter().chain(imports).filter_map(speaks).find(|(_, version)| !is_compatible(version))
    {
        return Err(other_version(&version));
    }
    if !exports.iter().filter_map(speaks).any(|(interface, _)| interface == "transform") {
        let exports = if exports.is_empty() { "nothing".to_owned() } else { exports.join(", ") };
        let message =
            format!("a plugin exports nexus:plugin/transform@{CONTRACT_VERSION}; this component exports {exports}");
        return Err(Error::invalid_input(message));
    }
    match imports.iter().find(|import| !OFFERED.iter().any(|offered| import.starts_with(offered))) {
        Some(import) => {
            Err(Error::invalid_input(format!("the component imports {import}, which this host does not offer")))
        }
        None => Ok(()),
    }
}

/// Whether a component of that version links: 0.1.x does, as versions below 1.0 are compatible within a minor version.
fn is_compatible(version: &str) -> bool {
    let minor = |version: &str| version.rsplit_once('.').map(|(minor, _)| minor.to_owned());
    minor(version) == minor(CONTRACT_VERSION)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn check(exports: &[&str], imports: &[&str]) -> String {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        check_names(&names(exports), &names(imports)).map_or_else(|error| error.message, |()| "fits".to_owned())
    }

    #[test]
    fn a_header_tells_a_component_from_the_rest() {
        assert!(check_header(b"\0asm\x0d\0\x01\0").is_ok());
        assert!(check_header(b"\0asm\x01\0\0\0").unwrap_err().message.contains("core WebAssembly module"));
        assert!(check_header(b"PK\x03\x04").unwrap_err().message.contains("no WebAssembly"));
        assert!(check_header(b"").unwrap_err().message.contains("empty"));
    }

    #[test]
    fn the_names_of_exports_and_imports_tell_what_does_not_fit() {
        let transform = "nexus:plugin/transform@0.1.0";
        assert_eq!(check(&[transform], &["nexus:plugin/log@0.1.0", "wasi:io/poll@0.2.6"]), "fits");
        assert_eq!(check(&["nexus:plugin/transform@0.1.7"], &[]), "fits");
        assert_eq!(
            check(&["nexus:plugin/transform@0.3.0"], &[]),
            "the component is built for nexus:plugin 0.3.0, this host speaks nexus:plugin 0.1.0"
        );
        assert!(check(&["wasi:cli/run@0.2.0"], &[]).contains("exports wasi:cli/run@0.2.0"));
        assert!(check(&[], &[]).contains("exports nothing"));
        assert!(check(&[transform], &["acme:gpu/run@1.0.0"]).contains("imports acme:gpu/run@1.0.0, which this host"));
    }
}
