// SPDX-License-Identifier: GPL-2.0-only
//! The world around a recovery: the shards it works on, and what it wants done elsewhere. Whoever
//! runs the machine implements both.

use core::fmt;

use super::super::members::NodeId;
use super::super::shard::{Effects, Shard};
use super::super::wire::rcom::SlotOf;

/// How the recovery machine reaches the shards, one at a time.
pub trait Shards {
    /// What shards do their effects with.
    type Fx: Effects;

    /// How many there are.
    fn count(&self) -> usize;

    /// Lends shard number `index` for the time of `f`.
    fn with<R>(
        &self,
        index: usize,
        f: impl FnOnce(&mut Shard<<Self::Fx as Effects>::Owner>, &mut Self::Fx) -> R,
    ) -> R;
}

/// What recovery wants done outside of lockcore.
pub trait RecoveryEffects {
    /// Sends a packet. Plain: once, and it may get lost. Otherwise it must arrive, in order.
    fn send_rcom(&mut self, to: NodeId, plain: bool, packet: &[u8]);

    /// Another node is a member from now on: it must be connected to.
    fn member_added(&mut self, node: NodeId);

    /// Another node is a member no longer.
    fn member_removed(&mut self, node: NodeId);

    /// Completions and blocking callbacks are kept back from now on.
    fn hold_callbacks(&mut self);

    /// Those that were kept back are delivered, in order, and later ones at once.
    fn release_callbacks(&mut self);

    /// Locking has stopped. Once between two [`RecoveryEffects::recover_done`].
    fn recover_prep(&mut self);

    /// A member failed that had this slot.
    fn recover_slot(&mut self, node: NodeId, slot: u32);

    /// Shards run: who waited for that may go on.
    fn enabled(&mut self);

    /// Recovery is over, all that waited for it was dealt with.
    fn recover_done(&mut self, done: &Done<'_>);

    /// The end of a start: 0, or the errno with which it failed. After
    /// [`RecoveryEffects::recover_done`].
    fn finished(&mut self, result: i32);

    /// A line for the log, about this lockspace.
    fn note(&mut self, line: fmt::Arguments<'_>);
}

/// What a completed recovery agreed on.
#[derive(Clone, Copy, Debug)]
pub struct Done<'a> {
    /// Members by ascending id, with their slots; 0 where slots are not known.
    pub slots: &'a [SlotOf],
    /// Slot of this node.
    pub own_slot: u16,
    /// Larger than that of the recovery before.
    pub generation: u32,
    /// Sequence of the start that is completed.
    pub seq: u64,
    /// How long it took, milliseconds.
    pub duration_ms: u64,
}
