// SPDX-License-Identifier: GPL-2.0-only
//! The open files of programs: which there are, and what becomes of their locks when they are
//! closed.
//!
//! A file that is closed while a recovery is in the way, or while memory is short, still has locks.
//! It stays here, and the recovery thread gives its locks up when that is possible.

use kernel::{
    pr_warn_once,
    prelude::*,
    sync::Arc, //
};

use super::Lockspace;
use crate::callback::OpenFile;

/// `closed` always has room for all that are open, so that closing never fails.
pub(super) struct Files {
    open: KVec<Arc<OpenFile>>,
    closed: KVec<Arc<OpenFile>>,
}

impl Files {
    /// No program has come.
    pub(super) const fn new() -> Self {
        Self {
            open: KVec::new(),
            closed: KVec::new(),
        }
    }
}

impl Lockspace {
    /// A program has opened the device.
    pub(crate) fn file_opened(&self, file: &Arc<OpenFile>) -> Result {
        let mut files = self.files.lock();
        if self.is_gone() {
            return Err(ENOENT);
        }
        let open = files.open.len() + 1;
        files.closed.reserve(open, GFP_KERNEL)?;
        files.open.push(file.clone(), GFP_KERNEL)?;
        Ok(())
    }

    /// A file is closed: its locks are given up, now or when it is possible.
    pub(crate) fn file_closed(&self, file: &Arc<OpenFile>) {
        file.line().close();
        // A process does not end up waiting for a recovery here.
        let rest = !self.drop_owned(file, false);
        let mut files = self.files.lock();
        let at = files.open.iter().position(|open| Arc::ptr_eq(open, file));
        let open = at.and_then(|at| files.open.remove(at).ok());
        let lost = match open {
            Some(open) if rest => files.closed.push_within_capacity(open).is_err(),
            Some(_) | None => false,
        };
        drop(files);
        if lost {
            // There is room for every open file. Without, the locks stay until the release.
            pr_warn_once!("locks of a closed file stay\n");
        }
        if rest {
            self.wake_recoverd();
        }
    }

    /// Gives up the locks of a file; none of their results is delivered. Returns whether all are
    /// given up: a recovery or a lack of memory may be in the way.
    pub(crate) fn drop_owned(&self, file: &OpenFile, even_persistent: bool) -> bool {
        // Each round takes one lock off the list, so this ends.
        while let Some(lkid) = file.first_owned() {
            if self.abandon(file, lkid, even_persistent).is_err() {
                return false;
            }
            file.forget(lkid);
        }
        true
    }

    /// Gives up what closed files could not. Returns whether nothing is left to give up.
    pub(super) fn drop_closed(&self) -> bool {
        loop {
            let Some(file) = self.files.lock().closed.last().cloned() else {
                return true;
            };
            if !self.drop_owned(&file, false) {
                return false;
            }
            self.files
                .lock()
                .closed
                .retain(|closed| !Arc::ptr_eq(closed, &file));
        }
    }

    /// Forgets the closed files: their locks are gone.
    pub(super) fn forget_closed(&self) {
        let closed = core::mem::take(&mut self.files.lock().closed);
        drop(closed);
    }

    /// Wakes every program that waits for a result: the lockspace is gone.
    pub(super) fn wake_files(&self) {
        let files = self.files.lock();
        for file in files.open.iter() {
            file.wake_for_the_end();
        }
    }
}
