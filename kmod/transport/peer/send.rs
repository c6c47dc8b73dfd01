// SPDX-License-Identifier: GPL-2.0-only
//! The work item that makes connections and sends.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::{
    Link,
    PeerNode,
    Waker, //
};
use crate::ffi::socket::{
    Socket,
    Watched, //
};
use crate::ffi::time::now_ms;
use crate::lockcore::connection::{
    ConnectionId,
    Ending, //
};
use crate::transport::PORT;

/// Buffers larger than this are given back when they are empty.
const BUFFER_KEPT: usize = 256 * 1024;

/// What is in the middle of being sent, and on which connection.
pub(super) struct Outbox {
    link: Option<Arc<Link>>,
    bytes: KVVec<u8>,
    done: usize,
}

impl Outbox {
    /// Nothing is.
    pub(super) const fn new() -> Self {
        Self {
            link: None,
            bytes: KVVec::new(),
            done: 0,
        }
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.done..).unwrap_or(&[])
    }

    /// Goes on with `link`. What is left of another one is repeated by the conversation.
    fn turn_to(&mut self, link: &Arc<Link>) {
        if !self.link.as_ref().is_some_and(|old| Arc::ptr_eq(old, link)) {
            self.link = Some(link.clone());
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.done = 0;
        if self.bytes.capacity() > BUFFER_KEPT {
            self.bytes = KVVec::new();
        } else {
            self.bytes.clear();
        }
    }
}

impl PeerNode {
    /// When the work item has to look without being asked.
    pub(in crate::transport) fn next_due(&self) -> u64 {
        let is_running = self.shared.is_running();
        let state = self.state.lock();
        state.machine.next_due(&state.seen(is_running))
    }

    /// Sees to the connection and sends what there is to send.
    pub(super) fn transmit(self: &Arc<Self>) {
        let mut outbox = self.outbox.lock();
        loop {
            let Some(link) = self.next() else {
                // What was under way belongs to a connection that is no more.
                *outbox = Outbox::new();
                break;
            };
            outbox.turn_to(&link);
            if outbox.rest().is_empty() {
                outbox.clear();
                core::mem::swap(&mut outbox.bytes, &mut self.state.lock().wires.out);
            }
            if outbox.rest().is_empty() || !self.push(&link, &mut outbox) {
                break;
            }
        }
        let due = self.next_due();
        if due != u64::MAX {
            self.shared.plan(due);
        }
    }

    /// Runs what is due. Returns the connection to send on, if there is one.
    fn next(self: &Arc<Self>) -> Option<Arc<Link>> {
        let is_running = self.shared.is_running();
        let (link, later) = {
            let mut state = self.state.lock();
            let seen = state.seen(is_running);
            let (id, later) = state.call(|machine, fx| machine.step(now_ms(), &seen, fx));
            (state.link(id).cloned(), later)
        };
        self.settle(later);
        link
    }

    /// Sends once; false if there is nothing more to do until something happens.
    fn push(self: &Arc<Self>, link: &Arc<Link>, outbox: &mut Outbox) -> bool {
        match link.socket.send(outbox.rest()) {
            Ok(sent) => {
                outbox.done += sent;
                self.with(|machine, _fx| machine.has_sent(link.id));
                true
            }
            Err(e) if e == EAGAIN => {
                self.with(|machine, _fx| machine.blocked(now_ms(), link.id));
                false
            }
            Err(_) => {
                self.broken(link, Ending::Reset);
                true
            }
        }
    }

    /// Makes the connection that the machine wants.
    pub(super) fn connect(self: &Arc<Self>, id: ConnectionId) {
        let Ok(link) = self.make(id) else {
            self.with(|machine, fx| machine.not_begun(now_ms(), id, fx));
            return self.look();
        };
        let unused = {
            let mut state = self.state.lock();
            match state.machine.uses(id) {
                true => state.wires.links.add(link),
                // Membership has said something meanwhile.
                false => Some(link),
            }
        };
        drop(unused);
        // It may be done already, and the peer's first words here.
        self.look();
        self.receive_later();
    }

    fn make(self: &Arc<Self>, id: ConnectionId) -> Result<Arc<Link>> {
        let waker = Waker::new(self.clone())?;
        let socket = Socket::connect(&self.own.address, &self.config().address, PORT)?;
        Link::new(id, Watched::new(socket, waker))
    }

    /// A connection has ended.
    pub(super) fn broken(self: &Arc<Self>, link: &Arc<Link>, ending: Ending) {
        self.with(|machine, fx| machine.broken(now_ms(), link.id, ending, fx));
        self.look();
    }

    /// The peer has made a connection.
    pub(in crate::transport) fn accepted(self: &Arc<Self>, socket: Watched<Waker>) {
        let id = self.state.lock().machine.name();
        let Ok(link) = Link::new(id, socket) else {
            // The peer tries again.
            return;
        };
        let (unused, later) = {
            let mut state = self.state.lock();
            let ((), later) = state.call(|machine, fx| machine.accepted(now_ms(), id, fx));
            let unused = match state.machine.uses(id) {
                true => state.wires.links.add(link),
                false => Some(link),
            };
            (unused, later)
        };
        drop(unused);
        self.settle(later);
        self.receive_later();
        self.look();
    }
}
