// SPDX-License-Identifier: GPL-2.0-only
//! New requests of this node, and finding the master of a resource.
//!
//! While it is not clear who the master is, one lock (`first`) finds out and the others wait in
//! the resource's list; they go on when the answer is there. Nothing but a refusal can happen to a
//! request before it is accepted, and nothing but its completion after.

use super::effects::check_request;
use super::grant::Outcome;
use super::{Effects, Refused, Request, Shard, Status};
use crate::lockcore::arena::{Key, LockIndex, ResourceIndex};
use crate::lockcore::flags::{LockFlags, SharedFlags, CONVERT, SHARED_USER, VALBLK};
use crate::lockcore::hash::name_hash;
use crate::lockcore::lkb::state::{LOOKUP_QUEUED, WANTS_BLOCKING};
use crate::lockcore::lkb::{Lkb, LockId, Waiting};
use crate::lockcore::members::NodeId;
use crate::lockcore::mode::Mode;
use crate::lockcore::name::ResourceName;
use crate::lockcore::queue::List;
use crate::lockcore::rsb::state::MASTER_UNCERTAIN;
use crate::lockcore::wire::message::MessageKind;

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// This node is the master.
    Here,
    /// To the master.
    To(NodeId),
    /// To the directory node.
    Ask(NodeId),
    /// Nowhere until another lock knows.
    Wait,
}

impl<O> Shard<O> {
    /// Asks for a new lock. The id is also in every completion, of which there may be one before
    /// this returns.
    pub fn request<F: Effects<Owner = O>>(
        &mut self,
        now_ms: u64,
        name: &ResourceName,
        args: Request<'_, O>,
        fx: &mut F,
    ) -> Result<LockId, Refused> {
        self.check_open(now_ms)?;
        let mode = check_request(args.mode, args.flags, args.lvb.is_some())?;
        if args.flags.has(CONVERT) {
            return Err(Refused::Invalid);
        }
        let lvb = self.copy_lvb(args.flags, args.lvb)?;
        let i = self.locks.reserve()?;
        let r = self.find_or_create(name, args.flags)?;
        self.wake_for_own(r);
        let mut lock = Lkb {
            owner: Some(args.owner),
            lvb,
            resource: r,
            pid: args.pid,
            flags: args.flags,
            requested: Some(mode),
            shared: if args.user {
                SHARED_USER
            } else {
                SharedFlags::NONE
            },
            ..Lkb::default()
        };
        lock.set(WANTS_BLOCKING, args.wants_blocking);
        self.locks.put(i, lock);
        self.join(r);
        let id = self.id_of(i);
        self.start_request(i, fx);
        Ok(id)
    }

    /// The resource of this name with room for its value block, made if need be. An error leaves
    /// nothing behind.
    pub(super) fn find_or_create(
        &mut self,
        name: &ResourceName,
        bits: LockFlags,
    ) -> Result<ResourceIndex, Refused> {
        let hash = name_hash(name.as_bytes());
        let found = self.find(hash, name.as_bytes());
        let room = bits.has(VALBLK);
        if !found.is_none() {
            if room {
                self.reserve_lvb(found)?;
            }
            return Ok(found);
        }
        let r = self.create(name, hash)?;
        if room {
            if let Err(error) = self.reserve_lvb(r) {
                self.free(r);
                return Err(error.into());
            }
        }
        Ok(r)
    }

    /// Where the request `i` goes; remembers what it found out.
    fn route(&mut self, i: LockIndex) -> Route {
        let own = self.own();
        let r = self.lock(i).resource;
        let rsb = self.resources.get_mut(r);
        if rsb.is(MASTER_UNCERTAIN) {
            rsb.set(MASTER_UNCERTAIN, false);
            rsb.first = i;
            return match rsb.master() {
                Some(master) => Route::To(master),
                None => Route::Ask(rsb.directory),
            };
        }
        if !rsb.first.is_none() && rsb.first != i {
            return Route::Wait;
        }
        if let Some(master) = rsb.master() {
            return if master == own {
                Route::Here
            } else {
                Route::To(master)
            };
        }
        if rsb.directory != own {
            rsb.first = i;
            return Route::Ask(rsb.directory);
        }
        match self.directory.master(rsb.hash, rsb.name.as_bytes()) {
            Some(master) => {
                rsb.set_master(Some(master));
                Route::To(master)
            }
            None => {
                rsb.set_master(Some(own));
                Route::Here
            }
        }
    }

    /// Sends a request on its way, for the first time or again.
    pub(super) fn start_request<F: Effects<Owner = O>>(&mut self, i: LockIndex, fx: &mut F) {
        match self.route(i) {
            Route::Here => self.request_here(i, fx),
            Route::To(master) => {
                let lock = self.lock_mut(i);
                lock.waiting = Waiting::Request;
                lock.peer = master;
                self.send(i, MessageKind::Request, master, fx);
            }
            Route::Ask(directory) => {
                let lock = self.lock_mut(i);
                lock.waiting = Waiting::Lookup;
                lock.peer = directory;
                self.send(i, MessageKind::Lookup, directory, fx);
            }
            Route::Wait => {
                let lock = self.locks.get_mut(i);
                lock.set(LOOKUP_QUEUED, true);
                let rsb = self.resources.get_mut(lock.resource);
                rsb.lookups.push_back(&mut self.locks, i);
            }
        }
    }

    /// A request of this node on a resource mastered here.
    fn request_here<F: Effects<Owner = O>>(&mut self, i: LockIndex, fx: &mut F) {
        let wanted = self.lock(i).requested.unwrap_or(Mode::Nl);
        let outcome = self.decide_request(i);
        match outcome {
            Outcome::Granted => self.complete(i, Status::Granted, fx),
            Outcome::Refused => self.complete(i, Status::Again, fx),
            Outcome::Queued | Outcome::Deadlock => {}
        }
        self.after_request(i, wanted, outcome, fx);
        if outcome == Outcome::Refused {
            self.destroy(i, fx);
        }
    }

    /// The lock that was to find out who the master is has done so, or has given up: those that
    /// waited for it go on, as far as they need not wait for one of them. The resource must be held
    /// by a lock meanwhile.
    pub(super) fn continue_lookups<F: Effects<Owner = O>>(&mut self, r: ResourceIndex, fx: &mut F) {
        let rsb = self.resources.get_mut(r);
        rsb.first = LockIndex::NONE;
        let mut waiting: List<LockIndex> = core::mem::take(&mut rsb.lookups);
        while !waiting.is_empty() {
            let i = waiting.first();
            waiting.remove(&mut self.locks, i);
            self.lock_mut(i).set(LOOKUP_QUEUED, false);
            self.start_request(i, fx);
        }
    }
}
