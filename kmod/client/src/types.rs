// SPDX-License-Identifier: GPL-2.0-only
//! What the family's operations carry, as types that cannot be wrong.

use std::net::IpAddr;

use serde::Deserialize;
use serde::Serialize;

/// An enum of the spec: its numbers and its words.
macro_rules! spec_enum {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$case:meta])* $variant:ident = $raw:literal $word:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$case])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// Its number.
            #[must_use]
            pub fn raw(self) -> u32 {
                match self { $(Self::$variant => $raw,)* }
            }

            /// By its number.
            #[must_use]
            pub fn from_raw(raw: u32) -> Option<Self> {
                match raw {
                    $($raw => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $word,)* })
            }
        }
    };
}

spec_enum! {
    /// What a socket may steer.
    Role {
        /// Nothing.
        None = 0 "none",
        /// Nodes and quorum.
        Membership = 1 "membership",
        /// Lockspaces.
        Lockspaces = 2 "lockspaces",
    }
}

spec_enum! {
    /// Where a lockspace stands in the kernel.
    LockspaceState {
        /// Created, its join not answered.
        New = 0 "new",
        /// Stopped: local operations wait.
        Stopped = 1 "stopped",
        /// Recovering.
        Recovering = 2 "recovering",
        /// In use.
        Running = 3 "running",
        /// Released, its leave not answered.
        Leaving = 4 "leaving",
        /// Recovery failed; waits for another start.
        Failed = 5 "failed",
    }
}

spec_enum! {
    /// State of the connection to a peer.
    PeerState {
        /// No connection.
        Closed = 1 "closed",
        /// In use.
        Established = 2 "established",
        /// We closed, the peer has not acknowledged.
        FinWait1 = 3 "fin-wait1",
        /// We closed, the peer has acknowledged.
        FinWait2 = 4 "fin-wait2",
        /// The peer closed.
        CloseWait = 5 "close-wait",
        /// Both closed, our last word is not acknowledged.
        LastAck = 6 "last-ack",
        /// Both closed at once.
        Closing = 7 "closing",
    }
}

spec_enum! {
    /// Why the module doubts a peer.
    Suspicion {
        /// It does not.
        None = 0 "none",
        /// The connection was reset.
        Reset = 1 "reset",
        /// What was sent is not taken.
        SendStuck = 2 "send-stuck",
        /// It cannot be connected to.
        ConnectFailed = 3 "connect-failed",
    }
}

/// A peer as the view has it, for [`Client::node_set`](crate::Client::node_set).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeUpdate {
    /// Which node.
    pub node: u32,
    /// Which life of it.
    pub incarnation: u64,
    /// Where it listens.
    pub address: IpAddr,
    /// Whether it is a member.
    pub up: bool,
}

/// A member of a lockspace to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Which node.
    pub node: u32,
    /// Its shares of the directory.
    pub weight: u32,
}

/// What a start says, for [`Client::lockspace_start`](crate::Client::lockspace_start).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The lockspace.
    pub name: String,
    /// Its global id; not 0.
    pub id: u32,
    /// All members, this node included.
    pub members: Vec<Member>,
    /// Nodes that are gone since the last completed start because they failed.
    pub failed: Vec<u32>,
}

/// Slot of a member, as file systems use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Which node.
    pub node: u32,
    /// Its slot, from 1.
    pub slot: u32,
}

/// A lockspace of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lockspace {
    /// Its name.
    pub name: String,
    /// Its global id, 0 before the first start.
    pub id: u32,
    /// Flags it was created with.
    pub flags: u32,
    /// Where it stands.
    pub state: LockspaceState,
    /// Generation the members agreed on.
    pub generation: u32,
    /// Number of the present stop or start.
    pub recover_seq: u64,
    /// Barrier bits.
    pub recover_status: u32,
    /// Node that recovery waits for, or -1.
    pub recover_node: i32,
    /// Locks it knows here.
    pub locks: u64,
    /// Resources it knows here.
    pub resources: u64,
    /// Members and their slots.
    pub slots: Vec<Slot>,
}

/// A node as the module knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Which node.
    pub node: u32,
    /// Which life of it.
    pub incarnation: u64,
    /// Where it listens.
    pub address: Option<IpAddr>,
    /// Whether it is a member.
    pub up: bool,
    /// Whether it is this node.
    pub local: bool,
    /// State of the connection; none for this node.
    pub state: Option<PeerState>,
    /// What is odd about it.
    pub suspicion: Suspicion,
    /// Packets sent.
    pub sent: u64,
    /// Packets received and accepted.
    pub received: u64,
    /// Packets sent again after a reconnect.
    pub resent: u64,
    /// Packets refused.
    pub dropped: u64,
    /// Packets kept until acknowledged.
    pub unacked: u64,
}

/// The module as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the family.
    pub abi_version: u32,
    /// Name of the cluster; empty before it was set.
    pub cluster: String,
    /// This node; 0 before it was set.
    pub node: u32,
    /// Whether the view is quorate, as cmand said last.
    pub quorate: bool,
    /// Packets refused that belong to no known peer.
    pub dropped: u64,
}
