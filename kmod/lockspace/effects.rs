// SPDX-License-Identifier: GPL-2.0-only
//! What a shard wants done, and how the shell reaches a shard.
//!
//! Effects are pushed while a shard's mutex is held, so they only queue: packets with the
//! transport, callbacks with their line. Whoever must come and carry them out is woken after the
//! mutex is free.

use kernel::{
    prelude::*,
    sync::{
        atomic::ordering,
        Arc, //
    }, //
};

use super::{
    Lockspace,
    LVB_MAX, //
};
use crate::callback::{
    self,
    Callbacks,
    Owner, //
};
use crate::ffi::memory::NoReclaim;
use crate::lockcore::members::NodeId;
use crate::lockcore::mode::Mode;
use crate::lockcore::name::NAME_MAX;
use crate::lockcore::shard::{
    Completion,
    Effects,
    Shard, //
};
use crate::lockcore::wire::message::{
    Message,
    MESSAGE_LEN, //
};
use crate::transport;

/// Longest lock message: it ends with a name or a value block.
const PACKET_MAX: usize = MESSAGE_LEN + LVB_MAX;

const _: () = assert!(NAME_MAX <= LVB_MAX);

/// The sink of a shard's effects, for one call into it.
pub(crate) struct Fx<'a> {
    ls: &'a Lockspace,
    /// Callbacks of kernel users were queued.
    has_callbacks: bool,
}

impl Effects for Fx<'_> {
    type Owner = Arc<Owner>;

    fn send(&mut self, to: NodeId, message: &Message<'_>) {
        let packet = message.encode(self.ls.id(), self.ls.own);
        let mut bytes = [0; PACKET_MAX];
        let mut len = 0;
        for part in packet.parts() {
            bytes[len..len + part.len()].copy_from_slice(part);
            len += part.len();
        }
        transport::send(to, &bytes[..len], true);
    }

    fn complete(&mut self, owner: &mut Arc<Owner>, done: &Completion<'_>) {
        self.has_callbacks |= callback::complete(owner, &self.ls.callbacks, done);
    }

    fn blocking(&mut self, owner: &mut Arc<Owner>, mode: Mode) {
        self.has_callbacks |= callback::blocking(owner, &self.ls.callbacks, mode);
    }

    fn release(&mut self, owner: Arc<Owner>) {
        if let Some(file) = owner.file() {
            file.forget(owner.lkid());
        }
    }
}

impl Lockspace {
    /// Calls `f` with a shard, and then wakes who has to do something about it.
    pub(super) fn with_shard<'a, R>(
        &'a self,
        index: usize,
        f: impl FnOnce(&mut Shard<Arc<Owner>>, &mut Fx<'a>) -> R,
    ) -> R {
        let (result, timeout) = self.with_shard_unplanned(index, f);
        if timeout.is_some_and(|due| due < self.planned.load(ordering::Relaxed)) {
            self.wake_recoverd();
        }
        result
    }

    /// The same for the thread that plans: it hears when the shard wants to be looked after, and
    /// does not wake itself.
    pub(super) fn with_shard_unplanned<'a, R>(
        &'a self,
        index: usize,
        f: impl FnOnce(&mut Shard<Arc<Owner>>, &mut Fx<'a>) -> R,
    ) -> (R, Option<u64>) {
        let mut fx = Fx {
            ls: self,
            has_callbacks: false,
        };
        let _memory = NoReclaim::enter();
        let answer = {
            let mut shard = self.shards[index].shard.lock();
            let result = f(&mut shard, &mut fx);
            if shard.is_broken() {
                self.note_broken();
            }
            (result, shard.next_timeout())
        };
        if fx.has_callbacks {
            self.queue_callbacks();
        }
        answer
    }

    /// Has the recovery thread stop the lockspace.
    fn note_broken(&self) {
        if !self.is_broken.xchg(true, ordering::Full) {
            pr_err!(
                "{}: the state of a shard makes no sense, locking stops; release the lockspace\n",
                self.display_name()
            );
            // The thread looks at everything at the latest then.
            self.planned.store(u64::MAX, ordering::Relaxed);
            self.wake_recoverd();
        }
    }

    /// Has the callbacks of kernel users called. That the work is queued already is fine.
    pub(super) fn queue_callbacks(&self) {
        let work: Arc<Callbacks> = self.callbacks.clone();
        let _ = self.callback_queue.enqueue::<Arc<Callbacks>, 0>(work);
    }

    /// Has the recovery thread look at what is due.
    pub(super) fn wake_recoverd(&self) {
        if let Some(recoverd) = &*self.recoverd.lock() {
            recoverd.wake();
        }
    }
}
