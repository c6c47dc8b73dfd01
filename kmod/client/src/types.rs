// SPDX-License-Identifier: GPL-2.0-only
//! What the family's operations carry, as types that cannot be wrong.

use std::net::IpAddr;

use dlm_uapi::netlink::LsState;
use dlm_uapi::netlink::PeerState;
use dlm_uapi::netlink::Suspicion;
use serde::Deserialize;
use serde::Serialize;

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
    pub state: LsState,
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

#[cfg(test)]
mod tests {
    use dlm_uapi::netlink::Role;
    use dlm_uapi::node::NodeId;
    use serde::de::DeserializeOwned;

    use super::*;

    fn reads_back<T>(all: &[T])
    where
        T: Copy + PartialEq + std::fmt::Debug + std::fmt::Display + Serialize + DeserializeOwned,
    {
        for one in all {
            let text = serde_json::to_string(one).unwrap();
            assert_eq!(text, format!("\"{one}\""));
            assert_eq!(serde_json::from_str::<T>(&text).unwrap(), *one);
        }
        assert!(serde_json::from_str::<T>("\"no such\"").is_err());
    }

    #[test]
    fn enums_are_their_names_in_json_and_ids_are_numbers() {
        reads_back(Role::ALL);
        reads_back(LsState::ALL);
        reads_back(PeerState::ALL);
        reads_back(Suspicion::ALL);
        let nodes = std::collections::BTreeMap::from([(NodeId(2), NodeId(3))]);
        let text = serde_json::to_string(&nodes).unwrap();
        assert_eq!(text, r#"{"2":3}"#);
        let read: std::collections::BTreeMap<NodeId, NodeId> = serde_json::from_str(&text).unwrap();
        assert_eq!(read, nodes);
    }
}
