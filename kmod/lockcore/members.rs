// SPDX-License-Identifier: GPL-2.0-only
//! The members of a lockspace as one recovery agreed on them, and which of them keeps the
//! directory record of a name.
//!
//! A value that never changes: each recovery makes a new one and hands it to every shard.

use crate::platform::{KVec, Result, GFP};

pub use crate::uapi::node::NodeId;

/// A member of a lockspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub node: NodeId,
    /// Share of the directory; 0 for none.
    pub weight: u32,
}

/// The members of a lockspace and the own id.
#[derive(Debug)]
pub struct Members {
    own: NodeId,
    /// In ascending order of ids.
    members: KVec<Member>,
    /// Sum of the weights that count.
    total: u64,
}

impl Members {
    /// The members of a lockspace, in any order. A node named twice counts once.
    pub fn new(own: NodeId, members: &[Member]) -> Result<Self> {
        let mut sorted = KVec::with_capacity(members.len(), GFP)?;
        sorted.extend_from_slice(members, GFP)?;
        sort_by_node(&mut sorted, |member: &Member| member.node);
        let mut last = None;
        sorted.retain(|member| last.replace(member.node) != Some(member.node));
        let total = sorted.iter().map(|m| u64::from(m.weight)).sum();
        Ok(Self {
            own,
            members: sorted,
            total,
        })
    }

    /// This node.
    pub fn own(&self) -> NodeId {
        self.own
    }

    /// All members in ascending order of ids.
    pub fn all(&self) -> &[Member] {
        &self.members
    }

    /// Whether `node` is a member.
    pub fn contains(&self, node: NodeId) -> bool {
        self.members.binary_search_by_key(&node, |m| m.node).is_ok()
    }

    /// The member with the lowest id.
    pub fn lowest(&self) -> Option<NodeId> {
        self.members.first().map(|member| member.node)
    }

    /// The node that knows the master of a name with this hash: each member has as many shares as
    /// its weight, in ascending order of ids; if no weight is set, all have one.
    pub fn directory_node(&self, hash: u32) -> NodeId {
        if self.members.len() <= 1 {
            return self.own;
        }
        let all_equal = self.total == 0;
        let total = if all_equal {
            self.members.len() as u64
        } else {
            self.total
        };
        let mut share = u64::from(hash >> 16) % total;
        for member in self.members.iter() {
            let weight = if all_equal {
                1
            } else {
                u64::from(member.weight)
            };
            if share < weight {
                return member.node;
            }
            share -= weight;
        }
        self.own
    }
}

/// Sorts a short list by ids. By insertion: lists of nodes are short and mostly in order, and
/// `core`'s sort has a way to panic, which has no place in the kernel.
pub fn sort_by_node<T>(list: &mut [T], node: impl Fn(&T) -> NodeId) {
    for end in 1..list.len() {
        let mut at = end;
        while let Some([before, this]) = list.get(at.wrapping_sub(1)..=at) {
            if node(before) <= node(this) {
                break;
            }
            list.swap(at - 1, at);
            at -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(list: &[(u32, u32)]) -> Members {
        let list: Vec<Member> = list
            .iter()
            .map(|(node, weight)| Member {
                node: NodeId(*node),
                weight: *weight,
            })
            .collect();
        Members::new(NodeId(1), &list).unwrap()
    }

    #[test]
    fn directory_node_is_the_weighted_share() {
        let hash = |upper: u32| (upper << 16) | 0x1234;
        let nodes = |m: &Members, n: u32| -> Vec<u32> {
            (0..n).map(|i| m.directory_node(hash(i)).0).collect()
        };
        assert_eq!(nodes(&members(&[(1, 1)]), 3), [1, 1, 1]);
        assert_eq!(nodes(&members(&[(3, 1), (1, 1), (2, 1)]), 4), [1, 2, 3, 1]);
        assert_eq!(nodes(&members(&[(1, 2), (2, 0), (7, 1)]), 4), [1, 1, 7, 1]);
        assert_eq!(nodes(&members(&[(1, 0), (2, 0)]), 4), [1, 2, 1, 2]);
    }

    #[test]
    fn every_order_is_sorted() {
        for seed in 0..720_u32 {
            let mut rest: Vec<u32> = (1..=6).collect();
            let mut seed = seed;
            let mut list: Vec<NodeId> = (1..=6)
                .rev()
                .map(|left| {
                    let at = seed % left;
                    seed /= left;
                    NodeId(rest.remove(at as usize))
                })
                .collect();
            sort_by_node(&mut list, |node| *node);
            assert_eq!(list, [1, 2, 3, 4, 5, 6].map(NodeId));
        }
        sort_by_node(&mut [], |node: &NodeId| *node);
    }

    #[test]
    fn members_are_sorted_and_counted_once() {
        let m = members(&[(9, 1), (2, 1), (9, 1)]);
        assert_eq!(m.all().len(), 2);
        assert_eq!(m.lowest(), Some(NodeId(2)));
        assert!(m.contains(NodeId(9)) && !m.contains(NodeId(3)));
    }
}
