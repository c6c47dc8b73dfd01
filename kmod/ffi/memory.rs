// SPDX-License-Identifier: GPL-2.0-only
//! Memory for locks (`include/linux/sched/mm.h`): who may wait for it, where, and for what.
//!
//! File systems wait for locks while they write memory back, and md does while it resyncs. An
//! allocation made for a lock must therefore not wait for either of them ([`NoReclaim`]). Nor may
//! anybody wait for memory who holds the mutex of a shard or of a peer: what is needed there and
//! cannot be had is refused, and who was refused waits outside ([`wait_for_some`]). What can no
//! longer be refused may use what the kernel keeps for who frees memory ([`Reserves`]).

use core::marker::PhantomData;

use kernel::{
    alloc::KVVec,
    prelude::*, //
};

use super::{
    own,
    time, //
};

/// How often one operation waits for memory before it fails for want of it.
pub(crate) const MEMORY_TRIES: u32 = 100;

/// Memory that is got and given back so that who must not wait finds some: more than the largest
/// single piece that a lock needs while tables are small.
const SOME: usize = 64 << 10;

/// Pause when even waiting does not bring it.
const PAUSE_MS: u32 = 10;

/// While it lives, allocations of the calling task start neither I/O nor file system work.
///
/// Take it before the first lock that such an allocation happens under. May be nested.
///
/// # Invariants
///
/// `before` is what `memalloc_noio_save()` returned to this task.
pub(crate) struct NoReclaim {
    before: u32,
    /// The scope belongs to the task: not `Send`.
    task: PhantomData<*mut ()>,
}

impl NoReclaim {
    /// Begins the scope.
    #[must_use]
    pub(crate) fn enter() -> Self {
        // SAFETY: changes a flag of the calling task only.
        let before = unsafe { own::own_memalloc_noio_save() };
        Self {
            before,
            task: PhantomData,
        }
    }
}

impl Drop for NoReclaim {
    fn drop(&mut self) {
        // SAFETY: by the invariants, and scopes end in reverse order as values are dropped.
        unsafe { own::own_memalloc_noio_restore(self.before) };
    }
}

/// While it lives, allocations of the calling task wait for nothing, and may use what the kernel
/// keeps for tasks that free memory. For small things that were promised, and nothing else.
///
/// # Invariants
///
/// `before` is what `memalloc_noreclaim_save()` returned to this task.
pub(crate) struct Reserves {
    before: u32,
    /// The scope belongs to the task: not `Send`.
    task: PhantomData<*mut ()>,
}

impl Reserves {
    /// Begins the scope.
    #[must_use]
    pub(crate) fn enter() -> Self {
        // SAFETY: changes a flag of the calling task only.
        let before = unsafe { own::own_memalloc_noreclaim_save() };
        // INVARIANT: just returned.
        Self {
            before,
            task: PhantomData,
        }
    }
}

impl Drop for Reserves {
    fn drop(&mut self) {
        // SAFETY: by the invariants, and scopes end in reverse order as values are dropped.
        unsafe { own::own_memalloc_noreclaim_restore(self.before) };
    }
}

/// Waits until there is memory again for who may not wait for it. To be called without locks that
/// anybody waits for; it starts no I/O.
pub(crate) fn wait_for_some() {
    let _memory = NoReclaim::enter();
    match KVVec::<u8>::with_capacity(SOME, GFP_KERNEL) {
        // Given back at once.
        Ok(some) => drop(some),
        Err(_) => time::sleep_ms(PAUSE_MS),
    }
}

/// Does what needs memory and does not wait for it, until there is enough of it; [`ENOMEM`] if
/// there is none for long.
pub(crate) fn persist<T>(mut f: impl FnMut() -> Result<T>) -> Result<T> {
    for _try in 0..MEMORY_TRIES {
        match f() {
            Err(e) if e == ENOMEM => wait_for_some(),
            other => return other,
        }
    }
    f()
}

/// Does what nobody will ask for again, however long memory takes.
pub(crate) fn patiently<T>(f: impl Fn() -> Result<T>) -> T {
    loop {
        match f() {
            Ok(value) => return value,
            Err(_) => time::sleep_ms(PAUSE_MS),
        }
    }
}
