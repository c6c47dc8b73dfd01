// SPDX-License-Identifier: GPL-2.0-only
//! Telling owners: that their operation is over, and that they are in somebody's way.
//!
//! The master decides who is in the way and remembers the highest mode it told each holder
//! (`told_blocking`); the owner's node drops what its owner need not hear (`last_completion`,
//! `last_blocking`). Completions are never dropped.

use super::{Completion, Effects, Shard, Status};
use crate::lockcore::arena::{LockIndex, ResourceIndex};
use crate::lockcore::lkb::state::{RETURNS_LVB, WANTS_BLOCKING};
use crate::lockcore::lkb::Queue;
use crate::lockcore::mode::Mode;

impl<O> Shard<O> {
    /// Tells the owner of a lock of this node that its operation is over.
    pub(super) fn complete<F: Effects<Owner = O>>(
        &mut self,
        i: LockIndex,
        status: Status,
        fx: &mut F,
    ) {
        let id = self.id_of(i);
        let lock = self.locks.get_mut(i);
        let returns_lvb = lock.is(RETURNS_LVB) && status == Status::Granted;
        lock.set(RETURNS_LVB, false);
        lock.last_completion = lock.granted;
        lock.last_blocking = None;
        if let Some(owner) = &mut lock.owner {
            let done = Completion {
                id,
                status,
                sb_flags: lock.sb_flags,
                mode: lock.granted,
                lvb: returns_lvb.then_some(&lock.lvb[..]),
            };
            fx.complete(owner, &done);
        }
    }

    /// Tells the owner of a lock of this node that it is in the way of `mode`, unless it can be
    /// seen that it need not know. An owner that was told of no completion yet holds nothing as far
    /// as it knows, and gets none of its callbacks: it may have given the request up while the
    /// grant was on its way.
    pub(super) fn blocking<F: Effects<Owner = O>>(&mut self, i: LockIndex, mode: Mode, fx: &mut F) {
        let lock = self.locks.get_mut(i);
        let gave_way = lock.last_completion.is_none_or(|m| m.is_compatible(mode));
        let said = lock
            .last_blocking
            .is_some_and(|last| last == mode || (last > mode && last > Mode::Pr));
        if !lock.is(WANTS_BLOCKING) || gave_way || said {
            return;
        }
        lock.last_blocking = Some(mode);
        if let Some(owner) = &mut lock.owner {
            fx.blocking(owner, mode);
        }
    }

    /// On the master: tells the holder, wherever it is.
    fn tell<F: Effects<Owner = O>>(&mut self, i: LockIndex, mode: Mode, fx: &mut F) {
        if self.lock(i).is_master_copy() {
            self.send_blocking(i, mode, fx);
        } else {
            self.blocking(i, mode, fx);
        }
    }

    /// On the master: tells a lock's own owner that its queued conversion is deadlocked.
    pub(super) fn tell_deadlocked<F: Effects<Owner = O>>(&mut self, i: LockIndex, fx: &mut F) {
        let lock = self.lock_mut(i);
        let Some(mode) = lock.requested.filter(|mode| lock.told_blocking < *mode) else {
            return;
        };
        lock.told_blocking = mode;
        if lock.is(WANTS_BLOCKING) {
            self.tell(i, mode, fx);
        }
    }

    /// On the master: tells the holders of a queue that they are in the way of `asker`, which wants
    /// `mode`.
    pub(super) fn tell_queue<F: Effects<Owner = O>>(
        &mut self,
        r: ResourceIndex,
        queue: Queue,
        asker: LockIndex,
        mode: Mode,
        fx: &mut F,
    ) {
        let mut walk = self.resource(r).queue(queue).walk();
        while let Some((at, _)) = walk.next(&self.locks) {
            if at != asker && self.is_in_the_way(at, mode) {
                self.lock_mut(at).told_blocking = mode;
                self.tell(at, mode, fx);
            }
        }
    }

    fn is_in_the_way(&self, holder: LockIndex, mode: Mode) -> bool {
        let lock = self.lock(holder);
        let Some(granted) = lock.granted.filter(|_| lock.is(WANTS_BLOCKING)) else {
            return false;
        };
        match (granted, mode) {
            // Not ordered: each can be told after the other.
            (Mode::Pr, Mode::Cw) | (Mode::Cw, Mode::Pr) => lock.told_blocking < Mode::Ex,
            (granted, mode) => lock.told_blocking < mode && !granted.is_compatible(mode),
        }
    }

    /// On the master, after the queues were gone through: `high` is the highest mode that still
    /// waits, `cw` says that somebody waits for CW.
    pub(super) fn tell_holders<F: Effects<Owner = O>>(
        &mut self,
        r: ResourceIndex,
        high: Mode,
        cw: bool,
        fx: &mut F,
    ) {
        let mut walk = self.resource(r).queue(Queue::Grant).walk();
        while let Some((at, _)) = walk.next(&self.locks) {
            let lock = self.lock_mut(at);
            let granted = lock.granted.unwrap_or(Mode::Nl);
            let reader = granted == Mode::Pr && cw;
            let told = lock.told_blocking;
            let in_the_way =
                reader && told < Mode::Ex || told < high && !granted.is_compatible(high);
            if in_the_way && lock.is(WANTS_BLOCKING) {
                lock.told_blocking = high;
                let mode = if reader && high == Mode::Pr {
                    Mode::Cw
                } else {
                    high
                };
                self.tell(at, mode, fx);
            }
        }
    }
}
