//! Clients of others against a host: those of Triton and KServe, and Schemathesis, which makes requests from `/openapi.json`.

use std::path::Path;

use crate::error::Result;
use crate::process;
use crate::project::Project;
use crate::python::Environment;

/// `tritonclient[all]` would bring CUDA's bindings, which only its shared memory needs.
const PROTOCOL_CLIENTS: [&str; 3] = ["tritonclient[http,grpc]==2.73.0", "kserve==0.21.0", "pytest==9.2.0"];
const SCHEMATHESIS: [&str; 1] = ["schemathesis==4.32.5"];

/// Answers why they were left out, if they were. `args` go to pytest.
pub(crate) fn ask(project: &Project, library: &Path, args: &[String]) -> Result<Option<String>> {
    run(project, library, "clients", &PROTOCOL_CLIENTS, "host/tests/clients/clients.py", args)
}

/// Answers why it was left out, if it was. `args` go to `schemathesis run`.
pub(crate) fn fuzz(project: &Project, library: &Path, args: &[String]) -> Result<Option<String>> {
    run(project, library, "schemathesis", &SCHEMATHESIS, "host/tests/clients/fuzz.py", args)
}

fn run(
    project: &Project,
    library: &Path,
    name: &str,
    packages: &[&str],
    script: &str,
    args: &[String],
) -> Result<Option<String>> {
    match Environment::ensure(project, name, packages)? {
        Err(why) => Ok(Some(why)),
        Ok(environment) => {
            process::check(environment.script(project, library, script).args(args))?;
            Ok(None)
        }
    }
}
