// SPDX-License-Identifier: GPL-2.0-only
//! Boots that were fenced, and that this node hears all the same: whoever switched them off has
//! switched something else, or nothing.
//!
//! A boot has returned if a heartbeat of it answers one that this node sent after it was told of
//! the fencing. Recordings cannot do that, nor what was on its way when the node was fenced.

use std::collections::BTreeMap;

use super::Core;
use super::log;
use crate::BootId;
use crate::Effect;
use crate::Incarnation;
use crate::Instant;
use crate::Level;
use crate::NodeId;
use crate::Sink;
use crate::wire::Heartbeat;

/// The same boot is told of at most this often, while it is heard. Its fence daemon may miss it
/// once or twice, and sees to it that the node is not fenced again and again.
pub(super) const TELL_MS: u64 = 5_000;

/// What is known of fenced boots.
#[derive(Debug, Default)]
pub(super) struct Fenced {
    /// By node: the boot, and since when it is said to have ended.
    ended: BTreeMap<NodeId, (BootId, Instant)>,
    /// By node: the boot told of last, and when. Kept while the node is fenced again.
    told: BTreeMap<NodeId, (BootId, Instant)>,
}

impl Core {
    /// These boots have ended, and no others: [`Effect::Returned`] says that one of them is heard.
    /// For a boot that was named before, nothing changes. Nodes that are not configured are left
    /// out.
    pub fn watch_ended(&mut self, now: Instant, ended: &[(NodeId, BootId)]) {
        let known = std::mem::take(&mut self.fenced.ended);
        let configured = ended
            .iter()
            .filter(|(node, _)| self.peers.contains_key(node));
        let since = |node: &NodeId, boot: &BootId| match known.get(node) {
            Some((same, since)) if same == boot => *since,
            Some(_) | None => now,
        };
        let ended = configured.map(|(node, boot)| (*node, (*boot, since(node, boot))));
        self.fenced.ended = ended.collect();
    }

    /// A node has proven to be alive by an answer to a heartbeat of this one.
    pub(super) fn note_returned(
        &mut self,
        now: Instant,
        (node, incarnation): (NodeId, Incarnation),
        beat: &Heartbeat,
        fx: &mut dyn Sink,
    ) {
        let Some((boot, since)) = self.fenced.ended.get(&node).copied() else {
            return;
        };
        let told = self.fenced.told.get(&node);
        let is_told = told.is_some_and(|(told, at)| *told == boot && now.since(*at) < TELL_MS);
        if beat.boot != boot || Instant(beat.echo.1) <= since || is_told {
            return;
        }
        self.fenced.told.insert(node, (boot, now));
        let text = format!("node heard in the boot that was fenced: node={node} boot={boot}");
        log(fx, Level::Warn, text);
        fx.push(Effect::Returned {
            node,
            incarnation,
            boot,
        });
    }
}
