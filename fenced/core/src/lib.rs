// SPDX-License-Identifier: GPL-2.0-only
//! The fence domain as a pure state machine: who must be fenced, who does it,
//! and when everybody may believe that it is done.
//!
//! [`Domain`] is fed with what cmand says (views, quorum, group views, group
//! messages, all in the order of one connection), with the results of agents,
//! and with the time. It answers with [`Effect`]s. No socket, clock or process
//! in here: the daemon and the simulator run the same code.
//!
//! # Rules the checkers test
//! 1. A member that a cluster view says has failed is a victim at every daemon
//!    that knows the domain's state, from that view on.
//! 2. A member that left cleanly is no victim.
//! 3. A victim ceases to be one only by a message that all members of the
//!    domain receive in the same order, or with them by a view in which it is
//!    back after a reboot.
//! 4. An agent is started only on the domain's master, only while the master
//!    can reach a majority, and never against the master itself. While any
//!    other victim is left and there is a majority, there is a master.
//! 5. No daemon claims a state ([`Domain::state`] with a view above 0) before
//!    it has the domain's state or has founded the domain.

pub mod domain;
pub mod victim;
pub mod wire;

use serde::Deserialize;
use serde::Serialize;

pub use domain::Config;
pub use domain::Domain;
pub use domain::Effect;
pub use domain::State;
pub use domain::Wait;

/// A node of the configuration, 1 and up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u32);

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Milliseconds on a clock that only moves forward.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub u64);

impl Instant {
    /// This much later.
    #[must_use]
    pub fn after(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }
}

/// A member of a cluster view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Which node.
    pub node: NodeId,
    /// Which life of cmand on it.
    pub incarnation: u64,
    /// Which boot of the node.
    pub boot_id: String,
}

/// What a cluster view says, as far as it concerns fencing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Its number.
    pub number: u64,
    /// Its members.
    pub members: Vec<Member>,
    /// Members of the view before that failed.
    pub failed: Vec<Member>,
    /// Whether its members' votes reach quorum.
    pub quorate: bool,
}

/// What a view of the domain's group says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    /// Its number.
    pub number: u64,
    /// Its members.
    pub members: Vec<NodeId>,
    /// Members that were not in the view before.
    pub joined: Vec<NodeId>,
}
