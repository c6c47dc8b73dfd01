// SPDX-License-Identifier: GPL-2.0-only
//! Operations that must be asked for again: after a recovery, because who was asked is gone, and
//! after a reply that no operation can end with.
//!
//! A cancel or forced unlock that was noted meanwhile is done in place of the operation.

use super::{Effects, Shard, Status};
use crate::lockcore::arena::{Key, LockIndex};
use crate::lockcore::flags::FORCEUNLOCK;
use crate::lockcore::lkb::state::{OVERLAP_CANCEL, OVERLAP_UNLOCK, RESEND, RETRY};
use crate::lockcore::lkb::Waiting;

/// Pause before an operation is asked for again that a master could not deal with, ms.
const RETRY_MS: u64 = 100;

/// The same where the master is certain to know better soon, ms.
const RETRY_SOON_MS: u64 = 10;

impl<O> Shard<O> {
    /// Remembers to ask again.
    pub(super) fn retry_later(&mut self, i: LockIndex, soon: bool) {
        let pause_ms = if soon { RETRY_SOON_MS } else { RETRY_MS };
        let at = self.now_ms.saturating_add(pause_ms);
        self.lock_mut(i).set(RETRY, true);
        self.retry_at_ms = Some(self.retry_at_ms.map_or(at, |before| before.min(at)));
    }

    pub(super) fn retry_odd_replies<F: Effects<Owner = O>>(&mut self, fx: &mut F) {
        let mut walk = self.locks.walk();
        while let Some((i, lock)) = walk.next(&self.locks) {
            if lock.is(RETRY) && !lock.is(RESEND) {
                self.resubmit(i, fx);
            }
        }
    }

    /// Asks again for what a lock waits for, or does what was noted in its place.
    pub(super) fn resubmit<F: Effects<Owner = O>>(&mut self, i: LockIndex, fx: &mut F) {
        let lock = self.lock_mut(i);
        let waited = core::mem::take(&mut lock.waiting);
        let unlock = lock.is(OVERLAP_UNLOCK);
        let cancel = lock.is(OVERLAP_CANCEL);
        lock.set(RETRY | RESEND | OVERLAP_UNLOCK | OVERLAP_CANCEL, false);
        match waited {
            Waiting::None | Waiting::Cancel => {}
            Waiting::Unlock => self.start_unlock(i, fx),
            Waiting::Lookup | Waiting::Request => self.resubmit_request(i, unlock, cancel, fx),
            Waiting::Convert if unlock => {
                let lock = self.lock_mut(i);
                lock.requested = None;
                lock.flags |= FORCEUNLOCK;
                self.start_unlock(i, fx);
            }
            Waiting::Convert if cancel => {
                self.lock_mut(i).requested = None;
                self.complete(i, Status::Cancelled, fx);
            }
            Waiting::Convert => self.start_convert(i, fx),
        }
    }

    fn resubmit_request<F: Effects<Owner = O>>(
        &mut self,
        i: LockIndex,
        unlock: bool,
        cancel: bool,
        fx: &mut F,
    ) {
        let r = self.lock(i).resource;
        if unlock || cancel {
            let how = if unlock {
                Status::Unlocked
            } else {
                Status::Cancelled
            };
            if self.resource(r).first == i {
                self.continue_lookups(r, fx);
            }
            return self.end(i, how, fx);
        }
        // The resource must outlive its lock.
        self.join(r);
        self.start_request(i, fx);
        if self.is_master(r) {
            self.continue_lookups(r, fx);
        }
        self.leave(r, LockIndex::NONE);
    }
}
