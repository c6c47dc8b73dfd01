// SPDX-License-Identifier: GPL-2.0-only
//! Locks that outlive their program: made when its file is closed, adopted by another program, or
//! purged.
//!
//! An orphan is a lock of this node without an owner. Nobody is told of what happens to it.

use super::effects::check_request;
use super::{Effects, Refused, Request, Shard};
use crate::lockcore::arena::{Key, LockIndex, ResourceIndex};
use crate::lockcore::flags::{
    StatusFlags, CANCEL, FORCEUNLOCK, IVVALBLK, ORPHAN, SHARED_ORPHAN, SHARED_USER,
};
use crate::lockcore::hash::name_hash;
use crate::lockcore::lkb::state::WANTS_BLOCKING;
use crate::lockcore::lkb::{LockId, Queue};
use crate::lockcore::mode::Mode;
use crate::lockcore::name::ResourceName;

impl<O> Shard<O> {
    /// The program of a lock is gone and the lock stays: what is under way is cancelled, what is
    /// granted is kept.
    pub fn orphan<F: Effects<Owner = O>>(
        &mut self,
        now_ms: u64,
        id: LockId,
        fx: &mut F,
    ) -> Result<(), Refused> {
        self.unlock(now_ms, id, CANCEL, None, |_| {}, fx)?;
        // A new request that waited is gone by now.
        let Some(i) = self.index_of(id).filter(|i| self.locks.find(*i).is_some()) else {
            return Ok(());
        };
        let lock = self.lock_mut(i);
        lock.shared |= SHARED_ORPHAN;
        lock.set(WANTS_BLOCKING, false);
        if let Some(owner) = lock.owner.take() {
            fx.release(owner);
        }
        Ok(())
    }

    /// Gives an orphan a new owner. Nothing is completed.
    pub fn adopt(&mut self, name: &ResourceName, args: Request<'_, O>) -> Result<LockId, Refused> {
        if self.is_blocked() {
            return Err(Refused::Blocked);
        }
        let bits = args.flags.without(ORPHAN);
        let mode = check_request(args.mode, bits, args.lvb.is_some())?;
        let lvb = self.copy_lvb(bits, args.lvb)?;
        let r = self.find(name_hash(name.as_bytes()), name.as_bytes());
        if r.is_none() {
            return Err(Refused::NotFound);
        }
        let at = self.find_orphan(r, mode)?;
        let lock = self.lock_mut(at);
        lock.owner = Some(args.owner);
        lock.flags = bits;
        lock.pid = args.pid;
        lock.shared = SHARED_USER;
        lock.sb_flags = StatusFlags::NONE;
        lock.last_completion = Some(mode);
        lock.last_blocking = None;
        lock.set(WANTS_BLOCKING, args.wants_blocking);
        if lock.lvb.is_empty() {
            lock.lvb = lvb;
        }
        Ok(self.id_of(at))
    }

    /// The orphan on a resource that holds `mode` and is not being changed.
    fn find_orphan(&self, r: ResourceIndex, mode: Mode) -> Result<LockIndex, Refused> {
        let mut refused = Refused::NotFound;
        for (i, lock) in self.resource(r).queue(Queue::Grant).iter(&self.locks) {
            if lock.is_orphan() && !lock.is_master_copy() && lock.owner.is_none() {
                if lock.granted == Some(mode) && !lock.is_busy() {
                    return Ok(i);
                }
                refused = Refused::Again;
            }
        }
        Err(refused)
    }

    /// Ends the orphans of a process; 0: all of them. Not while the shard is blocked.
    pub fn purge<F: Effects<Owner = O>>(&mut self, now_ms: u64, pid: u32, fx: &mut F) {
        if self.check_open(now_ms).is_ok() {
            self.end_orphans(pid, fx);
        }
    }

    pub(super) fn end_orphans<F: Effects<Owner = O>>(&mut self, pid: u32, fx: &mut F) {
        let mut walk = self.locks.walk();
        while let Some((i, lock)) = walk.next(&self.locks) {
            let meant = pid == 0 || lock.pid == pid;
            if lock.is_orphan() && !lock.is_master_copy() && meant {
                // It was checked for all that can refuse it.
                let _ended = self.give_up(i, FORCEUNLOCK | IVVALBLK, None, |_| {}, fx);
            }
        }
    }
}
