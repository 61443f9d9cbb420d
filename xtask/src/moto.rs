//! The S3-compatible server that the tests of several hosts on one store run against.

use std::path::PathBuf;

use crate::error::Result;
use crate::project::Project;
use crate::python::Environment;

/// moto's `server` extra would bring what its other services need.
const PACKAGES: [&str; 3] = ["moto[s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5"];

/// Installs it where it is not yet. Answers with its program, or with why there is none.
pub(crate) fn ensure(project: &Project) -> Result<std::result::Result<PathBuf, String>> {
    let environment = Environment::ensure(project, "moto", &PACKAGES)?;
    Ok(environment.map(|environment| environment.program("moto_server")))
}
