// SPDX-License-Identifier: GPL-2.0-only
//! Callbacks of kernel users (`include/linux/dlm.h`): what `dlm_lock()` and `dlm_new_lockspace()`
//! leave with the module.
//!
//! The rule behind every pointer kept here is the one of the C header: the status block, the value
//! block and the callback arguments of an accepted operation belong to the lock manager until the
//! completion of that operation was called, and blocking callbacks may come until the lock is gone.

use core::ffi::{
    c_int,
    c_void, //
};

use crate::uapi::lock::{
    Lksb,
    Slot, //
};

/// Completion callback of C.
pub(crate) type Ast = unsafe extern "C" fn(*mut c_void);
/// Blocking callback of C.
pub(crate) type Bast = unsafe extern "C" fn(*mut c_void, c_int);

/// What a kernel caller gave with its last accepted operation on a lock.
///
/// # Invariants
///
/// Made only from arguments of `dlm_lock()` and `dlm_unlock()`: while the lock lives and the
/// operation is not completed, `lksb` may be written, `lvb` if not null has the lockspace's value
/// block length, and the callbacks may be called with `astarg`.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    ast: Ast,
    bast: Option<Bast>,
    astarg: *mut c_void,
    lksb: *mut Lksb,
    lvb: *mut u8,
}

// SAFETY: by the rule of the C header the pointers are not bound to the calling task.
unsafe impl Send for Caller {}
// SAFETY: nothing behind the pointers is touched through a shared reference but as the rule says.
unsafe impl Sync for Caller {}

impl Caller {
    /// From the arguments of an operation.
    ///
    /// # Safety
    ///
    /// They are as the invariants want them, from now on.
    pub(crate) unsafe fn new(
        lksb: *mut Lksb,
        lvb: *mut u8,
        ast: Ast,
        bast: Option<Bast>,
        astarg: *mut c_void,
    ) -> Self {
        // INVARIANT: by the rule of this function.
        Self {
            ast,
            bast,
            astarg,
            lksb,
            lvb,
        }
    }

    /// The same with another callback argument, as an unlock gives it.
    pub(crate) fn with_astarg(&self, astarg: *mut c_void) -> Self {
        Self { astarg, ..*self }
    }

    /// Whether blocking callbacks are wanted.
    pub(crate) fn wants_blocking(&self) -> bool {
        self.bast.is_some()
    }

    /// Stores the id of a new lock.
    pub(crate) fn store_lkid(&self, lkid: u32) {
        // SAFETY: by the invariants; callers of this make sure that nothing is completed yet.
        unsafe { (*self.lksb).sb_lkid = lkid };
    }

    /// Copies the value block out to the caller.
    pub(crate) fn store_lvb(&self, bytes: &[u8]) {
        if self.lvb.is_null() {
            return;
        }
        // SAFETY: by the invariants, and all value blocks of a lockspace have the same length.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.lvb, bytes.len()) };
    }

    /// The caller's value block, if it has one.
    pub(crate) fn lvb(&self, len: usize) -> Option<&[u8]> {
        if self.lvb.is_null() {
            return None;
        }
        // SAFETY: by the invariants; the caller does not write to it meanwhile.
        Some(unsafe { core::slice::from_raw_parts(self.lvb, len) })
    }

    /// Stores the status and calls the completion.
    pub(crate) fn complete(&self, status: i32, sb_flags: u8) {
        // SAFETY: by the invariants: this is the completion that gives the block back.
        unsafe {
            (*self.lksb).sb_status = status;
            (*self.lksb).sb_flags = sb_flags;
        }
        // SAFETY: by the invariants. The callback may free `lksb`: it is not used below.
        unsafe { (self.ast)(self.astarg) };
    }

    /// Tells that somebody needs `mode`.
    pub(crate) fn blocking(&self, mode: c_int) {
        if let Some(bast) = self.bast {
            // SAFETY: by the invariants.
            unsafe { bast(self.astarg, mode) };
        }
    }
}

/// `struct dlm_lockspace_ops`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct LockspaceOps {
    recover_prep: Option<unsafe extern "C" fn(*mut c_void)>,
    recover_slot: Option<unsafe extern "C" fn(*mut c_void, *mut Slot)>,
    recover_done: Option<unsafe extern "C" fn(*mut c_void, *mut Slot, c_int, c_int, u32)>,
}

const _: () = assert!(size_of::<LockspaceOps>() == 24);

/// Recovery callbacks of who created a lockspace.
///
/// # Invariants
///
/// Made only from arguments of `dlm_new_lockspace()`: the functions may be called with `arg` until
/// the release of the lockspace has returned.
pub(crate) struct Ops {
    table: LockspaceOps,
    arg: *mut c_void,
}

// SAFETY: by the rule of the C header the functions may be called from any task.
unsafe impl Send for Ops {}
// SAFETY: as for `Send`.
unsafe impl Sync for Ops {}

impl Ops {
    /// From the arguments of a creation.
    ///
    /// # Safety
    ///
    /// They are as the invariants want them, from now on.
    pub(crate) unsafe fn new(table: LockspaceOps, arg: *mut c_void) -> Self {
        // INVARIANT: by the rule of this function.
        Self { table, arg }
    }

    /// Locking has stopped.
    pub(crate) fn recover_prep(&self) {
        if let Some(f) = self.table.recover_prep {
            // SAFETY: by the invariants.
            unsafe { f(self.arg) };
        }
    }

    /// This member failed.
    pub(crate) fn recover_slot(&self, mut slot: Slot) {
        if let Some(f) = self.table.recover_slot {
            // SAFETY: by the invariants; `slot` lives for the call, which keeps no pointer to it.
            unsafe { f(self.arg, &mut slot) };
        }
    }

    /// Locking goes on with these members.
    pub(crate) fn recover_done(&self, slots: &mut [Slot], own_slot: i32, generation: u32) {
        if let Some(f) = self.table.recover_done {
            let len = slots.len() as c_int;
            // SAFETY: by the invariants; `slots` lives for the call, which keeps no pointer to it.
            unsafe { f(self.arg, slots.as_mut_ptr(), len, own_slot, generation) };
        }
    }
}
