// SPDX-License-Identifier: GPL-2.0-only
//! The exit statuses of daemons and tools, in one list. The man pages repeat it.
//!
//! A service manager should not restart a daemon that ended with
//! [`CONFIG`], [`USAGE`], [`RESET`] or [`REFUSED`]: the reason stays.

use std::process::ExitCode;

/// Ended as asked; a tool: yes.
pub const OK: u8 = 0;
/// Failed; the reason is on stderr.
pub const FAILED: u8 = 1;
/// A tool: no (not quorate, not found). A daemon: the command line is wrong.
pub const NO: u8 = 2;
/// The command line is wrong. The same number as [`NO`]; a tool that can answer
/// "no" ends with [`FAILED`] instead.
pub const USAGE: u8 = 2;
/// The configuration, the key or the machine's identity is wrong.
pub const CONFIG: u8 = 3;
/// Another instance runs.
pub const RUNNING: u8 = 4;
/// This node must be reset: something of an earlier life is left in the kernel,
/// or the cluster went on without it.
pub const RESET: u8 = 5;
/// The cluster refuses this node, for example because its id is in use.
pub const REFUSED: u8 = 6;

/// Prints an error with all its causes in one line and gives the status back.
pub fn report(program: &str, error: &dyn std::error::Error, status: u8) -> ExitCode {
    eprintln!("{program}: {}", chain(error));
    ExitCode::from(status)
}

/// An error and its causes, outermost first. A cause that its parent already
/// quotes is not repeated.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let line = inner.to_string();
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("outer: {0}")]
    struct Quoting(#[source] std::io::Error);

    #[test]
    fn causes_are_named_once() {
        let inner = || std::io::Error::other("inner");
        assert_eq!(chain(&Outer(inner())), "outer: inner");
        assert_eq!(chain(&Quoting(inner())), "outer: inner");
    }
}
