// SPDX-License-Identifier: GPL-2.0-only
//! A daemon that is stopped: its socket takes connections, and nobody reads.

use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

#[test]
fn a_daemon_that_is_silent_is_named_in_time() {
    let name = format!("fence_tool-silent-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).unwrap();
    let socket = directory.join("fenced.sock");
    let _silent = UnixListener::bind(&socket).unwrap();
    for command in [
        &["ls"][..],
        &["dump"],
        &["ack", "3", "--yes"],
        &["unfence", "3", "--yes"],
    ] {
        let begun = Instant::now();
        let output = Command::new(env!("CARGO_BIN_EXE_fence_tool"))
            .args(command)
            .args(["--timeout", "1", "--socket"])
            .arg(&socket)
            .output()
            .unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5), "{command:?}");
        assert_eq!(output.status.code(), Some(1), "{command:?}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        let socket = socket.display();
        let sentence = format!("fenced does not answer ({socket}, nothing within 1 s)");
        assert!(said.contains(&sentence), "{command:?}: {said}");
        assert!(
            said.contains("systemctl status fenced"),
            "{command:?}: {said}"
        );
    }
    std::fs::remove_dir_all(&directory).unwrap();
}
