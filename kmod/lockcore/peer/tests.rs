// SPDX-License-Identifier: GPL-2.0-only
//! Two peers and the connections between them, which break all the time.

use super::*;
use crate::lockcore::framer::Framer;
use crate::lockcore::wire::message::{Message, MessageKind};
use crate::platform::fail;

struct Noise(u64);

impl Noise {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit
    }
}

#[derive(Default)]
struct Fx {
    out: Vec<u8>,
    delivered: Vec<Vec<u8>>,
    closed: u32,
}

impl PeerEffects for Fx {
    fn transmit(&mut self, packet: &[u8]) {
        self.out.extend_from_slice(packet);
    }
    fn closed(&mut self) {
        self.closed += 1;
    }
}

/// Gives a packet to `peer`, and notes what is to be delivered.
fn receive(peer: &mut Peer, now_ms: u64, packet: &[u8], fx: &mut Fx) {
    let delivered = peer.receive(now_ms, packet, fx);
    fx.delivered.extend(delivered.map(<[u8]>::to_vec));
}

/// One connection, as its reader sees it.
struct Stream {
    bytes: std::collections::VecDeque<u8>,
    framer: Framer,
}

struct Side {
    peer: Peer,
    fx: Fx,
    /// Connections the other side has made, oldest first. An old one may still be read from.
    incoming: Vec<Stream>,
    is_connected: bool,
    sent: u32,
    got: u32,
}

fn message(node: u32, number: u32, size: usize) -> Vec<u8> {
    let extra = vec![number as u8; size];
    let message = Message {
        pid: number,
        extra: &extra,
        ..Message::new(MessageKind::Convert)
    };
    message.encode(9, NodeId(node)).parts().concat()
}

fn status(node: u32) -> Vec<u8> {
    let status = Rcom {
        kind: RcomKind::Status,
        result: 0,
        id: 1,
        seq: 1,
        seq_reply: 0,
        payload: &[0; 16],
    };
    status.encode(9, NodeId(node)).unwrap().to_vec()
}

impl Side {
    fn new(own: u32, node: u32) -> Self {
        let mut peer = Peer::new(NodeId(own), NodeId(node));
        peer.member_added(0);
        Side {
            peer,
            fx: Fx::default(),
            incoming: Vec::new(),
            is_connected: false,
            sent: 0,
            got: 0,
        }
    }

    fn send(&mut self, now_ms: u64, size: usize) {
        let own = self.peer.own.0;
        let packet = message(own, self.sent, size);
        if self.peer.send(now_ms, &packet, true, &mut self.fx).is_ok() {
            self.sent += 1;
        }
    }

    /// What was delivered must be what the other side has sent, once and in order.
    fn check(&mut self) {
        for packet in self.fx.delivered.drain(..) {
            if let Some(message) = Message::decode(&packet) {
                assert_eq!(message.pid, self.got, "lost, doubled or out of order");
                assert!(message.extra.iter().all(|byte| *byte == message.pid as u8));
                self.got += 1;
            }
        }
    }
}

struct Pair {
    now_ms: u64,
    sides: [Side; 2],
}

impl Pair {
    fn new() -> Self {
        Pair {
            now_ms: 1_000,
            sides: [Side::new(1, 2), Side::new(2, 1)],
        }
    }

    fn both(&mut self, from: usize) -> (&mut Side, &mut Side) {
        let [a, b] = &mut self.sides;
        if from == 0 {
            (a, b)
        } else {
            (b, a)
        }
    }

    /// Moves what a side has put on its connection to the other one.
    fn flush(&mut self, from: usize) {
        let (side, other) = self.both(from);
        let out = core::mem::take(&mut side.fx.out);
        match other.incoming.last_mut() {
            Some(stream) if side.is_connected => stream.bytes.extend(out),
            Some(_) | None => assert!(out.is_empty(), "sent without a connection"),
        }
    }

    fn connect(&mut self, from: usize) {
        let now_ms = self.now_ms;
        let (side, other) = self.both(from);
        if !side.is_connected {
            side.is_connected = true;
            other.incoming.push(Stream {
                bytes: Default::default(),
                framer: Framer::new().unwrap(),
            });
            side.peer.connected(now_ms, &mut side.fx);
            self.flush(from);
        }
    }

    /// Breaks a connection: what is under way may arrive in part.
    fn cut(&mut self, from: usize, noise: &mut Noise) {
        let (side, other) = self.both(from);
        if side.is_connected {
            side.is_connected = false;
            side.peer.disconnected();
            let stream = other.incoming.last_mut().unwrap();
            let left = noise.below(stream.bytes.len() + 1);
            stream.bytes.truncate(left);
        }
    }

    /// Reads some bytes of one of the connections to `to`.
    fn read(&mut self, to: usize, pick: usize, count: usize) {
        let now_ms = self.now_ms;
        let side = &mut self.sides[to];
        if side.incoming.is_empty() {
            return;
        }
        let pick = pick % side.incoming.len();
        let stream = &mut side.incoming[pick];
        let space = stream.framer.space();
        let count = count.min(stream.bytes.len()).min(space.len());
        for (room, byte) in space.iter_mut().zip(stream.bytes.drain(..count)) {
            *room = byte;
        }
        stream.framer.filled(count);
        while let Some(packet) = stream.framer.next_packet().unwrap() {
            receive(&mut side.peer, now_ms, packet, &mut side.fx);
        }
        if pick + 1 < side.incoming.len() && side.incoming[pick].bytes.is_empty() {
            side.incoming.remove(pick);
        }
        side.check();
        self.flush(to);
    }

    fn timeouts(&mut self) {
        for at in 0..2 {
            if self.timeouts_of(at) {
                self.flush(at);
            }
        }
    }

    fn timeouts_of(&mut self, at: usize) -> bool {
        let (now_ms, side) = (self.now_ms, &mut self.sides[at]);
        let is_due = side.peer.next_timeout().is_some_and(|due| due <= now_ms);
        if is_due {
            side.peer.handle_timeout(now_ms, &mut side.fx);
        }
        is_due
    }

    /// No more faults: everything arrives.
    fn settle(&mut self) {
        for at in 0..2 {
            self.connect(at);
        }
        for _ in 0..10_000 {
            self.now_ms += 20;
            self.timeouts();
            for to in 0..2 {
                for pick in 0..self.sides[to].incoming.len() {
                    self.read(to, pick, 5_000);
                }
            }
        }
    }

    fn assert_all_arrived(&self) {
        let [a, b] = &self.sides;
        assert_eq!((a.got, b.got), (b.sent, a.sent));
        assert_eq!((a.peer.unacked(), b.peer.unacked()), (0, 0));
        assert_eq!((a.peer.kept_bytes, b.peer.kept_bytes), (0, 0));
    }

    /// Each shows the other its version.
    fn greet(&mut self) {
        for at in 0..2 {
            let packet = status(at as u32 + 1);
            let (now_ms, side) = (self.now_ms, &mut self.sides[at]);
            side.peer
                .send(now_ms, &packet, false, &mut side.fx)
                .unwrap();
            self.flush(at);
        }
    }

    fn drain(&mut self) {
        for _ in 0..50 {
            for to in 0..2 {
                for pick in (0..self.sides[to].incoming.len()).rev() {
                    self.read(to, pick, 16_000);
                }
            }
        }
    }
}

/// Runs until `cuts` connections were broken.
fn storm(seed: u64, cuts: u32, memory_failures: bool) -> Pair {
    let mut noise = Noise(seed);
    let mut pair = Pair::new();
    let start = (noise.below(200) as u32).wrapping_neg();
    pair.sides[0].peer.start_at(start, 7);
    pair.sides[1].peer.start_at(7, start);
    let mut done = 0;
    pair.greet();
    while done < cuts {
        pair.now_ms += noise.below(8) as u64;
        let at = noise.below(2);
        if memory_failures {
            fail::one_in(20, seed + u64::from(done));
        }
        match noise.below(100) {
            0..=29 => {
                let size = if noise.below(10) == 0 {
                    3_900
                } else {
                    noise.below(70)
                };
                let now_ms = pair.now_ms;
                pair.sides[at].send(now_ms, size);
                pair.flush(at);
            }
            30..=69 => {
                let (pick, count) = (noise.below(8), noise.below(6_000));
                fail::after(None);
                pair.read(at, pick, count);
            }
            70..=79 => pair.timeouts(),
            80..=89 => {
                fail::after(None);
                pair.connect(at);
            }
            _ => {
                if pair.sides[at].is_connected {
                    done += 1;
                }
                pair.cut(at, &mut noise);
            }
        }
        fail::after(None);
    }
    pair.settle();
    pair
}

#[test]
fn everything_arrives_once_and_in_order_over_ten_thousand_cuts() {
    for seed in 1..=10 {
        let pair = storm(seed, 1_000, seed % 2 == 0);
        pair.assert_all_arrived();
        let counts = pair.sides[0].peer.counts();
        assert!(
            counts.resent > 0 && counts.duplicates > 0,
            "the test does not test: {counts:?}"
        );
    }
}

#[test]
fn a_tail_lost_after_an_orderly_close_is_sent_again() {
    let mut pair = Pair::new();
    pair.connect(0);
    pair.connect(1);
    pair.greet();
    pair.drain();
    let now_ms = pair.now_ms;
    pair.sides[0].send(now_ms, 10);
    pair.flush(0);
    // The other side closes without having read it.
    pair.sides[1].incoming.clear();
    pair.sides[0].is_connected = false;
    pair.sides[0].peer.disconnected();
    assert!(pair.sides[0].peer.needs_connection());
    pair.connect(0);
    pair.drain();
    assert_eq!(pair.sides[1].got, 1);
}

#[test]
fn nothing_sequenced_leaves_before_the_version_is_known() {
    let mut pair = Pair::new();
    pair.connect(0);
    pair.connect(1);
    let now_ms = pair.now_ms;
    pair.sides[0].send(now_ms, 10);
    assert!(pair.sides[0].fx.out.is_empty());
    pair.greet();
    pair.drain();
    assert_eq!(pair.sides[1].got, 1);
}

#[test]
fn what_was_received_is_acknowledged_in_time() {
    let mut pair = Pair::new();
    pair.connect(0);
    pair.connect(1);
    pair.greet();
    pair.drain();
    let now_ms = pair.now_ms;
    pair.sides[0].send(now_ms, 10);
    pair.flush(0);
    pair.drain();
    assert_eq!(pair.sides[0].peer.unacked(), 1);
    assert_eq!(
        pair.sides[1].peer.next_timeout(),
        Some(now_ms + ACK_DELAY_MS)
    );
    pair.now_ms += ACK_DELAY_MS;
    pair.timeouts();
    pair.drain();
    assert_eq!(pair.sides[0].peer.unacked(), 0);
    assert_eq!(pair.sides[1].peer.next_timeout(), None);
}

#[test]
fn only_a_window_is_on_its_way_and_nothing_is_dropped() {
    let mut pair = Pair::new();
    pair.connect(0);
    pair.connect(1);
    pair.greet();
    pair.drain();
    let now_ms = pair.now_ms;
    for _ in 0..3 * WINDOW {
        pair.sides[0].send(now_ms, 3_900);
    }
    assert_eq!(pair.sides[0].peer.on_wire, WINDOW);
    assert!(pair.sides[0].peer.is_congested());
    pair.flush(0);
    pair.settle();
    pair.assert_all_arrived();
    assert!(!pair.sides[0].peer.is_congested());
}

fn established() -> Pair {
    let mut pair = Pair::new();
    pair.connect(0);
    pair.connect(1);
    pair.greet();
    pair.drain();
    pair
}

fn states(pair: &Pair) -> [PeerState; 2] {
    [pair.sides[0].peer.state(), pair.sides[1].peer.state()]
}

fn leave(pair: &mut Pair, at: usize) {
    let now_ms = pair.now_ms;
    let side = &mut pair.sides[at];
    side.peer.member_removed(now_ms, &mut side.fx);
    side.peer.shutdown(now_ms, &mut side.fx);
    pair.flush(at);
}

#[test]
fn one_ends_and_then_the_other() {
    use PeerState::{CloseWait, Closed, FinWait1, FinWait2};
    let mut pair = established();
    let now_ms = pair.now_ms;
    pair.sides[0].send(now_ms, 1);
    leave(&mut pair, 0);
    assert_eq!(pair.sides[0].peer.state(), FinWait1);
    pair.drain();
    assert_eq!(states(&pair), [FinWait2, CloseWait]);
    assert_eq!(pair.sides[1].got, 1, "what was sent before the end");
    pair.sides[1].send(now_ms, 1);
    pair.flush(1);
    let side = &mut pair.sides[1];
    side.peer.member_removed(now_ms, &mut side.fx);
    assert_eq!(side.peer.state(), PeerState::LastAck);
    pair.flush(1);
    pair.drain();
    assert_eq!(states(&pair), [Closed, Closed]);
    assert_eq!((pair.sides[0].got, pair.sides[0].fx.closed), (1, 1));
    // And again, from sequence 0.
    for side in &mut pair.sides {
        side.peer.member_added(0);
        (side.sent, side.got) = (0, 0);
    }
    pair.greet();
    pair.drain();
    pair.sides[0].send(now_ms, 1);
    pair.flush(0);
    pair.drain();
    assert_eq!(pair.sides[1].got, 1);
}

#[test]
fn a_peer_nobody_uses_ends_at_once() {
    let mut pair = established();
    let now_ms = pair.now_ms;
    let side = &mut pair.sides[1];
    side.peer.member_removed(now_ms, &mut side.fx);
    leave(&mut pair, 0);
    pair.drain();
    assert_eq!(states(&pair), [PeerState::Closed, PeerState::Closed]);
}

#[test]
fn both_end_at_once() {
    let mut pair = established();
    leave(&mut pair, 0);
    leave(&mut pair, 1);
    pair.drain();
    assert_eq!(states(&pair), [PeerState::Closed, PeerState::Closed]);
}

#[test]
fn an_end_without_answer_is_not_waited_for_and_not_forgotten() {
    let mut pair = established();
    let mut noise = Noise(7);
    pair.cut(0, &mut noise);
    pair.sides[1].incoming.clear();
    leave(&mut pair, 0);
    pair.now_ms += CLOSE_MS;
    pair.timeouts();
    pair.now_ms += CLOSE_MS;
    pair.timeouts();
    assert_eq!(pair.sides[0].fx.closed, 1, "said once");
    assert_eq!(pair.sides[0].peer.state(), PeerState::FinWait1);
    assert!(pair.sides[0].peer.needs_connection());
    pair.connect(0);
    pair.drain();
    assert_eq!(states(&pair), [PeerState::FinWait2, PeerState::CloseWait]);
}

/// A conversation that one side has ended while the other could not be reached, and has use for
/// again.
fn ended_unheard(noise: &mut Noise) -> Pair {
    let mut pair = established();
    let now_ms = pair.now_ms;
    for at in 0..2 {
        pair.sides[at].send(now_ms, 1);
        pair.flush(at);
    }
    pair.drain();
    for at in 0..2 {
        pair.cut(at, noise);
    }
    for side in &mut pair.sides {
        side.incoming.clear();
    }
    leave(&mut pair, 0);
    pair.sides[0].peer.rest();
    assert_eq!(pair.sides[0].peer.state(), PeerState::FinWait1);
    pair.sides[0].peer.member_added(now_ms);
    pair
}

#[test]
fn what_is_said_before_the_peer_knows_of_the_end_waits_for_the_next_conversation() {
    // Whether the other side still uses the peer, uses it no more, or uses it again.
    for users in [1, 0, 2] {
        let mut pair = ended_unheard(&mut Noise(11));
        let now_ms = pair.now_ms;
        if users != 1 {
            let side = &mut pair.sides[1];
            side.peer.member_removed(now_ms, &mut side.fx);
        }
        if users == 2 {
            pair.sides[1].peer.member_added(now_ms);
        }
        for _ in 0..3 {
            pair.sides[0].send(now_ms, 1);
        }
        pair.greet();
        for at in 0..2 {
            pair.connect(at);
        }
        pair.drain();
        assert_eq!(pair.sides[0].peer.state(), PeerState::Established);
        if users == 0 {
            pair.sides[1].peer.member_added(now_ms);
        }
        pair.greet();
        pair.drain();
        assert_eq!(states(&pair), [PeerState::Established; 2], "{users}");
        pair.sides[1].send(now_ms, 1);
        pair.flush(1);
        pair.settle();
        pair.assert_all_arrived();
    }
}

#[test]
fn both_sides_can_have_ended_unheard() {
    let mut pair = ended_unheard(&mut Noise(12));
    let now_ms = pair.now_ms;
    leave(&mut pair, 1);
    pair.sides[1].peer.rest();
    pair.sides[1].peer.member_added(now_ms);
    for at in 0..2 {
        pair.sides[at].send(now_ms, 1);
    }
    pair.greet();
    pair.settle();
    assert_eq!(states(&pair), [PeerState::Established; 2]);
    pair.assert_all_arrived();
}

#[test]
fn what_was_said_before_the_end_is_known_is_forgotten_with_who_said_it() {
    let mut pair = ended_unheard(&mut Noise(13));
    let now_ms = pair.now_ms;
    pair.sides[0].send(now_ms, 1);
    leave(&mut pair, 0);
    pair.sides[0].sent -= 1;
    pair.sides[0].peer.member_added(now_ms);
    pair.greet();
    pair.settle();
    pair.assert_all_arrived();
}

#[test]
fn a_peer_that_says_nothing_about_our_end_has_forgotten_the_conversation() {
    let mut pair = ended_unheard(&mut Noise(14));
    let now_ms = pair.now_ms;
    pair.sides[0].send(now_ms, 1);
    pair.greet();
    // Without a connection nothing is forgotten.
    pair.now_ms += 3 * CLOSE_MS;
    pair.timeouts();
    assert_eq!(pair.sides[0].peer.state(), PeerState::FinWait1);
    pair.now_ms += CLOSE_MS / 2;
    let side = &mut pair.sides[0];
    side.peer.connected(pair.now_ms, &mut side.fx);
    // Nothing of the next conversation comes before the end of this one.
    let out = side.fx.out.clone();
    let question = status(1);
    side.peer.send(0, &question, false, &mut side.fx).unwrap();
    assert_eq!(side.fx.out, out);
    pair.now_ms += CLOSE_MS - 1;
    pair.timeouts_of(0);
    assert_eq!(pair.sides[0].peer.state(), PeerState::FinWait1);
    pair.now_ms += 1;
    pair.timeouts_of(0);
    assert_eq!(pair.sides[0].peer.state(), PeerState::Established);
    let (now_ms, side) = (pair.now_ms, &mut pair.sides[0]);
    side.fx.out.clear();
    receive(&mut side.peer, now_ms, &status(2), &mut side.fx);
    let first = options::decode(&side.fx.out).unwrap();
    assert_eq!(first.seq, 0);
    assert_eq!(first.header.command, Command::Message);
}

#[test]
fn a_node_that_has_no_lockspace_has_not_begun_anew() {
    let mut pair = established();
    leave(&mut pair, 0);
    pair.drain();
    assert_eq!(states(&pair), [PeerState::FinWait2, PeerState::CloseWait]);
    let question = status(1);
    let answer = |result| {
        let reply = Rcom {
            kind: RcomKind::StatusReply,
            result,
            ..Rcom::decode(&question).unwrap()
        };
        reply.encode(9, NodeId(1)).unwrap().to_vec()
    };
    for (result, state) in [
        (NOT_READY, PeerState::CloseWait),
        (1, PeerState::Established),
    ] {
        let side = &mut pair.sides[1];
        receive(&mut side.peer, 0, &answer(result), &mut side.fx);
        assert_eq!(side.peer.state(), state);
    }
}

#[test]
fn an_end_that_was_heard_is_given_up() {
    let mut pair = established();
    leave(&mut pair, 0);
    pair.drain();
    pair.now_ms += CLOSE_MS;
    pair.timeouts();
    assert_eq!(pair.sides[0].peer.state(), PeerState::Closed);
    assert_eq!(pair.sides[0].fx.closed, 1);
    assert_eq!(pair.sides[0].peer.next_timeout(), None);
}

#[test]
fn an_end_whose_last_answer_was_lost_is_answered_again() {
    let mut pair = established();
    let mut noise = Noise(3);
    leave(&mut pair, 0);
    pair.drain();
    let now_ms = pair.now_ms;
    let side = &mut pair.sides[1];
    side.peer.member_removed(now_ms, &mut side.fx);
    pair.flush(1);
    pair.read(0, 0, 16_000);
    assert_eq!(pair.sides[0].peer.state(), PeerState::Closed);
    pair.sides[1].incoming.clear();
    pair.sides[0].is_connected = false;
    pair.sides[0].peer.disconnected();
    pair.cut(1, &mut noise);
    pair.connect(0);
    pair.connect(1);
    pair.drain();
    assert_eq!(states(&pair), [PeerState::Closed, PeerState::Closed]);
}

#[test]
fn a_peer_that_gave_up_waiting_for_our_end_and_is_back_is_understood() {
    let mut pair = established();
    let now_ms = pair.now_ms;
    pair.sides[0].send(now_ms, 1);
    leave(&mut pair, 0);
    pair.drain();
    pair.now_ms += CLOSE_MS;
    pair.timeouts();
    assert_eq!(states(&pair), [PeerState::Closed, PeerState::CloseWait]);
    pair.sides[1].send(now_ms, 1);
    pair.sides[0].peer.member_added(0);
    let (packet, side) = (status(1), &mut pair.sides[0]);
    side.peer
        .send(now_ms, &packet, false, &mut side.fx)
        .unwrap();
    pair.flush(0);
    pair.read(1, 0, 16_000);
    assert_eq!(
        states(&pair),
        [PeerState::Established, PeerState::Established]
    );
    assert_eq!(
        pair.sides[1].peer.unacked(),
        0,
        "what was for its former life"
    );
    for side in &mut pair.sides {
        side.fx.out.clear();
        side.incoming
            .iter_mut()
            .for_each(|stream| stream.bytes.clear());
        (side.sent, side.got) = (0, 0);
    }
    pair.greet();
    pair.drain();
    for at in 0..2 {
        pair.sides[at].send(now_ms, 1);
        pair.flush(at);
    }
    pair.drain();
    assert_eq!((pair.sides[0].got, pair.sides[1].got), (1, 1));
}

#[test]
fn a_new_incarnation_starts_anew() {
    let mut pair = established();
    let mut noise = Noise(5);
    let now_ms = pair.now_ms;
    pair.sides[0].send(now_ms, 1);
    pair.flush(0);
    pair.drain();
    pair.sides[0].send(now_ms, 1);
    // The other node starts again; this one is told.
    for at in 0..2 {
        pair.cut(at, &mut noise);
    }
    for side in &mut pair.sides {
        side.fx.out.clear();
        side.incoming.clear();
    }
    pair.sides[1] = Side::new(2, 1);
    pair.sides[0].peer.reset();
    assert_eq!(pair.sides[0].peer.unacked(), 0);
    assert_eq!(pair.sides[0].peer.version(), None);
    (pair.sides[0].sent, pair.sides[0].got) = (0, 0);
    pair.connect(0);
    pair.connect(1);
    pair.greet();
    pair.drain();
    pair.sides[0].send(now_ms, 1);
    pair.flush(0);
    pair.drain();
    assert_eq!(pair.sides[1].got, 1);
}

#[test]
fn an_old_version_gets_packets_without_envelopes() {
    let mut peer = Peer::new(NodeId(1), NodeId(2));
    let mut fx = Fx::default();
    peer.member_added(0);
    peer.connected(0, &mut fx);
    let packet = message(1, 5, 3);
    peer.send(0, &packet, true, &mut fx).unwrap();
    let mut old = status(2);
    old[0] = 1;
    receive(&mut peer, 0, &old, &mut fx);
    assert_eq!(peer.version(), Some(Version::V3_1));
    assert_eq!(fx.out, packet);
    assert_eq!(peer.unacked(), 0);
    let mut plain = message(2, 0, 0);
    plain[0] = 1;
    receive(&mut peer, 0, &plain, &mut fx);
    assert_eq!(fx.delivered, [old, plain]);
    receive(&mut peer, 0, &status(2), &mut fx);
    assert_eq!(fx.delivered.len(), 2, "it cannot change its version");
    peer.shutdown(0, &mut fx);
    assert_eq!(fx.closed, 1);
}

#[test]
fn what_should_not_come_is_counted_and_dropped() {
    let mut peer = Peer::new(NodeId(1), NodeId(2));
    let mut fx = Fx::default();
    peer.member_added(0);
    peer.connected(0, &mut fx);
    receive(&mut peer, 0, &status(2), &mut fx);
    fx.delivered.clear();
    let mut short = status(2);
    short.truncate(20);
    short[12] = 20;
    let question = status(2);
    let lookup = Rcom {
        kind: RcomKind::Lookup,
        ..Rcom::decode(&question).unwrap()
    };
    let lookup = lookup.encode(9, NodeId(2)).unwrap().to_vec();
    let bad = [
        message(2, 0, 0),
        status(3),
        short,
        lookup,
        vec![0; 40],
        Vec::new(),
    ];
    for packet in &bad {
        receive(&mut peer, 0, packet, &mut fx);
    }
    assert_eq!(peer.counts().malformed, bad.len() as u64);
    let early = options::encode(NodeId(2), 1, Command::Message, 88);
    receive(
        &mut peer,
        0,
        &[&early[..], &message(2, 0, 0)].concat(),
        &mut fx,
    );
    assert_eq!(peer.counts().gaps, 1);
    assert!(fx.delivered.is_empty());
    peer.send(0, &message(1, 0, 0), true, &mut fx).unwrap();
    receive(&mut peer, 0, &ack(NodeId(2), 2), &mut fx);
    assert_eq!(
        peer.unacked(),
        1,
        "an acknowledgement of what was never sent"
    );
    assert!(peer.send(0, &[0; 15], true, &mut fx).is_err());
    assert!(peer.send(0, &[0; 5_000], false, &mut fx).is_err());
}
