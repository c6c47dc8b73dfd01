// SPDX-License-Identifier: GPL-2.0-only
//! What tools and people may know of a lockspace: counts and states, and listings of its locks.
//!
//! Each shard is looked at under its mutex, one after the other: an answer is true of each shard
//! at one moment, not of all.

use kernel::{
    fmt,
    prelude::*,
    sync::{
        atomic::ordering,
        Arc, //
    }, //
};

use super::Lockspace;
use crate::callback::Owner;
use crate::ffi::time::now_ms;
use crate::lockcore::members::NodeId;
use crate::lockcore::recovery::State;
use crate::lockcore::shard::dump::{
    header,
    Format, //
};
use crate::uapi::netlink::LsState;

/// What of a lockspace a tool may want to know.
pub(crate) struct Info {
    /// Wire id; 0 before the first start.
    pub(crate) id: u32,
    /// `LSFL_*`.
    pub(crate) flags: u32,
    /// Part of its life.
    pub(crate) state: LsState,
    /// Of the last recovery that ended well.
    pub(crate) generation: u32,
    /// Of the last stop or start.
    pub(crate) recover_seq: u64,
    /// Barriers passed.
    pub(crate) recover_status: u32,
    /// Node that recovery waits for, or -1.
    pub(crate) recover_nodeid: i32,
    /// Locks, also those of other nodes mastered here.
    pub(crate) locks: u64,
    /// Resources, also idle ones.
    pub(crate) resources: u64,
    /// Members and their slots.
    pub(crate) slots: KVec<(NodeId, u32)>,
}

impl Lockspace {
    /// What a tool may want to know.
    pub(crate) fn info(&self) -> Info {
        let (mut locks, mut resources) = (0u64, 0u64);
        for cell in self.shards.iter() {
            let counts = cell.shard.lock().counts();
            locks = locks.saturating_add(u64::from(counts.locks));
            resources = resources.saturating_add(u64::from(counts.resources));
        }
        let recovery = self.recovery.lock();
        let mut slots = KVec::new();
        for slot in recovery.slots() {
            if slots
                .push((slot.node, u32::from(slot.slot)), GFP_KERNEL)
                .is_err()
            {
                // A list that ends early would be a lie; none is not.
                slots.clear();
                break;
            }
        }
        let state = match recovery.state() {
            _ if self.is_leaving.load(ordering::Relaxed) => LsState::Leaving,
            _ if self.is_broken.load(ordering::Relaxed) => LsState::Failed,
            State::New => LsState::New,
            State::Stopped => LsState::Stopped,
            State::Recovering => LsState::Recovering,
            State::Running => LsState::Running,
            State::Failed => LsState::Failed,
        };
        Info {
            id: self.id(),
            flags: self.flags.raw(),
            state,
            generation: recovery.generation(),
            recover_seq: recovery.seq(),
            recover_status: recovery.status_bits(),
            recover_nodeid: recovery.waits_for().map_or(-1, |node| node.0 as i32),
            locks,
            resources,
            slots,
        }
    }

    /// Writes a listing for people and tools. [`fmt::Error`]: it is longer than the buffer.
    pub(crate) fn dump(&self, format: Format, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(header(format))?;
        for cell in self.shards.iter() {
            let shard = cell.shard.lock();
            shard.dump(now_ms(), format, &|owner: &Arc<Owner>| owner.xid(), out)?;
        }
        Ok(())
    }
}
