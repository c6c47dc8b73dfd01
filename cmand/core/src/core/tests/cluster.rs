// SPDX-License-Identifier: GPL-2.0-only
//! Cores, a wire between them that loses, delays, doubles and overtakes, and a
//! clock. One seed decides everything.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::BootId;
use crate::Config;
use crate::Core;
use crate::Effect;
use crate::Incarnation;
use crate::Instant;
use crate::NodeConfig;
use crate::NodeId;
use crate::RememberedConfig;
use crate::Standing;

use super::check::History;

pub(super) const DETECTION_MS: u64 = 1000;
pub(super) const GROUP: &str = "g";

/// splitmix64, as in the core but of our own state.
#[derive(Debug, Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.draw() % limit.max(1)
    }

    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

pub(super) fn address(node: NodeId) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(node.0).unwrap()], 5405))
}

/// What the wire does to packets.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) loss_percent: u64,
    pub(super) double_percent: u64,
    pub(super) delay_ms_max: u64,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) core: Option<Core>,
    pub(super) paused_until: Option<Instant>,
    held: Vec<(SocketAddr, Vec<u8>)>,
    floor: u64,
    remembered: RememberedConfig,
    /// The nodes in its file; all, unless it has one of its own.
    pub(super) file: BTreeSet<NodeId>,
    /// Whether it joins the group in each life.
    pub(super) joins: bool,
}

#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) now: Instant,
    pub(super) random: Random,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) faults: Faults,
    /// Directions that nothing passes.
    pub(super) cut: BTreeSet<(NodeId, NodeId)>,
    wire: BTreeMap<(Instant, u64), (NodeId, NodeId, Vec<u8>)>,
    sent: u64,
    pub(super) history: History,
    pub(super) recorded: Vec<(NodeId, NodeId, Vec<u8>)>,
    pub(super) record: bool,
    pub(super) print: bool,
}

impl Cluster {
    pub(super) fn new(seed: u64, count: u32) -> Self {
        let nodes = (1..=count).map(|id| {
            let node = Node {
                core: None,
                paused_until: None,
                held: Vec::new(),
                floor: 0,
                remembered: RememberedConfig::Nothing,
                file: (1..=count).map(NodeId).collect(),
                joins: true,
            };
            (NodeId(id), node)
        });
        Self {
            now: Instant(1_000_000),
            random: Random(seed),
            nodes: nodes.collect(),
            faults: Faults {
                delay_ms_max: 2,
                ..Faults::default()
            },
            cut: BTreeSet::new(),
            wire: BTreeMap::new(),
            sent: 0,
            history: History::new(count),
            recorded: Vec::new(),
            record: false,
            print: std::env::var_os("CORE_TEST_PRINT").is_some(),
        }
    }

    pub(super) fn config(&mut self, node: NodeId) -> Config {
        let file = &self.nodes[&node].file;
        let expected_votes = u32::try_from(file.len()).unwrap();
        let nodes = file.iter().map(|id| {
            let config = NodeConfig {
                name: format!("n{id}"),
                address: address(*id),
                votes: 1,
            };
            (*id, config)
        });
        Config {
            cluster: "alpha".to_owned(),
            key: vec![7; 32],
            node,
            incarnation: Incarnation(self.random.draw()),
            boot: BootId([u8::try_from(node.0).unwrap(); 16]),
            nodes: nodes.collect(),
            expected_votes,
            detection_ms: DETECTION_MS,
            view_floor: self.nodes[&node].floor,
            remembered: self.nodes[&node].remembered,
            seed: self.random.draw(),
        }
    }

    pub(super) fn start(&mut self, node: NodeId) {
        let config = self.config(node);
        self.start_with(node, config);
    }

    pub(super) fn start_with(&mut self, node: NodeId, config: Config) {
        self.history.begin(node, config.incarnation);
        let core = Core::new(config, self.now);
        let slot = self.nodes.get_mut(&node).unwrap();
        slot.core = Some(core);
        slot.paused_until = None;
        slot.held.clear();
        if slot.joins {
            self.with(node, |core, now, fx| core.join_group(now, GROUP, fx))
                .unwrap();
        }
    }

    pub(super) fn start_all(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            self.start(id);
        }
    }

    pub(super) fn crash(&mut self, node: NodeId) {
        self.nodes.get_mut(&node).unwrap().core = None;
        self.history.end(node);
    }

    pub(super) fn core(&self, node: u32) -> &Core {
        self.nodes[&NodeId(node)].core.as_ref().unwrap()
    }

    /// Lets a core do something and carries out its effects.
    pub(super) fn with<T>(
        &mut self,
        node: NodeId,
        action: impl FnOnce(&mut Core, Instant, &mut Vec<Effect>) -> T,
    ) -> T {
        let mut fx = Vec::new();
        let core = self.nodes.get_mut(&node).unwrap().core.as_mut().unwrap();
        let result = action(core, self.now, &mut fx);
        for effect in fx {
            self.carry_out(node, effect);
        }
        result
    }

    fn carry_out(&mut self, node: NodeId, effect: Effect) {
        if self.print && !matches!(effect, Effect::Send { .. }) {
            println!("{} n{node}: {effect:?}", self.now.0);
        }
        match effect {
            Effect::Send { to, bytes } => {
                let to = self.nodes.keys().copied().find(|id| address(*id) == to);
                self.send(node, to.unwrap(), bytes);
            }
            Effect::Remember { view_floor, config } => {
                let node = self.nodes.get_mut(&node).unwrap();
                node.floor = view_floor;
                node.remembered = config;
            }
            Effect::Left => {
                self.nodes.get_mut(&node).unwrap().core = None;
                self.history.end(node);
            }
            Effect::Rejoining { incarnation, .. } => self.history.begin(node, incarnation),
            other => self.history.note(self.now, node, other),
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, bytes: Vec<u8>) {
        if self.record {
            self.recorded.push((from, to, bytes.clone()));
        }
        let copies = 1 + u64::from(self.random.percent(self.faults.double_percent));
        for _ in 0..copies {
            if self.random.percent(self.faults.loss_percent) {
                continue;
            }
            let delay = 1 + self.random.below(self.faults.delay_ms_max);
            self.sent += 1;
            let at = (self.now.after(delay), self.sent);
            self.wire.insert(at, (from, to, bytes.clone()));
        }
    }

    pub(super) fn inject(&mut self, from: NodeId, to: NodeId, bytes: Vec<u8>) {
        self.sent += 1;
        self.wire.insert((self.now, self.sent), (from, to, bytes));
    }

    /// The next thing that happens, if it is before the limit.
    fn next(&self, limit: Instant) -> Option<Instant> {
        let wire = self.wire.keys().next().map(|(at, _)| *at);
        let timers = self
            .nodes
            .values()
            .filter_map(|node| match node.paused_until {
                Some(until) => Some(until),
                None => node.core.as_ref()?.next_timeout(),
            });
        timers.chain(wire).min().filter(|at| *at <= limit)
    }

    pub(super) fn run(&mut self, ms: u64) {
        let limit = self.now.after(ms);
        while let Some(at) = self.next(limit) {
            self.now = self.now.max(at);
            self.step();
        }
        self.now = limit;
    }

    /// Runs until a condition holds; says how long it took.
    pub(super) fn run_until(&mut self, limit_ms: u64, done: impl Fn(&Self) -> bool) -> Option<u64> {
        let begin = self.now;
        let limit = begin.after(limit_ms);
        loop {
            if done(self) {
                return Some(self.now.since(begin));
            }
            let at = self.next(limit)?;
            self.now = self.now.max(at);
            self.step();
        }
    }

    fn step(&mut self) {
        while let Some(first) = self.wire.first_entry() {
            if first.key().0 > self.now {
                break;
            }
            let (from, to, bytes) = first.remove();
            if !self.cut.contains(&(from, to)) {
                self.receive(to, address(from), bytes);
            }
        }
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            self.wake(id);
            let node = &self.nodes[&id];
            let due = node.core.as_ref().and_then(Core::next_timeout);
            if node.paused_until.is_none() && due.is_some_and(|at| at <= self.now) {
                self.with(id, |core, now, fx| core.handle_timeout(now, fx));
            }
        }
        self.history.watch(self.now, &self.nodes);
    }

    pub(super) fn receive(&mut self, to: NodeId, from: SocketAddr, bytes: Vec<u8>) {
        let node = self.nodes.get_mut(&to).unwrap();
        if node.core.is_none() {
            return;
        }
        if node.paused_until.is_some() {
            node.held.push((from, bytes));
            return;
        }
        self.with(to, |core, now, fx| {
            core.handle_datagram(now, from, &bytes, fx)
        });
    }

    /// Ends a pause; what came meanwhile was kept in the socket.
    fn wake(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        if node.paused_until.is_none_or(|until| until > self.now) {
            return;
        }
        node.paused_until = None;
        for (from, bytes) in std::mem::take(&mut node.held) {
            self.receive(id, from, bytes);
        }
    }

    pub(super) fn isolate(&mut self, node: u32) {
        let node = NodeId(node);
        let others: Vec<NodeId> = self.nodes.keys().copied().collect();
        for other in others.into_iter().filter(|other| *other != node) {
            self.cut.insert((node, other));
            self.cut.insert((other, node));
        }
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
        self.faults = Faults {
            delay_ms_max: 2,
            ..Faults::default()
        };
        for node in self.nodes.values_mut() {
            node.paused_until = node.paused_until.map(|_| self.now);
        }
    }

    /// All running nodes are quorate in one view of exactly them, and have
    /// nothing left to deliver.
    pub(super) fn is_whole(&self) -> bool {
        let running: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.core.is_some())
            .map(|(id, _)| *id)
            .collect();
        let views: BTreeSet<u64> = running
            .iter()
            .map(|id| self.core(id.0).status(self.now).view)
            .collect();
        views.len() == 1
            && running.iter().all(|id| {
                let status = self.core(id.0).status(self.now);
                status.standing == Standing::Member
                    && status.members == running.len()
                    && status.quorate
            })
            && self.history.all_delivered()
    }
}
