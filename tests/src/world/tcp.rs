// SPDX-License-Identifier: GPL-2.0-only
//! TCP between machines, as far as who uses it can tell.
//!
//! Bytes arrive in order and late, and are sent again while the other machine cannot be reached:
//! nothing is lost with a cut that heals. A reset takes what its sender had not brought out yet and
//! what its receiver had sent; what had arrived can still be read before the error. An orderly end
//! loses nothing, unless its sender had not read everything: then it is a reset. A machine that
//! loses power says nothing, and resets what still comes when it is back. Nobody is accepted who
//! does not listen, and a connection attempt without an answer is repeated until it is given up.

use std::collections::VecDeque;

use dlm_core::lockcore::connection::{ConnectionId, Ending, SocketState};
use dlm_core::lockcore::framer::Framer;

use super::{Event, World, trace};

/// Pause before a connection request without an answer is repeated, ms.
const SYN_MS: u64 = 1_000;

/// Pause before bytes without an answer are sent again for the first time, ms; it doubles.
const RESEND_MS: u64 = 200;

/// How often that pause doubles at most.
const DOUBLED_MAX: u32 = 8;

/// One end of a connection: its number and 0 for who made it, 1 for who accepted it.
pub(super) type Socket = (u64, usize);

/// What travels.
#[derive(Debug)]
enum Segment {
    /// The connection is made.
    Accepted,
    Bytes(Vec<u8>),
    /// The orderly end.
    End,
    Reset,
}

/// One end.
#[derive(Debug)]
pub(super) struct End {
    pub(super) node: u32,
    pub(super) life: u32,
    /// Of the node, when this end was made.
    pub(super) incarnation: u64,
    /// The peer of the node that it belongs to.
    pub(super) with: u32,
    /// What the node's kernel calls it; `None`: it has it no more, or not yet.
    pub(super) name: Option<ConnectionId>,
    state: SocketState,
    /// On the way to this end, with times of arrival.
    coming: VecDeque<(u64, Segment)>,
    /// When the first of it is looked at.
    looked_at: Option<u64>,
    /// Arrived.
    unread: VecDeque<u8>,
    has_ended: bool,
    is_reset: bool,
    /// How often in a row what this end has sent was repeated.
    retransmits: u32,
    /// Its last attempt to send took nothing.
    is_blocked: bool,
}

impl End {
    fn new(node: u32, life: u32, incarnation: u64, with: u32) -> Self {
        Self {
            node,
            life,
            incarnation,
            with,
            name: None,
            state: SocketState::Closed,
            coming: VecDeque::new(),
            looked_at: None,
            unread: VecDeque::new(),
            has_ended: false,
            is_reset: false,
            retransmits: 0,
            is_blocked: false,
        }
    }

    /// Bytes that were sent to this end and not read.
    fn pending(&self) -> usize {
        let coming = self.coming.iter().map(|(_, segment)| match segment {
            Segment::Bytes(bytes) => bytes.len(),
            Segment::Accepted | Segment::End | Segment::Reset => 0,
        });
        coming.sum::<usize>() + self.unread.len()
    }

    /// Keeps the first `len` bytes of what is on the way, and what came before the last of them.
    fn cut(&mut self, mut len: usize) {
        self.coming.retain_mut(|(_, segment)| match segment {
            Segment::Bytes(bytes) => {
                bytes.truncate(len);
                len -= bytes.len();
                !bytes.is_empty()
            }
            Segment::Accepted | Segment::Reset => true,
            Segment::End => false,
        });
    }

    fn close(&mut self) {
        self.name = None;
        self.state = SocketState::Closed;
        self.unread.clear();
    }
}

/// A connection.
pub(super) struct Tcp {
    pub(super) ends: [End; 2],
    /// What the machine that reads an end has not taken apart yet.
    pub(super) framers: [Framer; 2],
}

/// What reading came to.
pub(super) enum Read {
    Bytes(Vec<u8>),
    /// There is nothing now.
    Nothing,
    Ended(Ending),
}

impl World {
    fn end_of(&mut self, (id, side): Socket) -> Option<&mut End> {
        Some(&mut self.connections.get_mut(&id)?.ends[side])
    }

    /// State of a socket; of none at all, closed.
    pub(super) fn socket_state(&self, (id, side): Socket) -> SocketState {
        let connection = self.connections.get(&id);
        connection.map_or(SocketState::Closed, |c| c.ends[side].state)
    }

    /// How often in a row the oldest bytes were sent again.
    pub(super) fn retransmits(&self, (id, side): Socket) -> u32 {
        let connection = self.connections.get(&id);
        connection.map_or(0, |c| c.ends[side].retransmits)
    }

    fn identity(&self, node: u32) -> (u32, u64) {
        let machine = self.machines.get(&node);
        machine.map_or((0, 0), |machine| (machine.life, machine.kernel.life))
    }

    /// Begins to connect.
    pub(super) fn dial(&mut self, node: u32, to: u32, name: ConnectionId) -> Socket {
        let id = self.next_connection;
        self.next_connection += 1;
        let (life, incarnation) = self.identity(node);
        let mut own = End::new(node, life, incarnation, to);
        own.name = Some(name);
        own.state = SocketState::Connecting;
        let ends = [own, End::new(to, 0, 0, node)];
        let framer = || Framer::new().expect("no allocation is made to fail here");
        let framers = [framer(), framer()];
        self.connections.insert(id, Tcp { ends, framers });
        let delay = self.random.within(0, self.plan.wire_ms);
        self.after(delay, Event::Dial { connection: id });
        (id, 0)
    }

    /// A request for a connection arrives, or does not.
    pub(super) fn dialled(&mut self, id: u64) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let (from, to) = (connection.ends[0].node, connection.ends[1].node);
        if connection.ends[0].name.is_none() {
            // Given up.
            self.connections.remove(&id);
            return;
        }
        if !self.is_reached(from, to) {
            self.after(SYN_MS, Event::Dial { connection: id });
            return;
        }
        if !self.listens(to) {
            return self.push((id, 0), Segment::Reset);
        }
        let (life, incarnation) = self.identity(to);
        self.push((id, 0), Segment::Accepted);
        let name = self.link(to, from).map(|link| link.machine.name());
        let Some(end) = self.end_of((id, 1)) else {
            return;
        };
        (end.life, end.incarnation) = (life, incarnation);
        match name {
            Some(name) => {
                (end.name, end.state) = (Some(name), SocketState::Established);
                self.accepted(to, from, name, (id, 1));
            }
            // A stranger is accepted, and closed then.
            None => self.push((id, 0), Segment::Reset),
        }
    }

    fn is_reached(&self, from: u32, to: u32) -> bool {
        let (from, to) = (self.machines.get(&from), self.machines.get(&to));
        from.zip(to)
            .is_some_and(|(from, to)| from.side == to.side && to.up)
    }

    /// Sends something to this end, behind what was sent before.
    fn push(&mut self, to: Socket, segment: Segment) {
        let delay = self.random.within(0, self.plan.wire_ms);
        let now_ms = self.now_ms;
        let Some(end) = self.end_of(to) else {
            return;
        };
        if end.is_reset {
            // There is no connection any more at that end, and its sender is told so.
            if !matches!(segment, Segment::Reset) {
                self.push((to.0, 1 - to.1), Segment::Reset);
            }
            return;
        }
        let at = now_ms + delay;
        match (end.coming.back_mut(), segment) {
            // Nothing comes behind it; what is sent is lost.
            (Some((_, Segment::Reset)), _) => {}
            (Some((last, Segment::Bytes(before))), Segment::Bytes(bytes)) if *last >= at => {
                before.extend(bytes);
            }
            (last, segment) => {
                let at = last.map_or(at, |(last, _)| at.max(*last));
                end.coming.push_back((at, segment));
            }
        }
        self.await_next(to);
    }

    /// Has what comes next looked at when it is there.
    fn await_next(&mut self, (id, side): Socket) {
        let now_ms = self.now_ms;
        let Some(end) = self.end_of((id, side)) else {
            return;
        };
        let Some((at, _)) = end.coming.front() else {
            return;
        };
        let at = (*at).max(now_ms);
        if end.looked_at.is_none_or(|looked_at| looked_at > at) {
            end.looked_at = Some(at);
            self.at(
                at,
                Event::Arrive {
                    connection: id,
                    side,
                },
            );
        }
    }

    /// What is on the way to an end arrives.
    pub(super) fn arrive(&mut self, id: u64, side: usize) {
        let now_ms = self.now_ms;
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let end = &mut connection.ends[side];
        if end.looked_at.is_none_or(|at| at > now_ms) {
            // It was put off.
            return;
        }
        end.looked_at = None;
        while let Some(connection) = self.connections.get_mut(&id) {
            let end = &mut connection.ends[side];
            if end.coming.front().is_none_or(|(at, _)| *at > now_ms) {
                break;
            }
            let (from, to) = (end.with, end.node);
            if !self.is_reached(from, to) {
                return self.resend_later(id, side);
            }
            let Some(connection) = self.connections.get_mut(&id) else {
                return;
            };
            connection.ends[1 - side].retransmits = 0;
            let end = &mut connection.ends[side];
            match end.coming.pop_front() {
                Some((_, segment)) if end.name.is_some() => self.arrived((id, side), segment),
                // There is no such connection any more.
                Some((_, Segment::Bytes(_) | Segment::End | Segment::Accepted)) => {
                    end.coming.clear();
                    self.push((id, 1 - side), Segment::Reset);
                }
                Some((_, Segment::Reset)) | None => {}
            }
        }
        self.await_next((id, side));
        self.tidy_up(id);
    }

    /// The other machine does not answer.
    fn resend_later(&mut self, id: u64, side: usize) {
        let now_ms = self.now_ms;
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let sender = &mut connection.ends[1 - side];
        let doubled = sender.retransmits.min(DOUBLED_MAX);
        sender.retransmits += 1;
        let (node, life) = (sender.node, sender.life);
        let has_socket = sender.name.is_some();
        let at = now_ms + (RESEND_MS << doubled);
        if !self.is_life(node, life) {
            // Nobody is left who would.
            if let Some(end) = self.end_of((id, side)) {
                end.coming.clear();
            }
            return;
        }
        if let Some(end) = self.end_of((id, side)) {
            if !has_socket {
                // A reset is sent once.
                end.coming
                    .retain(|(_, segment)| !matches!(segment, Segment::Reset));
            }
            for (arrival, _) in &mut end.coming {
                *arrival = (*arrival).max(at);
            }
        }
        self.await_next((id, side));
        self.tidy_up(id);
    }

    fn arrived(&mut self, socket: Socket, segment: Segment) {
        let Some(end) = self.end_of(socket) else {
            return;
        };
        let (node, with) = (end.node, end.with);
        match segment {
            Segment::Accepted => end.state = SocketState::Established,
            Segment::Bytes(bytes) => {
                end.unread.extend(bytes);
                return self.receive_later(node, with);
            }
            Segment::End => end.has_ended = true,
            Segment::Reset => {
                end.is_reset = true;
                end.state = SocketState::Closed;
                end.coming.clear();
                self.summary.cuts += 1;
            }
        }
        self.receive_later(node, with);
        self.look_later(node, with);
    }

    /// Sends what there is room for; `None`: the connection is broken.
    pub(super) fn put(&mut self, (id, side): Socket, bytes: &[u8]) -> Option<usize> {
        let room = self.plan.send_buffer;
        let connection = self.connections.get_mut(&id)?;
        let end = &connection.ends[side];
        if end.state != SocketState::Established {
            return None;
        }
        let room = room.saturating_sub(connection.ends[1 - side].pending());
        let len = bytes.len().min(room);
        connection.ends[side].is_blocked = len == 0;
        if len > 0 {
            self.push((id, 1 - side), Segment::Bytes(bytes[..len].to_vec()));
        }
        Some(len)
    }

    /// Reads at most `max` bytes.
    pub(super) fn take(&mut self, (id, side): Socket, max: usize) -> Read {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Read::Nothing;
        };
        let end = &mut connection.ends[side];
        if end.unread.is_empty() {
            return match (end.is_reset, end.has_ended) {
                (true, _) => Read::Ended(Ending::Reset),
                (false, true) => Read::Ended(Ending::InOrder),
                (false, false) => Read::Nothing,
            };
        }
        let len = end.unread.len().min(max);
        let bytes = end.unread.drain(..len).collect();
        let other = &mut connection.ends[1 - side];
        if std::mem::take(&mut other.is_blocked) {
            let (node, with) = (other.node, other.with);
            self.look_later(node, with);
        }
        Read::Bytes(bytes)
    }

    /// Gives a socket up.
    pub(super) fn hang_up(&mut self, (id, side): Socket, ending: Ending) {
        let percent = self.random.within(0, 100) as usize;
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let [own, other] = match side {
            0 => {
                let [own, other] = &mut connection.ends;
                [own, other]
            }
            _ => {
                let [other, own] = &mut connection.ends;
                [own, other]
            }
        };
        let in_order = ending == Ending::InOrder && own.unread.is_empty();
        let is_told = other.name.is_some() && !own.is_reset;
        own.close();
        if is_told && in_order {
            self.push((id, 1 - side), Segment::End);
        } else if is_told {
            // What it had not brought out yet goes with it.
            let len = other.pending() - other.unread.len();
            other.cut(len * percent / 100);
            self.push((id, 1 - side), Segment::Reset);
        }
        self.tidy_up(id);
    }

    /// A connection that nobody has any more is over.
    fn tidy_up(&mut self, id: u64) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        if connection.ends.iter().all(|end| end.name.is_none()) {
            self.connections.remove(&id);
        }
    }

    /// Something between the machines resets a connection.
    pub(super) fn cut_one(&mut self) {
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        let Some(id) = self.random.pick(&ids) else {
            return;
        };
        trace!(self, "connection {id} breaks");
        self.summary.cuts += 1;
        for side in 0..2 {
            let percent = self.random.within(0, 100) as usize;
            if let Some(end) = self.end_of((id, side)).filter(|end| end.name.is_some()) {
                let len = end.pending() - end.unread.len();
                end.cut(len * percent / 100);
                self.push((id, side), Segment::Reset);
            }
        }
    }

    /// A machine is without power: it had sockets, and nobody is told.
    pub(super) fn power_cut(&mut self, node: u32) {
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            let percent = self.random.within(0, 100) as usize;
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            for side in 0..2 {
                if connection.ends[side].node == node {
                    connection.ends[side].close();
                    let other = &mut connection.ends[1 - side];
                    let len = other.pending() - other.unread.len();
                    other.cut(len * percent / 100);
                }
            }
            self.tidy_up(id);
        }
    }
}
