// SPDX-License-Identifier: GPL-2.0-only
//! What is agreed with one peer about packets: each sequenced one arrives once and in order,
//! whatever becomes of connections.
//!
//! A machine without sockets. The shell tells it of packets that came ([`Peer::receive`]), of
//! packets to send ([`Peer::send`]), of the connection it sends on ([`Peer::connected`],
//! [`Peer::disconnected`]) and of time; it says what to put on that connection and what to deliver.
//! Rules:
//!
//! - A sequenced packet is kept until it is acknowledged, and put on every new connection again
//!   until then, however the last one ended. Nothing is dropped but by [`Peer::reset`].
//! - At most [`WINDOW`] packets are on their way; the rest waits here. [`Peer::is_congested`] tells
//!   who makes packets to go easy.
//! - What was received is acknowledged after [`ACK_DELAY_MS`] at the latest.
//! - Sequence numbers wrap; they are compared by their distance.
//! - An end that the peer has not acknowledged is not forgotten, for the peer would go on counting:
//!   neither when the node has no connections for a while ([`Peer::rest`]) nor when it has use for
//!   the peer again. What is said meanwhile waits for the next conversation. Only a peer that does
//!   not acknowledge it over a connection for long must have forgotten the conversation itself.
//! - A peer that has ended and speaks as a member of a lockspace has begun anew: so does this end.
//! - Nothing sequenced leaves before a packet of the peer has shown its version.
//!
//! ```text
//!             member or packet            shutdown                ACK of FIN
//!   CLOSED ───────────────────► ESTABLISHED ──────► FIN_WAIT1 ──────────────► FIN_WAIT2
//!     ▲                            │    │ FIN,          │ FIN                     │ FIN
//!     │                   FIN, no  │    │ is used       ▼                         │
//!     │                   users    │    ▼            CLOSING ── ACK of FIN ──►────┤
//!     │                            │ CLOSE_WAIT                                   │
//!     │         ACK of FIN         ▼    │ no users                                │
//!     ├───────────────────────── LAST_ACK                                         │
//!     └───────────────────────────────────────────────────────────────────────────┘
//! ```

mod ring;
#[cfg(test)]
mod tests;

use super::fault::{fault, Fault};
use super::members::NodeId;
use super::wire::header::{ack, fin, Command, Header, Version, HEADER_LEN};
use super::wire::message::MESSAGE_LEN;
use super::wire::options::{self, Envelope, OPTIONS_LEN};
use super::wire::rcom::{Rcom, RcomKind, NOT_READY, RCOM_LEN};
use super::wire::INNER_MAX;
use crate::platform::{code, KVec, Result, GFP};
use ring::Ring;

/// Sequenced packets on their way at most. Stock nodes acknowledge after 256 they received, so a
/// window must be larger.
pub const WINDOW: usize = 1024;

/// An acknowledgement is sent before a packet if it would be for more than this many.
const ACK_BEFORE_SEND: u32 = 32;

/// An acknowledgement is sent by itself if it would be for more than this many.
const ACK_AFTER_RECEIVE: u32 = 128;

/// Longest time for which something received stays unacknowledged, ms. Short enough that the
/// sender's memory is not pinned, long enough that replies carry most of them.
pub const ACK_DELAY_MS: u64 = 100;

/// Bytes kept for a peer from which on it is congested.
const CONGESTED_BYTES: usize = 4 << 20;

/// Packets outside the sequence that wait for a connection. They are asked for again when they
/// get lost, so the oldest make room for new ones.
const PLAIN_MAX: usize = 64;

/// Longest wait for a peer to do its part of an orderly end, ms.
const CLOSE_MS: u64 = 5_000;

/// Pause before memory is asked for again, ms.
const MEMORY_RETRY_MS: u64 = 10;

/// What the machine wants done.
pub trait PeerEffects {
    /// Puts a whole packet on the connection, behind what was put there before.
    fn transmit(&mut self, packet: &[u8]);
    /// An orderly end is over, or was waited for long enough: connections can be closed once what
    /// was transmitted is out.
    fn closed(&mut self);
}

/// Where the two ends are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PeerState {
    /// Nothing is under way.
    Closed = 1,
    /// In use.
    Established = 2,
    /// We have ended, the peer has not seen it.
    FinWait1 = 3,
    /// We have ended and the peer knows.
    FinWait2 = 4,
    /// The peer has ended, we have not.
    CloseWait = 5,
    /// Both have ended, the peer first, and has not seen ours.
    LastAck = 6,
    /// Both have ended at once, the peer has not seen ours.
    Closing = 7,
}

impl PeerState {
    /// As debugfs shows it.
    pub const fn name(self) -> &'static str {
        match self {
            PeerState::Closed => "CLOSED",
            PeerState::Established => "ESTABLISHED",
            PeerState::FinWait1 => "FIN_WAIT1",
            PeerState::FinWait2 => "FIN_WAIT2",
            PeerState::CloseWait => "CLOSE_WAIT",
            PeerState::LastAck => "LAST_ACK",
            PeerState::Closing => "CLOSING",
        }
    }
}

/// Our own end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Not yet.
    Open,
    /// To be put into the sequence as soon as there is memory.
    Wanted,
    /// It has this sequence.
    Queued(u32),
}

/// How much of what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounts {
    /// Packets put on a connection for the first time.
    pub sent: u64,
    /// Packets put on another connection again.
    pub resent: u64,
    /// Packets delivered.
    pub received: u64,
    /// Packets that had come before.
    pub duplicates: u64,
    /// Packets that came too early.
    pub gaps: u64,
    /// Packets that nobody should have sent.
    pub malformed: u64,
    /// Packets to be sent after our own end.
    pub late: u64,
}

/// One peer.
pub struct Peer {
    own: NodeId,
    node: NodeId,
    state: PeerState,
    version: Option<Version>,
    /// Lockspaces in which the peer is a member.
    users: u32,
    is_connected: bool,
    /// Sequence of the first packet in `kept`.
    oldest: u32,
    /// Not acknowledged yet, in order, in their envelopes.
    kept: Ring<KVec<u8>>,
    /// How many of `kept` are on the connection.
    on_wire: usize,
    /// How many of `kept` ever were on one.
    ever_on_wire: usize,
    kept_bytes: usize,
    /// Outside the sequence, waiting for a connection, or for the next conversation.
    plain: Ring<KVec<u8>>,
    /// To be sent in the next conversation, in order, in envelopes without a number.
    later: Ring<KVec<u8>>,
    /// Sequence of the next packet to come.
    expected: u32,
    /// Something of this sequence has come.
    has_begun: bool,
    /// What the last acknowledgement said.
    acknowledged: u32,
    ack_due_ms: Option<u64>,
    end: End,
    end_retry_ms: Option<u64>,
    close_by_ms: Option<u64>,
    /// Who waited for the end was told not to wait any longer.
    is_late: bool,
    counts: PeerCounts,
}

impl Peer {
    /// A peer of which nothing is known but its id.
    pub const fn new(own: NodeId, node: NodeId) -> Self {
        Self {
            own,
            node,
            state: PeerState::Closed,
            version: None,
            users: 0,
            is_connected: false,
            oldest: 0,
            kept: Ring::new(),
            on_wire: 0,
            ever_on_wire: 0,
            kept_bytes: 0,
            plain: Ring::new(),
            later: Ring::new(),
            expected: 0,
            has_begun: false,
            acknowledged: 0,
            ack_due_ms: None,
            end: End::Open,
            end_retry_ms: None,
            close_by_ms: None,
            is_late: false,
            counts: PeerCounts {
                sent: 0,
                resent: 0,
                received: 0,
                duplicates: 0,
                gaps: 0,
                malformed: 0,
                late: 0,
            },
        }
    }

    /// Who it is.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Where the two ends are.
    pub fn state(&self) -> PeerState {
        self.state
    }

    /// Its version, once a packet has shown it.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// Whether there is a connection to send on.
    pub fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// Lockspaces in which it is a member.
    pub fn users(&self) -> u32 {
        self.users
    }

    /// Whether an orderly end was waited for long enough.
    pub fn is_late(&self) -> bool {
        self.is_late
    }

    /// Sequenced packets that are not acknowledged.
    pub fn unacked(&self) -> usize {
        self.kept.len()
    }

    /// Packets put on another connection again.
    pub fn resent(&self) -> u64 {
        self.counts.resent
    }

    /// What happened so far.
    pub fn counts(&self) -> PeerCounts {
        self.counts
    }

    /// Whether so much waits for the peer that who makes packets for it should go easy.
    pub fn is_congested(&self) -> bool {
        self.kept_bytes >= CONGESTED_BYTES
    }

    /// Whether there is something for which a connection is needed.
    pub fn needs_connection(&self) -> bool {
        !self.kept.is_empty() || !self.plain.is_empty()
    }

    /// Whether the peer may not know yet that we have ended.
    fn is_end_unknown(&self) -> bool {
        matches!(
            self.state,
            PeerState::FinWait1 | PeerState::Closing | PeerState::LastAck
        )
    }

    /// Whether there is use for the peer again, before it knows that the last conversation has
    /// ended.
    fn waits_to_begin(&self) -> bool {
        self.users > 0 && self.is_end_unknown()
    }

    /// Sends a packet without envelope: with `sequenced`, it arrives once and in order; else it may
    /// get lost with the connection. Fails only for want of memory or if no packet can have its
    /// length, and then nothing has changed.
    pub fn send(
        &mut self,
        _now_ms: u64,
        inner: &[u8],
        sequenced: bool,
        fx: &mut impl PeerEffects,
    ) -> Result {
        if !(HEADER_LEN..=INNER_MAX).contains(&inner.len()) {
            return Err(code::EINVAL);
        }
        if !sequenced {
            return self.send_plain(inner, fx);
        }
        if self.waits_to_begin() {
            let packet = self.enveloped(0, inner)?;
            return self.later.push(packet);
        }
        if self.end != End::Open {
            self.counts.late += 1;
            return Ok(());
        }
        self.keep(inner)?;
        self.push_out(fx);
        Ok(())
    }

    fn send_plain(&mut self, packet: &[u8], fx: &mut impl PeerEffects) -> Result {
        if self.is_connected && !self.waits_to_begin() {
            self.counts.sent += 1;
            fx.transmit(packet);
            return Ok(());
        }
        let mut copy = KVec::with_capacity(packet.len(), GFP)?;
        copy.extend_from_slice(packet, GFP)?;
        if self.plain.len() >= PLAIN_MAX {
            self.plain.pop();
        }
        self.plain.push(copy)
    }

    /// Takes a packet into the sequence.
    fn keep(&mut self, inner: &[u8]) -> Result {
        let packet = self.enveloped(self.next_seq(), inner)?;
        let len = packet.len();
        self.kept.push(packet)?;
        self.kept_bytes += len;
        Ok(())
    }

    fn enveloped(&self, seq: u32, inner: &[u8]) -> Result<KVec<u8>> {
        let command = Header::decode(inner).ok_or(code::EINVAL)?.command;
        let mut packet = KVec::with_capacity(OPTIONS_LEN + inner.len(), GFP)?;
        let envelope = options::encode(self.own, seq, command, inner.len());
        packet.extend_from_slice(&envelope, GFP)?;
        packet.extend_from_slice(inner, GFP)?;
        Ok(packet)
    }

    fn next_seq(&self) -> u32 {
        self.oldest.wrapping_add(self.kept.len() as u32)
    }

    /// Puts on the connection what may be there and is not.
    fn push_out(&mut self, fx: &mut impl PeerEffects) {
        let Some(version) = self.version.filter(|_| self.is_connected) else {
            return;
        };
        if version == Version::V3_1 {
            return self.push_out_unkept(fx);
        }
        while self.on_wire < WINDOW.min(self.kept.len()) {
            if self.expected.wrapping_sub(self.acknowledged) > ACK_BEFORE_SEND {
                self.send_ack(fx);
            }
            let Some(packet) = self.kept.get(self.on_wire) else {
                return;
            };
            fx.transmit(packet);
            self.on_wire += 1;
            if self.on_wire > self.ever_on_wire {
                self.ever_on_wire = self.on_wire;
                self.counts.sent += 1;
            } else {
                self.counts.resent += 1;
            }
        }
    }

    /// To a peer of the old version: it acknowledges nothing.
    fn push_out_unkept(&mut self, fx: &mut impl PeerEffects) {
        while let Some(packet) = self.drop_oldest() {
            let inner = packet.get(OPTIONS_LEN..).unwrap_or(&[]);
            if self.end == End::Open {
                self.counts.sent += 1;
                fx.transmit(inner);
            }
        }
    }

    fn drop_oldest(&mut self) -> Option<KVec<u8>> {
        let packet = self.kept.pop()?;
        self.oldest = self.oldest.wrapping_add(1);
        self.on_wire = self.on_wire.saturating_sub(1);
        self.ever_on_wire = self.ever_on_wire.saturating_sub(1);
        self.kept_bytes = self.kept_bytes.saturating_sub(packet.len());
        Some(packet)
    }

    /// A connection is there on which nothing was sent yet. Everything that is not acknowledged is
    /// put on it again.
    pub fn connected(&mut self, now_ms: u64, fx: &mut impl PeerEffects) {
        self.is_connected = true;
        self.forget_sent();
        if self.waits_to_begin() {
            self.close_by_ms = Some(now_ms.saturating_add(CLOSE_MS));
        }
        if self.version == Some(Version::V3_2) {
            // The last one may have been lost with the last connection.
            self.send_ack(fx);
        }
        self.push_out_plain(fx);
        self.push_out(fx);
    }

    fn push_out_plain(&mut self, fx: &mut impl PeerEffects) {
        while self.is_connected && !self.waits_to_begin() {
            let Some(packet) = self.plain.pop() else {
                return;
            };
            self.counts.sent += 1;
            fx.transmit(&packet);
        }
    }

    /// The connection to send on is gone, however it went. What was not sent yet must be thrown
    /// away; it is still kept here.
    pub fn disconnected(&mut self) {
        self.is_connected = false;
        self.forget_sent();
    }

    /// What was sent may not have arrived.
    fn forget_sent(&mut self) {
        if !fault(Fault::NotResent) {
            self.on_wire = 0;
        }
    }

    /// One packet of the peer, from any connection with it. Returns the lock message or recovery
    /// message in it, which is to be delivered before anything else is received: it never comes
    /// again.
    #[must_use]
    pub fn receive<'p>(
        &mut self,
        now_ms: u64,
        packet: &'p [u8],
        fx: &mut impl PeerEffects,
    ) -> Option<&'p [u8]> {
        let header = Header::decode(packet).filter(|header| header.node == self.node);
        let Some(header) = header else {
            self.counts.malformed += 1;
            return None;
        };
        if let Some(seq) = self.is_old_end(packet) {
            // Our last acknowledgement was lost, and nothing is left to which it belongs. Without
            // memory it is asked for again.
            let _ = self.send_plain(&ack(self.own, seq.wrapping_add(1)), fx);
            return None;
        }
        if self.state == PeerState::Closed {
            if !is_beginning(packet, &header) {
                // Of a conversation that is over here.
                self.counts.gaps += 1;
                return None;
            }
            self.state = PeerState::Established;
        } else if self.is_over() && is_of_member(packet) {
            // It has ended, and is in a lockspace again: it has not waited for our end.
            self.begin_anew(fx);
            self.state = PeerState::Established;
        }
        if *self.version.get_or_insert(header.version) != header.version {
            self.counts.malformed += 1;
            return None;
        }
        let delivered = match (header.command, header.version) {
            (Command::Ack, Version::V3_2) => {
                self.receive_ack(header.lockspace, fx);
                None
            }
            (Command::Opts, Version::V3_2) => match options::decode(packet) {
                Some(envelope) => self.receive_sequenced(now_ms, &envelope, fx),
                None => self.refuse(),
            },
            (Command::Rcom, _) if is_plain_rcom(packet, header.version) => Some(packet),
            (Command::Message, Version::V3_1) if packet.len() >= MESSAGE_LEN => Some(packet),
            (Command::Message | Command::Rcom | Command::Fin, _)
            | (Command::Opts | Command::Ack, Version::V3_1) => self.refuse(),
        };
        self.counts.received += u64::from(delivered.is_some());
        self.push_out(fx);
        delivered
    }

    /// Counts a packet that nobody should have sent: nothing of it is delivered.
    fn refuse<'p>(&mut self) -> Option<&'p [u8]> {
        self.counts.malformed += 1;
        None
    }

    /// The sequence of an end that belongs to a conversation that is over here: it comes when there
    /// is none, or before anything else of the one there is.
    fn is_old_end(&self, packet: &[u8]) -> Option<u32> {
        let end = options::decode(packet).filter(|e| e.header.command == Command::Fin)?;
        let first = !self.has_begun && end.seq != 0;
        (self.state == PeerState::Closed || first).then_some(end.seq)
    }

    /// Whether the peer has ended and says nothing more.
    fn is_over(&self) -> bool {
        matches!(self.state, PeerState::CloseWait | PeerState::LastAck)
    }

    fn receive_sequenced<'p>(
        &mut self,
        now_ms: u64,
        envelope: &Envelope<'p>,
        fx: &mut impl PeerEffects,
    ) -> Option<&'p [u8]> {
        match envelope.seq.wrapping_sub(self.expected) as i32 {
            0 => {}
            ..=-1 => {
                self.counts.duplicates += 1;
                self.send_ack(fx);
                return fault(Fault::TakenTwice).then_some(envelope.inner);
            }
            1.. => {
                self.counts.gaps += 1;
                return None;
            }
        }
        self.expected = self.expected.wrapping_add(1);
        self.has_begun = true;
        if self.expected.wrapping_sub(self.acknowledged) > ACK_AFTER_RECEIVE {
            self.send_ack(fx);
        } else if self.ack_due_ms.is_none() {
            self.ack_due_ms = Some(now_ms.saturating_add(ACK_DELAY_MS));
        }
        match envelope.header.command {
            Command::Fin => {
                self.receive_fin(now_ms, fx);
                None
            }
            Command::Message | Command::Rcom => Some(envelope.inner),
            Command::Opts | Command::Ack => self.refuse(),
        }
    }

    fn send_ack(&mut self, fx: &mut impl PeerEffects) {
        self.ack_due_ms = None;
        if self.is_connected {
            self.acknowledged = self.expected;
            fx.transmit(&ack(self.own, self.expected));
        }
    }

    fn receive_ack(&mut self, next: u32, fx: &mut impl PeerEffects) {
        let count = next.wrapping_sub(self.oldest) as usize;
        if count > self.ever_on_wire {
            // Of an earlier connection, overtaken by a later one.
            return;
        }
        for _ in 0..count {
            self.drop_oldest();
        }
        let End::Queued(seq) = self.end else {
            return;
        };
        if (seq.wrapping_sub(self.oldest) as i32) < 0 {
            match self.state {
                PeerState::FinWait1 if self.users > 0 => self.finish(fx),
                PeerState::FinWait1 => self.state = PeerState::FinWait2,
                PeerState::Closing | PeerState::LastAck => self.finish(fx),
                PeerState::Closed
                | PeerState::Established
                | PeerState::FinWait2
                | PeerState::CloseWait => {}
            }
        }
    }

    fn receive_fin(&mut self, now_ms: u64, fx: &mut impl PeerEffects) {
        self.send_ack(fx);
        match self.state {
            PeerState::Established if self.users > 0 => self.state = PeerState::CloseWait,
            PeerState::Established => self.start_end(now_ms, PeerState::LastAck, fx),
            PeerState::FinWait1 => self.state = PeerState::Closing,
            PeerState::FinWait2 => self.finish(fx),
            PeerState::Closed | PeerState::CloseWait | PeerState::LastAck | PeerState::Closing => {
                self.counts.malformed += 1
            }
        }
    }

    /// The peer became a member of another lockspace.
    pub fn member_added(&mut self, now_ms: u64) {
        if self.users == 0 {
            match self.state {
                PeerState::Established => {}
                PeerState::Closed => self.state = PeerState::Established,
                // It must learn first that we have ended.
                PeerState::FinWait1 | PeerState::LastAck | PeerState::Closing => {
                    self.close_by_ms = Some(now_ms.saturating_add(CLOSE_MS));
                }
                // It knows.
                PeerState::FinWait2 | PeerState::CloseWait => {
                    self.reset();
                    self.state = PeerState::Established;
                }
            }
        }
        self.users = self.users.saturating_add(1);
    }

    /// The peer is no longer a member of one lockspace.
    pub fn member_removed(&mut self, now_ms: u64, fx: &mut impl PeerEffects) {
        self.users = self.users.saturating_sub(1);
        if self.users > 0 {
            return;
        }
        // Nobody is left who said it.
        self.later = Ring::new();
        if self.state == PeerState::CloseWait {
            self.start_end(now_ms, PeerState::LastAck, fx);
        }
    }

    /// No lockspace is left on this node. [`PeerEffects::closed`] follows, now or after the peer's
    /// part, or when it does not come in time.
    pub fn shutdown(&mut self, now_ms: u64, fx: &mut impl PeerEffects) {
        match self.state {
            PeerState::Closed => fx.closed(),
            PeerState::Established if self.version == Some(Version::V3_2) => {
                self.start_end(now_ms, PeerState::FinWait1, fx);
            }
            // It has not said anything yet, or knows no orderly end.
            PeerState::Established => self.finish(fx),
            PeerState::CloseWait => self.start_end(now_ms, PeerState::LastAck, fx),
            PeerState::FinWait1 | PeerState::FinWait2 | PeerState::LastAck | PeerState::Closing => {
            }
        }
    }

    fn start_end(&mut self, now_ms: u64, state: PeerState, fx: &mut impl PeerEffects) {
        self.state = state;
        self.end = End::Wanted;
        self.close_by_ms = Some(now_ms.saturating_add(CLOSE_MS));
        self.queue_end(now_ms, fx);
    }

    fn queue_end(&mut self, now_ms: u64, fx: &mut impl PeerEffects) {
        let seq = self.next_seq();
        match self.keep(&fin(self.own)) {
            Ok(()) => {
                self.end = End::Queued(seq);
                self.end_retry_ms = None;
                self.push_out(fx);
            }
            Err(_no_memory) => {
                self.end_retry_ms = Some(now_ms.saturating_add(MEMORY_RETRY_MS));
            }
        }
    }

    /// The conversation is over. If there is use for another one, it begins.
    fn finish(&mut self, fx: &mut impl PeerEffects) {
        fx.closed();
        self.begin_anew(fx);
    }

    /// Begins the next conversation with what waited for it.
    fn begin_anew(&mut self, fx: &mut impl PeerEffects) {
        let mut kept = core::mem::replace(&mut self.later, Ring::new());
        let plain = core::mem::replace(&mut self.plain, Ring::new());
        let waited = self.waits_to_begin();
        self.reset();
        if !waited {
            return;
        }
        for at in 0..kept.len() {
            let Some(packet) = kept.get_mut(at) else {
                break;
            };
            options::renumber(packet, self.oldest.wrapping_add(at as u32));
            self.kept_bytes += packet.len();
        }
        self.kept = kept;
        self.plain = plain;
        self.push_out_plain(fx);
    }

    /// The node has no lockspaces, and no connections for now. An end of which the peer may not
    /// know is kept, for the peer would go on counting when there is one again.
    pub fn rest(&mut self) {
        if self.is_end_unknown() {
            self.plain = Ring::new();
        } else {
            self.reset();
        }
    }

    /// Forgets everything but who uses the peer: it is another incarnation from now on. What is
    /// still on a connection with the old one must not be received any more.
    pub fn reset(&mut self) {
        let fresh = Self::new(self.own, self.node);
        let counts = self.counts;
        *self = Self {
            state: match self.users {
                0 => PeerState::Closed,
                _used => PeerState::Established,
            },
            users: self.users,
            is_connected: self.is_connected,
            ..fresh
        };
        self.counts = counts;
    }

    /// When [`Peer::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Option<u64> {
        let due = [self.ack_due_ms, self.end_retry_ms, self.close_by_ms];
        due.into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now_ms: u64, fx: &mut impl PeerEffects) {
        let is_due = |at: Option<u64>| at.is_some_and(|at| at <= now_ms);
        if is_due(self.ack_due_ms) {
            self.send_ack(fx);
        }
        if is_due(self.end_retry_ms) {
            self.queue_end(now_ms, fx);
        }
        if is_due(self.close_by_ms) {
            self.close_late(now_ms, fx);
        }
    }

    /// The peer has not done its part of an orderly end in time.
    fn close_late(&mut self, now_ms: u64, fx: &mut impl PeerEffects) {
        match self.state {
            // It does not know that we have ended, and goes on counting: it must learn that before
            // anything new is said to it.
            PeerState::FinWait1 | PeerState::Closing | PeerState::LastAck
                if !(self.users > 0 && self.is_connected) =>
            {
                self.close_by_ms = Some(now_ms.saturating_add(CLOSE_MS));
                if !core::mem::replace(&mut self.is_late, true) {
                    fx.closed();
                }
            }
            // It has done nothing about it over a connection, so it has forgotten.
            PeerState::FinWait1 | PeerState::Closing | PeerState::LastAck => self.finish(fx),
            PeerState::Closed
            | PeerState::Established
            | PeerState::FinWait2
            | PeerState::CloseWait => self.finish(fx),
        }
    }

    /// Sequences that are about to wrap.
    #[cfg(test)]
    fn start_at(&mut self, sent: u32, received: u32) {
        self.oldest = sent;
        self.expected = received;
        self.acknowledged = received;
    }
}

/// Whether a conversation may begin with a packet.
fn is_beginning(packet: &[u8], header: &Header) -> bool {
    match header.command {
        Command::Opts => header.lockspace == 0 && options::decode(packet).is_some(),
        Command::Rcom => is_plain_rcom(packet, header.version),
        Command::Message => header.version == Version::V3_1,
        Command::Ack | Command::Fin => false,
    }
}

/// Whether only a member of a lockspace says this: it asks for the state of a lockspace, or has
/// one.
fn is_of_member(packet: &[u8]) -> bool {
    Rcom::decode(packet).is_some_and(|rcom| match rcom.kind {
        RcomKind::Status => true,
        RcomKind::StatusReply => rcom.result != NOT_READY,
        RcomKind::Names
        | RcomKind::NamesReply
        | RcomKind::Lookup
        | RcomKind::LookupReply
        | RcomKind::Lock
        | RcomKind::LockReply => false,
    })
}

/// Whether a recovery message may come without envelope.
fn is_plain_rcom(packet: &[u8], version: Version) -> bool {
    packet.len() >= RCOM_LEN
        && Rcom::decode(packet)
            .is_some_and(|rcom| version == Version::V3_1 || rcom.kind.may_be_plain())
}
