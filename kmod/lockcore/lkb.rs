// SPDX-License-Identifier: GPL-2.0-only
//! One lock: the claim of one holder on one resource.
//!
//! A lock of this node has an owner in the shell; on a resource mastered elsewhere it is the
//! process copy of a lock whose master copy lives there. A master copy here stands for another
//! node's lock and has no owner. Only data; what happens to it is in `shard/`.

use super::arena::{Key, LockIndex, ResourceIndex};
use super::flags::{LockFlags, SharedFlags, StatusFlags, SHARED_ORPHAN};
use super::members::NodeId;
use super::mode::{Change, Mode};
use super::queue::{Linked, Links};
use crate::platform::KVec;
use state::State;

/// A lock's number on one node of a lockspace. The low bits say in which shard it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockId(u32);

impl LockId {
    /// Of the place `index` in shard `shard` of `1 << shard_bits`. Never 0.
    pub fn new(index: LockIndex, shard: u32, shard_bits: u32) -> Self {
        Self((index.raw().wrapping_add(1) << shard_bits) | shard)
    }

    /// By its number.
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The number.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The place in its shard of `1 << shard_bits`.
    pub fn index(self, shard_bits: u32) -> LockIndex {
        LockIndex::new((self.0 >> shard_bits).wrapping_sub(1))
    }
}

/// The queue of its resource that a lock is in; the numbers are those of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Queue {
    /// In none: a request that has not reached its master.
    #[default]
    None = 0,
    /// New requests.
    Wait = 1,
    /// Granted.
    Grant = 2,
    /// Granted, and waiting for another mode.
    Convert = 3,
}

/// The message that a lock of this node waits to be answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Waiting {
    /// None.
    #[default]
    None,
    /// To the directory node.
    Lookup,
    /// To the master.
    Request,
    /// To the master.
    Convert,
    /// To the master.
    Unlock,
    /// To the master.
    Cancel,
}

impl Waiting {
    /// The number of the message, as recovery messages and debugfs show it.
    pub const fn to_raw(self) -> u16 {
        match self {
            Waiting::None => 0,
            Waiting::Lookup => 11,
            Waiting::Request => 1,
            Waiting::Convert => 2,
            Waiting::Unlock => 3,
            Waiting::Cancel => 4,
        }
    }
}

/// Bits of [`Lkb::state`].
pub mod state {
    use crate::lockcore::word::word;

    word! {
        /// What is known of a lock beside its modes.
        pub struct State(u16);
        /// Another node's lock.
        MASTER_COPY = 0x1;
        /// In the list of locks that wait for another one's lookup.
        LOOKUP_QUEUED = 0x2;
        /// What is in flight must be sent again.
        RESEND = 0x4;
        /// A forced unlock behind what is in flight.
        OVERLAP_UNLOCK = 0x8;
        /// A cancel behind what is in flight.
        OVERLAP_CANCEL = 0x10;
        /// The grant just made hands out the value block.
        RETURNS_LVB = 0x20;
        /// Its owner wants blocking callbacks.
        WANTS_BLOCKING = 0x40;
        /// The master answered with an error of its own: ask again later.
        RETRY = 0x80;
        /// Rebuilt while a conversion was under way: what it says it holds may be given up.
        UNCERTAIN = 0x100;
        /// A recovery had to take its granted mode away: its conversion cannot be cancelled.
        GAVE_UP_MODE = 0x800;
        /// Its image was sent to the new master, which has not answered.
        SENT = 0x200;
        /// The new master has its image.
        REBUILT = 0x400;
        /// Its request was sent to a node that was not the master.
        BOUNCED = 0x1000;
    }
}

/// One lock. `O` is what the shell keeps with a lock of this node.
pub struct Lkb<O> {
    /// For locks of this node that are no orphans.
    pub owner: Option<O>,
    /// For locks of this node: what the owner last read or wrote; empty if it never carried one.
    pub lvb: KVec<u8>,
    /// The resource.
    pub resource: ResourceIndex,
    pub(super) links: Links<LockIndex>,
    /// Master copy: its node. Own lock: the node that has to answer.
    pub peer: NodeId,
    /// The lock's number on the other node, 0 if there is none.
    pub remote_id: u32,
    /// The process that asked.
    pub pid: u32,
    /// Flags of the last request, with those of an unlock or-ed to them.
    pub flags: LockFlags,
    /// Sequence of the value block at the last read or write.
    pub lvb_seq: u32,
    /// When it was put on its queue, ms, wrapping.
    pub since_ms: u32,
    /// What is known of it besides.
    pub state: State,
    /// What it holds.
    pub granted: Option<Mode>,
    /// What it wants.
    pub requested: Option<Mode>,
    /// Highest mode its owner was told it blocks, by the master, since its last grant.
    pub told_blocking: Mode,
    /// Mode of the last completion.
    pub last_completion: Option<Mode>,
    /// The last callback was a blocking one of this mode.
    pub last_blocking: Option<Mode>,
    /// Where it is.
    pub queue: Queue,
    /// What it waits for.
    pub waiting: Waiting,
    /// What there is to say of the operation.
    pub sb_flags: StatusFlags,
    /// What both copies agree on.
    pub shared: SharedFlags,
    /// Replies to cancels that have become meaningless and are still to come.
    pub stale_cancels: u8,
}

impl<O> Default for Lkb<O> {
    fn default() -> Self {
        Self {
            owner: None,
            lvb: KVec::new(),
            resource: ResourceIndex::NONE,
            links: Links::default(),
            peer: NodeId(0),
            remote_id: 0,
            pid: 0,
            flags: LockFlags::NONE,
            lvb_seq: 0,
            since_ms: 0,
            state: State::NONE,
            granted: None,
            requested: None,
            told_blocking: Mode::Nl,
            last_completion: None,
            last_blocking: None,
            queue: Queue::None,
            waiting: Waiting::None,
            sb_flags: StatusFlags::NONE,
            shared: SharedFlags::NONE,
            stale_cancels: 0,
        }
    }
}

impl<O> Linked<LockIndex> for Lkb<O> {
    fn links(&self) -> &Links<LockIndex> {
        &self.links
    }
    fn links_mut(&mut self) -> &mut Links<LockIndex> {
        &mut self.links
    }
}

impl<O> Lkb<O> {
    /// Whether all of `bits` are set.
    pub fn is(&self, bits: State) -> bool {
        self.state.has(bits)
    }

    /// Sets or clears `bits`.
    pub fn set(&mut self, bits: State, on: bool) {
        self.state.set(bits, on);
    }

    /// Whether all of `flags` were asked for.
    pub fn has(&self, flags: LockFlags) -> bool {
        self.flags.has(flags)
    }

    /// Whether this is another node's lock.
    pub fn is_master_copy(&self) -> bool {
        self.is(state::MASTER_COPY)
    }

    /// Whether its program is gone.
    pub fn is_orphan(&self) -> bool {
        self.shared.has(SHARED_ORPHAN)
    }

    /// Whether something is in flight, or must be sent again.
    pub fn is_busy(&self) -> bool {
        self.waiting != Waiting::None
            || self
                .state
                .has_any(state::OVERLAP_UNLOCK | state::OVERLAP_CANCEL | state::LOOKUP_QUEUED)
    }

    /// Which way the conversion goes that it asked for; a new request goes up.
    pub fn change(&self) -> Change {
        match (self.granted, self.requested) {
            (Some(old), Some(new)) => old.change_to(new),
            (_, _) => Change::Up,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_small() {
        assert_eq!(size_of::<Lkb<std::sync::Arc<u8>>>(), 80);
        assert_eq!(size_of::<Option<Lkb<std::sync::Arc<u8>>>>(), 80);
    }

    #[test]
    fn ids_name_shard_and_place() {
        for (index, shard, bits) in [(0, 0, 0), (0, 3, 2), (1000, 63, 6)] {
            let id = LockId::new(LockIndex::new(index), shard, bits);
            assert_ne!(id.raw(), 0);
            assert_eq!(id.index(bits).raw(), index);
            assert_eq!(id.raw() & ((1 << bits) - 1), shard);
        }
        assert!(LockId::from_raw(0).index(4).is_none());
    }
}
