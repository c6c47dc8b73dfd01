// SPDX-License-Identifier: GPL-2.0-only
//! Conversions by this node.
//!
//! On another master: up and between PR and CW waits for the reply; down is told to the master and
//! is over at once, because nothing can be against it.

use super::effects::check_request;
use super::grant::Outcome;
use super::{Conversion, Effects, Refused, Shard, Status};
use crate::lockcore::arena::LockIndex;
use crate::lockcore::flags::{StatusFlags, CONVERT, QUECVT, VALBLK};
use crate::lockcore::lkb::state::WANTS_BLOCKING;
use crate::lockcore::lkb::{LockId, Queue, Waiting};
use crate::lockcore::lvb::{direction, Direction};
use crate::lockcore::mode::{Change, Mode};
use crate::lockcore::wire::message::MessageKind;

impl<O> Shard<O> {
    /// Asks for another mode of a granted lock. `accept` is called once, after everything that can
    /// refuse it and before anything happens.
    pub fn convert<F: Effects<Owner = O>>(
        &mut self,
        now_ms: u64,
        id: LockId,
        args: Conversion<'_>,
        accept: impl FnOnce(&mut O),
        fx: &mut F,
    ) -> Result<(), Refused> {
        self.check_open(now_ms)?;
        let i = self.own_lock(id)?;
        let bits = args.flags | CONVERT;
        let mode = check_request(args.mode, bits, args.lvb.is_some())?;
        let lock = self.lock(i);
        if lock.queue != Queue::Grant || lock.is_busy() {
            return Err(Refused::Busy);
        }
        let may_queue = lock.granted.is_some_and(|old| old.may_queue_to(mode));
        if bits.has(QUECVT) && !may_queue {
            return Err(Refused::Invalid);
        }
        let r = lock.resource;
        let lvb = self.copy_lvb(bits, args.lvb)?;
        if bits.has(VALBLK) && self.is_master(r) {
            self.reserve_lvb(r)?;
        }
        let lock = self.lock_mut(i);
        if let Some(owner) = &mut lock.owner {
            accept(owner);
        }
        if !lvb.is_empty() {
            lock.lvb = lvb;
        }
        lock.flags = bits;
        lock.sb_flags = StatusFlags::NONE;
        lock.pid = args.pid;
        lock.requested = Some(mode);
        lock.set(WANTS_BLOCKING, args.wants_blocking);
        self.start_convert(i, fx);
        Ok(())
    }

    /// The lock of this node that an operation names.
    pub(super) fn own_lock(&self, id: LockId) -> Result<LockIndex, Refused> {
        let i = self.index_of(id).ok_or(Refused::NotFound)?;
        let lock = self.locks.find(i).ok_or(Refused::NotFound)?;
        if lock.is_master_copy() {
            return Err(Refused::Invalid);
        }
        if lock.owner.is_none() {
            return Err(Refused::NotFound);
        }
        Ok(i)
    }

    /// Sends a conversion on its way, for the first time or again.
    pub(super) fn start_convert<F: Effects<Owner = O>>(&mut self, i: LockIndex, fx: &mut F) {
        let r = self.lock(i).resource;
        let Some(master) = self.resource(r).master() else {
            // Nobody holds a lock on a resource without a master; not to be lost if somebody does.
            self.lock_mut(i).waiting = Waiting::Convert;
            return self.retry_later(i, false);
        };
        if master == self.own() {
            return self.convert_here(i, fx);
        }
        self.lock_mut(i).peer = master;
        self.send(i, MessageKind::Convert, master, fx);
        if self.lock(i).change() == Change::Down {
            self.convert_down(i, fx);
        } else {
            self.lock_mut(i).waiting = Waiting::Convert;
        }
    }

    /// The owner's side of a conversion that the master cannot refuse.
    fn convert_down<F: Effects<Owner = O>>(&mut self, i: LockIndex, fx: &mut F) {
        let lock = self.lock(i);
        let Some(requested) = lock.requested else {
            return;
        };
        if direction(lock.granted, requested) == Direction::Write {
            self.note_written(i);
        }
        self.set_granted(i, Some(requested));
        self.lock_mut(i).requested = None;
        self.complete(i, Status::Granted, fx);
    }

    /// A conversion of this node on a resource mastered here.
    fn convert_here<F: Effects<Owner = O>>(&mut self, i: LockIndex, fx: &mut F) {
        let wanted = self.lock(i).requested.unwrap_or(Mode::Nl);
        let outcome = self.decide_convert(i, &[], fx);
        match outcome {
            Outcome::Granted => self.complete(i, Status::Granted, fx),
            Outcome::Refused => self.complete(i, Status::Again, fx),
            Outcome::Deadlock => self.complete(i, Status::Deadlock, fx),
            Outcome::Queued => {}
        }
        self.after_convert(i, wanted, outcome, fx);
    }
}
