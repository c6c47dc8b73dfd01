// SPDX-License-Identifier: GPL-2.0-only
//! A door that many wait at (`include/linux/completion.h`), with waits that a kill ends.
//!
//! `kernel::sync::Completion` opens once and for all, and its only wait cannot be ended. A
//! [`Gate`] opens and closes as often as needed; who is not to wait for ever on the good will of a
//! daemon uses [`Gate::wait_killable`].

use kernel::{
    bindings,
    prelude::*,
    types::Opaque, //
};

/// Open or closed; waiting ends when it is open.
///
/// # Invariants
///
/// `inner` is an initialised completion that is done for good while open, and not done while
/// closed: nobody but `open` completes it.
#[pin_data]
pub(crate) struct Gate {
    #[pin]
    inner: Opaque<bindings::completion>,
}

// SAFETY: a completion may be used from any task.
unsafe impl Send for Gate {}
// SAFETY: a completion may be used from many tasks at once.
unsafe impl Sync for Gate {}

impl Gate {
    /// A closed gate.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- Opaque::ffi_init(|slot: *mut bindings::completion| {
                // SAFETY: `slot` is valid for writes.
                unsafe { bindings::init_completion(slot) };
            }),
        })
    }

    /// Lets everybody pass, now and until [`Gate::close`].
    pub(crate) fn open(&self) {
        // SAFETY: initialised by the invariant.
        unsafe { bindings::complete_all(self.inner.get()) };
    }

    /// Stops who comes from now on; who is on the way through passes.
    pub(crate) fn close(&self) {
        // This is reinit_completion(), which is a static inline function.
        // SAFETY: initialised by the invariant; the field is an aligned word that waiters read
        // under the lock of their wait queue, and an old value only lets one pass that was on its
        // way.
        unsafe { core::ptr::write_volatile(&raw mut (*self.inner.get()).done, 0) };
    }

    /// Waits until the gate is open, whatever it takes.
    pub(crate) fn wait(&self) {
        // SAFETY: initialised by the invariant; may sleep here.
        unsafe { bindings::wait_for_completion(self.inner.get()) };
    }

    /// Waits until the gate is open; [`EINTR`] if the task is killed before.
    pub(crate) fn wait_killable(&self) -> Result {
        // SAFETY: initialised by the invariant; may sleep here.
        match unsafe { bindings::wait_for_completion_killable(self.inner.get()) } {
            0 => Ok(()),
            _ => Err(EINTR),
        }
    }
}
