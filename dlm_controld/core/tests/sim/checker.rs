// SPDX-License-Identifier: GPL-2.0-only
//! The rules of the crate's documentation, tested against what really happens
//! in the simulated kernels, not against what the cores believe.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use dlm_controld_core::NodeId;
use dlm_controld_core::Start;

use crate::kernel::State;

/// What the checker remembers.
#[derive(Default)]
pub(crate) struct Checker {
    /// Members of each change that was started, by lockspace and number.
    changes: BTreeMap<(String, u64), Vec<NodeId>>,
    /// Who may hold locks of a lockspace: from its first start until it has left
    /// or its boot was ended.
    holders: BTreeSet<(String, NodeId)>,
}

impl Checker {
    /// A kernel starts; `state` tells what another node's kernel does now.
    pub(crate) fn start(
        &mut self,
        node: NodeId,
        start: &Start,
        state: impl Fn(NodeId) -> State,
    ) -> Result<(), String> {
        let name = &start.lockspace;
        let what = format!("node {node} starts {name} with change {}", start.change);
        let known = self.changes.entry((name.clone(), start.change));
        let members = known.or_insert_with(|| start.members.clone());
        if *members != start.members {
            return Err(format!(
                "{what}: {:?}, other members {members:?}",
                start.members
            ));
        }
        for (_, holder) in self.holders.iter().filter(|(held, _)| held == name) {
            if !start.members.contains(holder) {
                return Err(format!("{what}: node {holder} is unfenced"));
            }
        }
        for member in start.members.iter().filter(|member| **member != node) {
            if let State::Running(change) = state(*member)
                && change != start.change
            {
                return Err(format!("{what}: node {member} still runs change {change}"));
            }
        }
        self.holders.insert((name.clone(), node));
        Ok(())
    }

    /// The node's locks of this lockspace are gone cleanly.
    pub(crate) fn left(&mut self, node: NodeId, lockspace: &str) {
        self.holders.remove(&(lockspace.to_owned(), node));
    }

    /// The node's boot was ended for sure.
    pub(crate) fn ended(&mut self, node: NodeId) {
        self.holders.retain(|(_, holder)| *holder != node);
    }
}
