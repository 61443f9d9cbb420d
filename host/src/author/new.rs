//! `plugin new`: a folder with a plugin that builds, its tests, and the SDK of this build.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::sdk::{self, File};

/// What `model-nexus plugin new` takes.
#[derive(Debug, Clone, Args)]
pub struct NewOptions {
    /// Name of the plugin and of its crate: lower-case letters, digits, `-` and `_`, the first a letter.
    pub name: String,

    /// Folder to make, which may be there if it is empty [default: the name].
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

const LONGEST_NAME: usize = 64;

/// Crates that a plugin depends on or finds under these names, and words that Rust keeps for itself. What clashes with
/// one of them does not build.
const TAKEN: [&str; 63] = [
    "alloc",
    "core",
    "nexus-guest",
    "nexus_guest",
    "proc-macro",
    "proc_macro",
    "schemars",
    "serde",
    "serde-json",
    "serde_json",
    "std",
    "test",
    "abstract",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "struct",
    "super",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
];

pub(super) fn run(options: &NewOptions) -> Result<(), String> {
    let name = &options.name;
    check_name(name)?;
    let folder = options.folder.clone().unwrap_or_else(|| PathBuf::from(name));
    check_folder(&folder)?;
    for file in sdk::template() {
        write(&folder, &File { content: fill_in(&file, name)?.into_bytes().into(), ..file })?;
    }
    for file in sdk::sdk()? {
        write(&folder, &file)?;
    }
    let (place, component) = (folder.display(), crate_name(name));
    println!(
        "Made the plugin {name} in {place}. Next:\n\n  \
         cd {place}\n  \
         cargo test                                     # natively, no server\n  \
         cargo build --release --target wasm32-wasip2   # rustup target add wasm32-wasip2, if it is missing\n  \
         model-nexus plugin check target/wasm32-wasip2/release/{component}.wasm\n  \
         model-nexus plugin run target/wasm32-wasip2/release/{component}.wasm --model MODEL.onnx --input REQUEST.json\n\n\
         src/lib.rs is the plugin, README.md says how to ship it, nexus-guest/README.md is the author's guide."
    );
    Ok(())
}

/// Cargo, Rust and the host each have rules for names; this is what they all take.
fn check_name(name: &str) -> Result<(), String> {
    let takes = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    if !name.bytes().all(takes) || !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        return Err(format!(
            "{name:?} is no name for a plugin: lower-case letters, digits, `-` and `_`, the first a letter"
        ));
    }
    if name.len() > LONGEST_NAME {
        return Err(format!("a plugin's name has at most {LONGEST_NAME} letters"));
    }
    if TAKEN.contains(&name) {
        return Err(format!(
            "{name:?} cannot be the name of a crate: Rust, or a crate that plugins use, has it already"
        ));
    }
    Ok(())
}

fn check_folder(folder: &Path) -> Result<(), String> {
    match fs::read_dir(folder) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(format!("{} is not empty; name a new folder with --folder", folder.display())),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("cannot make a plugin in {}: {error}", folder.display())),
    }
}

fn fill_in(file: &File, name: &str) -> Result<String, String> {
    let text = std::str::from_utf8(&file.content).map_err(|error| format!("{}: {error}", file.path))?;
    Ok(text.replace("{{name}}", name).replace("{{crate}}", &crate_name(name)))
}

/// As the compiler names the crate, and the file it makes.
fn crate_name(name: &str) -> String {
    name.replace('-', "_")
}

fn write(folder: &Path, file: &File) -> Result<(), String> {
    let path = folder.join(&file.path);
    let parent = path.parent().map_or(Ok(()), fs::create_dir_all);
    parent
        .and_then(|()| fs::write(&path, &file.content))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_cargo_rust_and_the_host_take() {
        for name in ["species", "a", "file-type", "v2_tabular", &"x".repeat(64)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "2fast", "-x", "Species", "a b", "a/b", "../x", "spé", "loop", "serde_json", &"x".repeat(65)]
        {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_template_leaves_no_placeholder() {
        for file in sdk::template() {
            let text = fill_in(&file, "my-plugin");
            assert!(text.is_ok_and(|text| !text.contains("{{name}}") && !text.contains("{{crate}}")), "{}", file.path);
        }
    }
}
