// SPDX-License-Identifier: GPL-2.0-only
//! Recovery of a lockspace, above its shards: who is a member, how far recovery has come, and what
//! other nodes are told about that.
//!
//! ```text
//!           control_start                      last phase
//!   New ───────────────────► Recovering ─────────────────────► Running
//!                             │   ▲   │ configurations differ      │
//!               control_stop  ▼   │   ▼                            │ control_stop
//!                           Stopped ◄─ Failed ◄────────────────────┘ (to Stopped)
//! ```
//!
//! Packets are answered and noted here ([`Recovery::handle_packet`]); recovery goes on in
//! [`Recovery::handle_timeout`], one bounded step per call, whose order is that of `Phase` in
//! `recovery/phase.rs`. A stop ends it at any step, and any step may be repeated after the next
//! start: what must not be forgotten between two attempts is in the shards and in
//! [`Recovery::gone`].
//!
//! Invariants:
//! - shards run only between the end of phase `Enable` and the next stop, and only with quorum;
//! - a member that failed is reported with the last slot it was confirmed to have, once;
//! - a reply that answers a request of an earlier recovery is dropped.

use super::fault::{fault, Fault};
use super::members::{Member, Members, NodeId};
use super::wire::rcom::{self, Config, Rcom, RcomKind, RcomLock, SlotOf};
use crate::platform::code::{EBUSY, EINVAL};
use crate::platform::{Arc, KVec, Result, GFP};

mod barrier;
mod directory;
mod effects;
mod images;
mod lookups;
mod names;
mod phase;
mod poll;
mod remaster;
mod steps;
#[cfg(test)]
mod tests;

pub use effects::{Done, RecoveryEffects, Shards};

use phase::{Phase, Status};
use poll::Poll;

/// A member as the controller names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartMember {
    /// Who.
    pub node: NodeId,
    /// Shares of the directory.
    pub weight: u32,
    /// Which life of it; another one is another node.
    pub incarnation: u64,
}

/// A start as the controller orders it.
#[derive(Debug)]
pub struct StartArgs {
    /// Id of the lockspace on the wire.
    pub id: u32,
    /// All members, this node among them.
    pub members: KVec<StartMember>,
    /// Those that are gone because they failed; others that are gone have left.
    pub failed: KVec<NodeId>,
}

/// Part of a lockspace's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Never started.
    New,
    /// Locking is stopped.
    Stopped,
    /// Started, and not done.
    Recovering,
    /// Locking goes on.
    Running,
    /// A recovery failed; stopped until the next start.
    Failed,
}

/// A member as the last start that was begun has it.
#[derive(Debug)]
struct Known {
    start: StartMember,
    /// Slot it was last confirmed to have; 0: none yet.
    slot: u16,
    poll: Poll,
}

/// See the module's head.
#[derive(Debug)]
pub struct Recovery {
    own: NodeId,
    id: u32,
    lvb_len: u32,
    flags: u32,
    state: State,
    /// Of the last stop or start. Other nodes' numbers mean nothing here.
    seq: u64,
    status: Status,
    phase: Phase,
    /// A start that has not been begun.
    pending: Option<StartArgs>,
    /// By ascending id.
    members: KVec<Known>,
    /// The same for the shards, once they have it.
    table: Option<Arc<Members>>,
    /// Gone since the last recovery that was completed, also those that are back.
    gone: KVec<NodeId>,
    /// Those of them, and new members, whose saved messages were not thrown away yet. What comes
    /// from them later is said by their next life; what a new member says as one comes after this
    /// node has begun.
    unheard: KVec<NodeId>,
    own_slot: u16,
    generation: u32,
    /// Whether the slots above are those of the recovery under way or last completed.
    has_slots: bool,
    /// Whether `recover_done` was said since the last `recover_prep`.
    is_done: bool,
    /// A member is configured otherwise: recovery cannot go on.
    mismatch: bool,
    next_id: u64,
    started_ms: u64,
    /// What goes on again now that there was no memory, and when.
    retry_ms: Option<u64>,
    /// Whether this node may act for the cluster.
    quorate: bool,
}

impl Recovery {
    /// A lockspace that was never started. `flags` are those that all members must have.
    pub fn new(own: NodeId, lvb_len: u32, flags: u32) -> Self {
        Self {
            own,
            id: 0,
            lvb_len,
            flags,
            state: State::New,
            seq: 0,
            status: Status::NONE,
            phase: Phase::Idle,
            pending: None,
            members: KVec::new(),
            table: None,
            gone: KVec::new(),
            unheard: KVec::new(),
            own_slot: 0,
            generation: 0,
            has_slots: false,
            is_done: false,
            mismatch: false,
            next_id: 1,
            started_ms: 0,
            retry_ms: None,
            quorate: true,
        }
    }

    /// Part of its life.
    pub fn state(&self) -> State {
        self.state
    }

    /// Id on the wire, 0 before the first start.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Of the last completed recovery.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Of the last stop or start.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Barrier bits.
    pub fn status_bits(&self) -> u32 {
        self.status.raw()
    }

    /// The node that recovery waits for.
    pub fn waits_for(&self) -> Option<NodeId> {
        let open = |known: &&Known| known.poll.is_open();
        self.members.iter().find(open).map(|known| known.start.node)
    }

    /// Members with their slots, 0 where they are not known.
    pub fn slots(&self) -> impl Iterator<Item = SlotOf> + '_ {
        self.members.iter().map(|known| SlotOf {
            node: known.start.node,
            slot: known.slot,
        })
    }

    /// Stops locking. On return no operation runs in any shard, and a recovery that was under way
    /// does nothing more.
    pub fn control_stop<S: Shards, R: RecoveryEffects>(&mut self, shards: &S, fx: &mut R) {
        for index in 0..shards.count() {
            if !fault(Fault::NotStopped) {
                shards.with(index, |shard, _| shard.stop());
            }
        }
        self.seq = self.seq.wrapping_add(1);
        self.status = Status::NONE;
        self.phase = Phase::Idle;
        self.pending = None;
        self.has_slots = false;
        self.retry_ms = None;
        if self.state != State::New {
            self.state = State::Stopped;
        }
        if core::mem::take(&mut self.is_done) {
            fx.recover_prep();
        }
    }

    /// Whether this node may act for the cluster, as membership says. Without quorum the shards are
    /// closed on return and recovery rests: the others may have given away what this node holds or
    /// masters. With quorum again, and nothing stopped meanwhile, locking goes on where it was; it
    /// needs no recovery, for the members are the same.
    pub fn set_quorate<S: Shards, R: RecoveryEffects>(
        &mut self,
        quorate: bool,
        shards: &S,
        fx: &mut R,
    ) {
        if core::mem::replace(&mut self.quorate, quorate) == quorate {
            return;
        }
        for index in 0..shards.count() {
            if quorate || !fault(Fault::OpenWithoutQuorum) {
                shards.with(index, |shard, _| shard.set_quorate(quorate));
            }
        }
        let runs = match (&self.state, &self.phase) {
            (State::Running, _) => true,
            // The end of a recovery: shards run already, or some do.
            (_, Phase::Drain(_) | Phase::Resend(_) | Phase::Grant(_)) => true,
            (State::New | State::Stopped | State::Recovering | State::Failed, _) => false,
        };
        if quorate && runs {
            fx.enabled();
            if matches!(self.phase, Phase::Idle) {
                self.phase = Phase::Reopen(0);
            }
        }
    }

    /// Has recovery begin with these members. [`EBUSY`]: locking is not stopped. [`EINVAL`]: this
    /// node is none of the members.
    pub fn control_start(&mut self, now_ms: u64, args: StartArgs) -> Result {
        match self.state {
            State::New | State::Stopped | State::Failed => {}
            State::Recovering | State::Running => return Err(EBUSY),
        }
        let own = args.members.iter().find(|member| member.node == self.own);
        let Some(own) = own else {
            return Err(EINVAL);
        };
        if self.seq == 0 {
            // Replies to an earlier lockspace of this name must not fit.
            self.seq = own.incarnation.rotate_left(32) ^ (now_ms << 8);
        }
        self.id = args.id;
        self.seq = self.seq.wrapping_add(1);
        self.state = State::Recovering;
        self.started_ms = now_ms;
        self.pending = Some(args);
        self.phase = Phase::Start;
        Ok(())
    }

    /// This node is a member no longer: frees everything.
    pub fn leave<S: Shards, R: RecoveryEffects>(&mut self, shards: &S, fx: &mut R) {
        for index in 0..shards.count() {
            shards.with(index, |shard, fx| {
                shard.stop();
                shard.clear(fx);
            });
        }
        for known in self.members.iter() {
            if known.start.node != self.own {
                fx.member_removed(known.start.node);
            }
        }
        self.members.clear();
        self.status = Status::NONE;
        self.phase = Phase::Idle;
        self.pending = None;
        self.state = State::Stopped;
    }

    /// A recovery message. An error means that it makes no sense, or that there was no memory and
    /// nothing changed: then it must be delivered again.
    pub fn handle_packet<S: Shards, R: RecoveryEffects>(
        &mut self,
        now_ms: u64,
        from: NodeId,
        packet: &[u8],
        shards: &S,
        fx: &mut R,
    ) -> Result {
        let rcom = Rcom::decode(packet).ok_or(EINVAL)?;
        if rcom.kind != RcomKind::Status && !self.may_take(from, &rcom) {
            return Ok(());
        }
        match rcom.kind {
            RcomKind::Status => self.answer_status(from, &rcom, fx),
            RcomKind::StatusReply => self.take_status(now_ms, from, &rcom, fx),
            RcomKind::Names => self.answer_names(from, &rcom, shards, fx),
            RcomKind::NamesReply => self.take_names(now_ms, from, &rcom, shards),
            RcomKind::Lookup => self.answer_lookup(from, &rcom, shards, fx),
            RcomKind::LookupReply => self.take_lookup(now_ms, from, &rcom, shards),
            RcomKind::Lock => self.answer_lock(now_ms, from, &rcom, shards, fx),
            RcomKind::LockReply => self.take_lock(now_ms, from, &rcom, shards),
        }
    }

    /// Whether a message other than STATUS is for the recovery under way.
    fn may_take(&self, from: NodeId, rcom: &Rcom<'_>) -> bool {
        let under_way = matches!(self.state, State::Recovering | State::Running);
        let current = !rcom.kind.is_reply() || rcom.seq_reply == self.seq;
        let known = self.known(from).is_some();
        let reached = match rcom.kind {
            RcomKind::Status | RcomKind::StatusReply => true,
            RcomKind::Names | RcomKind::NamesReply => self.status.has(phase::NODES),
            RcomKind::Lookup | RcomKind::LookupReply | RcomKind::Lock | RcomKind::LockReply => {
                self.status.has(phase::DIR)
            }
        };
        under_way && current && known && reached
    }

    /// How far this node is. Answered in every state.
    fn answer_status<R: RecoveryEffects>(
        &mut self,
        from: NodeId,
        rcom: &Rcom<'_>,
        fx: &mut R,
    ) -> Result {
        let wants_slots = rcom::decode_status(rcom.payload);
        let with_slots = wants_slots && self.has_slots;
        let config = Config {
            lvb_len: self.lvb_len,
            flags: self.flags,
            own_slot: self.own_slot,
            slots: if with_slots {
                self.members.len() as u16
            } else {
                0
            },
            generation: self.generation,
        };
        let mut payload = KVec::new();
        payload.extend_from_slice(&config.encode(), GFP)?;
        if with_slots {
            for slot in self.slots() {
                payload.extend_from_slice(&slot.encode(), GFP)?;
            }
        }
        let reply = Rcom {
            kind: RcomKind::StatusReply,
            result: self.status.raw(),
            id: rcom.id,
            seq: self.seq,
            seq_reply: rcom.seq,
            payload: &payload,
        };
        fx.send_rcom(from, true, &reply.encode(self.id, self.own)?);
        Ok(())
    }

    fn known(&self, node: NodeId) -> Option<&Known> {
        self.members.iter().find(|known| known.start.node == node)
    }

    fn known_mut(&mut self, node: NodeId) -> Option<&mut Known> {
        self.members
            .iter_mut()
            .find(|known| known.start.node == node)
    }

    /// The member with the lowest id, which drives the barriers.
    fn lowest(&self) -> Option<NodeId> {
        self.members.first().map(|known| known.start.node)
    }

    /// A request of the recovery under way.
    fn request(&mut self, kind: RcomKind, result: u32, payload: &[u8]) -> Result<(u64, KVec<u8>)> {
        let id = self.next_id;
        let rcom = Rcom {
            kind,
            result,
            id,
            seq: self.seq,
            seq_reply: 0,
            payload,
        };
        let packet = rcom.encode(self.id, self.own)?;
        self.next_id = self.next_id.wrapping_add(1);
        Ok((id, packet))
    }

    /// Answers a request.
    fn reply<R: RecoveryEffects>(
        &self,
        to: NodeId,
        request: &Rcom<'_>,
        kind: RcomKind,
        result: u32,
        payload: &[u8],
        fx: &mut R,
    ) -> Result {
        let rcom = Rcom {
            kind,
            result,
            id: request.id,
            seq: self.seq,
            seq_reply: request.seq,
            payload,
        };
        fx.send_rcom(to, false, &rcom.encode(self.id, self.own)?);
        Ok(())
    }

    /// Members as the shards want them.
    fn member_table(&self) -> Result<Members> {
        let mut list = KVec::with_capacity(self.members.len(), GFP)?;
        for known in self.members.iter() {
            let member = Member {
                node: known.start.node,
                weight: known.start.weight,
            };
            list.push(member, GFP)?;
        }
        Members::new(self.own, &list)
    }

    /// A lock for its new master, which is this node; or from an attempt that was given up.
    fn answer_lock<S: Shards, R: RecoveryEffects>(
        &mut self,
        now_ms: u64,
        from: NodeId,
        rcom: &Rcom<'_>,
        shards: &S,
        fx: &mut R,
    ) -> Result {
        let mut lock = RcomLock::decode(rcom.payload).ok_or(EINVAL)?;
        let index = self.shard_of_name(&lock.name, shards);
        let rebuilt = shards.with(index, |shard, _| shard.rebuild(now_ms, from, &lock));
        (lock.remid, lock.result) = rebuilt?;
        lock.lvb = &[];
        self.reply(from, rcom, RcomKind::LockReply, 0, &lock.encode(), fx)
    }
}

/// Adds a node that is gone.
fn note(list: &mut KVec<NodeId>, node: NodeId) -> Result {
    if !list.contains(&node) {
        list.push(node, GFP)?;
    }
    Ok(())
}
