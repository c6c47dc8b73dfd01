// SPDX-License-Identifier: GPL-2.0-only
//! Operations on locks: of kernel users (`capi.rs`) and of programs (`device/`).
//!
//! Each goes to one shard. Room for its callbacks is made before the shard accepts it; whom to
//! tell is replaced in the moment it is accepted, so that a refused operation changes nothing.
//! Nobody waits for memory under the shard's mutex: an operation that was refused for want of it
//! waits outside and tries again.
//! While a recovery blocks the shard the operation waits at the gate and tries again: a kernel user
//! for as long as it takes, for it cannot bear an error, a program until it is killed.
//! A lock id is good only for who owns the lock: the file of a program, or the kernel as a whole.

use core::ffi::c_void;

use kernel::{
    pr_warn_once,
    prelude::*,
    sync::Arc, //
};

use super::{
    effects::Fx,
    Lockspace,
    SHARD_BITS, //
};
use crate::callback::{
    Note,
    OpenFile,
    Owner, //
};
use crate::ffi::caller::Caller;
use crate::ffi::memory::{
    self,
    NoReclaim,
    MEMORY_TRIES, //
};
use crate::ffi::task;
use crate::ffi::time::now_ms;
use crate::lockcore::flags::{
    self,
    LockFlags, //
};
use crate::lockcore::hash::name_hash;
use crate::lockcore::lkb::LockId;
use crate::lockcore::members::NodeId;
use crate::lockcore::name::ResourceName;
use crate::lockcore::shard::{
    Config,
    Conversion,
    Effects,
    Refused,
    Request,
    Shard, //
};
use crate::uapi::device::LockParams;

type LocalShard = Shard<Arc<Owner>>;

/// Who waits while a recovery blocks a shard, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// As long as it takes.
    Always,
    /// Until the task is killed.
    Killable,
}

fn shard_of_name(name: &ResourceName) -> usize {
    Config::shard_of_hash(name_hash(name.as_bytes()), SHARD_BITS) as usize
}

fn shard_of_id(lkid: u32) -> usize {
    Config::shard_of_id(lkid, SHARD_BITS) as usize
}

fn refused(error: Refused) -> Error {
    Error::from_errno(error.errno())
}

/// The owner of a lock of the kernel.
fn kernel_owner(shard: &LocalShard, id: LockId) -> Result<Arc<Owner>, Refused> {
    match shard.owner(id) {
        Some(owner) if owner.file().is_none() => Ok(owner.clone()),
        Some(_) | None => Err(Refused::NotFound),
    }
}

/// The owner of a lock of this file.
fn file_owner(shard: &LocalShard, id: LockId, file: &OpenFile) -> Result<Arc<Owner>, Refused> {
    match shard.owner(id) {
        Some(owner) if owner.is_of(file) => Ok(owner.clone()),
        Some(_) | None => Err(Refused::NotFound),
    }
}

fn reserve(owner: &Owner) -> Result<(), Refused> {
    owner.reserve(GFP_NOWAIT).map_err(|_| Refused::NoMemory)
}

impl Lockspace {
    /// Runs `f` on a shard until a recovery does not block it, and there is memory for it.
    fn run<R>(
        &self,
        index: usize,
        wait: Wait,
        mut f: impl FnMut(&mut LocalShard, &mut Fx<'_>) -> Result<R, Refused>,
    ) -> Result<R> {
        let mut tries = 0;
        loop {
            if self.is_gone() {
                return Err(ENODEV);
            }
            match self.with_shard(index, &mut f) {
                Ok(value) => return Ok(value),
                Err(Refused::NoMemory) if tries < MEMORY_TRIES => {
                    tries += 1;
                    memory::wait_for_some();
                }
                Err(Refused::Blocked) => match wait {
                    Wait::Always => self.gate.wait(),
                    Wait::Killable => self.gate.wait_killable()?,
                },
                Err(error) => return Err(refused(error)),
            }
        }
    }

    /// A new lock of a kernel user.
    pub(crate) fn request(
        &self,
        name: &[u8],
        mode: i32,
        flags: LockFlags,
        caller: Caller,
    ) -> Result {
        let name = ResourceName::new(name).ok_or(EINVAL)?;
        // The caller may be a file system that frees memory.
        let _memory = NoReclaim::enter();
        let owner = Owner::kernel(caller)?;
        owner.reserve(GFP_KERNEL)?;
        owner.expect();
        self.run(shard_of_name(&name), Wait::Always, |shard, fx| {
            let args = Request {
                mode,
                flags,
                pid: task::pid(),
                user: false,
                wants_blocking: caller.wants_blocking(),
                lvb: caller.lvb(self.lvblen()),
                owner: owner.clone(),
            };
            let id = shard.request(now_ms(), &name, args, fx)?;
            owner.store_lkid(id.raw());
            Ok(())
        })
    }

    /// A conversion by a kernel user.
    pub(crate) fn convert(&self, lkid: u32, mode: i32, flags: LockFlags, caller: Caller) -> Result {
        let id = LockId::from_raw(lkid);
        self.run(shard_of_id(lkid), Wait::Always, |shard, fx| {
            reserve(&*kernel_owner(shard, id)?)?;
            let args = Conversion {
                mode,
                flags,
                pid: task::pid(),
                wants_blocking: caller.wants_blocking(),
                lvb: caller.lvb(self.lvblen()),
            };
            let accept = |owner: &mut Arc<Owner>| {
                owner.expect();
                owner.set_caller(|_| caller);
            };
            shard.convert(now_ms(), id, args, accept, fx)
        })
    }

    /// An unlock or cancel by a kernel user.
    pub(crate) fn unlock(&self, lkid: u32, flags: LockFlags, astarg: *mut c_void) -> Result {
        let id = LockId::from_raw(lkid);
        self.run(shard_of_id(lkid), Wait::Always, |shard, fx| {
            let owner = kernel_owner(shard, id)?;
            reserve(&owner)?;
            let caller = owner.caller().ok_or(Refused::NotFound)?;
            let accept = |owner: &mut Arc<Owner>| {
                owner.expect();
                owner.set_caller(|caller| caller.with_astarg(astarg));
            };
            shard.unlock(now_ms(), id, flags, caller.lvb(self.lvblen()), accept, fx)
        })
    }

    /// A new lock of a program. Returns its id.
    pub(crate) fn request_user(
        &self,
        file: &Arc<OpenFile>,
        owner: Arc<Owner>,
        note: Note,
        name: &[u8],
        mode: i32,
        flags: LockFlags,
    ) -> Result<u32> {
        let name = ResourceName::new(name).ok_or(EINVAL)?;
        owner.reserve(GFP_KERNEL)?;
        owner.expect();
        let lvb = owner.user_lvb();
        let mut note = Some(note);
        self.run(shard_of_name(&name), Wait::Killable, |shard, fx| {
            let args = user_request(&owner, mode, flags, lvb.as_ref().map(|b| &b[..]));
            let id = shard.request(now_ms(), &name, args, fx)?;
            take_note(shard, id, &owner, file, &mut note);
            Ok(id.raw())
        })
    }

    /// A program takes over an orphan of this node. Returns its id; there is no completion.
    pub(crate) fn adopt(
        &self,
        file: &Arc<OpenFile>,
        owner: Arc<Owner>,
        note: Note,
        name: &[u8],
        mode: i32,
        flags: LockFlags,
    ) -> Result<u32> {
        let name = ResourceName::new(name).ok_or(EINVAL)?;
        let lvb = owner.user_lvb();
        let mut note = Some(note);
        self.run(shard_of_name(&name), Wait::Killable, |shard, _fx| {
            if shard.is_blocked() {
                return Err(Refused::Blocked);
            }
            let args = user_request(&owner, mode, flags, lvb.as_ref().map(|b| &b[..]));
            let id = shard.adopt(&name, args)?;
            owner.set_adopted(mode);
            take_note(shard, id, &owner, file, &mut note);
            Ok(id.raw())
        })
    }

    /// A conversion by a program.
    pub(crate) fn convert_user(
        &self,
        file: &Arc<OpenFile>,
        params: &LockParams<'_>,
        mode: i32,
        flags: LockFlags,
    ) -> Result {
        let id = LockId::from_raw(params.lkid);
        self.run(shard_of_id(params.lkid), Wait::Killable, |shard, fx| {
            let owner = file_owner(shard, id, file)?;
            reserve(&owner)?;
            let has_lvb = flags.has(flags::VALBLK) || owner.user_lvb().is_some();
            let args = Conversion {
                mode,
                flags,
                pid: task::pid(),
                wants_blocking: params.user.bastaddr != 0,
                lvb: has_lvb.then_some(&params.lvb[..]),
            };
            let accept = |owner: &mut Arc<Owner>| {
                owner.expect();
                owner.set_user(|user| {
                    user.pointers = params.user;
                    user.persistent = flags.has(flags::PERSISTENT);
                    if has_lvb {
                        user.lvb = Some(*params.lvb);
                    }
                });
            };
            shard.convert(now_ms(), id, args, accept, fx)
        })
    }

    /// An unlock or cancel by a program. `is_deadlock`: the completion of the cancel says that a
    /// deadlock was the reason, and goes to whom the lock's last operation named.
    pub(crate) fn unlock_user(
        &self,
        file: &Arc<OpenFile>,
        params: &LockParams<'_>,
        flags: LockFlags,
        is_deadlock: bool,
    ) -> Result {
        let id = LockId::from_raw(params.lkid);
        self.run(shard_of_id(params.lkid), Wait::Killable, |shard, fx| {
            let owner = file_owner(shard, id, file)?;
            reserve(&owner)?;
            // A deadlock says nothing but the lock.
            let has_lvb = !is_deadlock && owner.user_lvb().is_some();
            let lvb = has_lvb.then_some(&params.lvb[..]);
            let accept = |owner: &mut Arc<Owner>| {
                owner.expect();
                owner.set_user(|user| {
                    user.is_deadlock = is_deadlock;
                    if is_deadlock {
                        return;
                    }
                    if params.user.castparam != 0 {
                        user.pointers.castparam = params.user.castparam;
                    }
                    user.pointers.lksb = params.user.lksb;
                    if has_lvb {
                        user.lvb = Some(*params.lvb);
                    }
                });
            };
            shard.unlock(now_ms(), id, flags, lvb, accept, fx)
        })
    }

    /// Gives a lock up for a file that is being closed, or (`even_persistent`) for a program that
    /// wants to be rid of all its locks. Nothing is told to it. Does not wait: [`EAGAIN`] if that
    /// is not possible now.
    pub(crate) fn abandon(&self, file: &OpenFile, lkid: u32, even_persistent: bool) -> Result {
        if self.is_gone() {
            return Ok(());
        }
        let id = LockId::from_raw(lkid);
        let abandoned = self.with_shard(shard_of_id(lkid), |shard, fx| {
            let owner = file_owner(shard, id, file)?;
            owner.die();
            if owner.is_persistent() && !even_persistent {
                return shard.orphan(now_ms(), id, fx);
            }
            let flags = flags::FORCEUNLOCK | flags::IVVALBLK;
            shard.unlock(now_ms(), id, flags, None, |_| {}, fx)
        });
        match abandoned {
            Ok(()) | Err(Refused::NotFound) => Ok(()),
            Err(Refused::Blocked | Refused::NoMemory) => Err(EAGAIN),
            Err(error @ (Refused::Busy | Refused::Invalid | Refused::Again)) => {
                pr_warn_once!("a lock of a closed file stays: {}\n", error.errno());
                Ok(())
            }
        }
    }

    /// Drops the orphans of process `pid`, 0: of all, on this node or on another.
    pub(crate) fn purge(&self, node: Option<NodeId>, pid: u32) -> Result {
        let Some(node) = node else {
            for index in 0..self.shards.len() {
                self.run(index, Wait::Killable, |shard, fx| {
                    if shard.is_blocked() {
                        return Err(Refused::Blocked);
                    }
                    shard.purge(now_ms(), pid, fx);
                    Ok(())
                })?;
            }
            return Ok(());
        };
        self.run(0, Wait::Killable, |shard, fx| {
            if shard.is_blocked() {
                return Err(Refused::Blocked);
            }
            fx.send(node, &LocalShard::purge_message(node, pid));
            Ok(())
        })
    }
}

fn user_request<'a>(
    owner: &Arc<Owner>,
    mode: i32,
    flags: LockFlags,
    lvb: Option<&'a [u8]>,
) -> Request<'a, Arc<Owner>> {
    owner.set_user(|user| user.persistent = flags.has(flags::PERSISTENT));
    Request {
        mode,
        flags,
        pid: task::pid(),
        user: true,
        wants_blocking: owner.wants_blocking(),
        lvb,
        owner: owner.clone(),
    }
}

/// Notes a new lock with its file, under the shard's mutex. Unless it ended within its request:
/// nobody would take it off again.
fn take_note(
    shard: &LocalShard,
    id: LockId,
    owner: &Arc<Owner>,
    file: &OpenFile,
    note: &mut Option<Note>,
) {
    owner.set_lkid(id.raw());
    if shard.owner(id).is_some_and(|now| Arc::ptr_eq(now, owner)) {
        if let Some(note) = note.take() {
            file.note(id.raw(), note);
        }
    }
}
