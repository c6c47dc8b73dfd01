// SPDX-License-Identifier: GPL-2.0-only
//! Scopes in which allocations must not start I/O (`include/linux/sched/mm.h`).
//!
//! File systems wait for locks while they write memory back, and md does while it resyncs. An
//! allocation made for a lock must therefore not wait for either of them.

use core::marker::PhantomData;

use super::own;

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
