// SPDX-License-Identifier: GPL-2.0-only
//! What a core is told at its start, and the times that follow from the one
//! configured detection time.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use sha2::Digest;
use sha2::Sha256;

use crate::BootId;
use crate::Incarnation;
use crate::NodeId;
use crate::wire::FileSummary;

/// Heartbeats per detection time: a node is suspected when this many in a row
/// are lost or late.
const BEATS: u64 = 8;

/// What a core is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the cluster; bound into every packet.
    pub cluster: String,
    /// The secret all nodes share.
    pub key: Vec<u8>,
    /// This node.
    pub node: NodeId,
    /// This life of it.
    pub incarnation: Incarnation,
    /// This boot of it.
    pub boot: BootId,
    /// All nodes of the configuration, this one included.
    pub nodes: BTreeMap<NodeId, NodeConfig>,
    /// Votes of the whole cluster.
    pub expected_votes: u32,
    /// A node silent for this long is suspected.
    pub detection_ms: u64,
    /// Largest view number an earlier life told by [`crate::Effect::Remember`].
    pub view_floor: u64,
    /// What an earlier life told of its file by the same effect.
    pub remembered: RememberedConfig,
    /// Seed of the core's own random numbers; different in every life.
    pub seed: u64,
}

/// The file that was in force in the last quorate view of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RememberedConfig {
    /// It never was in one.
    Nothing,
    /// Digest of what nodes must agree on.
    Digest(u64),
    /// What was kept makes no sense: as if the file were another one.
    Unreadable,
}

/// A configured node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its name, for texts.
    pub name: String,
    /// Where it sends from and receives at.
    pub address: SocketAddr,
    /// Its votes.
    pub votes: u32,
}

impl Config {
    /// Votes needed to act.
    #[must_use]
    pub fn quorum(&self) -> u32 {
        self.expected_votes / 2 + 1
    }

    /// Time between two heartbeats.
    #[must_use]
    pub fn interval_ms(&self) -> u64 {
        (self.detection_ms / BEATS).max(1)
    }

    /// What is lost is sent again after this time: a few times per heartbeat,
    /// long against the round trip of a local network.
    #[must_use]
    pub fn resend_ms(&self) -> u64 {
        (self.interval_ms() / 4).max(1)
    }

    /// A node that is heard and does not answer a proposal for this long is dropped
    /// from it. No shorter than a silent node is waited for: a pause in the middle
    /// of a proposal must not cost more than a pause at any other time.
    #[must_use]
    pub fn round_ms(&self) -> u64 {
        self.detection_ms
    }

    /// Where one node fell silent and another is late, the late one is waited for
    /// this long: to be heard, or to be silent as well.
    #[must_use]
    pub fn late_ms(&self) -> u64 {
        (self.detection_ms / 2).max(1)
    }

    /// Joiners are admitted when the set of them was the same for this long, so
    /// that nodes started together come in one view.
    #[must_use]
    pub fn settle_ms(&self) -> u64 {
        self.interval_ms() * 2
    }

    /// The name of a node, for texts.
    #[must_use]
    pub fn name(&self, node: NodeId) -> &str {
        self.nodes
            .get(&node)
            .map_or("unknown node", |node| node.name.as_str())
    }

    pub(crate) fn votes(&self, node: NodeId) -> u32 {
        self.nodes.get(&node).map_or(0, |node| node.votes)
    }

    /// What all nodes must agree on, to be compared with another node's.
    pub(crate) fn summary(&self) -> FileSummary {
        FileSummary {
            expected_votes: self.expected_votes,
            detection_ms: self.detection_ms,
            nodes: self
                .nodes
                .iter()
                .map(|(id, node)| (*id, node.votes))
                .collect(),
        }
    }

    /// What all nodes must agree on for two majorities to meet.
    pub(crate) fn digest(&self) -> u64 {
        let mut hash = Sha256::new();
        hash.update(self.expected_votes.to_le_bytes());
        hash.update(self.detection_ms.to_le_bytes());
        for (id, node) in &self.nodes {
            hash.update(id.0.to_le_bytes());
            hash.update(node.votes.to_le_bytes());
        }
        let hash = hash.finalize();
        hash.first_chunk::<8>()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}
