//! The console in a real browser: host/ui/smoke.mjs starts a server and clicks through it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::process;
use crate::project::Project;
use crate::system::{self, Packages};

const CHROMIUM: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
const CHROME_ON_MACOS: &str = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome";

/// Answers why the test was left out, where there is no browser; continuous integration installs one or fails.
pub(crate) fn smoke_test(project: &Project, library: &Path) -> Result<Option<String>> {
    if system::is_ci() && Packages::here() == Packages::Install && !missing().is_empty() {
        system::install(&missing())?;
    }
    let (Some(chromium), []) = (chromium(), missing().as_slice()) else {
        let missing = missing();
        let what = format!("no {}; {}", missing.join(", no "), system::install_line(&missing));
        return if system::is_ci() { Err(Error::new(what)) } else { Ok(Some(what)) };
    };
    let binary = project.host_binary(false);
    if !binary.is_file() {
        return Err(Error::new(format!("the tests built no {}", binary.display())));
    }
    let ui = project.root.join("host/ui");
    process::check(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&ui))?;
    let mut node = Command::new("node");
    node.arg("smoke.mjs").current_dir(&ui);
    project.runtime_env(&mut node, library);
    node.env("NEXUS_TEST_PLUGINS", project.components());
    process::check(node.env("MODEL_NEXUS_BIN", binary).env("CHROMIUM", chromium))?;
    Ok(None)
}

/// Debian's names for what is not there.
fn missing() -> Vec<&'static str> {
    let mut missing = Vec::new();
    if chromium().is_none() {
        missing.push("chromium");
    }
    for (package, program) in [("nodejs", "node"), ("npm", "npm")] {
        if process::find(&[program]).is_none() {
            missing.push(package);
        }
    }
    missing
}

fn chromium() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("CHROMIUM").filter(|value| !value.is_empty()) {
        return Some(PathBuf::from(named));
    }
    process::find(&CHROMIUM).or_else(|| Some(PathBuf::from(CHROME_ON_MACOS)).filter(|file| file.is_file()))
}
