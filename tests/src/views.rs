// SPDX-License-Identifier: GPL-2.0-only
//! What daemons may rely on in views: no two that may act have the same number, and each node's
//! follow each other.

use std::collections::BTreeMap;

use cmand_core::{Member, View};

use crate::truth::{Violation, broken};

/// All views that anybody was told of.
#[derive(Debug, Default)]
pub struct Views {
    /// Those that may act, by number.
    quorate: BTreeMap<u64, (u64, Vec<Member>)>,
    /// The last one of each life of a node.
    last: BTreeMap<(u32, u64), u64>,
    /// How many were told, counted per node.
    pub count: u64,
}

impl Views {
    /// A life of a node was told of a view.
    ///
    /// # Errors
    /// It does not fit to those that were told before.
    pub fn told(&mut self, node: u32, life: u64, view: &View) -> Result<(), Violation> {
        self.count += 1;
        let number = view.number;
        let before = self.last.insert((node, life), number);
        if before.is_some_and(|before| before >= number) {
            return broken(format!("node {node}: view {number} follows {before:?}"));
        }
        let is_in = |member: &Member| member.node.0 == node && member.incarnation.0 == life;
        if !view.members.iter().any(is_in) {
            return broken(format!("node {node} is not in its own view {number}"));
        }
        if !view.quorate {
            return Ok(());
        }
        let own = (view.tag, view.members.clone());
        let known = self.quorate.entry(number).or_insert_with(|| own.clone());
        if *known != own {
            return broken(format!(
                "view {number} is {:?} on node {node}, and was {:?} elsewhere",
                own.1, known.1
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use cmand_core::{BootId, Incarnation, NodeId};

    use super::*;

    fn view(number: u64, tag: u64, members: &[(u32, u64)]) -> View {
        let member = |(node, life): &(u32, u64)| Member {
            node: NodeId(*node),
            incarnation: Incarnation(*life),
            boot: BootId([0; 16]),
        };
        View {
            number,
            tag,
            members: members.iter().map(member).collect(),
            joined: Vec::new(),
            departed: Vec::new(),
            quorate: true,
        }
    }

    #[test]
    fn two_clusters_at_once_are_a_violation() {
        let mut views = Views::default();
        views.told(1, 7, &view(1, 5, &[(1, 7), (2, 8)])).unwrap();
        views.told(2, 8, &view(1, 5, &[(1, 7), (2, 8)])).unwrap();
        assert!(views.told(3, 9, &view(1, 6, &[(3, 9)])).is_err());
    }

    #[test]
    fn views_of_a_life_follow_each_other() {
        let mut views = Views::default();
        views.told(1, 7, &view(2, 5, &[(1, 7)])).unwrap();
        assert!(views.told(1, 7, &view(2, 5, &[(1, 7)])).is_err());
        assert!(views.told(1, 8, &view(3, 5, &[(1, 7)])).is_err());
    }
}
