// SPDX-License-Identifier: GPL-2.0-only
//! The decision, on the master: can this lock have what it asks for, and who can once something
//! changed.
//!
//! Whether a mode goes with all other holders is seen from the counts of the resource; the rest of
//! the decision is the order of the queues. A conversion that could never be granted is found by
//! looking at those it waits with.

use super::{Effects, Shard, Status};
use crate::lockcore::arena::{LockIndex, ResourceIndex};
use crate::lockcore::fault::{fault, Fault};
use crate::lockcore::flags::{
    LockFlags, ALTCW, ALTPR, CONVDEADLK, EXPEDITE, HEADQUE, NODLCKWT, NOORDER, NOQUEUE,
    NOQUEUEBAST, QUECVT, SBF_ALTMODE, SBF_DEMOTED,
};
use crate::lockcore::lkb::state::GAVE_UP_MODE;
use crate::lockcore::lkb::Queue;
use crate::lockcore::mode::Mode;
use crate::lockcore::rsb::state::{NO_ORDER, UNORDERED};

/// When a lock is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It was just submitted.
    Submitted,
    /// It waits in its queue.
    Queued,
    /// It waits in its queue at the end of a recovery, when the order of conversions is not known.
    Recovered,
}

/// What the master did with an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Granted.
    Granted,
    /// It waits in its queue.
    Queued,
    /// It may not wait.
    Refused,
    /// It would wait for ever, and may not.
    Deadlock,
}

impl Outcome {
    /// The result in a reply.
    pub(super) const fn result(self) -> i32 {
        match self {
            Outcome::Granted => 0,
            Outcome::Queued => crate::lockcore::errno::EINPROGRESS,
            Outcome::Refused => Status::Again.errno(),
            Outcome::Deadlock => Status::Deadlock.errno(),
        }
    }
}

/// What looking at a lock showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Yes,
    No,
    /// It waits for somebody who waits for it.
    Deadlock,
    /// It did, and gave up its granted mode for it.
    Demoted,
}

/// What still waits after the queues were gone through.
#[derive(Default)]
struct StillWaiting {
    high: Option<Mode>,
    cw: bool,
}

impl StillWaiting {
    fn note(&mut self, mode: Option<Mode>) {
        self.high = self.high.max(mode);
        self.cw |= mode == Some(Mode::Cw);
    }
}

impl<O> Shard<O> {
    /// The table of the grant decision, first row that says yes or no.
    pub(super) fn is_grantable(&self, i: LockIndex, stage: Stage) -> bool {
        let lock = self.lock(i);
        let Some(wanted) = lock.requested else {
            return false;
        };
        let rsb = self.resource(lock.resource);
        let converts = lock.granted.is_some();
        if lock.has(EXPEDITE) && !converts && wanted == Mode::Nl {
            return true;
        }
        let careless = wanted == Mode::Pr && fault(Fault::ReadBesideWrite);
        if !rsb.admits(wanted, lock.granted) && !careless {
            return false;
        }
        let none_converts = rsb.queue(Queue::Convert).is_empty();
        if converts {
            return match stage {
                Stage::Recovered => true,
                Stage::Submitted => !lock.has(QUECVT) || none_converts,
                Stage::Queued => {
                    lock.has(NOORDER)
                        || rsb.queue(Queue::Convert).first() == i
                        // It came before the one that it is in the way of: no other would wait.
                        || rsb.is(UNORDERED) && self.is_deadlocked(i)
                }
            };
        }
        let waiting = rsb.queue(Queue::Wait);
        lock.has(NOORDER)
            || none_converts
                && match stage {
                    Stage::Submitted => waiting.is_empty(),
                    Stage::Queued | Stage::Recovered => waiting.first() == i,
                }
    }

    /// Looks at a lock, tries the mode it would also take, and gives up its granted mode if that
    /// is how it wants a deadlock broken.
    fn judge(&mut self, i: LockIndex, stage: Stage) -> Verdict {
        if self.is_grantable(i, stage) {
            return Verdict::Yes;
        }
        let lock = self.lock(i);
        let converts = lock.granted.is_some();
        if converts && !lock.has(NOQUEUE) && self.is_deadlocked(i) {
            if !self.lock(i).has(CONVDEADLK) {
                return Verdict::Deadlock;
            }
            self.set_granted(i, Some(Mode::Nl));
            self.lock_mut(i).sb_flags |= SBF_DEMOTED;
            return Verdict::Demoted;
        }
        // The reply to another node's conversion has no room for another mode than was asked for:
        // such a conversion is queued, and the grant that follows has.
        if converts && stage == Stage::Submitted && self.lock(i).is_master_copy() {
            return Verdict::No;
        }
        self.judge_alternative(i, stage)
    }

    fn judge_alternative(&mut self, i: LockIndex, stage: Stage) -> Verdict {
        let lock = self.lock_mut(i);
        let wanted = lock.requested;
        let Some(other) = alternative(lock.flags, wanted) else {
            return Verdict::No;
        };
        lock.requested = Some(other);
        let grantable = self.is_grantable(i, stage);
        let lock = self.lock_mut(i);
        if grantable {
            lock.sb_flags |= SBF_ALTMODE;
            return Verdict::Yes;
        }
        lock.requested = wanted;
        Verdict::No
    }

    /// Whether a conversion and another one wait for each other.
    fn is_deadlocked(&self, i: LockIndex) -> bool {
        let lock = self.lock(i);
        let queue = self.resource(lock.resource).queue(Queue::Convert);
        let blocks = |held: Option<Mode>, wanted: Option<Mode>| match (held, wanted) {
            (Some(held), Some(wanted)) => !held.is_compatible(wanted),
            (_, _) => false,
        };
        let mut ahead = true;
        for (at, other) in queue.iter(&self.locks) {
            let it_waits_for_us = blocks(lock.granted, other.requested);
            if at == i {
                ahead = false;
            } else if it_waits_for_us && (ahead || blocks(other.granted, lock.requested)) {
                return true;
            }
        }
        false
    }

    /// Gives a lock what it asks for. `carried`: the value block that came with the message.
    fn grant(&mut self, i: LockIndex, carried: &[u8]) {
        self.lvb_at_grant(i, carried);
        let requested = self.lock(i).requested;
        self.set_granted(i, requested);
        let lock = self.lock_mut(i);
        lock.requested = None;
        lock.told_blocking = Mode::Nl;
        lock.set(GAVE_UP_MODE, false);
        if lock.queue != Queue::Grant {
            self.requeue(i, Queue::Grant);
        }
    }

    /// Decides a new request.
    pub(super) fn decide_request(&mut self, i: LockIndex) -> Outcome {
        if self.judge(i, Stage::Submitted) == Verdict::Yes {
            self.grant(i, &[]);
            return Outcome::Granted;
        }
        if self.lock(i).has(NOQUEUE) {
            return Outcome::Refused;
        }
        self.enqueue(i, Queue::Wait);
        Outcome::Queued
    }

    /// Decides a conversion of a lock in the grant queue.
    pub(super) fn decide_convert<F: Effects<Owner = O>>(
        &mut self,
        i: LockIndex,
        carried: &[u8],
        fx: &mut F,
    ) -> Outcome {
        let r = self.lock(i).resource;
        match self.judge(i, Stage::Submitted) {
            Verdict::Yes => {
                self.grant(i, carried);
                return Outcome::Granted;
            }
            Verdict::Deadlock if !self.lock(i).has(NODLCKWT) => {
                self.lock_mut(i).requested = None;
                return Outcome::Deadlock;
            }
            Verdict::Demoted => {
                self.grant_conversions(r, Stage::Queued, &mut StillWaiting::default(), fx);
                if self.is_grantable(i, Stage::Submitted) {
                    self.grant(i, carried);
                    return Outcome::Granted;
                }
            }
            Verdict::No | Verdict::Deadlock => {}
        }
        if self.lock(i).has(NOQUEUE) {
            self.lock_mut(i).requested = None;
            return Outcome::Refused;
        }
        self.requeue(i, Queue::Convert);
        Outcome::Queued
    }

    /// What a request `i`, which wanted `wanted`, means for others.
    pub(super) fn after_request<F: Effects<Owner = O>>(
        &mut self,
        i: LockIndex,
        wanted: Mode,
        outcome: Outcome,
        fx: &mut F,
    ) {
        let lock = self.lock(i);
        let r = lock.resource;
        match outcome {
            Outcome::Granted | Outcome::Deadlock => {}
            Outcome::Queued => {
                // It may be the next in line at once, and be served if it gave way itself.
                let first = lock.flags.has_any(HEADQUE | NOORDER) || lock.sb_flags.has(SBF_DEMOTED);
                let unordered = self.resource(r).is(UNORDERED);
                let otherwise =
                    lock.granted.is_some() && (unordered || lock.flags.has_any(ALTPR | ALTCW));
                self.tell_queue(r, Queue::Grant, i, wanted, fx);
                if first || otherwise {
                    self.grant_pending(r, fx);
                }
            }
            Outcome::Refused => {
                if lock.has(NOQUEUEBAST) {
                    self.tell_queue(r, Queue::Grant, i, wanted, fx);
                    self.tell_queue(r, Queue::Convert, i, wanted, fx);
                }
            }
        }
    }

    /// The same for a conversion: what it gave up may do for somebody else.
    pub(super) fn after_convert<F: Effects<Owner = O>>(
        &mut self,
        i: LockIndex,
        wanted: Mode,
        outcome: Outcome,
        fx: &mut F,
    ) {
        if outcome == Outcome::Granted {
            self.grant_pending(self.lock(i).resource, fx);
        } else {
            self.after_request(i, wanted, outcome, fx);
        }
    }

    /// Goes through the queues of a resource and grants what can be granted.
    pub(super) fn grant_pending<F: Effects<Owner = O>>(&mut self, r: ResourceIndex, fx: &mut F) {
        self.go_through_queues(r, Stage::Queued, fx);
    }

    /// The same, at the end of a recovery.
    pub(super) fn grant_recovered<F: Effects<Owner = O>>(&mut self, r: ResourceIndex, fx: &mut F) {
        self.go_through_queues(r, Stage::Recovered, fx);
    }

    fn go_through_queues<F: Effects<Owner = O>>(
        &mut self,
        r: ResourceIndex,
        stage: Stage,
        fx: &mut F,
    ) {
        let rsb = self.resource_mut(r);
        let none_converts = rsb.queue(Queue::Convert).is_empty();
        let unordered = stage == Stage::Recovered || rsb.is(UNORDERED);
        rsb.set(UNORDERED, unordered && !none_converts);
        let idle = none_converts && rsb.queue(Queue::Wait).is_empty();
        if idle || !self.is_master(r) {
            return;
        }
        let mut still = StillWaiting::default();
        self.grant_conversions(r, stage, &mut still, fx);
        self.grant_requests(r, stage, &mut still, fx);
        if let Some(high) = still.high {
            self.tell_holders(r, high, still.cw, fx);
        }
        let rsb = self.resource_mut(r);
        if rsb.queue(Queue::Convert).is_empty() {
            rsb.set(UNORDERED, false);
            if rsb.queue(Queue::Wait).is_empty() {
                rsb.set(NO_ORDER, false);
            }
        }
    }

    /// Whole passes over the convert queue until one grants nothing.
    fn grant_conversions<F: Effects<Owner = O>>(
        &mut self,
        r: ResourceIndex,
        stage: Stage,
        still: &mut StillWaiting,
        fx: &mut F,
    ) {
        let mut again = true;
        // Each lock is demoted once at most, and granted once: this ends.
        while again {
            again = false;
            let mut pass = StillWaiting::default();
            let mut walk = self.resource(r).queue(Queue::Convert).walk();
            while let Some((at, _)) = walk.next(&self.locks) {
                match self.judge(at, stage) {
                    Verdict::Yes => {
                        self.grant_and_tell(at, fx);
                        again = true;
                    }
                    Verdict::Demoted => again = true,
                    Verdict::Deadlock => {
                        if self.lock(at).has(NODLCKWT) {
                            self.tell_deadlocked(at, fx);
                        }
                        if self.resource(r).is(UNORDERED) {
                            // It is granted when nobody else is in the way.
                            pass.note(self.lock(at).requested);
                        }
                    }
                    Verdict::No => pass.note(self.lock(at).requested),
                }
            }
            if !again {
                still.high = still.high.max(pass.high);
                still.cw |= pass.cw;
            }
        }
    }

    /// One pass over the wait queue, in order.
    fn grant_requests<F: Effects<Owner = O>>(
        &mut self,
        r: ResourceIndex,
        stage: Stage,
        still: &mut StillWaiting,
        fx: &mut F,
    ) {
        let mut walk = self.resource(r).queue(Queue::Wait).walk();
        while let Some((at, _)) = walk.next(&self.locks) {
            if self.judge(at, stage) == Verdict::Yes {
                self.grant_and_tell(at, fx);
            } else {
                still.note(self.lock(at).requested);
                // Behind one that waits only NOORDER can be granted, and nothing is above EX.
                if still.high == Some(Mode::Ex) && !self.resource(r).is(NO_ORDER) {
                    return;
                }
            }
        }
    }

    /// Grants a lock that waited, and tells its owner, wherever that is.
    fn grant_and_tell<F: Effects<Owner = O>>(&mut self, i: LockIndex, fx: &mut F) {
        self.grant(i, &[]);
        if self.lock(i).is_master_copy() {
            self.send_grant(i, fx);
        } else {
            self.complete(i, Status::Granted, fx);
        }
    }
}

/// The mode that will also do.
pub(super) fn alternative(bits: LockFlags, wanted: Option<Mode>) -> Option<Mode> {
    if bits.has(ALTPR) && wanted != Some(Mode::Pr) {
        Some(Mode::Pr)
    } else if bits.has(ALTCW) && wanted != Some(Mode::Cw) {
        Some(Mode::Cw)
    } else {
        None
    }
}
