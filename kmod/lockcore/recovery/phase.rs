// SPDX-License-Identifier: GPL-2.0-only
//! Where a recovery is, and the bits by which other nodes are told.

use super::images::Images;
use super::lookups::Lookups;
use super::names::Names;
use crate::lockcore::word::word;

word! {
    /// How far a node is, as other nodes are told.
    pub(super) struct Status(u32);
    /// It knows the members.
    NODES = 0x01;
    /// Its directory is complete.
    DIR = 0x04;
    /// Locks are known to their new masters.
    LOCKS = 0x10;
    /// It is done.
    DONE = 0x40;
}

/// The bit by which the lowest member says that all have come to the barrier of `bit`.
pub(super) const fn all(bit: Status) -> Status {
    Status::from_raw(bit.raw() << 1)
}

/// Where a recovery is; numbers are shards still to be visited.
#[derive(Debug)]
pub(super) enum Phase {
    /// There is none, or it is over.
    Idle,
    Start,
    Ping,
    Begin(usize),
    Nodes,
    Names(Names),
    Directory,
    Waiters(usize),
    Purge(usize),
    Lookups(Lookups),
    Images(Images),
    Locks,
    Repair(usize),
    DropSaved(usize),
    Done,
    Enable(usize),
    Drain(usize),
    Resend(usize),
    Grant(usize),
    /// No recovery: messages that came without quorum are worked off.
    Reopen(usize),
}

impl Phase {
    /// The bit of a barrier, for those who have come to it.
    pub(super) fn barrier(&self) -> Option<Status> {
        match self {
            Phase::Nodes => Some(NODES),
            Phase::Directory => Some(DIR),
            Phase::Locks => Some(LOCKS),
            Phase::Done => Some(DONE),
            Phase::Idle
            | Phase::Start
            | Phase::Ping
            | Phase::Begin(_)
            | Phase::Names(_)
            | Phase::Waiters(_)
            | Phase::Purge(_)
            | Phase::Lookups(_)
            | Phase::Images(_)
            | Phase::Repair(_)
            | Phase::DropSaved(_)
            | Phase::Enable(_)
            | Phase::Drain(_)
            | Phase::Resend(_)
            | Phase::Grant(_)
            | Phase::Reopen(_) => None,
        }
    }
}

/// What a step came to.
pub(super) enum Step {
    /// More of the same phase, at once.
    Again(Phase),
    /// More of the same phase when something is heard or due.
    Wait(Phase),
    /// On to this phase, at once.
    Next(Phase),
}

/// Members do not agree on what the lockspace is: recovery cannot go on.
#[derive(Debug)]
pub(super) struct Mismatch;
