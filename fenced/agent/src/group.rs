// SPDX-License-Identifier: GPL-2.0-only
//! All processes of one run of an agent, to be ended together.
//!
//! An agent gets a process group, and where the kernel lets us a control group below our own
//! (cgroup v2; under systemd with `Delegate=yes`). A process that left the process group, as a
//! daemon does, is still in the control group. Without one, only such a process can get away.

use std::fs;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::signal::killpg;
use nix::unistd::Pid;

/// Where cgroup v2 is mounted: on every system of today, and beside the older kind.
const CGROUPS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// File of a control group that a process enters it by.
const ENTRANCE: &str = "cgroup.procs";

/// File of a control group that kills all in it.
const KILL: &str = "cgroup.kill";

/// How long a killed control group may take to be empty before its directory is left behind. Only
/// a process in the middle of an uninterruptible call takes so long.
const EMPTY_LIMIT: Duration = Duration::from_secs(2);

/// How often a killed control group is looked at.
const EMPTY_PAUSE: Duration = Duration::from_millis(5);

/// Makes the names of control groups differ.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Killed control groups whose directory is still to be removed: the kernel needs a moment to empty
/// one.
static LEFT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes those that are empty by now.
fn sweep() {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.retain(|dir| fs::remove_dir(dir).is_err() && dir.exists());
}

/// A control group of a run; dropping it kills what is in it.
#[derive(Debug)]
pub(crate) struct ControlGroup {
    dir: PathBuf,
}

impl ControlGroup {
    /// Makes one below the control group of this process.
    ///
    /// # Errors
    /// There is no cgroup v2, or this process may not make groups; nothing was made.
    pub(crate) fn new() -> io::Result<Self> {
        let own = own_group()?;
        sweep();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = own.join(format!("agent-{}-{number}", std::process::id()));
        fs::create_dir(&dir)?;
        // There since Linux 5.14; without it the group could not be ended whole.
        if !dir.join(KILL).exists() {
            fs::remove_dir(&dir)?;
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Self { dir })
    }

    /// The file a process enters it by.
    pub(crate) fn entrance(&self) -> PathBuf {
        self.dir.join(ENTRANCE)
    }

    fn is_empty(&self) -> bool {
        let events = fs::read_to_string(self.dir.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|line| line == "populated 0")
    }

    /// Kills everything in it and waits, for a while, until nothing is left.
    pub(crate) async fn end(self) {
        self.kill();
        let deadline = tokio::time::Instant::now() + EMPTY_LIMIT;
        while !self.is_empty() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(EMPTY_PAUSE).await;
        }
    }

    fn kill(&self) {
        let file = OpenOptions::new().write(true).open(self.dir.join(KILL));
        if let Err(error) = file.and_then(|mut file| file.write_all(b"1")) {
            tracing::warn!(dir = %self.dir.display(), %error, "processes of an agent not killed");
        }
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        self.kill();
        LEFT.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(std::mem::take(&mut self.dir));
        sweep();
    }
}

/// Directory of the control group this process is in.
fn own_group() -> io::Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let path = path.ok_or(io::ErrorKind::Unsupported)?;
    let mut places = CGROUPS.iter().map(|place| Path::new(place).join(path));
    // Where the older kind is mounted there is no such file.
    let found = places.find(|own| own.join(ENTRANCE).exists());
    Ok(found.ok_or(io::ErrorKind::Unsupported)?)
}

/// Kills the process group of an agent that has been started. That it is gone is fine.
pub(crate) fn kill_process_group(group: Pid) {
    let _ = killpg(group, Signal::SIGKILL);
}
