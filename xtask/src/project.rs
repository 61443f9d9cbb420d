//! Where things are: the repository, the target folder, and what the host is told about them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::process;

/// The host's package and binary.
pub(crate) const HOST: &str = "model-nexus";

pub(crate) struct Project {
    /// The repository's root.
    pub(crate) root: PathBuf,
    /// Cargo's target folder; everything this crate makes lies under it.
    pub(crate) target: PathBuf,
}

impl Project {
    /// Asks cargo, which knows of CARGO_TARGET_DIR and of every configuration file.
    pub(crate) fn locate() -> Result<Self> {
        // `cargo run` says where this checkout is; a binary shared by several checkouts was built in only one of them.
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let manifest = Path::new(&manifest);
        let root = manifest.parent().unwrap_or(manifest).to_owned();
        let metadata =
            process::output(cargo_in(&root).args(["metadata", "--no-deps", "--offline", "--format-version", "1"]))?;
        let target =
            target_directory(&metadata).ok_or_else(|| Error::new("`cargo metadata` names no target_directory"))?;
        Ok(Self { root, target })
    }

    pub(crate) fn cargo(&self) -> Command {
        cargo_in(&self.root)
    }

    /// What a server needs beside its binary: models/ and plugins/.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.target.join("bundle")
    }

    /// Every component built from plugins/, the sandbox's test fixture included.
    pub(crate) fn components(&self) -> PathBuf {
        self.target.join("plugins-out")
    }

    /// The components built from guest-sdk/examples/, those whose toolchains are here.
    pub(crate) fn examples(&self) -> PathBuf {
        self.target.join("plugins-out-examples")
    }

    pub(crate) fn host_binary(&self, release: bool) -> PathBuf {
        let profile = if release { "release" } else { "debug" };
        self.target.join(profile).join(format!("{HOST}{}", std::env::consts::EXE_SUFFIX))
    }

    pub(crate) fn build_host(&self, release: bool) -> Result<()> {
        let mut cargo = self.cargo();
        cargo.args(["build", "--package", HOST, "--bin", HOST]);
        if release {
            cargo.arg("--release");
        }
        process::check(&mut cargo)
    }

    /// Tells a host, or a test of it, where ONNX Runtime and the bundle are.
    pub(crate) fn runtime_env(&self, command: &mut Command, library: &Path) {
        command.env("ORT_DYLIB_PATH", library);
        // The host sets it for itself; tests and benchmarks load ONNX Runtime in processes of their own.
        command.env("ORT_DISABLE_TELEMETRY", "1");
        command.env("NEXUS_BUNDLE", self.bundle());
    }
}

/// The cargo that runs this program, if one does.
fn cargo_in(root: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    cargo
}

/// Reads one string from `cargo metadata`'s JSON. The last such key is cargo's own: packages come before it.
fn target_directory(metadata: &str) -> Option<PathBuf> {
    const KEY: &str = "\"target_directory\":\"";
    let text = &metadata[metadata.rfind(KEY)? + KEY.len()..];
    let mut path = String::new();
    let mut characters = text.chars();
    loop {
        match characters.next()? {
            '"' => return Some(PathBuf::from(path)),
            '\\' => path.push(characters.next()?),
            character => path.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_directory_is_read_from_metadata() {
        let metadata = r#"{"packages":[{"x":"target_directory"}],"target_directory":"/a b/t\"q","version":1}"#;
        assert_eq!(target_directory(metadata), Some(PathBuf::from("/a b/t\"q")));
        assert_eq!(target_directory("{}"), None);
        assert_eq!(target_directory(r#"{"target_directory":"/cut"#), None);
    }

    #[test]
    fn this_repository_is_found() {
        let project = Project::locate().unwrap();
        assert!(project.root.join("xtask/src/project.rs").is_file());
        assert!(project.target.is_absolute());
    }
}
