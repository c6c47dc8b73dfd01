// SPDX-License-Identifier: GPL-2.0-only
//! The membership of the cluster as its members agreed on it.

#[cfg(feature = "serde")]
use serde::Deserialize;
#[cfg(feature = "serde")]
use serde::Serialize;

use crate::Member;
use crate::NodeId;

/// An agreed membership of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct View {
    /// Larger in each following view; unique in the life of a cluster.
    pub number: u64,
    /// Tells apart views of the same number, of clusters that grew anew after a
    /// majority lost its memory. Drawn at random.
    pub tag: u64,
    /// Members by ascending node id.
    pub members: Vec<Member>,
    /// Members that were not in the view before.
    pub joined: Vec<NodeId>,
    /// Members of the view before that are not in this one.
    pub departed: Vec<Departed>,
    /// Whether the members' votes reach quorum. `false` only where clean leaves
    /// took the votes below it.
    pub quorate: bool,
}

impl View {
    /// The member that a node is in this view, if it is one.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.node == node)
    }

    /// Members of the view before that failed as nodes: what they hold, they may
    /// go on holding until they are fenced.
    pub fn failed(&self) -> impl Iterator<Item = &Member> {
        let departed = self.departed.iter();
        let failed = departed.filter(|gone| gone.why == Departure::NodeFailed);
        failed.map(|gone| &gone.member)
    }
}

/// A member that is gone since the view before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct Departed {
    /// The member as it was.
    pub member: Member,
    /// Why it is gone.
    pub why: Departure,
}

/// Why somebody is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(
    feature = "serde",
    derive(Serialize, Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Departure {
    /// Left cleanly; holds nothing.
    Left,
    /// The node failed: it may hold what it held until it is fenced.
    NodeFailed,
    /// The node is a member still, but its daemon ended without leaving: what it
    /// had begun in the kernel goes on without it. Only in group views.
    ProcessFailed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BootId;
    use crate::Incarnation;

    fn member(node: u32) -> Member {
        Member {
            node: NodeId(node),
            incarnation: Incarnation(7),
            boot: BootId([0xab; 16]),
        }
    }

    fn view() -> View {
        let departed = |(node, why)| Departed {
            member: member(node),
            why,
        };
        View {
            number: 3,
            tag: 9,
            members: vec![member(1)],
            joined: vec![],
            departed: [(2, Departure::Left), (3, Departure::NodeFailed)]
                .map(departed)
                .to_vec(),
            quorate: false,
        }
    }

    #[test]
    fn who_left_did_not_fail() {
        assert_eq!(view().failed().copied().collect::<Vec<_>>(), [member(3)]);
        assert_eq!(view().member(NodeId(1)), Some(&member(1)));
        assert_eq!(view().member(NodeId(3)), None, "gone");
    }

    #[test]
    #[cfg(feature = "serde")]
    fn a_view_has_its_golden_text() {
        let life = r#""incarnation":7,"boot_id":"abababab-abab-abab-abab-abababababab""#;
        let golden = format!(
            "{{\"number\":3,\"tag\":9,\"members\":[{{\"node\":1,{life}}}],\"joined\":[],\
             \"departed\":[{{\"member\":{{\"node\":2,{life}}},\"why\":\"left\"}},\
             {{\"member\":{{\"node\":3,{life}}},\"why\":\"node_failed\"}}],\"quorate\":false}}"
        );
        assert_eq!(serde_json::to_string(&view()).unwrap(), golden);
        assert_eq!(serde_json::from_str::<View>(&golden).unwrap(), view());
        let bad = golden.replace("abababab-", "abababab");
        assert!(serde_json::from_str::<View>(&bad).is_err());
    }
}
