// SPDX-License-Identifier: GPL-2.0-only
//! Stop, start, and the steps of recovery: the shell around the recovery machine of lockcore.
//!
//! The controller stops and starts; packets and the recovery thread drive the machine, each with
//! the recovery mutex held for one bounded step. The machine reaches the shards one at a time.
//! Order that users rely on: `recover_prep` after the last operation has drained, `recover_slot`
//! for each failed member, `recover_done` after operations may run again and before who created
//! the lockspace is woken.

use kernel::{
    fmt,
    prelude::*,
    sync::{
        atomic::ordering,
        Arc, //
    }, //
};

use super::{
    effects::Fx,
    hooks::{
        hooks,
        Recovered, //
    },
    index,
    registry,
    Lockspace,
    Progress, //
};
use crate::callback::Owner;
use crate::ffi::errno;
use crate::ffi::memory::{
    patiently,
    NoReclaim, //
};
use crate::ffi::time::{
    cond_resched,
    now_ms, //
};
use crate::lockcore::members::NodeId;
use crate::lockcore::recovery::{
    Done,
    RecoveryEffects,
    Shards,
    StartArgs,
    State, //
};
use crate::lockcore::shard::Shard;
use crate::transport;
use crate::uapi::lock::Slot;

/// How long locks of a closed file that could not be given up wait for the next attempt.
const CLOSED_RETRY_MS: u64 = 100;

/// When the recovery thread is to call again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// At once.
    Again,
    /// At this time, in milliseconds of [`now_ms`].
    WaitUntil(u64),
    /// When woken.
    Idle,
}

/// Stops every lockspace as the controller would: it went away.
pub(crate) fn stop_all(why: &str) {
    registry::for_each(&mut |ls| {
        pr_warn!("{}: {}, stopping lockspace\n", ls.display_name(), why);
        if let Err(e) = ls.stop() {
            pr_err!("{}: not stopped: {}\n", ls.display_name(), e.to_errno());
        }
    });
}

/// Nobody is there to answer: who waits for an answer need not wait any more.
pub(crate) fn role_closed() {
    registry::for_each(&mut |ls| {
        let no_controller = errno::EUNATCH.to_errno();
        // A join fails with it, a leave goes on without.
        if ls.answer(no_controller).is_ok() {
            pr_warn!(
                "{}: the controller left before it answered\n",
                ls.display_name()
            );
        }
        ls.first_recovery_ended(no_controller);
    });
}

impl Lockspace {
    /// Stops all locking: returns when no operation runs any more and recovery has noticed.
    pub(crate) fn stop(&self) -> Result {
        {
            let _memory = NoReclaim::enter();
            let mut recovery = self.recovery.lock();
            // Under the mutex, or the end of a recovery could open it again behind us, and who
            // waits would run in circles.
            self.gate.close();
            recovery.control_stop(&Reach(self), &mut Outside(self));
            if self.is_gone() {
                self.gate.open();
            }
        }
        self.wake_recoverd();
        Ok(())
    }

    /// Starts a recovery with these members.
    pub(crate) fn start(self: &Arc<Self>, args: StartArgs) -> Result {
        if self.is_broken.load(ordering::Relaxed) {
            return Err(EIO);
        }
        let id = args.id;
        index::start(self, id, || {
            let mut recovery = self.recovery.lock();
            recovery.control_start(now_ms(), args)?;
            self.id.store(id, ordering::Relaxed);
            Ok(())
        })?;
        self.wake_recoverd();
        Ok(())
    }

    /// The controller answers a join or a leave; [`ENOENT`] if none is pending.
    pub(crate) fn answer(&self, result: i32) -> Result {
        self.handshake.answer(result)
    }

    /// Carries recovery on by one bounded step, and does what has become due in the shards.
    pub(crate) fn recover_step(&self, now: u64) -> Step {
        self.stop_if_broken();
        // Whatever comes up from here on and is due earlier than planned wakes the thread.
        self.planned.store(u64::MAX, ordering::Relaxed);
        let next = {
            let _memory = NoReclaim::enter();
            let mut recovery = self.recovery.lock();
            recovery.handle_timeout(now, &Reach(self), &mut Outside(self));
            recovery.next_timeout()
        };
        if next.is_some_and(|due| due <= now) {
            return Step::Again;
        }
        let mut next = next
            .unwrap_or(u64::MAX)
            .min(self.handle_shard_timeouts(now));
        if !self.drop_closed() {
            next = next.min(now.saturating_add(CLOSED_RETRY_MS));
        }
        self.planned.store(next, ordering::Relaxed);
        match next {
            u64::MAX => Step::Idle,
            due => Step::WaitUntil(due),
        }
    }

    /// A shard whose state makes no sense must grant nothing more, nor may the others, for they
    /// count on the same members: the lockspace stops until it is released. Looked at before every
    /// step, so that a start which was taken in the same moment comes to nothing.
    fn stop_if_broken(&self) {
        if !self.is_broken.load(ordering::Relaxed) {
            return;
        }
        let state = self.recovery.lock().state();
        match state {
            State::Running | State::Recovering => {
                // A stop cannot fail.
                let _ = self.stop();
                self.first_recovery_ended(EIO.to_errno());
                self.tell_recovered(EIO.to_errno());
            }
            // It stays so, for no start is taken any more: nor will the first recovery be.
            State::New | State::Stopped | State::Failed => {
                self.first_recovery_ended(EIO.to_errno());
            }
        }
    }

    /// What is due in the shards. Returns when the next is.
    fn handle_shard_timeouts(&self, now: u64) -> u64 {
        let mut next = u64::MAX;
        for index in 0..self.shards.len() {
            let ((), due) = self.with_shard_unplanned(index, |shard, fx| {
                if shard.next_timeout().is_some_and(|due| due <= now) {
                    shard.handle_timeout(now, fx);
                }
            });
            next = next.min(due.unwrap_or(u64::MAX));
            cond_resched();
        }
        next
    }

    /// Who waits for the first recovery is told.
    fn first_recovery_ended(&self, result: i32) {
        self.first_result.store(result, ordering::Relaxed);
        self.first_recovery.open();
    }

    /// Tells the controller how a recovery ended. What is told of one that failed is of the last
    /// one before that did not.
    fn tell_recovered(&self, result: i32) {
        let (generation, recover_seq, duration_ms, slots) = {
            let progress = self.progress.lock();
            let ms = u32::try_from(progress.duration_ms).unwrap_or(u32::MAX);
            let slots = copy_slots(&progress.slots);
            (progress.generation, progress.seq, ms, slots)
        };
        (hooks().recovered)(&Recovered {
            name: self.name(),
            result,
            generation,
            recover_seq,
            duration_ms,
            slots: &slots,
        });
    }

    /// This node is no member any more: nothing holds its connections for this lockspace.
    pub(super) fn forget_members(&self) {
        let _memory = NoReclaim::enter();
        self.recovery.lock().leave(&Reach(self), &mut Outside(self));
    }
}

/// How the recovery machine reaches the shards.
pub(super) struct Reach<'a>(pub(super) &'a Lockspace);

impl<'a> Shards for Reach<'a> {
    type Fx = Fx<'a>;

    fn count(&self) -> usize {
        self.0.shards.len()
    }

    fn with<R>(&self, index: usize, f: impl FnOnce(&mut Shard<Arc<Owner>>, &mut Fx<'a>) -> R) -> R {
        self.0.with_shard(index, f)
    }
}

/// What the recovery machine wants done outside.
pub(super) struct Outside<'a>(pub(super) &'a Lockspace);

impl RecoveryEffects for Outside<'_> {
    fn send_rcom(&mut self, to: NodeId, plain: bool, packet: &[u8]) {
        transport::send(to, packet, !plain);
    }

    fn hold_callbacks(&mut self) {
        self.0.callbacks.hold();
    }

    fn release_callbacks(&mut self) {
        if self.0.callbacks.go_on() {
            self.0.queue_callbacks();
        }
    }

    fn recover_prep(&mut self) {
        if let Some(ops) = &self.0.ops {
            ops.recover_prep();
        }
    }

    fn recover_slot(&mut self, node: NodeId, slot: u32) {
        if let Some(ops) = &self.0.ops {
            ops.recover_slot(Slot {
                nodeid: node.0 as i32,
                slot: slot as i32,
            });
        }
    }

    fn enabled(&mut self) {
        self.0.gate.open();
    }

    fn recover_done(&mut self, done: &Done<'_>) {
        let own_slot = i32::from(done.own_slot);
        let new = patiently(|| {
            let mut slots = KVec::new();
            for slot in done.slots {
                slots.push((slot.node, u32::from(slot.slot)), GFP_KERNEL)?;
            }
            Ok(Progress {
                generation: done.generation,
                slots,
                seq: done.seq,
                duration_ms: done.duration_ms,
            })
        });
        let old = core::mem::replace(&mut *self.0.progress.lock(), new);
        drop(old);
        let Some(ops) = &self.0.ops else { return };
        let mut list = patiently(|| {
            let mut list = KVec::new();
            for slot in done.slots {
                let entry = Slot {
                    nodeid: slot.node.0 as i32,
                    slot: i32::from(slot.slot),
                };
                list.push(entry, GFP_KERNEL)?;
            }
            Ok(list)
        });
        ops.recover_done(&mut list, own_slot, done.generation);
    }

    fn note(&mut self, line: fmt::Arguments<'_>) {
        pr_info!("{}: {}\n", self.0.display_name(), line);
    }

    fn member_added(&mut self, node: NodeId) {
        transport::member_added(node);
    }

    fn member_removed(&mut self, node: NodeId) {
        transport::member_removed(node);
    }

    fn finished(&mut self, result: i32) {
        self.0.first_recovery_ended(result);
        self.0.tell_recovered(result);
    }
}

/// Members and slots once more; none if there is no memory.
fn copy_slots(slots: &[(NodeId, u32)]) -> KVec<(NodeId, u32)> {
    let mut copy = KVec::new();
    match copy.extend_from_slice(slots, GFP_KERNEL) {
        Ok(()) => copy,
        Err(_) => KVec::new(),
    }
}
