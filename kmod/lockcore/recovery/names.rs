// SPDX-License-Identifier: GPL-2.0-only
//! The questions of phase `Names`: one at a time to each member.

use super::super::members::NodeId;
use super::super::name::ResourceName;
use crate::platform::{KVec, Result, GFP};

/// How far one member has answered.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) node: NodeId,
    /// Last name it told.
    pub(super) last: Option<ResourceName>,
    /// Id of the question under way.
    pub(super) id: u64,
    pub(super) due_ms: u64,
    pub(super) is_done: bool,
}

/// The questions of phase `Names`.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Filled when the phase begins.
    pub(super) asked: Option<KVec<Asked>>,
}

impl Names {
    pub(super) fn next_timeout(&self) -> Option<u64> {
        let Some(asked) = &self.asked else {
            return Some(0);
        };
        let open = asked.iter().filter(|asked| !asked.is_done);
        open.map(|asked| asked.due_ms).min().or(Some(0))
    }

    pub(super) fn begin(&mut self, others: impl Iterator<Item = NodeId>) -> Result {
        let mut list = KVec::new();
        for node in others {
            let asked = Asked {
                node,
                last: None,
                id: 0,
                due_ms: 0,
                is_done: false,
            };
            list.push(asked, GFP)?;
        }
        self.asked = Some(list);
        Ok(())
    }
}
