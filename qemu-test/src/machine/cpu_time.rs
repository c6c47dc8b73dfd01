// SPDX-License-Identifier: GPL-2.0-only
//! Processor time that a machine has had, as the host counts it: for its processors, its devices
//! and the programs in it alike.

use std::fs;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use nix::time::clock_getcpuclockid;
use nix::time::clock_gettime;
use nix::unistd::Pid;

/// Processor time so far of all processes in the group that `leader` leads, with that of their
/// ended threads; of an ended process nothing is known any more.
pub(super) fn of_group(leader: u32) -> Result<Duration> {
    let entries = fs::read_dir("/proc").context("reading /proc")?;
    let processes = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|process| group_of(*process) == Some(leader));
    // One that has ended since it was listed has no clock.
    let times = processes.filter_map(|process| {
        let clock = clock_getcpuclockid(Pid::from_raw(process)).ok()?;
        clock_gettime(clock).ok().map(Duration::from)
    });
    Ok(times.sum())
}

fn group_of(process: i32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, in parentheses, can hold anything; the group is field 5.
    let (_, fields) = text.rsplit_once(')')?;
    fields.split_whitespace().nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    #[test]
    fn time_of_a_child_in_the_group_counts() {
        // The leader only waits; its child works until it has had some time.
        let script = "sh -c 'while :; do :; done' & wait";
        let mut leader = Command::new("sh")
            .args(["-c", script])
            .process_group(0)
            .spawn()
            .unwrap();
        let group = Pid::from_raw(leader.id().cast_signed());
        let wanted = Duration::from_millis(50);
        let begin = std::time::Instant::now();
        let mut time = Duration::ZERO;
        while time < wanted && begin.elapsed() < Duration::from_secs(30) {
            time = of_group(leader.id()).unwrap();
        }
        nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).unwrap();
        leader.wait().unwrap();
        assert!(time >= wanted, "{time:?}");
        assert!(time < begin.elapsed() * 4, "{time:?}");
    }
}
