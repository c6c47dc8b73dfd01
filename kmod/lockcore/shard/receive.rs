// SPDX-License-Identifier: GPL-2.0-only
//! Lock messages from other nodes: who may send what, and the master's and the directory node's
//! part.
//!
//! Each operation is answered, if need be with an error for which there is no lock; replies to
//! operations of this node are `reply.rs`.

use super::grant::Outcome;
use super::send::{send_error, send_lookup_reply};
use super::{Effects, Gate, Received, Refused, Shard, Status};
use crate::lockcore::arena::{Key, LockIndex, ResourceIndex};
use crate::lockcore::errno::{EBADR, EBUSY, EINVAL, ENOENT, ENOTBLK};
use crate::lockcore::fault::{fault, Fault};
use crate::lockcore::flags::{
    StatusFlags, AST_BLOCKING, CONVDEADLK, NOQUEUE, SBF_DEMOTED, SHARED, SHARED_USER, VALBLK,
};
use crate::lockcore::hash::name_hash;
use crate::lockcore::lkb::state::{MASTER_COPY, WANTS_BLOCKING};
use crate::lockcore::lkb::{Lkb, LockId, Queue};
use crate::lockcore::lvb::writes_at_unlock;
use crate::lockcore::members::NodeId;
use crate::lockcore::mode::{Change, Mode};
use crate::lockcore::name::ResourceName;
use crate::lockcore::rsb::state::{IDLE, MASTER_UNCERTAIN};
use crate::lockcore::wire::message::{Message, MessageKind};
use crate::platform::KVec;

impl<O> Shard<O> {
    /// A lock message from `from`. During a recovery, and without quorum, it is saved.
    pub fn receive<F: Effects<Owner = O>>(
        &mut self,
        now_ms: u64,
        from: NodeId,
        message: &Message<'_>,
        fx: &mut F,
    ) -> Received {
        self.advance(now_ms);
        if self.gate != Gate::Open || !self.quorate {
            if fault(Fault::SavedLost) {
                return Received::Done;
            }
            return match self.saved.push(from, message) {
                Ok(()) => Received::Done,
                Err(_) => Received::NoMemory,
            };
        }
        self.handle(from, message, fx)
    }

    /// A message whose time has come.
    pub(super) fn handle<F: Effects<Owner = O>>(
        &mut self,
        from: NodeId,
        m: &Message<'_>,
        fx: &mut F,
    ) -> Received {
        let received = if self.members.contains(from) {
            self.dispatch(from, m, fx)
        } else {
            Received::Dropped
        };
        if received == Received::Dropped {
            self.dropped = self.dropped.wrapping_add(1);
        }
        received
    }

    fn dispatch<F: Effects<Owner = O>>(
        &mut self,
        from: NodeId,
        m: &Message<'_>,
        fx: &mut F,
    ) -> Received {
        match m.kind {
            MessageKind::Request => self.receive_request(from, m, fx),
            MessageKind::Convert => self.receive_convert(from, m, fx),
            MessageKind::Unlock => self.receive_unlock(from, m, fx),
            MessageKind::Cancel => self.receive_cancel(from, m, fx),
            MessageKind::Lookup => self.receive_lookup(from, m, fx),
            MessageKind::Remove => self.receive_remove(from, m),
            MessageKind::Purge => {
                self.end_orphans(m.pid, fx);
                Received::Done
            }
            MessageKind::RequestReply => self.receive_request_reply(from, m, fx),
            MessageKind::ConvertReply => self.receive_convert_reply(from, m, fx),
            MessageKind::UnlockReply => self.receive_unlock_reply(from, m, fx),
            MessageKind::CancelReply => self.receive_cancel_reply(from, m, fx),
            MessageKind::LookupReply => self.receive_lookup_reply(from, m, fx),
            MessageKind::Grant => self.receive_grant(from, m, fx),
            MessageKind::Bast => self.receive_blocking(from, m, fx),
        }
    }

    /// Another node asks for a lock.
    fn receive_request<F: Effects<Owner = O>>(
        &mut self,
        from: NodeId,
        m: &Message<'_>,
        fx: &mut F,
    ) -> Received {
        let kind = MessageKind::RequestReply;
        let (Some(name), Some(mode)) = (ResourceName::new(m.extra), m.rqmode) else {
            send_error(from, m, kind, EINVAL, fx);
            return Received::Dropped;
        };
        let hash = name_hash(name.as_bytes());
        if let Err(error) = self.check_mastery(from, hash, &name) {
            send_error(from, m, kind, error, fx);
            return Received::Done;
        }
        let Ok(i) = self.add_master_copy(from, m, &name, hash, mode) else {
            return Received::NoMemory;
        };
        let outcome = self.decide_request(i);
        self.send_reply(i, kind, outcome.result(), fx);
        self.after_request(i, mode, outcome, fx);
        if outcome == Outcome::Refused {
            self.destroy(i, fx);
        }
        Received::Done
    }

    /// Whether a request from `from` for this name is for this node to decide.
    fn check_mastery(&self, from: NodeId, hash: u32, name: &ResourceName) -> Result<(), i32> {
        let own = self.own();
        let r = self.find(hash, name.as_bytes());
        if !r.is_none() {
            let rsb = self.resource(r);
            let said_so = from == rsb.directory && rsb.is(IDLE) && self.is_settled();
            return match rsb.master() {
                Some(master) if master == own => Ok(()),
                // The directory node decides who is master, and it thinks we are.
                Some(_) | None if said_so => Ok(()),
                Some(_) | None => Err(ENOTBLK),
            };
        }
        let directory = self.members.directory_node(hash);
        if directory == own && self.directory.master(hash, name.as_bytes()).is_some() {
            return Err(ENOTBLK);
        }
        // What was sent before a recovery was not sent by the directory node of now.
        if directory == own || directory == from && self.is_settled() {
            Ok(())
        } else {
            Err(EBADR)
        }
    }

    /// A lock for another node's request, in no queue yet, on a resource mastered here. An error
    /// leaves nothing behind.
    fn add_master_copy(
        &mut self,
        from: NodeId,
        m: &Message<'_>,
        name: &ResourceName,
        hash: u32,
        mode: Mode,
    ) -> Result<LockIndex, Refused> {
        let own = self.own();
        let i = self.locks.reserve()?;
        let r = self.find_or_create(name, m.exflags)?;
        self.wake(r);
        let rsb = self.resources.get_mut(r);
        rsb.set_master(Some(own));
        rsb.set(MASTER_UNCERTAIN, false);
        debug_assert_eq!(rsb.hash, hash);
        let mut lock = Lkb {
            resource: r,
            peer: from,
            remote_id: m.lkid,
            pid: m.pid,
            flags: m.exflags,
            requested: Some(mode),
            lvb_seq: m.lvbseq,
            shared: m.flags.among(SHARED),
            lvb: KVec::new(),
            ..Lkb::default()
        };
        lock.set(MASTER_COPY, true);
        lock.set(WANTS_BLOCKING, m.asts.has(AST_BLOCKING));
        self.locks.put(i, lock);
        self.join(r);
        Ok(i)
    }

    /// The master copy that an operation of another node is about. What is not there any more is
    /// answered: the node may wait for it.
    fn master_copy<F: Effects<Owner = O>>(
        &self,
        from: NodeId,
        m: &Message<'_>,
        kind: MessageKind,
        fx: &mut F,
    ) -> Result<LockIndex, Received> {
        let i = self.index_of(LockId::from_raw(m.remid));
        let theirs =
            |lock: &Lkb<O>| lock.is_master_copy() && lock.peer == from && lock.remote_id == m.lkid;
        let found = i.and_then(|i| Some((i, self.locks.find(i).filter(|lock| theirs(lock))?)));
        match found {
            None => {
                send_error(from, m, kind, ENOENT, fx);
                Err(Received::Done)
            }
            Some((_, lock)) if !same_kind(lock, m) => Err(Received::Dropped),
            Some((i, _)) => Ok(i),
        }
    }

    /// Another node converts its lock.
    fn receive_convert<F: Effects<Owner = O>>(
        &mut self,
        from: NodeId,
        m: &Message<'_>,
        fx: &mut F,
    ) -> Received {
        let kind = MessageKind::ConvertReply;
        let i = match self.master_copy(from, m, kind, fx) {
            Ok(i) => i,
            Err(received) => return received,
        };
        let lock = self.lock(i);
        let Some(mode) = m.rqmode else {
            self.send_reply(i, kind, EINVAL, fx);
            return Received::Dropped;
        };
        if lock.queue != Queue::Grant {
            self.send_reply(i, kind, EBUSY, fx);
            return Received::Dropped;
        }
        let r = lock.resource;
        if m.exflags.has(VALBLK) && self.reserve_lvb(r).is_err() {
            return Received::NoMemory;
        }
        let lock = self.lock_mut(i);
        lock.flags = m.exflags;
        lock.sb_flags = m.sbflags;
        if lock.granted == Some(Mode::Nl) && m.grmode > lock.granted && lock.has(CONVDEADLK) {
            // The old master had done that, and the owner does not know.
            lock.sb_flags |= SBF_DEMOTED;
        }
        lock.shared = m.flags.among(SHARED);
        lock.requested = Some(mode);
        lock.lvb_seq = m.lvbseq;
        lock.set(WANTS_BLOCKING, m.asts.has(AST_BLOCKING));
        let answers = lock.change() != Change::Down;
        if !answers {
            // The owner has it already: it can neither wait nor be refused.
            lock.flags.set(NOQUEUE, false);
        }
        let outcome = self.decide_convert(i, m.extra, fx);
        if answers {
            self.send_reply(i, kind, outcome.result(), fx);
        }
        self.after_convert(i, mode, outcome, fx);
        Received::Done
    }

    /// Another node gives its lock up.
    fn receive_unlock<F: Effects<Owner = O>>(
        &mut self,
        from: NodeId,
        m: &Message<'_>,
        fx: &mut F,
    ) -> Received {
        let kind = MessageKind::UnlockReply;
        let i = match self.master_copy(from, m, kind, fx) {
            Ok(i) => i,
            Err(received) => return received,
        };
        let r = self.lock(i).resource;
        if m.exflags.has(VALBLK) && self.reserve_lvb(r).is_err() {
            return Received::NoMemory;
        }
        let lock = self.lock_mut(i);
        lock.flags = m.exflags;
        lock.sb_flags = StatusFlags::NONE;
        // What an owner did not know that it held, it has not written to.
        let knew = writes_at_unlock(m.grmode);
        self.lvb_at_unlock(i, if knew { m.extra } else { &[] });
        self.unqueue(i);
        self.set_granted(i, None);
        self.lock_mut(i).requested = None;
        self.send_reply(i, kind, Status::Unlocked.errno(), fx);
        self.grant_pending(r, fx);
        self.destroy(i, fx);
        Received::Done
    }

    /// Another node takes back what its lock waits for.
    fn receive_cancel<F: Effects<Owner = O>>(
        &mut self,
        from: NodeId,
        m: &Message<'_>,
        fx: &mut F,
    ) -> Received {
        let kind = MessageKind::CancelReply;
        let i = match self.master_copy(from, m, kind, fx) {
            Ok(i) => i,
            Err(received) => return received,
        };
        if !self.is_cancellable(i) {
            self.send_reply(i, kind, 0, fx);
            return Received::Done;
        }
        let lock = self.lock_mut(i);
        let (r, queue) = (lock.resource, lock.queue);
        lock.requested = None;
        if queue == Queue::Convert {
            self.requeue(i, Queue::Grant);
        } else {
            self.unqueue(i);
        }
        self.send_reply(i, kind, Status::Cancelled.errno(), fx);
        self.grant_pending(r, fx);
        if queue == Queue::Wait {
            self.destroy(i, fx);
        }
        Received::Done
    }

    /// Another node asks who the master of a name is.
    fn receive_lookup<F: Effects<Owner = O>>(
        &mut self,
        from: NodeId,
        m: &Message<'_>,
        fx: &mut F,
    ) -> Received {
        let Some(name) = ResourceName::new(m.extra) else {
            send_lookup_reply(from, m, None, fx);
            return Received::Dropped;
        };
        let hash = name_hash(name.as_bytes());
        if self.members.directory_node(hash) != self.own() {
            send_lookup_reply(from, m, None, fx);
            return Received::Done;
        }
        let r = self.find(hash, name.as_bytes());
        if !r.is_none() && self.is_master(r) {
            return self.receive_request(from, m, fx);
        }
        let Ok(master) = self.look_up(r, hash, &name, from) else {
            return Received::NoMemory;
        };
        send_lookup_reply(from, m, Some(master), fx);
        Received::Done
    }

    /// The master of a name that is not mastered here: the first who asks becomes it.
    fn look_up(
        &mut self,
        r: ResourceIndex,
        hash: u32,
        name: &ResourceName,
        asker: NodeId,
    ) -> Result<NodeId, Refused> {
        let recorded = self.directory.master(hash, name.as_bytes());
        let in_use = !r.is_none() && !self.resource(r).is(IDLE);
        let known = recorded.or_else(|| {
            let rsb = self.resources.find(r).filter(|_| in_use)?;
            rsb.master()
        });
        let Some(master) = known else {
            self.directory.set(hash, name, asker)?;
            if in_use {
                self.resource_mut(r).set_master(Some(asker));
            }
            return Ok(asker);
        };
        if recorded.is_none() && master == asker {
            // It takes it from here that it is the master. What this node has in use there is no
            // record: it may end without ever reaching that node.
            self.directory.set(hash, name, asker)?;
        }
        Ok(master)
    }

    /// A master has freed a resource whose directory node this is.
    fn receive_remove(&mut self, from: NodeId, m: &Message<'_>) -> Received {
        let hash = name_hash(m.extra);
        if self.directory.master(hash, m.extra) != Some(from) {
            return Received::Dropped;
        }
        let r = self.find(hash, m.extra);
        if !r.is_none() {
            if !self.resource(r).is(IDLE) {
                // A request to that node is on its way, and makes it the master again.
                return Received::Done;
            }
            self.free_idle(r);
        }
        self.directory.remove(hash, m.extra);
        Received::Done
    }
}

/// Whether a message and a lock agree on being a program's.
pub(super) fn same_kind<O>(lock: &Lkb<O>, m: &Message<'_>) -> bool {
    !m.flags.has(SHARED_USER) || lock.shared.has(SHARED_USER)
}
