// SPDX-License-Identifier: GPL-2.0-only
//! What the state machine shows of itself: plain data for status and tools.

use crate::Departure;
use crate::NodeId;

/// What the next step of a lockspace waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// Nothing: no change is pending.
    None,
    /// The daemons have not agreed on a protocol.
    Protocol,
    /// cmand has not made this node a member of the lockspace's group.
    Group,
    /// The kernel has not stopped yet.
    Stop,
    /// Not everybody knows yet that this node will hold locks.
    Announcement,
    /// This node's cluster view is older than the change.
    View,
    /// This node cannot act for the cluster.
    Quorum,
    /// These nodes are not known to be fenced; none listed: fenced has not
    /// processed the view yet.
    Fencing(Vec<NodeId>),
    /// These members have not sent START.
    Messages(Vec<NodeId>),
    /// This node lost its daemons' connections and starts nothing any more.
    Halted,
}

/// A change of membership.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangeReport {
    /// Number of the first group view merged into it.
    pub first: u64,
    /// Number of its group view.
    pub number: u64,
    /// Its members.
    pub members: Vec<NodeId>,
    /// How many joined.
    pub joined: usize,
    /// How many are gone.
    pub removed: usize,
    /// How many of those failed.
    pub failed: usize,
}

/// What is known of a node in a lockspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    /// Which.
    pub node: NodeId,
    /// Whether it is a member of the newest change.
    pub member: bool,
    /// Why it departed last.
    pub departure: Option<Departure>,
    /// Whether its START of the newest change is in, or of the last one.
    pub start: bool,
    /// Number of the group view in which it joined.
    pub added: u64,
    /// Number of the group view in which it departed; 0 if never.
    pub removed: u64,
    /// Whether it must be fenced before the lockspace goes on.
    pub check_fence: bool,
}

/// A lockspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockspaceReport {
    /// Its name.
    pub name: String,
    /// Its global id.
    pub id: u32,
    /// Flags it was created with.
    pub flags: u32,
    /// The kernel's join was not answered yet.
    pub joining: bool,
    /// The kernel asked to leave.
    pub leaving: bool,
    /// The kernel is stopped, or told to stop.
    pub stopped: bool,
    /// The kernel was started and has not said that recovery ended.
    pub recovering: bool,
    /// The last change that was started.
    pub started: Option<ChangeReport>,
    /// The pending change.
    pub pending: Option<ChangeReport>,
    /// What the next step waits for.
    pub wait: Wait,
    /// Nodes it ever had while this node is in it, by ascending id.
    pub nodes: Vec<NodeReport>,
}
