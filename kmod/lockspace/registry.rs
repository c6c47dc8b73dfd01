// SPDX-License-Identifier: GPL-2.0-only
//! Which lockspaces there are, and in which part of their life.
//!
//! A name is taken from the beginning of its creation to the end of its release; who wants the
//! same name meanwhile waits, killably, and different names never wait for each other. The
//! registry's mutex is held for a look or a change only, never while anybody waits.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::Lockspace;
use crate::ffi::global::global_mutex;
use crate::ffi::memory::NoReclaim;
use crate::ffi::module::ModuleRef;
use crate::uapi::lock::Release;

/// Part of a lockspace's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Its creator waits to be a member.
    Joining,
    /// It can be used.
    Ready,
    /// Its last user waits to be no member any more.
    Leaving,
}

struct Entry {
    ls: Arc<Lockspace>,
    phase: Phase,
    /// How many creates have succeeded and are not yet released.
    uses: u32,
    /// Larger than that of every lockspace entered before.
    serial: u64,
    /// The module stays loaded as long as a lockspace exists.
    _module: ModuleRef,
}

global_mutex! {
    /// All lockspaces in the order of their creation.
    static REGISTRY: KVec<Entry> = KVec::new();
    /// Makes the registry usable; when the module is loaded, before everything else.
    fn init;
}

/// What a create finds under its name.
pub(super) enum Found {
    /// Nothing: the new lockspace was entered, its creator must call [`ready`] or [`remove`].
    Nothing,
    /// A lockspace that can be used; one more use was counted.
    Ready(Arc<Lockspace>),
    /// One that is on its way in or out: wait for its `settled` gate and try again.
    Busy(Arc<Lockspace>),
}

/// Enters `new`, unless its name is taken. `exclusive`: a name that is taken is an error.
pub(super) fn enter(new: &Arc<Lockspace>, exclusive: bool) -> Result<Found> {
    let module = ModuleRef::get().map_err(|_| EINVAL)?;
    // Recovery starts by name: who waits for the mutex may be in the way of who frees memory.
    let _memory = NoReclaim::enter();
    let mut registry = REGISTRY.lock();
    if let Some(entry) = registry.iter_mut().find(|e| e.ls.name() == new.name()) {
        return found(entry, new, exclusive);
    }
    let serial = registry.last().map_or(1, |e| e.serial.wrapping_add(1));
    registry.push(
        Entry {
            ls: new.clone(),
            phase: Phase::Joining,
            uses: 0,
            serial,
            _module: module,
        },
        GFP_KERNEL,
    )?;
    Ok(Found::Nothing)
}

fn found(entry: &mut Entry, new: &Lockspace, exclusive: bool) -> Result<Found> {
    match entry.phase {
        Phase::Joining | Phase::Ready if exclusive => Err(EEXIST),
        // Locks of programs and of the kernel in one lockspace could not be told apart by others.
        Phase::Ready if entry.ls.is_for_programs() != new.is_for_programs() => Err(EEXIST),
        // Its locks would be written with value blocks of another length, or looked for elsewhere.
        Phase::Ready if !entry.ls.is_same_as(new) => Err(EINVAL),
        Phase::Ready => {
            entry.uses = entry.uses.checked_add(1).ok_or(EMFILE)?;
            Ok(Found::Ready(entry.ls.clone()))
        }
        Phase::Joining | Phase::Leaving => Ok(Found::Busy(entry.ls.clone())),
    }
}

/// The creator of `ls` is done: it can be used, once so far.
pub(super) fn ready(ls: &Lockspace) {
    let mut registry = REGISTRY.lock();
    if let Some(entry) = registry.iter_mut().find(|e| same(e, ls)) {
        entry.phase = Phase::Ready;
        entry.uses = 1;
    }
}

/// What a release has to do.
pub(super) enum Left {
    /// Nothing, there are that many other uses.
    Uses(u32),
    /// Everything: this was the last use.
    Last,
}

/// Ends one use of `ls`. [`EBUSY`]: the last use may not end by `option`.
pub(super) fn end_use(ls: &Lockspace, option: Release) -> Result<Left> {
    let mut registry = REGISTRY.lock();
    let entry = registry.iter_mut().find(|e| same(e, ls)).ok_or(EINVAL)?;
    match (entry.phase, entry.uses) {
        (Phase::Ready, 1) => {
            if ls.is_busy(option) {
                return Err(EBUSY);
            }
            entry.uses = 0;
            entry.phase = Phase::Leaving;
            Ok(Left::Last)
        }
        (Phase::Ready, uses @ 2..) => {
            entry.uses = uses - 1;
            Ok(Left::Uses(uses - 1))
        }
        (Phase::Ready, 0) | (Phase::Joining | Phase::Leaving, _) => Err(EINVAL),
    }
}

/// Takes `ls` off the list; its name is free. Returns what holds the module, to be dropped last.
pub(super) fn remove(ls: &Lockspace) -> Option<impl Sized> {
    let mut registry = REGISTRY.lock();
    let at = registry.iter().position(|e| same(e, ls))?;
    registry.remove(at).ok()
}

fn same(entry: &Entry, ls: &Lockspace) -> bool {
    core::ptr::eq(&*entry.ls, ls)
}

/// By name.
pub(crate) fn find_by_name(name: &[u8]) -> Option<Arc<Lockspace>> {
    let registry = REGISTRY.lock();
    let entry = registry.iter().find(|e| e.ls.name() == name)?;
    Some(entry.ls.clone())
}

/// How many there are.
pub(crate) fn count() -> usize {
    REGISTRY.lock().len()
}

/// Calls `f` with each, in the order of their creation, without holding the registry's mutex.
pub(crate) fn for_each(f: &mut dyn FnMut(&Arc<Lockspace>)) {
    let mut last = 0;
    loop {
        let next = {
            let registry = REGISTRY.lock();
            let entry = registry.iter().find(|e| e.serial > last);
            entry.map(|e| (e.serial, e.ls.clone()))
        };
        let Some((serial, ls)) = next else { return };
        f(&ls);
        last = serial;
    }
}
