// SPDX-License-Identifier: GPL-2.0-only
//! When nodes came, went, failed and were fenced, as this daemon saw it. For
//! people only: nothing is decided by it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use dlm_controld_client::FenceReason;
use dlm_controld_client::Node;
use dlm_controld_core::NodeId;

/// A point in time on both clocks, seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) monotonic: u64,
    pub(crate) wall: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Past {
    member: bool,
    seen: bool,
    added: u64,
    removed: u64,
    failed: Moment,
    fenced: Moment,
    by: u32,
}

/// All configured nodes.
#[derive(Debug)]
pub(crate) struct History {
    nodes: BTreeMap<NodeId, Past>,
    victims: BTreeSet<NodeId>,
}

impl History {
    pub(crate) fn new(nodes: &[NodeId]) -> Self {
        let nodes = nodes.iter().map(|node| (*node, Past::default())).collect();
        Self {
            nodes,
            victims: BTreeSet::new(),
        }
    }

    /// A cluster view: its members, and who failed in it.
    pub(crate) fn view(&mut self, now: Moment, members: &BTreeSet<NodeId>, failed: &[NodeId]) {
        for (node, past) in &mut self.nodes {
            let member = members.contains(node);
            if past.member && !member || failed.contains(node) {
                past.removed = now.monotonic;
            }
            if failed.contains(node) {
                past.failed = now;
            }
            if member && (!past.member || failed.contains(node)) {
                past.added = now.monotonic;
            }
            past.member = member;
            past.seen |= member;
        }
    }

    /// A node's daemon failed.
    pub(crate) fn accused(&mut self, now: Moment, node: NodeId) {
        if let Some(past) = self.nodes.get_mut(&node) {
            past.failed = now;
        }
    }

    /// fenced's state.
    pub(crate) fn victims(&mut self, now: Moment, victims: &BTreeSet<NodeId>) {
        for node in self.victims.difference(victims) {
            if let Some(past) = self.nodes.get_mut(node) {
                past.fenced = now;
            }
        }
        self.victims.clone_from(victims);
    }

    /// What fenced knows of the node that fenced another.
    pub(crate) fn fenced_by(&mut self, node: NodeId, by: u32) {
        if let Some(past) = self.nodes.get_mut(&node) {
            past.by = by;
        }
    }

    /// When a node failed last, monotonic seconds; 0 if never.
    pub(crate) fn failed_at(&self, node: NodeId) -> u64 {
        self.nodes
            .get(&node)
            .map_or(0, |past| past.failed.monotonic)
    }

    pub(crate) fn report(&self, accused: &[NodeId]) -> Vec<Node> {
        self.nodes
            .iter()
            .map(|(node, past)| self.report_one(*node, past, accused))
            .collect()
    }

    fn report_one(&self, node: NodeId, past: &Past, accused: &[NodeId]) -> Node {
        let must_be_fenced = if accused.contains(&node) {
            Some(FenceReason::ProcessFailed)
        } else if !self.victims.contains(&node) {
            None
        } else if past.seen {
            Some(FenceReason::NodeFailed)
        } else {
            Some(FenceReason::Startup)
        };
        Node {
            node,
            member: past.member,
            seen: past.seen,
            added: past.added,
            removed: past.removed,
            failed: past.failed.monotonic,
            failed_wall: past.failed.wall,
            fenced: past.fenced.monotonic,
            fenced_wall: past.fenced.wall,
            fenced_by: past.by,
            must_be_fenced,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn at(second: u64) -> Moment {
        Moment {
            monotonic: second,
            wall: 1000 + second,
        }
    }

    #[test]
    fn a_nodes_life_is_remembered() {
        let mut history = History::new(&[A, B]);
        let both = BTreeSet::from([A, B]);
        history.view(at(5), &both, &[]);
        history.view(at(9), &BTreeSet::from([A]), &[B]);
        history.victims(at(9), &BTreeSet::from([B]));
        let report = history.report(&[]);
        assert_eq!(report[1].must_be_fenced, Some(FenceReason::NodeFailed));
        assert_eq!(
            (report[1].added, report[1].removed, report[1].failed),
            (5, 9, 9)
        );
        history.victims(at(12), &BTreeSet::new());
        history.fenced_by(B, 1);
        history.view(at(15), &both, &[]);
        let report = history.report(&[]);
        assert_eq!(
            (report[1].fenced, report[1].fenced_wall, report[1].fenced_by),
            (12, 1012, 1)
        );
        assert_eq!((report[1].added, report[1].must_be_fenced), (15, None));
        assert_eq!((report[0].added, report[0].removed), (5, 0));
    }

    #[test]
    fn reasons_are_told_apart() {
        let mut history = History::new(&[A, B]);
        history.view(at(1), &BTreeSet::from([A]), &[]);
        history.victims(at(1), &BTreeSet::from([B]));
        assert_eq!(
            history.report(&[A])[1].must_be_fenced,
            Some(FenceReason::Startup)
        );
        assert_eq!(
            history.report(&[A])[0].must_be_fenced,
            Some(FenceReason::ProcessFailed)
        );
    }
}
