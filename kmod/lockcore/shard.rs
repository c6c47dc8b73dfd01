// SPDX-License-Identifier: GPL-2.0-only
//! A shard: the lock manager for a share of the names of a lockspace.
//!
//! A single-threaded machine. It holds the resources of its names with their locks, the directory
//! records of its names that this node keeps for others, and the messages saved during a recovery.
//! Who calls it serialises the calls; it calls nobody but the [`Effects`] it is given, and knows no
//! other shard.
//!
//! An operation goes through the same steps wherever its master is: *accept* (arguments checked,
//! memory taken; the last point at which it can fail), *route* (`request.rs`: is the master here,
//! there, or to be asked for), *decide* on the master (`grant.rs`), *answer* (a completion, or a
//! message to the lock's node), and only then *side effects* on other locks.
//!
//! ```text
//!   request ── route ─┬─ here ─────────────► decide ─► answer ─► effects
//!                     ├─ there: Request ───► (other node) ─► reply ─► answer
//!                     ├─ ask:   Lookup ────► (directory node) ─► reply ─► route again
//!                     └─ wait for the lock that asks already
//! ```
//!
//! What must hold between any two calls (`invariants.rs` checks it in tests): locks that are
//! granted or converting go together pairwise; a lock is in exactly the list its state says; the
//! counts per mode are those of the queues; no queued lock could be granted; a lock of this node is
//! in flight, queued or granted, and nothing else.

mod blocking;
mod convert;
mod directory;
pub mod dump;

mod effects;
mod grant;

mod invariants;
mod lvb;
mod orphan;
mod receive;
mod recover;
mod reply;
mod request;
mod resource;
mod resubmit;
mod saved;
mod send;
mod unlock;

pub use effects::{Completion, Conversion, Effects, Received, Refused, Request, Status};
pub use recover::Image;
pub use saved::Drained;

use crate::lockcore::arena::{Arena, LockIndex, ResourceIndex};
use crate::lockcore::flags::{HEADQUE, NOORDER};
use crate::lockcore::lkb::state::LOOKUP_QUEUED;
use crate::lockcore::lkb::{Lkb, LockId, Queue};
use crate::lockcore::members::{Members, NodeId};
use crate::lockcore::mode::Mode;
use crate::lockcore::queue::List;
use crate::lockcore::rsb::{state as rsb_state, Rsb};
use crate::lockcore::table::Table;
use crate::platform::{Arc, Result};
use directory::Directory;
use saved::Saved;

/// Lock ids stay below this: libdlm takes larger ones for errors.
const LOCK_ID_END: u32 = 1 << 31;

/// What does not change in the life of a shard.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Which of the shards this is.
    pub shard: u32,
    /// The lockspace has `1 << shard_bits` shards.
    pub shard_bits: u32,
    /// Length of value blocks; 0: there are none.
    pub lvb_len: u16,
    /// How long a resource stays that nobody has a lock on.
    pub toss_ms: u32,
}

impl Config {
    /// The shard that a name with this hash is in.
    pub const fn shard_of_hash(hash: u32, shard_bits: u32) -> u32 {
        hash & ((1 << shard_bits) - 1)
    }

    /// The shard that a lock of this number is in.
    pub const fn shard_of_id(id: u32, shard_bits: u32) -> u32 {
        id & ((1 << shard_bits) - 1)
    }
}

/// What may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    /// Stopped or recovering: local operations wait, messages are saved.
    Blocked,
    /// Recovered, saved messages are being worked off: later ones queue behind them.
    Draining,
    /// Quorate again, the same with the messages of that time. Nothing was recovered meanwhile:
    /// what they say is as true as when they were sent.
    Reopening,
    /// Running.
    Open,
}

/// How much there is of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Locks, also those of other nodes.
    pub locks: u32,
    /// Resources, also idle ones.
    pub resources: u32,
    /// Directory records for other masters.
    pub records: u32,
    /// Messages saved.
    pub saved: u32,
    /// Messages that were not for a lock here or not from who may send them.
    pub dropped: u64,
    /// Replies with an error that no operation can end with: asked again.
    pub odd_replies: u64,
}

/// The lock manager for a share of the names of a lockspace.
pub struct Shard<O> {
    config: Config,
    members: Arc<Members>,
    gate: Gate,
    /// Whether this node may act for the cluster. While not, local operations wait and messages are
    /// saved, whatever the gate says: the others may be giving its locks away.
    quorate: bool,
    /// The time of the call under way.
    now_ms: u64,
    locks: Arena<LockIndex, Lkb<O>>,
    resources: Arena<ResourceIndex, Rsb>,
    names: Table<ResourceIndex>,
    directory: Directory,
    /// Idle resources, longest first.
    idle: List<ResourceIndex>,
    saved: Saved,
    /// When operations that got an odd reply are sent again.
    retry_at_ms: Option<u64>,
    dropped: u64,
    odd_replies: u64,
}

impl<O> Shard<O> {
    /// An empty shard, blocked until its first recovery is over.
    pub fn new(config: Config, members: Arc<Members>) -> Result<Self> {
        Ok(Self {
            config,
            members,
            gate: Gate::Blocked,
            quorate: true,
            now_ms: 0,
            locks: Arena::new((LOCK_ID_END >> config.shard_bits).saturating_sub(1)),
            resources: Arena::new(u32::MAX),
            names: Table::new(config.shard_bits)?,
            directory: Directory::new(config.shard_bits)?,
            idle: List::default(),
            saved: Saved::new(),
            retry_at_ms: None,
            dropped: 0,
            odd_replies: 0,
        })
    }

    /// Whether local operations have to wait.
    pub fn is_blocked(&self) -> bool {
        self.gate == Gate::Blocked || !self.quorate
    }

    /// Whether no recovery is under way, nor its saved messages being worked off.
    fn is_settled(&self) -> bool {
        matches!(self.gate, Gate::Reopening | Gate::Open)
    }

    /// Whether this node may act for the cluster from now on. On return nothing is granted any
    /// more, or what came meanwhile can be worked off by [`Shard::drain_saved`].
    pub fn set_quorate(&mut self, quorate: bool) {
        self.quorate = quorate;
        if quorate && self.gate == Gate::Open && self.saved.len() > 0 {
            self.gate = Gate::Reopening;
        }
    }

    /// Whether something is wrong inside: the lockspace must be stopped for good.
    pub fn is_broken(&self) -> bool {
        self.locks.has_strayed() || self.resources.has_strayed() || self.directory.is_broken()
    }

    /// How much there is of what.
    pub fn counts(&self) -> Counts {
        Counts {
            locks: self.locks.len(),
            resources: self.resources.len(),
            records: self.directory.len(),
            saved: self.saved.len() as u32,
            dropped: self.dropped,
            odd_replies: self.odd_replies,
        }
    }

    /// Whether a lock of this node is granted on a resource that is mastered here.
    pub fn has_own_granted_here(&self) -> bool {
        let mut walk = self.locks.walk();
        while let Some((_, lock)) = walk.next(&self.locks) {
            let here = self.is_master(lock.resource);
            if here && !lock.is_master_copy() && lock.queue == Queue::Grant {
                return true;
            }
        }
        false
    }

    /// What the shell keeps with a lock of this node; `None` for any other id.
    pub fn owner(&self, id: LockId) -> Option<&O> {
        self.locks.find(self.index_of(id)?)?.owner.as_ref()
    }

    /// What the shell keeps with a lock of this node; `None` for any other id.
    pub fn owner_mut(&mut self, id: LockId) -> Option<&mut O> {
        let i = self.index_of(id)?;
        self.locks.find(i)?;
        self.locks.get_mut(i).owner.as_mut()
    }

    /// Frees everything; nobody is told of anything but that their lock is gone.
    pub fn clear<F: Effects<Owner = O>>(&mut self, fx: &mut F) {
        let mut walk = self.locks.walk();
        while let Some((i, _)) = walk.next(&self.locks) {
            self.destroy(i, fx);
        }
        self.drop_idle();
        self.directory.clear();
        self.saved.clear();
        self.retry_at_ms = None;
    }

    /// When [`Shard::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Option<u64> {
        if self.is_blocked() {
            return None;
        }
        let toss = self.next_toss_ms();
        match (toss, self.retry_at_ms) {
            (Some(toss), Some(retry)) => Some(toss.min(retry)),
            (toss, retry) => toss.or(retry),
        }
    }

    /// Frees what has been idle for long, and asks again what got an odd reply.
    pub fn handle_timeout<F: Effects<Owner = O>>(&mut self, now_ms: u64, fx: &mut F) {
        self.advance(now_ms);
        if self.is_blocked() {
            return;
        }
        self.toss_idle(fx);
        if self.retry_at_ms.is_some_and(|at| at <= now_ms) {
            self.retry_at_ms = None;
            self.retry_odd_replies(fx);
        }
    }

    // What all parts use.

    /// Notes the time. Callers read the clock before they wait for the shard, so it may be older
    /// than what was noted.
    fn advance(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
    }

    fn own(&self) -> NodeId {
        self.members.own()
    }

    fn lock(&self, i: LockIndex) -> &Lkb<O> {
        self.locks.get(i)
    }

    fn lock_mut(&mut self, i: LockIndex) -> &mut Lkb<O> {
        self.locks.get_mut(i)
    }

    fn resource(&self, r: ResourceIndex) -> &Rsb {
        self.resources.get(r)
    }

    fn resource_mut(&mut self, r: ResourceIndex) -> &mut Rsb {
        self.resources.get_mut(r)
    }

    fn id_of(&self, i: LockIndex) -> LockId {
        LockId::new(i, self.config.shard, self.config.shard_bits)
    }

    fn index_of(&self, id: LockId) -> Option<LockIndex> {
        let mine = Config::shard_of_id(id.raw(), self.config.shard_bits) == self.config.shard;
        mine.then(|| id.index(self.config.shard_bits))
    }

    fn is_master(&self, r: ResourceIndex) -> bool {
        self.resource(r).master() == Some(self.own())
    }

    fn check_open(&mut self, now_ms: u64) -> Result<(), Refused> {
        self.advance(now_ms);
        if self.is_blocked() {
            return Err(Refused::Blocked);
        }
        Ok(())
    }

    /// Puts a lock that is in no list into a queue of its resource.
    fn enqueue(&mut self, i: LockIndex, queue: Queue) {
        let now_ms = self.now_ms as u32;
        let lock = self.locks.get_mut(i);
        lock.queue = queue;
        lock.since_ms = now_ms;
        let at_head = lock.has(HEADQUE) && queue != Queue::Grant;
        let no_order = lock.has(NOORDER) && queue != Queue::Grant;
        let granted = lock.granted;
        let rsb = self.resources.get_mut(lock.resource);
        if queue != Queue::Wait {
            rsb.hold(granted);
        }
        if no_order {
            rsb.set(rsb_state::NO_ORDER, true);
        }
        let list = rsb.queue_mut(queue);
        if at_head {
            list.push_front(&mut self.locks, i);
        } else {
            list.push_back(&mut self.locks, i);
        }
    }

    /// Takes a lock out of whatever list it is in.
    fn unqueue(&mut self, i: LockIndex) {
        let lock = self.locks.get_mut(i);
        let (queue, granted) = (lock.queue, lock.granted);
        let waits_for_lookup = lock.is(LOOKUP_QUEUED);
        lock.queue = Queue::None;
        lock.set(LOOKUP_QUEUED, false);
        let rsb = self.resources.get_mut(lock.resource);
        match queue {
            Queue::None if waits_for_lookup => rsb.lookups.remove(&mut self.locks, i),
            Queue::None => {}
            Queue::Wait => rsb.queue_mut(queue).remove(&mut self.locks, i),
            Queue::Grant | Queue::Convert => {
                rsb.unhold(granted);
                rsb.queue_mut(queue).remove(&mut self.locks, i);
            }
        }
    }

    /// Moves a lock from one queue to another.
    fn requeue(&mut self, i: LockIndex, queue: Queue) {
        self.unqueue(i);
        self.enqueue(i, queue);
    }

    /// Changes what a lock holds.
    fn set_granted(&mut self, i: LockIndex, mode: Option<Mode>) {
        let lock = self.locks.get_mut(i);
        let before = core::mem::replace(&mut lock.granted, mode);
        if matches!(lock.queue, Queue::Grant | Queue::Convert) {
            let rsb = self.resources.get_mut(lock.resource);
            rsb.unhold(before);
            rsb.hold(mode);
        }
    }

    /// The end of a lock, and of the use of its resource if it was the last.
    fn destroy<F: Effects<Owner = O>>(&mut self, i: LockIndex, fx: &mut F) {
        self.unqueue(i);
        let Some(lock) = self.locks.take(i) else {
            return;
        };
        if let Some(owner) = lock.owner {
            fx.release(owner);
        }
        self.leave(lock.resource, i);
    }
}
