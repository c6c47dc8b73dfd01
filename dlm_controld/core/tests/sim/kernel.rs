// SPDX-License-Identifier: GPL-2.0-only
//! A node's kernel as far as lockspaces go: who waits for an answer, what runs.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
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
    Answer(Answer),
    Forget,
}

/// An answer on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) result: i32,
    /// Which lockspace of this name asked. The module is not told: it gives the answer to whoever
    /// waits when it comes.
    pub(crate) life: Option<u64>,
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
    /// Told from others of the same name by this.
    pub(crate) life: u64,
    pub(crate) state: State,
    pub(crate) pending: Pending,
    /// Started at least once.
    pub(crate) begun: bool,
    /// A recovery is under way.
    pub(crate) recovering: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Kernel {
    pub(crate) lockspaces: BTreeMap<String, Lockspace>,
    /// What the daemon wants done, by lockspace. A lockspace that goes with its task leaves them.
    pub(crate) jobs: BTreeMap<String, VecDeque<Job>>,
    lives: u64,
    /// Names under which a task was killed: there an answer may meet another question than its own.
    killed: BTreeSet<String>,
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    /// The lockspace goes on.
    Stays,
    /// The lockspace is gone now.
    Gone,
    /// Its task was killed.
    NobodyWaits,
}

impl Kernel {
    pub(crate) fn state(&self, name: &str) -> State {
        self.lockspaces
            .get(name)
            .map_or(State::Absent, |ls| ls.state)
    }

    /// A program creates a lockspace; false if it exists.
    pub(crate) fn create(&mut self, name: &str) -> bool {
        self.lives += 1;
        let new = Lockspace {
            life: self.lives,
            state: State::Stopped,
            pending: Pending::Join,
            begun: false,
            recovering: false,
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

    /// The task that waits for an answer is killed, and its lockspace goes with it. What it waited
    /// for; a join is taken back by a leave for which nobody waits.
    pub(crate) fn kill_task(&mut self, name: &str) -> Pending {
        let pending = self
            .lockspaces
            .get(name)
            .map_or(Pending::None, |ls| ls.pending);
        if pending != Pending::None {
            self.lockspaces.remove(name);
            self.killed.insert(name.to_owned());
        }
        pending
    }

    /// The next thing that the daemon wants done.
    pub(crate) fn next_job(&mut self, name: &str) -> Option<Job> {
        self.jobs.get_mut(name)?.pop_front()
    }

    /// The controller is gone: all stops, nothing starts again.
    pub(crate) fn stop_all(&mut self) {
        for lockspace in self.lockspaces.values_mut() {
            lockspace.state = State::Stopped;
            lockspace.recovering = false;
        }
        self.jobs.clear();
    }

    /// An answer comes. Where a task was killed it may meet another question than its own: a join
    /// that takes it waits for its recovery all the same, a leave that takes it goes at once.
    pub(crate) fn answer(&mut self, name: &str, answer: Answer) -> Result<Answered, String> {
        let Some(lockspace) = self.lockspaces.get_mut(name) else {
            return Ok(Answered::NobodyWaits);
        };
        let wrong = lockspace.wrong(name, answer);
        if let Some(wrong) = wrong.filter(|_| !self.killed.contains(name)) {
            return Err(wrong);
        }
        match std::mem::replace(&mut lockspace.pending, Pending::None) {
            Pending::Join if answer.result == 0 => Ok(Answered::Stays),
            Pending::None => Ok(Answered::Stays),
            Pending::Join | Pending::Leave => {
                self.lockspaces.remove(name);
                Ok(Answered::Gone)
            }
        }
    }
}

impl Lockspace {
    /// What is wrong with an answer to its question.
    fn wrong(&self, name: &str, answer: Answer) -> Option<String> {
        if answer.life != Some(self.life) {
            return Some(format!("{name} takes an answer to one before it"));
        }
        match (self.pending, answer.result) {
            (Pending::None, _) => Some(format!("{name} is answered, nothing is pending")),
            (Pending::Join, 0) if !self.begun => {
                Some(format!("the join of {name} is answered before a start"))
            }
            (Pending::Join, 0) => None,
            (Pending::Join, result) => Some(format!("the join of {name} failed: {result}")),
            (Pending::Leave, _) if self.state != State::Stopped => {
                Some(format!("the leave of {name} is answered while it runs"))
            }
            (Pending::Leave, _) => None,
        }
    }
}
