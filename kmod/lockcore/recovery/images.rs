// SPDX-License-Identifier: GPL-2.0-only
//! How far the locks of phase `Images` have been told to their new masters.

use super::super::arena::{LockIndex, Walk};
use super::super::lkb::LockId;
use crate::platform::KVec;

/// The locks of phase `Images`.
#[derive(Debug, Default)]
pub(super) struct Images {
    pub(super) shard: usize,
    pub(super) walk: Walk<LockIndex>,
    /// Sent and not answered.
    pub(super) under_way: usize,
    /// To be sent again, and when.
    pub(super) again: KVec<(LockId, u64)>,
}

impl Images {
    pub(super) fn next_timeout(&self) -> Option<u64> {
        match self.again.iter().map(|(_, due)| *due).min() {
            None if self.under_way == 0 => Some(0),
            due => due,
        }
    }
}
