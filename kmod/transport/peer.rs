// SPDX-License-Identifier: GPL-2.0-only
//! One peer: the sockets and work items around its connections (`lockcore/connection.rs`), and
//! around the conversation in them (`lockcore/peer.rs`).
//!
//! Two work items do everything that touches a socket, each never twice at once. *Receive* reads
//! from the connections a peer has, feeds packets to the conversation and delivers what comes out
//! of it, in order. *Send* has the machine see to the connection, makes the one it wants, and
//! pushes what the conversation wants sent into it. Everything that is decided is decided by the
//! machine, under the mutex `state`; sockets are made and released without it.

mod receive;
mod send;
mod waker;

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

use super::{
    link,
    NodeConfig,
    Own,
    PeerInfo,
    Shared, //
};
use crate::ffi::memory::{
    NoReclaim,
    Reserves, //
};
use crate::ffi::socket::Address;
use crate::ffi::time::{
    self,
    now_ms, //
};
use crate::lockcore::connection::{
    ConnectionEffects,
    ConnectionId,
    Connections,
    Ending,
    Seen,
    SocketState,
    Suspicion, //
};
use crate::lockcore::members::NodeId;
use crate::lockcore::peer::{
    PeerEffects,
    PeerState, //
};
use send::Outbox;

pub(super) use waker::Waker;

type Link = link::Link<Waker>;
type Links = link::Links<Waker>;

/// Pause before memory is asked for again.
const NO_MEMORY_MS: u32 = 10;

struct State {
    machine: Connections<Address>,
    wires: Wires,
}

/// What the machine decides about.
struct Wires {
    links: Links,
    /// What goes into the connection that is sent on.
    out: KVVec<u8>,
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

/// Appends to a buffer, however long memory takes: what is appended was accepted. It is taken from
/// the reserves, so that this does not wait while the kernel has a page left.
fn append(buffer: &mut KVVec<u8>, bytes: &[u8]) {
    while buffer.extend_from_slice(bytes, GFP_NOWAIT).is_err() {
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

/// Takes what the machine wants done.
struct Fx<'a> {
    wires: &'a mut Wires,
    later: Later,
}

/// What is to be done when the mutex is free.
#[must_use]
#[derive(Default)]
struct Later {
    /// Connections to be released.
    dropped: [Option<Arc<Link>>; 2],
    /// The connection to be made.
    connect: Option<ConnectionId>,
    /// What membership is to be told.
    suspicion: Option<Suspicion>,
    /// The conversation has ended.
    has_ended: bool,
}

impl PeerEffects for Fx<'_> {
    fn transmit(&mut self, bytes: &[u8]) {
        append(&mut self.wires.out, bytes);
    }

    fn closed(&mut self) {
        self.later.has_ended = true;
    }
}

impl ConnectionEffects for Fx<'_> {
    fn connect(&mut self, id: ConnectionId) {
        self.later.connect = Some(id);
    }

    fn send_on(&mut self, _id: ConnectionId) {
        self.wires.out.clear();
    }

    fn give_up(&mut self, id: ConnectionId, ending: Ending) {
        let Some(link) = self.wires.links.take(id) else {
            return;
        };
        match ending {
            Ending::Reset => {}
            Ending::InOrder => link.socket.end_in_order(),
        }
        // There are no more than it has room for.
        if let Some(place) = self.later.dropped.iter_mut().find(|place| place.is_none()) {
            *place = Some(link);
        }
    }

    fn suspect(&mut self, suspicion: Suspicion) {
        self.later.suspicion = Some(suspicion);
    }
}

impl State {
    /// Calls `f` with the machine. What it keeps or sends was decided on before, and who wants the
    /// mutex must not wait for memory.
    fn call<R>(
        &mut self,
        f: impl FnOnce(&mut Connections<Address>, &mut Fx<'_>) -> R,
    ) -> (R, Later) {
        let _reserves = Reserves::enter();
        let mut fx = Fx {
            wires: &mut self.wires,
            later: Later::default(),
        };
        let result = f(&mut self.machine, &mut fx);
        (result, fx.later)
    }

    /// A connection in use whose socket is there.
    fn link(&self, id: Option<ConnectionId>) -> Option<&Arc<Link>> {
        id.and_then(|id| self.wires.links.get(id))
    }

    /// How things are.
    fn seen(&self, is_running: bool) -> Seen {
        let sending = self.link(self.machine.sending());
        let receiving = self.link(self.machine.receiving());
        Seen {
            is_running,
            // Without a socket it is about to be made.
            sending: sending.map_or(SocketState::Connecting, |link| link.state()),
            receiving: receiving.map_or(SocketState::Closed, |link| link.state()),
            retransmits: sending.map_or(0, |link| link.socket.retransmits()),
        }
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
            machine: Connections::new(own.node, node, config),
            wires: Wires {
                links: Links::new(),
                out: KVVec::new(),
            },
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
        self.state.lock().machine.config()
    }

    /// Has the work item for receiving look. That it is queued already is fine.
    pub(super) fn receive_later(self: &Arc<Self>) {
        let _ = self.shared.queue.enqueue::<Arc<Self>, 0>(self.clone());
    }

    /// Has the work item for sending look. That it is queued already is fine.
    pub(super) fn look(self: &Arc<Self>) {
        let _ = self.shared.queue.enqueue::<Arc<Self>, 1>(self.clone());
    }

    /// Calls `f` with the machine, and does what it wants done.
    fn with<R>(self: &Arc<Self>, f: impl FnOnce(&mut Connections<Address>, &mut Fx<'_>) -> R) -> R {
        let (result, later) = self.state.lock().call(f);
        self.settle(later);
        result
    }

    /// Membership has something new about the peer.
    pub(super) fn configure(self: &Arc<Self>, config: NodeConfig) {
        self.with(|machine, fx| machine.configure(config, fx));
        self.look();
        // It may have connected before it was known to be up.
        self.receive_later();
        // Nobody waits for the goodbye of a peer that is down.
        self.shared.ended.ring();
    }

    /// Ends it: no packet flows any more, and what waited is forgotten.
    pub(super) fn close(self: &Arc<Self>) {
        self.with(|machine, fx| machine.close(fx));
        self.forget_outbox();
        self.shared.ended.ring();
    }

    /// No lockspace is left, and the time for goodbyes is over.
    pub(super) fn rest(self: &Arc<Self>) {
        self.with(|machine, fx| machine.rest(fx));
        self.forget_outbox();
    }

    /// What is under way belongs to a connection that is no more.
    fn forget_outbox(&self) {
        let rest = core::mem::replace(&mut *self.outbox.lock(), Outbox::new());
        drop(rest);
    }

    /// The peer is a member of one lockspace more.
    pub(super) fn member_added(self: &Arc<Self>) {
        self.with(|machine, _fx| machine.member_added(now_ms()));
        self.look();
    }

    /// The peer is a member of one lockspace less.
    pub(super) fn member_removed(self: &Arc<Self>) {
        self.with(|machine, fx| machine.member_removed(now_ms(), fx));
        self.look();
    }

    /// This node leaves: ends the conversation in order.
    pub(super) fn say_goodbye(self: &Arc<Self>) {
        self.with(|machine, fx| machine.shutdown(now_ms(), fx));
        self.look();
    }

    /// Whether a goodbye is under way with a peer that can answer it.
    pub(super) fn is_talking(&self) -> bool {
        self.state.lock().machine.is_talking()
    }

    /// Gives a packet to the peer; see [`super::send`].
    pub(super) fn send(self: &Arc<Self>, packet: &[u8], sequenced: bool) {
        self.with(|machine, fx| {
            let now = now_ms();
            // Accepted, so it may take as long as it takes to get memory. No packet of ours is too
            // long or too short.
            while let Err(e) = machine.send(now, packet, sequenced, fx) {
                if e != ENOMEM {
                    pr_err!("node {}: a packet of a wrong length\n", self.node.0);
                    return;
                }
                time::sleep_ms(NO_MEMORY_MS);
            }
        });
        self.look();
    }

    /// What a tool may want to know.
    pub(super) fn info(&self) -> PeerInfo {
        let state = self.state.lock();
        let peer = state.machine.peer();
        let counts = peer.counts();
        let unreadable = self.unreadable.load(ordering::Relaxed);
        let refused = [counts.malformed, counts.duplicates, counts.gaps, unreadable];
        PeerInfo {
            node: self.node,
            config: state.machine.config(),
            state: peer.state(),
            flags: ended_bits(peer.state()),
            version: peer.version().map_or(0, |version| version.to_raw()),
            suspicion: state.machine.suspicion(),
            sent: counts.sent,
            received: counts.received,
            resent: counts.resent,
            dropped: refused.into_iter().fold(0, u64::saturating_add),
            unacked: peer.unacked() as u64,
        }
    }

    /// Does what the machine wanted done, without the mutex.
    fn settle(self: &Arc<Self>, later: Later) {
        let Later {
            dropped,
            connect,
            suspicion,
            has_ended,
        } = later;
        drop(dropped);
        if has_ended {
            self.shared.ended.ring();
        }
        if let Some(suspicion) = suspicion {
            pr_info!("node {}: {}\n", self.node.0, suspicion.name());
            (self.shared.hooks.suspicion_changed)(self.node, suspicion);
        }
        if let Some(id) = connect {
            self.connect(id);
        }
    }
}
