// SPDX-License-Identifier: GPL-2.0-only
//! Lockspace membership as a pure state machine: who is in which lockspace,
//! when the kernel stops one, and when it may start it again.
//!
//! [`Controld`] is fed with what cmand says (views, quorum, group views, group
//! messages, in the order of one connection), with what fenced says, with what
//! the kernel asks and has done, and with the time. It answers with
//! [`Effect`]s. No socket, clock or thread in here: the daemon and the
//! simulator run the same code.
//!
//! # One lockspace
//! Every lockspace has a group `dlm:ls:NAME`; its members are the nodes that
//! use it. Each group view is a *change*: every member stops its kernel at
//! once, waits until the conditions hold, and then says so by a START message
//! that carries the change's number. When the START of every member of the
//! newest change is in, each member starts its kernel with the same members.
//!
//! ```text
//!  kernel asks to join       own group view            all STARTs in
//! ──► Waiting ──► Joining ──────────────► Member ┌──────────────────► running
//!   (protocol)   (cmand)                    │    │ conditions, START     │
//!                                     stop  └────┴──◄── group view ──────┘
//!                    kernel asks to leave: Leaving ── own last view ──► gone
//! ```
//!
//! Conditions: the kernel has stopped; the view is quorate and not older than
//! the change; every member that failed since the last completed start is
//! fenced. A member that only just joined cannot know who failed before; when
//! *all* members are such, nobody who knows is left, and they wait until no
//! node at all is to be fenced.
//!
//! A daemon that fails with lockspaces in the kernel is witnessed by the other
//! daemons, who have its node fenced. When there was no other one, fenced on its
//! node does, and the next daemon there, which finds what is left. One that
//! joins the lockspace before that hears of it from the group's view (`lost`),
//! and waits for the fencing like those who saw it happen.
//!
//! # Rules the checkers test
//! 1. No kernel is started while this node is not quorate.
//! 2. No kernel is started while a node that may hold locks of that lockspace,
//!    and is not a member of the change, is neither fenced nor cleanly gone.
//! 3. All members start a change with the same members.
//! 4. When a kernel is started with a change, every member of that change has
//!    stopped its kernel since whatever it ran before.
//! 5. A join or leave request of the kernel is answered at most once, and a
//!    joining kernel is answered only after it was started.

mod controld;
mod effect;
mod fencing;
mod id;
mod lockspace;
mod own_group;
pub mod report;
pub mod wire;

use serde::Deserialize;
use serde::Serialize;

pub use controld::Config;
pub use controld::Controld;
pub use effect::Effect;
pub use effect::Notice;
pub use effect::Start;
pub use fencing::FenceState;
pub use id::global_id;
pub use own_group::OWN_GROUP;

/// Start of the name of each lockspace's group.
pub const GROUP_PREFIX: &str = "dlm:ls:";

/// The group of a lockspace.
#[must_use]
pub fn lockspace_group(lockspace: &str) -> String {
    format!("{GROUP_PREFIX}{lockspace}")
}

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
    /// Which boot of it.
    pub boot_id: String,
}

/// What a cluster view says, as far as it concerns lockspaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Its number.
    pub number: u64,
    /// Its members.
    pub members: Vec<Member>,
}

/// Why somebody is gone from a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// Left cleanly; holds nothing.
    Left,
    /// The node failed: it may hold what it held until it is fenced.
    NodeFailed,
    /// The node is there, its daemon is not: its kernel has stopped and nobody
    /// will start it again. It must be fenced.
    ProcessFailed,
}

/// A view of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    /// The group.
    pub group: String,
    /// Its number.
    pub number: u64,
    /// Number of the cluster view in force.
    pub view: u64,
    /// Its members by ascending id.
    pub members: Vec<NodeId>,
    /// Members that were not in the group view before.
    pub joined: Vec<NodeId>,
    /// Members of the group view before that are not in this one.
    pub departed: Vec<(NodeId, Departure)>,
    /// Nodes whose daemon failed in this group, also before this node joined it,
    /// and that have neither joined it again nor failed since as nodes.
    pub lost: Vec<NodeId>,
}
