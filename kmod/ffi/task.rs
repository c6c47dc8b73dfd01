// SPDX-License-Identifier: GPL-2.0-only
//! The calling task: its number and its rights (`include/linux/sched.h`, `capability.h`).

use kernel::{
    bindings,
    current,
    prelude::*, //
};

/// Number of the calling thread, as the owner of a lock is known to other nodes.
pub(crate) fn pid() -> u32 {
    current!().pid() as u32
}

/// [`EPERM`] unless the calling task administers the system (CAP_SYS_ADMIN).
pub(crate) fn check_admin() -> Result {
    // SAFETY: may be called from any task.
    if unsafe { bindings::capable(bindings::CAP_SYS_ADMIN as c_int) } {
        Ok(())
    } else {
        Err(EPERM)
    }
}
