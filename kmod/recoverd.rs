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
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};

use crate::doorbell::Doorbell;
use crate::ffi::{
    kthread::{
        self,
        Body,
        Thread, //
    },
    time, //
};
use crate::lockspace::{
    Lockspace,
    Step, //
};

/// A running thread; [`Recoverd::stop`] or dropping it ends it.
pub(crate) struct Recoverd(Pin<KBox<Inner>>);

#[pin_data]
struct Inner {
    work: Arc<Work>,
    /// Guarded by its mutex; `None` once stopped.
    #[pin]
    thread: Mutex<Option<Thread>>,
}

#[pin_data]
struct Work {
    ls: Arc<Lockspace>,
    #[pin]
    bell: Doorbell,
    stopping: AtomicBool,
}

impl Recoverd {
    /// Starts the thread.
    pub(crate) fn spawn(ls: Arc<Lockspace>) -> Result<Self> {
        let work = Arc::pin_init(
            pin_init!(Work {
                ls,
                bell <- Doorbell::new(),
                stopping: AtomicBool::new(false),
            }),
            GFP_KERNEL,
        )?;
        let thread = Thread::spawn(c"dlm_recoverd", work.clone())?;
        let inner = KBox::pin_init(
            pin_init!(Inner {
                work,
                thread <- new_mutex!(Some(thread), "dlm_recoverd"),
            }),
            GFP_KERNEL,
        )?;
        Ok(Self(inner))
    }

    /// Has the thread look for what is due.
    pub(crate) fn wake(&self) {
        self.0.work.bell.ring();
    }

    /// Ends the thread and waits for it; after that no step runs.
    pub(crate) fn stop(&self) {
        let thread = self.0.thread.lock().take();
        self.0.work.stopping.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = thread {
            thread.stop();
        }
    }
}

impl Drop for Recoverd {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Body for Work {
    fn run(&self) {
        while !self.stopping.load(Ordering::Acquire) && !kthread::should_stop() {
            match self.ls.recover_step(time::now_ms()) {
                Step::Again => time::cond_resched(),
                Step::WaitUntil(due) => self.bell.wait(Some(due)),
                Step::Idle => self.bell.wait(None),
            }
        }
    }
}
