// SPDX-License-Identifier: GPL-2.0-only
//! What dlm_controld says on its control socket, and how to ask.
//!
//! It only tells; lockspaces are joined and left through the kernel.

use std::path::Path;
use std::time::Duration;

use cluster_rt::client;
use cluster_rt::client::CallError;
use cmand_client::NodeId;
use serde::Deserialize;
use serde::Serialize;

pub use cluster_rt::client::CALL_TIMEOUT;
pub use cluster_rt::client::Refusal;
pub use cluster_rt::client::RefusalKind;
pub use cmand_client::Departure;

/// Where dlm_controld listens.
pub const SOCKET: &str = "/run/cluster/dlm_controld.sock";

/// What may be asked of dlm_controld.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The state of the daemon. Anybody may ask.
    Status,
    /// All lockspaces of this node. Anybody may ask.
    Lockspaces,
    /// The debug log kept in memory.
    Dump,
}

impl Request {
    /// Whether a user without rights may ask it: what shows state and changes nothing. The
    /// man page lists it.
    #[must_use]
    pub fn is_public(&self) -> bool {
        match self {
            Self::Status | Self::Lockspaces => true,
            Self::Dump => false,
        }
    }
}

/// Answers to requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Lockspaces`].
    Lockspaces(Vec<Lockspace>),
    /// To [`Request::Dump`].
    Dump(String),
}

/// The daemon sends no events.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Event {}

/// What the next step of a lockspace waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "for")]
pub enum Wait {
    /// Nothing.
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
    /// Nodes must be fenced.
    Fencing {
        /// Which; empty while fenced has not processed the view.
        nodes: Vec<NodeId>,
    },
    /// Members have not said that they have stopped.
    Messages {
        /// Which.
        nodes: Vec<NodeId>,
    },
    /// This node lost cmand or fenced and starts nothing any more.
    Halted,
}

/// A change of a lockspace's membership.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
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

/// A node in a lockspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockspaceNode {
    /// Which.
    pub node: NodeId,
    /// Whether it is a member of the newest change.
    pub member: bool,
    /// Why it departed last.
    pub departure: Option<Departure>,
    /// Whether it said that it has stopped for the newest change.
    pub start: bool,
    /// Number of the group view in which it joined.
    pub added: u64,
    /// Number of the group view in which it departed; 0 if never.
    pub removed: u64,
    /// Whether it must be fenced before the lockspace goes on.
    pub check_fence: bool,
    /// When it failed, seconds on the monotonic clock; 0 if it did not.
    pub failed_at: u64,
}

/// A lockspace of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lockspace {
    /// Its name.
    pub name: String,
    /// Its global id.
    pub id: u32,
    /// Flags it was created with, as far as the kernel told.
    pub flags: u32,
    /// Its creator waits.
    pub joining: bool,
    /// It is being released.
    pub leaving: bool,
    /// The kernel is stopped, or told to stop.
    pub stopped: bool,
    /// Recovery is under way, as far as the kernel tells.
    pub recovering: bool,
    /// The last change that was started.
    pub change: Option<Change>,
    /// A change that was not started yet.
    pub new_change: Option<Change>,
    /// What that one waits for.
    pub wait: Wait,
    /// Nodes that are or were in it.
    pub nodes: Vec<LockspaceNode>,
}

/// Why a node must be fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FenceReason {
    /// It was not seen since this daemon began.
    Startup,
    /// It failed.
    NodeFailed,
    /// Its dlm_controld failed with lockspaces in the kernel.
    ProcessFailed,
}

/// A node as this daemon saw it. Times are seconds; monotonic ones on this
/// node's clock, wall-clock ones since the epoch; 0 means never.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Which.
    pub node: NodeId,
    /// Whether it is in the cluster view.
    pub member: bool,
    /// Whether it was, since this daemon began.
    pub seen: bool,
    /// When it joined, monotonic.
    pub added: u64,
    /// When it departed, monotonic.
    pub removed: u64,
    /// When it failed, monotonic.
    pub failed: u64,
    /// When it failed, wall clock.
    pub failed_wall: u64,
    /// When it was fenced, monotonic.
    pub fenced: u64,
    /// When it was fenced, wall clock.
    pub fenced_wall: u64,
    /// Which node fenced it.
    pub fenced_by: u32,
    /// Why it must be fenced; none if it need not.
    pub must_be_fenced: Option<FenceReason>,
}

/// The state of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// This node.
    pub node: NodeId,
    /// By what it steers the kernel: `netlink` or `configfs`.
    pub kernel: String,
    /// Protocol agreed with the other daemons.
    pub protocol: Option<u16>,
    /// Nodes that run dlm_controld.
    pub daemons: Vec<NodeId>,
    /// Number of the cluster view.
    pub view: u64,
    /// Whether this node may act for the cluster.
    pub quorate: bool,
    /// Number of the last view whose failures fenced has processed.
    pub fence_view: u64,
    /// Node that runs fence agents; 0 if not known.
    pub fence_master: u32,
    /// Node being fenced; 0 if none.
    pub fencing: u32,
    /// Seconds on the monotonic clock.
    pub now: u64,
    /// Seconds since the epoch.
    pub now_wall: u64,
    /// Lockspaces of this node.
    pub lockspaces: usize,
    /// All configured nodes.
    pub nodes: Vec<Node>,
}

/// Asks one thing and waits [`CALL_TIMEOUT`] for the answer.
///
/// # Errors
/// See [`CallError`].
pub fn call(path: &Path, request: &Request) -> Result<Reply, CallError> {
    call_within(path, CALL_TIMEOUT, request)
}

/// Asks one thing and waits so long for the answer.
///
/// # Errors
/// See [`CallError`].
pub fn call_within(path: &Path, limit: Duration, request: &Request) -> Result<Reply, CallError> {
    client::call::<Request, Reply, Event>("dlm_controld", path, limit, request)
}
