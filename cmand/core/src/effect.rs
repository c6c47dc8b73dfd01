// SPDX-License-Identifier: GPL-2.0-only
//! What a core wants done, and why it does not accept a request.

use std::net::SocketAddr;

use crate::BootId;
use crate::GroupView;
use crate::Incarnation;
use crate::NodeId;
use crate::RememberedConfig;
use crate::View;

/// Takes effects, in the order they must be carried out.
pub trait Sink {
    /// One more.
    fn push(&mut self, effect: Effect);
}

impl Sink for Vec<Effect> {
    fn push(&mut self, effect: Effect) {
        Self::push(self, effect);
    }
}

/// What a core wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send this datagram; it may get lost.
    Send {
        /// To this address.
        to: SocketAddr,
        /// The whole datagram.
        bytes: Vec<u8>,
    },
    /// A new view is in force here.
    View(View),
    /// The quorum state; after each view and whenever it changes.
    Quorum {
        /// Whether this node may act for the cluster.
        quorate: bool,
        /// Why not, in plain words; empty when quorate.
        reason: String,
    },
    /// A member of the view can be trusted from now on, or no longer.
    Peer {
        /// Which node.
        node: NodeId,
        /// Which life of it.
        incarnation: Incarnation,
        /// In the view and heard.
        up: bool,
    },
    /// A new view of a group this node is a member of, or was until now.
    Group(GroupView),
    /// A message to a group this node is a member of.
    Message {
        /// The group.
        group: String,
        /// The sender.
        from: NodeId,
        /// What was sent.
        payload: Vec<u8>,
    },
    /// The others went on without this life, which held groups. Nothing follows.
    Expelled {
        /// What was seen.
        reason: String,
    },
    /// The others went on without this node, which held nothing: it joins again
    /// as this new life.
    Rejoining {
        /// The new life.
        incarnation: Incarnation,
        /// What was seen.
        reason: String,
    },
    /// The cluster does not take this node. Nothing follows.
    Refused {
        /// What was said.
        reason: String,
    },
    /// This node has left cleanly and the others know. Nothing follows.
    Left,
    /// The answer to [`crate::Core::probe`].
    Probed {
        /// The question's.
        token: u64,
        /// Whether the node answered a heartbeat sent after the question.
        alive: bool,
    },
    /// A boot that was said to have ended is heard; see [`crate::Core::watch_ended`].
    Returned {
        /// Which node.
        node: NodeId,
        /// The life of it that is heard, perhaps another than the one that was fenced.
        incarnation: Incarnation,
        /// The boot.
        boot: BootId,
    },
    /// Keep this for the next life ([`crate::Config::view_floor`], [`crate::Config::remembered`]).
    Remember {
        /// Never smaller than before.
        view_floor: u64,
        /// The file of the last quorate view.
        config: RememberedConfig,
    },
    /// A line for the log.
    Log {
        /// How important.
        level: Level,
        /// The text.
        text: String,
    },
}

/// Importance of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Odd but handled.
    Warn,
    /// Begin or end of something an operator knows.
    Info,
    /// A decision.
    Debug,
}

/// A request was not accepted and changed nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestError {
    /// The group name is empty or too long.
    GroupName,
    /// The payload is too long.
    PayloadLength,
    /// This node is a member of the group already, or becoming one.
    AlreadyMember,
    /// This node is not a member of the group.
    NotMember,
    /// Too much waits to be sent; later there is room again.
    Full,
    /// There are as many groups as there can be.
    TooManyGroups,
    /// This node is leaving, expelled or refused.
    Ended,
    /// Local clients are members of groups.
    GroupsJoined,
}

impl std::fmt::Display for RequestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::GroupName => "a group name has 1 to 128 bytes",
            Self::PayloadLength => "a group message has at most 32768 bytes",
            Self::AlreadyMember => "this node is a member of the group already",
            Self::NotMember => "this node is not a member of the group",
            Self::Full => "too many messages wait to be sent; try again later",
            Self::TooManyGroups => "there are too many groups",
            Self::Ended => "this node is leaving the cluster or was expelled from it",
            Self::GroupsJoined => "local clients are members of groups; stop them first, or force",
        })
    }
}

impl std::error::Error for RequestError {}
