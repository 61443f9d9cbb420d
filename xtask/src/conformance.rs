//! The ONNX project's backend suite through a host, with Python and its `onnx` package in a virtual environment.

use std::path::Path;

use crate::error::Result;
use crate::process;
use crate::project::Project;
use crate::python::Environment;

/// What the scripts were written against. ONNX Runtime's is the version that the host runs on.
const PACKAGES: [&str; 4] = ["onnx==1.23.2", "onnxruntime==1.32.0", "numpy==2.4.6", "ml_dtypes==0.6.0"];

/// Answers why it was left out, if it was.
pub(crate) fn run(project: &Project, library: &Path, names: Vec<String>) -> Result<Option<String>> {
    match Environment::ensure(project, "conformance", &PACKAGES)? {
        Err(why) => Ok(Some(why)),
        Ok(environment) => {
            let script = "host/tests/conformance/conformance.py";
            process::check(environment.script(project, library, script).args(names))?;
            Ok(None)
        }
    }
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
