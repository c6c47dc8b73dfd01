// SPDX-License-Identifier: GPL-2.0-only
//! Which view there should be, and who should propose it.
//!
//! Pure functions of what is heard. Every node computes who can form a legal set
//! and leaves the proposal to the lowest of them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::Core;
use super::Standing;
use crate::Instant;
use crate::Member;
use crate::NodeId;

/// Who hears whom, and who may be in the next view.
struct Reach {
    /// Nodes each candidate hears, itself included.
    hears: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// Members of the present view that stay.
    stayers: BTreeMap<NodeId, Member>,
    /// Nodes without a view that never were in the present one.
    joiners: BTreeMap<NodeId, Member>,
    /// New lives of members of the present view.
    returners: BTreeMap<NodeId, Member>,
}

impl Core {
    /// The members of the view that this node should propose now; `None` when
    /// there is nothing to propose or somebody else should do it.
    pub(super) fn plan(&self, now: Instant) -> Option<Vec<Member>> {
        match self.standing {
            Standing::Joining | Standing::Member | Standing::Leaving => {}
            Standing::Going { .. } | Standing::Left | Standing::Expelled | Standing::Refused => {
                return None;
            }
        }
        let reach = self.reach(now)?;
        let first = if self.view.is_some() {
            &reach.stayers
        } else {
            &reach.joiners
        };
        for candidate in first.keys() {
            if let Some(members) = self.legal_set(&reach, *candidate) {
                return (*candidate == self.config.node).then_some(members);
            }
        }
        None
    }

    /// `None` when somebody heard is ahead of this node: it has to catch up first.
    fn reach(&self, now: Instant) -> Option<Reach> {
        let me = self.me();
        let mut reach = Reach {
            hears: BTreeMap::new(),
            stayers: BTreeMap::new(),
            joiners: BTreeMap::new(),
            returners: BTreeMap::new(),
        };
        let mut mine = BTreeSet::from([me.node]);
        for (node, peer) in &self.peers {
            let Some((life, beat)) = peer.heard(now, self.config.detection_ms) else {
                continue;
            };
            if self.is_kept_out(*node, peer) {
                continue;
            }
            mine.insert(*node);
            if self.avoided.get(node).is_some_and(|until| now < *until) {
                continue;
            }
            let member = Member {
                node: *node,
                incarnation: life.incarnation,
                boot: beat.boot,
            };
            let mut hears: BTreeSet<NodeId> = beat.heard.iter().copied().collect();
            hears.insert(*node);
            let Some(installed) = &self.view else {
                // Whoever has a view decides who joins it.
                if beat.view.is_some() {
                    return None;
                }
                if beat.joining && beat.founds {
                    reach.hears.insert(*node, hears);
                    reach.joiners.insert(*node, member);
                }
                continue;
            };
            let number = beat.view.map_or(0, |view| view.number);
            if installed.value.has(*node, life.incarnation) {
                if number > installed.value.id.number {
                    return None;
                }
                if !installed.leaving.contains(node) {
                    reach.stayers.insert(*node, member);
                }
            } else if !beat.joining {
                continue;
            } else if installed.value.member(*node).is_some() {
                reach.returners.insert(*node, member);
            } else {
                reach.joiners.insert(*node, member);
            }
            reach.hears.insert(*node, hears);
        }
        reach.hears.insert(me.node, mine);
        match &self.view {
            None if self.may_found(now).is_ok() => {
                reach.joiners.insert(me.node, me);
            }
            None => {}
            Some(installed) if !installed.leaving.contains(&me.node) => {
                reach.stayers.insert(me.node, me);
            }
            Some(_) => {}
        }
        Some(reach)
    }

    /// The largest set the candidate can form, taking lower ids first, in which
    /// all hear each other. Lives that returned wait until the view without their
    /// old lives is made, unless there can be none without them.
    fn legal_set(&self, reach: &Reach, candidate: NodeId) -> Option<Vec<Member>> {
        [false, true]
            .map(|returners| clique(reach, candidate, returners))
            .into_iter()
            .find(|members| self.is_legal(members))
    }

    /// Rule 2 at the top of the crate.
    pub(super) fn is_legal(&self, members: &[Member]) -> bool {
        let votes: u32 = members.iter().map(|m| self.config.votes(m.node)).sum();
        if votes >= self.config.quorum() {
            return true;
        }
        self.view.as_ref().is_some_and(|installed| {
            let mut old = installed.value.members.iter().map(|(member, _)| member);
            !members.is_empty()
                && old.all(|old| members.contains(old) || installed.leaving.contains(&old.node))
        })
    }
}

fn clique(reach: &Reach, candidate: NodeId, returners: bool) -> Vec<Member> {
    let mut chosen: BTreeMap<NodeId, Member> = BTreeMap::new();
    let first = reach
        .stayers
        .get(&candidate)
        .or(reach.joiners.get(&candidate));
    let none = BTreeMap::new();
    let last = if returners { &reach.returners } else { &none };
    let all = first
        .into_iter()
        .chain(reach.stayers.values())
        .chain(reach.joiners.values())
        .chain(last.values());
    for member in all {
        let hears = |a: NodeId, b: NodeId| reach.hears.get(&a).is_some_and(|set| set.contains(&b));
        let mutual = |other: NodeId| hears(member.node, other) && hears(other, member.node);
        if chosen.keys().all(|other| mutual(*other)) {
            chosen.insert(member.node, *member);
        }
    }
    chosen.into_values().collect()
}
