// SPDX-License-Identifier: GPL-2.0-only
//! STATUS questions to one member.

/// Questions to one member.
#[derive(Debug, Default)]
pub(super) struct Poll {
    /// Whether this member is asked at all.
    pub(super) is_asked: bool,
    /// Whether it answered what was hoped for.
    pub(super) is_satisfied: bool,
    /// Id of the question under way.
    pub(super) waiting: Option<u64>,
    /// When it is asked, or asked again.
    pub(super) due_ms: u64,
    pub(super) delay_ms: u64,
    /// What it last said of itself.
    pub(super) own_slot: u16,
    pub(super) generation: u32,
}

impl Poll {
    /// Whether recovery waits for this member.
    pub(super) fn is_open(&self) -> bool {
        self.is_asked && !self.is_satisfied
    }
}
