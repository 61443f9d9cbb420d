//! ONNX Runtime's shared library: the one the user names, or the pinned version's wheel, checked and unpacked once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{At, Error, Result};
use crate::process;
use crate::project::Project;

const REQUIREMENTS: &str = include_str!("../onnxruntime.txt");

/// What a user may have set, the first one first.
const VARIABLES: [&str; 2] = ["ORT_DYLIB_PATH", "ONNX_LIBRARY_PATH"];

/// The absolute path of a shared library to load.
pub(crate) fn ensure(project: &Project) -> Result<PathBuf> {
    for variable in VARIABLES {
        if let Some(path) = std::env::var_os(variable).filter(|value| !value.is_empty()) {
            return named_by_user(variable, Path::new(&path));
        }
    }
    let version = pinned_version()?;
    let wheel = Wheel::of(std::env::consts::OS, std::env::consts::ARCH, version)?;
    let folder = project.target.join("onnxruntime").join(version);
    let library = folder.join(&wheel.library);
    if !library.is_file() {
        println!("      onnxruntime {version} for {}, with pip", wheel.platform);
        fetch(project, &wheel, &folder)?;
    }
    Ok(library)
}

fn named_by_user(variable: &str, path: &Path) -> Result<PathBuf> {
    if !path.is_file() {
        return Err(Error::new(format!(
            "{variable} names {}, which is not a file; set it to a libonnxruntime shared library, or unset it to use \
             the pinned version",
            path.display()
        )));
    }
    path.canonicalize().at("resolve", path)
}

fn pinned_version() -> Result<&'static str> {
    REQUIREMENTS
        .lines()
        .find_map(|line| line.strip_prefix("onnxruntime==")?.split_whitespace().next())
        .ok_or_else(|| Error::new("xtask/onnxruntime.txt pins no version"))
}

/// One platform's wheel: pip's name for the platform, and where the library lies in it.
#[derive(Debug, PartialEq)]
struct Wheel {
    platform: &'static str,
    library: PathBuf,
}

impl Wheel {
    fn of(os: &str, arch: &str, version: &str) -> Result<Self> {
        let (platform, file) = match (os, arch) {
            ("linux", "x86_64") => ("manylinux_2_28_x86_64", format!("libonnxruntime.so.{version}")),
            ("linux", "aarch64") => ("manylinux_2_28_aarch64", format!("libonnxruntime.so.{version}")),
            ("macos", "aarch64") => ("macosx_14_0_arm64", format!("libonnxruntime.{version}.dylib")),
            _ => {
                return Err(Error::new(format!(
                    "no ONNX Runtime {version} wheel is pinned for {os} on {arch}; set ORT_DYLIB_PATH to a \
                     libonnxruntime shared library of that version"
                )));
            }
        };
        Ok(Self { platform, library: Path::new("onnxruntime/capi").join(file) })
    }
}

/// Downloads and unpacks beside `folder`, then renames: what is at `folder` is whole, however this ends.
fn fetch(project: &Project, wheel: &Wheel, folder: &Path) -> Result<()> {
    let parent = folder.parent().unwrap_or(folder);
    fs::create_dir_all(parent).at("create", parent)?;
    // One at a time, so that nobody removes what another run is still downloading.
    let lock_file = parent.join(".lock");
    let lock = fs::File::create(&lock_file).at("create", &lock_file)?;
    lock.lock().at("lock", &lock_file)?;
    if folder.join(&wheel.library).is_file() {
        return Ok(());
    }
    let partial = parent.join(".partial");
    for leftover in [folder, &partial] {
        remove_if_there(leftover)?;
    }
    let result =
        fetch_into(project, wheel, &partial).and_then(|unpacked| fs::rename(unpacked, folder).at("publish", folder));
    remove_if_there(&partial)?;
    result
}

fn remove_if_there(folder: &Path) -> Result<()> {
    if folder.exists() { fs::remove_dir_all(folder).at("remove", folder) } else { Ok(()) }
}

fn fetch_into(project: &Project, wheel: &Wheel, partial: &Path) -> Result<PathBuf> {
    let python = python_with_pip()?;
    let (download, unpacked) = (partial.join("download"), partial.join("unpacked"));
    fs::create_dir_all(&download).at("create", &download)?;
    // The platform is named in full, so that every Python, whatever its version, gets the same file.
    process::check(
        Command::new(&python)
            .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"])
            .args(["--only-binary=:all:", "--require-hashes", "--implementation", "cp"])
            .args(["--python-version", "3.12", "--abi", "cp312", "--platform", wheel.platform])
            .arg("--requirement")
            .arg(project.root.join("xtask/onnxruntime.txt"))
            .arg("--dest")
            .arg(&download),
    )?;
    let file = only_file(&download)?;
    process::check(Command::new(&python).args(["-m", "zipfile", "-e"]).arg(file).arg(&unpacked))?;
    if !unpacked.join(&wheel.library).is_file() {
        return Err(Error::new(format!("the wheel holds no {}", wheel.library.display())));
    }
    Ok(unpacked)
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    let mut files = fs::read_dir(folder).at("list", folder)?;
    match (files.next(), files.next()) {
        (Some(file), None) => Ok(file.at("list", folder)?.path()),
        _ => Err(Error::new(format!("expected one wheel in {}", folder.display()))),
    }
}

fn python_with_pip() -> Result<PathBuf> {
    let Some(python) = process::find(&["python3"]) else {
        return Err(Error::new(how_to_get_pip("python3 is missing")));
    };
    if !process::succeeds(Command::new(&python).args(["-m", "pip", "--version"])) {
        return Err(Error::new(how_to_get_pip("this python3 has no pip")));
    }
    Ok(python)
}

fn how_to_get_pip(what: &str) -> String {
    let how = if process::find(&["apt-get"]).is_some() {
        "sudo apt-get install -y python3 python3-pip"
    } else if cfg!(target_os = "macos") {
        "brew install python"
    } else {
        "python3 -m ensurepip --user, or your system's python3-pip package"
    };
    format!(
        "{what}, and ONNX Runtime is fetched with it. Mend it with:\n    {how}\nor set ORT_DYLIB_PATH to a libonnxruntime"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_supported_platform_has_a_pinned_hash() {
        let version = pinned_version().unwrap();
        assert_eq!(version, "1.32.0");
        for (os, arch) in [("linux", "x86_64"), ("linux", "aarch64"), ("macos", "aarch64")] {
            Wheel::of(os, arch, version).unwrap();
        }
        assert_eq!(REQUIREMENTS.matches("--hash=sha256:").count(), 3);
    }

    #[test]
    fn the_library_is_named_as_the_platform_names_it() {
        let library = |os, arch| Wheel::of(os, arch, "1.2.3").unwrap().library;
        assert_eq!(library("linux", "aarch64"), Path::new("onnxruntime/capi/libonnxruntime.so.1.2.3"));
        assert_eq!(library("macos", "aarch64"), Path::new("onnxruntime/capi/libonnxruntime.1.2.3.dylib"));
    }

    #[test]
    fn another_platform_is_told_about_ort_dylib_path() {
        let error = Wheel::of("windows", "x86_64", "1.2.3").unwrap_err().to_string();
        assert!(error.contains("windows on x86_64") && error.contains("ORT_DYLIB_PATH"), "{error}");
    }

    #[test]
    fn a_path_that_is_not_a_file_is_refused() {
        let error = named_by_user("ORT_DYLIB_PATH", Path::new("/no/such.so")).unwrap_err().to_string();
        assert!(error.starts_with("ORT_DYLIB_PATH names /no/such.so, which is not a file"), "{error}");
    }
}
