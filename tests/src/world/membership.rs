// SPDX-License-Identifier: GPL-2.0-only
//! cmand on each machine: its core, its datagrams, its clients, and what it tells the kernel.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use cmand_core::{
    BootId, Config, Core, Effect, Incarnation, Instant, NodeConfig, NodeId, RememberedConfig,
};

use super::process::{Ask, Line, News, Process, Who};
use super::{Event, World, trace};
use crate::Mistake;
use crate::truth::{Violation, broken};

/// After this silence a node is suspected, ms.
const DETECTION_MS: u64 = 1_000;

/// cmand.
pub(super) struct Cmand {
    pub(super) process: u64,
    pub(super) core: Core,
    /// Which life of cmand this is.
    pub(super) incarnation: u64,
    /// Clients that hear of views.
    pub(super) subscribers: Vec<Process>,
    /// Which client is a member of a group.
    owners: BTreeMap<String, Process>,
    /// Who hears of boots that were fenced and are heard.
    watcher: Option<Process>,
    /// Whom it was told to keep out, and when.
    kept_out: Vec<(NodeId, Option<BootId>, u64)>,
    view: Option<cmand_core::View>,
    quorate: Option<bool>,
    pub(super) expelled: bool,
    /// When the timer goes off that was set last.
    timer_ms: Option<u64>,
}

impl Cmand {
    /// Whether this node may act for the cluster.
    pub(super) fn is_quorate(&self) -> bool {
        self.quorate == Some(true) && !self.expelled
    }

    /// Which life of a node is in the view.
    pub(super) fn life_of(&self, node: u32) -> Option<Incarnation> {
        let member = self.view.as_ref()?.member(NodeId(node))?;
        Some(member.incarnation)
    }
}

/// What cmand tells the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Update {
    /// This node is this life.
    Own(u64),
    /// Another node.
    Node { other: u32, life: u64, up: bool },
    /// Whether this node may act.
    Quorum(bool),
}

fn address(node: u32) -> SocketAddr {
    let last = u8::try_from(node).unwrap_or(u8::MAX);
    SocketAddr::from(([192, 0, 2, last], 5405))
}

pub(super) fn boot(node: u32, life: u32) -> BootId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&node.to_be_bytes());
    bytes[12..].copy_from_slice(&life.to_be_bytes());
    BootId(bytes)
}

impl World {
    fn cmand_config(&mut self, node: u32) -> Config {
        let machine = self.machine(node);
        let (life, own_file) = (machine.life, machine.own_file);
        let (view_floor, mut remembered) = machine.memory;
        if self.mistake == Some(Mistake::FileForgotten) {
            remembered = RememberedConfig::Nothing;
        }
        let listed = if own_file {
            node..=node
        } else {
            1..=self.plan.nodes
        };
        let expected_votes = match self.mistake {
            Some(Mistake::MinorityActs) => 1,
            _ => listed.clone().count() as u32,
        };
        let nodes = listed.map(|id| {
            let config = NodeConfig {
                name: format!("n{id}"),
                address: address(id),
                votes: 1,
            };
            (NodeId(id), config)
        });
        Config {
            cluster: "sim".to_owned(),
            key: vec![7; 32],
            node: NodeId(node),
            incarnation: Incarnation(self.random.next_u64()),
            boot: boot(node, life),
            nodes: nodes.collect(),
            expected_votes,
            detection_ms: DETECTION_MS,
            view_floor,
            remembered,
            seed: self.random.next_u64(),
        }
    }

    pub(super) fn begin_cmand(&mut self, node: u32, process: u64) -> Result<(), Violation> {
        let config = self.cmand_config(node);
        let incarnation = config.incarnation.0;
        let core = Core::new(config, Instant(self.now_ms));
        self.machine(node).cmand = Some(Cmand {
            process,
            core,
            incarnation,
            subscribers: Vec::new(),
            owners: BTreeMap::new(),
            watcher: None,
            kept_out: Vec::new(),
            view: None,
            quorate: None,
            expelled: false,
            timer_ms: None,
        });
        trace!(self, "node {node}: cmand begins as {incarnation:x}");
        self.update(node, Update::Own(incarnation));
        self.set_beat(node);
        Ok(())
    }

    /// Calls the core, and carries out what it wants done.
    fn member<T>(
        &mut self,
        node: u32,
        f: impl FnOnce(&mut Core, Instant, &mut Vec<Effect>) -> T,
    ) -> Result<Option<T>, Violation> {
        let now = Instant(self.now_ms);
        let Some(cmand) = &mut self.machine(node).cmand else {
            return Ok(None);
        };
        let mut effects = Vec::new();
        let result = f(&mut cmand.core, now, &mut effects);
        for effect in effects {
            self.do_membership(node, effect)?;
        }
        self.set_beat(node);
        Ok(Some(result))
    }

    fn set_beat(&mut self, node: u32) {
        let now_ms = self.now_ms;
        let Some(cmand) = &mut self.machine(node).cmand else {
            return;
        };
        let (process, timer_ms) = (cmand.process, cmand.timer_ms);
        let Some(Instant(due)) = cmand.core.next_timeout() else {
            return;
        };
        let due = due.max(now_ms);
        if timer_ms.is_some_and(|at| at <= due) {
            return;
        }
        cmand.timer_ms = Some(due);
        self.at(due, Event::Beat { node, process });
    }

    pub(super) fn beat(&mut self, node: u32, process: u64) -> Result<(), Violation> {
        if self.running(node, Who::Cmand) != Some((Who::Cmand, process)) {
            return Ok(());
        }
        let now_ms = self.now_ms;
        if let Some(cmand) = &mut self.machine(node).cmand {
            if cmand.timer_ms.is_none_or(|at| at > now_ms) {
                return Ok(());
            }
            cmand.timer_ms = None;
        }
        self.member(node, |core, now, fx| core.handle_timeout(now, fx))?;
        Ok(())
    }

    fn do_membership(&mut self, node: u32, effect: Effect) -> Result<(), Violation> {
        match effect {
            Effect::Send { to, bytes } => self.put_datagram(node, to, &bytes),
            Effect::View(view) => {
                trace!(
                    self,
                    "node {node} view {} {:?} departed {:?} quorate: {}",
                    view.number,
                    view.members.iter().map(|m| m.node.0).collect::<Vec<_>>(),
                    view.departed,
                    view.quorate
                );
                let cmand = self.machine(node).cmand.as_mut();
                let life = cmand.map_or(0, |cmand| {
                    cmand.view = Some(view.clone());
                    cmand.incarnation
                });
                self.views.told(node, life, &view)?;
                self.check_kept_out(&view)?;
                self.tell_subscribers(node, &News::View(view));
            }
            Effect::Quorum { quorate, reason } => {
                trace!(self, "node {node} quorate: {quorate} {reason}");
                if let Some(cmand) = &mut self.machine(node).cmand {
                    cmand.quorate = Some(quorate);
                }
                self.update(node, Update::Quorum(quorate));
                self.tell_subscribers(node, &News::Quorum(quorate));
            }
            Effect::Peer {
                node: other,
                incarnation,
                up,
            } => {
                let (other, life) = (other.0, incarnation.0);
                self.update(node, Update::Node { other, life, up });
            }
            Effect::Group(group) => {
                let ended = group.members.iter().all(|member| member.0 != node);
                let name = group.group.clone();
                self.tell_owner(node, &name, News::Group(group));
                if let Some(cmand) = self.machine(node).cmand.as_mut().filter(|_| ended) {
                    cmand.owners.remove(&name);
                }
            }
            Effect::Message {
                group,
                from,
                payload,
            } => {
                let name = group.clone();
                let message = News::Message {
                    group,
                    from: from.0,
                    payload,
                };
                self.tell_owner(node, &name, message);
            }
            Effect::Expelled { reason } => {
                trace!(self, "node {node} is expelled: {reason}");
                if let Some(cmand) = &mut self.machine(node).cmand {
                    cmand.expelled = true;
                }
                self.tell_subscribers(node, &News::Expelled);
                self.need_reset(node);
            }
            Effect::Rejoining {
                incarnation,
                reason,
            } => {
                trace!(self, "node {node} joins again as {incarnation}: {reason}");
                if let Some(cmand) = &mut self.machine(node).cmand {
                    cmand.view = None;
                    cmand.incarnation = incarnation.0;
                }
                self.update(node, Update::Own(incarnation.0));
            }
            Effect::Refused { reason } => {
                return broken(format!("node {node} is refused: {reason}"));
            }
            Effect::Left => return broken(format!("node {node} left unasked")),
            Effect::Remember { view_floor, config } => {
                self.machine(node).memory = (view_floor, config);
            }
            Effect::Returned {
                node: other,
                incarnation,
                boot,
            } => {
                trace!(self, "node {node} hears {other} that was fenced");
                let watcher = self.machine(node).cmand.as_ref();
                let told =
                    watcher.and_then(|cmand| Some(((Who::Cmand, cmand.process), cmand.watcher?)));
                if let Some((own, watcher)) = told
                    && self.mistake != Some(Mistake::ReturnIgnored)
                {
                    let returned = News::Returned {
                        node: other,
                        incarnation,
                        boot,
                    };
                    self.say_to(node, own, watcher, Line::News(returned));
                }
            }
            Effect::Probed { .. } => {
                return broken(format!("node {node}: a probe nobody asked for"));
            }
            Effect::Log { text, .. } => trace!(self, "node {node} cmand: {text}"),
        }
        Ok(())
    }

    fn keep_out(&mut self, node: u32, nodes: &[(NodeId, Option<BootId>)]) -> Result<(), Violation> {
        trace!(self, "node {node} keeps out {nodes:?}");
        let now_ms = self.now_ms;
        if let Some(cmand) = &mut self.machine(node).cmand {
            let before = std::mem::take(&mut cmand.kept_out);
            let since = |known: &NodeId, boot: &Option<BootId>| {
                let mut before = before.iter();
                let same = before.find(|(other, same, _)| (other, same) == (known, boot));
                same.map_or(now_ms, |(_, _, since)| *since)
            };
            let kept = nodes
                .iter()
                .map(|(node, boot)| (*node, *boot, since(node, boot)));
            cmand.kept_out = kept.collect();
        }
        if self.mistake != Some(Mistake::KeptIn) {
            self.member(node, |core, now, fx| core.keep_out(now, nodes, fx))?;
        }
        Ok(())
    }

    /// No view takes in a life that one of its other members keeps out, and has for longer than a
    /// view takes to come about.
    fn check_kept_out(&self, view: &cmand_core::View) -> Result<(), Violation> {
        let old_ms = self.now_ms.saturating_sub(DETECTION_MS * 5);
        let joined = view
            .members
            .iter()
            .filter(|member| view.joined.contains(&member.node));
        for new in joined {
            for other in view.members.iter().filter(|other| other.node != new.node) {
                let machine = self.machines.get(&other.node.0);
                let cmand = machine.and_then(|machine| machine.cmand.as_ref());
                let cmand = cmand.filter(|cmand| cmand.incarnation == other.incarnation.0);
                let mut kept = cmand.iter().flat_map(|cmand| &cmand.kept_out);
                if kept.any(|(node, boot, since)| {
                    *node == new.node && boot.is_none_or(|boot| boot == new.boot) && *since < old_ms
                }) {
                    return broken(format!(
                        "view {} takes in node {}, which node {} keeps out",
                        view.number, new.node, other.node
                    ));
                }
            }
        }
        Ok(())
    }

    fn tell_subscribers(&mut self, node: u32, news: &News) {
        let Some(cmand) = &self.machine(node).cmand else {
            return;
        };
        let own = (Who::Cmand, cmand.process);
        for client in cmand.subscribers.clone() {
            self.say_to(node, own, client, Line::News(news.clone()));
        }
    }

    fn tell_owner(&mut self, node: u32, group: &str, news: News) {
        let Some(cmand) = &self.machine(node).cmand else {
            return;
        };
        let own = (Who::Cmand, cmand.process);
        if let Some(owner) = cmand.owners.get(group).copied() {
            self.say_to(node, own, owner, Line::News(news));
        }
    }

    /// A client says something.
    pub(super) fn tell_cmand(
        &mut self,
        node: u32,
        from: Process,
        line: Line,
    ) -> Result<(), Violation> {
        let Some(cmand) = &mut self.machine(node).cmand else {
            return Ok(());
        };
        let own = (Who::Cmand, cmand.process);
        let result = match line {
            Line::Ask(Ask::Subscribe) => {
                cmand.subscribers.push(from);
                if cmand.expelled {
                    self.say_to(node, own, from, Line::News(News::Expelled));
                    return Ok(());
                }
                let (view, quorate) = (cmand.view.clone(), cmand.quorate);
                if let Some(view) = view {
                    self.say_to(node, own, from, Line::News(News::View(view)));
                }
                if let Some(quorate) = quorate {
                    self.say_to(node, own, from, Line::News(News::Quorum(quorate)));
                }
                return Ok(());
            }
            Line::Ask(Ask::Join(group)) => {
                if let Some(owner) = cmand.owners.get(&group) {
                    return broken(format!("node {node}: {group} is {owner:?}'s already"));
                }
                cmand.owners.insert(group.clone(), from);
                self.member(node, |core, now, fx| core.join_group(now, &group, fx))?
            }
            Line::Ask(Ask::Leave(group)) => {
                self.member(node, |core, now, fx| core.leave_group(now, &group, fx))?
            }
            Line::Ask(Ask::WatchEnded(ended)) => {
                cmand.watcher = Some(from);
                self.member(node, |core, now, _| core.watch_ended(now, &ended))?;
                return Ok(());
            }
            Line::Ask(Ask::KeepOut(nodes)) => return self.keep_out(node, &nodes),
            Line::Ask(Ask::Send(group, payload)) => {
                self.member(node, |core, now, fx| core.send(now, &group, &payload, fx))?
            }
            Line::Gone => return self.client_gone(node, from),
            Line::News(_) | Line::Plea(_) | Line::State(_) => {
                return broken(format!("node {node}: {from:?} says {line:?} to cmand"));
            }
        };
        match result {
            None | Some(Ok(())) => {}
            // The membership that the request is about has ended meanwhile.
            Some(Err(
                cmand_core::RequestError::Ended
                | cmand_core::RequestError::AlreadyMember
                | cmand_core::RequestError::NotMember,
            )) => self.say_to(node, own, from, Line::News(News::Refused)),
            Some(Err(error)) => return broken(format!("node {node}: {from:?}: {error}")),
        }
        Ok(())
    }

    /// A client that ended without leaving its groups has failed in them.
    fn client_gone(&mut self, node: u32, client: Process) -> Result<(), Violation> {
        let Some(cmand) = &mut self.machine(node).cmand else {
            return Ok(());
        };
        cmand.subscribers.retain(|other| *other != client);
        if cmand.watcher == Some(client) {
            cmand.watcher = None;
            self.member(node, |core, now, _| core.watch_ended(now, &[]))?;
        }
        let Some(cmand) = &mut self.machine(node).cmand else {
            return Ok(());
        };
        let groups = cmand.owners.iter().filter(|(_, owner)| **owner == client);
        let groups: Vec<String> = groups.map(|(group, _)| group.clone()).collect();
        for group in groups {
            if let Some(cmand) = &mut self.machine(node).cmand {
                cmand.owners.remove(&group);
            }
            // Fails only when the membership has ended already.
            let _ = self.member(node, |core, now, fx| core.fail_group(now, &group, fx))?;
        }
        Ok(())
    }

    fn put_datagram(&mut self, node: u32, to: SocketAddr, bytes: &[u8]) {
        let Some(to) = (1..=self.plan.nodes).find(|id| address(*id) == to) else {
            return;
        };
        let twice = !self.healed && self.random.percent(self.plan.doubled_percent);
        for _ in 0..1 + u32::from(twice) {
            if !self.healed && self.random.percent(self.plan.lost_percent) {
                continue;
            }
            let delay = self.random.within(0, self.plan.wire_ms);
            let bytes = bytes.to_vec();
            let from = node;
            self.after(delay, Event::Datagram { from, to, bytes });
        }
    }

    /// A datagram arrives, if nothing is between the two.
    pub(super) fn datagram(&mut self, from: u32, to: u32, bytes: &[u8]) -> Result<(), Violation> {
        let side = |node: u32| self.machines.get(&node).map(|machine| machine.side);
        if side(from) != side(to) {
            return Ok(());
        }
        self.member(to, |core, now, fx| {
            core.handle_datagram(now, address(from), bytes, fx);
        })?;
        Ok(())
    }

    /// Tells the kernel something, behind what it was told before.
    fn update(&mut self, node: u32, update: Update) {
        let delay = self.random.within(0, self.plan.daemon_ms);
        let Some(process) = self.running(node, Who::Cmand) else {
            return;
        };
        let now_ms = self.now_ms;
        let last = &mut self.machine(node).last_update_ms;
        *last = (*last).max(now_ms + delay);
        let (at, process) = (*last, process.1);
        self.at(
            at,
            Event::Update {
                node,
                process,
                update,
            },
        );
    }

    /// The kernel hears of nodes, as `node-set` and `cluster-set` have it.
    pub(super) fn updated(
        &mut self,
        node: u32,
        process: u64,
        update: Update,
    ) -> Result<(), Violation> {
        if self.running(node, Who::Cmand) != Some((Who::Cmand, process)) {
            return Ok(());
        }
        match update {
            Update::Own(life) => {
                trace!(self, "node {node}: the kernel is {life:x}");
                self.forget_peers(node);
                self.machine(node).kernel.life = life;
                let order = self.incarnations.len();
                self.incarnations.entry((node, life)).or_insert(order);
                Ok(())
            }
            Update::Node { other, life, up } => self.configure(node, other, life, up),
            Update::Quorum(quorate) => self.set_quorate(node, quorate),
        }
    }

    /// The kernel hears whether it may act.
    pub(super) fn set_quorate(&mut self, node: u32, quorate: bool) -> Result<(), Violation> {
        trace!(
            self,
            "node {node}: the kernel hears that quorate is {quorate}"
        );
        let kernel = &mut self.machine(node).kernel;
        kernel.quorate = quorate;
        if let Some(space) = &mut kernel.space {
            space.set_quorate(quorate);
        }
        self.settle(node)
    }
}
