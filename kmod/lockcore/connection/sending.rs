// SPDX-License-Identifier: GPL-2.0-only
//! The connection that is sent on: when one is made, when the attempt is given up, and what follows
//! when it breaks.

use super::{Config, ConnectionEffects, ConnectionId, Connections, Ending};
use super::{Seen, SocketState, Suspicion};
use crate::lockcore::fault::{fault, Fault};

/// A connection that takes longer to make is given up: the next attempt may find the peer faster
/// than the growing pauses of TCP, ms.
pub(super) const CONNECT_MS: u64 = 3_000;
/// Pause after the first failed attempt; doubles with every further one, ms.
pub(super) const RETRY_MS_MIN: u64 = 100;
/// Longest pause between attempts, as of in-tree nodes, ms.
pub(super) const RETRY_MS_MAX: u64 = 1_000;
/// Failed attempts in a row after which membership is told.
pub(super) const FAILURES_TOLD: u32 = 3;
/// When nothing could be sent for so long, membership is told, ms.
pub(super) const STUCK_MS: u64 = 3_000;
/// When TCP has repeated the same bytes so often, membership is told: after about 1.4 s of silence
/// on a fast network.
pub(super) const STUCK_RETRANSMITS: u32 = 3;
/// How often a connection with something unconfirmed on it is looked at, ms.
pub(super) const CHECK_MS: u64 = 500;

/// Where the connection that is sent on stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// There is none; a new one no earlier than `retry_at`, after so many failures in a row.
    None { retry_at: u64, failures: u32 },
    /// Being made since then, after so many failures in a row.
    Connecting {
        id: ConnectionId,
        since: u64,
        failures: u32,
    },
    /// It works.
    Up { id: ConnectionId },
}

impl Sending {
    /// There is none, and one may be made at once.
    pub(super) const NONE: Self = Sending::None {
        retry_at: 0,
        failures: 0,
    };

    /// The connection, made or not.
    pub(super) fn id(self) -> Option<ConnectionId> {
        match self {
            Sending::None { .. } => None,
            Sending::Connecting { id, .. } | Sending::Up { id } => Some(id),
        }
    }
}

impl<A: Copy + PartialEq> Connections<A> {
    /// Whether a connection with the peer is of use.
    fn wants_connection(&self) -> bool {
        self.is_open() && (self.peer.users() > 0 || self.peer.needs_connection())
    }

    /// When [`Connections::step`] has something to do although nothing happens; `u64::MAX`: never.
    pub fn next_due(&self, seen: &Seen) -> u64 {
        if !seen.is_running || !self.is_open() {
            return u64::MAX;
        }
        let connection = match self.sending {
            Sending::None { .. } if !self.wants_connection() => u64::MAX,
            Sending::None { .. } if self.is_reached(seen) => 0,
            Sending::None { retry_at, .. } => retry_at,
            Sending::Connecting { since, .. } => since.saturating_add(CONNECT_MS),
            Sending::Up { .. } if self.peer.unacked() > 0 || self.blocked_since.is_some() => {
                self.checked_at.saturating_add(CHECK_MS)
            }
            Sending::Up { .. } => u64::MAX,
        };
        connection.min(self.peer.next_timeout().unwrap_or(u64::MAX))
    }

    /// Does what is due, and sees to the connection to send on. Returns it if it is there.
    pub fn step(
        &mut self,
        now_ms: u64,
        seen: &Seen,
        fx: &mut impl ConnectionEffects,
    ) -> Option<ConnectionId> {
        if self.peer.next_timeout().is_some_and(|due| due <= now_ms) {
            self.peer.handle_timeout(now_ms, fx);
        }
        if !seen.is_running || !self.is_open() {
            return None;
        }
        match self.sending {
            Sending::None { retry_at, failures } => {
                self.begin(now_ms, retry_at, failures, seen, fx)
            }
            Sending::Connecting {
                id,
                since,
                failures,
            } => self.see_to_attempt(now_ms, id, since, failures, seen, fx),
            Sending::Up { .. } => self.check(now_ms, seen, fx),
        }
        match self.sending {
            Sending::None { .. } | Sending::Connecting { .. } => None,
            Sending::Up { id } => Some(id),
        }
    }

    /// Whether there is a connection that the peer made and nothing is sent on.
    fn is_reached(&self, seen: &Seen) -> bool {
        self.receiving.is_some() && seen.receiving == SocketState::Established
    }

    /// If a connection is of use: takes the one that the peer made, or begins one if it is time
    /// for it.
    fn begin(
        &mut self,
        now_ms: u64,
        retry_at: u64,
        failures: u32,
        seen: &Seen,
        fx: &mut impl ConnectionEffects,
    ) {
        if !self.wants_connection() {
            return;
        }
        // Its connection serves both ways, and whether ours comes about nobody knows.
        if let Some(id) = self.receiving.filter(|_| self.is_reached(seen)) {
            self.receiving = None;
            return self.connected(now_ms, id, fx);
        }
        if now_ms < retry_at {
            return;
        }
        let id = self.name();
        self.sending = Sending::Connecting {
            id,
            since: now_ms,
            failures,
        };
        fx.connect(id);
    }

    fn see_to_attempt(
        &mut self,
        now_ms: u64,
        id: ConnectionId,
        since: u64,
        failures: u32,
        seen: &Seen,
        fx: &mut impl ConnectionEffects,
    ) {
        match seen.sending {
            SocketState::Established => self.connected(now_ms, id, fx),
            SocketState::Connecting if now_ms < since.saturating_add(CONNECT_MS) => {}
            SocketState::Connecting | SocketState::Closed => {
                fx.give_up(id, Ending::Reset);
                self.attempt_failed(now_ms, failures, fx);
            }
        }
    }

    /// Looks whether what was sent gets through.
    fn check(&mut self, now_ms: u64, seen: &Seen, fx: &mut impl ConnectionEffects) {
        if now_ms < self.checked_at.saturating_add(CHECK_MS) {
            return;
        }
        self.checked_at = now_ms;
        let waited = self
            .blocked_since
            .map_or(0, |since| now_ms.saturating_sub(since));
        if waited >= STUCK_MS || seen.retransmits >= STUCK_RETRANSMITS {
            self.suspect(Suspicion::SendStuck, fx);
        } else if self.suspicion == Suspicion::SendStuck && seen.retransmits == 0 && waited == 0 {
            self.suspect(Suspicion::None, fx);
        }
    }

    /// A connection works: whatever the peer has not acknowledged goes out on it.
    fn connected(&mut self, now_ms: u64, id: ConnectionId, fx: &mut impl ConnectionEffects) {
        self.sending = Sending::Up { id };
        fx.send_on(id);
        if !(fault(Fault::NotRepeated) && self.peer.is_connected()) {
            self.peer.connected(now_ms, fx);
        }
        self.suspect(Suspicion::None, fx);
    }

    /// There is no connection to send on any more; the next attempt is made after a pause.
    fn lost(&mut self, now_ms: u64, failures: u32) {
        let pause = RETRY_MS_MIN << failures.min(8);
        if !fault(Fault::NotRepeated) {
            self.peer.disconnected();
        }
        self.blocked_since = None;
        self.sending = Sending::None {
            retry_at: match fault(Fault::NeverRetried) {
                true => u64::MAX,
                false => now_ms.saturating_add(pause.min(RETRY_MS_MAX)),
            },
            failures: failures.saturating_add(1),
        };
    }

    fn attempt_failed(&mut self, now_ms: u64, failures: u32, fx: &mut impl ConnectionEffects) {
        self.lost(now_ms, failures);
        if failures.saturating_add(1) >= FAILURES_TOLD {
            self.suspect(Suspicion::ConnectFailed, fx);
        }
    }

    /// A connection that was to be made could not even be begun.
    pub fn not_begun(&mut self, now_ms: u64, id: ConnectionId, fx: &mut impl ConnectionEffects) {
        match self.sending {
            Sending::Connecting {
                id: this, failures, ..
            } if this == id => self.attempt_failed(now_ms, failures, fx),
            Sending::None { .. } | Sending::Connecting { .. } | Sending::Up { .. } => {}
        }
    }

    /// A connection has ended, as its reader or its sender found.
    pub fn broken(
        &mut self,
        now_ms: u64,
        id: ConnectionId,
        ending: Ending,
        fx: &mut impl ConnectionEffects,
    ) {
        if !self.uses(id) {
            return;
        }
        // An in-tree node that leaves waits for this end to close in order, too.
        fx.give_up(id, ending);
        if self.receiving == Some(id) {
            self.receiving = None;
            return;
        }
        match self.sending {
            Sending::None { .. } => {}
            Sending::Connecting { failures, .. } => self.attempt_failed(now_ms, failures, fx),
            Sending::Up { .. } if fault(Fault::EndedSentOn) => {}
            Sending::Up { .. } => {
                self.lost(now_ms, 0);
                // That a peer closes in order, or one nobody shares a lockspace with, is no
                // surprise.
                if self.peer.users() > 0 && ending == Ending::Reset {
                    self.suspect(Suspicion::Reset, fx);
                }
            }
        }
    }

    /// The peer has made a connection, which has this name now.
    pub fn accepted(&mut self, now_ms: u64, id: ConnectionId, fx: &mut impl ConnectionEffects) {
        if self.is_closed {
            return fx.give_up(id, Ending::Reset);
        }
        let Config { is_up, .. } = self.config;
        match self.sending {
            Sending::None { .. } if is_up => self.connected(now_ms, id, fx),
            Sending::None { .. } | Sending::Connecting { .. } | Sending::Up { .. } => {
                if let Some(before) = self.receiving.replace(id) {
                    fx.give_up(before, Ending::Reset);
                }
            }
        }
    }

    /// A connection takes no more bytes for now.
    pub fn blocked(&mut self, now_ms: u64, id: ConnectionId) {
        if self.sending.id() == Some(id) {
            self.blocked_since.get_or_insert(now_ms);
        }
    }

    /// A connection has taken bytes.
    pub fn has_sent(&mut self, id: ConnectionId) {
        if self.sending.id() == Some(id) {
            self.blocked_since = None;
        }
    }
}
