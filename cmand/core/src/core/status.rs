// SPDX-License-Identifier: GPL-2.0-only
//! Quorum, and what a core tells about itself.

use std::collections::BTreeMap;

use super::Core;
use super::Standing;
use crate::Incarnation;
use crate::Instant;
use crate::NodeId;

/// Where a core stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Where the node stands.
    pub standing: Standing,
    /// Its life.
    pub incarnation: Incarnation,
    /// Number of the view; 0 if there is none.
    pub view: u64,
    /// Members of the view.
    pub members: usize,
    /// Votes that count now: of this node and of members that are heard.
    pub votes: u32,
    /// Votes needed.
    pub quorum: u32,
    /// Whether this node may act.
    pub quorate: bool,
    /// Why not; empty when it may.
    pub reason: String,
    /// The longest this node was late with a heartbeat, because it was not scheduled.
    pub longest_pause_ms: u64,
    /// Counters by name.
    pub counters: BTreeMap<&'static str, u64>,
    /// A sentence about each node of this cluster that goes by another file.
    pub foreign: Vec<String>,
    /// All configured nodes.
    pub nodes: BTreeMap<NodeId, PeerStatus>,
}

/// What a core knows of a configured node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Whether it is in the view.
    pub member: bool,
    /// Whether it is heard now; this node always is.
    pub heard: bool,
    /// Milliseconds since it was heard last.
    pub silent_ms: Option<u64>,
    /// The longest this life of it was silent and heard again in time; against the
    /// detection time it tells the margin.
    pub longest_silent_ms: u64,
    /// Its life, while it is a member.
    pub incarnation: Option<Incarnation>,
    /// Number of the view it joined in; 0 if it is no member.
    pub joined_view: u64,
}

impl Core {
    /// Where the core stands.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let mut counters = self.counters.clone();
        for reason in crate::seal::Drop::ALL {
            counters.entry(reason.name()).or_default();
        }
        let value = self.view.as_ref().map(|view| &view.value);
        Status {
            standing: self.standing,
            incarnation: self.config.incarnation,
            view: value.map_or(0, |value| value.id.number),
            members: value.map_or(0, |value| value.members.len()),
            votes: self.votes_heard(now),
            quorum: self.config.quorum(),
            quorate: self.is_quorate(now),
            reason: self.quorum_reason(now),
            longest_pause_ms: self.longest_pause_ms,
            counters,
            foreign: self.foreign_nodes(),
            nodes: self
                .config
                .nodes
                .keys()
                .map(|node| (*node, self.peer_status(*node, now)))
                .collect(),
        }
    }

    fn peer_status(&self, node: NodeId, now: Instant) -> PeerStatus {
        let installed = self.view.as_ref();
        let member = installed.and_then(|view| view.value.member(node));
        let peer = self.peers.get(&node);
        let joined = installed.and_then(|view| view.joined_in.get(&node));
        PeerStatus {
            member: member.is_some(),
            heard: peer.is_none_or(|p| p.heard(now, self.config.detection_ms).is_some()),
            silent_ms: peer.map_or(Some(0), |peer| peer.silent_ms(now)),
            longest_silent_ms: peer
                .and_then(|peer| peer.life.as_ref())
                .map_or(0, |life| life.longest_silent_ms),
            incarnation: member.map(|member| member.incarnation),
            joined_view: *joined.unwrap_or(&0),
        }
    }

    /// Whether a configured node counts now: this one, or a member of its view
    /// that is heard and did not go on to another view; without a view anybody
    /// who is heard.
    fn counts(&self, node: NodeId, now: Instant) -> bool {
        let Some(peer) = self.peers.get(&node) else {
            return true;
        };
        let Some((life, beat)) = peer.heard(now, self.config.detection_ms) else {
            return false;
        };
        self.view.as_ref().is_none_or(|view| {
            let number = beat.view.map_or(0, |theirs| theirs.number);
            view.value.has(node, life.incarnation) && number <= view.value.id.number
        })
    }

    fn votes_heard(&self, now: Instant) -> u32 {
        let nodes = self.config.nodes.iter();
        let counting = nodes.filter(|(node, _)| self.counts(**node, now));
        counting.map(|(_, node)| node.votes).sum()
    }

    /// Whether this node may act for the cluster now.
    #[must_use]
    pub fn is_quorate(&self, now: Instant) -> bool {
        self.acts(now) && self.conflict().is_none()
    }

    /// Whether this node has the votes to act, by its own file.
    pub(super) fn acts(&self, now: Instant) -> bool {
        let acts = match self.standing {
            Standing::Member | Standing::Leaving | Standing::Going { .. } => true,
            Standing::Joining | Standing::Left | Standing::Expelled | Standing::Refused => false,
        };
        acts && self.view.is_some() && self.votes_heard(now) >= self.config.quorum()
    }

    /// Why this node may not act; empty if it may.
    pub(super) fn quorum_reason(&self, now: Instant) -> String {
        match self.standing {
            Standing::Expelled => {
                return "the others went on without this node; reset it".to_owned();
            }
            Standing::Refused => return "the cluster does not take this node".to_owned(),
            Standing::Left => return "this node has left the cluster".to_owned(),
            Standing::Joining | Standing::Member | Standing::Leaving | Standing::Going { .. } => {}
        }
        if self.is_quorate(now) {
            return String::new();
        }
        if let Some(conflict) = self.conflict().filter(|_| self.acts(now)) {
            return conflict;
        }
        if self.view.is_none()
            && let Err(reason) = self.may_found(now)
        {
            return format!("joining: {reason}");
        }
        let (needed, heard) = (self.config.quorum(), self.votes_heard(now));
        let mut missing = Vec::new();
        for (node, config) in &self.config.nodes {
            if !self.counts(*node, now) {
                missing.push(format!("{} {}", config.name, self.absence(*node, now)));
            }
        }
        let missing = missing.join(", ");
        let joining = self.standing == Standing::Joining;
        match (heard >= needed, joining) {
            (true, true) => "joining: waiting for the first view".to_owned(),
            (true, false) | (false, false) => {
                format!(
                    "{needed} of {} votes needed, {heard} heard: {missing}",
                    self.expected()
                )
            }
            (false, true) => format!(
                "joining: {needed} of {} votes needed, {heard} heard: {missing}",
                self.expected()
            ),
        }
    }

    fn expected(&self) -> u32 {
        self.config.expected_votes
    }

    fn absence(&self, node: NodeId, now: Instant) -> String {
        let Some(peer) = self.peers.get(&node) else {
            return "here".to_owned();
        };
        if peer.other_config {
            return "has another configuration".to_owned();
        }
        if let Some((_, beat)) = peer.heard(now, self.config.detection_ms) {
            let text = match beat.view {
                None => "is joining",
                Some(_) if self.has_left(node) => "has left",
                Some(_) => "is in another view",
            };
            return text.to_owned();
        }
        if self.has_left(node) {
            return "has left".to_owned();
        }
        match peer.silent_ms(now) {
            None => "never heard".to_owned(),
            Some(silent) => format!("silent for {}.{} s", silent / 1000, silent % 1000 / 100),
        }
    }

    /// Whether a node left cleanly just before the present view.
    fn has_left(&self, node: NodeId) -> bool {
        let departed = self.view.iter().flat_map(|view| &view.value.departed);
        let mut left = departed.filter(|(_, left)| *left);
        left.any(|(member, _)| member.node == node)
    }
}
