//! The example plugins in other languages: built by their own scripts, where their toolchains are.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::process;
use crate::project::Project;

/// An example under guest-sdk/examples/, what its script needs, and the tool that it installs.
struct Example {
    language: &'static str,
    needs: &'static [&'static str],
    tool: &'static str,
}

const EXAMPLES: [Example; 2] = [
    Example { language: "javascript", needs: &["node", "npm"], tool: "node_modules/.bin/componentize-js" },
    Example { language: "python", needs: &["python3"], tool: "bin/componentize-py" },
];

/// The components that could be built, and why the others could not.
pub(crate) struct Guests {
    built: Vec<PathBuf>,
    left_out: Vec<String>,
}

pub(crate) fn build(project: &Project) -> Result<Guests> {
    let mut guests = Guests { built: Vec::new(), left_out: Vec::new() };
    for example in &EXAMPLES {
        let out = project.examples().join(format!("{}.wasm", example.language));
        match build_one(project, example, &out)? {
            None => guests.built.push(out),
            Some(why) => guests.left_out.push(format!("{}: {why}", example.language)),
        }
    }
    Ok(guests)
}

/// Answers why it was left out. Where the tool is installed, a build that fails is the example's fault, not the machine's.
fn build_one(project: &Project, example: &Example, out: &Path) -> Result<Option<String>> {
    if let Some(missing) = example.needs.iter().find(|program| process::find(&[program]).is_none()) {
        return Ok(Some(format!("no {missing}")));
    }
    let folder = project.root.join("guest-sdk/examples").join(example.language);
    let tools = project.target.join("guest-tools").join(example.language);
    match process::check(Command::new(folder.join("build.sh")).arg(out).arg(&tools)) {
        Ok(()) if out.is_file() => Ok(None),
        Ok(()) => Err(Error::new(format!("{} made no {}", folder.join("build.sh").display(), out.display()))),
        Err(_) if !tools.join(example.tool).exists() => Ok(Some(format!("{} could not be installed", example.tool))),
        Err(error) => Err(error),
    }
}

impl Guests {
    /// Why some were left out, if any were.
    pub(crate) fn skipped(&self) -> Option<String> {
        (!self.left_out.is_empty()).then(|| self.left_out.join("; "))
    }

    /// Tells the tests which components there are; without any, they say that they skip them.
    pub(crate) fn env(&self, command: &mut Command) -> Result<()> {
        command.env_remove("NEXUS_TEST_GUESTS");
        if !self.built.is_empty() {
            let paths = std::env::join_paths(&self.built);
            command.env("NEXUS_TEST_GUESTS", paths.map_err(|error| Error::new(error.to_string()))?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_has_a_script() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-sdk/examples");
        let folders = std::fs::read_dir(&examples).unwrap().count();
        assert_eq!(folders, EXAMPLES.len(), "an example is built by nobody");
        for example in &EXAMPLES {
            assert!(examples.join(example.language).join("build.sh").is_file(), "{}", example.language);
        }
    }

    #[test]
    fn the_tests_are_told_what_was_built() {
        let told = |guests: &Guests| {
            let mut command = Command::new("true");
            guests.env(&mut command).unwrap();
            let value = command.get_envs().find(|(name, _)| *name == "NEXUS_TEST_GUESTS").and_then(|(_, value)| value);
            value.map(|value| value.to_string_lossy().into_owned())
        };
        let none = Guests { built: Vec::new(), left_out: vec!["python: no python3".into()] };
        assert_eq!((told(&none), none.skipped().as_deref()), (None, Some("python: no python3")));
        let both = Guests { built: vec!["/a.wasm".into(), "/b.wasm".into()], left_out: Vec::new() };
        assert_eq!((told(&both).as_deref(), both.skipped()), (Some("/a.wasm:/b.wasm"), None));
    }
}
