// SPDX-License-Identifier: GPL-2.0-only
//! Packets and heartbeats: who is there, in which life, and who was not.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::Core;
use super::Standing;
use super::log;
use crate::Effect;
use crate::Incarnation;
use crate::Instant;
use crate::Level;
use crate::NodeId;
use crate::Sink;
use crate::peer::Life;
use crate::peer::Peer;
use crate::peer::Rival;
use crate::seal::Drop;
use crate::seal::Header;
use crate::seal::Key;
use crate::wire::Heartbeat;
use crate::wire::Message;
use crate::wire::NUMBER_JUMP;

/// While two lives of a node are heard, every which heartbeat carries back the second one's.
const RIVAL_BEATS: u64 = 4;

/// A second holder of an id is told so at most this often.
const REFUSE_MS: u64 = 1000;

impl Core {
    /// The message that a datagram completes, if it is authentic and of a life
    /// that counts.
    pub(super) fn open(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        fx: &mut dyn Sink,
    ) -> Result<Option<(NodeId, Message)>, Drop> {
        let header = self.keys.claim(datagram)?;
        let peer = self.peers.get(&header.from);
        let Some(peer) = peer.filter(|_| header.to == self.config.node) else {
            return Err(self.open_strange(now, from, &header, datagram, fx));
        };
        let address = peer.address;
        if from != address && !self.strangers.may_open(now) {
            return Err(Drop::Unlisted);
        }
        let known = peer.known(header.incarnation).map(|life| life.key.clone());
        let key = known.unwrap_or_else(|| self.keys.key(header.from, header.incarnation));
        let body = self.keys.open(&key, &header, datagram)?;
        if from != address {
            self.refuse_address(now, &header, from, fx);
            return Err(Drop::WrongAddress);
        }
        let message = self.assemble(&header, key, &body)?;
        let Some(message) = message else {
            return Ok(None);
        };
        let message = Message::decode(&message).map_err(|_| Drop::Malformed)?;
        if let Message::File { summary } = &message {
            self.compare_files(now, from, &header, summary, fx);
        }
        if self.is_rival(&header) {
            return self.handle_rival(now, &header, message, fx);
        }
        Ok(Some((header.from, message)))
    }

    /// The life a packet is of, made known if it is new, and its message if whole.
    fn assemble(
        &mut self,
        header: &Header,
        key: Key,
        body: &[u8],
    ) -> Result<Option<Vec<u8>>, Drop> {
        let peer = self.peers.get_mut(&header.from).ok_or(Drop::UnknownNode)?;
        if peer.retired.contains(&header.incarnation) {
            return Err(Drop::Retired);
        }
        let life = life_of(peer, header.incarnation, key);
        life.replay.accept(header.counter)?;
        life.assembly.take(body).map_err(|_| Drop::Malformed)
    }

    fn is_rival(&self, header: &Header) -> bool {
        let rival = self
            .peers
            .get(&header.from)
            .and_then(|peer| peer.rival.as_ref());
        rival.is_some_and(|rival| rival.life.incarnation == header.incarnation)
    }

    /// A second life of a known node. If the known one goes on living, the second
    /// is refused; if it falls silent, the node has started again.
    fn handle_rival(
        &mut self,
        now: Instant,
        header: &Header,
        message: Message,
        fx: &mut dyn Sink,
    ) -> Result<Option<(NodeId, Message)>, Drop> {
        let Message::Heartbeat(beat) = message else {
            return Err(Drop::Rival);
        };
        let proven = self.proves_life(now, &beat);
        if proven {
            self.answer_probes(header.from, &beat, fx);
            self.note_returned(now, (header.from, header.incarnation), &beat, fx);
        }
        let patience_ms = self.config.interval_ms() * 2;
        let detection_ms = self.config.detection_ms;
        let Some(peer) = self.peers.get_mut(&header.from) else {
            return Err(Drop::UnknownNode);
        };
        let known_is_heard = peer.heard(now, detection_ms).is_some();
        let Some(rival) = &mut peer.rival else {
            return Err(Drop::Rival);
        };
        rival.life.time = beat.time;
        rival.life.came_at = now;
        if !proven {
            return Err(Drop::Rival);
        }
        let since = *rival.heard_since.get_or_insert(now);
        if rival.both && known_is_heard {
            let address = peer.address;
            self.refuse(
                now,
                header,
                address,
                "another machine with this id and address",
                fx,
            );
            return Err(Drop::Rival);
        }
        if known_is_heard && now.since(since) < patience_ms {
            return Err(Drop::Rival);
        }
        let text = format!(
            "node started again: node={} life={}",
            header.from, header.incarnation
        );
        log(fx, Level::Info, text);
        peer.promote_rival();
        Ok(Some((header.from, Message::Heartbeat(beat))))
    }

    fn incarnation_of(&self, node: NodeId) -> Option<Incarnation> {
        let life = self.peers.get(&node)?.life.as_ref()?;
        Some(life.incarnation)
    }

    /// Whether a heartbeat was made after a recent heartbeat of this life of ours.
    pub(super) fn proves_life(&self, now: Instant, beat: &Heartbeat) -> bool {
        let (incarnation, time) = beat.echo;
        incarnation == self.config.incarnation
            && now.since(Instant(time)) < self.config.detection_ms
    }

    /// Tells a node at a wrong address why nobody answers it.
    fn refuse_address(
        &mut self,
        now: Instant,
        header: &Header,
        from: SocketAddr,
        fx: &mut dyn Sink,
    ) {
        self.refuse(now, header, from, "its configured address", fx);
    }

    fn refuse(
        &mut self,
        now: Instant,
        header: &Header,
        to: SocketAddr,
        what: &str,
        fx: &mut dyn Sink,
    ) {
        let Some(peer) = self.peers.get_mut(&header.from) else {
            return;
        };
        if peer.refused_at.is_some_and(|at| now.since(at) < REFUSE_MS) {
            return;
        }
        peer.refused_at = Some(now);
        let holder = match peer.life.as_ref() {
            Some(life) => format!("in use by {} (life {})", peer.address, life.incarnation),
            None => format!("configured for {}", peer.address),
        };
        let text = format!(
            "node id {} is {holder}; this node came from {to}: give it an id of its own, \
             or {what}",
            header.from
        );
        log(fx, Level::Warn, format!("refused a node: {text}"));
        let incarnation = header.incarnation;
        self.post_to(header.from, to, &Message::Refuse { incarnation, text }, fx);
    }

    pub(super) fn handle_refuse(
        &mut self,
        from: NodeId,
        incarnation: Incarnation,
        text: &str,
        fx: &mut dyn Sink,
    ) {
        // A member is never talked out of its view.
        if incarnation != self.config.incarnation || self.standing != Standing::Joining {
            return;
        }
        self.standing = Standing::Refused;
        let reason = format!("{} says: {text}", self.config.name(from));
        fx.push(Effect::Refused { reason });
    }

    pub(super) fn handle_heartbeat(
        &mut self,
        now: Instant,
        from: NodeId,
        beat: Heartbeat,
        fx: &mut dyn Sink,
    ) {
        let proven = self.proves_life(now, &beat);
        if proven {
            self.answer_probes(from, &beat, fx);
            if let Some(incarnation) = self.incarnation_of(from) {
                self.note_returned(now, (from, incarnation), &beat, fx);
            }
        }
        let digest = self.digest;
        let (detection_ms, late_ms) = (self.config.detection_ms, self.config.late_ms());
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        let address = peer.address;
        let Some(life) = &mut peer.life else {
            return;
        };
        let incarnation = life.incarnation;
        if beat.time >= life.time {
            life.time = beat.time;
            life.came_at = now;
        }
        if !proven {
            return self.count("heartbeats_unproven");
        }
        peer.other_config = beat.config != digest;
        if peer.other_config {
            self.changed = true;
            self.meet(now, (address, from, incarnation), &beat, fx);
            return self.count(Drop::OtherConfig.name());
        }
        let silent_ms = life.hear(now, detection_ms);
        if (late_ms..detection_ms).contains(&silent_ms) {
            let text = format!("node late: node={from} silent_ms={silent_ms} of={detection_ms}");
            log(fx, Level::Warn, text);
        }
        if !beat.blocked {
            life.blocked_since = None;
        } else if life.blocked_since.is_none() {
            life.blocked_since = Some(now);
        }
        if let Some(rival) = &mut peer.rival {
            // An answer to what we sent after the rival appeared: both live.
            rival.both |= rival
                .heard_since
                .is_some_and(|since| Instant(beat.echo.1) >= since);
        }
        let before = life.beat.replace(beat.clone());
        let boot = beat.boot;
        let same = before.is_some_and(|before| before.calls_for_the_same(&beat));
        self.changed |= !same || !peer.was_heard || silent_ms >= late_ms;
        self.log_kept_out(from, boot, fx);
        self.agree(from, address);
        if beat.view.is_some() && beat.view == self.view_id() {
            self.note_stopped(from, beat.stopped);
        }
        self.take_round(beat.round);
        let mut out = Vec::new();
        if let Some(installed) = &mut self.view
            && beat.view == Some(installed.value.id)
        {
            let order = &mut installed.order;
            order.take_heartbeat(from, beat.received, beat.stable, now, &mut out);
        }
        self.post_all(out, fx);
        self.compare_views(now, from, &beat, fx);
    }

    /// Somebody has seen this round. `false`: so far ahead that it was made up; nothing follows.
    pub(super) fn take_round(&mut self, round: u64) -> bool {
        if round > self.round.saturating_add(NUMBER_JUMP) {
            self.count("absurd_rounds");
            return false;
        }
        self.round = self.round.max(round);
        true
    }

    pub(super) fn send_heartbeats(&mut self, now: Instant, fx: &mut dyn Sink) {
        self.tell_founding(now, fx);
        let detection_ms = self.config.detection_ms;
        let heard: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.heard(now, detection_ms).is_some())
            .filter(|(node, peer)| !self.is_kept_out(**node, peer))
            .map(|(node, _)| *node)
            .collect();
        let order = self.view.as_ref().map(|installed| &installed.order);
        let beat = Heartbeat {
            boot: self.config.boot,
            config: self.digest,
            time: now.0,
            echo: (Incarnation(0), 0),
            view: self.view_id(),
            quorate: self.acts(now),
            stopped: self.has_conflict(),
            founds: self.may_found(now).is_ok(),
            member: false,
            blocked: self.acceptor.blocked,
            joining: self.standing == Standing::Joining,
            round: self.round,
            heard,
            received: order.map_or(0, super::Order::received),
            stable: order.map_or(0, super::Order::stable),
        };
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        for (node, address, incarnation, time) in self.answered(now) {
            let mut beat = beat.clone();
            beat.echo = (incarnation, time);
            self.post_to(node, address, &Message::Heartbeat(beat), fx);
        }
        self.beats = self.beats.wrapping_add(1);
        let is_rivals = self.beats.is_multiple_of(RIVAL_BEATS);
        let recent_ms = self.config.interval_ms() * 2;
        for node in nodes {
            let mut beat = beat.clone();
            let peer = self.peers.get(&node);
            let life = peer.and_then(|peer| echoed(peer, is_rivals, now, recent_ms));
            if let Some(life) = life {
                beat.echo = (life.incarnation, life.time);
                let has = |value: &crate::wire::Value| value.has(node, life.incarnation);
                beat.member = self.view.as_ref().is_some_and(|view| has(&view.value));
            }
            self.post(node, &Message::Heartbeat(beat), fx);
        }
    }

    /// When this node itself was not scheduled, nobody is accused for the time it
    /// did not listen: everybody gets as long again as makes a node late. Most often
    /// a host has paused several nodes, and they do not go on at the same moment.
    pub(super) fn notice_pause(&mut self, now: Instant, fx: &mut dyn Sink) {
        let paused = now.since(self.input_at);
        self.input_at = now;
        let detection_ms = self.config.detection_ms;
        self.longest_pause_ms = self.longest_pause_ms.max(now.since(self.beat_at));
        if paused < detection_ms / 2 {
            return;
        }
        self.count("pauses");
        log(
            fx,
            Level::Warn,
            format!("this node was not scheduled: paused_ms={paused}"),
        );
        let grace = Instant((now.0 + self.config.late_ms()).saturating_sub(detection_ms));
        for peer in self.peers.values_mut() {
            let heard = peer.was_heard;
            if let Some(life) = peer.life.as_mut().filter(|_| heard) {
                life.blocked_since = life.blocked_since.map(|_| now);
                // Once: a node that pauses again and again finds out in the end, too.
                if !std::mem::replace(&mut life.has_grace, true) {
                    life.heard_at = life.heard_at.map(|at| at.max(grace));
                }
            }
        }
        self.begin_probes_again(now);
        self.acceptor.promised_at = now;
        self.settling = None;
        self.outvoted_since = None;
        self.proposer.begin_again(now);
    }

    /// Forgets what lives proved to the life of this node that ends.
    pub(super) fn forget_proofs(&mut self) {
        for peer in self.peers.values_mut() {
            if let Some(life) = &mut peer.life {
                life.heard_at = None;
                life.beat = None;
                life.blocked_since = None;
            }
        }
        self.waiting = VecDeque::new();
    }
}

/// The life whose newest heartbeat is carried back: the known one while it is at it; every
/// [`RIVAL_BEATS`]th time, and once the known one is silent, the one heard last. A recording of an
/// earlier life that is played without end then costs the living one a quarter of its proofs, and a
/// node that started again waits for three heartbeats.
fn echoed(peer: &Peer, is_rivals: bool, now: Instant, recent_ms: u64) -> Option<&Life> {
    let rival = peer.rival.as_ref().map(|rival| &rival.life);
    match (peer.life.as_ref(), rival) {
        (Some(life), Some(rival)) if rival.came_at >= life.came_at => {
            let is_silent = now.since(life.came_at) > recent_ms;
            Some(if is_rivals || is_silent { rival } else { life })
        }
        (life, _) => life,
    }
}

/// The life of a peer with this incarnation. The first one seen is taken for the
/// node's; another beside it is a rival until it proves to be alive.
fn life_of(peer: &mut Peer, incarnation: Incarnation, key: Key) -> &mut Life {
    let life = peer
        .life
        .get_or_insert_with(|| Life::new(incarnation, key.clone()));
    if life.incarnation == incarnation {
        return life;
    }
    let other = |rival: &Rival| rival.life.incarnation != incarnation;
    if peer.rival.as_ref().is_some_and(other) {
        peer.rival = None;
    }
    let rival = peer.rival.get_or_insert_with(|| Rival {
        life: Life::new(incarnation, key),
        heard_since: None,
        both: false,
    });
    &mut rival.life
}
