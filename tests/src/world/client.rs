// SPDX-License-Identifier: GPL-2.0-only
//! Clients: programs that lock, convert, give up and take back what they asked for, and that make
//! room when they are told that they are in the way.

use dlm_core::lockcore::flags::{self, LockFlags};
use dlm_core::lockcore::hash::name_hash;
use dlm_core::lockcore::mode::{Change, Mode};
use dlm_core::lockcore::name::ResourceName;
use dlm_core::lockcore::recovery::State;
use dlm_core::lockcore::shard::{Conversion, Refused, Request};
use dlm_core::platform::fail;

use super::daemon::Report;
use super::machine::Mount;
use super::{Event, World, trace};
use crate::kernel::Space;
use crate::truth::{Lock, Pending, Violation, broken};

/// Pause of a client that only clears up, ms.
const CLEAR_UP_MS: u64 = 100;

fn name_of(resource: u64) -> Vec<u8> {
    format!("resource {resource}").into_bytes()
}

impl World {
    /// A client joins the lockspace, or leaves it.
    pub(super) fn mount(&mut self, node: u32, life: u32) -> Result<(), Violation> {
        if !self.is_life(node, life) {
            return Ok(());
        }
        let (shard_bits, toss_ms) = (self.plan.shard_bits, self.plan.toss_ms);
        let (healed, leaves) = (self.healed, self.plan.leaves);
        let pause = self.random.within(1_000, 10_000);
        let machine = self.machine(node);
        if machine.daemon.is_none() {
            if machine.mount == Mount::Out {
                // Nobody is there to ask.
                self.after(500, Event::Mount { node, life });
            }
            return Ok(());
        }
        match machine.mount {
            Mount::Out => {
                if machine.kernel.stop_by.is_some() {
                    // The transport takes leave first.
                    self.after(50, Event::Mount { node, life });
                    return Ok(());
                }
                machine.mount = Mount::Joining;
                let mut space = Space::new(node, shard_bits, toss_ms);
                space.set_quorate(machine.kernel.quorate);
                machine.kernel.space = Some(space);
                trace!(self, "node {node} wants the lockspace");
                self.start_transport(node);
                self.say(node, Report::Join);
                if leaves {
                    self.after(pause, Event::Mount { node, life });
                }
            }
            Mount::In if !healed && machine.generation > 0 => {
                machine.mount = Mount::Leaving;
                trace!(self, "node {node} leaves the lockspace");
                self.truth.forget_node(node);
                self.truth.disturb();
                let recover = self.random.percent(20);
                self.say(node, Report::Leave(recover));
            }
            Mount::In | Mount::Joining | Mount::Leaving => {}
        }
        Ok(())
    }

    /// A client does something.
    pub(super) fn client(&mut self, node: u32, life: u32) -> Result<(), Violation> {
        if !self.is_life(node, life) {
            return Ok(());
        }
        let pause = if self.healed {
            CLEAR_UP_MS
        } else {
            self.random.within(1, self.plan.client_ms)
        };
        self.after(pause, Event::Client { node, life });
        let machine = self.machine(node);
        let space = machine.kernel.space.as_ref();
        // Who creates a lockspace has it when the first recovery is over.
        if machine.mount != Mount::In || space.is_none() || machine.generation == 0 {
            return Ok(());
        }
        if self.healed {
            return self.clear_up(node);
        }
        let locks: Vec<u64> = self.truth.of_node(node).map(|(handle, _)| handle).collect();
        let is_full = locks.len() >= self.plan.locks;
        let Some(handle) = self
            .random
            .pick(&locks)
            .filter(|_| is_full || self.random.percent(60))
        else {
            return if is_full { Ok(()) } else { self.request(node) };
        };
        let Some(lock) = self.truth.lock(handle).cloned() else {
            return Ok(());
        };
        self.act_on(node, handle, &lock)
    }

    fn act_on(&mut self, node: u32, handle: u64, lock: &Lock) -> Result<(), Violation> {
        match (lock.pending, lock.granted) {
            (None, Some(mode)) if lock.blocks && mode > Mode::Nl && self.random.percent(80) => {
                if self.random.percent(50) {
                    self.convert(node, handle, lock, Mode::Nl)
                } else {
                    self.unlock(node, handle, lock)
                }
            }
            (None, Some(_)) if self.random.percent(25) => self.unlock(node, handle, lock),
            (None, Some(_)) if self.random.percent(5) => self.force(node, handle, lock),
            (None, Some(mode)) => {
                let wanted = self.random.pick(&Mode::ALL).unwrap_or(Mode::Nl);
                if wanted == mode {
                    return Ok(());
                }
                self.convert(node, handle, lock, wanted)
            }
            (Some(Pending::Request | Pending::Convert(_)), _) => {
                if self.random.percent(10) {
                    self.cancel(node, lock)
                } else if self.random.percent(5) {
                    self.force(node, handle, lock)
                } else {
                    Ok(())
                }
            }
            (Some(Pending::Down(_) | Pending::Unlock | Pending::Forced), _) | (None, None) => {
                Ok(())
            }
        }
    }

    /// Gives up everything. Only conversions of locks that are in the way are taken back:
    /// everything else has to end by itself.
    fn clear_up(&mut self, node: u32) -> Result<(), Violation> {
        let locks = self.truth.of_node(node);
        let locks: Vec<(u64, Lock)> = locks.map(|(handle, lock)| (handle, lock.clone())).collect();
        for (handle, lock) in locks {
            match lock.pending {
                None => self.unlock(node, handle, &lock)?,
                Some(Pending::Convert(_)) if lock.blocks => self.cancel(node, &lock)?,
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn request(&mut self, node: u32) -> Result<(), Violation> {
        let now_ms = self.now_ms;
        let resource = self.random.below(self.plan.resources);
        let has_lvb = resource * 37 % 100 < self.plan.lvb_percent;
        let mode = self.random.pick(&Mode::ALL).unwrap_or(Mode::Nl);
        let mut bits = if has_lvb {
            flags::VALBLK
        } else {
            LockFlags::NONE
        };
        if self.random.percent(15) {
            bits |= flags::NOQUEUE;
        }
        let Some(name) = ResourceName::new(&name_of(resource)) else {
            return broken("a name is too long".into());
        };
        let handle = self.truth.add(now_ms, node, resource, has_lvb);
        self.press();
        let Some(space) = &self.machine(node).kernel.space else {
            return Ok(());
        };
        let buffer = [0; 8];
        let args = Request {
            mode: mode as i32,
            flags: bits,
            pid: handle as u32,
            user: false,
            wants_blocking: true,
            lvb: has_lvb.then_some(&buffer[..]),
            owner: handle,
        };
        let result = space.of_hash(name_hash(name.as_bytes()), |shard, fx| {
            shard.request(now_ms, &name, args, fx)
        });
        fail::after(None);
        trace!(
            self,
            "node {node} lock {handle} resource {resource}: {mode:?} {bits:?} {result:x?}"
        );
        match result {
            Ok(id) => {
                self.check_runs(node, "a request")?;
                if let Some(lock) = self.truth.lock_mut(handle) {
                    lock.id = Some(id);
                }
                self.settle(node)
            }
            Err(error) => {
                // The shard lets go of what it was given; nothing else may have happened.
                self.truth.refused(handle);
                self.expect(node, error, "a request")?;
                self.settle(node)
            }
        }
    }

    /// While a lockspace is stopped nothing is accepted: its members are about to change.
    fn check_runs(&mut self, node: u32, what: &str) -> Result<(), Violation> {
        let space = self.machine(node).kernel.space.as_ref();
        if space.is_some_and(|space| space.recovery.state() == State::Stopped) {
            return broken(format!(
                "node {node}: {what} is accepted while the lockspace is stopped"
            ));
        }
        Ok(())
    }

    /// Answers that a client of ours should never get.
    fn expect(&mut self, node: u32, error: Refused, what: &str) -> Result<(), Violation> {
        match error {
            Refused::Blocked | Refused::Busy | Refused::NoMemory => Ok(()),
            Refused::NotFound | Refused::Invalid | Refused::Again => {
                broken(format!("node {node}: {what} is refused: {error:?}"))
            }
        }
    }

    fn convert(
        &mut self,
        node: u32,
        handle: u64,
        lock: &Lock,
        mode: Mode,
    ) -> Result<(), Violation> {
        let (now_ms, resource) = (self.now_ms, lock.resource);
        let (Some(id), Some(before)) = (lock.id, lock.granted) else {
            return Ok(());
        };
        let down = before.change_to(mode) == Change::Down;
        let writes = lock.has_lvb && down && before >= Mode::Pw;
        let value = if writes {
            self.truth.fresh_value()
        } else {
            lock.buffer
        };
        let mut bits = if lock.has_lvb {
            flags::VALBLK
        } else {
            LockFlags::NONE
        };
        if !down && self.random.percent(15) {
            bits |= flags::NOQUEUE;
        }
        if !down && !bits.has(flags::NOQUEUE) && self.random.percent(10) {
            bits |= flags::QUECVT;
        }
        if !before.may_queue_to(mode) {
            bits.set(flags::QUECVT, false);
        }
        let buffer = value.to_le_bytes();
        let args = Conversion {
            mode: mode as i32,
            flags: bits | flags::CONVERT,
            pid: handle as u32,
            wants_blocking: true,
            lvb: lock.has_lvb.then_some(&buffer[..]),
        };
        self.press();
        let Some(space) = &self.machine(node).kernel.space else {
            return Ok(());
        };
        let result = space.of_lock(id.raw(), |shard, fx| {
            shard.convert(now_ms, id, args, |_| {}, fx)
        });
        fail::after(None);
        trace!(
            self,
            "node {node} lock {handle} resource {resource}: {before:?} to {mode:?} {bits:?} value {value} {result:?}"
        );
        if let Err(error) = result {
            self.expect(node, error, "a conversion")?;
            return self.settle(node);
        }
        self.check_runs(node, "a conversion")?;
        if let Some(lock) = self.truth.lock_mut(handle) {
            lock.pending = Some(if down {
                Pending::Down(mode)
            } else {
                Pending::Convert(mode)
            });
            lock.since_ms = now_ms;
            lock.buffer = value;
        }
        if writes {
            self.truth.written(resource, value);
        }
        self.settle(node)
    }

    fn unlock(&mut self, node: u32, handle: u64, lock: &Lock) -> Result<(), Violation> {
        let (now_ms, resource) = (self.now_ms, lock.resource);
        let Some(id) = lock.id else {
            return Ok(());
        };
        let writes = lock.has_lvb && lock.granted >= Some(Mode::Pw);
        let value = if writes {
            self.truth.fresh_value()
        } else {
            lock.buffer
        };
        let bits = if writes {
            flags::VALBLK
        } else {
            LockFlags::NONE
        };
        let accepted = self.give_up(node, lock, id, bits, value)?;
        trace!(
            self,
            "node {node} lock {handle} resource {resource}: unlock, value {value} {accepted}"
        );
        if accepted {
            if let Some(lock) = self.truth.lock_mut(handle) {
                lock.pending = Some(Pending::Unlock);
                lock.since_ms = now_ms;
            }
            if writes {
                self.truth.written(resource, value);
            }
            self.truth.note_holders(resource);
        }
        self.settle(node)
    }

    fn force(&mut self, node: u32, handle: u64, lock: &Lock) -> Result<(), Violation> {
        let (now_ms, resource) = (self.now_ms, lock.resource);
        let Some(id) = lock.id else {
            return Ok(());
        };
        let accepted = self.give_up(node, lock, id, flags::FORCEUNLOCK, lock.buffer)?;
        trace!(self, "node {node} lock {handle}: forced unlock {accepted}");
        if accepted && let Some(lock) = self.truth.lock_mut(handle) {
            lock.pending = Some(Pending::Forced);
            lock.since_ms = now_ms;
            self.truth.note_holders(resource);
        }
        self.settle(node)
    }

    fn cancel(&mut self, node: u32, lock: &Lock) -> Result<(), Violation> {
        let Some(id) = lock.id else {
            return Ok(());
        };
        let accepted = self.give_up(node, lock, id, flags::CANCEL, lock.buffer)?;
        trace!(self, "node {node} lock {id:x?}: cancel {accepted}");
        self.settle(node)
    }

    /// An unlock or cancel. Returns whether it was accepted.
    fn give_up(
        &mut self,
        node: u32,
        lock: &Lock,
        id: dlm_core::lockcore::lkb::LockId,
        bits: LockFlags,
        value: u64,
    ) -> Result<bool, Violation> {
        let now_ms = self.now_ms;
        let buffer = value.to_le_bytes();
        let lvb = lock.has_lvb.then_some(&buffer[..]);
        self.press();
        let Some(space) = &self.machine(node).kernel.space else {
            return Ok(false);
        };
        let result = space.of_lock(id.raw(), |shard, fx| {
            shard.unlock(now_ms, id, bits, lvb, |_| {}, fx)
        });
        fail::after(None);
        match result {
            Ok(()) => {
                self.check_runs(node, "an unlock")?;
                Ok(true)
            }
            Err(error) => {
                self.expect(node, error, "an unlock")?;
                Ok(false)
            }
        }
    }
}
