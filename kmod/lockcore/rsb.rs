// SPDX-License-Identifier: GPL-2.0-only
//! One resource: a name with its queues, its value block and what is known of its master.
//!
//! Only data and the arithmetic on it; what happens to it is in `shard/`.

use super::arena::{Key, LockIndex, ResourceIndex};
use super::lkb::Queue;
use super::members::NodeId;
use super::mode::Mode;
use super::name::StoredName;
use super::queue::{Linked, Links, List};
use super::table::Named;
use crate::platform::KVec;
use state::State;

/// Bits of [`Rsb::state`].
pub mod state {
    use crate::lockcore::word::word;

    word! {
        /// What is known of a resource beside its queues.
        pub struct State(u16);
        /// Nobody here has a lock on it; it stays for a while.
        IDLE = 0x1;
        /// The master is what it was when this node last had a lock; it may have changed.
        MASTER_UNCERTAIN = 0x2;
        /// The value block must not be trusted.
        LVB_INVALID = 0x4;
        /// There may have been a value block that nobody has any more.
        LVB_LOST = 0x8;
        /// Somebody in a queue asked for NOORDER.
        NO_ORDER = 0x10;
        /// Its master is gone.
        MASTER_GONE = 0x20;
        /// It has a new master; locks of this node must be made known there.
        NEW_MASTER = 0x40;
        /// This node is the new master.
        REBUILDING = 0x80;
        /// The queues must be gone through at the end of recovery.
        GRANT = 0x100;
        /// A writer was lost with its node.
        WRITER_LOST = 0x200;
        /// Value block during a rebuild: from a lock that did not ask for it to be carried.
        LVB_SPARE = 0x400;
        /// Value block during a rebuild: from a lock that cannot have been behind a writer.
        LVB_SURE = 0x800;
        /// Value block during a rebuild: from a lock that carries one.
        LVB_CARRIED = 0x1000;
        /// Locks of other nodes were taken in by an earlier attempt at this recovery.
        HAD_COPIES = 0x2000;
        /// Conversions stand in the order in which a recovery took them in.
        UNORDERED = 0x4000;
    }
}

/// One resource.
pub struct Rsb {
    /// The name.
    pub name: StoredName,
    /// Its hash.
    pub hash: u32,
    pub(super) chain: ResourceIndex,
    /// 0: not known.
    pub(super) master: u32,
    /// Who knows the master.
    pub directory: NodeId,
    /// Wait, grant, convert: by [`Queue`].
    pub(super) queues: [List<LockIndex>; 3],
    /// Locks that wait until it is clear who the master is.
    pub lookups: List<LockIndex>,
    /// The lock that finds out who the master is.
    pub first: LockIndex,
    /// How many locks hold each mode above NL, in the grant and in the convert queue.
    pub(super) held: [u32; 5],
    /// Locks on it, in whatever queue.
    pub locks: u32,
    /// On the master: the value block; empty if there is none. Keeps room for one as long as a lock
    /// may write it.
    pub lvb: KVec<u8>,
    /// Sequence of the value block.
    pub lvb_seq: u32,
    pub(super) links: Links<ResourceIndex>,
    /// When the last lock went, ms, wrapping.
    pub idle_since_ms: u32,
    /// What is known of it besides.
    pub state: State,
}

impl Default for Rsb {
    fn default() -> Self {
        Self {
            name: StoredName::default(),
            hash: 0,
            chain: ResourceIndex::NONE,
            master: 0,
            directory: NodeId(0),
            queues: [List::default(); 3],
            lookups: List::default(),
            first: LockIndex::NONE,
            held: [0; 5],
            locks: 0,
            lvb: KVec::new(),
            lvb_seq: 0,
            links: Links::default(),
            idle_since_ms: 0,
            state: State::NONE,
        }
    }
}

impl Linked<ResourceIndex> for Rsb {
    fn links(&self) -> &Links<ResourceIndex> {
        &self.links
    }
    fn links_mut(&mut self) -> &mut Links<ResourceIndex> {
        &mut self.links
    }
}

impl Named<ResourceIndex> for Rsb {
    fn hash(&self) -> u32 {
        self.hash
    }
    fn name(&self) -> &[u8] {
        self.name.as_bytes()
    }
    fn chain(&mut self) -> &mut ResourceIndex {
        &mut self.chain
    }
    fn chained(&self) -> ResourceIndex {
        self.chain
    }
}

impl Rsb {
    /// Whether all of `bits` are set.
    pub fn is(&self, bits: State) -> bool {
        self.state.has(bits)
    }

    /// Sets or clears `bits`.
    pub fn set(&mut self, bits: State, on: bool) {
        self.state.set(bits, on);
    }

    /// Who decides, if known.
    pub fn master(&self) -> Option<NodeId> {
        (self.master != 0).then_some(NodeId(self.master))
    }

    /// Says who decides.
    pub fn set_master(&mut self, master: Option<NodeId>) {
        self.master = master.map_or(0, |node| node.0);
    }

    /// One of the three queues.
    pub fn queue(&self, queue: Queue) -> &List<LockIndex> {
        match queue {
            Queue::None | Queue::Wait => &self.queues[0],
            Queue::Grant => &self.queues[1],
            Queue::Convert => &self.queues[2],
        }
    }

    /// One of the three queues.
    pub fn queue_mut(&mut self, queue: Queue) -> &mut List<LockIndex> {
        match queue {
            Queue::None | Queue::Wait => &mut self.queues[0],
            Queue::Grant => &mut self.queues[1],
            Queue::Convert => &mut self.queues[2],
        }
    }

    /// Counts a lock in that holds `mode`.
    pub fn hold(&mut self, mode: Option<Mode>) {
        if let Some(count) = mode.and_then(|mode| self.count_of(mode)) {
            *count = count.saturating_add(1);
        }
    }

    /// Counts a lock out that held `mode`.
    pub fn unhold(&mut self, mode: Option<Mode>) {
        if let Some(count) = mode.and_then(|mode| self.count_of(mode)) {
            *count = count.saturating_sub(1);
        }
    }

    fn count_of(&mut self, mode: Mode) -> Option<&mut u32> {
        self.held.get_mut((mode as usize).wrapping_sub(1))
    }

    /// Whether `mode` goes with all that is held, leaving out one lock that holds `own`.
    pub fn admits(&self, mode: Mode, own: Option<Mode>) -> bool {
        let [_nl, modes @ ..] = Mode::ALL;
        modes.into_iter().zip(self.held).all(|(held, count)| {
            let others = count.saturating_sub(u32::from(own == Some(held)));
            others == 0 || mode.is_compatible(held)
        })
    }

    /// How many locks hold each mode above NL.
    pub fn held(&self) -> [u32; 5] {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_small() {
        assert_eq!(size_of::<Rsb>(), 160);
        assert_eq!(size_of::<Option<Rsb>>(), 160);
    }

    #[test]
    fn admits_is_the_compatibility_with_every_other_holder() {
        for held in Mode::ALL {
            for wanted in Mode::ALL {
                let mut r = Rsb::default();
                r.hold(Some(held));
                assert_eq!(r.admits(wanted, None), held.is_compatible(wanted));
                assert!(r.admits(wanted, Some(held)), "alone");
                r.hold(Some(held));
                assert_eq!(r.admits(wanted, Some(held)), held.is_compatible(wanted));
                r.unhold(Some(held));
                r.unhold(Some(held));
                assert!(r.admits(wanted, None));
            }
        }
    }
}
