//! The machine: who runs this, and Debian's packages where it has them.

use std::process::Command;

use crate::error::{Error, Result};
use crate::process;

/// What may be done about a missing system package.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Packages {
    /// Root on a machine with apt-get.
    Install,
    /// Somebody else there: the command can be named.
    Ask,
    /// No apt-get.
    Unknown,
}

impl Packages {
    pub(crate) fn here() -> Self {
        match (process::find(&["apt-get"]), is_root()) {
            (None, _) => Self::Unknown,
            (Some(_), true) => Self::Install,
            (Some(_), false) => Self::Ask,
        }
    }
}

pub(crate) fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

fn is_root() -> bool {
    process::output(Command::new("id").arg("-u")).is_ok_and(|id| id == "0")
}

/// Those of the packages that are not installed.
pub(crate) fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    packages.iter().copied().filter(|package| !is_installed(package)).collect()
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Status}", package])
        .output()
        .is_ok_and(|answer| answer.stdout == b"install ok installed")
}

/// Installs packages as root, and says so.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    println!("      installing system packages: {}", packages.join(" "));
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").stdin(std::process::Stdio::null());
        apt
    };
    process::check(apt().args(["update", "-qq"]))?;
    process::check(apt().args(["install", "-y", "-qq", "--no-install-recommends", "--no-remove"]).args(packages))
        .map_err(|error| Error::new(format!("{error}\nBy hand: {}", install_line(packages))))
}

/// The line that somebody types who is not root.
pub(crate) fn install_line(packages: &[&str]) -> String {
    format!("sudo apt-get install -y {}", packages.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_nobody_has_is_missing() {
        assert_eq!(missing(&["no-such-package-anywhere"]), ["no-such-package-anywhere"]);
    }

    #[test]
    fn the_line_to_type_can_be_pasted() {
        assert_eq!(install_line(&["a", "b"]), "sudo apt-get install -y a b");
    }
}
