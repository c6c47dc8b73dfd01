// SPDX-License-Identifier: GPL-2.0-only
//! The life of a resource: made by the first lock, idle after the last one, freed after a while.
//!
//! An idle resource is kept because its master is known: the next request for it costs no lookup.
//! A node that masters an idle one tells the directory node when it frees it. What another node
//! masters is only a hint while nobody here has a lock on it, and on the directory node not even
//! that: there the record decides.

use super::{Effects, Shard};
use crate::lockcore::arena::{Key, LockIndex, ResourceIndex};
use crate::lockcore::name::{ResourceName, StoredName};
use crate::lockcore::rsb::{state, Rsb};
use crate::platform::{KVec, Result, GFP};

/// Resources freed per call: the rest a call later, so that no caller waits long for the shard.
const TOSS_BATCH: usize = 256;

/// Pause after a full batch, ms.
const TOSS_PAUSE_MS: u64 = 10;

impl<O> Shard<O> {
    /// The resource of this name, or none.
    pub(super) fn find(&self, hash: u32, name: &[u8]) -> ResourceIndex {
        self.names.find(&self.resources, hash, name)
    }

    /// Makes sure that a value block can be written at any later time.
    pub(super) fn reserve_lvb(&mut self, r: ResourceIndex) -> Result {
        let len = usize::from(self.config.lvb_len);
        let rsb = self.resources.get_mut(r);
        if rsb.lvb.capacity() < len {
            let mut room = KVec::with_capacity(len, GFP)?;
            room.extend_from_slice(&rsb.lvb, GFP)?;
            rsb.lvb = room;
        }
        Ok(())
    }

    /// A new resource without locks and without a known master. The caller puts a lock on it.
    pub(super) fn create(&mut self, name: &ResourceName, hash: u32) -> Result<ResourceIndex> {
        let stored = StoredName::new(name)?;
        let r = self.resources.reserve()?;
        let rsb = Rsb {
            name: stored,
            hash,
            directory: self.members.directory_node(hash),
            ..Rsb::default()
        };
        self.resources.put(r, rsb);
        self.names.add(&mut self.resources, r);
        Ok(r)
    }

    /// A lock of this node is about to be put on `r`, which may be idle.
    pub(super) fn wake_for_own(&mut self, r: ResourceIndex) {
        if !self.wake(r) {
            return;
        }
        let own = self.own();
        let rsb = self.resources.get_mut(r);
        if rsb.master() == Some(own) {
            return;
        }
        if rsb.directory == own {
            rsb.set_master(None);
        } else {
            rsb.set(state::MASTER_UNCERTAIN, rsb.master().is_some());
        }
    }

    /// Takes `r` off the idle list. Returns whether it was there.
    pub(super) fn wake(&mut self, r: ResourceIndex) -> bool {
        let rsb = self.resources.get_mut(r);
        if !rsb.is(state::IDLE) {
            return false;
        }
        rsb.set(state::IDLE, false);
        rsb.first = LockIndex::NONE;
        self.idle.remove(&mut self.resources, r);
        true
    }

    /// Counts a lock in.
    pub(super) fn join(&mut self, r: ResourceIndex) {
        let rsb = self.resources.get_mut(r);
        rsb.locks = rsb.locks.saturating_add(1);
    }

    /// Counts the lock `i` out.
    pub(super) fn leave(&mut self, r: ResourceIndex, i: LockIndex) {
        let rsb = self.resources.get_mut(r);
        if rsb.first == i {
            rsb.first = LockIndex::NONE;
        }
        rsb.locks = rsb.locks.saturating_sub(1);
        if rsb.locks == 0 {
            self.retire(r);
        }
    }

    /// The last lock is gone.
    fn retire(&mut self, r: ResourceIndex) {
        let own = self.own();
        let now_ms = self.now_ms as u32;
        let rsb = self.resources.get_mut(r);
        let lost_master = rsb.state.has_any(state::MASTER_GONE | state::NEW_MASTER);
        let keep = match rsb.master() {
            Some(master) if master == own => true,
            Some(_) => rsb.directory != own && !lost_master,
            None => false,
        };
        if !keep {
            return self.free(r);
        }
        rsb.lvb = KVec::new();
        rsb.state = state::IDLE;
        rsb.first = LockIndex::NONE;
        rsb.idle_since_ms = now_ms;
        self.idle.push_back(&mut self.resources, r);
    }

    /// Forgets a resource without locks that is not in the idle list.
    pub(super) fn free(&mut self, r: ResourceIndex) {
        self.names.remove(&mut self.resources, r);
        self.resources.take(r);
    }

    /// Forgets an idle resource.
    pub(super) fn free_idle(&mut self, r: ResourceIndex) {
        self.idle.remove(&mut self.resources, r);
        self.free(r);
    }

    /// Forgets all idle resources without telling anybody.
    pub(super) fn drop_idle(&mut self) {
        while !self.idle.is_empty() {
            self.free_idle(self.idle.first());
        }
    }

    /// When the idle resource that was idle first is due.
    pub(super) fn next_toss_ms(&self) -> Option<u64> {
        let first = self.idle.first();
        if first.is_none() {
            return None;
        }
        let idle_ms = (self.now_ms as u32).wrapping_sub(self.resource(first).idle_since_ms);
        let left_ms = match self.config.toss_ms.checked_sub(idle_ms) {
            Some(left_ms) if left_ms > 0 => u64::from(left_ms),
            Some(_) | None => TOSS_PAUSE_MS,
        };
        Some(self.now_ms.saturating_add(left_ms))
    }

    /// Frees idle resources that are due.
    pub(super) fn toss_idle<F: Effects<Owner = O>>(&mut self, fx: &mut F) {
        for _resource in 0..TOSS_BATCH {
            let r = self.idle.first();
            if r.is_none() {
                return;
            }
            let rsb = self.resource(r);
            let idle_ms = (self.now_ms as u32).wrapping_sub(rsb.idle_since_ms);
            if idle_ms < self.config.toss_ms {
                return;
            }
            let (directory, own) = (rsb.directory, self.own());
            if rsb.master() == Some(own) && directory != own {
                self.send_remove(directory, r, fx);
            }
            self.free_idle(r);
        }
    }

    /// How many resources are idle.
    pub fn idle_count(&self) -> usize {
        self.idle.iter(&self.resources).count()
    }
}
