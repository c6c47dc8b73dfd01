// SPDX-License-Identifier: GPL-2.0-only
//! Work queues of our own (`include/linux/workqueue.h`).
//!
//! `kernel::workqueue` knows the queues of the system only. A module needs its own: destroying it
//! is how it knows that none of its work runs any more.

use core::ops::Deref;

use kernel::{
    bindings,
    prelude::*,
    str::CStr,
    workqueue::Queue, //
};

use super::own;

/// A work queue; dropping it runs what is queued and waits for it.
///
/// # Invariants
///
/// The pointer is a work queue that nobody else destroys.
pub(crate) struct WorkQueue(*mut bindings::workqueue_struct);

// SAFETY: work queues may be used from any task.
unsafe impl Send for WorkQueue {}
// SAFETY: work queues may be used from many tasks at once.
unsafe impl Sync for WorkQueue {}

impl WorkQueue {
    /// One item at a time, in the order they were queued; goes on when memory is short.
    pub(crate) fn ordered(name: &CStr) -> Result<Self> {
        let flags = bindings::wq_flags_WQ_MEM_RECLAIM | bindings::wq_flags_WQ_HIGHPRI;
        // SAFETY: `name` ends with a zero byte.
        Self::take(unsafe { own::own_alloc_ordered_workqueue(name.as_char_ptr(), flags) })
    }

    /// Items run side by side on any CPU; goes on when memory is short.
    pub(crate) fn unbound(name: &CStr) -> Result<Self> {
        let flags = bindings::wq_flags_WQ_MEM_RECLAIM
            | bindings::wq_flags_WQ_HIGHPRI
            | bindings::wq_flags_WQ_UNBOUND;
        // SAFETY: `name` ends with a zero byte.
        Self::take(unsafe { own::own_alloc_workqueue(name.as_char_ptr(), flags, 0) })
    }

    fn take(queue: *mut own::workqueue_struct) -> Result<Self> {
        if queue.is_null() {
            return Err(ENOMEM);
        }
        // INVARIANT: just made.
        Ok(Self(queue.cast()))
    }

    /// Waits for everything that is queued now.
    pub(crate) fn flush(&self) {
        // SAFETY: by the invariants.
        unsafe { bindings::__flush_workqueue(self.0) };
    }
}

impl Deref for WorkQueue {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        // SAFETY: by the invariants it lives as long as `self`.
        unsafe { Queue::from_raw(self.0) }
    }
}

impl Drop for WorkQueue {
    fn drop(&mut self) {
        // SAFETY: by the invariants.
        unsafe { own::destroy_workqueue(self.0.cast()) };
    }
}
