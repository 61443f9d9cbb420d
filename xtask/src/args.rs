//! The command line: what `cargo xtask` understands.

use std::path::PathBuf;

use crate::error::{Error, Result};

pub(crate) const HELP: &str = "\
Everything a contributor types.

Usage: cargo xtask <COMMAND>

Commands:
  serve [--debug] [-- ARGS]  Build all there is and run `model-nexus serve ARGS`. --debug: a build that compiles
                             sooner and serves slower
  test [-- ARGS]             What must pass before a change lands: format, clippy, tests, plugins in other languages, a
                             new plugin from the template, clients of others, a browser on the console. ARGS go to
                             `cargo test --workspace`
  clients [-- ARGS]          Only Triton's and KServe's Python clients against a host. ARGS go to pytest
  schemathesis [-- ARGS]     Only requests made from /openapi.json against a host, and their answers against it. ARGS go
                             to `schemathesis run`, as --include-path=/predict
  bench [-- ARGS]            Run the serving benchmark on a release build. ARGS go to the benchmark
  conformance [-- NAMES]     Send every model of the ONNX project's backend suite through a host, and compare with what
                             plain ONNX Runtime makes of it; some minutes. NAMES: only models whose names hold one
  build [--out DIR]          Build the host (release), the plugins and the bundle. --out: also gather what a server
                             needs in DIR: model-nexus, libonnxruntime, bundle/
  bundle [--out DIR]         Only ONNX Runtime, the plugins and the bundled models (default: target/bundle)
  help                       This text

Environment:
  ORT_DYLIB_PATH             An ONNX Runtime shared library to use (also: ONNX_LIBRARY_PATH). Without it, the pinned
                             version is taken with pip, checked, and kept under target/
  CARGO_TARGET_DIR           Where builds go, as for cargo
  CHROMIUM                   The browser that `test` uses
";

#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Help,
    Serve { debug: bool, args: Vec<String> },
    Test { args: Vec<String> },
    Bench { args: Vec<String> },
    Clients { args: Vec<String> },
    Schemathesis { args: Vec<String> },
    Conformance { names: Vec<String> },
    Bundle { out: Option<PathBuf> },
    Build { out: Option<PathBuf> },
}

pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Command> {
    let mut arguments = arguments.into_iter();
    let Some(name) = arguments.next() else {
        return Ok(Command::Help);
    };
    let rest: Vec<String> = arguments.collect();
    let own = rest.split(|argument| argument == "--").next().unwrap_or_default();
    if own.iter().any(|argument| argument == "--help" || argument == "-h") {
        return Ok(Command::Help);
    }
    match name.as_str() {
        "help" | "--help" | "-h" => Ok(Command::Help),
        "serve" => {
            let debug = own.first().is_some_and(|argument| argument == "--debug");
            Ok(Command::Serve { debug, args: passed_on(&rest[usize::from(debug)..]) })
        }
        "test" => Ok(Command::Test { args: passed_on(&rest) }),
        "bench" => Ok(Command::Bench { args: passed_on(&rest) }),
        "clients" => Ok(Command::Clients { args: passed_on(&rest) }),
        "schemathesis" => Ok(Command::Schemathesis { args: passed_on(&rest) }),
        "conformance" => Ok(Command::Conformance { names: passed_on(&rest) }),
        "bundle" => Ok(Command::Bundle { out: out_folder(&rest)? }),
        "build" => Ok(Command::Build { out: out_folder(&rest)? }),
        other => Err(Error::new(format!("unknown command `{other}`; `cargo xtask help` lists them all"))),
    }
}

/// What follows is passed on, with or without a `--` before it.
fn passed_on(arguments: &[String]) -> Vec<String> {
    let skip = usize::from(arguments.first().is_some_and(|argument| argument == "--"));
    arguments[skip..].to_vec()
}

fn out_folder(arguments: &[String]) -> Result<Option<PathBuf>> {
    match arguments {
        [] => Ok(None),
        [option, folder] if option == "--out" => Ok(Some(PathBuf::from(folder))),
        [option] if option.starts_with("--out=") => Ok(Some(PathBuf::from(&option["--out=".len()..]))),
        other => Err(Error::new(format!("expected `--out DIR` or nothing, got `{}`", other.join(" ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn help_wherever_it_is_asked_for() {
        for line in ["", "help", "--help", "-h", "serve --help", "build -h"] {
            assert_eq!(parsed(line).unwrap(), Command::Help, "{line:?}");
        }
    }

    #[test]
    fn serve_passes_arguments_on() {
        let args = vec!["--port".to_owned(), "9000".to_owned()];
        for line in ["serve -- --port 9000", "serve --port 9000"] {
            assert_eq!(parsed(line).unwrap(), Command::Serve { debug: false, args: args.clone() });
        }
        assert_eq!(parsed("serve --debug -- --port 9000").unwrap(), Command::Serve { debug: true, args });
        let help = Command::Serve { debug: false, args: vec!["--help".to_owned()] };
        assert_eq!(parsed("serve -- --help").unwrap(), help);
    }

    #[test]
    fn clients_are_asked_for_one_by_one() {
        let args = vec!["-k".to_owned(), "grpc".to_owned()];
        assert_eq!(parsed("clients -- -k grpc").unwrap(), Command::Clients { args });
        assert_eq!(parsed("schemathesis").unwrap(), Command::Schemathesis { args: Vec::new() });
    }

    #[test]
    fn out_takes_a_folder() {
        let out = Some(PathBuf::from("/x"));
        assert_eq!(parsed("bundle --out /x").unwrap(), Command::Bundle { out: out.clone() });
        assert_eq!(parsed("build --out=/x").unwrap(), Command::Build { out });
        assert_eq!(parsed("build").unwrap(), Command::Build { out: None });
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for line in ["sevre", "bundle --out", "build --release"] {
            assert!(parsed(line).is_err(), "{line:?}");
        }
    }
}
