// SPDX-License-Identifier: GPL-2.0-only
//! The clock and giving way to other tasks (`include/linux/timekeeping.h`, `delay.h`, `sched.h`).

use kernel::bindings;

use super::own;

/// Milliseconds since the machine was started, time of suspension included.
pub(crate) fn now_ms() -> u64 {
    // SAFETY: may be called in any context.
    unsafe { own::own_boottime_ms() }
}

/// Sleeps at least `ms` milliseconds, whatever signals come.
pub(crate) fn sleep_ms(ms: u32) {
    // SAFETY: callers may sleep.
    unsafe { bindings::msleep(ms) };
}

/// Lets other tasks run if they should.
pub(crate) fn cond_resched() {
    // SAFETY: callers may sleep.
    unsafe { own::own_cond_resched() };
}
