// SPDX-License-Identifier: GPL-2.0-only
//! Kernel threads (`include/linux/kthread.h`).

use core::ptr::NonNull;

use kernel::{
    bindings,
    error::from_err_ptr,
    prelude::*,
    str::CStr,
    sync::Arc, //
};

/// What a thread does.
pub(crate) trait Body: Send + Sync + 'static {
    /// The thread.
    fn run(&self);

    /// Has [`Body::run`] return soon, also if it begins later.
    fn end(&self);
}

/// A running thread; dropping it ends it and waits for that.
///
/// # Invariants
///
/// `task` is a thread made by this type that `kthread_stop()` was not called for. Until that has
/// returned the thread uses `body`.
pub(crate) struct Thread<T: Body> {
    task: NonNull<bindings::task_struct>,
    body: Arc<T>,
}

// SAFETY: the task is only handed to kthread_stop(), which any task may call.
unsafe impl<T: Body> Send for Thread<T> {}
// SAFETY: a shared reference leads to nothing but the body, which is `Sync`.
unsafe impl<T: Body> Sync for Thread<T> {}

impl<T: Body> Thread<T> {
    /// Makes a thread that runs `body`.
    pub(crate) fn spawn(name: &CStr, body: Arc<T>) -> Result<Self> {
        // Lent, not given: a thread that is stopped before it first runs never calls `main`.
        let data = Arc::as_ptr(&body).cast_mut().cast::<c_void>();
        // SAFETY: the function gets what it wants; the name is the argument of the format.
        let task = from_err_ptr(unsafe {
            bindings::kthread_create_on_node(
                Some(main::<T>),
                data,
                -1, // NUMA_NO_NODE
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        })?;
        // SAFETY: the task was just made.
        unsafe { bindings::wake_up_process(task) };
        // INVARIANT: just made, and alive until kthread_stop(): `main` waits for it.
        Ok(Self {
            task: NonNull::new(task).ok_or(ENOMEM)?,
            body,
        })
    }

    /// What it runs.
    pub(crate) fn body(&self) -> &T {
        &self.body
    }
}

impl<T: Body> Drop for Thread<T> {
    fn drop(&mut self) {
        self.body.end();
        // SAFETY: by the invariants. Waits for the thread.
        unsafe { bindings::kthread_stop(self.task.as_ptr()) };
    }
}

/// Whether the calling thread, which must be one of this file, is to end.
fn should_stop() -> bool {
    // SAFETY: plain question about the calling thread.
    unsafe { bindings::kthread_should_stop() }
}

/// # Safety
///
/// Only for kthread_create(), with a `T` as data that lives until kthread_stop() has returned.
unsafe extern "C" fn main<T: Body>(data: *mut c_void) -> c_int {
    // SAFETY: by the rule of this function.
    let body = unsafe { &*data.cast::<T>() };
    body.run();
    // A body that ended early waits here: until kthread_stop() the task must not go.
    while !should_stop() {
        // SAFETY: a thread may sleep.
        unsafe { bindings::schedule_timeout_interruptible(bindings::HZ as isize) };
    }
    0
}
