//! The ONNX project's backend suite through a host, with Python and its `onnx` package in a virtual environment.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Result;
use crate::process;
use crate::project::Project;

/// What the scripts were written against. ONNX Runtime's is the version that the host runs on.
const PACKAGES: [&str; 4] = ["onnx==1.23.2", "onnxruntime==1.32.0", "numpy==2.4.6", "ml_dtypes==0.6.0"];

/// Answers why it was left out, if it was.
pub(crate) fn run(project: &Project, library: &Path, names: Vec<String>) -> Result<Option<String>> {
    let python = match environment(project) {
        Ok(python) => python,
        Err(why) => return Ok(Some(why)),
    };
    let mut command = Command::new(python);
    command.arg(project.root.join("host/tests/conformance/conformance.py")).arg(project.host_binary(false)).args(names);
    // The scripts lie in the repository, where no compiled ones belong.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    project.runtime_env(&mut command, library);
    process::check(&mut command)?;
    Ok(None)
}

/// The Python that has the packages; made and filled the first time. An error says why it cannot be had.
fn environment(project: &Project) -> std::result::Result<PathBuf, String> {
    let system = process::find(&["python3"]).ok_or("no python3")?;
    let folder = project.target.join("conformance");
    let python = folder.join("bin/python");
    let has_all = |python: &Path| {
        python.is_file() && process::succeeds(Command::new(python).args(["-c", "import ml_dtypes, onnx, onnxruntime"]))
    };
    if has_all(&python) {
        return Ok(python);
    }
    let made = process::check(Command::new(system).args(["-m", "venv"]).arg(&folder));
    made.map_err(|error| format!("no virtual environment: {error}"))?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES);
    process::check(&mut pip).map_err(|error| format!("its packages could not be installed: {error}"))?;
    Ok(python)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_judge_is_the_onnx_runtime_that_the_host_runs_on() {
        let pinned = include_str!("../onnxruntime.txt").lines().find(|line| line.starts_with("onnxruntime==")).unwrap();
        assert!(PACKAGES.contains(&pinned.split_whitespace().next().unwrap()), "{pinned}");
    }
}
