// SPDX-License-Identifier: GPL-2.0-only
//! The connections with one peer: which of them is sent on, when another one is made, and what a
//! broken one means.
//!
//! A machine without sockets, around the conversation ([`Peer`]). The shell tells it what
//! membership says ([`Connections::configure`]), what became of connections
//! ([`Connections::accepted`], [`Connections::broken`], [`Connections::not_begun`]), how sockets
//! look ([`Seen`]) and what time it is; it says which connection to make, which to send on, which
//! to read ([`Connections::readable`]) and which to give up. A connection has a name
//! ([`ConnectionId`]) that the shell maps to a socket.
//!
//! By the rules that in-tree nodes keep there are up to two connections with a peer: a node sends
//! on the one it made, or on the first it accepted when it had none; one that is accepted beside it
//! is only read while the other is there, and a newer one takes its place.
//!
//! ```text
//!            one is of use, pause over                     established
//!   NONE ─────────────────────────────► CONNECTING ───────────────────────► UP
//!    ▲ │                                     │                             ▲ │
//!    │ │ one is of use and the peer made one, or the peer makes one        │ │
//!    │ └──────────────────────────────────── │ ────────────────────────────┘ │
//!    │        refused, broken, CONNECT_MS over: a longer pause               │
//!    ├───────────────────────────────────────┘                               │
//!    │        broken: the shortest pause                                     │
//!    └───────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! - Nothing is put on a connection but the one that is up, and everything that is not acknowledged
//!   is put on the next one again.
//! - Nothing is read from a peer that is not up, and nothing that an earlier incarnation sent: when
//!   membership names another one, its connections are given up before anything else happens. A
//!   connection from a peer that is not known to be up yet waits unread: a link heals on one side
//!   first, and what is refused an in-tree node tries again and again without a pause.
//! - Connections are reset. They end in order only when the conversation has, or after the peer has
//!   ended one in order: an in-tree node takes an orderly end for proof that everything was read.
//! - Membership is told when a connection breaks, cannot be made, or does not get its bytes out,
//!   and when that is over; not while the peer is not up.

mod sending;
#[cfg(test)]
mod tests;

use super::fault::{fault, Fault};
use super::members::NodeId;
use super::peer::{Peer, PeerEffects, PeerState};
use crate::platform::Result;
use sending::Sending;

/// Name of a connection; of those with one peer, none is given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// As a number, for the log.
    pub fn raw(self) -> u64 {
        self.0
    }
}

/// A peer as membership has it. `A` is an address, of which only changes matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config<A> {
    /// Number of its present incarnation.
    pub incarnation: u64,
    /// Where it listens, and where its connections come from.
    pub address: A,
    /// Whether it is in the view.
    pub is_up: bool,
}

/// State of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketState {
    /// The connection is being made.
    Connecting,
    /// Both directions work, or the peer has ended its own.
    Established,
    /// Broken or closed.
    Closed,
}

/// How things are when a decision is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whether the node has connections at all: it has lockspaces, or takes leave of its peers.
    pub is_running: bool,
    /// The socket of the connection that is sent on or being made, if any. One that the shell is
    /// about to make counts as connecting.
    pub sending: SocketState,
    /// The socket of the connection that is only read, if any.
    pub receiving: SocketState,
    /// How often in a row the oldest unconfirmed bytes were sent again on the connection that is
    /// sent on.
    pub retransmits: u32,
}

/// Why a peer is doubted, numbered as the control family has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Suspicion {
    /// It is not.
    None = 0,
    /// The connection broke although it was in use.
    Reset = 1,
    /// Bytes for it do not get out.
    SendStuck = 2,
    /// No connection with it can be made.
    ConnectFailed = 3,
}

impl Suspicion {
    /// As the log and the control family call it.
    pub const fn name(self) -> &'static str {
        match self {
            Suspicion::None => "none",
            Suspicion::Reset => "reset",
            Suspicion::SendStuck => "send-stuck",
            Suspicion::ConnectFailed => "connect-failed",
        }
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By a reset: what is on its way in it may be lost, and is sent again on the next one.
    Reset,
    /// In order: everything in it arrives, and there is nothing more to say.
    InOrder,
}

/// What the machine wants done, beside what the conversation wants. A connection that
/// [`PeerEffects::transmit`] is meant for is the one last named by
/// [`ConnectionEffects::send_on`].
pub trait ConnectionEffects: PeerEffects {
    /// Begins to make a connection. If that fails at once, [`Connections::not_begun`] follows;
    /// later, [`Seen`] shows it.
    fn connect(&mut self, id: ConnectionId);
    /// What is transmitted from now on goes into this connection, from its first byte on.
    fn send_on(&mut self, id: ConnectionId);
    /// Gives a connection up; what was transmitted and is not in it yet is thrown away.
    fn give_up(&mut self, id: ConnectionId, ending: Ending);
    /// Tells membership that the peer is doubted for this reason, or not any more.
    fn suspect(&mut self, suspicion: Suspicion);
}

/// See the head of this file.
pub struct Connections<A> {
    config: Config<A>,
    /// Forgotten by membership, or the module is leaving.
    is_closed: bool,
    peer: Peer,
    sending: Sending,
    /// The connection that is only read.
    receiving: Option<ConnectionId>,
    /// The number of the next name.
    next_id: u64,
    /// Since when nothing more could be sent although there is something.
    blocked_since: Option<u64>,
    /// When it was last seen whether what was sent gets through.
    checked_at: u64,
    suspicion: Suspicion,
}

impl<A: Copy + PartialEq> Connections<A> {
    /// With a peer that membership has named, before there are any.
    pub fn new(own: NodeId, node: NodeId, config: Config<A>) -> Self {
        Self {
            config,
            is_closed: false,
            peer: Peer::new(own, node),
            sending: Sending::NONE,
            receiving: None,
            next_id: 1,
            blocked_since: None,
            checked_at: 0,
            suspicion: Suspicion::None,
        }
    }

    /// The peer as membership has it.
    pub fn config(&self) -> Config<A> {
        self.config
    }

    /// The conversation.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Why the peer is doubted.
    pub fn suspicion(&self) -> Suspicion {
        self.suspicion
    }

    /// Whether packets may flow.
    pub fn is_open(&self) -> bool {
        self.config.is_up && !self.is_closed
    }

    /// Whether nothing of this incarnation counts any more. It may be down and come up again.
    pub fn is_over(&self, incarnation: u64) -> bool {
        self.is_closed || self.config.incarnation != incarnation
    }

    /// Whether a goodbye is under way with a peer that can answer it.
    pub fn is_talking(&self) -> bool {
        self.is_open() && self.peer.state() != PeerState::Closed && !self.peer.is_late()
    }

    fn may_read(&self) -> bool {
        self.is_open() || fault(Fault::DownRead)
    }

    /// The connections to read now. Nothing is read from a peer that is not up; it waits in the
    /// sockets.
    pub fn readable(&self) -> [Option<ConnectionId>; 2] {
        if !self.may_read() {
            return [None, None];
        }
        [self.sending.id(), self.receiving]
    }

    /// The connection that is sent on or being made.
    pub fn sending(&self) -> Option<ConnectionId> {
        self.sending.id()
    }

    /// The connection that is only read.
    pub fn receiving(&self) -> Option<ConnectionId> {
        self.receiving
    }

    /// Whether a connection is in use.
    pub fn uses(&self, id: ConnectionId) -> bool {
        self.sending.id() == Some(id) || self.receiving == Some(id)
    }

    /// A name for a connection that the peer has made.
    pub fn name(&mut self) -> ConnectionId {
        let id = ConnectionId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        id
    }

    /// Membership has something new about the peer.
    pub fn configure(&mut self, config: Config<A>, fx: &mut impl ConnectionEffects) {
        let before = core::mem::replace(&mut self.config, config);
        let is_other = before.incarnation != config.incarnation;
        let is_left = is_other && !fault(Fault::OldIncarnationRead);
        if is_left || !config.is_up || before.address != config.address {
            self.disconnect(fx);
        }
        if is_other {
            self.peer.reset();
        }
        if is_other || !config.is_up {
            // That a peer which is not in the view is not doubted is no news.
            self.suspicion = Suspicion::None;
        }
    }

    /// Ends it: no packet flows any more, and what waited is forgotten.
    pub fn close(&mut self, fx: &mut impl ConnectionEffects) {
        self.is_closed = true;
        self.disconnect(fx);
        self.peer.reset();
    }

    /// No lockspace is left, and the time for goodbyes is over.
    pub fn rest(&mut self, fx: &mut impl ConnectionEffects) {
        self.disconnect(fx);
        self.peer.rest();
        self.suspicion = Suspicion::None;
    }

    /// Gives both connections up. To be called before the conversation is reset: it says whether
    /// they end in order.
    fn disconnect(&mut self, fx: &mut impl ConnectionEffects) {
        let ending = match self.peer.state() {
            PeerState::Closed => Ending::InOrder,
            PeerState::Established
            | PeerState::FinWait1
            | PeerState::FinWait2
            | PeerState::CloseWait
            | PeerState::LastAck
            | PeerState::Closing => Ending::Reset,
        };
        self.peer.disconnected();
        self.blocked_since = None;
        let sending = core::mem::replace(&mut self.sending, Sending::NONE);
        for id in [sending.id(), self.receiving.take()].into_iter().flatten() {
            fx.give_up(id, ending);
        }
    }

    /// Gives a packet to the peer, see [`Peer::send`]. One that was forgotten gets nothing.
    pub fn send(
        &mut self,
        now_ms: u64,
        packet: &[u8],
        sequenced: bool,
        fx: &mut impl ConnectionEffects,
    ) -> Result {
        if self.is_closed {
            return Ok(());
        }
        self.peer.send(now_ms, packet, sequenced, fx)
    }

    /// One packet that was read from a connection. Returns what is to be delivered of it, see
    /// [`Peer::receive`].
    #[must_use]
    pub fn receive<'p>(
        &mut self,
        now_ms: u64,
        id: ConnectionId,
        packet: &'p [u8],
        fx: &mut impl ConnectionEffects,
    ) -> Option<&'p [u8]> {
        // What an earlier incarnation sent is for nobody.
        if !self.may_read() || !self.uses(id) {
            return None;
        }
        self.peer.receive(now_ms, packet, fx)
    }

    /// The peer is a member of one lockspace more.
    pub fn member_added(&mut self, now_ms: u64) {
        self.peer.member_added(now_ms);
    }

    /// The peer is a member of one lockspace less.
    pub fn member_removed(&mut self, now_ms: u64, fx: &mut impl ConnectionEffects) {
        self.peer.member_removed(now_ms, fx);
    }

    /// This node leaves: ends the conversation in order, see [`Peer::shutdown`].
    pub fn shutdown(&mut self, now_ms: u64, fx: &mut impl ConnectionEffects) {
        self.peer.shutdown(now_ms, fx);
    }

    /// Notes why the peer is doubted, and tells membership if that is news.
    fn suspect(&mut self, suspicion: Suspicion, fx: &mut impl ConnectionEffects) {
        let is_news = self.suspicion != suspicion && self.is_open();
        self.suspicion = suspicion;
        if is_news {
            fx.suspect(suspicion);
        }
    }
}
