//! `cargo xtask`: everything a contributor types. Each command is a list of steps, each step says when it begins.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod browser;
mod bundle;
mod clients;
mod conformance;
mod error;
mod guests;
mod moto;
mod new_plugin;
mod onnx_runtime;
mod plugins;
mod process;
mod project;
mod python;
mod steps;
mod system;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use args::Command;
use error::Result;
use project::Project;
use steps::Steps;

/// A step that asks a host, with arguments of its own; answers why it was left out, if it was.
type Asks = fn(&Project, &Path, &[String]) -> Result<Option<String>>;

/// Steps that are commands of their own too.
const ASKING: &str = "asking a host with the clients of Triton and KServe";
const FUZZING: &str = "sending requests made from /openapi.json";

fn main() -> ExitCode {
    let result = match args::parse(std::env::args().skip(1)) {
        Ok(command) => dispatch(command),
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Help => {
            print!("{}", args::HELP);
            Ok(())
        }
        Command::Serve { debug, args } => serve(debug, args),
        Command::Test { args } => test(args),
        Command::Bench { args } => bench(args),
        Command::Clients { args } => against_a_host(ASKING, |project, library| clients::ask(project, library, &args)),
        Command::Schemathesis { args } => {
            against_a_host(FUZZING, |project, library| clients::fuzz(project, library, &args))
        }
        Command::Conformance { names } => conformance(names),
        Command::Bundle { out } => bundle(out),
        Command::Build { out } => build(out),
    }
}

fn serve(debug: bool, args: Vec<String>) -> Result<()> {
    let project = Project::locate()?;
    let mut steps = Steps::new(4);
    let library = ensure_bundle(&project, &mut steps, &project.bundle())?;
    let profile = if debug { "debug" } else { "release" };
    steps
        .run(&format!("building the host ({profile}; the first time takes minutes)"), || project.build_host(!debug))?;
    let mut server = std::process::Command::new(project.host_binary(!debug));
    server.arg("serve").args(args);
    project.runtime_env(&mut server, &library);
    process::replace(server)
}

fn test(args: Vec<String>) -> Result<()> {
    let project = Project::locate()?;
    let mut steps = Steps::new(12);
    steps.run("checking the format", || process::check(project.cargo().args(["fmt", "--all", "--", "--check"])))?;
    let library = ensure_bundle(&project, &mut steps, &project.bundle())?;
    steps.run("running clippy", || {
        process::check(project.cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    })?;
    let guests = steps.run("building the plugins in other languages", || guests::build(&project))?;
    if let Some(why) = guests.skipped() {
        steps.skipped(why);
    }
    let moto = steps.run("getting an S3-compatible server", || moto::ensure(&project))?;
    if let Err(why) = &moto {
        steps.skipped(why.clone());
    }
    steps.run("running the tests", || {
        let mut cargo = project.cargo();
        cargo.args(["test", "--workspace"]).args(args);
        project.runtime_env(&mut cargo, &library);
        cargo.env("NEXUS_TEST_PLUGINS", project.components());
        guests.env(&mut cargo)?;
        cargo.env_remove("NEXUS_TEST_MOTO");
        if let Ok(moto) = &moto {
            cargo.env("NEXUS_TEST_MOTO", moto);
        }
        process::check(&mut cargo)
    })?;
    steps.run("making, building and running a new plugin", || new_plugin::try_out(&project, &library))?;
    for (step, run) in [(ASKING, clients::ask as Asks), (FUZZING, clients::fuzz)] {
        if let Some(why) = steps.run(step, || run(&project, &library, &[]))? {
            steps.skipped(why);
        }
    }
    let skipped = steps.run("smoke-testing the console in a browser", || browser::smoke_test(&project, &library))?;
    if let Some(why) = skipped {
        steps.skipped(why);
    }
    steps.summary();
    Ok(())
}

fn bench(args: Vec<String>) -> Result<()> {
    let project = Project::locate()?;
    let mut steps = Steps::new(5);
    let library = ensure_bundle(&project, &mut steps, &project.bundle())?;
    steps.run("building the host (release)", || project.build_host(true))?;
    steps.run("running the benchmark", || {
        let mut cargo = project.cargo();
        cargo.args(["bench", "--package", project::HOST, "--bench", "serving", "--"]).args(args);
        project.runtime_env(&mut cargo, &library);
        cargo.env("MODEL_NEXUS_BIN", project.host_binary(true));
        process::check(&mut cargo)
    })
}

/// Builds what a host needs, and runs one step against it.
fn against_a_host(step: &str, run: impl FnOnce(&Project, &Path) -> Result<Option<String>>) -> Result<()> {
    let project = Project::locate()?;
    let mut steps = Steps::new(5);
    let library = ensure_bundle(&project, &mut steps, &project.bundle())?;
    steps.run("building the host (debug)", || project.build_host(false))?;
    if let Some(why) = steps.run(step, || run(&project, &library))? {
        steps.skipped(why);
    }
    steps.summary();
    Ok(())
}

fn conformance(names: Vec<String>) -> Result<()> {
    let project = Project::locate()?;
    let mut steps = Steps::new(3);
    let library = steps.run("getting ONNX Runtime", || onnx_runtime::ensure(&project))?;
    steps.run("building the host (debug)", || project.build_host(false))?;
    let step = "sending the ONNX backend suite through the host";
    let skipped = steps.run(step, || conformance::run(&project, &library, names))?;
    if let Some(why) = skipped {
        steps.skipped(why);
    }
    steps.summary();
    Ok(())
}

fn bundle(out: Option<PathBuf>) -> Result<()> {
    let project = Project::locate()?;
    let mut steps = Steps::new(3);
    let folder = out.unwrap_or_else(|| project.bundle());
    let library = ensure_bundle(&project, &mut steps, &folder)?;
    println!("ONNX Runtime: {}\nbundle:       {}", library.display(), folder.display());
    Ok(())
}

fn build(out: Option<PathBuf>) -> Result<()> {
    let project = Project::locate()?;
    let mut steps = Steps::new(if out.is_some() { 5 } else { 4 });
    let library = ensure_bundle(&project, &mut steps, &project.bundle())?;
    steps.run("building the host (release)", || project.build_host(true))?;
    let binary = project.host_binary(true);
    if let Some(out) = out {
        return steps.run(&format!("gathering everything in {}", out.display()), || {
            bundle::gather(&out, &binary, &library, &project.bundle())
        });
    }
    println!(
        "binary:       {}\nONNX Runtime: {}\nbundle:       {}",
        binary.display(),
        library.display(),
        project.bundle().display()
    );
    Ok(())
}

/// The three steps every command shares. Answers where ONNX Runtime's shared library is.
fn ensure_bundle(project: &Project, steps: &mut Steps, folder: &Path) -> Result<PathBuf> {
    let library = steps.run("getting ONNX Runtime", || onnx_runtime::ensure(project))?;
    steps.run("building the plugins (wasm32-wasip2)", || plugins::build(project))?;
    steps.run("assembling the bundle", || bundle::assemble(project, folder))?;
    Ok(library)
}
