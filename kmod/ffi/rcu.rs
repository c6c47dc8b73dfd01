// SPDX-License-Identifier: GPL-2.0-only
//! A value that is read without a lock and replaced as a whole (`include/linux/rcupdate.h`).
//!
//! `kernel::sync::rcu` has the reader's side only. Readers of a [`Published`] write nothing that
//! another CPU reads, so that any number of them go side by side; who replaces the value waits,
//! when it drops the old one, until nobody reads that any more.

use core::{
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::{
        AtomicPtr,
        Ordering, //
    }, //
};

use kernel::{
    bindings,
    prelude::*,
    sync::rcu, //
};

/// A value, or none. What is left in a static is never dropped: empty it at exit.
///
/// # Invariants
///
/// `current` is null or from [`KBox::into_raw`]. What it pointed to is freed no earlier than a
/// grace period after it was replaced.
pub(crate) struct Published<T> {
    current: AtomicPtr<T>,
    value: PhantomData<KBox<T>>,
}

// SAFETY: it owns a `T` that may come from and go to any task.
unsafe impl<T: Send + Sync> Send for Published<T> {}
// SAFETY: many tasks read the `T` at once, and any of them may take it out.
unsafe impl<T: Send + Sync> Sync for Published<T> {}

impl<T: Send + Sync> Published<T> {
    /// Without a value.
    pub(crate) const fn new() -> Self {
        // INVARIANT: null.
        Self {
            current: AtomicPtr::new(ptr::null_mut()),
            value: PhantomData,
        }
    }

    /// Calls `f`, which must not sleep, with the value. `None` if there is none.
    pub(crate) fn read<R>(&self, f: impl FnOnce(&T) -> R) -> Option<R> {
        let _reading = rcu::read_lock();
        let current = NonNull::new(self.current.load(Ordering::Acquire))?;
        // SAFETY: by the invariants it is not freed before `_reading` ends.
        Some(f(unsafe { current.as_ref() }))
    }

    /// Replaces the value. Returns the old one, which readers may still be at.
    pub(crate) fn replace(&self, new: Option<KBox<T>>) -> Option<Replaced<T>> {
        let new = new.map_or(ptr::null_mut(), KBox::into_raw);
        let old = self.current.swap(new, Ordering::AcqRel);
        // INVARIANT: just taken out, and null or from `KBox::into_raw()`.
        NonNull::new(old).map(Replaced)
    }
}

/// A value that was replaced. Dropping it waits for its readers, so do that without locks.
///
/// # Invariants
///
/// From [`KBox::into_raw`], and no new reader comes to it.
pub(crate) struct Replaced<T>(NonNull<T>);

impl<T> Drop for Replaced<T> {
    fn drop(&mut self) {
        // SAFETY: may sleep here, see the type.
        unsafe { bindings::synchronize_rcu() };
        // SAFETY: by the invariants, and every reader that was at it has gone.
        drop(unsafe { KBox::from_raw(self.0.as_ptr()) });
    }
}
