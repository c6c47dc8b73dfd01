// SPDX-License-Identifier: GPL-2.0-only
//! The groups of the cluster: a table that every member keeps by applying the
//! same operations in the same order.
//!
//! Not here: how operations get their order (`order.rs`), and who is told.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::Departure;
use crate::GROUP_NAME_LIMIT;
use crate::NodeId;
use crate::PAYLOAD_LIMIT;
use crate::wire::CHUNK_LIMIT;
use crate::wire::Chunk;
use crate::wire::Malformed;
use crate::wire::NODE_LIMIT;
use crate::wire::Reader;
use crate::wire::Writer;

/// Most groups at once. The table of this many groups with long names and many
/// members fits what a view may carry.
pub const GROUP_LIMIT: usize = 200;

/// What members ask of all others, in an agreed order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// The sender's client joins a group.
    Join(String),
    /// The sender's client leaves a group.
    Leave(String),
    /// The sender's client is gone without leaving.
    Fail(String),
    /// A message to a group.
    Send(String, Vec<u8>),
    /// The sender leaves the cluster.
    LeaveCluster,
}

impl Operation {
    /// The operation as chunks.
    #[must_use]
    pub fn chunks(&self) -> Vec<Chunk> {
        let bytes = self.encode();
        let count = bytes.chunks(CHUNK_LIMIT).count();
        let chunks = bytes.chunks(CHUNK_LIMIT).enumerate();
        chunks
            .map(|(index, bytes)| Chunk {
                more: index + 1 < count,
                bytes: bytes.to_vec(),
            })
            .collect()
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        let (kind, group, payload): (u8, &str, &[u8]) = match self {
            Self::Join(group) => (1, group, &[]),
            Self::Leave(group) => (2, group, &[]),
            Self::Fail(group) => (3, group, &[]),
            Self::Send(group, payload) => (4, group, payload),
            Self::LeaveCluster => (5, "", &[]),
        };
        out.u8(kind);
        out.bytes(group.as_bytes());
        out.raw(payload);
        out.0
    }

    /// The operation in these bytes, put together from chunks.
    ///
    /// # Errors
    /// [`Malformed`] for anything that [`Operation::chunks`] does not give.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        let kind = reader.u8()?;
        let group = reader.text(GROUP_NAME_LIMIT)?;
        let payload = reader.0;
        let named = !group.is_empty();
        match kind {
            1 if named && payload.is_empty() => Ok(Self::Join(group)),
            2 if named && payload.is_empty() => Ok(Self::Leave(group)),
            3 if named && payload.is_empty() => Ok(Self::Fail(group)),
            4 if named && payload.len() <= PAYLOAD_LIMIT => Ok(Self::Send(group, payload.to_vec())),
            5 if !named && payload.is_empty() => Ok(Self::LeaveCluster),
            _ => Err(Malformed),
        }
    }
}

/// A change of one group's membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The group.
    pub group: String,
    /// Its new number.
    pub number: u64,
    /// Its members now.
    pub members: Vec<NodeId>,
    /// Who is new.
    pub joined: Vec<NodeId>,
    /// Who is gone.
    pub departed: Vec<(NodeId, Departure)>,
    /// Who failed in it and has not been seen to since; see [`crate::GroupView::lost`].
    pub lost: Vec<NodeId>,
}

impl Change {
    /// Whether this node must be told: a member, or one until now.
    #[must_use]
    pub fn concerns(&self, node: NodeId) -> bool {
        self.members.contains(&node) || self.departed.iter().any(|(gone, _)| *gone == node)
    }
}

/// A group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Group {
    members: BTreeSet<NodeId>,
    /// Nodes whose client failed in it. Members heard of that; who joins later must hear of it,
    /// too, and there may be no member left to say so.
    lost: BTreeSet<NodeId>,
}

/// All groups and their members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    /// Changes so far in the life of the cluster: numbers group views.
    changes: u64,
    groups: BTreeMap<String, Group>,
}

impl Groups {
    /// Whether a node is a member of a group.
    #[must_use]
    pub fn has(&self, group: &str, node: NodeId) -> bool {
        self.groups
            .get(group)
            .is_some_and(|group| group.members.contains(&node))
    }

    /// How many groups there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.groups.len()
    }

    /// A node joins; nothing if it is a member, or there are too many groups.
    pub fn join(&mut self, group: &str, node: NodeId) -> Option<Change> {
        let full = self.groups.len() >= GROUP_LIMIT && !self.groups.contains_key(group);
        if full || self.has(group, node) {
            return None;
        }
        let known = self.groups.entry(group.to_owned()).or_default();
        known.members.insert(node);
        known.lost.remove(&node);
        Some(self.changed(group, vec![node], Vec::new()))
    }

    /// A node is gone from a group; nothing if it is no member.
    pub fn depart(&mut self, group: &str, node: NodeId, why: Departure) -> Option<Change> {
        let known = self.groups.get_mut(group)?;
        if !known.members.remove(&node) {
            return None;
        }
        if why == Departure::ProcessFailed {
            known.lost.insert(node);
        }
        Some(self.changed(group, Vec::new(), vec![(node, why)]))
    }

    /// Nodes are gone from the cluster, and others are new in it: one change per group that had
    /// any. A node that failed is a matter of the cluster's view from now on; a new life of one
    /// that left has nothing of what a client of its last one had. Of one that left after its
    /// client failed, members that saw it take care, if there are any.
    pub fn change_view(
        &mut self,
        gone: &BTreeMap<NodeId, Departure>,
        joined: &[NodeId],
    ) -> Vec<Change> {
        for group in self.groups.values_mut() {
            let seen = group.members.iter().any(|node| !gone.contains_key(node));
            let is_over = |node: &NodeId| match gone.get(node) {
                Some(Departure::NodeFailed) => true,
                Some(Departure::Left | Departure::ProcessFailed) => seen,
                None => joined.contains(node),
            };
            group.lost.retain(|node| !is_over(node));
        }
        self.groups
            .retain(|_, group| !group.members.is_empty() || !group.lost.is_empty());
        let names: Vec<String> = self.groups.keys().cloned().collect();
        let mut changes = Vec::new();
        for group in names {
            let departed: Vec<(NodeId, Departure)> = gone
                .iter()
                .filter(|(node, _)| self.has(&group, **node))
                .map(|(node, why)| (*node, *why))
                .collect();
            if departed.is_empty() {
                continue;
            }
            if let Some(known) = self.groups.get_mut(&group) {
                known.members.retain(|node| !gone.contains_key(node));
            }
            changes.push(self.changed(&group, Vec::new(), departed));
        }
        changes
    }

    fn changed(
        &mut self,
        group: &str,
        joined: Vec<NodeId>,
        departed: Vec<(NodeId, Departure)>,
    ) -> Change {
        self.changes += 1;
        let known = self.groups.get(group).cloned().unwrap_or_default();
        if known == Group::default() {
            self.groups.remove(group);
        }
        Change {
            group: group.to_owned(),
            number: self.changes,
            members: known.members.into_iter().collect(),
            joined,
            departed,
            lost: known.lost.into_iter().collect(),
        }
    }

    /// The table as bytes: changes u64, then a list of name, list of u32 (members) and list of u32
    /// (lost).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u64(self.changes);
        let groups: Vec<(&String, &Group)> = self.groups.iter().collect();
        out.list(&groups, |out, (name, group)| {
            out.bytes(name.as_bytes());
            for nodes in [&group.members, &group.lost] {
                let nodes: Vec<NodeId> = nodes.iter().copied().collect();
                out.list(&nodes, |out, node| out.u32(node.0));
            }
        });
        out.0
    }

    /// The table in these bytes.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        let changes = reader.u64()?;
        let groups = reader.list(GROUP_LIMIT, |from| {
            let name = from.text(GROUP_NAME_LIMIT)?;
            let mut nodes = || from.list(NODE_LIMIT, |from| Ok(NodeId(from.u32()?)));
            let (members, lost) = (nodes()?, nodes()?);
            let group = Group {
                members: members.into_iter().collect(),
                lost: lost.into_iter().collect(),
            };
            Ok((name, group))
        })?;
        reader.end()?;
        Ok(Self {
            changes,
            groups: groups.into_iter().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::GROUPS_LIMIT;

    #[test]
    fn members_come_and_go_with_growing_numbers() {
        let mut groups = Groups::default();
        let change = groups.join("a", NodeId(2)).unwrap();
        assert_eq!((change.number, change.joined), (1, vec![NodeId(2)]));
        assert_eq!(groups.join("a", NodeId(2)), None);
        groups.join("a", NodeId(1)).unwrap();
        groups.join("b", NodeId(2)).unwrap();
        let gone = BTreeMap::from([(NodeId(2), Departure::NodeFailed)]);
        let changes = groups.change_view(&gone, &[]);
        assert_eq!(changes.len(), 2);
        assert_eq!((changes[0].number, changes[1].number), (4, 5));
        assert_eq!(changes[0].members, [NodeId(1)]);
        assert!(changes[1].members.is_empty());
        assert!(changes[1].concerns(NodeId(2)) && !changes[1].concerns(NodeId(1)));
        assert_eq!(groups.count(), 1);
        assert_eq!(groups.depart("b", NodeId(2), Departure::Left), None);
        // A group that comes back goes on counting.
        assert_eq!(groups.join("b", NodeId(3)).unwrap().number, 6);
    }

    #[test]
    fn who_joins_hears_who_failed_until_that_is_over() {
        let (one, two) = (NodeId(1), NodeId(2));
        let failed = |groups: &mut Groups| {
            groups.join("a", one).unwrap();
            groups.depart("a", one, Departure::ProcessFailed).unwrap()
        };
        let mut groups = Groups::default();
        assert_eq!(failed(&mut groups).lost, [one]);
        assert_eq!(groups.join("a", two).unwrap().lost, [one]);
        // It joins again.
        assert!(groups.join("a", one).unwrap().lost.is_empty());
        // It is a failure of its node.
        for (why, lost) in [
            (Departure::NodeFailed, &[][..]),
            (Departure::Left, &[one][..]),
        ] {
            let mut groups = Groups::default();
            failed(&mut groups);
            let changes = groups.change_view(&BTreeMap::from([(one, why)]), &[]);
            assert!(changes.is_empty(), "it was no member");
            assert_eq!(groups.clone().join("a", two).unwrap().lost, lost);
            // A new life has nothing of an earlier one.
            groups.change_view(&BTreeMap::new(), &[one]);
            assert!(groups.join("a", two).unwrap().lost.is_empty());
        }
        // Who saw it fail takes care.
        let mut groups = Groups::default();
        groups.join("a", two).unwrap();
        failed(&mut groups);
        groups.change_view(&BTreeMap::from([(one, Departure::Left)]), &[]);
        assert!(groups.join("a", NodeId(3)).unwrap().lost.is_empty());
        let mut groups = Groups::default();
        groups.join("a", one).unwrap();
        groups.depart("a", one, Departure::Left).unwrap();
        assert_eq!(groups.count(), 0);
    }

    #[test]
    fn the_table_has_its_golden_bytes() {
        let mut groups = Groups::default();
        groups.join("ab", NodeId(1)).unwrap();
        groups.join("ab", NodeId(3)).unwrap();
        let failed = Departure::ProcessFailed;
        groups.depart("ab", NodeId(3), failed).unwrap();
        let golden = [
            &3u64.to_le_bytes()[..],
            // One group, its name, its members, and who is lost.
            &[1, 0, 2, 0, 0, 0, b'a', b'b'],
            &[1, 0, 1, 0, 0, 0],
            &[1, 0, 3, 0, 0, 0],
        ];
        assert_eq!(groups.encode(), golden.concat());
        assert_eq!(Groups::decode(&golden.concat()), Ok(groups));
    }

    #[test]
    fn the_largest_table_fits_its_limit_and_comes_back() {
        let mut groups = Groups::default();
        for index in 0..GROUP_LIMIT {
            let name = format!("{index:0>GROUP_NAME_LIMIT$}");
            for node in 1..=NODE_LIMIT as u32 {
                groups.join(&name, NodeId(node)).unwrap();
            }
        }
        assert_eq!(groups.join("one more", NodeId(1)), None);
        let bytes = groups.encode();
        assert!(bytes.len() <= GROUPS_LIMIT, "{}", bytes.len());
        assert_eq!(Groups::decode(&bytes).unwrap(), groups);
        assert!(Groups::decode(&bytes[1..]).is_err());
    }

    #[test]
    fn operations_come_back_from_their_chunks() {
        let long = vec![5; PAYLOAD_LIMIT];
        for operation in [
            Operation::Join("g".to_owned()),
            Operation::Leave("g".to_owned()),
            Operation::Fail("g".to_owned()),
            Operation::Send("g".to_owned(), Vec::new()),
            Operation::Send("g".repeat(GROUP_NAME_LIMIT), long),
            Operation::LeaveCluster,
        ] {
            let chunks = operation.chunks();
            let (last, others) = chunks.split_last().unwrap();
            assert!(!last.more && others.iter().all(|chunk| chunk.more));
            let bytes: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.bytes).collect();
            assert_eq!(Operation::decode(&bytes), Ok(operation));
        }
    }

    #[test]
    fn nonsense_is_no_operation() {
        for bytes in [
            &b""[..],
            b"\x06\0\0\0\0",
            b"\x01\0\0\0\0",
            b"\x05\x01\0\0\0g",
            b"\x01\x01\0\0\0gx",
            b"\x01\x01\0\0\0\xff",
        ] {
            assert_eq!(Operation::decode(bytes), Err(Malformed), "{bytes:?}");
        }
    }
}
