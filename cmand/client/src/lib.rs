// SPDX-License-Identifier: GPL-2.0-only
//! What cmand says on its control socket, and how to ask.
//!
//! A connection that has subscribed sees one ordered stream. Views, group views
//! and group messages arrive in the same order at every member that sees them
//! (virtual synchrony): who receives a message in a view has seen exactly the
//! views before it, and every member of that view receives it too, unless it
//! leaves the cluster first. A message reaches its sender as well.
//!
//! Only a primary component makes views. A node that cannot reach a majority
//! keeps its last view and is told [`Event::Quorum`] with `quorate: false`; when
//! it meets the same members again and nobody has moved on without it, it goes
//! on in that view. When somebody has, it is expelled ([`Event::Expelled`]).

use std::path::Path;
use std::time::Duration;

use cluster_rt::client;
use cluster_rt::client::CALL_TIMEOUT;
use cluster_rt::client::CallError;
use serde::Deserialize;
use serde::Serialize;

pub use cluster_rt::client::Refusal;
pub use cluster_rt::client::RefusalKind;
pub use cmand_view::BootId;
pub use cmand_view::Departed;
pub use cmand_view::Departure;
pub use cmand_view::GROUP_NAME_LIMIT;
pub use cmand_view::GroupView;
pub use cmand_view::Incarnation;
pub use cmand_view::Member;
pub use cmand_view::NodeId;
pub use cmand_view::PAYLOAD_LIMIT;
pub use cmand_view::View;

/// Where cmand listens.
pub const SOCKET: &str = "/run/cluster/cmand.sock";

/// What may be asked of cmand.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The state of this node and the cluster. Anybody may ask.
    Status,
    /// All configured nodes. Anybody may ask.
    Nodes,
    /// The debug log kept in memory.
    Dump,
    /// Send this connection events from now on: first the present view, if
    /// there is one, and the present quorum state; groups as they are joined.
    Subscribe {
        /// Name of the client, for status and logs.
        client: String,
    },
    /// Join a group; the group view with this node in `joined` follows.
    GroupJoin {
        /// The group.
        group: String,
    },
    /// Leave a group; a last group view without this node follows.
    GroupLeave {
        /// The group.
        group: String,
    },
    /// Send to all members of a joined group, this node included.
    GroupSend {
        /// The group.
        group: String,
        /// The message; opaque to cmand. At most [`PAYLOAD_LIMIT`] bytes.
        #[serde(with = "payload")]
        payload: Vec<u8>,
    },
    /// Whether a node lives: answers a heartbeat sent after this question. The answer takes two
    /// heartbeats at most.
    Probe {
        /// Which node.
        node: NodeId,
        /// In which boot; in any, if it was never seen.
        boot_id: Option<BootId>,
    },
    /// These boots were fenced, and no others: [`Event::Returned`] says that one of them is heard
    /// all the same. For the connection that asked last, while it lasts.
    WatchEnded {
        /// All of them.
        ended: Vec<Ended>,
    },
    /// These nodes are kept out of every view, and no others, until this is said again: they were
    /// cut off from storage and may go on running.
    KeepOut {
        /// All of them.
        nodes: Vec<Kept>,
    },
    /// This node's configuration file is the cluster's: found views with it, and go on beside the
    /// nodes with another one that are heard now.
    AcceptConfig,
    /// Leave the cluster cleanly and end the daemon. Refused as busy while
    /// groups have local members, unless forced.
    Leave {
        /// Leave although local clients are members of groups; they fail in them
        /// before, so that others fence this node for what they hold.
        force: bool,
    },
}

impl Request {
    /// Whether a user without rights may ask it: all of them that show state and change
    /// nothing. The man page lists them.
    #[must_use]
    pub fn is_public(&self) -> bool {
        match self {
            Self::Status | Self::Nodes => true,
            Self::Dump
            | Self::Subscribe { .. }
            | Self::GroupJoin { .. }
            | Self::GroupLeave { .. }
            | Self::GroupSend { .. }
            | Self::Probe { .. }
            | Self::WatchEnded { .. }
            | Self::KeepOut { .. }
            | Self::AcceptConfig
            | Self::Leave { .. } => false,
        }
    }
}

/// A boot of a node that was fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Which node.
    pub node: NodeId,
    /// The boot that has ended.
    pub boot_id: BootId,
}

/// A node that is kept out of views.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Which node.
    pub node: NodeId,
    /// In this boot; none: in any.
    pub boot_id: Option<BootId>,
}

/// Answers to requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done, or begun.
    Done,
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Nodes`].
    Nodes(Vec<Node>),
    /// To [`Request::Dump`].
    Dump(String),
    /// To [`Request::Probe`].
    Alive(bool),
    /// To [`Request::AcceptConfig`]: a sentence about each node with another file.
    Accepted(Vec<String>),
}

/// What cmand tells a subscriber.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A new view.
    View(View),
    /// The quorum state as this node sees it now; also follows each view.
    Quorum {
        /// Whether this node may act for the cluster.
        quorate: bool,
        /// Why not, in plain words; empty when quorate.
        reason: String,
    },
    /// A new view of a joined group.
    Group(GroupView),
    /// A message to a joined group.
    Message {
        /// The group.
        group: String,
        /// The sender.
        from: NodeId,
        /// What was sent.
        #[serde(with = "payload")]
        payload: Vec<u8>,
    },
    /// A boot that was fenced answered a heartbeat sent after [`Request::WatchEnded`] named it: it
    /// was not fenced. Told again every few seconds while that is so.
    Returned {
        /// Which node.
        node: NodeId,
        /// The life of it that answered.
        incarnation: Incarnation,
        /// The boot.
        boot_id: BootId,
    },
    /// The others went on without this node. It must be reset; nothing more
    /// follows.
    Expelled {
        /// What was seen.
        reason: String,
    },
}

/// Where this node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Membership {
    /// Looking for enough nodes to form a view, or for a view to join.
    Joining,
    /// In a view.
    Member,
    /// Leaving.
    Leaving,
    /// The others went on without it.
    Expelled,
}

/// The state of the daemon, for `cman_tool status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Name of the cluster.
    pub cluster: String,
    /// This node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Where it stands.
    pub membership: Membership,
    /// Number of the view, 0 before the first.
    pub view: u64,
    /// Members of the view.
    pub members: usize,
    /// Votes of all configured nodes, or as configured.
    pub expected_votes: u32,
    /// Votes of the members that can be heard now.
    pub total_votes: u32,
    /// Votes of this node.
    pub node_votes: u32,
    /// Votes needed.
    pub quorum: u32,
    /// Whether this node may act for the cluster.
    pub quorate: bool,
    /// Why not; empty when quorate.
    pub reason: String,
    /// Groups with local members.
    pub groups: Vec<String>,
    /// Names of connected subscribers.
    pub clients: Vec<String>,
    /// A sentence about each node of this cluster that goes by another configuration.
    pub foreign: Vec<String>,
    /// The longest this node was late with a heartbeat, because it was not scheduled.
    pub longest_pause_ms: u64,
    /// Counters by name: packets in, out, and dropped by reason.
    pub counters: std::collections::BTreeMap<String, u64>,
}

/// A configured node, for `cman_tool nodes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its votes.
    pub votes: u32,
    /// Whether it is in the view.
    pub member: bool,
    /// Whether it can be heard now.
    pub heard: bool,
    /// Milliseconds since it was last heard; none if never.
    pub silent_ms: Option<u64>,
    /// The longest this life of it was silent and heard again in time; beside the
    /// detection time it tells the margin.
    pub longest_silent_ms: u64,
    /// Its life, while it is a member.
    pub incarnation: Option<Incarnation>,
    /// Number of the view it joined in; 0 if not a member.
    pub joined_view: u64,
    /// Seconds since the epoch when it joined, on this node's clock.
    pub joined_at: Option<u64>,
}

/// The two halves of a subscriber's connection.
pub type Connection = (client::Sender, client::Receiver<Reply, Event>);

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
    client::call::<Request, Reply, Event>("cmand", path, limit, request)
}

/// Connects, for subscribing.
///
/// # Errors
/// See [`CallError`].
pub async fn connect(path: &Path) -> Result<Connection, CallError> {
    client::connect("cmand", path).await
}

/// Payloads travel as base64 text: JSON has no bytes.
mod payload {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::Deserialize;
    use serde::Deserializer;
    use serde::Serializer;
    use serde::de::Error;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(d)?;
        STANDARD.decode(text).map_err(D::Error::custom)
    }
}
