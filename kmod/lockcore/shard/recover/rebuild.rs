// SPDX-License-Identifier: GPL-2.0-only
//! Making locks known to a new master: images of locks of this node, and locks made from the
//! images of others.
//!
//! An image is sent once per attempt; a master that has the lock from an earlier attempt says so.
//! The best of the value blocks that come with images is kept on the resource at once, so nothing
//! has to be kept with the locks.

use super::Shard;
use crate::lockcore::arena::{Key, LockIndex, ResourceIndex, Walk};
use crate::lockcore::errno::{EBADR, EEXIST, EINVAL};
use crate::lockcore::flags::{LockFlags, AST_BLOCKING, AST_COMPLETION, CONVDEADLK, SHARED, VALBLK};
use crate::lockcore::hash::name_hash;
use crate::lockcore::lkb::state::{MASTER_COPY, REBUILT, SENT, UNCERTAIN, WANTS_BLOCKING};
use crate::lockcore::lkb::{Lkb, LockId, Queue, Waiting};
use crate::lockcore::members::NodeId;
use crate::lockcore::mode::{Change, Mode};
use crate::lockcore::rsb::state;
use crate::lockcore::shard::lvb::fill;
use crate::lockcore::wire::rcom::RcomLock;
use crate::platform::Result;

/// A lock of this node for its new master.
#[derive(Debug)]
pub struct Image<'a> {
    /// The new master.
    pub to: NodeId,
    /// The lock.
    pub id: LockId,
    /// What it is told.
    pub lock: RcomLock<'a>,
}

impl<O> Shard<O> {
    /// The next lock whose new master has not been sent its image.
    pub fn next_image(&mut self, walk: &mut Walk<LockIndex>) -> Option<Image<'_>> {
        let mut found = None;
        while let Some((i, lock)) = walk.next(&self.locks) {
            if !lock.is(SENT) && self.image_target(i).is_some() {
                found = Some(i);
                break;
            }
        }
        let i = found?;
        self.lock_mut(i).set(SENT, true);
        self.image(self.id_of(i))
    }

    /// Who must be made to know a lock.
    fn image_target(&self, i: LockIndex) -> Option<NodeId> {
        let lock = self.locks.find(i)?;
        let rsb = self.resource(lock.resource);
        let told = lock.is_master_copy() || lock.queue == Queue::None;
        let master = rsb.master().filter(|master| *master != self.own())?;
        (!told && rsb.is(state::NEW_MASTER)).then_some(master)
    }

    /// The image of a lock, to be sent once more.
    pub fn image(&self, id: LockId) -> Option<Image<'_>> {
        let i = self.index_of(id)?;
        let to = self.image_target(i)?;
        let lock = self.lock(i);
        let mut asts = AST_COMPLETION;
        if lock.is(WANTS_BLOCKING) {
            asts |= AST_BLOCKING;
        }
        let image = RcomLock {
            ownpid: lock.pid,
            lkid: id.raw(),
            remid: 0,
            exflags: lock.flags,
            flags: lock.shared,
            lvbseq: lock.lvb_seq,
            result: 0,
            rqmode: lock.requested,
            grmode: lock.granted,
            status: lock.queue,
            asts,
            wait_type: lock.waiting.to_raw(),
            name: self.resource(lock.resource).name.get(),
            lvb: &lock.lvb,
        };
        Some(Image {
            to,
            id,
            lock: image,
        })
    }

    /// The new master has a lock (result 0, or -EEXIST from an earlier attempt), or will never have
    /// it.
    pub fn rebuilt(&mut self, from: NodeId, id: LockId, remote_id: u32, result: i32) {
        let Some(i) = self.index_of(id) else {
            return;
        };
        if self.image_target(i) != Some(from) || !self.lock(i).is(SENT) {
            return;
        }
        let lock = self.lock_mut(i);
        lock.set(REBUILT, true);
        if result == 0 || result == EEXIST {
            lock.remote_id = remote_id;
        }
    }

    /// Whether every lock of this node that has a new master is known there.
    pub fn is_rebuilt(&self) -> bool {
        let mut walk = self.locks.walk();
        while let Some((i, lock)) = walk.next(&self.locks) {
            if !lock.is(REBUILT) && self.image_target(i).is_some() {
                return false;
            }
        }
        true
    }

    /// Takes in another node's lock. Answers the lock's number here and the result for the sender;
    /// an error means no memory, and nothing changed. It may come before this node knows that it is
    /// the new master.
    pub fn rebuild(
        &mut self,
        now_ms: u64,
        from: NodeId,
        image: &RcomLock<'_>,
    ) -> Result<(u32, i32)> {
        self.advance(now_ms);
        let name = &image.name;
        let r = self.find(name_hash(name.as_bytes()), name.as_bytes());
        if r.is_none() {
            return Ok((0, EBADR));
        }
        let Some((queue, granted, requested)) = place(image) else {
            return Ok((0, EINVAL));
        };
        if !image.lvb.is_empty() {
            self.reserve_lvb(r)?;
        }
        if self.resource(r).is(state::HAD_COPIES) {
            if let Some(i) = self.find_copy(r, from, image.lkid) {
                // Once the resource is whole its value block is the best there was, and nothing
                // of how good it was is known any more.
                if self.resource(r).is(state::REBUILDING) {
                    self.offer_lvb(r, granted, image.exflags, image.lvbseq, image.lvb);
                }
                return Ok((self.id_of(i).raw(), EEXIST));
            }
        }
        let i = self.locks.reserve()?;
        let mut lock = Lkb {
            resource: r,
            peer: from,
            remote_id: image.lkid,
            pid: image.ownpid,
            flags: image.exflags,
            lvb_seq: image.lvbseq,
            granted,
            requested,
            shared: image.flags.among(SHARED),
            ..Lkb::default()
        };
        lock.set(MASTER_COPY, true);
        lock.set(WANTS_BLOCKING, image.asts.has(AST_BLOCKING));
        if is_uncertain(image, queue, granted) {
            // What it asked for is needed until it is settled, also if it is not queued.
            lock.requested = image.rqmode;
            lock.set(UNCERTAIN, true);
        }
        self.locks.put(i, lock);
        self.join(r);
        self.enqueue(i, queue);
        self.resource_mut(r).set(state::REBUILDING, true);
        self.offer_lvb(r, granted, image.exflags, image.lvbseq, image.lvb);
        Ok((self.id_of(i).raw(), 0))
    }

    /// The master copy of this lock of another node.
    fn find_copy(&self, r: ResourceIndex, from: NodeId, remote_id: u32) -> Option<LockIndex> {
        let rsb = self.resource(r);
        let is_copy = |lock: &Lkb<O>| {
            lock.is_master_copy() && lock.peer == from && lock.remote_id == remote_id
        };
        [Queue::Grant, Queue::Convert, Queue::Wait]
            .into_iter()
            .flat_map(|queue| rsb.queue(queue).iter(&self.locks))
            .find_map(|(i, lock)| is_copy(lock).then_some(i))
    }

    /// Keeps a value block if it is the best so far. Best is one of a lock that no writer can have
    /// passed by; then the latest that is carried; then the latest of all.
    pub(super) fn offer_lvb(
        &mut self,
        r: ResourceIndex,
        granted: Option<Mode>,
        bits: LockFlags,
        seq: u32,
        bytes: &[u8],
    ) {
        let rsb = self.resources.get_mut(r);
        if bytes.is_empty() || rsb.is(state::LVB_SURE) {
            return;
        }
        let carried = bits.has(VALBLK);
        let sure = carried && granted > Some(Mode::Cr);
        let later = seq.wrapping_sub(rsb.lvb_seq) as i32 >= 0;
        let better = sure
            || carried && (later || !rsb.is(state::LVB_CARRIED))
            || !rsb.is(state::LVB_CARRIED) && (later || !rsb.is(state::LVB_SPARE));
        if better && fill(&mut rsb.lvb, bytes, self.config.lvb_len) {
            rsb.lvb_seq = seq;
            rsb.set(state::LVB_SURE, sure);
            rsb.set(state::LVB_CARRIED, carried);
            rsb.set(state::LVB_SPARE, !carried);
        }
    }
}

/// Queue, granted and requested mode of an image that makes sense.
fn place(image: &RcomLock<'_>) -> Option<(Queue, Option<Mode>, Option<Mode>)> {
    let (granted, requested) = match image.status {
        Queue::None => return None,
        Queue::Wait => (None, Some(image.rqmode?)),
        Queue::Grant => (Some(image.grmode?), None),
        Queue::Convert => (Some(image.grmode?), Some(image.rqmode?)),
    };
    Some((image.status, granted, requested))
}

/// Whether the old master may have changed what a lock holds without its owner's knowledge.
fn is_uncertain(image: &RcomLock<'_>, queue: Queue, granted: Option<Mode>) -> bool {
    let converts = queue == Queue::Convert || image.wait_type == Waiting::Convert.to_raw();
    let (Some(granted), Some(requested)) = (granted, image.rqmode) else {
        return false;
    };
    let middle = granted.change_to(requested) == Change::Middle;
    converts && (middle || image.exflags.has(CONVDEADLK))
}
