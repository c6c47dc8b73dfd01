// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's side of one machine: a lockspace of shards with its recovery machine, and the
//! connections and the conversation with each other node. All of it is the source that the kernel
//! module runs; only the shell around it is this file's.
//!
//! Whatever these machines want done ends up in one list, in order ([`Effect`]); the world carries
//! it out after each call.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use dlm_core::lockcore::connection::{
    self, ConnectionEffects, ConnectionId, Connections, Ending, Suspicion,
};
use dlm_core::lockcore::lkb::LockId;
use dlm_core::lockcore::members::{Members, NodeId};
use dlm_core::lockcore::mode::Mode;
use dlm_core::lockcore::peer::PeerEffects;
use dlm_core::lockcore::recovery::{Done, Recovery, RecoveryEffects, Shards};
use dlm_core::lockcore::shard::{self, Completion, Config, Shard, Status};
use dlm_core::lockcore::wire::message::Message;
use dlm_core::platform::{Arc, GFP};

/// Bytes of a value block.
pub const LVB_LEN: usize = 8;

/// What lockcore wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send a packet.
    Send {
        /// To this node.
        to: u32,
        /// It must arrive, in order.
        sequenced: bool,
        /// The packet without envelope.
        packet: Vec<u8>,
    },
    /// An operation of a client is over.
    Completed {
        /// The client's lock.
        handle: u64,
        /// Its id.
        id: LockId,
        /// How it ended.
        status: Status,
        /// The value block is stale.
        stale: bool,
        /// What the lock holds now.
        mode: Option<Mode>,
        /// Value block for the client.
        lvb: Option<Vec<u8>>,
    },
    /// A lock of a client is in the way.
    Blocking {
        /// The client's lock.
        handle: u64,
    },
    /// A lock is gone.
    Released {
        /// The client's lock.
        handle: u64,
    },
    /// Another node is a member of the lockspace from now on.
    MemberAdded(u32),
    /// Another node is a member no longer.
    MemberRemoved(u32),
    /// Callbacks are kept back.
    Hold,
    /// Callbacks go on.
    GoOn,
    /// Locking has stopped.
    Prep,
    /// A member failed that had this slot.
    Slot(u32, u32),
    /// Locking goes on.
    Enabled,
    /// Recovery is over.
    Done {
        /// Members and slots.
        slots: Vec<(u32, u16)>,
        /// Own slot.
        own_slot: u16,
        /// Larger each time.
        generation: u32,
    },
    /// The end of a start.
    Finished(i32),
}

/// Effects in their order; a recovery machine adds to them while a shard does.
type List = Rc<RefCell<Vec<Effect>>>;

/// Collects effects.
#[derive(Debug, Default)]
pub struct Sink {
    own: u32,
    lockspace: u32,
    list: List,
}

impl Sink {
    fn push(&mut self, effect: Effect) {
        self.list.borrow_mut().push(effect);
    }
}

/// A client's lock inside a shard.
pub type Handle = u64;

/// A shard with the locks of clients.
pub type Locks = Shard<Handle>;

impl shard::Effects for Sink {
    type Owner = Handle;

    fn send(&mut self, to: NodeId, message: &Message<'_>) {
        let packet = message.encode(self.lockspace, NodeId(self.own));
        self.push(Effect::Send {
            to: to.0,
            sequenced: true,
            packet: packet.parts().concat(),
        });
    }

    fn complete(&mut self, owner: &mut Handle, done: &Completion<'_>) {
        self.push(Effect::Completed {
            handle: *owner,
            id: done.id,
            status: done.status,
            stale: done
                .sb_flags
                .has(dlm_core::lockcore::flags::SBF_VALNOTVALID),
            mode: done.mode,
            lvb: done.lvb.map(<[u8]>::to_vec),
        });
    }

    fn blocking(&mut self, owner: &mut Handle, _mode: Mode) {
        self.push(Effect::Blocking { handle: *owner });
    }

    fn release(&mut self, owner: Handle) {
        self.push(Effect::Released { handle: owner });
    }
}

/// One lockspace of one life of a node.
pub struct Space {
    /// Members and recovery.
    pub recovery: Recovery,
    shards: Vec<RefCell<Shard<Handle>>>,
    sink: RefCell<Sink>,
    list: List,
    shard_bits: u32,
}

struct Reach<'a> {
    shards: &'a [RefCell<Shard<Handle>>],
    sink: &'a RefCell<Sink>,
}

impl Shards for Reach<'_> {
    type Fx = Sink;

    fn count(&self) -> usize {
        self.shards.len()
    }

    fn with<R>(&self, index: usize, f: impl FnOnce(&mut Shard<Handle>, &mut Sink) -> R) -> R {
        f(
            &mut self.shards[index].borrow_mut(),
            &mut self.sink.borrow_mut(),
        )
    }
}

fn reach<'a>(shards: &'a [RefCell<Shard<Handle>>], sink: &'a RefCell<Sink>) -> Reach<'a> {
    Reach { shards, sink }
}

struct Outside<'a>(&'a List);

impl Outside<'_> {
    fn push(&mut self, effect: Effect) {
        self.0.borrow_mut().push(effect);
    }
}

impl RecoveryEffects for Outside<'_> {
    fn send_rcom(&mut self, to: NodeId, plain: bool, packet: &[u8]) {
        self.push(Effect::Send {
            to: to.0,
            sequenced: !plain,
            packet: packet.to_vec(),
        });
    }

    fn member_added(&mut self, node: NodeId) {
        self.push(Effect::MemberAdded(node.0));
    }

    fn member_removed(&mut self, node: NodeId) {
        self.push(Effect::MemberRemoved(node.0));
    }

    fn hold_callbacks(&mut self) {
        self.push(Effect::Hold);
    }

    fn release_callbacks(&mut self) {
        self.push(Effect::GoOn);
    }

    fn recover_prep(&mut self) {
        self.push(Effect::Prep);
    }

    fn recover_slot(&mut self, node: NodeId, slot: u32) {
        self.push(Effect::Slot(node.0, slot));
    }

    fn enabled(&mut self) {
        self.push(Effect::Enabled);
    }

    fn recover_done(&mut self, done: &Done<'_>) {
        self.push(Effect::Done {
            slots: done.slots.iter().map(|s| (s.node.0, s.slot)).collect(),
            own_slot: done.own_slot,
            generation: done.generation,
        });
    }

    fn finished(&mut self, result: i32) {
        self.push(Effect::Finished(result));
    }

    fn note(&mut self, _line: std::fmt::Arguments<'_>) {}
}

impl Space {
    /// A lockspace that was never started, of node `own`.
    #[must_use]
    pub fn new(own: u32, shard_bits: u32, toss_ms: u32) -> Self {
        let members = Members::new(NodeId(own), &[]).and_then(|m| Ok(Arc::new(m, GFP)?));
        let members = members.expect("no allocation is made to fail here");
        let shard = |shard| {
            let config = Config {
                shard,
                shard_bits,
                lvb_len: LVB_LEN as u16,
                toss_ms,
            };
            let shard = Shard::new(config, members.clone());
            RefCell::new(shard.expect("no allocation is made to fail here"))
        };
        let recovery = Recovery::new(NodeId(own), LVB_LEN as u32, 0);
        let list = List::default();
        Self {
            recovery,
            shards: (0..1 << shard_bits).map(shard).collect(),
            sink: RefCell::new(Sink {
                own,
                lockspace: 0,
                list: list.clone(),
            }),
            list,
            shard_bits,
        }
    }

    /// Its id, as it is put into packets.
    pub fn set_id(&mut self, id: u32) {
        self.sink.borrow_mut().lockspace = id;
    }

    /// [`Recovery::control_stop`].
    pub fn stop(&mut self) {
        let reach = reach(&self.shards, &self.sink);
        self.recovery.control_stop(&reach, &mut Outside(&self.list));
    }

    /// [`Recovery::set_quorate`].
    pub fn set_quorate(&mut self, quorate: bool) {
        let reach = reach(&self.shards, &self.sink);
        let outside = &mut Outside(&self.list);
        self.recovery.set_quorate(quorate, &reach, outside);
    }

    /// [`Recovery::leave`].
    pub fn leave(&mut self) {
        let reach = reach(&self.shards, &self.sink);
        self.recovery.leave(&reach, &mut Outside(&self.list));
    }

    /// [`Recovery::handle_timeout`].
    pub fn step(&mut self, now_ms: u64) {
        let reach = reach(&self.shards, &self.sink);
        self.recovery
            .handle_timeout(now_ms, &reach, &mut Outside(&self.list));
    }

    /// [`Recovery::handle_packet`].
    pub fn rcom(&mut self, now_ms: u64, from: u32, packet: &[u8]) -> dlm_core::platform::Result {
        let reach = reach(&self.shards, &self.sink);
        let outside = &mut Outside(&self.list);
        self.recovery
            .handle_packet(now_ms, NodeId(from), packet, &reach, outside)
    }

    /// Calls the shard of a name.
    pub fn of_hash<R>(&self, hash: u32, f: impl FnOnce(&mut Shard<Handle>, &mut Sink) -> R) -> R {
        self.at(Config::shard_of_hash(hash, self.shard_bits), f)
    }

    /// Calls the shard of a lock.
    pub fn of_lock<R>(&self, id: u32, f: impl FnOnce(&mut Shard<Handle>, &mut Sink) -> R) -> R {
        self.at(Config::shard_of_id(id, self.shard_bits), f)
    }

    fn at<R>(&self, index: u32, f: impl FnOnce(&mut Shard<Handle>, &mut Sink) -> R) -> R {
        f(
            &mut self.shards[index as usize].borrow_mut(),
            &mut self.sink.borrow_mut(),
        )
    }

    /// Calls every shard.
    pub fn each(&self, mut f: impl FnMut(&mut Shard<Handle>, &mut Sink)) {
        for shard in &self.shards {
            f(&mut shard.borrow_mut(), &mut self.sink.borrow_mut());
        }
    }

    /// What was asked for since the last time.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut *self.list.borrow_mut())
    }

    /// When something is due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<u64> {
        let shards = self.shards.iter();
        let shards = shards.filter_map(|shard| shard.borrow().next_timeout());
        shards.chain(self.recovery.next_timeout()).min()
    }
}

/// What the machine of a peer wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A connection is to be made.
    Connect(ConnectionId),
    /// What follows goes into this connection.
    SendOn(ConnectionId),
    /// A packet for the connection that is sent on.
    Transmit(Vec<u8>),
    /// A connection is given up.
    GiveUp(ConnectionId, Ending),
    /// Membership is told.
    Suspect(Suspicion),
    /// An orderly end of the conversation is over.
    Ended,
}

/// Everything that a machine of a peer wants done, in order.
#[derive(Debug, Default)]
pub struct LinkSink {
    /// The list.
    pub wanted: Vec<Wanted>,
}

impl PeerEffects for LinkSink {
    fn transmit(&mut self, packet: &[u8]) {
        self.wanted.push(Wanted::Transmit(packet.to_vec()));
    }

    fn closed(&mut self) {
        self.wanted.push(Wanted::Ended);
    }
}

impl ConnectionEffects for LinkSink {
    fn connect(&mut self, id: ConnectionId) {
        self.wanted.push(Wanted::Connect(id));
    }

    fn send_on(&mut self, id: ConnectionId) {
        self.wanted.push(Wanted::SendOn(id));
    }

    fn give_up(&mut self, id: ConnectionId, ending: Ending) {
        self.wanted.push(Wanted::GiveUp(id, ending));
    }

    fn suspect(&mut self, suspicion: Suspicion) {
        self.wanted.push(Wanted::Suspect(suspicion));
    }
}

/// A packet that waits for memory, or for one that does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// It came out of the conversation with this incarnation, and is the next to be delivered.
    Received {
        /// The incarnation.
        life: u64,
        /// Its bytes, without the envelope of the conversation.
        packet: Vec<u8>,
    },
    /// It was read from a connection, and the conversation has not seen it.
    Read {
        /// The connection.
        id: ConnectionId,
        /// The node that sent it, and its incarnation.
        sender: (u32, u64),
        /// Its bytes as they were read.
        packet: Vec<u8>,
    },
}

/// Another node, as the kernel was told of it.
pub struct Link {
    /// Which incarnation of it, as membership was last told.
    pub life: u64,
    /// It is in the view, as membership was last told.
    pub up: bool,
    /// Its connections and the conversation.
    pub machine: Connections<()>,
    /// The sockets of its connections.
    pub sockets: BTreeMap<ConnectionId, (u64, usize)>,
    /// What goes into the connection that is sent on.
    pub out: Vec<u8>,
    /// That connection.
    pub out_of: Option<ConnectionId>,
    /// What waits for memory, in order.
    pub held: VecDeque<Held>,
    /// The work that sends was asked for.
    pub looks: bool,
    /// The work that reads was asked for.
    pub reads: bool,
}

impl Link {
    /// To an incarnation of a node, from `own`.
    #[must_use]
    pub fn new(own: u32, node: u32, life: u64) -> Self {
        let config = connection::Config {
            incarnation: life,
            address: (),
            is_up: false,
        };
        Self {
            life,
            up: false,
            machine: Connections::new(NodeId(own), NodeId(node), config),
            sockets: BTreeMap::new(),
            out: Vec::new(),
            out_of: None,
            held: VecDeque::new(),
            looks: false,
            reads: false,
        }
    }

    /// Its state in one line.
    #[must_use]
    pub fn describe(&self) -> String {
        let peer = self.machine.peer();
        format!(
            "life {:x} up: {} users {} sends on {:?}, reads {:?} {} version {:?} unacked {} held {} {:?}",
            self.life,
            self.up,
            peer.users(),
            self.machine.sending(),
            self.machine.receiving(),
            peer.state().name(),
            peer.version(),
            peer.unacked(),
            self.held.len(),
            peer.counts()
        )
    }
}

/// The kernel of one life of a machine.
#[derive(Default)]
pub struct Kernel {
    /// This node's own life, as membership numbers them.
    pub life: u64,
    /// The other nodes.
    pub links: BTreeMap<u32, Link>,
    /// Whether it was told that this node may act for the cluster.
    pub quorate: bool,
    /// The lockspace, if this node has it.
    pub space: Option<Space>,
    /// Whether it has connections: it has a lockspace, or takes leave of its peers.
    pub running: bool,
    /// It takes leave, and waits for its peers until then.
    pub stop_by: Option<u64>,
    /// When the timer goes off that was set last.
    pub timer_ms: Option<u64>,
}

impl Kernel {
    /// When something is due in the lockspace.
    #[must_use]
    pub fn next_timeout(&self) -> Option<u64> {
        self.space.as_ref().and_then(Space::next_timeout)
    }
}
