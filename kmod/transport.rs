// SPDX-License-Identifier: GPL-2.0-only
//! Packets between this node and its peers, over TCP.
//!
//! What the packets mean, their order and their repetition is decided in `lockcore/peer.rs`, which
//! connection is made, sent on, read or given up in `lockcore/connection.rs`; here are the sockets.
//! A peer ([`peer`]) is known from `node-set` to `node-del`. From [`start`] to
//! [`stop`], that is while there are lockspaces, the node listens ([`listener`]), keeps a
//! connection to every peer there is something for, and a thread ([`clock`]) sees to what has to
//! happen later. Nothing that was accepted for sending is dropped: it waits until the peer takes
//! it, is forgotten by `node-del`, or comes back as another incarnation.
//!
//! # Locks
//!
//! `LIFE` orders start and stop. `NET` guards the list of peers, for who changes or walks it; a
//! packet finds its peer in a copy that is read without a lock (`PEERS`). Each peer has `inbox` and
//! `outbox`, which only its two work items take, and `state`, which may be taken under all of these
//! and under the mutex of a shard. Under `state` nothing is taken but socket locks and doorbells.
//! Packets are delivered under `inbox` only.

mod clock;
mod hooks;
mod link;
mod listener;
mod peer;

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            ordering,
            Atomic, //
        },
        Arc, //
    }, //
};

use crate::doorbell::Doorbell;
use crate::ffi::errno;
use crate::ffi::global::global_mutex;
use crate::ffi::kthread::Thread;
use crate::ffi::memory::{
    patiently,
    NoReclaim, //
};
use crate::ffi::rcu::{
    Published,
    Replaced, //
};
use crate::ffi::socket::Address;
use crate::ffi::time::now_ms;
use crate::ffi::workqueue::WorkQueue;
use crate::lockcore::connection::{
    Config,
    Suspicion, //
};
use crate::lockcore::members::NodeId;
use crate::lockcore::peer::PeerState;
use clock::Clock;
use listener::Listener;
use peer::PeerNode;

pub(crate) use hooks::{
    Delivered,
    Hooks, //
};

/// Where all nodes listen.
const PORT: u16 = 21064;

/// Longest wait for peers to say that they leave too; each conversation ends itself before.
const GOODBYE_MS: u64 = 6000;

/// A peer as membership has it.
pub(crate) type NodeConfig = Config<Address>;

/// What of a peer a tool may want to know.
pub(crate) struct PeerInfo {
    /// Who.
    pub(crate) node: NodeId,
    /// As membership has it.
    pub(crate) config: NodeConfig,
    /// State of the conversation.
    pub(crate) state: PeerState,
    /// Which directions have ended, in the bits that in-tree nodes show: 2 ours, 3 its.
    pub(crate) flags: u32,
    /// Version of its packets; 0: none came yet.
    pub(crate) version: u32,
    /// Why it is doubted.
    pub(crate) suspicion: Suspicion,
    /// Packets given to it.
    pub(crate) sent: u64,
    /// Packets taken from it.
    pub(crate) received: u64,
    /// Packets sent again.
    pub(crate) resent: u64,
    /// Packets refused.
    pub(crate) dropped: u64,
    /// Packets it has not acknowledged.
    pub(crate) unacked: u64,
}

/// What all peers share.
#[pin_data]
struct Shared {
    hooks: &'static Hooks,
    queue: WorkQueue,
    /// Rung when something is to happen earlier than planned.
    #[pin]
    clock: Doorbell,
    /// When the clock looks next.
    planned: Atomic<u64>,
    /// Rung when a conversation has ended.
    #[pin]
    ended: Doorbell,
    /// Between [`start`] and [`stop`].
    running: Atomic<bool>,
    /// Packets and connections of strangers.
    refused: Atomic<u64>,
}

#[derive(Clone, Copy)]
struct Own {
    node: NodeId,
    address: Address,
}

struct Net {
    shared: Arc<Shared>,
    own: Option<Own>,
    /// In ascending order of ids.
    peers: KVec<Arc<PeerNode>>,
}

impl Net {
    fn find(&self, node: NodeId) -> Result<usize, usize> {
        self.peers.binary_search_by_key(&node, |peer| peer.node())
    }
}

/// The copy of the list of peers that is read for each packet; none while there is no peer.
static PEERS: Published<KVec<Arc<PeerNode>>> = Published::new();

/// Gives readers this list. The answer is to be dropped without locks.
fn publish<'a>(
    peers: impl Iterator<Item = &'a Arc<PeerNode>> + Clone,
) -> Result<Option<Replaced<KVec<Arc<PeerNode>>>>> {
    let mut copy = KVec::with_capacity(peers.clone().count(), GFP_KERNEL)?;
    for peer in peers {
        copy.push(peer.clone(), GFP_KERNEL)?;
    }
    if copy.is_empty() {
        return Ok(PEERS.replace(None));
    }
    Ok(PEERS.replace(Some(KBox::new(copy, GFP_KERNEL)?)))
}

/// What runs between start and stop.
struct Running {
    listener: Arc<Listener>,
    clock: Thread<Clock>,
}

global_mutex! {
    /// See the head of this file.
    static NET: Option<Net> = None;
    /// Makes the list usable.
    fn init_net;
}

global_mutex! {
    /// See the head of this file.
    static LIFE: Option<Running> = None;
    /// Makes start and stop usable.
    fn init_life;
}

/// The transport of the module. Dropping it ends everything.
pub(crate) struct Transport;

impl Transport {
    /// Makes the transport; nothing listens yet.
    pub(crate) fn new(hooks: &'static Hooks) -> Result<Self> {
        init_net();
        init_life();
        let queue = WorkQueue::unbound(c"dlm_transport")?;
        let shared = Arc::pin_init(
            pin_init!(Shared {
                hooks,
                queue,
                clock <- Doorbell::new(),
                planned: Atomic::new(0u64),
                ended <- Doorbell::new(),
                running: Atomic::new(false),
                refused: Atomic::new(0u64),
            }),
            GFP_KERNEL,
        )?;
        *NET.lock() = Some(Net {
            shared,
            own: None,
            peers: KVec::new(),
        });
        Ok(Self)
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        stop();
        let Some(net) = NET.lock().take() else {
            return;
        };
        drop(PEERS.replace(None));
        for peer in &net.peers {
            peer.close();
        }
        // No socket tells anything any more. What is queued holds peers: after this, nothing does,
        // so none of them, nor the queue, is dropped by its own work.
        net.shared.queue.flush();
    }
}

fn with_net<R>(f: impl FnOnce(&mut Net) -> R) -> Option<R> {
    NET.lock().as_mut().map(f)
}

fn find(node: NodeId) -> Option<Arc<PeerNode>> {
    PEERS
        .read(|peers| {
            let index = peers.binary_search_by_key(&node, |peer| peer.node());
            peers.get(index.ok()?).cloned()
        })
        .flatten()
}

/// The peer at this address.
fn find_by_address(address: &Address) -> Option<Arc<PeerNode>> {
    let nth = |index| with_net(|net| net.peers.get(index).cloned()).flatten();
    let mut index = 0;
    while let Some(peer) = nth(index) {
        if peer.config().address == *address {
            return Some(peer);
        }
        index += 1;
    }
    None
}

/// Says who this node is and where it listens. Only while there are no lockspaces; peers belong to
/// the identity they were named under, and are forgotten.
pub(crate) fn set_local(node: NodeId, address: Address) {
    for_each(&mut |peer| {
        remove_node(peer.node());
    });
    with_net(|net| net.own = Some(Own { node, address }));
}

/// Whether a peer other than `node` has this address.
pub(crate) fn has_other_at(node: NodeId, address: &Address) -> bool {
    find_by_address(address).is_some_and(|peer| peer.node() != node)
}

/// Present life of a peer, if it is known.
pub(crate) fn incarnation(node: NodeId) -> Option<u64> {
    find(node).map(|peer| peer.config().incarnation)
}

/// A peer as the view has it now. [`errno::ENOTCONN`]: this node has no name yet.
pub(crate) fn set_node(node: NodeId, config: NodeConfig) -> Result {
    let _memory = NoReclaim::enter();
    if let Some(peer) = find(node) {
        peer.configure(config);
        return Ok(());
    }
    let parts = with_net(|net| net.own.map(|own| (net.shared.clone(), own))).flatten();
    let (shared, own) = parts.ok_or(errno::ENOTCONN)?;
    let peer = PeerNode::new(shared.clone(), own, node, config)?;
    let replaced = with_net(|net| {
        let Err(at) = net.find(node) else {
            return Err(EEXIST);
        };
        net.peers.reserve(1, GFP_KERNEL)?;
        let (before, after) = net.peers.split_at(at);
        let all = Iterator::chain(before.iter(), [&peer]);
        let all = Iterator::chain(all, after);
        let replaced = publish(all)?;
        net.peers.insert_within_capacity(at, peer.clone())?;
        Ok(replaced)
    })
    .unwrap_or(Err(ENODEV))?;
    // Waits for readers.
    drop(replaced);
    if let Err(e) = (shared.hooks.peer_appeared)(node) {
        pr_warn!(
            "node {}: not shown to anybody, errno {}\n",
            node.0,
            e.to_errno()
        );
    }
    Ok(())
}

/// Forgets a peer and what waited for it. False: it was not known.
pub(crate) fn remove_node(node: NodeId) -> bool {
    let _memory = NoReclaim::enter();
    let removed = patiently(|| {
        let removed = with_net(|net| {
            let Ok(index) = net.find(node) else {
                return Ok(None);
            };
            let rest = net.peers.iter().filter(|peer| peer.node() != node);
            let replaced = publish(rest)?;
            let peer = net.peers.remove(index).map_err(|_| EINVAL)?;
            Ok(Some((net.shared.hooks, peer, replaced)))
        });
        removed.unwrap_or(Ok(None))
    });
    match removed {
        None => false,
        Some((hooks, peer, replaced)) => {
            // Waits for readers.
            drop(replaced);
            (hooks.peer_gone)(node);
            peer.close();
            true
        }
    }
}

/// Listens, and connects to peers from now on. Nothing to do if it does already.
pub(crate) fn start() -> Result {
    let mut life = LIFE.lock();
    if life.is_some() {
        return Ok(());
    }
    let parts = with_net(|net| net.own.map(|own| (net.shared.clone(), own))).flatten();
    let (shared, own) = parts.ok_or(errno::ENOTCONN)?;
    // For the clock nothing is due yet. Listening is the last that may fail: what peers do from
    // then on is not to be undone.
    let clock = Thread::spawn(c"dlm_transport", Clock::new(shared.clone())?)?;
    let listener = Listener::listen(shared.clone(), &own.address, PORT)?;
    shared.running.store(true, ordering::Release);
    *life = Some(Running { listener, clock });
    drop(life);
    for_each(&mut |peer| peer.look());
    Ok(())
}

/// Says goodbye to all peers, waits a while for their answers, and closes all connections.
pub(crate) fn stop() {
    let mut life = LIFE.lock();
    let Some(running) = life.take() else {
        return;
    };
    let Some(shared) = with_net(|net| net.shared.clone()) else {
        return;
    };
    for_each(&mut |peer| peer.say_goodbye());
    let until = now_ms().saturating_add(GOODBYE_MS);
    while any_talks() && now_ms() < until {
        shared.ended.wait(Some(until));
    }
    // What the last words made is sent.
    shared.queue.flush();
    shared.running.store(false, ordering::Release);
    running.listener.close();
    drop(running.clock);
    // What was just accepted has come to its peer.
    shared.queue.flush();
    for_each(&mut |peer| peer.rest());
    shared.queue.flush();
}

fn any_talks() -> bool {
    let mut any = false;
    for_each(&mut |peer| any |= peer.is_talking());
    any
}

/// Calls `f` with every peer, without the lock of the list.
fn for_each(f: &mut dyn FnMut(&Arc<PeerNode>)) {
    let mut last = None;
    loop {
        let next = with_net(|net| {
            let after = net
                .peers
                .iter()
                .find(|peer| last.is_none_or(|last| peer.node() > last));
            after.cloned()
        });
        let Some(peer) = next.flatten() else {
            return;
        };
        last = Some(peer.node());
        f(&peer);
    }
}

/// Gives a packet to a peer: a whole one with its header. `sequenced`: it is repeated until the
/// peer has it. Never waits for the peer; may be called under the mutex of a shard.
pub(crate) fn send(to: NodeId, packet: &[u8], sequenced: bool) {
    match find(to) {
        Some(peer) => peer.send(packet, sequenced),
        // Forgotten by membership: recovery is coming and repairs what this was about.
        None => count_refused(),
    }
}

fn count_refused() {
    with_net(|net| net.shared.refused.fetch_add(1, ordering::Relaxed));
}

/// Packets and connections that no peer was to be found for.
pub(crate) fn refused() -> u64 {
    with_net(|net| net.shared.refused.load(ordering::Relaxed)).unwrap_or(0)
}

/// The peer is a member of one lockspace more.
pub(crate) fn member_added(node: NodeId) {
    match find(node) {
        Some(peer) => peer.member_added(),
        None => pr_warn!(
            "node {} is a member but was never named by node-set\n",
            node.0
        ),
    }
}

/// The peer is a member of one lockspace less.
pub(crate) fn member_removed(node: NodeId) {
    if let Some(peer) = find(node) {
        peer.member_removed();
    }
}

/// Calls `f` with every peer, in ascending order of ids.
pub(crate) fn for_each_peer(f: &mut dyn FnMut(&PeerInfo)) {
    for_each(&mut |peer| f(&peer.info()));
}

/// The peer number `index`, in ascending order of ids.
pub(crate) fn nth_peer(index: usize) -> Option<PeerInfo> {
    let peer = with_net(|net| net.peers.get(index).cloned()).flatten()?;
    Some(peer.info())
}

/// One peer.
pub(crate) fn peer_info(node: NodeId) -> Option<PeerInfo> {
    find(node).map(|peer| peer.info())
}
