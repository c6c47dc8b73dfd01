// SPDX-License-Identifier: GPL-2.0-only
//! An open file of a program, as far as locks know it: the results it has not read yet, and which
//! locks go with it.
//!
//! It knows neither the device it was opened by nor its lockspace; `device/` wraps it. Locks:
//! `owned` nests inside a shard's mutex; nothing is taken under it.

use kernel::{
    new_mutex,
    new_poll_condvar,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        poll::PollCondVar,
        Arc,
        Mutex, //
    }, //
};

use super::Line;

/// See the head of this file.
#[pin_data]
pub(crate) struct OpenFile {
    #[pin]
    line: Line,
    #[pin]
    changed: PollCondVar,
    /// Ids of the locks of this file.
    #[pin]
    owned: Mutex<RBTree<u32, ()>>,
}

/// Memory to note one more lock of a file.
pub(crate) struct Note(RBTreeNodeReservation<u32, ()>);

impl Note {
    /// Before the lock is asked for.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(RBTreeNodeReservation::new(GFP_KERNEL)?))
    }
}

impl OpenFile {
    /// A file without locks.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                line <- Line::new(),
                changed <- new_poll_condvar!("dlm_file"),
                owned <- new_mutex!(RBTree::new(), "dlm_owned"),
            }),
            GFP_KERNEL,
        )
    }

    /// What waits to be read.
    pub(crate) fn line(&self) -> &Line {
        &self.line
    }

    /// Notified when something can be read, and when the lockspace is gone.
    pub(crate) fn changed(&self) -> &PollCondVar {
        &self.changed
    }

    /// Something can be read now.
    pub(crate) fn wake(&self) {
        self.changed.notify_all();
    }

    /// The lockspace is gone, which whoever reads is told.
    pub(crate) fn wake_for_the_end(&self) {
        self.line.let_waiters_settle();
        self.wake();
    }

    /// Notes a lock of this file; under the mutex of the lock's shard.
    pub(crate) fn note(&self, lkid: u32, memory: Note) {
        // What is replaced or left over is dropped after the lock.
        let old = self.owned.lock().insert(memory.0.into_node(lkid, ()));
        drop(old);
    }

    /// Forgets a lock that is gone; under the mutex of the lock's shard.
    pub(crate) fn forget(&self, lkid: u32) {
        let node = self.owned.lock().remove_node(&lkid);
        drop(node);
    }

    /// Any one lock of this file.
    pub(crate) fn first_owned(&self) -> Option<u32> {
        self.owned.lock().keys().next().copied()
    }
}
