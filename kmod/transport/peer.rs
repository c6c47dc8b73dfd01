// SPDX-License-Identifier: GPL-2.0-only
//! One peer: its conversation (`lockcore/peer.rs`) and its connections.
//!
//! Two work items do everything that touches a socket, each never twice at once. *Receive* reads
//! from both connections a peer may have, feeds packets to the conversation and delivers what comes
//! out of it, in order. *Send* sees to the connection: makes one when there is something for the
//! peer, and pushes what the conversation wants sent into it. A connection that breaks loses what
//! is under way; the conversation repeats it on the next one.
//!
//! Connections by the rules that in-tree nodes keep: a node sends on the connection it made, or on
//! the first it accepted when it had none; one that is accepted beside it only receives while the
//! other is there, and a newer one takes its place.

mod receive;
mod send;

use kernel::{
    impl_has_work,
    new_mutex,
    new_work,
    prelude::*,
    sync::{
        atomic::{
            ordering,
            Atomic, //
        },
        Arc,
        Mutex, //
    },
    workqueue::{
        Work,
        WorkItem, //
    }, //
};

use super::link::Link;
use super::{
    NodeConfig,
    Own,
    PeerInfo,
    Shared, //
};
use crate::ffi::memory::NoReclaim;
use crate::ffi::time::{
    self,
    now_ms, //
};
use crate::lockcore::members::NodeId;
use crate::lockcore::peer::{
    Peer,
    PeerEffects,
    PeerState, //
};
use crate::uapi::netlink::Suspicion;
use send::Outbox;

/// Pause before memory is asked for again.
const NO_MEMORY_MS: u32 = 10;
/// The connection that is sent on.
enum Sending {
    /// There is none; a new one no earlier than `retry_at`, the `failures` before it failed.
    None { retry_at: u64, failures: u32 },
    /// Being made since then.
    Connecting {
        link: Arc<Link>,
        since: u64,
        failures: u32,
    },
    /// Works.
    Up { link: Arc<Link> },
}

struct State {
    config: NodeConfig,
    /// Forgotten by membership, or the module is leaving.
    closed: bool,
    peer: Peer,
    sending: Sending,
    /// The connection that only receives.
    receiving: Option<Arc<Link>>,
    /// What the conversation wants sent on the connection that works.
    out: KVVec<u8>,
    /// Since when nothing more could be sent although there is something.
    blocked_since: Option<u64>,
    /// When it was last seen whether what was sent gets through.
    checked_at: u64,
    suspicion: Suspicion,
}

/// See the head of this file.
#[pin_data]
pub(super) struct PeerNode {
    node: NodeId,
    own: Own,
    shared: Arc<Shared>,
    /// Packets that no lockspace could read.
    unreadable: Atomic<u64>,
    #[pin]
    state: Mutex<State>,
    #[pin]
    outbox: Mutex<Outbox>,
    #[pin]
    receive: Work<PeerNode, 0>,
    #[pin]
    send: Work<PeerNode, 1>,
}

impl_has_work! {
    impl HasWork<Self, 0> for PeerNode { self.receive }
}
impl_has_work! {
    impl HasWork<Self, 1> for PeerNode { self.send }
}

impl WorkItem<0> for PeerNode {
    type Pointer = Arc<PeerNode>;

    fn run(this: Arc<PeerNode>) {
        let _memory = NoReclaim::enter();
        this.receive_all();
    }
}

impl WorkItem<1> for PeerNode {
    type Pointer = Arc<PeerNode>;

    fn run(this: Arc<PeerNode>) {
        let _memory = NoReclaim::enter();
        this.transmit();
    }
}

/// Appends to a buffer, however long memory takes: what is appended was accepted.
fn append(buffer: &mut KVVec<u8>, bytes: &[u8]) {
    while buffer.extend_from_slice(bytes, GFP_KERNEL).is_err() {
        time::sleep_ms(NO_MEMORY_MS);
    }
}

/// Which directions have ended: bit 2 ours, bit 3 the peer's.
fn ended_bits(state: PeerState) -> u32 {
    const OURS: u32 = 1 << 2;
    const ITS: u32 = 1 << 3;
    match state {
        PeerState::Closed | PeerState::Established => 0,
        PeerState::FinWait1 | PeerState::FinWait2 => OURS,
        PeerState::CloseWait => ITS,
        PeerState::LastAck | PeerState::Closing => OURS | ITS,
    }
}

/// Takes what a conversation wants done.
struct Fx<'a> {
    /// Where packets for the peer go; `None`: there is no connection, they are repeated on the
    /// next one.
    out: Option<&'a mut KVVec<u8>>,
    /// The conversation has ended.
    ended: bool,
}

impl PeerEffects for Fx<'_> {
    fn transmit(&mut self, bytes: &[u8]) {
        if let Some(out) = &mut self.out {
            append(out, bytes);
        }
    }

    fn closed(&mut self) {
        self.ended = true;
    }
}

impl State {
    /// Whether packets may flow.
    fn is_open(&self) -> bool {
        self.config.is_up && !self.closed
    }

    /// Calls `f` with the conversation. Returns also whether the conversation has ended by that.
    fn talk<R>(&mut self, f: impl FnOnce(&mut Peer, &mut Fx<'_>) -> R) -> (R, bool) {
        let is_up = matches!(self.sending, Sending::Up { .. });
        let mut fx = Fx {
            out: is_up.then_some(&mut self.out),
            ended: false,
        };
        let result = f(&mut self.peer, &mut fx);
        (result, fx.ended)
    }

    /// Takes both connections away, to be dropped without the lock. To be called before the
    /// conversation is reset: it says whether they end in order.
    fn disconnect(&mut self) -> (Sending, Option<Arc<Link>>) {
        if self.peer.state() == PeerState::Closed {
            let links = [self.sending_link(), self.receiving.as_ref()];
            for link in links.into_iter().flatten() {
                link.socket.end_in_order();
            }
        }
        self.peer.disconnected();
        self.out.clear();
        self.blocked_since = None;
        let none = Sending::None {
            retry_at: 0,
            failures: 0,
        };
        let sending = core::mem::replace(&mut self.sending, none);
        (sending, self.receiving.take())
    }

    /// The connection to send on, made or not.
    fn sending_link(&self) -> Option<&Arc<Link>> {
        match &self.sending {
            Sending::None { .. } => None,
            Sending::Connecting { link, .. } | Sending::Up { link } => Some(link),
        }
    }

    /// Whether `link` is a connection in use.
    fn uses(&self, link: &Arc<Link>) -> bool {
        let mut used = [self.sending_link(), self.receiving.as_ref()]
            .into_iter()
            .flatten();
        used.any(|used| Arc::ptr_eq(used, link))
    }

    /// Notes why the peer is doubted; true if that is news.
    fn suspect(&mut self, suspicion: Suspicion) -> bool {
        // A peer that is not in the view is no news.
        let is_news = self.suspicion != suspicion && self.is_open();
        self.suspicion = suspicion;
        is_news
    }
}

impl PeerNode {
    /// A peer that membership has named.
    pub(super) fn new(
        shared: Arc<Shared>,
        own: Own,
        node: NodeId,
        config: NodeConfig,
    ) -> Result<Arc<Self>> {
        let state = State {
            config,
            closed: false,
            peer: Peer::new(own.node, node),
            sending: Sending::None {
                retry_at: 0,
                failures: 0,
            },
            receiving: None,
            out: KVVec::new(),
            blocked_since: None,
            checked_at: 0,
            suspicion: Suspicion::None,
        };
        Arc::pin_init(
            pin_init!(Self {
                node,
                own,
                shared,
                unreadable: Atomic::new(0u64),
                state <- new_mutex!(state, "dlm_peer"),
                outbox <- new_mutex!(Outbox::new(), "dlm_outbox"),
                receive <- new_work!("dlm_receive"),
                send <- new_work!("dlm_send"),
            }),
            GFP_KERNEL,
        )
    }

    /// Who.
    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    /// As membership has it.
    pub(super) fn config(&self) -> NodeConfig {
        self.state.lock().config
    }

    /// Has the work item for receiving look. That it is queued already is fine.
    pub(super) fn receive_later(self: &Arc<Self>) {
        let _ = self.shared.queue.enqueue::<Arc<Self>, 0>(self.clone());
    }

    /// Has the work item for sending look. That it is queued already is fine.
    pub(super) fn look(self: &Arc<Self>) {
        let _ = self.shared.queue.enqueue::<Arc<Self>, 1>(self.clone());
    }

    /// Membership has something new about the peer.
    pub(super) fn configure(self: &Arc<Self>, config: NodeConfig) {
        let links = {
            let mut state = self.state.lock();
            let before = core::mem::replace(&mut state.config, config);
            let is_other = before.incarnation != config.incarnation;
            let links = (is_other || !config.is_up || before.address != config.address)
                .then(|| state.disconnect());
            if is_other {
                state.peer.reset();
            }
            if is_other || !config.is_up {
                state.suspicion = Suspicion::None;
            }
            links
        };
        drop(links);
        self.look();
        // It may have connected before it was known to be up.
        self.receive_later();
        // Nobody waits for the goodbye of a peer that is down.
        self.shared.ended.ring();
    }

    /// Ends it: no packet flows any more, and what waited is forgotten.
    pub(super) fn close(&self) {
        let links = {
            let mut state = self.state.lock();
            state.closed = true;
            let links = state.disconnect();
            state.peer.reset();
            links
        };
        drop(links);
        // What is under way belongs to a connection that is no more.
        let rest = core::mem::replace(&mut *self.outbox.lock(), Outbox::new());
        drop(rest);
        self.shared.ended.ring();
    }

    /// No lockspace is left, and the time for goodbyes is over.
    pub(super) fn rest(&self) {
        let links = {
            let mut state = self.state.lock();
            let links = state.disconnect();
            state.peer.reset();
            state.suspicion = Suspicion::None;
            links
        };
        drop(links);
        let rest = core::mem::replace(&mut *self.outbox.lock(), Outbox::new());
        drop(rest);
    }

    /// The peer is a member of one lockspace more.
    pub(super) fn member_added(self: &Arc<Self>) {
        {
            self.state.lock().peer.member_added();
        }
        self.look();
    }

    /// The peer is a member of one lockspace less.
    pub(super) fn member_removed(self: &Arc<Self>) {
        {
            let mut state = self.state.lock();
            let now = now_ms();
            let ((), ended) = state.talk(|peer, fx| peer.member_removed(now, fx));
            self.settle(ended);
        }
        self.look();
    }

    /// This node leaves: ends the conversation in order.
    pub(super) fn say_goodbye(self: &Arc<Self>) {
        {
            let mut state = self.state.lock();
            let now = now_ms();
            let ((), ended) = state.talk(|peer, fx| peer.shutdown(now, fx));
            self.settle(ended);
        }
        self.look();
    }

    /// Whether a goodbye is under way with a peer that can answer it.
    pub(super) fn is_talking(&self) -> bool {
        let state = self.state.lock();
        state.is_open() && state.peer.state() != PeerState::Closed && !state.peer.is_late()
    }

    /// Gives a packet to the peer; see [`super::send`].
    pub(super) fn send(self: &Arc<Self>, packet: &[u8], sequenced: bool) {
        {
            let mut state = self.state.lock();
            if state.closed {
                return;
            }
            let now = now_ms();
            // Accepted, so it may take as long as it takes to get memory. No packet of ours is too
            // long or too short.
            while let (Err(e), _) = state.talk(|peer, fx| peer.send(now, packet, sequenced, fx)) {
                if e != ENOMEM {
                    pr_err!("node {}: a packet of a wrong length\n", self.node.0);
                    return;
                }
                time::sleep_ms(NO_MEMORY_MS);
            }
        }
        self.look();
    }

    /// What a tool may want to know.
    pub(super) fn info(&self) -> PeerInfo {
        let state = self.state.lock();
        let counts = state.peer.counts();
        let unreadable = self.unreadable.load(ordering::Relaxed);
        let refused = [counts.malformed, counts.duplicates, counts.gaps, unreadable];
        PeerInfo {
            node: self.node,
            config: state.config,
            state: state.peer.state(),
            flags: ended_bits(state.peer.state()),
            version: state.peer.version().map_or(0, |version| version.to_raw()),
            suspicion: state.suspicion,
            sent: counts.sent,
            received: counts.received,
            resent: counts.resent,
            dropped: refused.into_iter().fold(0, u64::saturating_add),
            unacked: state.peer.unacked() as u64,
        }
    }

    /// Wakes who waits for the end of a conversation.
    fn settle(&self, ended: bool) {
        if ended {
            self.shared.ended.ring();
        }
    }

    /// Tells membership what is news about the peer.
    fn report(&self, news: Option<Suspicion>) {
        if let Some(suspicion) = news {
            pr_info!("node {}: {}\n", self.node.0, suspicion.name());
            (self.shared.hooks.suspicion_changed)(self.node, suspicion);
        }
    }
}
