// SPDX-License-Identifier: GPL-2.0-only
//! What is known of a node that must be fenced, and of how that ended.
//!
//! Plain data that the domain keeps and its messages carry.

use serde::Deserialize;
use serde::Serialize;

use crate::BootId;
use crate::Incarnation;
use crate::Member;
use crate::NodeId;

/// Why somebody is a victim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It failed as a member.
    Failed,
    /// It was not a member when the domain was founded; what it does is unknown.
    Unseen,
    /// A member asked for it.
    Accused(String),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed => f.write_str("failed"),
            Self::Unseen => f.write_str("not seen since the domain was founded"),
            Self::Accused(reason) => f.write_str(reason),
        }
    }
}

/// A node that may still write to shared storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Victim {
    /// The life that is to be ended; none if it was never seen.
    pub incarnation: Option<Incarnation>,
    /// The boot that is to be ended; none if it was never seen.
    pub boot_id: Option<BootId>,
    /// Number of the cluster view that made it a victim.
    pub view: u64,
    /// Why it is one.
    pub reason: Reason,
}

impl Victim {
    /// Whether this member is the victim after a reboot. Another life of cmand
    /// on the same boot proves nothing: what the node held it may still hold.
    pub(crate) fn is_over(&self, member: &Member) -> bool {
        match (self.incarnation, self.boot_id) {
            (Some(incarnation), Some(boot_id)) => {
                member.incarnation != incarnation && member.boot != boot_id
            }
            // Never seen: a member that cmand let in holds nothing.
            (None, _) | (_, None) => true,
        }
    }
}

/// How a victim ceased to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// A fence agent said so.
    Agent,
    /// It came back after a reboot of its own.
    Member,
    /// An operator said so.
    Override,
}

/// How a node was last fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// How.
    pub how: How,
    /// By whom.
    pub by: NodeId,
    /// Seconds since the epoch on that node's clock.
    pub at: u64,
    /// The life that was ended; none if it was never seen.
    pub ended: Option<Incarnation>,
    /// The boot that must not be heard any more; none where none was seen, or where it may go on:
    /// it is back after a reboot, or an operator knew that it runs. One that was cut off from
    /// storage may be heard, and is kept out of views.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<BootId>,
    /// Which of the node's methods it was, in their order in the configuration; none if it was no
    /// agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<u32>,
    /// It was cut off from storage, and its power was not touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_off: Option<CutOff>,
}

/// What a node that was cut off still needs to be a member again, beside another boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CutOff {
    /// Its storage is to be switched on again.
    Fenced,
    /// Nothing.
    Unfenced,
}

/// What a run of agents came to that ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Success {
    /// Which of the node's methods, in their order in the configuration.
    pub method: u32,
    /// It switched power: the boot has ended.
    pub is_power: bool,
}
