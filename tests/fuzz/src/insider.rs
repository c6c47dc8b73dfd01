// SPDX-License-Identifier: GPL-2.0-only
//! Datagrams of a member: sealed with its key, with any content.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::OnceLock;

use cmand_core::BootId;
use cmand_core::Config;
use cmand_core::Core;
use cmand_core::Effect;
use cmand_core::Incarnation;
use cmand_core::Instant;
use cmand_core::NodeConfig;
use cmand_core::NodeId;
use cmand_core::RememberedConfig;
use cmand_core::View;
use cmand_core::seal::BODY_LIMIT;
use cmand_core::seal::Header;
use cmand_core::seal::Keys;

use crate::input::Input;

const CLUSTER: &str = "alpha";
const SECRET: [u8; 32] = [7; 32];
const NODES: u32 = 3;
const GROUP: &str = "g";

/// When all nodes begin.
const BEGINNING: Instant = Instant(1_000_000);

/// Packets of an input that are looked at.
const PACKETS_MAX: usize = 200;

/// Larger than any counter that a node itself has used.
const COUNTER: u64 = 1 << 20;

/// Where a node sends from.
#[must_use]
pub fn address(node: u32) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(node).unwrap_or(0)], 5405))
}

fn incarnation(node: u32) -> Incarnation {
    Incarnation(0x1000 + u64::from(node))
}

/// How long three nodes are given to form a view, milliseconds.
const FORMING_MS: u64 = 30_000;

/// How long they then go on, milliseconds.
const GOING_ON_MS: u64 = 400;

/// What one datagram for node 1 was: when it came, from whom, and its bytes.
#[derive(Debug, Clone)]
pub struct Heard {
    /// When.
    pub at: Instant,
    /// From which node.
    pub from: u32,
    /// The datagram.
    pub bytes: Vec<u8>,
}

/// Everything that node 1 hears while three nodes form a view and go on for a while. It is the same
/// each time, since nothing in it is left to chance.
pub fn recorded() -> &'static [Heard] {
    static RECORDED: OnceLock<Vec<Heard>> = OnceLock::new();
    RECORDED.get_or_init(|| {
        let mut nodes: BTreeMap<u32, Node> = (1..=NODES).map(|id| (id, Node::new(id))).collect();
        let mut heard = Vec::new();
        let mut wire: VecDeque<(u32, u32, Vec<u8>)> = VecDeque::new();
        let (mut now, mut end) = (BEGINNING, None);
        while end.is_none_or(|end| now < end) {
            assert!(
                now.0 < BEGINNING.0 + FORMING_MS,
                "three nodes form a view in time"
            );
            for (id, node) in &mut nodes {
                node.pass(now);
                wire.extend(node.said().map(|(to, bytes)| (*id, to, bytes)));
            }
            while let Some((from, to, bytes)) = wire.pop_front() {
                if to == 1 {
                    heard.push(Heard {
                        at: now,
                        from,
                        bytes: bytes.clone(),
                    });
                }
                let node = nodes.get_mut(&to).expect("a node that is configured");
                node.hear(now, address(from), &bytes);
                wire.extend(node.said().map(|(next, bytes)| (to, next, bytes)));
            }
            if end.is_none() && nodes.values().all(Node::has_all) {
                end = Some(Instant(now.0 + GOING_ON_MS));
            }
            now = Instant(now.0 + 1);
        }
        heard
    })
}

/// A core, and what it said last.
#[derive(Debug)]
pub struct Node {
    core: Core,
    view: Option<View>,
    /// How often a member was trusted no longer.
    lost: u32,
    said: Vec<(SocketAddr, Vec<u8>)>,
}

impl Node {
    fn new(id: u32) -> Self {
        let nodes = (1..=NODES).map(|id| {
            let config = NodeConfig {
                name: format!("n{id}"),
                address: address(id),
                votes: 1,
            };
            (NodeId(id), config)
        });
        let config = Config {
            cluster: CLUSTER.to_owned(),
            key: SECRET.to_vec(),
            node: NodeId(id),
            incarnation: incarnation(id),
            boot: BootId([u8::try_from(id).unwrap_or(0); 16]),
            nodes: nodes.collect(),
            expected_votes: NODES,
            detection_ms: 1000,
            view_floor: 0,
            remembered: RememberedConfig::Nothing,
            seed: u64::from(id),
        };
        let mut node = Self {
            core: Core::new(config, BEGINNING),
            view: None,
            lost: 0,
            said: Vec::new(),
        };
        let mut fx = Vec::new();
        let joined = node.core.join_group(BEGINNING, GROUP, &mut fx);
        joined.expect("a new core takes a group");
        node.carry_out(fx);
        node
    }

    /// Node 1 as it is after all that was recorded, and when that is.
    #[must_use]
    pub fn formed() -> (Self, Instant) {
        let mut node = Self::new(1);
        let mut now = BEGINNING;
        node.pass(now);
        for heard in recorded() {
            while now < heard.at {
                now = Instant(now.0 + 1);
                node.pass(now);
            }
            node.hear(now, address(heard.from), &heard.bytes);
        }
        node.said.clear();
        assert!(node.has_all(), "what was recorded makes a view again");
        (node, now)
    }

    fn has_all(&self) -> bool {
        let members = self.view.as_ref().map(|view| view.members.len());
        members == Some(NODES as usize)
    }

    /// The clock says this.
    pub fn pass(&mut self, now: Instant) {
        if self.core.next_timeout().is_some_and(|due| due <= now) {
            let mut fx = Vec::new();
            self.core.handle_timeout(now, &mut fx);
            self.carry_out(fx);
        }
    }

    /// A datagram comes.
    pub fn hear(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        let mut fx = Vec::new();
        self.core.handle_datagram(now, from, bytes, &mut fx);
        self.carry_out(fx);
    }

    /// Its view.
    #[must_use]
    pub fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    fn carry_out(&mut self, fx: Vec<Effect>) {
        for effect in fx {
            if let Effect::Send { to, bytes } = effect {
                self.said.push((to, bytes));
            } else if let Effect::View(view) = effect {
                self.view = Some(view);
            } else if let Effect::Peer { up: false, .. } = effect {
                self.lost += 1;
            }
        }
    }

    /// What it said since the last time, and to whom.
    fn said(&mut self) -> impl Iterator<Item = (u32, Vec<u8>)> + use<> {
        let said = std::mem::take(&mut self.said);
        said.into_iter().filter_map(|(to, bytes)| {
            let to = (1..=NODES).find(|id| address(*id) == to)?;
            Some((to, bytes))
        })
    }
}

/// Some packets of nodes 2 and 3 for node 1: each a byte (the sender, and how much time passes
/// before), a length and the body.
///
/// # Panics
/// A fault was found.
pub fn run(data: &[u8]) {
    let (mut node, mut now) = Node::formed();
    let keys = Keys::new(CLUSTER, &SECRET);
    let mut input = Input(data);
    for number in 0..PACKETS_MAX {
        let Some(what) = input.byte() else {
            break;
        };
        let from = 2 + u32::from(what & 1);
        for _ in 0..what >> 2 {
            now = Instant(now.0 + 1);
            node.pass(now);
        }
        let body = input.bytes();
        let body = &body[..body.len().min(BODY_LIMIT)];
        let header = Header {
            from: NodeId(from),
            to: NodeId(1),
            incarnation: incarnation(from),
            counter: COUNTER + number as u64,
        };
        let key = keys.key(header.from, header.incarnation);
        node.hear(now, address(from), &keys.seal(&key, &header, body));
        node.said.clear();
    }
    let view = node.view().expect("it was in one");
    assert!(
        view.members.iter().any(|member| member.node == NodeId(1)),
        "a view here without this node"
    );
    assert!(
        !crate::is_planted() || node.lost == 0,
        "planted: a member is not trusted any more"
    );
}

/// What members say to each other.
///
/// # Panics
/// What was recorded is no packet of ours.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let keys = Keys::new(CLUSTER, &SECRET);
    let heard = recorded();
    let picked = heard.chunks(heard.len() / 8 + 1);
    picked
        .map(|heard| {
            let mut seed = Vec::new();
            for heard in heard.iter().take(24) {
                let header = keys.claim(&heard.bytes).expect("a packet of ours");
                let key = keys.key(header.from, header.incarnation);
                let body = keys.open(&key, &header, &heard.bytes);
                let body = body.expect("a packet of ours");
                seed.push(u8::try_from(heard.from - 2).unwrap_or(0));
                seed.extend(u16::try_from(body.len()).unwrap_or(0).to_le_bytes());
                seed.extend(body);
            }
            seed
        })
        .collect()
}
