// SPDX-License-Identifier: GPL-2.0-only
//! Lock messages from the master and the directory node to the owner of a lock.
//!
//! Replies come in the order of the messages they answer. A cancel that lost its race is settled
//! when that is seen (by the grant before it), and its reply is then only counted off
//! (`stale_cancels`), so the next operation need not wait for it and cannot mistake it for its own.
//! An error that no operation can end with is not handed to anybody: the operation is asked for
//! again later.

use super::grant::alternative;
use super::receive::same_kind;
use super::{Effects, Received, Shard, Status};
use crate::lockcore::arena::{LockIndex, ResourceIndex};
use crate::lockcore::errno::{EBADR, EINPROGRESS, ENOENT, ENOTBLK};
use crate::lockcore::flags::{FORCEUNLOCK, SBF_ALTMODE, SBF_DEMOTED};
use crate::lockcore::lkb::state::{BOUNCED, OVERLAP_CANCEL, OVERLAP_UNLOCK, RESEND};
use crate::lockcore::lkb::{LockId, Queue, Waiting};
use crate::lockcore::members::NodeId;
use crate::lockcore::mode::Mode;
use crate::lockcore::wire::message::{Message, MessageKind};

/// Results of operations, as the wire carries them.
const GRANTED: i32 = Status::Granted.errno();
const UNLOCKED: i32 = Status::Unlocked.errno();
const CANCELLED: i32 = Status::Cancelled.errno();
const AGAIN: i32 = Status::Again.errno();
const DEADLOCK: i32 = Status::Deadlock.errno();

impl<O> Shard<O> {
    /// The lock of this node that a message from its master is about.
    fn process_copy(&self, from: NodeId, m: &Message<'_>) -> Option<LockIndex> {
        let i = self.index_of(LockId::from_raw(m.remid))?;
        let lock = self.locks.find(i)?;
        let ours = !lock.is_master_copy() && same_kind(lock, m);
        let from_master = self.resource(lock.resource).master() == Some(from);
        (ours && from_master).then_some(i)
    }

    /// The lock of this node that waits for an answer of this node to this message.
    fn asked(&self, from: NodeId, id: u32, waiting: &[Waiting]) -> Option<LockIndex> {
        let i = self.index_of(LockId::from_raw(id))?;
        let lock = self.locks.find(i)?;
        let waits = waiting.contains(&lock.waiting) && lock.peer == from;
        (waits && !lock.is_master_copy()).then_some(i)
    }

    /// The directory node says who the master is.
    pub(super) fn receive_lookup_reply<F: Effects<Owner = O>>(
        &mut self,
        from: NodeId,
        m: &Message<'_>,
        fx: &mut F,
    ) -> Received {
        let Some(i) = self.asked(from, m.lkid, &[Waiting::Lookup]) else {
            return Received::Dropped;
        };
        let own = self.own();
        let master = u32::try_from(m.nodeid)
            .ok()
            .map(NodeId)
            .filter(|node| self.members.contains(*node));
        let r = self.lock(i).resource;
        let lock = self.lock_mut(i);
        lock.waiting = Waiting::None;
        lock.set(RESEND, false);
        let rsb = self.resource_mut(r);
        if rsb.master() != Some(own) {
            rsb.set_master(master);
        }
        if master.is_none() {
            // It does not know that it is the directory node: a recovery is near. No busy loop.
            let lock = self.lock_mut(i);
            lock.waiting = Waiting::Lookup;
            self.retry_later(i, false);
            return Received::Done;
        }
        self.request_again(i, fx);
        Received::Done
    }

    /// A request whose master has become known goes on, or ends if it was given up meanwhile.
    fn request_again<F: Effects<Owner = O>>(&mut self, i: LockIndex, fx: &mut F) {
        self.lock_mut(i).waiting = Waiting::Request;
        self.resubmit(i, fx);
    }

    /// The master answers a request.
    pub(super) fn receive_request_reply<F: Effects<Owner = O>>(
        &mut self,
        from: NodeId,
        m: &Message<'_>,
        fx: &mut F,
    ) -> Received {
        let expected = [Waiting::Request, Waiting::Lookup];
        let Some(i) = self.asked(from, m.remid, &expected) else {
            return Received::Dropped;
        };
        if !same_kind(self.lock(i), m) {
            return Received::Dropped;
        }
        let r = self.lock(i).resource;
        let taken = matches!(m.result, GRANTED | EINPROGRESS);
        if taken && self.is_master(r) {
            self.decline(i, m.lkid, from, fx);
            return Received::Done;
        }
        // A refusal that was saved is of before the recovery: that node may have forgotten since
        // that it was the master, and has then told nobody.
        let refused = m.result == AGAIN && self.is_settled();
        if taken || refused {
            if let Err(received) = self.record_confirmed(r, from) {
                return received;
            }
        }
        self.lock_mut(i).set(RESEND, false);
        match m.result {
            GRANTED | EINPROGRESS => {
                // A directory node that is the master takes a lookup for a request.
                self.resource_mut(r).set_master(Some(from));
                self.request_taken(i, m, fx);
                if self.resource(r).first == i {
                    self.continue_lookups(r, fx);
                }
                self.settle_overlap(i, fx);
            }
            AGAIN => {
                self.resource_mut(r).set_master(Some(from));
                let lock = self.lock_mut(i);
                lock.waiting = Waiting::None;
                lock.set(OVERLAP_CANCEL | OVERLAP_UNLOCK, false);
                lock.requested = None;
                self.complete(i, Status::Again, fx);
                if self.resource(r).first == i {
                    self.continue_lookups(r, fx);
                }
                self.destroy(i, fx);
            }
            EBADR | ENOTBLK => self.request_bounced(i, fx),
            _odd => self.odd_reply(i),
        }
        Received::Done
    }

    /// Another node took a request for what has turned out to be mastered here: it is told that it
    /// has no lock, and the request is decided here.
    fn decline<F: Effects<Owner = O>>(
        &mut self,
        i: LockIndex,
        remote_id: u32,
        from: NodeId,
        fx: &mut F,
    ) {
        self.odd_replies = self.odd_replies.wrapping_add(1);
        self.lock_mut(i).remote_id = remote_id;
        self.send(i, MessageKind::Unlock, from, fx);
        let lock = self.lock_mut(i);
        lock.remote_id = 0;
        lock.set(RESEND, false);
        self.request_again(i, fx);
    }

    /// Who took a request is the master: on the directory node, a record must say so. There is none
    /// if the request was under way during a recovery.
    fn record_confirmed(&mut self, r: ResourceIndex, master: NodeId) -> Result<(), Received> {
        let rsb = self.resources.get(r);
        let (hash, name) = (rsb.hash, rsb.name.as_bytes());
        if rsb.directory != self.own() || self.directory.master(hash, name) == Some(master) {
            return Ok(());
        }
        let name = rsb.name.get();
        self.directory
            .set(hash, &name, master)
            .map_err(|_| Received::NoMemory)
    }

    /// The request was granted or queued on its master.
    fn request_taken<F: Effects<Owner = O>>(&mut self, i: LockIndex, m: &Message<'_>, fx: &mut F) {
        let lock = self.lock_mut(i);
        lock.waiting = Waiting::None;
        lock.remote_id = m.lkid;
        lock.sb_flags = m.sbflags;
        if m.result == GRANTED {
            self.granted_by_master(i, m);
            self.complete(i, Status::Granted, fx);
        } else {
            self.enqueue(i, Queue::Wait);
        }
    }

    /// The owner's side of a grant.
    fn granted_by_master(&mut self, i: LockIndex, m: &Message<'_>) {
        let lock = self.lock_mut(i);
        if lock.sb_flags.has(SBF_DEMOTED) && lock.granted.is_some() {
            self.set_granted(i, Some(Mode::Nl));
        }
        let lock = self.lock_mut(i);
        if lock.sb_flags.has(SBF_ALTMODE) {
            lock.requested = alternative(lock.flags, lock.requested).or(lock.requested);
        }
        self.take_lvb(i, m.extra, m.lvbseq);
        let requested = self.lock(i).requested;
        self.set_granted(i, requested);
        self.lock_mut(i).requested = None;
        if self.lock(i).queue != Queue::Grant {
            self.requeue(i, Queue::Grant);
        }
    }

    /// Does what was noted while the request was in flight.
    fn settle_overlap<F: Effects<Owner = O>>(&mut self, i: LockIndex, fx: &mut F) {
        let lock = self.lock_mut(i);
        let unlock = lock.is(OVERLAP_UNLOCK);
        let cancel = lock.is(OVERLAP_CANCEL) && lock.queue == Queue::Wait;
        let master = lock.peer;
        lock.set(OVERLAP_UNLOCK | OVERLAP_CANCEL, false);
        if unlock {
            lock.flags |= FORCEUNLOCK;
            self.start_unlock(i, fx);
        } else if cancel {
            lock.waiting = Waiting::Cancel;
            self.send(i, MessageKind::Cancel, master, fx);
        }
    }

    /// Who was asked is not the master.
    fn request_bounced<F: Effects<Owner = O>>(&mut self, i: LockIndex, fx: &mut F) {
        let own = self.own();
        let lock = self.lock_mut(i);
        let given_up = lock.state.has_any(OVERLAP_UNLOCK | OVERLAP_CANCEL);
        let again = lock.is(BOUNCED);
        lock.set(BOUNCED, true);
        let r = lock.resource;
        let rsb = self.resource_mut(r);
        if rsb.master() != Some(own) {
            if rsb.directory != own {
                rsb.set_master(None);
                if again && !given_up {
                    // The first time what was known here was old. Now the directory node does not
                    // know better: its link to that node may be slow, ours is not.
                    return self.retry_later(i, true);
                }
            } else if !given_up {
                // Our own record names it: it will know when its lookup is answered.
                return self.retry_later(i, true);
            }
        }
        self.request_again(i, fx);
    }

    /// The master could not deal with it.
    fn odd_reply(&mut self, i: LockIndex) {
        self.odd_replies = self.odd_replies.wrapping_add(1);
        self.retry_later(i, false);
    }

    /// The master answers a conversion.
    pub(super) fn receive_convert_reply<F: Effects<Owner = O>>(
        &mut self,
        from: NodeId,
        m: &Message<'_>,
        fx: &mut F,
    ) -> Received {
        let found = self.process_copy(from, m);
        let Some(i) = found.filter(|i| self.lock(*i).waiting == Waiting::Convert) else {
            return Received::Dropped;
        };
        let lock = self.lock_mut(i);
        lock.set(RESEND, false);
        match m.result {
            GRANTED => {
                lock.sb_flags = m.sbflags;
                self.granted_by_master(i, m);
                self.convert_answered(i);
                self.complete(i, Status::Granted, fx);
            }
            EINPROGRESS => {
                lock.sb_flags = m.sbflags;
                if lock.sb_flags.has(SBF_DEMOTED) {
                    self.set_granted(i, Some(Mode::Nl));
                }
                self.requeue(i, Queue::Convert);
                self.convert_answered(i);
            }
            AGAIN | DEADLOCK => {
                lock.requested = None;
                self.convert_answered(i);
                let status = if m.result == AGAIN {
                    Status::Again
                } else {
                    Status::Deadlock
                };
                self.complete(i, status, fx);
            }
            _odd => self.odd_reply(i),
        }
        Received::Done
    }

    /// What was sent behind the conversion is what the lock waits for now.
    fn convert_answered(&mut self, i: LockIndex) {
        let lock = self.lock_mut(i);
        let unlock = lock.is(OVERLAP_UNLOCK);
        let cancel = lock.is(OVERLAP_CANCEL);
        lock.set(OVERLAP_UNLOCK | OVERLAP_CANCEL, false);
        let queued = lock.queue == Queue::Convert;
        lock.waiting = match (unlock, cancel && queued) {
            (true, _) => Waiting::Unlock,
            (false, true) => Waiting::Cancel,
            (false, false) => Waiting::None,
        };
        if cancel && lock.waiting != Waiting::Cancel {
            lock.stale_cancels = lock.stale_cancels.saturating_add(1);
        }
    }

    /// The master has ended the lock.
    pub(super) fn receive_unlock_reply<F: Effects<Owner = O>>(
        &mut self,
        from: NodeId,
        m: &Message<'_>,
        fx: &mut F,
    ) -> Received {
        let found = self.process_copy(from, m);
        let Some(i) = found.filter(|i| self.lock(*i).waiting == Waiting::Unlock) else {
            return Received::Dropped;
        };
        match m.result {
            // Unknown there: a cancel before it has ended the request.
            UNLOCKED | ENOENT => self.end(i, Status::Unlocked, fx),
            _odd => self.odd_reply(i),
        }
        Received::Done
    }

    /// The master says whether there was something to take back.
    pub(super) fn receive_cancel_reply<F: Effects<Owner = O>>(
        &mut self,
        from: NodeId,
        m: &Message<'_>,
        fx: &mut F,
    ) -> Received {
        let Some(i) = self.process_copy(from, m) else {
            return Received::Dropped;
        };
        let lock = self.lock_mut(i);
        if lock.stale_cancels > 0 {
            lock.stale_cancels -= 1;
            return Received::Done;
        }
        if lock.waiting != Waiting::Cancel {
            return Received::Dropped;
        }
        lock.waiting = Waiting::None;
        if m.result == CANCELLED {
            if m.sbflags.has(SBF_DEMOTED) && lock.granted.is_some() {
                lock.sb_flags |= SBF_DEMOTED;
                self.set_granted(i, Some(Mode::Nl));
            }
            self.cancelled(i, fx);
        }
        Received::Done
    }

    /// The master has granted what waited.
    pub(super) fn receive_grant<F: Effects<Owner = O>>(
        &mut self,
        from: NodeId,
        m: &Message<'_>,
        fx: &mut F,
    ) -> Received {
        let found = self.process_copy(from, m);
        let queued = |i: &LockIndex| matches!(self.lock(*i).queue, Queue::Wait | Queue::Convert);
        let Some(i) = found.filter(queued) else {
            return Received::Dropped;
        };
        self.lock_mut(i).sb_flags = m.sbflags;
        self.granted_by_master(i, m);
        let lock = self.lock_mut(i);
        match lock.waiting {
            // The owner has given it up and hears of the end only.
            Waiting::Unlock => return Received::Done,
            Waiting::Cancel => {
                lock.waiting = Waiting::None;
                lock.stale_cancels = lock.stale_cancels.saturating_add(1);
            }
            Waiting::None | Waiting::Lookup | Waiting::Request | Waiting::Convert => {}
        }
        self.complete(i, Status::Granted, fx);
        Received::Done
    }

    /// The master says that a lock is in somebody's way.
    pub(super) fn receive_blocking<F: Effects<Owner = O>>(
        &mut self,
        from: NodeId,
        m: &Message<'_>,
        fx: &mut F,
    ) -> Received {
        let (Some(i), Some(mode)) = (self.process_copy(from, m), m.bastmode) else {
            return Received::Dropped;
        };
        self.blocking(i, mode, fx);
        Received::Done
    }
}
