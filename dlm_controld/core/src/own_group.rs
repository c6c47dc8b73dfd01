// SPDX-License-Identifier: GPL-2.0-only
//! The group of all daemons: which choreography they follow, and which nodes
//! have lockspaces in their kernel.
//!
//! The version is agreed once: a daemon that joins others takes theirs or is
//! refused; daemons that begin together take the newest that all can follow.
//! Everybody sees the same messages in the same order, so everybody decides the
//! same.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::NodeId;
use crate::wire::Range;

/// The group of all daemons.
pub const OWN_GROUP: &str = "dlm:controld";

/// A member as it introduced itself.
#[derive(Debug, Clone, Copy)]
struct Introduction {
    range: Range,
    running: Option<u16>,
}

/// What came of an introduction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agreement {
    /// Some members have not introduced themselves, or nothing new.
    Pending,
    /// From now on this version.
    Agreed(u16),
    /// The others follow a version that this daemon cannot, or there is none
    /// that all can follow.
    Refused(Option<u16>),
}

/// State of the own group.
#[derive(Debug, Default)]
pub(crate) struct OwnGroup {
    members: BTreeSet<NodeId>,
    introductions: BTreeMap<NodeId, Introduction>,
    /// Members whose kernel may have lockspaces. One that was there before this
    /// node is taken for such until it has introduced itself.
    holders: BTreeSet<NodeId>,
    running: Option<u16>,
    /// Own `holds` messages on the way.
    announcements: u32,
    /// What the last own one said, sent or not yet received.
    announced: bool,
}

impl OwnGroup {
    pub(crate) fn running(&self) -> Option<u16> {
        self.running
    }

    pub(crate) fn members(&self) -> &BTreeSet<NodeId> {
        &self.members
    }

    pub(crate) fn set_members(&mut self, members: &[NodeId], joined: &[NodeId], own: NodeId) {
        if joined.contains(&own) {
            let before = members.iter().filter(|node| !joined.contains(node));
            self.holders.extend(before);
        }
        self.members = members.iter().copied().collect();
        self.introductions
            .retain(|node, _| self.members.contains(node));
    }

    /// Forgets a member that is gone; whether its kernel may have lockspaces.
    pub(crate) fn depart(&mut self, node: NodeId) -> bool {
        self.introductions.remove(&node);
        self.holders.remove(&node)
    }

    pub(crate) fn introduce(
        &mut self,
        from: NodeId,
        range: Range,
        running: Option<u16>,
        ours: Range,
    ) -> Agreement {
        self.introductions
            .insert(from, Introduction { range, running });
        let complete = self
            .members
            .iter()
            .all(|node| self.introductions.contains_key(node));
        if self.running.is_some() || !complete {
            return Agreement::Pending;
        }
        let all = || self.introductions.values();
        let version = match all().find_map(|one| one.running) {
            Some(version) => Some(version),
            None => {
                let newest = all().map(|one| one.range.max).min();
                newest.filter(|version| all().all(|one| one.range.contains(*version)))
            }
        };
        match version {
            Some(version) if ours.contains(version) => {
                self.running = Some(version);
                Agreement::Agreed(version)
            }
            Some(_) | None => Agreement::Refused(version),
        }
    }

    /// What the own last announcement says, received or not.
    pub(crate) fn announced(&self) -> bool {
        self.announced
    }

    /// An own announcement was sent.
    pub(crate) fn announce(&mut self, holds: bool) {
        self.announced = holds;
        self.announcements += 1;
    }

    /// Whether everybody knows that this node's kernel may have lockspaces.
    pub(crate) fn is_known_holder(&self) -> bool {
        self.announced && self.announcements == 0
    }

    /// An announcement was received.
    pub(crate) fn set_holds(&mut self, from: NodeId, holds: bool, own: bool) {
        if own {
            self.announcements = self.announcements.saturating_sub(1);
        }
        self.note_holds(from, holds);
    }

    /// The same by an introduction, which is no announcement.
    pub(crate) fn note_holds(&mut self, from: NodeId, holds: bool) {
        if holds {
            self.holders.insert(from);
        } else {
            self.holders.remove(&from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn group() -> OwnGroup {
        let mut group = OwnGroup::default();
        group.set_members(&[A, B], &[A, B], A);
        group
    }

    fn range(min: u16, max: u16) -> Range {
        Range { min, max }
    }

    #[test]
    fn beginners_take_the_newest_version_all_can_follow() {
        let mut group = group();
        assert_eq!(
            group.introduce(A, range(1, 3), None, range(1, 3)),
            Agreement::Pending
        );
        assert_eq!(
            group.introduce(B, range(1, 2), None, range(1, 3)),
            Agreement::Agreed(2)
        );
        assert_eq!(group.running(), Some(2));
        let later = group.introduce(B, range(1, 1), None, range(1, 3));
        assert_eq!(later, Agreement::Pending, "agreed once");
    }

    #[test]
    fn a_newcomer_takes_the_version_in_force_or_is_refused() {
        let mut newcomer = group();
        newcomer.introduce(A, range(2, 3), None, range(2, 3));
        let answer = newcomer.introduce(B, range(1, 2), Some(1), range(2, 3));
        assert_eq!(answer, Agreement::Refused(Some(1)));
        let mut newcomer = group();
        newcomer.introduce(A, range(1, 3), None, range(1, 3));
        let answer = newcomer.introduce(B, range(1, 3), Some(1), range(1, 3));
        assert_eq!(answer, Agreement::Agreed(1));
    }

    #[test]
    fn beginners_without_a_common_version_are_refused() {
        let mut group = group();
        group.introduce(A, range(3, 3), None, range(3, 3));
        let answer = group.introduce(B, range(1, 2), None, range(3, 3));
        assert_eq!(answer, Agreement::Refused(None));
    }

    #[test]
    fn a_member_that_was_there_before_may_hold_until_it_says_otherwise() {
        let mut group = OwnGroup::default();
        group.set_members(&[A, B], &[A], A);
        assert!(group.depart(B));
        group.set_members(&[A, B], &[B], A);
        assert!(
            !group.depart(B),
            "it joined before our eyes and said nothing"
        );
        let mut group = OwnGroup::default();
        group.set_members(&[A, B], &[A], A);
        group.note_holds(B, false);
        assert!(!group.depart(B));
    }

    #[test]
    fn an_announcement_counts_when_it_was_received() {
        let mut group = group();
        group.announce(true);
        assert!(!group.is_known_holder());
        group.announce(false);
        group.announce(true);
        group.set_holds(A, true, true);
        group.set_holds(A, false, true);
        assert!(!group.is_known_holder(), "the last one is still on its way");
        group.set_holds(A, true, true);
        assert!(group.is_known_holder());
        assert!(group.depart(A), "it may have lockspaces");
        assert!(!group.depart(A));
    }
}
