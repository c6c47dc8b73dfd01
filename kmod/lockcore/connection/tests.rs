// SPDX-License-Identifier: GPL-2.0-only
//! Every decision about connections, one at a time. Node 1 decides, node 2 is the peer.

use super::sending::*;
use super::*;
use crate::lockcore::peer::ACK_DELAY_MS;
use crate::lockcore::wire::header::{ack, Command};
use crate::lockcore::wire::message::{Message, MessageKind};
use crate::lockcore::wire::options;
use crate::lockcore::wire::rcom::{Rcom, RcomKind};
use SocketState::{Closed, Connecting, Established};

/// What was wanted, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Connect(u64),
    SendOn(u64),
    GiveUp(u64, Ending),
    Suspect(Suspicion),
    Closed,
}

#[derive(Default)]
struct Fx {
    wanted: Vec<Wanted>,
    /// Sequenced packets put on the connection that is sent on.
    packets: Vec<Vec<u8>>,
}

impl PeerEffects for Fx {
    fn transmit(&mut self, packet: &[u8]) {
        if let Some(envelope) = options::decode(packet) {
            self.packets.push(envelope.inner.to_vec());
        }
    }
    fn closed(&mut self) {
        self.wanted.push(Wanted::Closed);
    }
}

impl ConnectionEffects for Fx {
    fn connect(&mut self, id: ConnectionId) {
        self.wanted.push(Wanted::Connect(id.raw()));
    }
    fn send_on(&mut self, id: ConnectionId) {
        self.packets.clear();
        self.wanted.push(Wanted::SendOn(id.raw()));
    }
    fn give_up(&mut self, id: ConnectionId, ending: Ending) {
        self.wanted.push(Wanted::GiveUp(id.raw(), ending));
    }
    fn suspect(&mut self, suspicion: Suspicion) {
        self.wanted.push(Wanted::Suspect(suspicion));
    }
}

const UP: Config<u8> = Config {
    incarnation: 7,
    address: 0,
    is_up: true,
};
const DOWN: Config<u8> = Config { is_up: false, ..UP };

/// A machine, and what it sees of its sockets.
struct Side {
    now_ms: u64,
    seen: Seen,
    machine: Connections<u8>,
    fx: Fx,
}

impl Side {
    fn new(config: Config<u8>) -> Self {
        Side {
            now_ms: 10_000,
            seen: Seen {
                is_running: true,
                sending: Connecting,
                receiving: Established,
                retransmits: 0,
            },
            machine: Connections::new(NodeId(1), NodeId(2), config),
            fx: Fx::default(),
        }
    }

    /// With a peer that is up and a member of a lockspace.
    fn used() -> Self {
        let mut side = Side::new(UP);
        side.machine.member_added(10_000);
        side
    }

    /// With a connection that works; its name.
    fn connected() -> (Self, u64) {
        let mut side = Side::used();
        side.step();
        side.seen.sending = Established;
        let id = side.step().expect("established");
        side.wanted();
        (side, id)
    }

    /// With a connection that works, and a conversation that has begun.
    fn talking() -> (Self, u64) {
        let (mut side, id) = Side::connected();
        assert!(side.receive(id, &status()).is_some());
        (side, id)
    }

    fn wanted(&mut self) -> Vec<Wanted> {
        std::mem::take(&mut self.fx.wanted)
    }

    fn step(&mut self) -> Option<u64> {
        let id = self.machine.step(self.now_ms, &self.seen, &mut self.fx);
        id.map(ConnectionId::raw)
    }

    fn due(&self) -> u64 {
        self.machine.next_due(&self.seen)
    }

    fn accept(&mut self) -> u64 {
        let id = self.machine.name();
        self.machine.accepted(self.now_ms, id, &mut self.fx);
        id.raw()
    }

    fn breaks(&mut self, id: u64, ending: Ending) {
        let id = ConnectionId(id);
        self.machine.broken(self.now_ms, id, ending, &mut self.fx);
    }

    fn receive(&mut self, id: u64, packet: &[u8]) -> Option<Vec<u8>> {
        let id = ConnectionId(id);
        let delivered = self.machine.receive(self.now_ms, id, packet, &mut self.fx);
        delivered.map(<[u8]>::to_vec)
    }

    fn send(&mut self, number: u32) -> Vec<u8> {
        let packet = message(number);
        let sent = self.machine.send(self.now_ms, &packet, true, &mut self.fx);
        sent.expect("memory");
        packet
    }

    fn configure(&mut self, config: Config<u8>) -> Vec<Wanted> {
        self.machine.configure(config, &mut self.fx);
        self.wanted()
    }

    fn readable(&self) -> Vec<u64> {
        let ids = self.machine.readable().into_iter().flatten();
        ids.map(ConnectionId::raw).collect()
    }
}

fn message(number: u32) -> Vec<u8> {
    let message = Message {
        pid: number,
        ..Message::new(MessageKind::Convert)
    };
    message.encode(9, NodeId(1)).parts().concat()
}

/// A question of node 2, by which it shows its version.
fn status() -> Vec<u8> {
    let status = Rcom {
        kind: RcomKind::Status,
        result: 0,
        id: 1,
        seq: 1,
        seq_reply: 0,
        payload: &[0; 16],
    };
    status.encode(9, NodeId(2)).unwrap().to_vec()
}

/// A sequenced question of node 2.
fn sequenced(seq: u32) -> Vec<u8> {
    let inner = status();
    let envelope = options::encode(NodeId(2), seq, Command::Rcom, inner.len());
    [&envelope[..], &inner].concat()
}

#[test]
fn nothing_is_connected_without_use() {
    let mut side = Side::new(UP);
    assert_eq!((side.step(), side.due()), (None, u64::MAX));
    assert_eq!(side.wanted(), []);
    // Something to send is of use, a member is.
    side.send(1);
    assert_eq!(side.due(), 0);
    side.step();
    assert_eq!(side.wanted(), [Wanted::Connect(1)]);
    let mut side = Side::used();
    side.step();
    assert_eq!(side.wanted(), [Wanted::Connect(1)]);
    // But with a peer that is not up, or while nothing runs.
    for (config, is_running) in [(DOWN, true), (UP, false)] {
        let mut side = Side::new(config);
        side.machine.member_added(10_000);
        side.seen.is_running = is_running;
        assert_eq!((side.step(), side.due()), (None, u64::MAX));
        assert_eq!(side.wanted(), []);
    }
}

#[test]
fn what_is_not_acknowledged_goes_out_on_every_new_connection() {
    let (mut side, first) = Side::talking();
    let sent: Vec<_> = (0..3).map(|number| side.send(number)).collect();
    assert_eq!(side.fx.packets, sent);
    side.breaks(first, Ending::Reset);
    assert_eq!(side.step(), None);
    // What is sent meanwhile comes behind.
    let late = side.send(3);
    side.now_ms += RETRY_MS_MIN;
    side.seen.sending = Connecting;
    side.step();
    side.seen.sending = Established;
    let second = side.step().expect("connected");
    assert!(second != first);
    assert_eq!(side.fx.packets, [sent.clone(), vec![late.clone()]].concat());
    // Two of them were taken; the others go out on a connection that the peer makes.
    side.receive(second, &ack(NodeId(2), 2));
    side.breaks(second, Ending::InOrder);
    side.accept();
    assert_eq!(side.fx.packets, [sent[2].clone(), late]);
}

#[test]
fn attempts_that_fail_are_made_again_after_growing_pauses() {
    let mut side = Side::used();
    let pauses = [100, 200, 400, 800, 1_000, 1_000, 1_000];
    for (failures, pause) in pauses.into_iter().enumerate() {
        let id = failures as u64 + 1;
        assert_eq!(side.step(), None);
        assert_eq!(side.wanted(), [Wanted::Connect(id)], "attempt {id}");
        side.seen.sending = Closed;
        side.step();
        let mut wanted = vec![Wanted::GiveUp(id, Ending::Reset)];
        if id == u64::from(FAILURES_TOLD) {
            wanted.push(Wanted::Suspect(Suspicion::ConnectFailed));
        }
        assert_eq!(side.wanted(), wanted, "attempt {id}");
        assert_eq!(side.due(), side.now_ms + pause, "attempt {id}");
        side.now_ms += pause - 1;
        side.step();
        assert_eq!(side.wanted(), [], "attempt {id}");
        side.now_ms += 1;
        side.seen.sending = Connecting;
    }
    // One that succeeds begins the count anew, and cures.
    side.step();
    side.wanted();
    side.seen.sending = Established;
    let id = side.step().expect("connected");
    let cured = Wanted::Suspect(Suspicion::None);
    assert_eq!(side.wanted(), [Wanted::SendOn(id), cured]);
    side.breaks(id, Ending::InOrder);
    assert_eq!(side.due(), side.now_ms + RETRY_MS_MIN);
}

#[test]
fn an_attempt_that_takes_too_long_is_given_up() {
    let mut side = Side::used();
    side.step();
    assert_eq!(side.due(), side.now_ms + CONNECT_MS);
    side.wanted();
    side.now_ms += CONNECT_MS - 1;
    side.step();
    assert_eq!(side.wanted(), []);
    side.now_ms += 1;
    side.step();
    assert_eq!(side.wanted(), [Wanted::GiveUp(1, Ending::Reset)]);
    assert_eq!(side.due(), side.now_ms + RETRY_MS_MIN);
}

#[test]
fn attempts_fail_however_it_is_found() {
    type Find = fn(&mut Side, ConnectionId);
    let ways: [(Find, bool); 2] = [
        // It could not be begun: there is nothing to give up.
        (
            |side, id| side.machine.not_begun(side.now_ms, id, &mut side.fx),
            false,
        ),
        (|side, id| side.breaks(id.raw(), Ending::Reset), true),
    ];
    for (find, gives_up) in ways {
        let mut side = Side::used();
        side.step();
        side.wanted();
        find(&mut side, ConnectionId(99));
        assert_eq!(side.due(), side.now_ms + CONNECT_MS, "not this one");
        find(&mut side, ConnectionId(1));
        assert_eq!(side.wanted().len(), usize::from(gives_up));
        assert_eq!(side.due(), side.now_ms + RETRY_MS_MIN);
    }
}

#[test]
fn the_first_connection_of_the_peer_is_sent_on() {
    let mut side = Side::used();
    let id = side.accept();
    assert_eq!(side.wanted(), [Wanted::SendOn(id)]);
    assert_eq!(side.step(), Some(id));
    assert_eq!(side.readable(), [id]);
    assert_eq!(side.wanted(), []);
}

#[test]
fn a_connection_beside_another_is_only_read_and_the_newest_counts() {
    let (up, own) = Side::connected();
    let mut attempt = Side::used();
    attempt.step();
    attempt.wanted();
    for (mut side, own) in [(up, own), (attempt, 1)] {
        let first = side.accept();
        assert_eq!(side.wanted(), []);
        assert_eq!(side.readable(), [own, first]);
        let second = side.accept();
        assert_eq!(side.wanted(), [Wanted::GiveUp(first, Ending::Reset)]);
        assert_eq!(side.readable(), [own, second]);
        assert_eq!(side.machine.sending(), Some(ConnectionId(own)));
        // Its end is nobody's loss.
        side.breaks(second, Ending::InOrder);
        assert_eq!(side.wanted(), [Wanted::GiveUp(second, Ending::InOrder)]);
        assert_eq!(side.readable(), [own]);
    }
}

#[test]
fn who_is_not_known_to_be_up_waits_unread() {
    let mut side = Side::new(DOWN);
    side.machine.member_added(10_000);
    let id = side.accept();
    assert_eq!((side.step(), side.readable()), (None, vec![]));
    assert_eq!(side.receive(id, &status()), None);
    assert_eq!(side.wanted(), []);
    assert_eq!(side.configure(UP), []);
    assert_eq!(side.readable(), [id]);
    // And is not connected to once more.
    assert_eq!(side.due(), 0);
    assert_eq!(side.step(), Some(id));
    assert_eq!(side.wanted(), [Wanted::SendOn(id)]);
    assert!(side.receive(id, &status()).is_some());
}

#[test]
fn the_peers_connection_takes_over_when_the_own_one_breaks() {
    let (mut side, own) = Side::connected();
    let other = side.accept();
    side.breaks(own, Ending::InOrder);
    side.wanted();
    // One that is broken, too, does not.
    side.seen.receiving = Closed;
    assert_eq!(side.due(), side.now_ms + RETRY_MS_MIN);
    assert_eq!(side.step(), None);
    side.seen.receiving = Established;
    assert_eq!(side.due(), 0);
    assert_eq!(side.step(), Some(other));
    assert_eq!(side.wanted(), [Wanted::SendOn(other)]);
    assert_eq!(side.readable(), [other]);
}

#[test]
fn a_break_is_told_unless_it_was_to_be_expected() {
    let reset = Wanted::Suspect(Suspicion::Reset);
    for (ending, users, told) in [
        (Ending::Reset, 1, true),
        (Ending::Reset, 0, false),
        (Ending::InOrder, 1, false),
        (Ending::InOrder, 0, false),
    ] {
        let (mut side, id) = Side::connected();
        if users == 0 {
            side.machine.member_removed(side.now_ms, &mut side.fx);
        }
        side.breaks(id, ending);
        let mut wanted = vec![Wanted::GiveUp(id, ending)];
        wanted.extend(told.then_some(reset));
        assert_eq!(side.wanted(), wanted, "{ending:?}, {users}");
        let due = [u64::MAX, side.now_ms + RETRY_MS_MIN][users];
        assert_eq!(side.due(), due);
    }
}

#[test]
fn a_connection_that_is_not_in_use_means_nothing() {
    let (mut side, own) = Side::connected();
    let first = side.accept();
    let second = side.accept();
    side.wanted();
    side.breaks(first, Ending::Reset);
    side.breaks(99, Ending::Reset);
    assert_eq!(side.receive(first, &status()), None);
    assert_eq!(side.wanted(), []);
    assert_eq!(side.readable(), [own, second]);
}

#[test]
fn membership_gives_connections_up() {
    let other = Config {
        incarnation: 8,
        ..UP
    };
    let moved = Config { address: 1, ..UP };
    for (config, gives_up, forgets) in [
        (UP, false, false),
        (DOWN, true, false),
        (moved, true, false),
        (other, true, true),
        (
            Config {
                is_up: false,
                ..other
            },
            true,
            true,
        ),
    ] {
        let (mut side, own) = Side::talking();
        side.send(1);
        let beside = side.accept();
        let wanted = side.configure(config);
        if gives_up {
            let both = [own, beside].map(|id| Wanted::GiveUp(id, Ending::Reset));
            assert_eq!(wanted, both, "{config:?}");
            assert_eq!(side.receive(own, &sequenced(0)), None, "{config:?}");
        } else {
            assert_eq!(wanted, [], "{config:?}");
        }
        let left = usize::from(!forgets);
        assert_eq!(side.machine.peer().unacked(), left, "{config:?}");
        assert_eq!(side.machine.config(), config);
        // A new connection is made without a pause, where there is none.
        let due = match (config.is_up, gives_up) {
            (false, _) => u64::MAX,
            (true, true) => 0,
            (true, false) => side.machine.checked_at + CHECK_MS,
        };
        assert_eq!(side.due(), due, "{config:?}");
    }
}

#[test]
fn connections_end_in_order_when_the_conversation_has() {
    let (mut side, id) = Side::connected();
    side.machine.member_removed(side.now_ms, &mut side.fx);
    side.machine.shutdown(side.now_ms, &mut side.fx);
    side.wanted();
    assert_eq!(side.machine.peer().state(), PeerState::Closed);
    let wanted = side.configure(DOWN);
    assert_eq!(wanted, [Wanted::GiveUp(id, Ending::InOrder)]);

    let (mut side, id) = Side::talking();
    side.machine.shutdown(side.now_ms, &mut side.fx);
    assert!(side.machine.is_talking());
    side.machine.rest(&mut side.fx);
    assert_eq!(side.wanted(), [Wanted::GiveUp(id, Ending::Reset)]);
    assert_eq!(side.machine.peer().unacked(), 1, "the peer has to learn it");
}

#[test]
fn a_conversation_that_ends_is_waited_for() {
    let (mut side, _) = Side::talking();
    side.machine.member_removed(side.now_ms, &mut side.fx);
    assert!(side.machine.is_talking());
    side.machine.shutdown(side.now_ms, &mut side.fx);
    assert!(side.machine.is_talking());
    // Not of a peer that is down, nor of one that does not do its part.
    side.configure(DOWN);
    assert!(!side.machine.is_talking());
    side.configure(UP);
    assert!(side.machine.is_talking());
    while !side.machine.peer().is_late() {
        side.now_ms = side.now_ms.max(side.due()) + 1;
        side.step();
    }
    assert!(!side.machine.is_talking());
}

#[test]
fn who_was_forgotten_gets_nothing() {
    let (mut side, id) = Side::talking();
    side.send(1);
    side.machine.close(&mut side.fx);
    assert_eq!(side.wanted(), [Wanted::GiveUp(id, Ending::Reset)]);
    side.send(2);
    assert_eq!(side.machine.peer().unacked(), 0);
    let late = side.accept();
    assert_eq!(side.wanted(), [Wanted::GiveUp(late, Ending::Reset)]);
    assert_eq!((side.step(), side.due()), (None, u64::MAX));
    assert!(side.machine.is_over(UP.incarnation));
}

#[test]
fn an_incarnation_is_over_when_another_is_named() {
    let mut side = Side::used();
    side.configure(DOWN);
    assert!(!side.machine.is_over(UP.incarnation), "it may come back");
    side.configure(Config {
        incarnation: 8,
        ..UP
    });
    assert!(side.machine.is_over(UP.incarnation));
}

#[test]
fn what_does_not_get_out_is_told() {
    // Blocked for so long, sent again so often; whether it is told.
    for (blocked_ms, retransmits, told) in [
        (0, STUCK_RETRANSMITS - 1, false),
        (0, STUCK_RETRANSMITS, true),
        (STUCK_MS - 1, 0, false),
        (STUCK_MS, 0, true),
    ] {
        let (mut side, id) = Side::talking();
        side.step();
        side.send(1);
        side.wanted();
        if blocked_ms > 0 {
            side.machine.blocked(side.now_ms, ConnectionId(id));
            side.machine.blocked(side.now_ms + 1, ConnectionId(id));
        }
        side.now_ms += blocked_ms.max(CHECK_MS);
        side.seen.retransmits = retransmits;
        assert_eq!(side.step(), Some(id));
        let stuck = Wanted::Suspect(Suspicion::SendStuck);
        let told = told.then_some(stuck);
        let wanted = Vec::from_iter(told);
        assert_eq!(side.wanted(), wanted, "{blocked_ms} ms, {retransmits}");
        if told.is_none() {
            continue;
        }
        // Once; and as long as it is so, it is not over.
        side.now_ms += CHECK_MS;
        side.step();
        side.seen.retransmits = 1;
        side.now_ms += CHECK_MS;
        side.step();
        assert_eq!(side.wanted(), []);
        side.machine.has_sent(ConnectionId(99));
        side.seen.retransmits = 0;
        if blocked_ms > 0 {
            side.now_ms += CHECK_MS;
            side.step();
            assert_eq!(side.wanted(), []);
        }
        side.machine.has_sent(ConnectionId(id));
        side.now_ms += CHECK_MS;
        side.step();
        assert_eq!(side.wanted(), [Wanted::Suspect(Suspicion::None)]);
    }
}

#[test]
fn a_connection_is_looked_at_while_something_is_unconfirmed() {
    let (mut side, id) = Side::talking();
    side.step();
    side.now_ms += 10 * ACK_DELAY_MS;
    side.step();
    assert_eq!(side.due(), u64::MAX);
    side.send(1);
    assert_eq!(side.due(), side.machine.checked_at + CHECK_MS);
    // Not more often than that.
    side.now_ms = side.machine.checked_at + CHECK_MS - 1;
    side.seen.retransmits = STUCK_RETRANSMITS;
    side.step();
    assert_eq!(side.wanted(), []);
    side.receive(id, &ack(NodeId(2), 1));
    assert_eq!(side.due(), u64::MAX);
    side.machine.blocked(side.now_ms, ConnectionId(id));
    assert_eq!(side.due(), side.machine.checked_at + CHECK_MS);
}

#[test]
fn who_is_not_up_is_not_told_of() {
    let (mut side, id) = Side::connected();
    side.breaks(id, Ending::Reset);
    assert_eq!(side.machine.suspicion(), Suspicion::Reset);
    side.wanted();
    assert_eq!(side.configure(DOWN), []);
    assert_eq!(side.machine.suspicion(), Suspicion::None);
    // Its suspicion is of the incarnation.
    side.configure(UP);
    for _ in 0..FAILURES_TOLD {
        side.now_ms += RETRY_MS_MAX;
        side.seen.sending = Connecting;
        side.step();
        side.seen.sending = Closed;
        side.step();
    }
    assert_eq!(side.machine.suspicion(), Suspicion::ConnectFailed);
    side.configure(Config {
        incarnation: 8,
        ..UP
    });
    assert_eq!(side.machine.suspicion(), Suspicion::None);
}

#[test]
fn the_conversation_is_called_when_it_is_time() {
    let (mut side, id) = Side::talking();
    side.step();
    assert!(side.receive(id, &sequenced(0)).is_some());
    assert_eq!(side.due(), side.now_ms + ACK_DELAY_MS);
    side.now_ms += ACK_DELAY_MS;
    side.step();
    assert_eq!(side.due(), u64::MAX);
}
