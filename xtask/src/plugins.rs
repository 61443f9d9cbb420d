//! The plugins: each package under plugins/ becomes a WebAssembly component in target/plugins-out/.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bundle;
use crate::error::{At, Error, Result};
use crate::process;
use crate::project::Project;
use crate::system::{self, Packages};

pub(crate) const TARGET: &str = "wasm32-wasip2";

/// Debian 12's own Rust, and what it needs to build the standard library for WebAssembly.
const DEBIAN_PACKAGES: [&str; 5] = ["rustc-web", "cargo-web", "rust-web-src", "wasi-libc", "lld-22"];

/// Builds every plugin. A component is written only when it changed, so that nothing else is rebuilt.
pub(crate) fn build(project: &Project) -> Result<()> {
    let names = names(&project.root)?;
    let target = target(project);
    let mut cargo = Toolchain::choose(project)?.cargo(project)?;
    cargo.args(["build", "--release", "--target", TARGET]);
    for name in &names {
        cargo.args(["--package", name]);
    }
    cargo.env("CARGO_TARGET_DIR", &target);
    process::check(&mut cargo)?;

    let built = target.join(TARGET).join("release");
    let mut wanted = BTreeMap::new();
    for name in &names {
        let component = built.join(format!("{}.wasm", name.replace('-', "_")));
        if !component.is_file() {
            return Err(Error::new(format!(
                "plugins/{name} made no component: its Cargo.toml needs `[lib]` with `crate-type = [\"cdylib\"]`"
            )));
        }
        wanted.insert(PathBuf::from(format!("{name}.wasm")), component);
    }
    bundle::sync(&project.components(), &wanted)
}

/// Where plugins are built. Whatever is built there shares the standard library and the SDK's dependencies.
pub(crate) fn target(project: &Project) -> PathBuf {
    project.target.join("plugins")
}

/// The packages under plugins/; a package is named as its folder.
pub(crate) fn names(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("plugins");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).at("list", &folder)? {
        let entry = entry.at("list", &folder)?;
        if entry.path().join("Cargo.toml").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Where the standard library for WebAssembly comes from.
#[derive(Debug, PartialEq)]
pub(crate) enum Toolchain {
    /// Rustup has it.
    Rustup,
    /// Debian's compiler builds it, with the component linker of rustup's toolchain.
    Debian,
}

impl Toolchain {
    pub(crate) fn choose(project: &Project) -> Result<Self> {
        if has_standard_library(project) {
            return Ok(Self::Rustup);
        }
        if rustup_may_fetch() {
            println!("      rustup target add {TARGET}");
            let added =
                process::check(Command::new("rustup").args(["target", "add", TARGET]).current_dir(&project.root));
            if added.is_ok() && has_standard_library(project) {
                return Ok(Self::Rustup);
            }
        }
        let missing = system::missing(&DEBIAN_PACKAGES);
        let missing = may_install(Packages::here(), &missing)?;
        if !missing.is_empty() {
            println!("      {TARGET} is not to be had from rustup: Debian's Rust builds it instead");
            system::install(missing)?;
        }
        Ok(Self::Debian)
    }

    pub(crate) fn cargo(&self, project: &Project) -> Result<Command> {
        let mut cargo = match self {
            Self::Rustup => project.cargo(),
            Self::Debian => debian_cargo(project)?,
        };
        // These would hide the flags for this target.
        cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        cargo.env("CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS", self.flags());
        // A plugin is small, and runs for every request: decoding a JPEG takes a fifth less time than with thin LTO.
        cargo.env("CARGO_PROFILE_RELEASE_LTO", "fat").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1");
        if *self == Self::Debian {
            cargo.arg("-Zbuild-std=std,panic_abort");
        }
        Ok(cargo)
    }

    /// What the compiler is told of the target.
    pub(crate) fn flags(&self) -> &'static str {
        match self {
            Self::Rustup => "-Ctarget-feature=+simd128",
            Self::Debian => "-L/usr/lib/wasm32-wasi -Ctarget-feature=+simd128",
        }
    }
}

/// `RUSTUP_AUTO_INSTALL=0` is how somebody says that rustup fetches nothing unasked.
fn rustup_may_fetch() -> bool {
    let forbidden = std::env::var_os("RUSTUP_AUTO_INSTALL").is_some_and(|value| value == "0");
    !forbidden && process::find(&["rustup"]).is_some()
}

fn has_standard_library(project: &Project) -> bool {
    let answer = process::output(rustc(project).args(["--print", "target-libdir", "--target", TARGET]));
    let Some(files) = answer.ok().and_then(|folder| fs::read_dir(folder).ok()) else {
        return false;
    };
    files.flatten().any(|file| {
        let name = file.file_name().to_string_lossy().into_owned();
        name.starts_with("libstd-") && name.ends_with(".rlib")
    })
}

fn rustc(project: &Project) -> Command {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.current_dir(&project.root);
    rustc
}

/// What to install, if that is for this program to do; else an error with the lines to type.
fn may_install<'a>(packages: Packages, missing: &'a [&'a str]) -> Result<&'a [&'a str]> {
    let rustup = format!("the WebAssembly target {TARGET} is missing. Add it with\n    rustup target add {TARGET}");
    match packages {
        Packages::Install => Ok(missing),
        Packages::Ask if missing.is_empty() => Ok(missing),
        Packages::Ask => {
            Err(Error::new(format!("{rustup}\nor, on Debian 12, with\n    {}", system::install_line(missing))))
        }
        Packages::Unknown => Err(Error::new(rustup)),
    }
}

/// Debian's cargo with Debian's rustc. Its own environment is cleared of what rustup and cargo left in this one.
fn debian_cargo(project: &Project) -> Result<Command> {
    let sysroot = process::output(rustc(project).args(["--print", "sysroot"]))?;
    let version = process::output(rustc(project).arg("-vV"))?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .ok_or_else(|| Error::new("`rustc -vV` names no host"))?;
    let tools = Path::new(&sysroot).join("lib/rustlib").join(host).join("bin");
    let mut cargo = Command::new("/usr/bin/cargo");
    cargo
        .current_dir(&project.root)
        .env("PATH", path_with(&[&tools, &tools.join("gcc-ld")])?)
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTC_BOOTSTRAP", "1");
    for name in ["CARGO", "LD_LIBRARY_PATH", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        cargo.env_remove(name);
    }
    Ok(cargo)
}

/// The search path with these folders first: `cargo xtask` put its toolchain's programs there.
fn path_with(first: &[&Path]) -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = first.iter().map(|folder| folder.to_path_buf()).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).map_err(|error| Error::new(format!("cannot extend PATH: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_installs_what_is_missing() {
        assert_eq!(may_install(Packages::Install, &["lld-22"]).unwrap(), ["lld-22"]);
    }

    #[test]
    fn others_are_told_both_ways() {
        let error = may_install(Packages::Ask, &["cargo-web", "lld-22"]).unwrap_err().to_string();
        assert!(error.contains("\n    rustup target add wasm32-wasip2\n"), "{error}");
        assert!(error.ends_with("\n    sudo apt-get install -y cargo-web lld-22"), "{error}");
    }

    #[test]
    fn nobody_needs_rights_for_what_is_there() {
        assert!(may_install(Packages::Ask, &[]).unwrap().is_empty());
    }

    #[test]
    fn without_apt_only_rustup_helps() {
        let error = may_install(Packages::Unknown, &DEBIAN_PACKAGES).unwrap_err().to_string();
        assert!(error.contains("rustup target add") && !error.contains("apt-get"), "{error}");
    }

    #[test]
    fn every_plugin_folder_is_a_package_of_that_name() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for name in names(root).unwrap() {
            let manifest = fs::read_to_string(root.join("plugins").join(&name).join("Cargo.toml")).unwrap();
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        }
    }
}
