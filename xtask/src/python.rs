//! Python tools of pinned versions, each set in a virtual environment of its own under target/test-tools.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{At, Result};
use crate::process;
use crate::project::Project;

/// A virtual environment with packages in it.
pub(crate) struct Environment(PathBuf);

impl Environment {
    /// Installs the packages where they are not yet. Answers with the environment, or with why there is none.
    pub(crate) fn ensure(
        project: &Project,
        name: &str,
        packages: &[&str],
    ) -> Result<std::result::Result<Environment, String>> {
        let environment = Environment(project.target.join("test-tools").join(name));
        // Written last, so that a half installation is none.
        let complete = environment.0.join("packages.txt");
        let packages = packages.join("\n");
        if std::fs::read_to_string(&complete).is_ok_and(|installed| installed == packages) {
            return Ok(Ok(environment));
        }
        if process::find(&["python3"]).is_none() {
            return Ok(Err("no python3".into()));
        }
        match install(&environment.0, packages.lines()) {
            Ok(()) => std::fs::write(&complete, packages).at("write", &complete)?,
            Err(error) => return Ok(Err(format!("the Python packages of {name} could not be installed: {error}"))),
        }
        Ok(Ok(environment))
    }

    /// One of the environment's programs, `python` among them.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.0.join("bin").join(name)
    }

    /// A script of the repository, which asks a host of this build.
    pub(crate) fn script(&self, project: &Project, library: &Path, script: &str) -> Command {
        let mut command = Command::new(self.program("python"));
        command.arg(project.root.join(script)).arg(project.host_binary(false));
        // The scripts lie in the repository, where no compiled ones belong.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        project.runtime_env(&mut command, library);
        command
    }
}

fn install<'p>(folder: &Path, packages: impl Iterator<Item = &'p str>) -> Result<()> {
    process::check(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder))?;
    let mut pip = Command::new(folder.join("bin/pip"));
    process::check(pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(packages))
}
