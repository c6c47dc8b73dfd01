// SPDX-License-Identifier: GPL-2.0-only
//! The directory of one run: `target/vm/RUN-ID/`, its lock, and the processes it has started.
//!
//! The lock is held for as long as the runner lives, so a directory tells whether its run is
//! alive. The kernel ends a dead run's machines; should one survive all the same, [`leftovers`]
//! reports it by the process ids written down here. Nobody's processes but our own are touched.

use std::fs;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use anyhow::Context;
use anyhow::Result;
use nix::fcntl::Flock;
use nix::fcntl::FlockArg;

const LOCK_FILE: &str = "lock";
const PROCESS_FILE: &str = "processes";
const SOCKET_FILE: &str = "socket";

/// A run; its directory stays when it ends.
#[derive(Debug)]
pub struct Run {
    dir: PathBuf,
    processes: Mutex<File>,
    _lock: Flock<File>,
}

impl Run {
    /// Makes the directory below the workspace's target directory and locks it.
    pub fn create(target: &Path) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let id = format!("{}-{}", stamp(now.unwrap_or_default()), std::process::id());
        let dir = unused(&runs_dir(target).join(id));
        let what = || format!("making the run directory {}", dir.display());
        fs::create_dir_all(&dir).with_context(what)?;
        let lock = File::create(dir.join(LOCK_FILE)).with_context(what)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, error)| error)
            .with_context(what)?;
        let processes = File::create(dir.join(PROCESS_FILE)).with_context(what)?;
        Ok(Run {
            processes: Mutex::new(processes),
            dir,
            _lock: lock,
        })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new directory for one cluster of this run.
    pub fn subdirectory(&self, name: &str) -> Result<PathBuf> {
        let dir = unused(&self.dir.join(name));
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        Ok(dir)
    }

    /// Writes a started process down.
    pub fn note_process(&self, pid: u32, name: &str) -> Result<()> {
        let Some(start) = start_time(pid) else {
            // Gone already.
            return Ok(());
        };
        let mut file = self
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        writeln!(file, "{pid} {start} {name}").context("noting a process")
    }
}

/// A process that outlived its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The run's directory.
    pub dir: PathBuf,
    /// Its process id.
    pub pid: u32,
    /// What it was started as.
    pub name: String,
}

/// Processes of runs that are over. To be told to the user, not ended: they may be wanted.
pub fn leftovers(target: &Path) -> Vec<Leftover> {
    run_dirs(target)
        .into_iter()
        .filter(|dir| !is_alive(dir))
        .flat_map(|dir| {
            let text = fs::read_to_string(dir.join(PROCESS_FILE)).unwrap_or_default();
            let alive: Vec<_> = text.lines().filter_map(parse_alive).collect();
            alive.into_iter().map(move |(pid, name)| Leftover {
                dir: dir.clone(),
                pid,
                name,
            })
        })
        .collect()
}

/// The newest run that is alive and can be talked to (see [`socket_path`]).
pub fn newest_session(target: &Path) -> Option<PathBuf> {
    let is_session = |dir: &PathBuf| socket_path(dir).exists() && is_alive(dir);
    run_dirs(target).into_iter().rfind(is_session)
}

/// Where an interactive run listens.
pub fn socket_path(dir: &Path) -> PathBuf {
    dir.join(SOCKET_FILE)
}

fn runs_dir(target: &Path) -> PathBuf {
    target.join("vm")
}

/// All run directories, oldest first: their names begin with the time.
fn run_dirs(target: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(runs_dir(target)) else {
        return Vec::new();
    };
    let mut dirs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    dirs.retain(|dir| dir.join(LOCK_FILE).is_file());
    dirs.sort();
    dirs
}

fn is_alive(dir: &Path) -> bool {
    let Ok(file) = File::open(dir.join(LOCK_FILE)) else {
        return false;
    };
    Flock::lock(file, FlockArg::LockSharedNonblock).is_err()
}

/// `path`, or with `-2`, `-3`, ... the first that does not exist.
fn unused(path: &Path) -> PathBuf {
    let mut candidate = path.to_owned();
    let mut number = 2;
    while candidate.exists() {
        candidate = path.with_file_name(format!(
            "{}-{number}",
            path.file_name().unwrap_or_default().to_string_lossy()
        ));
        number += 1;
    }
    candidate
}

fn parse_alive(line: &str) -> Option<(u32, String)> {
    let mut words = line.splitn(3, ' ');
    let pid = words.next()?.parse().ok()?;
    let start: u64 = words.next()?.parse().ok()?;
    let name = words.next()?.to_owned();
    (start_time(pid) == Some(start)).then_some((pid, name))
}

/// When a process started, in ticks since boot: with the id it names a process for good.
fn start_time(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, can hold anything; the start time is field 22.
    let (_, fields) = text.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// `YYYYMMDD-HHMMSS` in UTC.
fn stamp(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil_date(seconds / 86_400);
    let time = seconds % 86_400;
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

/// The Gregorian date of a day since 1970-01-01.
fn civil_date(day: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    let mut rest = day;
    loop {
        let len = if is_leap(year) { 366 } else { 365 };
        if rest < len {
            break;
        }
        rest -= len;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for len in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if rest < len {
            break;
        }
        rest -= len;
        month += 1;
    }
    (year, month, rest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_stamp_is_the_date_in_utc() {
        for (seconds, text) in [
            (0, "19700101-000000"),
            (951_782_399, "20000228-235959"),
            (951_782_400, "20000229-000000"),
            (1_767_225_600, "20260101-000000"),
            (1_795_247_999, "20261121-075959"),
        ] {
            assert_eq!(stamp(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn what_outlives_its_run_is_reported_and_what_has_ended_is_not() {
        let target = scratch("run-leftovers");
        let run = Run::create(&target).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        run.note_process(child.id(), "n1").unwrap();
        assert!(leftovers(&target).is_empty(), "the run is alive");
        let dir = run.dir().to_owned();
        drop(run);
        let name = "n1".to_owned();
        let pid = child.id();
        assert_eq!(leftovers(&target), [Leftover { dir, pid, name }]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(leftovers(&target).is_empty());
        fs::remove_dir_all(target).unwrap();
    }

    #[test]
    fn a_session_is_found_only_while_it_lives() {
        let target = scratch("run-session");
        let run = Run::create(&target).unwrap();
        assert_eq!(newest_session(&target), None);
        File::create(socket_path(run.dir())).unwrap();
        assert_eq!(newest_session(&target).as_deref(), Some(run.dir()));
        let second = Run::create(&target).unwrap();
        assert_ne!(second.dir(), run.dir());
        drop(run);
        assert_eq!(newest_session(&target), None);
        fs::remove_dir_all(target).unwrap();
    }
}
