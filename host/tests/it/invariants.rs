//! What ARCHITECTURE.md promises of the source, as far as its text can show it.

use std::path::{Path, PathBuf};

use crate::support::repository_root;

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.is_dir() {
            true => rust_files(&path),
            false => vec![path],
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// Lines of code that name a crate or module by a path, comments left out.
fn uses(text: &str, word: &str) -> bool {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.into_iter().any(|line| {
        line.match_indices(word)
            .any(|(start, _)| !line[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
    })
}

#[test]
fn libraries_stay_in_their_rooms() {
    let source = repository_root().join("host/src");
    for (word, rooms) in [
        ("ort::", &["model/runtime.rs", "model/runner.rs", "model/values.rs", "model/admission/trial.rs"][..]),
        ("wasmtime", &["plugin/"]),
        ("wasmparser::", &["plugin/"]),
        ("object_store::", &["store.rs", "store/"]),
        ("axum::", &["http/", "routes.rs", "server.rs"]),
        ("tonic", &["grpc/", "server.rs"]),
        ("arrow_array::", &["batch/"]),
        ("parquet::", &["batch/"]),
        ("std::env", &["config.rs"]),
        ("reqwest::", &["plugin/egress.rs", "client/", "main.rs"]),
    ] {
        for file in rust_files(&source) {
            let name = file.strip_prefix(&source).unwrap().to_str().unwrap();
            let is_test = name.ends_with("tests.rs") || name.contains("tests/");
            if !is_test && !rooms.iter().any(|room| name.starts_with(room)) {
                let text = std::fs::read_to_string(&file).unwrap();
                assert!(!uses(&text, word), "{name} uses {word}, which belongs in {rooms:?}");
            }
        }
    }
}

#[test]
fn every_file_says_what_lives_there() {
    for folder in ["host", "guest-sdk", "plugins", "xtask"] {
        let is_data = |file: &PathBuf| file.components().any(|part| part.as_os_str() == "samples");
        for file in rust_files(&repository_root().join(folder)).into_iter().filter(|file| !is_data(file)) {
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.starts_with("//!"), "{} does not open with //!", file.display());
        }
    }
}

#[test]
fn what_protocols_share_knows_none_of_them() {
    for file in rust_files(&repository_root().join("host/src/oip")) {
        let text = std::fs::read_to_string(&file).unwrap();
        for word in ["axum::", "tonic", "crate::http", "crate::grpc"] {
            assert!(!uses(&text, word), "{} uses {word}", file.display());
        }
    }
}
