// SPDX-License-Identifier: GPL-2.0-only
//! Unlocks and cancels by this node.
//!
//! A plain unlock needs a lock with nothing in flight. A forced one and a cancel are always
//! accepted; behind a request in flight they are only noted, behind a conversion in flight they are
//! sent at once (replies come in order). A forced unlock ends the lock with one completion,
//! whatever else was under way.
//!
//! A value block is written by an unlock only with the bytes given with it, and only if this node
//! knows that it holds PW or EX: a lock that may just have been granted has not been written to.

use super::{Effects, Refused, Shard, Status};
use crate::lockcore::arena::LockIndex;
use crate::lockcore::flags::{LockFlags, StatusFlags, CANCEL, FORCEUNLOCK, UNLOCK_ALLOWED, VALBLK};
use crate::lockcore::lkb::state::{
    GAVE_UP_MODE, LOOKUP_QUEUED, OVERLAP_CANCEL, OVERLAP_UNLOCK, RESEND, RETRY,
};
use crate::lockcore::lkb::{LockId, Queue, Waiting};
use crate::lockcore::lvb::writes_at_unlock;
use crate::lockcore::wire::message::MessageKind;

/// What an unlock or cancel of a lock in this state means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// Do it.
    Now,
    /// Do it behind the conversion in flight.
    Behind,
    /// Remember it until the reply to what is in flight is there.
    Note,
    /// End a lock that has not even asked.
    Forget,
    /// There is nothing to do.
    Nothing,
}

impl<O> Shard<O> {
    /// Gives a lock up, or (with CANCEL) takes back what it waits for. `lvb` is the owner's value
    /// block, if it has one, whatever the flags say. `accept` is called once, after everything that
    /// can refuse it and before anything happens, and not if there is nothing to do.
    pub fn unlock<F: Effects<Owner = O>>(
        &mut self,
        now_ms: u64,
        id: LockId,
        bits: LockFlags,
        lvb: Option<&[u8]>,
        accept: impl FnOnce(&mut O),
        fx: &mut F,
    ) -> Result<(), Refused> {
        self.check_open(now_ms)?;
        let i = self.own_lock(id)?;
        self.give_up(i, bits, lvb, accept, fx)
    }

    /// The same for any lock of this node, also an orphan.
    pub(super) fn give_up<F: Effects<Owner = O>>(
        &mut self,
        i: LockIndex,
        bits: LockFlags,
        lvb: Option<&[u8]>,
        accept: impl FnOnce(&mut O),
        fx: &mut F,
    ) -> Result<(), Refused> {
        let both = CANCEL | FORCEUNLOCK;
        if !UNLOCK_ALLOWED.has(bits) || bits.has(both) {
            return Err(Refused::Invalid);
        }
        let plan = if bits.has(CANCEL) {
            self.plan_cancel(i)
        } else if bits.has(FORCEUNLOCK) {
            self.plan_forced(i)
        } else if self.lock(i).is_busy() {
            return Err(Refused::Busy);
        } else {
            Plan::Now
        };
        if plan == Plan::Nothing {
            return Ok(());
        }
        if !bits.has(CANCEL) {
            self.take_unlock_flags(i, bits, lvb)?;
        }
        if let Some(owner) = &mut self.lock_mut(i).owner {
            accept(owner);
        }
        if bits.has(CANCEL) {
            self.cancel_by(plan, i, fx);
        } else {
            self.unlock_by(plan, i, fx);
        }
        Ok(())
    }

    fn plan_forced(&self, i: LockIndex) -> Plan {
        let lock = self.lock(i);
        if lock.is(LOOKUP_QUEUED) {
            return Plan::Forget;
        }
        if lock.is(OVERLAP_UNLOCK) || lock.waiting == Waiting::Unlock {
            return Plan::Nothing;
        }
        if lock.is(RESEND) || lock.is(RETRY) {
            return Plan::Note;
        }
        match lock.waiting {
            Waiting::None | Waiting::Cancel | Waiting::Unlock => Plan::Now,
            Waiting::Lookup | Waiting::Request => Plan::Note,
            Waiting::Convert => Plan::Behind,
        }
    }

    fn plan_cancel(&self, i: LockIndex) -> Plan {
        let lock = self.lock(i);
        if lock.is(LOOKUP_QUEUED) {
            return Plan::Forget;
        }
        if lock.is(OVERLAP_UNLOCK) || lock.is(OVERLAP_CANCEL) {
            return Plan::Nothing;
        }
        match lock.waiting {
            Waiting::Unlock | Waiting::Cancel => Plan::Nothing,
            Waiting::None if matches!(lock.queue, Queue::Wait | Queue::Convert) => Plan::Now,
            Waiting::None => Plan::Nothing,
            Waiting::Lookup | Waiting::Request => Plan::Note,
            Waiting::Convert if lock.is(RESEND) || lock.is(RETRY) => Plan::Note,
            Waiting::Convert => Plan::Behind,
        }
    }

    /// The flags and the bytes that the unlock of a lock goes on with.
    fn take_unlock_flags(
        &mut self,
        i: LockIndex,
        bits: LockFlags,
        lvb: Option<&[u8]>,
    ) -> Result<(), Refused> {
        let lock = self.lock(i);
        // A forced unlock is how a lock is abandoned: it writes only if it says so itself.
        let before = if bits.has(FORCEUNLOCK) {
            lock.flags.without(VALBLK)
        } else {
            lock.flags
        };
        let mut all = before | bits;
        if lvb.is_none() || !writes_at_unlock(lock.granted) {
            all.set(VALBLK, false);
        }
        let r = lock.resource;
        let copy = self.copy_lvb(all, lvb)?;
        if all.has(VALBLK) && self.is_master(r) {
            self.reserve_lvb(r)?;
        }
        let lock = self.lock_mut(i);
        lock.flags = all;
        lock.sb_flags = StatusFlags::NONE;
        if !copy.is_empty() {
            lock.lvb = copy;
        }
        Ok(())
    }

    fn unlock_by<F: Effects<Owner = O>>(&mut self, plan: Plan, i: LockIndex, fx: &mut F) {
        match plan {
            Plan::Nothing => {}
            Plan::Now => self.start_unlock(i, fx),
            Plan::Note => self.lock_mut(i).set(OVERLAP_UNLOCK, true),
            Plan::Behind => {
                let lock = self.lock_mut(i);
                lock.set(OVERLAP_UNLOCK, true);
                let master = lock.peer;
                self.send(i, MessageKind::Unlock, master, fx);
            }
            Plan::Forget => self.end(i, Status::Unlocked, fx),
        }
    }

    fn cancel_by<F: Effects<Owner = O>>(&mut self, plan: Plan, i: LockIndex, fx: &mut F) {
        match plan {
            Plan::Nothing => {}
            Plan::Now => self.start_cancel(i, fx),
            Plan::Note => self.lock_mut(i).set(OVERLAP_CANCEL, true),
            Plan::Behind => {
                let lock = self.lock_mut(i);
                lock.set(OVERLAP_CANCEL, true);
                let master = lock.peer;
                self.send(i, MessageKind::Cancel, master, fx);
            }
            Plan::Forget => self.end(i, Status::Cancelled, fx),
        }
    }

    /// Tells the owner that its lock is gone, and lets it go.
    pub(super) fn end<F: Effects<Owner = O>>(&mut self, i: LockIndex, how: Status, fx: &mut F) {
        self.unqueue(i);
        self.set_granted(i, None);
        self.lock_mut(i).requested = None;
        self.complete(i, how, fx);
        self.destroy(i, fx);
    }

    /// Sends an unlock on its way, for the first time or again.
    pub(super) fn start_unlock<F: Effects<Owner = O>>(&mut self, i: LockIndex, fx: &mut F) {
        let lock = self.lock(i);
        let r = lock.resource;
        let Some(master) = self.resource(r).master() else {
            return self.end(i, Status::Unlocked, fx);
        };
        if master != self.own() {
            let lock = self.lock_mut(i);
            if lock.waiting == Waiting::Cancel {
                // Its reply comes before that to the unlock, and decides nothing.
                lock.stale_cancels = lock.stale_cancels.saturating_add(1);
            }
            lock.waiting = Waiting::Unlock;
            lock.peer = master;
            return self.send(i, MessageKind::Unlock, master, fx);
        }
        self.lvb_at_unlock(i, &[]);
        self.unqueue(i);
        self.set_granted(i, None);
        self.lock_mut(i).requested = None;
        self.complete(i, Status::Unlocked, fx);
        self.grant_pending(r, fx);
        self.destroy(i, fx);
    }

    /// Sends a cancel of something queued on its way.
    fn start_cancel<F: Effects<Owner = O>>(&mut self, i: LockIndex, fx: &mut F) {
        let r = self.lock(i).resource;
        match self.resource(r).master() {
            Some(master) if master != self.own() => {
                let lock = self.lock_mut(i);
                lock.waiting = Waiting::Cancel;
                lock.peer = master;
                self.send(i, MessageKind::Cancel, master, fx);
            }
            Some(_) | None => {
                if self.is_cancellable(i) {
                    self.cancelled(i, fx);
                }
            }
        }
    }

    /// Whether there is something to take back, and a mode to go back to.
    pub(super) fn is_cancellable(&self, i: LockIndex) -> bool {
        let lock = self.lock(i);
        matches!(lock.queue, Queue::Wait | Queue::Convert) && !lock.is(GAVE_UP_MODE)
    }

    /// A queued operation of this node was taken back: a conversion leaves the lock as it was, a
    /// request ends it.
    pub(super) fn cancelled<F: Effects<Owner = O>>(&mut self, i: LockIndex, fx: &mut F) {
        let lock = self.lock_mut(i);
        let (r, queue) = (lock.resource, lock.queue);
        lock.requested = None;
        match queue {
            Queue::Convert => {
                self.requeue(i, Queue::Grant);
                self.complete(i, Status::Cancelled, fx);
                self.grant_pending(r, fx);
            }
            Queue::Grant => self.complete(i, Status::Cancelled, fx),
            Queue::Wait | Queue::None => {
                self.unqueue(i);
                self.complete(i, Status::Cancelled, fx);
                self.grant_pending(r, fx);
                self.destroy(i, fx);
            }
        }
    }
}
