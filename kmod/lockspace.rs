// SPDX-License-Identifier: GPL-2.0-only
//! A lockspace as the kernel sees it: the shell around the shards and the recovery of lockcore.
//!
//! Nothing about locks is decided here. This file has the object and how its parts are reached;
//! [`registry`] which lockspaces there are, [`lifecycle`] how one is created and released,
//! [`operations`] the calls of kernel users and programs, [`recovery`] stop, start and the steps of
//! recovery, [`delivery`] the packets of peers, [`quorum`] whether this node may act, [`files`]
//! open files of programs, [`report`] what tools may know, [`effects`] what lockcore wants done,
//! [`hooks`] what is asked of the doors above and told them.
//!
//! # Lock order
//!
//! | # | Lock | Where | Guards |
//! |---|---|---|---|
//! | 1 | `TRANSPORT`, mutex | `lifecycle.rs` | start and stop of the transport against the list |
//! | 2 | `LIFE`, mutex | `transport.rs` | what runs between start and stop |
//! | 3 | `Listener::socket`, mutex | `transport/` | the socket that listens |
//! | 4 | `Link::framer`, mutex | `transport/` | bytes received; a packet is delivered under it |
//! | 5 | `INDEX`, mutex | `index.rs` | lockspaces by id, for who changes that |
//! | 6 | `Lockspace::recovery`, mutex | here | the recovery machine |
//! | 7 | `REGISTRY`, mutex | `registry.rs` | the list of lockspaces |
//! | 8 | `ShardCell::shard`, mutex | here | one shard of names: resources, locks, directory |
//! | 9 | `OpenFile::owned`, mutex | `callback/` | ids of the locks of a file |
//! | 10 | `PeerNode::outbox`, mutex | `transport/` | what is in the middle of being sent |
//! | 11 | `NET`, mutex | `transport.rs` | the list of peers, for who changes or walks it |
//! | 12 | `PeerNode::state`, mutex | `transport/` | connections and the conversation of a peer |
//! | 13 | `Lockspace::recoverd`, mutex | here | the recovery thread |
//! | 14 | `Lockspace::files`, mutex | `files.rs` | open files of programs |
//! | 15 | `Doorbell::rung`, mutex | `doorbell.rs` | whether somebody rang |
//! | 16 | `Line::row`, spinlock | `callback.rs` | who has callbacks to get |
//! | 17 | `Owner::state`, spinlock | `callback.rs` | callbacks of one lock |
//!
//! A lock is taken only while locks with smaller numbers are held, and never two of one row.
//! Leaves, under which nothing is taken, nobody waits and nothing of the module is called:
//! `Handshake::question`, `Lockspace::progress`, and of the doors `STATE` (`control.rs`), `TREE`
//! (`debugfs.rs`), `DEVICES` (`device/lockspaces.rs`), and `REGISTERED` (`ffi/netlink.rs`), under
//! which an event is handed to netlink.
//!
//! No callback of a user runs, and no packet leaves, under 7 to 17: effects are queued, and workers
//! carry them out. The exception are the recovery callbacks of a file system, which run under 6 and
//! must not call in.
//!
//! No operation and no packet takes a lock of the whole module but `NET`, for a look: a lockspace
//! comes with the handle or the open file, or by its id from the copy that `index.rs` publishes.
//! Nobody waits for reclaim under the mutexes that an operation meets: 8, 9, 12 and the spinlocks.
//! What cannot be had is refused before anything is changed, and who was refused waits outside
//! (`ffi/memory.rs`). A packet that was decided on comes from what the kernel keeps for who frees
//! memory; when that is used up, and only then, its sender pauses until a page is free.
//!
//! An operation on a lock takes one shard's mutex and writes nothing else that the lockspace
//! shares, but for the row of callbacks when it completes. While a recovery blocks a shard,
//! operations wait at `gate` and try again.

mod delivery;
mod effects;
mod files;
mod handshake;
mod hooks;
mod index;
mod lifecycle;
mod operations;
mod quorum;
mod recoverd;
mod recovery;
mod registry;
mod report;

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            ordering,
            Atomic, //
        },
        Arc,
        Mutex, //
    }, //
};

use crate::callback::{
    Callbacks,
    Owner, //
};
use crate::ffi::caller::Ops;
use crate::ffi::completion::Gate;
use crate::ffi::workqueue::WorkQueue;
use crate::lockcore::members::NodeId;
use crate::lockcore::recovery::Recovery;
use crate::lockcore::shard::Shard;
use crate::uapi::lock::{
    is_same_lockspace,
    LsFlags,
    LOCKSPACE_NAME_MAX, //
};
use files::Files;
use handshake::Handshake;
use recoverd::Recoverd;
use recovery::Step;

pub(crate) use delivery::deliver;
pub(crate) use hooks::{
    ClusterName,
    Hooks,
    Local,
    Outlet,
    Recovered, //
};
pub(crate) use index::find_by_id;
pub(crate) use lifecycle::{
    create,
    CreateArgs, //
};
pub(crate) use quorum::set_quorate;
pub(crate) use recovery::{
    role_closed,
    stop_all, //
};
pub(crate) use registry::{
    count,
    find_by_name,
    for_each, //
};
pub(crate) use report::Info;

/// Makes the lockspaces' statics usable and sets whom they ask and tell; when the module is
/// loaded, before everything else.
pub(crate) fn init(doors: &'static Hooks) {
    hooks::set(doors);
    registry::init();
    index::init();
    lifecycle::init_transport();
}

/// Longest value block a lockspace may have. Known users want 32 and 64 bytes; a message with a
/// longer one would not fit a small buffer.
const LVB_MAX: usize = 256;
/// Shards of a lockspace as a power of two: as many as keep two CPUs of a large machine apart.
const SHARD_BITS: u32 = 4;
/// Shards of a lockspace.
const SHARDS: usize = 1 << SHARD_BITS;

/// One shard and its mutex.
#[pin_data]
pub(crate) struct ShardCell {
    #[pin]
    shard: Mutex<Shard<Arc<Owner>>>,
}

/// See the head of this file.
#[pin_data]
pub(crate) struct Lockspace {
    name: Name,
    /// As its members agree on them, and this node's own.
    flags: LsFlags,
    lvblen: u32,
    own: NodeId,
    /// Users are programs, by the device; otherwise file systems.
    for_programs: bool,
    ops: Option<Ops>,
    /// Wire id; 0 until the first start.
    id: Atomic<u32>,
    /// The last use has ended, the controller is asked to take this node out.
    is_leaving: Atomic<bool>,
    /// A shard found that its state makes no sense: locking stops for good.
    is_broken: Atomic<bool>,
    /// Released: nothing is done for anybody any more.
    gone: Atomic<bool>,
    shards: KVec<Pin<KBox<ShardCell>>>,
    callbacks: Arc<Callbacks>,
    #[pin]
    recovery: Mutex<Recovery>,
    /// Open while operations may run.
    #[pin]
    gate: Gate,
    /// Open when creation is over, and again when release is over.
    #[pin]
    settled: Gate,
    /// Open when the first recovery has ended.
    #[pin]
    first_recovery: Gate,
    /// How it ended; not 0: a negative errno.
    first_result: Atomic<i32>,
    #[pin]
    progress: Mutex<Progress>,
    #[pin]
    handshake: Handshake,
    /// The recovery thread, while there is one.
    #[pin]
    recoverd: Mutex<Option<Recoverd>>,
    /// Open files, and closed ones whose locks could not be given up yet.
    #[pin]
    files: Mutex<Files>,
    /// When the recovery thread will look next, at the latest, in milliseconds of its clock.
    planned: Atomic<u64>,
    /// Calls the callbacks of kernel users.
    callback_queue: WorkQueue,
}

/// What the controller is told when a recovery ends.
struct Progress {
    generation: u32,
    slots: KVec<(NodeId, u32)>,
    seq: u64,
    duration_ms: u64,
}

/// Name of a lockspace.
struct Name {
    bytes: [u8; LOCKSPACE_NAME_MAX],
    len: u8,
}

impl Name {
    fn new(name: &[u8]) -> Result<Self> {
        if name.is_empty() {
            return Err(EINVAL);
        }
        let mut bytes = [0; LOCKSPACE_NAME_MAX];
        bytes
            .get_mut(..name.len())
            .ok_or(EINVAL)?
            .copy_from_slice(name);
        Ok(Self {
            bytes,
            len: name.len() as u8,
        })
    }
}

impl Lockspace {
    /// Name.
    pub(crate) fn name(&self) -> &[u8] {
        &self.name.bytes[..usize::from(self.name.len)]
    }

    /// Name for the log.
    pub(crate) fn display_name(&self) -> &str {
        core::str::from_utf8(self.name()).unwrap_or("?")
    }

    /// Id that all members know it by; 0 before the first start.
    pub(crate) fn id(&self) -> u32 {
        self.id.load(ordering::Relaxed)
    }

    /// Bytes of a value block.
    pub(crate) fn lvblen(&self) -> usize {
        self.lvblen as usize
    }

    /// This node.
    pub(crate) fn own_node(&self) -> u32 {
        self.own.0
    }

    /// Whether its users are programs.
    pub(crate) fn is_for_programs(&self) -> bool {
        self.for_programs
    }

    /// Whether the creator of `other`, which has the same name, would be right here.
    fn is_same_as(&self, other: &Self) -> bool {
        is_same_lockspace((self.flags, other.flags), (self.lvblen, other.lvblen))
    }

    /// Whether it was released.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(ordering::Acquire)
    }

    /// Waits until operations may run; [`EINTR`] if the task is killed.
    pub(crate) fn wait_running(&self) -> Result {
        self.gate.wait_killable()
    }
}
