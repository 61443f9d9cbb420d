//! A plugin as an author begins one: made by `model-nexus plugin new`, tested, built, checked and run.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::error::{At, Error, Result};
use crate::plugins::{self, TARGET, Toolchain};
use crate::process;
use crate::project::Project;

const NAME: &str = "first-plugin";

/// Everything that the template's README tells an author to type, before shipping.
pub(crate) fn try_out(project: &Project, library: &Path) -> Result<()> {
    let binary = project.host_binary(false);
    if !binary.is_file() {
        return Err(Error::new(format!("the tests built no {}", binary.display())));
    }
    let folder = project.target.join("new-plugin");
    if folder.exists() {
        fs::remove_dir_all(&folder).at("remove", &folder)?;
    }
    let host = || {
        let mut host = Command::new(&binary);
        project.runtime_env(&mut host, library);
        host.arg("plugin");
        host
    };
    process::check(host().args(["new", NAME, "--folder"]).arg(&folder))?;

    let mut cargo = project.cargo();
    cargo.args(["test", "--quiet"]).current_dir(&folder);
    process::check(cargo.env("CARGO_TARGET_DIR", project.target.join("new-plugin-target")))?;

    let toolchain = Toolchain::choose(project)?;
    let mut cargo = toolchain.cargo(project)?;
    cargo.args(["build", "--release", "--target", TARGET]).current_dir(&folder);
    // In place of these flags and those of the folder's own .cargo/config.toml together, which would be others than the
    // plugins of this repository have, so that everything was compiled again.
    cargo.env("RUSTFLAGS", toolchain.flags());
    process::check(cargo.env("CARGO_TARGET_DIR", plugins::target(project)))?;
    let file = format!("{}.wasm", NAME.replace('-', "_"));
    let component = plugins::target(project).join(TARGET).join("release").join(file);

    process::check(host().arg("check").arg(&component))?;
    let model = project.root.join("models/iris/1/model.onnx");
    let labels = project.root.join("models/iris/1/labels.json");
    let mut run = host();
    run.arg("run").arg(&component).arg("--model").arg(model).arg("--labels").arg(labels);
    run.args(["--input", r#"{"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}"#]);
    let shown = process::output(&mut run)?;
    println!("{shown}");
    match shown.contains(r#""label": "setosa""#) {
        true => Ok(()),
        false => Err(Error::new("the new plugin did not tell a setosa")),
    }
}
