//! Running other programs: checked, captured, or in place of this one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// Runs to the end with its output passed through; anything but success is an error naming the program.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| cannot_start(command, &error))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(format!("`{}` ended with {status}", line(command))))
}

/// Runs to the end and answers its standard output, trimmed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| cannot_start(command, &error))?;
    if !output.status.success() {
        return Err(Error::new(format!("`{}` ended with {}", line(command), output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// True if the program could be started and ended well; its output is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Becomes the other program, so that signals reach it. Comes back only where that failed.
pub(crate) fn replace(mut command: Command) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        let error = command.exec();
        Err(cannot_start(&command, &error))
    }
    #[cfg(not(unix))]
    check(&mut command)
}

/// The first of these programs that the search path holds.
pub(crate) fn find(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    names
        .iter()
        .find_map(|name| std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| is_program(file)))
}

fn is_program(file: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    }
    #[cfg(not(unix))]
    file.is_file()
}

fn cannot_start(command: &Command, error: &std::io::Error) -> Error {
    Error::new(format!("cannot run `{}`: {error}", command.get_program().to_string_lossy()))
}

fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|word| word.to_string_lossy()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_line() {
        let error = check(Command::new("false").arg("--now")).unwrap_err().to_string();
        assert!(error.starts_with("`false --now` ended with"), "{error}");
        let error = check(&mut Command::new("no-such-program")).unwrap_err().to_string();
        assert!(error.starts_with("cannot run `no-such-program`"), "{error}");
    }

    #[test]
    fn output_is_trimmed() {
        assert_eq!(output(Command::new("echo").arg("  hello ")).unwrap(), "hello");
    }

    #[test]
    fn finds_the_first_program_there_is() {
        assert!(find(&["no-such-program", "sh"]).unwrap().ends_with("sh"));
        assert_eq!(find(&["no-such-program"]), None);
    }
}
