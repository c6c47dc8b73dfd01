// SPDX-License-Identifier: GPL-2.0-only
//! The thread that sees to what has to happen later: connecting again, time limits of a
//! conversation. It only has the work item of a peer look when something is due.

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            ordering,
            Atomic, //
        },
        Arc, //
    }, //
};

use super::{
    for_each,
    Shared, //
};
use crate::ffi::kthread::Body;
use crate::ffi::time::now_ms;

/// See the head of this file.
pub(super) struct Clock {
    shared: Arc<Shared>,
    stopping: Atomic<bool>,
}

impl Clock {
    /// What the thread runs with.
    pub(super) fn new(shared: Arc<Shared>) -> Result<Arc<Self>> {
        let stopping = Atomic::new(false);
        Ok(Arc::new(Self { shared, stopping }, GFP_KERNEL)?)
    }
}

impl Body for Clock {
    fn run(&self) {
        while !self.stopping.load(ordering::Acquire) {
            // Whoever plans something while the peers are asked rings.
            self.shared.planned.store(u64::MAX, ordering::Release);
            let now = now_ms();
            let mut next = u64::MAX;
            for_each(&mut |peer| {
                let due = peer.next_due();
                if due <= now {
                    peer.look();
                } else {
                    next = next.min(due);
                }
            });
            self.shared.planned.store(next, ordering::Release);
            self.shared
                .clock
                .wait(Some(next).filter(|next| *next != u64::MAX));
        }
    }

    fn end(&self) {
        self.stopping.store(true, ordering::Release);
        self.shared.clock.ring();
    }
}

impl Shared {
    /// Whether packets may flow at all.
    pub(super) fn is_running(&self) -> bool {
        self.running.load(ordering::Acquire)
    }

    /// Something of a peer is due at `due`: makes the clock look no later than that.
    pub(super) fn plan(&self, due: u64) {
        if due < self.planned.load(ordering::Acquire) {
            self.clock.ring();
        }
    }
}
