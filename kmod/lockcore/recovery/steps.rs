// SPDX-License-Identifier: GPL-2.0-only
//! The steps of a recovery, in their order.
//!
//! Every member goes through the same phases; a barrier ends when all have come to it. The lowest
//! member asks the others (STATUS) until all have, then says so; the others ask the lowest. So
//! nodes that know nothing of us but the protocol go through them, too.
//!
//! | Phase | Does | Waits for |
//! |---|---|---|
//! | Start | members that are gone and new ones | |
//! | Ping | asks every member once: same configuration? | all replies |
//! | Begin | shards drop what is cached and know the members | |
//! | Nodes | barrier; slots are given out | all |
//! | Names | asks every member what it masters that we are the directory node of | all replies |
//! | Directory | barrier | all |
//! | Waiters | what waits for a node that is gone | |
//! | Purge, Lookups, Images | if somebody is gone: new masters, our locks told to them | replies |
//! | Locks | barrier | all |
//! | Repair, DropSaved | value blocks, conversions; messages that mean nothing any more | |
//! | Done | barrier | all |
//! | Enable, Drain, Resend, Grant | locking goes on | |
//!
//! Without quorum nothing of this goes on. `Reopen` is no part of a recovery: it works off the
//! messages that came meanwhile.

use super::super::errno::EPROTO;
use super::super::fault::{fault, Fault};
use super::super::hash::name_hash;
use super::super::members::sort_by_node;
use super::super::name::ResourceName;
use super::super::shard::{Config as ShardConfig, Drained, Effects, Shard};
use super::effects::{Done, RecoveryEffects, Shards};
use super::lookups::Lookups;
use super::phase::{Mismatch, Phase, Step};
use super::{note, Known, Recovery, StartArgs, State};
use crate::platform::{Arc, KVec, Result, GFP};

/// Pause after an allocation failed, milliseconds: others need a moment to free something.
const RETRY_MS: u64 = 20;

/// Saved messages dealt with per step: between steps the thread looks for a stop.
const DRAIN_BATCH: usize = 256;

impl Recovery {
    /// When [`Recovery::handle_timeout`] has something to do; a time that is past means at once.
    pub fn next_timeout(&self) -> Option<u64> {
        if !self.quorate {
            return None;
        }
        if let Some(retry) = self.retry_ms {
            return Some(retry);
        }
        match &self.phase {
            Phase::Idle => None,
            Phase::Ping | Phase::Nodes | Phase::Directory | Phase::Locks | Phase::Done => {
                self.next_poll()
            }
            Phase::Names(names) => names.next_timeout(),
            Phase::Lookups(lookups) => lookups.next_timeout(),
            Phase::Images(images) => images.next_timeout(),
            Phase::Start
            | Phase::Begin(_)
            | Phase::Waiters(_)
            | Phase::Purge(_)
            | Phase::Repair(_)
            | Phase::DropSaved(_)
            | Phase::Enable(_)
            | Phase::Drain(_)
            | Phase::Resend(_)
            | Phase::Grant(_)
            | Phase::Reopen(_) => Some(0),
        }
    }

    /// Takes recovery on by one step, if it can go on.
    pub fn handle_timeout<S: Shards, R: RecoveryEffects>(
        &mut self,
        now_ms: u64,
        shards: &S,
        fx: &mut R,
    ) {
        if !self.quorate || self.retry_ms.is_some_and(|at| at > now_ms) {
            return;
        }
        self.retry_ms = None;
        let phase = core::mem::replace(&mut self.phase, Phase::Idle);
        if matches!(phase, Phase::Idle) {
            return;
        }
        match self.step(now_ms, phase, shards, fx) {
            Ok(Step::Again(phase) | Step::Wait(phase)) => self.phase = phase,
            Ok(Step::Next(phase)) => {
                self.enter(now_ms, &phase);
                self.phase = phase;
            }
            Err(Mismatch) => self.fail(fx),
        }
    }

    /// A phase begins; coming to a barrier is said, and all that are asked there are asked anew.
    fn enter(&mut self, now_ms: u64, phase: &Phase) {
        match phase.barrier() {
            Some(bit) => {
                self.status |= bit;
                self.open_polls(now_ms, false);
            }
            None if matches!(phase, Phase::Ping) => self.open_polls(now_ms, true),
            None => {}
        }
    }

    /// One step. An error ends the recovery; want of memory is no error: the phase goes on later.
    fn step<S: Shards, R: RecoveryEffects>(
        &mut self,
        now_ms: u64,
        phase: Phase,
        shards: &S,
        fx: &mut R,
    ) -> Result<Step, Mismatch> {
        Ok(match phase {
            Phase::Idle => Step::Wait(Phase::Idle),
            Phase::Start => self.begin(now_ms, fx),
            Phase::Ping => self.ping(now_ms, fx)?,
            Phase::Begin(at) => self.begin_shard(now_ms, at, shards),
            Phase::Nodes => self.nodes_barrier(now_ms, fx)?,
            Phase::Names(names) => self.ask_names(now_ms, names, fx),
            Phase::Directory => self.barrier(now_ms, Phase::Directory, Phase::Waiters(0), fx)?,
            Phase::Waiters(at) => {
                let next = if self.gone.is_empty() {
                    Phase::Locks
                } else {
                    Phase::Purge(0)
                };
                let gone = &self.gone;
                each(at, shards, Phase::Waiters, next, |shard, fx| {
                    shard.waiters_first_pass(now_ms, gone, fx);
                })
            }
            Phase::Purge(at) => {
                let gone = &self.gone;
                let next = Phase::Lookups(Lookups::default());
                each(at, shards, Phase::Purge, next, |shard, fx| {
                    if !fault(Fault::GoneNotPurged) {
                        shard.purge_gone(now_ms, gone, fx);
                    }
                    shard.settle_orphaned();
                })
            }
            Phase::Lookups(lookups) => self.ask_lookups(now_ms, lookups, shards, fx),
            Phase::Images(images) => self.send_images(now_ms, images, shards, fx),
            Phase::Locks => {
                let next = if self.gone.is_empty() {
                    Phase::DropSaved(0)
                } else {
                    Phase::Repair(0)
                };
                self.barrier(now_ms, Phase::Locks, next, fx)?
            }
            Phase::Repair(at) => self.repair_shard(now_ms, at, shards),
            Phase::DropSaved(at) => each(at, shards, Phase::DropSaved, Phase::Done, |shard, _| {
                shard.drop_saved(&[]);
            }),
            Phase::Done => {
                let step = self.barrier(now_ms, Phase::Done, Phase::Enable(0), fx)?;
                if matches!(step, Step::Next(_)) {
                    self.gone.clear();
                    fx.release_callbacks();
                }
                step
            }
            Phase::Enable(at) => {
                let step = each(at, shards, Phase::Enable, Phase::Drain(0), |shard, _| {
                    shard.enable();
                });
                if matches!(step, Step::Next(_)) {
                    fx.enabled();
                }
                step
            }
            Phase::Drain(at) => {
                self.drain_shard(now_ms, at, shards, Phase::Drain, Phase::Resend(0))
            }
            Phase::Reopen(at) => self.drain_shard(now_ms, at, shards, Phase::Reopen, Phase::Idle),
            Phase::Resend(at) => each(at, shards, Phase::Resend, Phase::Grant(0), |shard, fx| {
                if !fault(Fault::WaitersForgotten) {
                    shard.resend_waiters(now_ms, fx);
                }
            }),
            Phase::Grant(at) => {
                let step = each(at, shards, Phase::Grant, Phase::Idle, |shard, fx| {
                    shard.grant_marked(now_ms, fx);
                });
                let is_last = matches!(step, Step::Next(_));
                if is_last && self.complete(now_ms, fx).is_err() {
                    self.pause(now_ms, Phase::Grant(at))
                } else {
                    step
                }
            }
        })
    }

    /// Compares the members with those of the start that was handed over.
    fn begin<R: RecoveryEffects>(&mut self, now_ms: u64, fx: &mut R) -> Step {
        let Some(args) = self.pending.take() else {
            return Step::Wait(Phase::Idle);
        };
        self.mismatch = false;
        fx.hold_callbacks();
        fx.note(format_args!("dlm_recover {}", self.seq));
        match self.change_members(&args, fx) {
            Ok(()) => Step::Next(Phase::Ping),
            Err(_) => {
                self.pending = Some(args);
                self.pause(now_ms, Phase::Start)
            }
        }
    }

    /// Everything that needs memory comes before anything is changed or told.
    fn change_members<R: RecoveryEffects>(&mut self, args: &StartArgs, fx: &mut R) -> Result {
        let mut next = KVec::with_capacity(args.members.len(), GFP)?;
        self.gone.reserve(self.members.len(), GFP)?;
        let most = self.members.len() + args.members.len();
        self.unheard.reserve(most, GFP)?;
        for start in args.members.iter() {
            let before = self.known(start.node);
            // A failure that is named of a member that is known in this life was of another life,
            // and was dealt with when this one was added: the controller names failures until a
            // recovery has ended. Who left and is back is found out by its lack of a slot.
            let same = before.filter(|known| known.start.incarnation == start.incarnation);
            let slot = same.map_or(0, |known| known.slot);
            next.push(
                Known {
                    start: *start,
                    slot,
                    poll: Default::default(),
                },
                GFP,
            )?;
        }
        sort_by_node(&mut next, |known: &Known| known.start.node);
        for known in self
            .members
            .iter()
            .filter(|known| known.start.node != self.own)
        {
            let node = known.start.node;
            let stays = next.iter().find(|other| other.start.node == node);
            let same_life =
                stays.is_some_and(|other| other.start.incarnation == known.start.incarnation);
            if same_life {
                continue;
            }
            let failed = args.failed.contains(&node) || stays.is_some();
            fx.note(format_args!("remove member {}", node.0));
            for list in [&mut self.gone, &mut self.unheard] {
                note(list, node)?;
            }
            if failed && known.slot != 0 {
                fx.recover_slot(node, u32::from(known.slot));
            }
            if stays.is_none() {
                fx.member_removed(node);
            }
        }
        for known in next.iter().filter(|known| known.start.node != self.own) {
            if self.known(known.start.node).is_none() {
                // It may have been a member before, and what it said then may only have come now.
                note(&mut self.unheard, known.start.node)?;
                fx.note(format_args!("add member {}", known.start.node.0));
                fx.member_added(known.start.node);
            }
        }
        self.members = next;
        Ok(())
    }

    fn begin_shard<S: Shards>(&mut self, now_ms: u64, at: usize, shards: &S) -> Step {
        if at == 0 {
            let table = self
                .member_table()
                .and_then(|table| Ok(Arc::new(table, GFP)?));
            self.table = table.ok();
        }
        let Some(members) = self.table.clone() else {
            return self.pause(now_ms, Phase::Begin(0));
        };
        let (gone, unheard) = (&self.gone, &self.unheard);
        let step = each(at, shards, Phase::Begin, Phase::Nodes, |shard, _| {
            shard.begin(members, gone);
            shard.drop_saved(unheard);
        });
        if matches!(step, Step::Next(_)) {
            self.unheard.clear();
        }
        step
    }

    fn repair_shard<S: Shards>(&mut self, now_ms: u64, at: usize, shards: &S) -> Step {
        let mut result = Ok(());
        let step = each(
            at,
            shards,
            Phase::Repair,
            Phase::DropSaved(0),
            |shard, _| {
                result = shard.repair();
            },
        );
        match result {
            Ok(()) => step,
            Err(_) => self.pause(now_ms, Phase::Repair(at)),
        }
    }

    fn drain_shard<S: Shards>(
        &mut self,
        now_ms: u64,
        at: usize,
        shards: &S,
        phase: fn(usize) -> Phase,
        next: Phase,
    ) -> Step {
        let mut drained = Drained::Done;
        let step = each(at, shards, phase, next, |shard, fx| {
            drained = shard.drain_saved(now_ms, DRAIN_BATCH, fx);
        });
        match drained {
            Drained::Done => step,
            Drained::More => Step::Again(phase(at)),
            Drained::NoMemory => self.pause(now_ms, phase(at)),
        }
    }

    /// The same phase again, when there may be memory.
    pub(super) fn pause(&mut self, now_ms: u64, phase: Phase) -> Step {
        self.retry_ms = Some(now_ms.saturating_add(RETRY_MS));
        Step::Again(phase)
    }

    /// An error means no memory for the table of slots, and that nothing was told.
    fn complete<R: RecoveryEffects>(&mut self, now_ms: u64, fx: &mut R) -> Result {
        let mut slots = KVec::with_capacity(self.members.len(), GFP)?;
        for slot in self.slots() {
            slots.push(slot, GFP)?;
        }
        self.state = State::Running;
        self.is_done = true;
        let duration_ms = now_ms.saturating_sub(self.started_ms);
        fx.note(format_args!(
            "dlm_recover {} generation {} done: {} ms",
            self.seq, self.generation, duration_ms
        ));
        fx.recover_done(&Done {
            slots: &slots,
            own_slot: self.own_slot,
            generation: self.generation,
            seq: self.seq,
            duration_ms,
        });
        fx.finished(0);
        Ok(())
    }

    fn fail<R: RecoveryEffects>(&mut self, fx: &mut R) {
        self.state = State::Failed;
        self.phase = Phase::Idle;
        fx.note(format_args!("dlm_recover {} error {}", self.seq, EPROTO));
        fx.release_callbacks();
        fx.finished(EPROTO);
    }

    pub(super) fn shard_of_name<S: Shards>(&self, name: &ResourceName, shards: &S) -> usize {
        let bits = shards.count().trailing_zeros();
        ShardConfig::shard_of_hash(name_hash(name.as_bytes()), bits) as usize
    }

    pub(super) fn shard_of_lock<S: Shards>(&self, id: u32, shards: &S) -> usize {
        ShardConfig::shard_of_id(id, shards.count().trailing_zeros()) as usize
    }
}

/// Visits one shard; after the last one, on to `next`.
fn each<S: Shards>(
    at: usize,
    shards: &S,
    phase: fn(usize) -> Phase,
    next: Phase,
    visit: impl FnOnce(&mut Shard<<S::Fx as Effects>::Owner>, &mut S::Fx),
) -> Step {
    shards.with(at, visit);
    match at.wrapping_add(1) {
        at if at < shards.count() => Step::Again(phase(at)),
        _last => Step::Next(next),
    }
}
