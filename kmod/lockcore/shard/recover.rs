// SPDX-License-Identifier: GPL-2.0-only
//! A shard's part in a recovery. The recovery machine of the lockspace calls these in the order of
//! its steps; each of them can be called again after an interrupted recovery.
//!
//! What this node must not forget between two attempts is in the state of resources: that a master
//! is gone (`MASTER_GONE`), that locks of this node must be made known to a new one
//! (`NEW_MASTER`), that this node is taking locks in (`REBUILDING`). It goes when [`Shard::repair`]
//! is through.

use super::{Effects, Gate, Shard};
use crate::lockcore::arena::{Key, LockIndex, ResourceIndex, Walk};
use crate::lockcore::fault::{fault, Fault};
use crate::lockcore::flags::VALBLK;
use crate::lockcore::hash::name_hash;
use crate::lockcore::lkb::state::{REBUILT, RESEND, SENT};
use crate::lockcore::lkb::{Queue, Waiting};
use crate::lockcore::members::{Members, NodeId};
use crate::lockcore::mode::Mode;
use crate::lockcore::name::ResourceName;
use crate::lockcore::rsb::state;
use crate::platform::{Arc, Result};

mod rebuild;
mod repair;

pub use rebuild::Image;

impl<O> Shard<O> {
    /// From now on local operations wait and messages are saved.
    pub fn stop(&mut self) {
        self.gate = Gate::Blocked;
    }

    /// The members are these now. `gone` are all that failed or left since the last recovery that
    /// was completed, also those that are back.
    pub fn begin(&mut self, members: Arc<Members>, gone: &[NodeId]) {
        self.gate = Gate::Blocked;
        self.members = members;
        self.drop_idle();
        self.directory.clear();
        let mut walk = self.resources.walk();
        while let Some((r, _)) = walk.next(&self.resources) {
            let rsb = self.resources.get_mut(r);
            rsb.directory = self.members.directory_node(rsb.hash);
            rsb.set(state::MASTER_UNCERTAIN, false);
            let master = rsb.master();
            if master.is_some_and(|m| gone.contains(&m) || !self.members.contains(m)) {
                rsb.set(state::MASTER_GONE, true);
            }
            // Others may make locks known again that this node has from an attempt that was over
            // here and not there.
            if rsb.is(state::REBUILDING) || master == Some(self.members.own()) {
                rsb.set(state::HAD_COPIES, true);
            }
        }
        self.for_each_own(|lock| lock.set(SENT | REBUILT, false));
    }

    fn for_each_own(&mut self, mut f: impl FnMut(&mut crate::lockcore::lkb::Lkb<O>)) {
        let mut walk = self.locks.walk();
        while let Some((i, lock)) = walk.next(&self.locks) {
            if !lock.is_master_copy() {
                f(self.locks.get_mut(i));
            }
        }
    }

    /// The next resource that is mastered here, and its directory node.
    pub fn next_mastered(&self, walk: &mut Walk<ResourceIndex>) -> Option<(ResourceName, NodeId)> {
        while let Some((_, rsb)) = walk.next(&self.resources) {
            if rsb.master() == Some(self.own()) {
                return Some((rsb.name.get(), rsb.directory));
            }
        }
        None
    }

    /// A walk over resources that has just yielded this one.
    pub fn walk_behind(&self, name: &ResourceName) -> Option<Walk<ResourceIndex>> {
        let r = self.find(name_hash(name.as_bytes()), name.as_bytes());
        (!r.is_none()).then(|| Walk::behind(r))
    }

    /// `master` says that it masters a name whose directory node this is.
    pub fn add_directory(&mut self, name: &ResourceName, master: NodeId) -> Result {
        let own = self.own();
        let hash = name_hash(name.as_bytes());
        if self.members.directory_node(hash) != own || master == own {
            return Ok(());
        }
        let r = self.find(hash, name.as_bytes());
        if r.is_none() {
            return self.directory.set(hash, name, master);
        }
        let rsb = self.resource(r);
        let (known, lost) = (rsb.master(), rsb.is(state::MASTER_GONE));
        if known == Some(own) {
            // Two masters: a bug somewhere. The one that has the locks of this node stays.
            crate::platform::log(
                crate::platform::Level::Error,
                format_args!("node {} also masters {:?}", master.0, name),
            );
            return Ok(());
        }
        self.directory.set(hash, name, master)?;
        match known {
            None => self.resource_mut(r).set_master(Some(master)),
            Some(known) if known == master && !lost => {}
            // It became master in a recovery that was not completed.
            Some(_) => self.assign(r, master),
        }
        Ok(())
    }

    /// What waits for an answer: lookups, and what was sent to a node that is gone, is marked to be
    /// sent again; unlocks and cancels sent there are done.
    pub fn waiters_first_pass<F: Effects<Owner = O>>(
        &mut self,
        now_ms: u64,
        gone: &[NodeId],
        fx: &mut F,
    ) {
        self.advance(now_ms);
        let mut walk = self.locks.walk();
        while let Some((i, lock)) = walk.next(&self.locks) {
            let lost = gone.contains(&lock.peer) || !self.members.contains(lock.peer);
            if lock.is_master_copy() {
                continue;
            }
            match lock.waiting {
                Waiting::None => {}
                Waiting::Lookup => self.lock_mut(i).set(RESEND, true),
                Waiting::Request | Waiting::Convert if lost => self.lock_mut(i).set(RESEND, true),
                Waiting::Unlock if lost => self.end(i, super::Status::Unlocked, fx),
                Waiting::Cancel if lost => {
                    self.lock_mut(i).waiting = Waiting::None;
                    self.cancelled(i, fx);
                }
                Waiting::Request | Waiting::Convert | Waiting::Unlock | Waiting::Cancel => {}
            }
        }
    }

    /// Ends the locks of nodes that are gone.
    pub fn purge_gone<F: Effects<Owner = O>>(&mut self, now_ms: u64, gone: &[NodeId], fx: &mut F) {
        self.advance(now_ms);
        let mut walk = self.locks.walk();
        while let Some((i, lock)) = walk.next(&self.locks) {
            let lost = gone.contains(&lock.peer) || !self.members.contains(lock.peer);
            if !lock.is_master_copy() || !lost {
                continue;
            }
            let wrote = lock.granted >= Some(Mode::Pw) && lock.has(VALBLK);
            let rsb = self.resources.get_mut(lock.resource);
            rsb.set(state::GRANT, true);
            if wrote {
                rsb.set(state::WRITER_LOST, true);
            }
            self.destroy(i, fx);
        }
    }

    /// Finds a new master for those resources that lost theirs and whose directory node this is.
    pub fn settle_orphaned(&mut self) {
        let own = self.own();
        let mut walk = self.resources.walk();
        while let Some((r, rsb)) = walk.next(&self.resources) {
            if !rsb.is(state::MASTER_GONE) || rsb.directory != own {
                continue;
            }
            let recorded = self.directory.master(rsb.hash, rsb.name.as_bytes());
            self.assign(r, recorded.unwrap_or(own));
        }
    }

    /// The next resource whose new master another node must be asked for, and which node.
    pub fn next_orphaned(&self, walk: &mut Walk<ResourceIndex>) -> Option<(ResourceName, NodeId)> {
        while let Some((_, rsb)) = walk.next(&self.resources) {
            let elsewhere = rsb.master() != Some(self.own()) && rsb.is(state::NEW_MASTER);
            let open = rsb.is(state::MASTER_GONE) || elsewhere;
            if open && rsb.directory != self.own() {
                return Some((rsb.name.get(), rsb.directory));
            }
        }
        None
    }

    /// The directory node's answer to a node that looks for the new master of a name: the first who
    /// asks becomes it.
    pub fn claim_or_lookup(&mut self, name: &ResourceName, asker: NodeId) -> Result<NodeId> {
        let own = self.own();
        let hash = name_hash(name.as_bytes());
        let r = self.find(hash, name.as_bytes());
        let known = self.resources.find(r).and_then(|rsb| {
            let alive = !rsb.is(state::MASTER_GONE);
            rsb.master().filter(|_| alive)
        });
        if known == Some(own) {
            return Ok(own);
        }
        let recorded = self.directory.master(hash, name.as_bytes());
        let known_master = recorded.or(known).filter(|_| !fault(Fault::EveryoneMaster));
        let master = known_master.unwrap_or(asker);
        if recorded.is_none() && master != own {
            // Also what an earlier attempt has decided: the asker goes by this answer, and this
            // node may forget the resource before the recovery is over.
            self.directory.set(hash, name, master)?;
        }
        if !r.is_none() && known.is_none() {
            match self.resource(r).master() {
                Some(_) => self.assign(r, master),
                None => self.resource_mut(r).set_master(Some(master)),
            }
        }
        Ok(master)
    }

    /// The directory node's answer to this node.
    pub fn set_master(&mut self, name: &ResourceName, master: NodeId) {
        let r = self.find(name_hash(name.as_bytes()), name.as_bytes());
        if !r.is_none() && self.members.contains(master) {
            self.assign(r, master);
        }
    }

    /// A resource has a new master: what the old one knew of its locks is void.
    fn assign(&mut self, r: ResourceIndex, master: NodeId) {
        let own = self.own();
        let rsb = self.resources.get_mut(r);
        rsb.set_master(Some(master));
        rsb.set(state::MASTER_GONE, false);
        rsb.set(state::NEW_MASTER, master != own);
        if master == own {
            rsb.set(state::REBUILDING, true);
        }
        for queue in [Queue::Grant, Queue::Convert, Queue::Wait] {
            self.for_each_in(r, queue, |shard, i| {
                let lock = shard.lock_mut(i);
                if !lock.is_master_copy() {
                    lock.remote_id = 0;
                    lock.stale_cancels = 0;
                    lock.set(SENT | REBUILT, false);
                }
            });
        }
    }

    /// Calls `f` for each lock in a queue; it may change the lock, but not the queue.
    fn for_each_in(
        &mut self,
        r: ResourceIndex,
        queue: Queue,
        mut f: impl FnMut(&mut Self, LockIndex),
    ) {
        let mut walk = self.resource(r).queue(queue).walk();
        while let Some((i, _)) = walk.next(&self.locks) {
            f(self, i);
        }
    }

    /// Local operations may go on, saved messages be worked off by `drain_saved`.
    pub fn enable(&mut self) {
        self.gate = Gate::Draining;
    }

    /// Sends again what was marked, unless a saved reply has answered it.
    pub fn resend_waiters<F: Effects<Owner = O>>(&mut self, now_ms: u64, fx: &mut F) {
        self.advance(now_ms);
        let mut walk = self.locks.walk();
        while let Some((i, lock)) = walk.next(&self.locks) {
            if lock.is(RESEND) {
                self.resubmit(i, fx);
            }
        }
    }

    /// Goes through the queues of all resources that were marked for it.
    pub fn grant_marked<F: Effects<Owner = O>>(&mut self, now_ms: u64, fx: &mut F) {
        self.advance(now_ms);
        let mut walk = self.resources.walk();
        while let Some((r, rsb)) = walk.next(&self.resources) {
            if rsb.is(state::GRANT) {
                self.resource_mut(r).set(state::GRANT, false);
                self.grant_recovered(r, fx);
            }
        }
    }
}
