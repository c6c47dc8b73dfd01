// SPDX-License-Identifier: GPL-2.0-only
//! What fenced says on its control socket, and how to ask.
//!
//! The rule for whoever recovers after a failure: a member that failed in
//! cluster view V is safe to recover from once a [`State`] with `view >= V`
//! does not list it as a victim. Every such state was agreed by the whole fence
//! domain before it was told here.

use std::path::Path;
use std::time::Duration;

use cluster_rt::client;
use cluster_rt::client::CALL_TIMEOUT;
use cmand_client::BootId;
use cmand_client::NodeId;
use serde::Deserialize;
use serde::Serialize;

pub use cluster_rt::client::CallError;
pub use cluster_rt::client::Refusal;
pub use cluster_rt::client::RefusalKind;

/// Where fenced listens.
pub const SOCKET: &str = "/run/cluster/fenced.sock";

/// What may be asked of fenced.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The state of the fence domain. Anybody may ask.
    Status,
    /// The debug log kept in memory.
    Dump,
    /// Send this connection [`Event`]s from now on, first the present one.
    Subscribe {
        /// Name of the client, for logs.
        client: String,
    },
    /// Make a node a victim although it is a member: something on it failed
    /// that only a reset mends. Answered once the domain agreed on it.
    Fence {
        /// Which node.
        node: NodeId,
        /// The boot of it that is to end; none: whichever it is in. An
        /// accusation that comes late must not hit the boot after.
        boot_id: Option<BootId>,
        /// Why, one line for logs.
        reason: String,
    },
    /// From now on this node is to be fenced when this connection ends, for
    /// this reason, one line; none takes it back. For a client whose end leaves
    /// something in the kernel that nobody else would notice.
    FenceWhenGone {
        /// Why, or no longer.
        reason: Option<String>,
    },
    /// An operator has switched on the storage of a node that was cut off from it, and has reset
    /// it: it may be a member again in another boot. Answered once the domain agreed on it.
    Unfence {
        /// Which node.
        node: NodeId,
    },
    /// An operator has made sure that this victim is off or was reset.
    /// Answered once the domain agreed on it.
    Acknowledge {
        /// Which victim.
        node: NodeId,
        /// Its name, said by the operator although the node is a member and therefore runs; without
        /// it such a node is not acknowledged.
        #[serde(default)]
        alive: Option<String>,
    },
}

impl Request {
    /// Whether a user without rights may ask it: what shows state and changes nothing. The
    /// man page lists it.
    #[must_use]
    pub fn is_public(&self) -> bool {
        match self {
            Self::Status => true,
            Self::Dump
            | Self::Subscribe { .. }
            | Self::Fence { .. }
            | Self::FenceWhenGone { .. }
            | Self::Unfence { .. }
            | Self::Acknowledge { .. } => false,
        }
    }
}

/// Answers to requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done.
    Done,
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Dump`].
    Dump(String),
}

/// What fenced tells a subscriber: its state, after each change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The state as agreed now.
    State(State),
    /// A watched fence device of this node answers again, or does no longer.
    Device(Device),
}

/// A fence device as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name in the configuration.
    pub name: String,
    /// Its agent.
    pub agent: String,
    /// It is asked so often whether it answers, seconds; 0: never.
    pub monitor_s: u64,
    /// When it was asked last, seconds since the epoch; 0: not yet.
    pub at: u64,
    /// Whether it answered then.
    pub answers: bool,
    /// What its agent said if it did not; empty if it did.
    pub failure: String,
}

/// Who still has to be fenced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Number of the last cluster view whose failures are in this state; 0
    /// until this node knows the domain's state.
    pub view: u64,
    /// Nodes that may still write to shared storage, by ascending id.
    pub victims: Vec<NodeId>,
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

impl std::fmt::Display for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Agent => "agent",
            Self::Member => "member",
            Self::Override => "override",
        })
    }
}

/// What keeps the next victim from being fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// Nothing: there is no victim.
    None,
    /// This node cannot reach a majority.
    Quorum,
    /// The domain's state has not arrived yet.
    Messages,
    /// The configured delay has not passed.
    Delay,
    /// An agent runs, here or on the master.
    Fencing,
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Quorum => "quorum",
            Self::Messages => "messages",
            Self::Delay => "delay",
            Self::Fencing => "fencing",
        })
    }
}

/// One node's part in the domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Which node.
    pub node: NodeId,
    /// Its name in the configuration.
    #[serde(default)]
    pub name: String,
    /// Whether it is in the cluster view.
    pub member: bool,
    /// Whether it is a victim.
    pub victim: bool,
    /// Why it is one; empty otherwise.
    pub reason: String,
    /// How it was last fenced, if ever.
    pub how: Option<How>,
    /// Which node did that; 0 if never.
    pub by: u32,
    /// When, seconds since the epoch on that node's clock; 0 if never.
    pub at: u64,
    /// It was cut off from storage, and is kept out of the cluster until it is unfenced.
    #[serde(default)]
    pub cut_off: bool,
}

/// The state of the domain, for `fence_tool ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Nodes that run fenced, by ascending id.
    pub members: Vec<NodeId>,
    /// Number of victims.
    pub victim_count: usize,
    /// The victim being fenced, 0 if none.
    pub victim_now: u32,
    /// The node that runs the agents, 0 if not known.
    pub master: u32,
    /// What the next victim waits for.
    pub wait: Wait,
    /// Number of the last cluster view taken into account.
    pub view: u64,
    /// All configured nodes.
    pub nodes: Vec<Node>,
    /// What the last failed attempt said, one line; empty if it succeeded.
    pub last_failure: String,
    /// What this node's agents are doing against a victim: node, method, device and action; empty
    /// if nothing.
    #[serde(default)]
    pub doing: String,
    /// All configured fence devices.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// What is wrong with agents and their options on this node, one line each.
    #[serde(default)]
    pub complaints: Vec<String>,
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
    client::call::<Request, Reply, Event>("fenced", path, limit, request)
}

/// Connects, for subscribing.
///
/// # Errors
/// See [`CallError`].
pub async fn connect(path: &Path) -> Result<Connection, CallError> {
    client::connect("fenced", path).await
}
