// SPDX-License-Identifier: GPL-2.0-only
//! Barriers: STATUS asked and answered until all members have come to the same place; and the
//! slots, which are given out in the first of them.
//!
//! A request that gets no answer is repeated: STATUS and its reply are the only messages that may
//! get lost.

use super::super::fault::{fault, Fault};
use super::super::members::NodeId;
use super::super::wire::rcom::{self, Config, Rcom, RcomKind, SlotOf};
use super::effects::RecoveryEffects;
use super::names::Names;
use super::phase::{self, Mismatch, Phase, Status, Step};
use super::{note, Known, Recovery};
use crate::platform::code::EINVAL;
use crate::platform::Result;

/// Pause before a member that was not there yet is asked again, at first. Doubled each time.
const DELAY_FIRST_MS: u64 = 5;

/// Longest pause between two questions.
const DELAY_MAX_MS: u64 = 200;

/// A question that got no answer for so long was lost.
const LOST_MS: u64 = 1000;

impl Recovery {
    /// Asks members anew: all others, or only those that a barrier asks.
    pub(super) fn open_polls(&mut self, now_ms: u64, all: bool) {
        let own = self.own;
        let lowest = self.lowest();
        let drives = lowest == Some(own);
        for known in self.members.iter_mut() {
            let node = known.start.node;
            let asked = node != own && (all || drives || lowest == Some(node));
            known.poll.is_asked = asked;
            known.poll.is_satisfied = false;
            known.poll.waiting = None;
            known.poll.due_ms = now_ms;
            known.poll.delay_ms = DELAY_FIRST_MS;
        }
    }

    pub(super) fn next_poll(&self) -> Option<u64> {
        let open = self.members.iter().filter(|known| known.poll.is_open());
        // Nobody to ask: on at once.
        open.map(|known| known.poll.due_ms).min().or(Some(0))
    }

    /// Asks whoever is due; true when all have answered what was hoped for.
    fn poll<R: RecoveryEffects>(&mut self, now_ms: u64, asks_slots: bool, fx: &mut R) -> bool {
        for at in 0..self.members.len() {
            let Some(known) = self.members.get(at) else {
                continue;
            };
            let node = known.start.node;
            if !known.poll.is_open() || known.poll.due_ms > now_ms {
                continue;
            }
            let asked = self.request(RcomKind::Status, 0, &rcom::encode_status(asks_slots));
            let Some(known) = self.members.get_mut(at) else {
                continue;
            };
            known.poll.due_ms = now_ms.saturating_add(LOST_MS);
            match asked {
                Ok((id, packet)) => {
                    known.poll.waiting = Some(id);
                    fx.send_rcom(node, true, &packet);
                }
                // As if it had been lost.
                Err(_) => known.poll.due_ms = now_ms.saturating_add(DELAY_MAX_MS),
            }
        }
        !self.members.iter().any(|known| known.poll.is_open())
    }

    /// Asks every member once, before anything is changed.
    pub(super) fn ping<R: RecoveryEffects>(
        &mut self,
        now_ms: u64,
        fx: &mut R,
    ) -> Result<Step, Mismatch> {
        self.check_configs()?;
        if !self.poll(now_ms, false, fx) {
            return Ok(Step::Wait(Phase::Ping));
        }
        let own = self.own;
        for at in 0..self.members.len() {
            let Some(known) = self.members.get_mut(at) else {
                continue;
            };
            // It has no slot any more: it left and joined again since the last recovery.
            let node = known.start.node;
            let renewed = node != own && known.slot != 0 && known.poll.own_slot == 0;
            if renewed {
                known.slot = 0;
                for list in [&mut self.gone, &mut self.unheard] {
                    // Room was made when the members were compared.
                    let _ = note(list, node);
                }
            }
        }
        Ok(Step::Next(Phase::Begin(0)))
    }

    fn check_configs(&self) -> Result<(), Mismatch> {
        if self.mismatch {
            return Err(Mismatch);
        }
        Ok(())
    }

    /// Waits at a barrier that this node has come to.
    pub(super) fn barrier<R: RecoveryEffects>(
        &mut self,
        now_ms: u64,
        here: Phase,
        next: Phase,
        fx: &mut R,
    ) -> Result<Step, Mismatch> {
        self.check_configs()?;
        let asks_slots = matches!(here, Phase::Nodes) && !self.drives();
        let skips = matches!(here, Phase::Locks) && fault(Fault::BarrierSkipped);
        if !self.poll(now_ms, asks_slots, fx) && !skips {
            return Ok(Step::Wait(here));
        }
        if let Some(bit) = here.barrier().filter(|_| self.drives()) {
            self.status |= phase::all(bit);
        }
        Ok(Step::Next(next))
    }

    /// The first barrier: the lowest member gives out slots before it says that all are here.
    pub(super) fn nodes_barrier<R: RecoveryEffects>(
        &mut self,
        now_ms: u64,
        fx: &mut R,
    ) -> Result<Step, Mismatch> {
        let next = Phase::Names(Names::default());
        let step = self.barrier(now_ms, Phase::Nodes, next, fx)?;
        if matches!(step, Step::Next(_)) {
            if self.drives() {
                self.assign_slots();
            }
            fx.note(format_args!(
                "generation {} slots {}",
                self.generation,
                self.members.len()
            ));
        }
        Ok(step)
    }

    fn drives(&self) -> bool {
        self.lowest() == Some(self.own)
    }

    /// The bit that is hoped for in the answers, none for any answer.
    fn hoped_for(&self) -> Status {
        match self.phase.barrier() {
            Some(bit) if self.drives() => bit,
            Some(bit) => phase::all(bit),
            None => Status::NONE,
        }
    }

    /// An answer to STATUS.
    pub(super) fn take_status(
        &mut self,
        now_ms: u64,
        from: NodeId,
        rcom: &Rcom<'_>,
        fx: &mut impl RecoveryEffects,
    ) -> Result {
        let config = Config::decode(rcom.payload).ok_or(EINVAL)?;
        let hoped_for = self.hoped_for();
        let takes_slots = matches!(self.phase, Phase::Nodes) && !self.drives();
        let (lvb_len, flags) = (self.lvb_len, self.flags);
        let Some(known) = self.known_mut(from) else {
            return Ok(());
        };
        if known.poll.waiting != Some(rcom.id) {
            return Ok(());
        }
        known.poll.waiting = None;
        known.poll.due_ms = now_ms.saturating_add(known.poll.delay_ms);
        known.poll.delay_ms = (known.poll.delay_ms * 2).min(DELAY_MAX_MS);
        if rcom.result == rcom::NOT_READY {
            known.poll.own_slot = 0;
            known.poll.is_satisfied = hoped_for == Status::NONE;
            return Ok(());
        }
        if config.lvb_len != lvb_len || config.flags != flags {
            self.mismatch = true;
            fx.note(format_args!(
                "config mismatch: {},{:x} nodeid {}: {},{:x}",
                lvb_len, flags, from.0, config.lvb_len, config.flags
            ));
            return Ok(());
        }
        known.poll.own_slot = config.own_slot;
        known.poll.generation = config.generation;
        let satisfied = Status::from_raw(rcom.result).has(hoped_for);
        known.poll.is_satisfied = satisfied;
        if takes_slots && satisfied {
            self.copy_slots(&config, rcom.payload)?;
        }
        Ok(())
    }

    /// The lowest member gives everybody the slot it has, or the lowest that is free.
    fn assign_slots(&mut self) {
        let own = self.own;
        let own_slot = self.own_slot;
        let mut generation = self.generation;
        for known in self.members.iter_mut() {
            let own_word = if known.start.node == own {
                own_slot
            } else {
                known.poll.own_slot
            };
            generation = generation.max(known.poll.generation);
            known.slot = own_word;
        }
        for at in 0..self.members.len() {
            let taken = |slot: u16, list: &[Known]| list.iter().any(|known| known.slot == slot);
            let Some(slot) = self.members.get(at).map(|known| known.slot) else {
                continue;
            };
            let again = self.members.iter().take(at).any(|known| known.slot == slot);
            if slot != 0 && !again {
                continue;
            }
            let free = (1..=u16::MAX).find(|slot| !taken(*slot, &self.members));
            if let (Some(known), Some(free)) = (self.members.get_mut(at), free) {
                known.slot = free;
            }
        }
        self.generation = generation.wrapping_add(1).max(1);
        self.own_slot = self.known(own).map_or(0, |known| known.slot);
        self.has_slots = true;
    }

    /// The slots that the lowest member gave out.
    fn copy_slots(&mut self, config: &Config, payload: &[u8]) -> Result {
        let slots = SlotOf::decode_all(payload).ok_or(EINVAL)?;
        for SlotOf { node, slot } in slots {
            if node == self.own && self.own_slot != 0 && self.own_slot != slot {
                // Whoever relies on slots would work on another one's journal.
                self.mismatch = true;
                return Ok(());
            }
            if node == self.own {
                self.own_slot = slot;
            }
            if let Some(known) = self.known_mut(node) {
                known.slot = slot;
            }
        }
        self.generation = config.generation;
        self.has_slots = true;
        Ok(())
    }
}
