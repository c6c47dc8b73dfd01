// SPDX-License-Identifier: GPL-2.0-only
//! What must hold between any two calls of a shard. Walks everything: for tests and the simulator.

use super::grant::Stage;
use super::Shard;
use crate::lockcore::arena::{Key, LockIndex, ResourceIndex};
use crate::lockcore::lkb::state::{LOOKUP_QUEUED, RESEND, RETRY};
use crate::lockcore::lkb::{Queue, Waiting};
use crate::lockcore::mode::Mode;
use crate::lockcore::rsb::state;

impl<O> Shard<O> {
    /// Checks the shard; says what is wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.is_broken() {
            return Err("a number that names nothing was used");
        }
        let mut walk = self.resources.walk();
        let mut locks = 0;
        while let Some((r, rsb)) = walk.next(&self.resources) {
            locks += rsb.locks;
            self.check_resource(r)?;
        }
        if locks != self.locks.len() {
            return Err("resources count more or fewer locks than there are");
        }
        let mut walk = self.locks.walk();
        while let Some((i, _)) = walk.next(&self.locks) {
            self.check_lock(i)?;
        }
        Ok(())
    }

    fn check_lock(&self, i: LockIndex) -> Result<(), &'static str> {
        let lock = self.lock(i);
        if self.resources.find(lock.resource).is_none() {
            return Err("a lock has no resource");
        }
        let master = self.is_master(lock.resource);
        let in_flight = lock.waiting != Waiting::None || lock.is(LOOKUP_QUEUED);
        // A request may be on its way back from a node that is not the master any more.
        let bouncing = lock.waiting == Waiting::Request && lock.peer != self.own();
        if lock.is_master_copy() {
            if lock.owner.is_some() || in_flight || lock.queue == Queue::None {
                return Err("a master copy is in no queue, or waits for somebody");
            }
            return Ok(());
        }
        if lock.queue == Queue::None && !in_flight {
            return Err("a lock is in no queue and waits for nobody");
        }
        if master
            && in_flight
            && !bouncing
            && !lock.is(RESEND)
            && !lock.is(RETRY)
            && self.is_settled()
        {
            return Err("a lock waits for another node though the master is here");
        }
        match (lock.queue, lock.granted, lock.requested) {
            (Queue::None | Queue::Wait, Some(_), _) => Err("a new request holds a mode"),
            (Queue::None | Queue::Wait | Queue::Convert, _, None) => Err("it waits for no mode"),
            (Queue::Grant | Queue::Convert, None, _) => Err("a granted lock holds no mode"),
            (_, _, _) => Ok(()),
        }
    }

    fn check_resource(&self, r: ResourceIndex) -> Result<(), &'static str> {
        let rsb = self.resource(r);
        if rsb.is(state::IDLE) != (rsb.locks == 0) {
            return Err("idle and used disagree");
        }
        let mut held = [0u32; 5];
        let mut queued = 0;
        for queue in [Queue::Grant, Queue::Convert, Queue::Wait] {
            for (at, lock) in rsb.queue(queue).iter(&self.locks) {
                if lock.queue != queue || lock.resource != r {
                    return Err("a lock is in another queue than it says");
                }
                queued += 1;
                let counted = lock.granted.filter(|_| queue != Queue::Wait);
                if let Some(mode) = counted.filter(|mode| *mode > Mode::Nl) {
                    held[mode as usize - 1] += 1;
                }
                if self.is_master(r) {
                    self.check_queued(r, at, queue)?;
                }
            }
        }
        if held != rsb.held() {
            return Err("the counts of a resource are not those of its queues");
        }
        if queued > rsb.locks {
            return Err("more locks in queues than on the resource");
        }
        if !rsb.first.is_none() && self.locks.find(rsb.first).is_none() {
            return Err("a lock that is gone finds out who the master is");
        }
        if rsb.first.is_none() && !rsb.lookups.is_empty() {
            return Err("locks wait for a lookup that nobody does");
        }
        Ok(())
    }

    fn check_queued(
        &self,
        r: ResourceIndex,
        i: LockIndex,
        queue: Queue,
    ) -> Result<(), &'static str> {
        let lock = self.lock(i);
        let rsb = self.resource(r);
        let settled = self.is_settled() && !rsb.is(state::GRANT);
        match queue {
            Queue::Grant | Queue::Convert => match lock.granted {
                Some(mode) if !rsb.admits(mode, lock.granted) && settled => {
                    Err("two locks are granted that do not go together")
                }
                _ => Ok(()),
            },
            Queue::Wait | Queue::None => Ok(()),
        }?;
        if queue != Queue::Grant && settled && self.is_grantable(i, Stage::Queued) {
            return Err("a lock waits that could be granted");
        }
        Ok(())
    }
}
