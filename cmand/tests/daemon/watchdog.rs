// SPDX-License-Identifier: GPL-2.0-only
//! What a daemon tells the service manager: that it is ready, and that both of its loops turn.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use nix::sys::ptrace;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::cluster::CMAND;
use super::cluster::Daemon;
use super::cluster::LIMIT;
use super::cluster::Place;
use super::cluster::wait_for;

/// Time within which the manager of these tests wants a keep-alive.
const WATCHDOG: Duration = Duration::from_millis(600);

/// A service manager that listens.
struct Manager(UnixDatagram);

impl Manager {
    /// Starts a daemon as a service.
    fn start(place: &Place) -> (Self, Daemon) {
        let path = place.file("notify");
        let manager = Self(UnixDatagram::bind(&path).unwrap());
        let mut command = Command::new(CMAND);
        command
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        let daemon = place.start_with("n1", "n1", &place.three_config(), command);
        (manager, daemon)
    }

    /// What is told within this time.
    fn hear(&self, limit: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(limit)).unwrap();
        let mut buffer = [0; 256];
        let length = self.0.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    fn wait_for(&self, line: &str) {
        let begun = Instant::now();
        while self.hear(LIMIT).unwrap() != line {
            assert!(begun.elapsed() < LIMIT, "no {line:?}");
        }
    }

    /// Whether this long nothing is told.
    fn is_silence(&self, time: Duration) -> bool {
        self.hear(time).is_none()
    }
}

/// A thread of a daemon that stands still until this is dropped.
struct Still(Pid);

impl Still {
    fn hold(thread: Pid) -> Self {
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        Self(thread)
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        ptrace::detach(self.0, None).unwrap();
    }
}

fn thread(daemon: &Daemon, name: &str) -> Pid {
    wait_for(name, || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", daemon.id())).unwrap();
        threads.flatten().find_map(|thread| {
            let text = std::fs::read_to_string(thread.path().join("comm")).ok()?;
            let id = thread.file_name().to_str()?.parse().ok()?;
            (text.trim() == name).then(|| Pid::from_raw(id))
        })
    })
}

#[test]
fn each_of_the_two_loops_that_is_stuck_stops_the_keep_alive() {
    let place = Place::new();
    let (manager, daemon) = Manager::start(&place);
    assert_eq!(manager.hear(LIMIT).as_deref(), Some("READY=1\n"));
    for name in ["membership", "cmand"] {
        for _ in 0..3 {
            manager.wait_for("WATCHDOG=1\n");
        }
        let still = Still::hold(thread(&daemon, name));
        // What was on its way.
        while manager.hear(WATCHDOG / 10).is_some() {}
        assert!(manager.is_silence(2 * WATCHDOG), "{name}");
        drop(still);
    }
    manager.wait_for("WATCHDOG=1\n");
}
