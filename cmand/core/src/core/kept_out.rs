// SPDX-License-Identifier: GPL-2.0-only
//! Nodes that were cut off from storage and go on running: they are heard, and must not be members.
//!
//! A life that is kept out counts as not heard, for this node's plans and in what its heartbeats
//! say. As all members of a new view hear each other, one member that knows of it is enough.

use std::collections::BTreeMap;

use super::Core;
use super::log;
use crate::BootId;
use crate::Instant;
use crate::Level;
use crate::NodeId;
use crate::Sink;
use crate::peer::Peer;

/// Who is kept out.
#[derive(Debug, Default)]
pub(super) struct KeptOut {
    /// In this boot, or in any.
    nodes: BTreeMap<NodeId, Option<BootId>>,
    /// Boots that the log has been told of.
    logged: BTreeMap<NodeId, BootId>,
}

impl KeptOut {
    fn has(&self, node: NodeId, boot: BootId) -> bool {
        let kept = self.nodes.get(&node);
        kept.is_some_and(|kept| kept.is_none_or(|kept| kept == boot))
    }
}

impl Core {
    /// These nodes are kept out of every view from now on, in one boot or in any, and no others.
    /// One that is a member is so no longer.
    pub fn keep_out(
        &mut self,
        now: Instant,
        nodes: &[(NodeId, Option<BootId>)],
        fx: &mut dyn Sink,
    ) {
        self.kept_out.nodes = nodes.iter().copied().collect();
        self.kept_out.logged.clear();
        self.changed = true;
        self.settle(now, fx);
    }

    /// Whether the life of a node that is heard is kept out.
    pub(super) fn is_kept_out(&self, node: NodeId, peer: &Peer) -> bool {
        let beat = peer.life.as_ref().and_then(|life| life.beat.as_ref());
        beat.is_some_and(|beat| self.kept_out.has(node, beat.boot))
    }

    /// Says of each boot once that it is kept out.
    pub(super) fn log_kept_out(&mut self, node: NodeId, boot: BootId, fx: &mut dyn Sink) {
        let is_new = self.kept_out.logged.get(&node) != Some(&boot);
        if self.kept_out.has(node, boot) && is_new {
            self.kept_out.logged.insert(node, boot);
            let remedy = "reset it, switch its storage on again, then fence_tool unfence";
            let text = format!("node kept out: cut off from storage: node={node}: {remedy}");
            log(fx, Level::Warn, text);
        }
    }
}
