// SPDX-License-Identifier: GPL-2.0-only
//! Gives PID 1 to systemd, for scenarios about units.
//!
//! The control channel goes to a process of its own first. When the runner has put units and
//! configuration in place it makes [`GO`], and PID 1 becomes systemd. The process of the control
//! channel stays until the machine ends: its name begins with `@`, which the last killing of a
//! shutdown spares.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What this program is called where it only serves the control channel.
pub const SERVER_NAME: &str = "@guest-init";

/// The file whose appearance makes PID 1 go on to systemd.
pub const GO: &str = "/run/node.go";

/// Between two looks for it; nothing else runs here meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// Where Debian has systemd.
const SYSTEMD: &str = "/usr/lib/systemd/systemd";

/// Whether this process is the one that serves the control channel.
pub fn is_server() -> bool {
    std::env::args_os()
        .next()
        .is_some_and(|name| name == SERVER_NAME)
}

/// Starts the process for the control channel, waits for the word, and becomes systemd. Returns
/// only what went wrong.
pub fn run() -> io::Error {
    let server = Command::new("/proc/self/exe").arg0(SERVER_NAME).spawn();
    if let Err(error) = server {
        return error;
    }
    while !Path::new(GO).exists() {
        std::thread::sleep(LOOK);
    }
    Command::new(SYSTEMD).exec()
}
