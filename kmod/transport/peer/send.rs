// SPDX-License-Identifier: GPL-2.0-only
//! The work item that makes connections and sends.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::{
    PeerNode,
    Sending,
    State, //
};
use crate::ffi::socket::{
    Connection,
    Socket,
    Watched, //
};
use crate::ffi::time::now_ms;
use crate::transport::link::{
    Link,
    Waker, //
};
use crate::transport::PORT;
use crate::uapi::netlink::Suspicion;

/// A connection that takes longer to make is given up: the next attempt may find the peer faster
/// than the growing pauses of TCP.
const CONNECT_MS: u64 = 3000;
/// Pause after the first failed attempt; doubles with every further one.
const RETRY_MS_MIN: u64 = 100;
/// Longest pause between attempts, as of in-tree nodes.
const RETRY_MS_MAX: u64 = 1000;
/// Failed attempts after which membership is told.
const FAILURES_TOLD: u32 = 3;
/// When nothing could be sent for so long, membership is told.
const STUCK_MS: u64 = 3000;
/// When TCP has repeated the same data so often, membership is told: after about 1.4 s of silence
/// on a fast network.
const STUCK_RETRANSMITS: u32 = 3;
/// How often a connection with something unconfirmed on it is looked at.
const CHECK_MS: u64 = 500;
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

impl State {
    /// Whether a connection to the peer is of use.
    fn wants_connection(&self) -> bool {
        self.is_open() && (self.peer.users() > 0 || self.peer.needs_connection())
    }

    /// Whether there is a connection that the peer made and nothing is sent on.
    fn is_reached(&self) -> bool {
        let link = self.receiving.as_ref();
        link.is_some_and(|link| link.socket.state() == Connection::Established)
    }

    /// When the work item has to look without being asked.
    fn next_due(&self, is_running: bool) -> u64 {
        if !is_running || !self.is_open() {
            return u64::MAX;
        }
        let connection = match &self.sending {
            Sending::None { .. } if self.wants_connection() && self.is_reached() => 0,
            Sending::None { retry_at, .. } if self.wants_connection() => *retry_at,
            Sending::None { .. } => u64::MAX,
            Sending::Connecting { since, .. } => since.saturating_add(CONNECT_MS),
            Sending::Up { .. } if self.peer.unacked() > 0 || self.blocked_since.is_some() => {
                self.checked_at.saturating_add(CHECK_MS)
            }
            Sending::Up { .. } => u64::MAX,
        };
        connection.min(self.peer.next_timeout().unwrap_or(u64::MAX))
    }

    /// The connection in use has ended; the next attempt is made after a pause.
    fn failed(&mut self, now: u64, failures: u32) {
        let pause = RETRY_MS_MIN << failures.min(8);
        self.peer.disconnected();
        self.out.clear();
        self.blocked_since = None;
        self.sending = Sending::None {
            retry_at: now.saturating_add(pause.min(RETRY_MS_MAX)),
            failures: failures.saturating_add(1),
        };
    }

    /// Looks whether what was sent gets through. Returns what is news.
    fn check(&mut self, now: u64, link: &Link) -> Option<Suspicion> {
        self.checked_at = now;
        let waited = self
            .blocked_since
            .map_or(0, |since| now.saturating_sub(since));
        let repeated = link.socket.retransmits();
        let suspicion = if waited >= STUCK_MS || repeated >= STUCK_RETRANSMITS {
            Suspicion::SendStuck
        } else if self.suspicion == Suspicion::SendStuck && repeated == 0 && waited == 0 {
            Suspicion::None
        } else {
            return None;
        };
        self.suspect(suspicion).then_some(suspicion)
    }

    /// `link` works: whatever the peer has not acknowledged goes out on it. True if that cures a
    /// suspicion.
    fn connected(&mut self, now: u64, link: Arc<Link>) -> bool {
        self.sending = Sending::Up { link };
        self.out.clear();
        self.talk(|peer, fx| peer.connected(now, fx));
        self.suspect(Suspicion::None)
    }
}

/// What the work item does next.
enum Next {
    /// Send on this connection.
    Send(Arc<Link>),
    /// Wait for something to happen.
    Wait,
}

impl PeerNode {
    /// When the work item has to look without being asked.
    pub(in crate::transport) fn next_due(&self) -> u64 {
        self.state.lock().next_due(self.shared.is_running())
    }

    /// Sees to the connection and sends what there is to send.
    pub(super) fn transmit(self: &Arc<Self>) {
        let mut outbox = self.outbox.lock();
        loop {
            let Next::Send(link) = self.next() else {
                // What was under way belongs to a connection that is no more.
                *outbox = Outbox::new();
                break;
            };
            outbox.turn_to(&link);
            if outbox.rest().is_empty() {
                outbox.clear();
                core::mem::swap(&mut outbox.bytes, &mut self.state.lock().out);
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

    /// Sends once; false if there is nothing more to do until something happens.
    fn push(self: &Arc<Self>, link: &Arc<Link>, outbox: &mut Outbox) -> bool {
        match link.socket.send(outbox.rest()) {
            Ok(sent) => {
                outbox.done += sent;
                self.state.lock().blocked_since = None;
                true
            }
            Err(e) if e == EAGAIN => {
                self.state.lock().blocked_since.get_or_insert(now_ms());
                false
            }
            Err(e) => {
                self.broken(link, Some(e));
                true
            }
        }
    }

    /// Runs what is due, and finds the connection to send on or makes one.
    fn next(self: &Arc<Self>) -> Next {
        let now = now_ms();
        let mut dropped = None;
        let mut news = None;
        let next = {
            let mut state = self.state.lock();
            if state.peer.next_timeout().is_some_and(|due| due <= now) {
                let ((), ended) = state.talk(|peer, fx| peer.handle_timeout(now, fx));
                self.settle(ended);
            }
            if self.shared.is_running() && state.is_open() {
                self.see_to_connection(&mut state, now, &mut dropped, &mut news)
            } else {
                Next::Wait
            }
        };
        drop(dropped);
        self.report(news);
        next
    }

    fn see_to_connection(
        self: &Arc<Self>,
        state: &mut State,
        now: u64,
        dropped: &mut Option<Arc<Link>>,
        news: &mut Option<Suspicion>,
    ) -> Next {
        let (link, since, failures) = match &state.sending {
            Sending::Up { link } => {
                let link = link.clone();
                if now >= state.checked_at.saturating_add(CHECK_MS) {
                    *news = state.check(now, &link);
                }
                return Next::Send(link);
            }
            Sending::None { retry_at, failures } => {
                let (retry_at, failures) = (*retry_at, *failures);
                return self.begin(state, now, retry_at, failures, news);
            }
            Sending::Connecting {
                link,
                since,
                failures,
            } => (link.clone(), *since, *failures),
        };
        match link.socket.state() {
            Connection::Established => {
                let is_cured = state.connected(now, link.clone());
                *news = is_cured.then_some(Suspicion::None);
                Next::Send(link)
            }
            Connection::Connecting if now < since.saturating_add(CONNECT_MS) => Next::Wait,
            Connection::Connecting | Connection::Closed => {
                *dropped = Some(link);
                self.attempt_failed(state, now, failures, news);
                Next::Wait
            }
        }
    }

    fn attempt_failed(
        &self,
        state: &mut State,
        now: u64,
        failures: u32,
        news: &mut Option<Suspicion>,
    ) {
        state.failed(now, failures);
        if failures + 1 >= FAILURES_TOLD && state.suspect(Suspicion::ConnectFailed) {
            *news = Some(Suspicion::ConnectFailed);
        }
    }

    /// If a connection is of use: takes the one that the peer made, or begins one if it is time
    /// for it.
    fn begin(
        self: &Arc<Self>,
        state: &mut State,
        now: u64,
        retry_at: u64,
        failures: u32,
        news: &mut Option<Suspicion>,
    ) -> Next {
        if !state.wants_connection() {
            return Next::Wait;
        }
        // Its connection serves both ways, and whether ours comes about nobody knows.
        if let Some(link) = state.is_reached().then(|| state.receiving.take()).flatten() {
            let is_cured = state.connected(now, link.clone());
            *news = is_cured.then_some(Suspicion::None);
            return Next::Send(link);
        }
        if now < retry_at {
            return Next::Wait;
        }
        match self.connect(state) {
            Ok(link) => {
                state.sending = Sending::Connecting {
                    link,
                    since: now,
                    failures,
                };
            }
            Err(_) => self.attempt_failed(state, now, failures, news),
        }
        Next::Wait
    }

    fn connect(self: &Arc<Self>, state: &State) -> Result<Arc<Link>> {
        let waker = Waker::new(self.clone())?;
        let socket = Socket::connect(&self.own.address, &state.config.address, PORT)?;
        let link = Link::new(Watched::new(socket, waker))?;
        // It may be done already, and the peer's first words here.
        self.look();
        self.receive_later();
        Ok(link)
    }

    /// A connection has ended, in order (`None`) or not.
    pub(super) fn broken(self: &Arc<Self>, link: &Arc<Link>, error: Option<Error>) {
        let now = now_ms();
        if error.is_none() {
            // An in-tree node that leaves waits for this end to close in order, too.
            link.socket.end_in_order();
        }
        let is_this = |other: &Arc<Link>| Arc::ptr_eq(other, link);
        let mut news = None;
        let mut state = self.state.lock();
        let failed_attempt = match &state.sending {
            Sending::Connecting { link, failures, .. } if is_this(link) => Some(*failures),
            Sending::None { .. } | Sending::Connecting { .. } | Sending::Up { .. } => None,
        };
        let was_up = matches!(&state.sending, Sending::Up { link } if is_this(link));
        if let Some(failures) = failed_attempt {
            self.attempt_failed(&mut state, now, failures, &mut news);
        } else if was_up {
            state.failed(now, 0);
            // That a peer closes in order, or one nobody shares a lockspace with, is no surprise.
            let is_expected = state.peer.users() == 0 || error.is_none();
            if !is_expected && state.suspect(Suspicion::Reset) {
                news = Some(Suspicion::Reset);
            }
        }
        if state.receiving.as_ref().is_some_and(is_this) {
            state.receiving = None;
        }
        drop(state);
        self.report(news);
        self.look();
    }

    /// The peer has made a connection. Where it is not known to be up, nothing is read from it for
    /// now: a link heals on one side first, and what is refused an in-tree node tries again and
    /// again without a pause.
    pub(in crate::transport) fn accepted(self: &Arc<Self>, socket: Watched<Waker>) {
        let Ok(link) = Link::new(socket) else {
            // The peer tries again.
            return;
        };
        let mut is_cured = false;
        let replaced = {
            let mut state = self.state.lock();
            if state.closed {
                return;
            }
            match &state.sending {
                Sending::None { .. } if state.config.is_up => {
                    is_cured = state.connected(now_ms(), link);
                    None
                }
                Sending::None { .. } | Sending::Connecting { .. } | Sending::Up { .. } => {
                    state.receiving.replace(link)
                }
            }
        };
        drop(replaced);
        self.report(is_cured.then_some(Suspicion::None));
        self.receive_later();
        self.look();
    }
}
