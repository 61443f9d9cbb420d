//! The S3-compatible server that the tests of several hosts on one store run against.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{At, Result};
use crate::process;
use crate::project::Project;

/// moto's `server` extra would bring what its other services need.
const PACKAGES: [&str; 3] = ["moto[s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5"];

/// Installs it where it is not yet. Answers with its program, or with why there is none.
pub(crate) fn ensure(project: &Project) -> Result<std::result::Result<PathBuf, String>> {
    let folder = project.target.join("test-tools/moto");
    let program = folder.join("bin/moto_server");
    // Written last, so that a half installation is none.
    let complete = folder.join("packages.txt");
    let packages = PACKAGES.join("\n");
    if std::fs::read_to_string(&complete).is_ok_and(|installed| installed == packages) {
        return Ok(Ok(program));
    }
    if process::find(&["python3"]).is_none() {
        return Ok(Err("no python3".into()));
    }
    match install(&folder) {
        Ok(()) => std::fs::write(&complete, packages).at("write", &complete)?,
        Err(error) => return Ok(Err(format!("moto_server could not be installed: {error}"))),
    }
    Ok(Ok(program))
}

fn install(folder: &Path) -> Result<()> {
    process::check(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder))?;
    let mut pip = Command::new(folder.join("bin/pip"));
    process::check(pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES))
}
