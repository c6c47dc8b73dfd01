// SPDX-License-Identifier: GPL-2.0-only
//! All children of PID 1: the ones it started and the ones it inherited.
//!
//! One thread waits for any child. It first only looks (`WNOWAIT`), then takes the table's lock and
//! reaps. Starting a program holds the same lock from before the fork until the child is in the
//! table, so its end is never missed, and the wait that the standard library does itself when an
//! exec fails is never disturbed.

use std::collections::HashMap;
use std::io;
use std::process::Child;
use std::process::Command;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::mpsc;

use nix::errno::Errno;
use nix::sys::wait::Id;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitid;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

type Waiters = HashMap<i32, mpsc::Sender<WaitStatus>>;

/// The table of the programs that somebody waits for.
#[derive(Debug, Default)]
pub struct Children {
    waiters: Mutex<Waiters>,
    started: Condvar,
}

impl Children {
    /// Starts a program; its end arrives on the receiver.
    pub fn spawn(&self, command: &mut Command) -> io::Result<(Child, mpsc::Receiver<WaitStatus>)> {
        let mut waiters = self.lock();
        let child = command.spawn()?;
        let (sender, receiver) = mpsc::channel();
        waiters.insert(child.id().cast_signed(), sender);
        self.started.notify_all();
        Ok((child, receiver))
    }

    /// Reaps for ever.
    pub fn reap(&self) -> ! {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        loop {
            match waitid(Id::All, look) {
                Ok(status) => self.take(status.pid()),
                // No child at all, so no orphan can come either until one is started.
                Err(Errno::ECHILD) => self.wait_for_start(),
                Err(_) => {}
            }
        }
    }

    fn take(&self, pid: Option<Pid>) {
        let mut waiters = self.lock();
        let Some(pid) = pid else {
            return;
        };
        // ECHILD: it was a failed exec, and spawn has reaped it while we waited for the lock.
        if let Ok(status) = waitpid(pid, Some(WaitPidFlag::WNOHANG))
            && let Some(waiter) = waiters.remove(&pid.as_raw())
        {
            // Nobody listening any more is fine: the child is reaped.
            let _ = waiter.send(status);
        }
    }

    fn wait_for_start(&self) {
        let waiters = self.lock();
        drop(
            self.started
                .wait_while(waiters, |table| table.is_empty())
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
