//! The SDK of this very build, inside the binary: its sources, the contract, and what a new plugin is made from.

use std::borrow::Cow;

use rust_embed::RustEmbed;
use toml::{Table, Value};

#[derive(RustEmbed)]
#[folder = "../guest-sdk/template"]
struct Template;

#[derive(RustEmbed)]
#[folder = "../guest-sdk/src"]
struct Sources;

#[derive(RustEmbed)]
#[folder = "../wit"]
struct Contract;

const WORKSPACE: &str = include_str!("../../../Cargo.toml");
const MANIFEST: &str = include_str!("../../../guest-sdk/Cargo.toml");
const GUIDE: &str = include_str!("../../../guest-sdk/README.md");
const LICENSE: &str = include_str!("../../../LICENSE");
/// The versions that the SDK was tested with. Cargo drops those that a plugin does not use.
const LOCK: &str = include_str!("../../../Cargo.lock");

/// One file of a new plugin: its path in the folder, with slashes, and its content.
pub(super) struct File {
    pub(super) path: String,
    pub(super) content: Cow<'static, [u8]>,
}

/// The files made from the template, with `{{name}}` and `{{crate}}` in them still.
pub(super) fn template() -> Vec<File> {
    embedded::<Template>("")
}

/// The files that are the same for every plugin: SDK, contract, lock file.
///
/// # Errors
/// The SDK's manifest asks its workspace for something that the workspace does not have.
pub(super) fn sdk() -> Result<Vec<File>, String> {
    let text = |path: &str, content: &'static str| File { path: path.to_owned(), content: content.as_bytes().into() };
    let manifest = standalone_manifest(MANIFEST, WORKSPACE)?;
    let mut files = embedded::<Sources>("nexus-guest/src/");
    files.extend(embedded::<Contract>("wit/"));
    files.push(File { path: "nexus-guest/Cargo.toml".to_owned(), content: manifest.into_bytes().into() });
    files.push(text("nexus-guest/README.md", GUIDE));
    files.push(text("nexus-guest/LICENSE", LICENSE));
    files.push(text("Cargo.lock", LOCK));
    Ok(files)
}

fn embedded<E: RustEmbed>(folder: &str) -> Vec<File> {
    let files = E::iter().filter_map(|path| {
        let content = E::get(&path)?.data;
        Some(File { path: format!("{folder}{path}"), content })
    });
    files.collect()
}

/// A package's manifest with all that it takes from its workspace written out. Its tests and lints stay behind.
fn standalone_manifest(manifest: &str, workspace: &str) -> Result<String, String> {
    let mut manifest: Table = manifest.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let workspace: Table = workspace.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let workspace = table(workspace.get("workspace"));
    for left_behind in ["dev-dependencies", "lints"] {
        manifest.remove(left_behind);
    }
    if let Some(Value::Table(package)) = manifest.get_mut("package") {
        inherit(package, &table(workspace.get("package")))?;
    }
    inherit_dependencies(&mut manifest, &table(workspace.get("dependencies")))?;
    toml::to_string_pretty(&manifest).map_err(|error| error.to_string())
}

/// The dependencies of all targets and of each.
fn inherit_dependencies(manifest: &mut Table, shared: &Table) -> Result<(), String> {
    if let Some(Value::Table(dependencies)) = manifest.get_mut("dependencies") {
        inherit(dependencies, shared)?;
    }
    let Some(Value::Table(targets)) = manifest.get_mut("target") else { return Ok(()) };
    for target in targets.iter_mut().filter_map(|(_, target)| target.as_table_mut()) {
        inherit_dependencies(target, shared)?;
    }
    Ok(())
}

/// Replaces each `key = { workspace = true, … }` by what the workspace has under that key, and the rest of the entry.
fn inherit(entries: &mut Table, shared: &Table) -> Result<(), String> {
    for (key, entry) in entries.iter_mut() {
        let Some(own) = entry.as_table().filter(|own| own.get("workspace") == Some(&Value::Boolean(true))) else {
            continue;
        };
        let inherited = shared.get(key).ok_or_else(|| format!("the workspace has no {key:?}"))?;
        let mut own = own.clone();
        own.remove("workspace");
        *entry = if own.is_empty() { inherited.clone() } else { merge(inherited, own) };
    }
    Ok(())
}

/// A dependency of the workspace with what a package adds to it: its features come on top, the rest in place.
fn merge(inherited: &Value, own: Table) -> Value {
    let mut merged = match inherited {
        Value::Table(inherited) => inherited.clone(),
        version => Table::from_iter([("version".to_owned(), version.clone())]),
    };
    for (key, value) in own {
        match (merged.get_mut(&key), value) {
            (Some(Value::Array(features)), Value::Array(more)) => features.extend(more),
            (_, value) => drop(merged.insert(key, value)),
        }
    }
    Value::Table(merged)
}

fn table(value: Option<&Value>) -> Table {
    value.and_then(Value::as_table).cloned().unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_a_manifest_takes_from_its_workspace_is_written_out() {
        let workspace = r#"
            [workspace.package]
            version = "1.2.3"
            [workspace.dependencies]
            one = "1"
            two = { version = "2", default-features = false, features = ["a"] }
        "#;
        let manifest = r#"
            [package]
            name = "x"
            version.workspace = true
            [dependencies]
            one = { workspace = true, optional = true }
            three = "3"
            [target.'cfg(unix)'.dependencies]
            two = { workspace = true, features = ["b"] }
            [dev-dependencies]
            four.workspace = true
            [lints]
            workspace = true
        "#;
        let expected: Table = r#"
            [package]
            name = "x"
            version = "1.2.3"
            [dependencies]
            one = { version = "1", optional = true }
            three = "3"
            [target.'cfg(unix)'.dependencies]
            two = { version = "2", default-features = false, features = ["a", "b"] }
        "#
        .parse()
        .unwrap();
        assert_eq!(standalone_manifest(manifest, workspace).unwrap().parse::<Table>().unwrap(), expected);
        assert!(standalone_manifest("[dependencies]\nfive.workspace = true", workspace).unwrap_err().contains("five"));
    }

    #[test]
    fn the_sdk_of_this_build_stands_alone() {
        let files = sdk().unwrap();
        let content = |path: &str| {
            let file = files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("{path} is not there"));
            String::from_utf8(file.content.to_vec()).unwrap()
        };
        assert!(!content("nexus-guest/Cargo.toml").contains("workspace"));
        assert!(content("wit/plugin.wit").contains("package nexus:plugin@"));
        content("nexus-guest/src/http/wasi.rs");
    }
}
