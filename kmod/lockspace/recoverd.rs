// SPDX-License-Identifier: GPL-2.0-only
//! The thread that drives the recovery of one lockspace.
//!
//! It decides nothing: it calls [`Lockspace::recover_step`] when it is woken, when the time that
//! the last step named has come, and at once while there is more to do. Long steps come in
//! batches, between which other tasks may run.

use core::sync::atomic::{
    AtomicBool,
    Ordering, //
};

use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::{
    Lockspace,
    Step, //
};
use crate::doorbell::Doorbell;
use crate::ffi::{
    kthread::{
        Body,
        Thread, //
    },
    time, //
};

/// A running thread; dropping it ends it and waits for that: after that no step runs.
pub(super) struct Recoverd(Thread<Work>);

#[pin_data]
struct Work {
    ls: Arc<Lockspace>,
    #[pin]
    bell: Doorbell,
    stopping: AtomicBool,
}

impl Recoverd {
    /// Starts the thread.
    pub(super) fn spawn(ls: Arc<Lockspace>) -> Result<Self> {
        let work = Arc::pin_init(
            pin_init!(Work {
                ls,
                bell <- Doorbell::new(),
                stopping: AtomicBool::new(false),
            }),
            GFP_KERNEL,
        )?;
        Ok(Self(Thread::spawn(c"dlm_recoverd", work)?))
    }

    /// Has the thread look for what is due.
    pub(super) fn wake(&self) {
        self.0.body().bell.ring();
    }
}

impl Body for Work {
    fn run(&self) {
        while !self.stopping.load(Ordering::Acquire) {
            match self.ls.recover_step(time::now_ms()) {
                Step::Again => time::cond_resched(),
                Step::WaitUntil(due) => self.bell.wait(Some(due)),
                Step::Idle => self.bell.wait(None),
            }
        }
    }

    fn end(&self) {
        self.stopping.store(true, Ordering::Release);
        self.bell.ring();
    }
}
