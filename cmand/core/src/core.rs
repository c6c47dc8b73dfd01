// SPDX-License-Identifier: GPL-2.0-only
//! One life of one node: takes inputs, and passes them to the part they are for.
//!
//! Every input ends in [`Core::settle`], which carries out what follows from the
//! changed state: deliveries, proposals, quorum. Parts: `hear` (packets and
//! heartbeats), `plan` (which view there should be), `propose` and `accept` (the
//! two sides of a ballot), `install` (views), `strangers` (nodes with another file), `local`
//! (clients), `status`.

mod accept;
mod dropped;
mod hear;
mod install;
mod kept_out;
mod local;
mod plan;
mod probe;
mod propose;
mod returned;
mod status;
mod strangers;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::Config;
use crate::Effect;
use crate::Instant;
use crate::Level;
use crate::Member;
use crate::NodeId;
use crate::RememberedConfig;
use crate::Sink;
use crate::ViewId;
use crate::groups::Groups;
use crate::order::Order;
use crate::order::Out;
use crate::peer::Peer;
use crate::seal::Drop;
use crate::seal::Header;
use crate::seal::Key;
use crate::seal::Keys;
use crate::wire::Ballot;
use crate::wire::Chunk;
use crate::wire::Entry;
use crate::wire::Message;
use crate::wire::NUMBER_LIMIT;
use crate::wire::Value;
use crate::wire::pieces;

pub use status::PeerStatus;
pub use status::Status;

use dropped::Dropped;
use kept_out::KeptOut;
use local::LocalGroup;
use probe::Probe;
use propose::Proposer;
use returned::Fenced;
use strangers::Strangers;

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not in a view.
    Joining,
    /// In a view.
    Member,
    /// Asked to leave.
    Leaving,
    /// Its leave is agreed; it waits until the others went on.
    Going {
        /// Since when.
        since: Instant,
    },
    /// Left; the end.
    Left,
    /// The others went on without it; the end.
    Expelled,
    /// The cluster does not take it; the end.
    Refused,
}

impl Standing {
    /// Whether this life takes no part any more.
    #[must_use]
    pub fn is_end(self) -> bool {
        match self {
            Self::Joining | Self::Member | Self::Leaving | Self::Going { .. } => false,
            Self::Left | Self::Expelled | Self::Refused => true,
        }
    }
}

/// The view in force.
#[derive(Debug)]
struct Installed {
    value: Value,
    order: Order,
    groups: Groups,
    /// Members whose clean leave was delivered.
    leaving: BTreeSet<NodeId>,
    /// Number of the view each member joined in, as far as this node knows.
    joined_in: BTreeMap<NodeId, u64>,
    /// Other members told to be up.
    up: BTreeSet<NodeId>,
}

/// The acceptor's memory.
#[derive(Debug, Default)]
struct Acceptor {
    promised: Ballot,
    /// When something of the promised ballot was last seen.
    promised_at: Instant,
    /// Promised for a successor of the present view that is not installed yet.
    blocked: bool,
    /// Accepted and not known to be decided.
    pending: Option<(Ballot, Value)>,
}

/// One life of one node. See the crate's head.
#[derive(Debug)]
pub struct Core {
    config: Config,
    digest: u64,
    keys: Keys,
    key: Key,
    packets: u64,
    messages: u32,
    peers: BTreeMap<NodeId, Peer>,
    standing: Standing,
    view: Option<Installed>,
    /// Entries of the view before, for members that lack some.
    previous: Option<(ViewId, BTreeMap<u64, Entry>)>,
    acceptor: Acceptor,
    proposer: Proposer,
    /// Largest number of a view this node accepted, in this or an earlier life.
    floor: u64,
    /// The file of the last quorate view.
    remembered: RememberedConfig,
    strangers: Strangers,
    born: Instant,
    /// Largest round seen.
    round: u64,
    /// Heartbeats sent, each to all.
    beats: u64,
    /// Nodes that did not answer a proposal; not proposed again before this time.
    avoided: BTreeMap<NodeId, Instant>,
    /// The set of members that would be proposed, and since when it is that.
    settling: Option<(Vec<Member>, Instant)>,
    /// Since when this node cannot act while others in another view can.
    outvoted_since: Option<accept::Outvoted>,
    local: BTreeMap<String, LocalGroup>,
    /// Own chunks while there is no view.
    waiting: VecDeque<Chunk>,
    /// Messages to this node itself.
    loopback: VecDeque<Message>,
    beat_at: Instant,
    look_at: Option<Instant>,
    input_at: Instant,
    /// The longest a heartbeat of this node was late.
    longest_pause_ms: u64,
    told_quorate: Option<bool>,
    /// When the quorum state was last told.
    quorate_at: Instant,
    random: u64,
    counters: BTreeMap<&'static str, u64>,
    /// Something changed that may call for another view, or change who can be trusted.
    changed: bool,
    /// How often it was worked out which view there should be.
    #[cfg(test)]
    plans: u64,
    dropped: Dropped,
    /// Questions whether a node lives.
    probes: Vec<Probe>,
    fenced: Fenced,
    kept_out: KeptOut,
}

impl Core {
    /// Begins a life. The first heartbeat is due at once.
    ///
    /// # Panics
    /// If the configuration does not contain this node.
    #[must_use]
    pub fn new(config: Config, now: Instant) -> Self {
        assert!(
            config.nodes.contains_key(&config.node),
            "the configuration contains this node"
        );
        assert!(
            config.view_floor <= NUMBER_LIMIT,
            "a view number from disk is checked before"
        );
        let keys = Keys::new(&config.cluster, &config.key);
        let key = keys.key(config.node, config.incarnation);
        let others = config.nodes.iter().filter(|(id, _)| **id != config.node);
        let peers = others
            .map(|(id, node)| (*id, Peer::new(node.address)))
            .collect();
        Self {
            digest: config.digest(),
            floor: config.view_floor,
            remembered: config.remembered,
            strangers: Strangers::default(),
            born: now,
            random: config.seed,
            keys,
            key,
            packets: 0,
            messages: 0,
            peers,
            standing: Standing::Joining,
            view: None,
            previous: None,
            acceptor: Acceptor::default(),
            proposer: Proposer::Idle { not_before: now },
            round: 0,
            beats: 0,
            avoided: BTreeMap::new(),
            settling: None,
            outvoted_since: None,
            local: BTreeMap::new(),
            waiting: VecDeque::new(),
            loopback: VecDeque::new(),
            beat_at: now,
            look_at: None,
            input_at: now,
            longest_pause_ms: 0,
            told_quorate: None,
            quorate_at: now,
            counters: BTreeMap::new(),
            changed: true,
            #[cfg(test)]
            plans: 0,
            dropped: Dropped::default(),
            probes: Vec::new(),
            fenced: Fenced::default(),
            kept_out: KeptOut::default(),
            config,
        }
    }

    /// A datagram came.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        fx: &mut dyn Sink,
    ) {
        if self.standing.is_end() {
            return;
        }
        self.notice_pause(now, fx);
        self.count("packets_in");
        match self.open(now, from, datagram, fx) {
            Ok(Some((sender, message))) => self.handle_message(now, sender, message, fx),
            Ok(None) => {}
            Err(reason) => self.drop_packet(now, reason, from, fx),
        }
        self.settle(now, fx);
    }

    /// The time that [`Self::next_timeout`] named has come; harmless at any other.
    pub fn handle_timeout(&mut self, now: Instant, fx: &mut dyn Sink) {
        if self.standing.is_end() {
            return;
        }
        self.notice_pause(now, fx);
        if now >= self.beat_at {
            self.beat_at = now.after(self.config.interval_ms());
            self.send_heartbeats(now, fx);
        }
        if self.look_at.is_some_and(|at| now >= at) {
            self.look_at = None;
            self.look(now, fx);
        }
        self.look_after_probes(now, fx);
        self.dropped.sum_up(now, fx);
        self.changed = true;
        self.settle(now, fx);
    }

    /// When [`Self::handle_timeout`] must be called next; never after the end.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.standing.is_end() {
            return None;
        }
        let look_at = self.look_at.unwrap_or(self.beat_at);
        let heard = self.peers.values().filter(|peer| peer.was_heard);
        let heard_at = heard.filter_map(|peer| peer.life.as_ref()?.heard_at);
        let silent_at = heard_at.map(|at| at.after(self.config.detection_ms)).min();
        Some(self.beat_at.min(look_at).min(silent_at.unwrap_or(look_at)))
    }

    fn handle_message(&mut self, now: Instant, from: NodeId, message: Message, fx: &mut dyn Sink) {
        self.changed |= message.is_about_views();
        match message {
            Message::Heartbeat(beat) => self.handle_heartbeat(now, from, beat, fx),
            Message::Propose {
                ballot,
                base,
                members,
            } => self.handle_propose(now, from, ballot, base, &members, fx),
            Message::Promise {
                ballot,
                base,
                received,
                floor,
                pending,
            } => self.handle_promise(now, from, ballot, base, received, floor, pending, fx),
            Message::Reject { ballot, promised } => {
                self.handle_reject(now, ballot, promised, fx);
            }
            Message::Accept { ballot, value } => self.handle_accept(now, from, ballot, value, fx),
            Message::Accepted { ballot } => self.handle_accepted(now, from, ballot, fx),
            Message::Commit { id } => self.handle_decided(now, from, id, fx),
            Message::FetchView { id } => self.handle_fetch_view(from, id, fx),
            Message::Install { value } => self.handle_install(now, from, value, fx),
            Message::Fetch { view, first, last } => {
                self.handle_fetch(from, view, first, last, fx);
            }
            Message::Fill { view, entry } => self.handle_fill(now, from, view, entry, fx),
            // Compared when it came: see `strangers`.
            Message::File { .. } => {}
            Message::Refuse { incarnation, text } => {
                self.handle_refuse(from, incarnation, &text, fx);
            }
            Message::Submit {
                view,
                number,
                chunk,
            } => self.ordering(view, fx, |order, out| {
                order.take_submit(from, number, chunk, out);
            }),
            Message::Order {
                view,
                entry,
                stable,
            } => self.ordering(view, fx, |order, out| {
                order.take_order(from, entry, stable, out);
            }),
            Message::Ack {
                view,
                received,
                highest,
            } => self.ordering(view, fx, |order, out| {
                order.take_ack(from, received, highest, now, out);
            }),
            Message::Stable { view, stable } => {
                self.ordering(view, fx, |order, _| order.take_stable(from, stable));
            }
        }
    }

    /// Does something to the order of the present view. Messages of another view
    /// are late, or early: then their sender sends them again.
    fn ordering(
        &mut self,
        view: ViewId,
        fx: &mut dyn Sink,
        action: impl FnOnce(&mut Order, &mut Out),
    ) {
        if let Some(installed) = &mut self.view
            && installed.value.id == view
        {
            let mut out = Out::new();
            action(&mut installed.order, &mut out);
            self.post_all(out, fx);
        }
    }

    /// Carries out what follows from a changed state, until nothing does. What takes work for each
    /// node is left out where nothing changed that it depends on: most packets only carry messages.
    fn settle(&mut self, now: Instant, fx: &mut dyn Sink) {
        let mut changed = false;
        loop {
            self.deliver(now, fx);
            if std::mem::take(&mut self.changed) {
                changed = true;
                self.consider(now, fx);
            }
            let Some(message) = self.loopback.pop_front() else {
                break;
            };
            let me = self.config.node;
            self.handle_message(now, me, message, fx);
            if self.standing.is_end() {
                return;
            }
        }
        if changed {
            self.tell_peers(now, fx);
            self.tell_quorum(now, fx);
        }
        if self.look_at.is_none() && self.is_busy() {
            self.look_at = Some(now.after(self.config.resend_ms()));
        }
    }

    /// Whether something must be looked after before the next heartbeat.
    fn is_busy(&self) -> bool {
        self.proposer.is_active()
            || self.settling.is_some()
            || self.view.as_ref().is_some_and(|view| view.order.is_busy())
    }

    /// Looks after what may have been lost.
    fn look(&mut self, now: Instant, fx: &mut dyn Sink) {
        let mut out = Vec::new();
        if let Some(installed) = &mut self.view {
            installed.order.look(&mut out);
        }
        self.post_all(out, fx);
        self.look_after_proposal(now, fx);
    }

    fn post_all(&mut self, out: Vec<(NodeId, Message)>, fx: &mut dyn Sink) {
        for (to, message) in out {
            self.post(to, &message, fx);
        }
    }

    /// Sends a message to a configured node, this one included.
    fn post(&mut self, to: NodeId, message: &Message, fx: &mut dyn Sink) {
        if to == self.config.node {
            self.loopback.push_back(message.clone());
        } else if let Some(peer) = self.peers.get(&to) {
            let address = peer.address;
            self.post_to(to, address, message, fx);
        }
    }

    fn post_to(&mut self, to: NodeId, address: SocketAddr, message: &Message, fx: &mut dyn Sink) {
        self.messages = self.messages.wrapping_add(1);
        for body in pieces(self.messages, &message.encode()) {
            self.packets += 1;
            self.count("packets_out");
            let header = Header {
                from: self.config.node,
                to,
                incarnation: self.config.incarnation,
                counter: self.packets,
            };
            let bytes = self.keys.seal(&self.key, &header, &body);
            fx.push(Effect::Send { to: address, bytes });
        }
    }

    fn count(&mut self, name: &'static str) {
        *self.counters.entry(name).or_default() += 1;
    }

    fn drop_packet(&mut self, now: Instant, reason: Drop, from: SocketAddr, fx: &mut dyn Sink) {
        self.count(reason.name());
        let known = self.peers.values().any(|peer| peer.address == from);
        self.dropped
            .note(now, reason, known.then_some(from), from, fx);
    }

    /// The next random number (splitmix64): for tags and back-off, never for keys.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn view_id(&self) -> Option<ViewId> {
        self.view.as_ref().map(|installed| installed.value.id)
    }

    fn me(&self) -> Member {
        Member {
            node: self.config.node,
            incarnation: self.config.incarnation,
            boot: self.config.boot,
        }
    }
}

fn log(fx: &mut dyn Sink, level: Level, text: String) {
    fx.push(Effect::Log { level, text });
}
