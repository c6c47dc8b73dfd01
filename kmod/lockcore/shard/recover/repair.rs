// SPDX-License-Identifier: GPL-2.0-only
//! Making a rebuilt resource whole: its value block, and conversions that were under way when the
//! old master died.

use super::Shard;
use crate::lockcore::arena::{LockIndex, ResourceIndex};
use crate::lockcore::fault::{fault, Fault};
use crate::lockcore::flags::{CONVDEADLK, SBF_DEMOTED};
use crate::lockcore::lkb::state::{GAVE_UP_MODE, REBUILT, SENT, UNCERTAIN};
use crate::lockcore::lkb::{Lkb, Queue, Waiting};
use crate::lockcore::mode::{Change, Mode};
use crate::lockcore::rsb::state;
use crate::platform::{KVec, Result};

/// What a resource is done with when it is whole.
const RECOVERY_STATE: state::State = state::NEW_MASTER
    .with(state::REBUILDING)
    .with(state::HAD_COPIES)
    .with(state::WRITER_LOST)
    .with(state::LVB_SPARE)
    .with(state::LVB_SURE)
    .with(state::LVB_CARRIED);

impl<O> Shard<O> {
    /// Makes all resources whole that lost locks or were rebuilt. An error means no memory: call
    /// again.
    pub fn repair(&mut self) -> Result {
        let mut walk = self.resources.walk();
        while let Some((r, _)) = walk.next(&self.resources) {
            if self.is_master(r) {
                self.repair_mastered(r)?;
            }
            // Without a master it is still to be recovered.
            let rsb = self.resource_mut(r);
            if !rsb.is(state::MASTER_GONE) {
                rsb.set(RECOVERY_STATE, false);
            }
        }
        self.for_each_own(|lock| lock.set(SENT | REBUILT, false));
        Ok(())
    }

    fn repair_mastered(&mut self, r: ResourceIndex) -> Result {
        if self.resource(r).is(state::REBUILDING) {
            self.repair_rebuilt(r)?;
        } else if self.resource(r).is(state::WRITER_LOST) && !fault(Fault::WriterLossIgnored) {
            // What it wrote last may have been the first that was ever written.
            self.resource_mut(r)
                .set(state::LVB_INVALID | state::LVB_LOST, true);
        }
        Ok(())
    }

    fn repair_rebuilt(&mut self, r: ResourceIndex) -> Result {
        self.offer_own_lvbs(r)?;
        let rsb = self.resource_mut(r);
        let found = rsb
            .state
            .has_any(state::LVB_SURE | state::LVB_CARRIED | state::LVB_SPARE);
        let trusted = rsb.is(state::LVB_SURE) && !rsb.is(state::WRITER_LOST);
        rsb.set(state::LVB_INVALID, found && !trusted);
        rsb.set(state::LVB_LOST, !found);
        self.mark_own_uncertain(r);
        self.settle_uncertain(r);
        let rsb = self.resource_mut(r);
        if !rsb.queue(Queue::Convert).is_empty() || !rsb.queue(Queue::Wait).is_empty() {
            rsb.set(state::GRANT, true);
        }
        Ok(())
    }

    /// The locks of this node may have the best value block.
    fn offer_own_lvbs(&mut self, r: ResourceIndex) -> Result {
        for queue in [Queue::Grant, Queue::Convert] {
            let mut walk = self.resource(r).queue(queue).walk();
            while let Some((at, lock)) = walk.next(&self.locks) {
                if !lock.is_master_copy() && !lock.lvb.is_empty() {
                    self.reserve_lvb(r)?;
                    let lock = self.lock_mut(at);
                    let (granted, bits, seq) = (lock.granted, lock.flags, lock.lvb_seq);
                    let lvb: KVec<u8> = core::mem::take(&mut lock.lvb);
                    self.offer_lvb(r, granted, bits, seq, &lvb);
                    self.lock_mut(at).lvb = lvb;
                }
            }
        }
        Ok(())
    }

    /// Conversions of this node that the old master may have changed.
    fn mark_own_uncertain(&mut self, r: ResourceIndex) {
        for queue in [Queue::Grant, Queue::Convert] {
            self.for_each_in(r, queue, |shard, i| {
                let lock = shard.lock_mut(i);
                let converts = queue == Queue::Convert || lock.waiting == Waiting::Convert;
                let doubtful = lock.change() == Change::Middle || lock.has(CONVDEADLK);
                if !lock.is_master_copy() && converts && doubtful && lock.requested.is_some() {
                    lock.set(UNCERTAIN, true);
                }
            });
        }
    }

    /// A lock that cannot hold what its owner thinks it does, because of what others do hold, was
    /// converted by the old master, or has given up its mode.
    fn settle_uncertain(&mut self, r: ResourceIndex) {
        for queue in [Queue::Grant, Queue::Convert] {
            self.for_each_in(r, queue, |shard, i| {
                if shard.lock(i).is(UNCERTAIN) {
                    shard.settle_one(r, i);
                }
            });
        }
        for queue in [Queue::Grant, Queue::Convert] {
            self.for_each_in(r, queue, |shard, i| {
                let lock = shard.lock_mut(i);
                if lock.is(UNCERTAIN) && lock.is_master_copy() && queue == Queue::Grant {
                    lock.requested = None;
                }
                lock.set(UNCERTAIN, false);
            });
        }
    }

    fn settle_one(&mut self, r: ResourceIndex, i: LockIndex) {
        let lock = self.lock(i);
        if self.goes_with_certain(r, lock.granted) {
            return;
        }
        let asked = lock.requested;
        let demotes = lock.has(CONVDEADLK);
        if asked.is_some() && self.goes_with_certain(r, asked) {
            return self.set_granted(i, asked);
        }
        self.set_granted(i, Some(Mode::Nl));
        let lock = self.lock_mut(i);
        if demotes {
            lock.sb_flags |= SBF_DEMOTED;
        } else {
            lock.set(GAVE_UP_MODE, true);
        }
    }

    /// Whether a mode goes with all that is held for certain.
    fn goes_with_certain(&self, r: ResourceIndex, mode: Option<Mode>) -> bool {
        let goes = |lock: &Lkb<O>| match (lock.granted, mode) {
            (Some(held), Some(mode)) => lock.is(UNCERTAIN) || held.is_compatible(mode),
            (_, _) => true,
        };
        let rsb = self.resource(r);
        [Queue::Grant, Queue::Convert]
            .into_iter()
            .flat_map(|queue| rsb.queue(queue).iter(&self.locks))
            .all(|(_, lock)| goes(lock))
    }
}
