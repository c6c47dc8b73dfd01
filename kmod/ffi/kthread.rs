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
    /// The thread. Ends when it finds [`should_stop`] true; who asks a thread to stop makes it
    /// look.
    fn run(&self);
}

/// A running thread. [`Thread::stop`] ends it; dropping does the same.
///
/// # Invariants
///
/// `task` is a thread made by this type that `kthread_stop()` was not called for.
pub(crate) struct Thread {
    task: NonNull<bindings::task_struct>,
}

// SAFETY: the task is only handed to kthread_stop(), which any task may call.
unsafe impl Send for Thread {}
// SAFETY: nothing can be done through a shared reference.
unsafe impl Sync for Thread {}

impl Thread {
    /// Makes a thread that runs `body`.
    pub(crate) fn spawn<T: Body>(name: &CStr, body: Arc<T>) -> Result<Self> {
        let data = Arc::into_raw(body).cast_mut().cast::<c_void>();
        // SAFETY: the function takes the reference over; the name is the argument of the format.
        let made = from_err_ptr(unsafe {
            bindings::kthread_create_on_node(
                Some(main::<T>),
                data,
                -1, // NUMA_NO_NODE
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        });
        let task = match made {
            Ok(task) => task,
            Err(e) => {
                // SAFETY: the reference from above, which no thread took.
                drop(unsafe { Arc::from_raw(data.cast::<T>().cast_const()) });
                return Err(e);
            }
        };
        // SAFETY: the task was just made.
        unsafe { bindings::wake_up_process(task) };
        // INVARIANT: just made, and alive until kthread_stop(): `main` waits for it.
        Ok(Self {
            task: NonNull::new(task).ok_or(ENOMEM)?,
        })
    }

    /// Waits until the thread has ended.
    pub(crate) fn stop(self) {
        drop(self);
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // SAFETY: by the invariants.
        unsafe { bindings::kthread_stop(self.task.as_ptr()) };
    }
}

/// Whether the calling thread, which must be one of this file, is to end.
pub(crate) fn should_stop() -> bool {
    // SAFETY: plain question about the calling thread.
    unsafe { bindings::kthread_should_stop() }
}

/// # Safety
///
/// Only for kthread_create(), with a reference to a `T` as data.
unsafe extern "C" fn main<T: Body>(data: *mut c_void) -> c_int {
    // SAFETY: the reference `spawn` made for this thread.
    let body = unsafe { Arc::from_raw(data.cast::<T>().cast_const()) };
    body.run();
    drop(body);
    // A body that ended early waits here: until kthread_stop() the task must not go.
    while !should_stop() {
        // SAFETY: a thread may sleep.
        unsafe { bindings::schedule_timeout_interruptible(bindings::HZ as isize) };
    }
    0
}
