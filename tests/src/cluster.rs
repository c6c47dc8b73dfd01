// SPDX-License-Identifier: GPL-2.0-only
//! A model of the cluster manager and of fencing: what they promise, not how they keep it.
//!
//! One component of the network at a time is the cluster: the one that has most of all nodes. What
//! happens in it is put in one order; each member hears of it in that order, at its own pace. A
//! member that is not heard for a while is taken out of the view, and must be fenced before it
//! counts as gone. A node comes back only as a new life. Who is in no view any more hears nothing.
//!
//! Says what is to be told to whom; the world delivers it.

use std::collections::{BTreeMap, BTreeSet};

use dlm_controld_core::{Departure, FenceState, GroupView, Member, NodeId, View};

/// Something a member hears.
#[derive(Debug, Clone)]
pub enum Item {
    /// A new view, and which lives its members are.
    View(View, BTreeMap<u32, u32>),
    /// Whether the node may act for the cluster.
    Quorum(bool),
    /// A view of a group.
    Group(GroupView),
    /// A message to a group.
    Message {
        /// The group.
        group: String,
        /// Who sent it.
        from: u32,
        /// What.
        payload: Vec<u8>,
    },
    /// fenced's state; it comes by another way and may be overtaken by the others.
    Fence(FenceState),
}

/// What a member asks for.
#[derive(Debug, Clone)]
pub enum Request {
    /// Become a member of a group.
    Join(String),
    /// Leave a group.
    Leave(String),
    /// Send to a group.
    Send(String, Vec<u8>),
    /// Have a member fenced.
    Fence(u32),
}

#[derive(Debug, Default)]
struct Group {
    number: u64,
    members: BTreeSet<u32>,
}

/// A machine as the model sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Which life.
    pub life: u32,
    /// It runs, and its cluster manager with it.
    pub up: bool,
    /// The part of the network it is in.
    pub side: u32,
}

/// A node that must be fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Victim {
    /// Which life of it.
    pub life: u32,
    /// When the agent is done.
    pub due_ms: u64,
}

/// The model.
#[derive(Debug, Default)]
pub struct Cluster {
    total: u32,
    number: u64,
    view: BTreeMap<u32, u32>,
    groups: BTreeMap<String, Group>,
    victims: BTreeMap<u32, Victim>,
    /// Members of the view that are not heard, since when.
    missing: BTreeMap<u32, u64>,
}

/// How long a member may be silent, ms.
const SILENCE_MS: u64 = 900;

type Told = Vec<(u32, Item)>;

impl Cluster {
    /// Of this many nodes, 1 to `total`.
    #[must_use]
    pub fn new(total: u32) -> Self {
        Self {
            total,
            ..Self::default()
        }
    }

    /// Members of the view and their lives.
    #[must_use]
    pub fn view(&self) -> &BTreeMap<u32, u32> {
        &self.view
    }

    /// Nodes that must be fenced.
    #[must_use]
    pub fn victims(&self) -> &BTreeMap<u32, Victim> {
        &self.victims
    }

    /// The part of the network that is the cluster now, if one has most of the nodes.
    #[must_use]
    pub fn primary(&self, machines: &BTreeMap<u32, Seen>) -> Option<u32> {
        let mut sizes: BTreeMap<u32, u32> = BTreeMap::new();
        for seen in machines.values().filter(|seen| seen.up) {
            *sizes.entry(seen.side).or_default() += 1;
        }
        let most = sizes.into_iter().find(|(_, size)| size * 2 > self.total);
        most.map(|(side, _)| side)
    }

    /// Whether this life of a node is a member that is heard.
    #[must_use]
    pub fn hears(&self, node: u32, machines: &BTreeMap<u32, Seen>) -> bool {
        let primary = self.primary(machines);
        machines.get(&node).is_some_and(|seen| {
            seen.up && primary == Some(seen.side) && self.view.get(&node) == Some(&seen.life)
        })
    }

    /// Looks who is there. `fence_ms`: how long an agent takes from now on.
    pub fn look(&mut self, now_ms: u64, fence_ms: u64, machines: &BTreeMap<u32, Seen>) -> Told {
        let mut told = Told::new();
        let Some(primary) = self.primary(machines) else {
            return told;
        };
        let mut lost = BTreeSet::new();
        for (node, life) in &self.view {
            let seen = machines.get(node);
            let heard = seen.is_some_and(|s| s.up && s.side == primary && s.life == *life);
            if heard {
                self.missing.remove(node);
                continue;
            }
            let since = *self.missing.entry(*node).or_insert(now_ms);
            let reborn = seen.is_some_and(|s| s.up && s.side == primary && s.life != *life);
            if reborn || since + SILENCE_MS <= now_ms {
                lost.insert(*node);
            }
        }
        let joins = |node: &u32, seen: &Seen| {
            seen.up && seen.side == primary && !self.view.contains_key(node)
        };
        let joined: Vec<(u32, u32)> = machines
            .iter()
            .filter(|(node, seen)| joins(node, seen))
            .map(|(node, seen)| (*node, seen.life))
            .collect();
        if !lost.is_empty() {
            for node in &lost {
                self.missing.remove(node);
                if let Some(life) = self.view.remove(node) {
                    let due_ms = now_ms + fence_ms;
                    self.victims.insert(*node, Victim { life, due_ms });
                }
            }
            self.tell_view(&mut told);
            self.tell_lost(&lost, &mut told);
            self.tell_fence(&mut told);
        } else if !joined.is_empty() {
            self.view.extend(joined);
            // That it has started again is as good as an agent.
            let view = &self.view;
            let back = |node: &u32, victim: &Victim| {
                view.get(node).is_some_and(|life| *life != victim.life)
            };
            self.victims.retain(|node, victim| !back(node, victim));
            self.tell_view(&mut told);
            self.tell_fence(&mut told);
        }
        told
    }

    fn tell_view(&mut self, told: &mut Told) {
        self.number += 1;
        let members = self.view.iter().map(|(node, life)| Member {
            node: NodeId(*node),
            boot_id: format!("life {life}"),
        });
        let view = View {
            number: self.number,
            members: members.collect(),
        };
        for node in self.view.keys() {
            told.push((*node, Item::View(view.clone(), self.view.clone())));
            told.push((*node, Item::Quorum(true)));
        }
    }

    fn tell_lost(&mut self, lost: &BTreeSet<u32>, told: &mut Told) {
        for (name, group) in &mut self.groups {
            let gone: Vec<u32> = group.members.intersection(lost).copied().collect();
            if gone.is_empty() {
                continue;
            }
            group.members.retain(|node| !lost.contains(node));
            let departed = gone.iter().map(|node| (*node, Departure::NodeFailed));
            let departed = departed.collect();
            group.tell(name, self.number, &[], departed, &[], told);
        }
    }

    fn tell_fence(&self, told: &mut Told) {
        let state = FenceState {
            view: self.number,
            victims: self.victims.keys().map(|node| NodeId(*node)).collect(),
        };
        for node in self.view.keys() {
            told.push((*node, Item::Fence(state.clone())));
        }
    }

    /// A request of a member, at its place in the order.
    pub fn request(
        &mut self,
        now_ms: u64,
        fence_ms: u64,
        from: u32,
        request: Request,
        machines: &BTreeMap<u32, Seen>,
    ) -> Told {
        let mut told = Told::new();
        match request {
            Request::Join(name) => {
                let group = self.groups.entry(name.clone()).or_default();
                if group.members.insert(from) {
                    group.tell(&name, self.number, &[from], Vec::new(), &[], &mut told);
                }
            }
            Request::Leave(name) => {
                let group = self.groups.entry(name.clone()).or_default();
                if group.members.remove(&from) {
                    let departed = vec![(from, Departure::Left)];
                    group.tell(&name, self.number, &[], departed, &[from], &mut told);
                }
            }
            Request::Send(name, payload) => {
                let group = self.groups.entry(name.clone()).or_default();
                for node in &group.members {
                    let message = Item::Message {
                        group: name.clone(),
                        from,
                        payload: payload.clone(),
                    };
                    told.push((*node, message));
                }
            }
            Request::Fence(node) => {
                if let Some(seen) = machines.get(&node) {
                    let due_ms = now_ms + fence_ms;
                    let life = seen.life;
                    self.victims.entry(node).or_insert(Victim { life, due_ms });
                    self.tell_fence(&mut told);
                }
            }
        }
        told
    }

    /// The lock daemon of a node has died; the node is still a member.
    pub fn daemon_died(&mut self, node: u32) -> Told {
        let mut told = Told::new();
        for (name, group) in &mut self.groups {
            if group.members.remove(&node) {
                let departed = vec![(node, Departure::ProcessFailed)];
                group.tell(name, self.number, &[], departed, &[], &mut told);
            }
        }
        told
    }

    /// Victims whose agent is done by now: they must be without power before
    /// [`Cluster::fenced`] says so.
    pub fn due(&self, now_ms: u64) -> Vec<(u32, u32)> {
        let due = self.victims.iter().filter(|(_, v)| v.due_ms <= now_ms);
        due.map(|(node, victim)| (*node, victim.life)).collect()
    }

    /// A victim is without power, or was since it failed.
    pub fn fenced(&mut self, node: u32) -> Told {
        let mut told = Told::new();
        if self.victims.remove(&node).is_some() {
            self.tell_fence(&mut told);
        }
        told
    }
}

impl Group {
    fn tell(
        &mut self,
        name: &str,
        view: u64,
        joined: &[u32],
        departed: Vec<(u32, Departure)>,
        also: &[u32],
        told: &mut Told,
    ) {
        self.number += 1;
        let departed = departed.into_iter().map(|(node, why)| (NodeId(node), why));
        let group = GroupView {
            group: name.to_owned(),
            number: self.number,
            view,
            members: self.members.iter().map(|node| NodeId(*node)).collect(),
            joined: joined.iter().map(|node| NodeId(*node)).collect(),
            departed: departed.collect(),
        };
        for node in self.members.iter().chain(also) {
            told.push((*node, Item::Group(group.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machines(sides: &[(u32, u32, bool)]) -> BTreeMap<u32, Seen> {
        let seen = |&(life, side, up): &(u32, u32, bool)| Seen { life, up, side };
        (1..).zip(sides.iter().map(seen)).collect()
    }

    #[test]
    fn a_silent_member_goes_and_must_be_fenced_and_comes_back_as_another_life() {
        let mut cluster = Cluster::new(3);
        let all = machines(&[(1, 0, true), (1, 0, true), (1, 0, true)]);
        cluster.look(0, 5, &all);
        assert_eq!(cluster.view().len(), 3);
        let split = machines(&[(1, 0, true), (1, 0, true), (1, 1, true)]);
        assert!(cluster.look(100, 5, &split).is_empty());
        assert!(!cluster.hears(3, &split));
        let told = cluster.look(100 + SILENCE_MS, 5, &split);
        assert!(told.iter().all(|(node, _)| *node != 3));
        assert_eq!(cluster.due(100 + SILENCE_MS + 5), [(3, 1)]);
        cluster.fenced(3);
        let reborn = machines(&[(1, 0, true), (1, 0, true), (2, 0, true)]);
        cluster.look(3_000, 5, &reborn);
        assert_eq!(cluster.view().get(&3), Some(&2));
        assert!(cluster.victims().is_empty());
    }

    #[test]
    fn half_of_the_nodes_are_no_cluster() {
        let cluster = Cluster::new(4);
        let halves = [(1, 0, true), (1, 0, true), (1, 1, true), (1, 1, true)];
        assert_eq!(cluster.primary(&machines(&halves)), None);
        let most = [(1, 0, true), (1, 7, true), (1, 7, true), (1, 7, true)];
        assert_eq!(cluster.primary(&machines(&most)), Some(7));
    }
}
