// SPDX-License-Identifier: GPL-2.0-only
//! Where a recovery is, and the bits by which other nodes are told.

use super::images::Images;
use super::lookups::Lookups;
use super::names::Names;

/// Bits that say how far a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Status(u32);

impl Status {
    pub(super) const NODES: u32 = 0x01;
    pub(super) const DIR: u32 = 0x04;
    const LOCKS: u32 = 0x10;
    const DONE: u32 = 0x40;

    /// The bit by which the lowest member says that all have come to a barrier.
    pub(super) const fn all(bit: u32) -> u32 {
        bit << 1
    }

    pub(super) fn bits(self) -> u32 {
        self.0
    }

    pub(super) fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    pub(super) fn set(&mut self, bit: u32) {
        self.0 |= bit;
    }
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
    pub(super) fn barrier(&self) -> Option<u32> {
        match self {
            Phase::Nodes => Some(Status::NODES),
            Phase::Directory => Some(Status::DIR),
            Phase::Locks => Some(Status::LOCKS),
            Phase::Done => Some(Status::DONE),
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
