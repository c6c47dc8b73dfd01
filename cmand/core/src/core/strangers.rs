// SPDX-License-Identifier: GPL-2.0-only
//! One cluster, whatever is in the files: nodes that hold the cluster's key and whose file is not
//! this node's.
//!
//! Two files can give two sets of nodes a majority each. So a node founds no view while it hears
//! somebody who goes by another file, nor with a file that is not that of the last quorate view it
//! was in. A view that exists goes on and refuses the stranger; where the stranger can act, too,
//! both stop until an operator has decided ([`Core::accept_config`]).
//!
//! Only who answers to a recent heartbeat of this life counts: a recording changes nothing.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::Core;
use super::log;
use crate::Config;
use crate::Effect;
use crate::Incarnation;
use crate::Instant;
use crate::Level;
use crate::NodeId;
use crate::RememberedConfig;
use crate::Sink;
use crate::peer::Life;
use crate::seal::Drop;
use crate::seal::Header;
use crate::wire::FileSummary;
use crate::wire::Heartbeat;
use crate::wire::Message;

/// Packets a second from who is not in the file that are looked at: what a few nodes with another
/// file send, and a load nobody notices.
const OPENED_PER_SECOND: u32 = 64;

/// Most senders outside the file that are answered, and most nodes with another file remembered.
const LIMIT: usize = 64;

/// What this node's file says is told to a node that goes by another one at most this often.
const TELL_MS: u64 = 1000;

/// A line about a node that goes by another file is logged at most this often; the status always
/// has what it last said.
const LOG_MS: u64 = 10_000;

/// A sender as its packets name it: where from, which node, which life.
type Sender = (SocketAddr, NodeId, Incarnation);

/// A node that goes by another file and proved to be alive.
#[derive(Debug)]
struct Foreign {
    incarnation: Incarnation,
    /// Whether both it and this node could act for the cluster.
    conflict: bool,
    /// The first difference between the files, once it has told its own.
    difference: Option<String>,
    told_at: Option<Instant>,
    logged_at: Option<Instant>,
}

impl Foreign {
    fn new(incarnation: Incarnation) -> Self {
        Self {
            incarnation,
            conflict: false,
            difference: None,
            told_at: None,
            logged_at: None,
        }
    }

    /// Whether a line about it is due: what it says can change with each of its packets.
    fn is_line_due(&mut self, now: Instant) -> bool {
        let is_due = self.logged_at.is_none_or(|at| now.since(at) >= LOG_MS);
        if is_due {
            self.logged_at = Some(now);
        }
        is_due
    }
}

/// All that is known of other files.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// Senders outside the file.
    lives: BTreeMap<Sender, Life>,
    /// Nodes that go by another file, listed in this one or not.
    foreign: BTreeMap<(NodeId, SocketAddr), Foreign>,
    /// Lives that an operator decided to go on beside.
    accepted: BTreeSet<Incarnation>,
    /// Members of the view that stopped for a conflict of their own.
    stopped: BTreeSet<NodeId>,
    /// The second that is counted, and packets opened in it.
    opened: (Instant, u32),
    /// What was last said about founding.
    told: Option<String>,
}

impl Strangers {
    /// Whether one more packet from outside the file may be looked at in this second.
    pub(super) fn may_open(&mut self, now: Instant) -> bool {
        if now.since(self.opened.0) >= 1000 {
            self.opened = (now, 0);
        }
        self.opened.1 += 1;
        self.opened.1 <= OPENED_PER_SECOND
    }

    /// The life of a sender; the one that was not heard for longest makes room.
    fn life(&mut self, sender: Sender, new: impl FnOnce() -> Life) -> &mut Life {
        if !self.lives.contains_key(&sender) && self.lives.len() >= LIMIT {
            let oldest = self.lives.iter().min_by_key(|(_, life)| life.came_at);
            if let Some(oldest) = oldest.map(|(sender, _)| *sender) {
                self.lives.remove(&oldest);
            }
        }
        self.lives.entry(sender).or_insert_with(new)
    }

    fn is_accepted(&self, foreign: &Foreign) -> bool {
        self.accepted.contains(&foreign.incarnation)
    }
}

impl Core {
    /// A packet whose sender or receiver is not what this node's file says. Never a message of the
    /// cluster; at most it shows that there is another file.
    pub(super) fn open_strange(
        &mut self,
        now: Instant,
        from: SocketAddr,
        header: &Header,
        datagram: &[u8],
        fx: &mut dyn Sink,
    ) -> Drop {
        if !self.strangers.may_open(now) {
            return Drop::Unlisted;
        }
        let key = self.keys.key(header.from, header.incarnation);
        let body = match self.keys.open(&key, header, datagram) {
            Ok(body) => body,
            Err(reason) => return reason,
        };
        let sender = (from, header.from, header.incarnation);
        let life = self
            .strangers
            .life(sender, || Life::new(header.incarnation, key));
        if let Err(reason) = life.replay.accept(header.counter) {
            return reason;
        }
        life.came_at = now;
        let Ok(message) = life.assembly.take(&body) else {
            return Drop::Malformed;
        };
        match message.map(|bytes| Message::decode(&bytes)) {
            None => {}
            Some(Err(_)) => return Drop::Malformed,
            Some(Ok(Message::Heartbeat(beat))) => {
                life.time = life.time.max(beat.time);
                if self.proves_life(now, &beat) {
                    self.meet(now, sender, &beat, fx);
                }
            }
            Some(Ok(Message::File { summary })) => {
                self.compare_files(now, from, header, &summary, fx)
            }
            Some(Ok(_)) => {}
        }
        if self.peers.contains_key(&header.from) {
            Drop::NotForUs
        } else {
            Drop::UnknownNode
        }
    }

    /// A node that goes by another file is alive.
    pub(super) fn meet(
        &mut self,
        now: Instant,
        (address, node, incarnation): Sender,
        beat: &Heartbeat,
        fx: &mut dyn Sink,
    ) {
        let conflict = beat.quorate && self.acts(now);
        let strangers = &mut self.strangers;
        let known = strangers.foreign.contains_key(&(node, address));
        if !known && strangers.foreign.len() >= LIMIT {
            return;
        }
        let place = strangers.foreign.entry((node, address));
        let foreign = place.or_insert_with(|| Foreign::new(incarnation));
        if foreign.incarnation != incarnation {
            let logged_at = foreign.logged_at;
            *foreign = Foreign {
                logged_at,
                ..Foreign::new(incarnation)
            };
        }
        let begins = conflict && !foreign.conflict && !strangers.accepted.contains(&incarnation);
        foreign.conflict = (foreign.conflict || begins) && beat.quorate;
        let log_it = (begins || !known) && foreign.is_line_due(now);
        let tell = foreign.told_at.is_none_or(|at| now.since(at) >= TELL_MS);
        if tell {
            foreign.told_at = Some(now);
            let summary = self.config.summary();
            self.post_to(node, address, &Message::File { summary }, fx);
        }
        if log_it {
            let who = self.describe_foreign(node, address);
            let text = if begins {
                format!(
                    "{who} can act for the cluster too; both stop until an operator ends one side, \
                     or says `cman_tool config accept` on this node"
                )
            } else {
                format!("{who}; it is not taken in")
            };
            log(fx, Level::Warn, text);
        }
    }

    /// A listed node goes by the same file as this one.
    pub(super) fn agree(&mut self, node: NodeId, address: SocketAddr) {
        self.strangers.foreign.remove(&(node, address));
    }

    /// What a node that goes by another file says is in it.
    pub(super) fn compare_files(
        &mut self,
        now: Instant,
        from: SocketAddr,
        header: &Header,
        summary: &FileSummary,
        fx: &mut dyn Sink,
    ) {
        let difference = difference(&self.config, header.to, summary);
        let place = (header.from, from);
        let Some(foreign) = self.strangers.foreign.get_mut(&place) else {
            return;
        };
        if foreign.incarnation != header.incarnation
            || foreign.difference.as_ref() == Some(&difference)
        {
            return;
        }
        // The first that it says is worth a line beside the one that it was met.
        let is_first = foreign.difference.replace(difference).is_none();
        if !foreign.is_line_due(now) && !is_first {
            return;
        }
        let who = self.describe_foreign(header.from, from);
        log(fx, Level::Warn, who);
    }

    /// A member of this node's view says whether it stopped for a conflict.
    pub(super) fn note_stopped(&mut self, node: NodeId, stopped: bool) {
        if stopped {
            self.strangers.stopped.insert(node);
        } else {
            self.strangers.stopped.remove(&node);
        }
    }

    /// Whether this node itself hears somebody with another file who can act, too.
    pub(super) fn has_conflict(&self) -> bool {
        self.strangers
            .foreign
            .values()
            .any(|foreign| foreign.conflict)
    }

    /// Why this node must not act although it has the votes.
    pub(super) fn conflict(&self) -> Option<String> {
        let strangers = &self.strangers;
        let own = strangers
            .foreign
            .iter()
            .find(|(_, foreign)| foreign.conflict);
        let remedy = "end one side, or say `cman_tool config accept` on";
        if let Some(((node, address), _)) = own {
            let who = self.describe_foreign(*node, *address);
            return Some(format!("{who}, and can act too; {remedy} this node"));
        }
        let node = strangers.stopped.first()?;
        let name = self.config.name(*node);
        Some(format!(
            "{name} has met a node with another configuration that can act too; {remedy} {name} \
             and this node"
        ))
    }

    /// Whether this node may be of those that found the first view of a cluster.
    ///
    /// # Errors
    /// Why not, for the operator.
    pub(super) fn may_found(&self, now: Instant) -> Result<(), String> {
        match self.remembered {
            RememberedConfig::Nothing => {}
            RememberedConfig::Digest(digest) if digest == self.digest => {}
            RememberedConfig::Digest(_) => {
                return Err(
                    "this node's configuration is not the one of the last quorate view it \
                     was in: it waits for a view that takes it in; where there is none any more, \
                     say `cman_tool config accept`"
                        .to_owned(),
                );
            }
            RememberedConfig::Unreadable => {
                return Err(
                    "what this node kept of its last view makes no sense: it waits for a \
                     view that takes it in; where there is none any more, say \
                     `cman_tool config accept`"
                        .to_owned(),
                );
            }
        }
        let strangers = &self.strangers;
        let mut foreign = strangers.foreign.iter();
        if let Some(((node, address), _)) = foreign.find(|(_, one)| !strangers.is_accepted(one)) {
            let who = self.describe_foreign(*node, *address);
            return Err(format!(
                "{who}: no view is founded beside it; where it is gone for good, say \
                 `cman_tool config accept`"
            ));
        }
        let patience_ms = self.config.detection_ms * 2;
        let unproven = strangers.lives.values().any(|life| {
            now.since(life.came_at) < self.config.detection_ms
                && !strangers.accepted.contains(&life.incarnation)
        });
        if unproven && now.since(self.born) < patience_ms {
            return Err(
                "a node that is not in this node's file sends packets of this cluster".to_owned(),
            );
        }
        Ok(())
    }

    /// Says why no view is founded, when that changes.
    pub(super) fn tell_founding(&mut self, now: Instant, fx: &mut dyn Sink) {
        let reason = match self.view {
            None => self.may_found(now).err(),
            Some(_) => None,
        };
        if reason != self.strangers.told {
            if let Some(text) = &reason {
                log(fx, Level::Warn, format!("founding no view: {text}"));
            }
            self.strangers.told = reason;
        }
    }

    /// The senders outside the file that are answered with heartbeats, and what is carried back.
    pub(super) fn answered(&mut self, now: Instant) -> Vec<(NodeId, SocketAddr, Incarnation, u64)> {
        let detection_ms = self.config.detection_ms;
        let lives = &mut self.strangers.lives;
        lives.retain(|_, life| now.since(life.came_at) < detection_ms);
        let answer = lives.iter().filter(|(_, life)| life.time > 0);
        answer
            .map(|((address, node, life), known)| (*node, *address, *life, known.time))
            .collect()
    }

    /// An operator decided that this node's present file is the cluster's: it founds views with it,
    /// and goes on beside the nodes with another one that it hears now. Answers who these are.
    pub fn accept_config(&mut self, now: Instant, fx: &mut dyn Sink) -> Vec<String> {
        let places: Vec<_> = self.strangers.foreign.keys().copied().collect();
        let beside = places
            .into_iter()
            .map(|(node, address)| self.describe_foreign(node, address))
            .collect();
        let strangers = &mut self.strangers;
        for foreign in strangers.foreign.values_mut() {
            foreign.conflict = false;
            strangers.accepted.insert(foreign.incarnation);
        }
        while strangers.accepted.len() > LIMIT {
            strangers.accepted.pop_first();
        }
        strangers.stopped.clear();
        log(
            fx,
            Level::Warn,
            "an operator accepted this node's configuration".to_owned(),
        );
        self.remember_config(fx);
        self.changed = true;
        self.settle(now, fx);
        beside
    }

    /// This node's file is that of a quorate view.
    pub(super) fn remember_config(&mut self, fx: &mut dyn Sink) {
        let digest = RememberedConfig::Digest(self.digest);
        if self.remembered != digest {
            self.remembered = digest;
            self.remember(fx);
        }
    }

    pub(super) fn remember(&self, fx: &mut dyn Sink) {
        fx.push(Effect::Remember {
            view_floor: self.floor,
            config: self.remembered,
        });
    }

    /// A sentence about each node with another file that was met.
    pub(super) fn foreign_nodes(&self) -> Vec<String> {
        let places = self.strangers.foreign.keys();
        places
            .map(|(node, address)| self.describe_foreign(*node, *address))
            .collect()
    }

    fn describe_foreign(&self, node: NodeId, address: SocketAddr) -> String {
        let listed = self
            .peers
            .get(&node)
            .is_some_and(|peer| peer.address == address);
        let who = if listed {
            format!("{} has another configuration", self.config.name(node))
        } else {
            format!(
                "node {node} at {} is of this cluster and not in this node's file",
                address.ip()
            )
        };
        let foreign = self.strangers.foreign.get(&(node, address));
        match foreign.and_then(|foreign| foreign.difference.as_ref()) {
            Some(difference) => format!("{who}: {difference}"),
            None => who,
        }
    }
}

/// The first thing in which this node's file and another one differ. `me` is which node the other
/// file has for this one.
fn difference(ours: &Config, me: NodeId, theirs: &FileSummary) -> String {
    if me != ours.node {
        return format!(
            "its file has node {me} at this node's address, which is node {} here",
            ours.node
        );
    }
    let own = ours.summary();
    for (node, votes) in &own.nodes {
        match theirs.nodes.iter().find(|(other, _)| other == node) {
            None => return format!("node {node} is not in its file"),
            Some((_, other)) if other != votes => {
                return format!("node {node} has {other} votes in its file, {votes} here");
            }
            Some(_) => {}
        }
    }
    let listed = |node: &NodeId| ours.nodes.contains_key(node);
    if let Some((node, _)) = theirs.nodes.iter().find(|(node, _)| !listed(node)) {
        return format!("node {node} is in its file only");
    }
    if theirs.expected_votes != own.expected_votes {
        return format!(
            "expected_votes is {} in its file, {} here",
            theirs.expected_votes, own.expected_votes
        );
    }
    if theirs.detection_ms != own.detection_ms {
        return format!(
            "detection_ms is {} in its file, {} here",
            theirs.detection_ms, own.detection_ms
        );
    }
    "the addresses of nodes differ".to_owned()
}
