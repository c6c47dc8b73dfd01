// SPDX-License-Identifier: GPL-2.0-only
//! A node's kernel as far as lockspaces go: who waits for an answer, what runs.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use dlm_controld_core::Start;

/// What a lockspace does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Absent,
    Stopped,
    Running(u64),
}

/// Work for the kernel, done in order within a lockspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Job {
    Stop,
    Start(Start),
    Answer(i32),
    Forget,
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pending {
    None,
    Join,
    Leave,
}

#[derive(Debug, Clone)]
pub(crate) struct Lockspace {
    pub(crate) state: State,
    pub(crate) pending: Pending,
    /// Started at least once.
    pub(crate) begun: bool,
    /// A recovery is under way.
    pub(crate) recovering: bool,
    pub(crate) jobs: VecDeque<Job>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Kernel {
    pub(crate) lockspaces: BTreeMap<String, Lockspace>,
}

impl Kernel {
    pub(crate) fn state(&self, name: &str) -> State {
        self.lockspaces
            .get(name)
            .map_or(State::Absent, |ls| ls.state)
    }

    /// A program creates a lockspace; false if it exists.
    pub(crate) fn create(&mut self, name: &str) -> bool {
        let new = Lockspace {
            state: State::Stopped,
            pending: Pending::Join,
            begun: false,
            recovering: false,
            jobs: VecDeque::new(),
        };
        let absent = !self.lockspaces.contains_key(name);
        self.lockspaces.entry(name.to_owned()).or_insert(new);
        absent
    }

    /// The last user goes; false if nothing can be released now.
    pub(crate) fn release(&mut self, name: &str) -> bool {
        match self.lockspaces.get_mut(name) {
            Some(lockspace) if lockspace.pending == Pending::None => {
                lockspace.pending = Pending::Leave;
                true
            }
            Some(_) | None => false,
        }
    }

    /// The controller is gone: all stops, nothing starts again.
    pub(crate) fn stop_all(&mut self) {
        for lockspace in self.lockspaces.values_mut() {
            lockspace.state = State::Stopped;
            lockspace.recovering = false;
            lockspace.jobs.clear();
        }
    }

    /// An answer comes; whether the lockspace is gone now.
    pub(crate) fn answer(&mut self, name: &str, result: i32) -> Result<bool, String> {
        let lockspace = self
            .lockspaces
            .get_mut(name)
            .ok_or(format!("answer for {name}, which is not"))?;
        let pending = std::mem::replace(&mut lockspace.pending, Pending::None);
        match (pending, result) {
            (Pending::None, _) => Err(format!("{name} is answered, nothing is pending")),
            (Pending::Join, 0) if !lockspace.begun => {
                Err(format!("the join of {name} is answered before a start"))
            }
            (Pending::Join, 0) => Ok(false),
            (Pending::Join, _) => Err(format!("the join of {name} failed: {result}")),
            (Pending::Leave, _) if lockspace.state != State::Stopped => {
                Err(format!("the leave of {name} is answered while it runs"))
            }
            (Pending::Leave, _) => {
                self.lockspaces.remove(name);
                Ok(true)
            }
        }
    }
}
