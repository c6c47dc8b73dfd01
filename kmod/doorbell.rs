// SPDX-License-Identifier: GPL-2.0-only
//! Wakes one waiting thread; a ring that comes before the wait is not lost.

use kernel::{
    new_condvar,
    new_mutex,
    prelude::*,
    sync::{
        CondVar,
        CondVarTimeoutResult,
        Mutex, //
    },
    time::{
        msecs_to_jiffies,
        Jiffies, //
    }, //
};

use crate::ffi::time;

/// Longest single wait; longer ones are made of several.
const WAIT_MS_MAX: u64 = 60_000;

/// Pause when a signal that nobody takes would turn a wait into a loop.
const SIGNAL_PAUSE_MS: u32 = 10;

/// See the head of this file. `rung` is guarded by its mutex, which is a leaf.
#[pin_data]
pub(crate) struct Doorbell {
    #[pin]
    rung: Mutex<bool>,
    #[pin]
    changed: CondVar,
}

impl Doorbell {
    /// Nobody rang.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            rung <- new_mutex!(false, "dlm_doorbell"),
            changed <- new_condvar!("dlm_doorbell"),
        })
    }

    /// Ends the wait that goes on, or the next one.
    pub(crate) fn ring(&self) {
        *self.rung.lock() = true;
        self.changed.notify_all();
    }

    /// Waits for a ring, at most until `until_ms` by [`time::now_ms`].
    pub(crate) fn wait(&self, until_ms: Option<u64>) {
        let mut rung = self.rung.lock();
        while !*rung {
            let now = time::now_ms();
            let left = until_ms.map_or(WAIT_MS_MAX, |until| until.saturating_sub(now));
            if left == 0 {
                return;
            }
            let step: Jiffies = msecs_to_jiffies(left.min(WAIT_MS_MAX) as u32).max(1);
            match self.changed.wait_interruptible_timeout(&mut rung, step) {
                CondVarTimeoutResult::Woken { .. } | CondVarTimeoutResult::Timeout => {}
                CondVarTimeoutResult::Signal { .. } => {
                    drop(rung);
                    time::sleep_ms(SIGNAL_PAUSE_MS);
                    rung = self.rung.lock();
                }
            }
        }
        *rung = false;
    }
}
