// SPDX-License-Identifier: GPL-2.0-only
//! Runs commands: output into a log, the tail of it into the error.
//!
//! Not here: what to run and where (see `root`). Rule: a failed command is reported with what it
//! was for, its status, the last lines it printed and the file with all of them.

use std::fs;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

/// Lines of a log that an error shows.
const TAIL_LINES: usize = 20;

/// A log file that commands append to.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
}

impl Log {
    /// Starts the log `name` in `dir` anew.
    pub(crate) fn create(dir: &Path, name: &str) -> Result<Log> {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let path = dir.join(format!("{name}.log"));
        File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Log { path })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it.
    pub(crate) fn lines(&self) -> Result<Vec<String>> {
        let text =
            fs::read(&self.path).with_context(|| format!("reading {}", self.path.display()))?;
        Ok(String::from_utf8_lossy(&text)
            .lines()
            .map(str::to_owned)
            .collect())
    }

    /// Runs `command` with all output in the log; `what` says in an error what it was for.
    pub(crate) fn run(&self, what: &str, command: &mut Command) -> Result<()> {
        self.run_fed(what, command, Stdio::null())
    }

    /// As [`Log::run`], with a standard input.
    pub(crate) fn run_fed(&self, what: &str, command: &mut Command, input: Stdio) -> Result<()> {
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(&self.path)
            .with_context(|| format!("opening {}", self.path.display()))?;
        writeln!(file, "# {what}: {}", shown(command))?;
        let status = command
            .stdin(input)
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .with_context(|| format!("{what}: starting {}", program(command)))?;
        if !status.success() {
            let text = fs::read(&self.path).unwrap_or_default();
            bail!(
                "{what} failed ({status}); the last lines:\n{}\nall of it: {}",
                tail(&String::from_utf8_lossy(&text), TAIL_LINES),
                self.path.display()
            );
        }
        Ok(())
    }
}

/// Standard output of a short command.
pub(crate) fn output(what: &str, command: &mut Command) -> Result<String> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{what}: starting {}", program(command)))?;
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr);
        bail!(
            "{what} failed ({}):\n{}",
            out.status,
            tail(&stderr, TAIL_LINES)
        );
    }
    String::from_utf8(out.stdout).with_context(|| format!("{what}: output is not text"))
}

/// Runs a command on this terminal.
pub(crate) fn visible(what: &str, command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("{what}: starting {}", program(command)))?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(())
}

/// Becomes the command, so that signals and its exit status are its own affair.
pub(crate) fn become_command(what: &str, command: &mut Command) -> Result<()> {
    let error = command.exec();
    Err(error).with_context(|| format!("{what}: starting {}", program(command)))
}

/// Runs a command and hands over its standard output line by line; errors go to the terminal.
pub(crate) fn each_line(
    what: &str,
    command: &mut Command,
    mut take: impl FnMut(&str),
) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{what}: starting {}", program(command)))?;
    let output = child.stdout.take().context("a pipe was asked for")?;
    for line in BufReader::new(output).lines() {
        take(&line.with_context(|| format!("reading the output of {what}"))?);
    }
    let status = child
        .wait()
        .with_context(|| format!("waiting for {what}"))?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(())
}

/// Whether `name` is a program in `PATH` or in the places of system programs.
pub(crate) fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .any(|dir| dir.join(name).is_file())
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// The command in one line; a script given as an argument only by its first line.
fn shown(command: &Command) -> String {
    let mut text = program(command);
    for arg in command.get_args() {
        let arg = arg.to_string_lossy();
        text.push(' ');
        text.push_str(arg.lines().next().unwrap_or("''"));
    }
    text
}

/// The last `count` lines of `text`, indented.
fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(count);
    let last: Vec<String> = lines[from..]
        .iter()
        .map(|line| format!("    {line}"))
        .collect();
    last.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_keeps_the_end() {
        assert_eq!(tail("a\nb\nc\n", 2), "    b\n    c");
        assert_eq!(tail("a", 2), "    a");
        assert_eq!(tail("", 2), "");
    }

    #[test]
    fn failure_names_purpose_tail_and_log() {
        let dir = std::env::temp_dir().join(format!("xtask-run-{}", std::process::id()));
        let log = Log::create(&dir, "t").unwrap();
        let error = log
            .run(
                "counting",
                Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"]),
            )
            .unwrap_err()
            .to_string();
        assert!(error.contains("counting failed"), "{error}");
        assert!(
            error.contains("two") && error.contains("t.log") && error.contains('3'),
            "{error}"
        );
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn lines_are_handed_over_and_failure_reported() {
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two; exit 4"]);
        let error = each_line("counting", &mut command, |line| lines.push(line.to_owned()));
        assert_eq!(lines, ["one", "two"]);
        assert!(error.unwrap_err().to_string().contains("counting failed"));
    }

    #[test]
    fn missing_program_is_named() {
        let error = output("asking", &mut Command::new("/nonexistent/tool")).unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent/tool"));
    }
}
