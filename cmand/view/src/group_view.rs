// SPDX-License-Identifier: GPL-2.0-only
//! The membership of a group as its members agreed on it.

#[cfg(feature = "serde")]
use serde::Deserialize;
#[cfg(feature = "serde")]
use serde::Serialize;

use crate::Departure;
use crate::NodeId;

/// An agreed membership of a group. It has its place in the order of the group's
/// messages: each member receives the same ones before it, and the same after.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct GroupView {
    /// The group's name.
    pub group: String,
    /// Larger in each following view of this group; the same at every member.
    pub number: u64,
    /// Number of the cluster view in force.
    pub view: u64,
    /// Members by ascending node id.
    pub members: Vec<NodeId>,
    /// Members that were not in the group view before.
    pub joined: Vec<NodeId>,
    /// Members of the group view before that are not in this one.
    pub departed: Vec<(NodeId, Departure)>,
    /// Nodes whose client failed in this group, and that have neither joined it
    /// again nor failed since as nodes: what a member that joined later must
    /// know.
    pub lost: Vec<NodeId>,
}
