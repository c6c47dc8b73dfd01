// SPDX-License-Identifier: GPL-2.0-only
//! `dlm_<lockspace>`: one open file, and with it one owner of locks.
//!
//! A write is one operation, a read takes one result. What the file owns goes when it is closed:
//! locks are unlocked and their value blocks marked invalid, unless they were asked for as
//! persistent, and then they stay as orphans to be adopted. A file that is still open when its
//! lockspace is released gets [`ENODEV`]. Locks: `owned` nests inside a shard's mutex.

use kernel::{
    bindings,
    fs::File,
    new_mutex,
    new_poll_condvar,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        atomic::{
            ordering,
            Atomic, //
        },
        poll::{
            PollCondVar,
            PollTable, //
        },
        Arc,
        ArcBorrow,
        Mutex, //
    },
    uaccess::{
        UserSliceReader,
        UserSliceWriter, //
    }, //
};

use super::{
    nonblocking,
    read_version,
    Written, //
};
use crate::callback::{
    Line,
    Owner,
    UserResult, //
};
use crate::ffi::misc::FileOps;
use crate::ffi::task;
use crate::lockcore::flags;
use crate::lockcore::members::NodeId;
use crate::lockspace::Lockspace;
use crate::uapi::device::{
    result_len,
    Command,
    Layout,
    LockParams,
    VERSION_LEN, //
};

/// One open file of a lockspace's device.
#[pin_data]
pub(crate) struct OpenFile {
    ls: Arc<Lockspace>,
    #[pin]
    line: Line,
    #[pin]
    changed: PollCondVar,
    /// The program has 32 bits and wants results in that layout.
    compat: Atomic<bool>,
    /// Ids of the locks of this file.
    #[pin]
    owned: Mutex<RBTree<u32, ()>>,
}

/// Memory to note one more lock of a file.
pub(crate) type Note = RBTreeNodeReservation<u32, ()>;

impl OpenFile {
    /// What waits to be read.
    pub(crate) fn line(&self) -> &Line {
        &self.line
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
        let old = self.owned.lock().insert(memory.into_node(lkid, ()));
        drop(old);
    }

    /// Forgets a lock that is gone; under the mutex of the lock's shard.
    pub(crate) fn forget(&self, lkid: u32) {
        let node = self.owned.lock().remove_node(&lkid);
        drop(node);
    }

    /// Any one lock of this file.
    fn first_owned(&self) -> Option<u32> {
        self.owned.lock().keys().next().copied()
    }

    /// Gives up the locks of the file; none of their results is delivered. Returns whether all
    /// are given up: a recovery or a lack of memory may be in the way.
    pub(crate) fn drop_owned(&self, even_persistent: bool) -> bool {
        // Each round takes one lock off the list, so this ends.
        while let Some(lkid) = self.first_owned() {
            if self.ls.abandon(self, lkid, even_persistent).is_err() {
                return false;
            }
            self.forget(lkid);
        }
        true
    }

    fn layout(&self) -> Layout {
        if self.compat.load(ordering::Relaxed) {
            Layout::Compat
        } else {
            Layout::Native
        }
    }

    fn run(this: &Arc<Self>, command: Command<'_>) -> Result<usize> {
        match command {
            Command::Lock(params) => lock(this, &params),
            Command::Unlock(params) => unlock(this, &params),
            Command::Deadlock(params) => deadlock(this, &params),
            Command::Purge { nodeid, pid } => purge(this, nodeid, pid),
            Command::CreateLockspace { .. } | Command::RemoveLockspace { .. } => Err(EINVAL),
        }
    }

    /// Waits for the next result.
    fn next(&self, file: &File) -> Result<UserResult> {
        loop {
            if let Some(result) = self.line.take_result() {
                return Ok(result);
            }
            if self.ls.is_gone() {
                return Err(ENODEV);
            }
            if nonblocking(file) {
                return Err(EAGAIN);
            }
            if self.line.wait(&self.changed, || self.ls.is_gone()) {
                return Err(ERESTARTSYS);
            }
        }
    }
}

/// A new lock, a conversion, or the adoption of an orphan. Returns the id for all but conversions.
fn lock(this: &Arc<OpenFile>, params: &LockParams<'_>) -> Result<usize> {
    if params.user.castaddr == 0 || params.user.lksb == 0 {
        return Err(EINVAL);
    }
    let flags = params.flags;
    let mode = i32::from(params.mode);
    if flags & flags::CONVERT != 0 {
        this.ls.convert_user(this, params, mode, flags)?;
        return Ok(0);
    }
    let name = params.name().ok_or(EINVAL)?;
    let owner = Owner::user(
        this.clone(),
        params.user,
        params.xid,
        flags & flags::VALBLK != 0,
    )?;
    let note = RBTreeNodeReservation::new(GFP_KERNEL)?;
    let lkid = if flags & flags::ORPHAN != 0 {
        this.ls.adopt(this, owner, note, name, mode, flags)?
    } else {
        this.ls.request_user(this, owner, note, name, mode, flags)?
    };
    Ok(lkid as usize)
}

fn unlock(this: &Arc<OpenFile>, params: &LockParams<'_>) -> Result<usize> {
    this.ls.unlock_user(this, params, params.flags, false)?;
    Ok(0)
}

/// A cancel that tells its reason.
fn deadlock(this: &Arc<OpenFile>, params: &LockParams<'_>) -> Result<usize> {
    this.ls.unlock_user(this, params, flags::CANCEL, true)?;
    Ok(0)
}

/// Drops orphans, here or on another node; or silently all locks of this file.
fn purge(this: &Arc<OpenFile>, nodeid: u32, pid: u32) -> Result<usize> {
    let here = nodeid == 0 || nodeid == this.ls.own_node();
    if here && pid == task::pid() {
        while !this.drop_owned(true) {
            this.ls.wait_running()?;
        }
    } else {
        this.ls.purge((!here).then_some(NodeId(nodeid)), pid)?;
    }
    Ok(0)
}

impl FileOps for OpenFile {
    type Device = Arc<Lockspace>;

    const POLLS: bool = true;

    fn open(ls: &Arc<Lockspace>) -> Result<Arc<Self>> {
        let file = Arc::pin_init(
            pin_init!(Self {
                ls: ls.clone(),
                line <- Line::new(),
                changed <- new_poll_condvar!("dlm_file"),
                compat: Atomic::new(false),
                owned <- new_mutex!(RBTree::new(), "dlm_owned"),
            }),
            GFP_KERNEL,
        )?;
        ls.file_opened(&file)?;
        Ok(file)
    }

    fn release(this: Arc<Self>) {
        this.line.close();
        // A process does not end up waiting for a recovery here.
        let done = this.drop_owned(false);
        this.ls.file_closed(&this, !done);
    }

    fn read(
        this: ArcBorrow<'_, Self>,
        file: &File,
        to: &mut UserSliceWriter,
        len: usize,
    ) -> Result<usize> {
        if len == VERSION_LEN {
            return read_version(to);
        }
        let layout = this.layout();
        if len < result_len(layout) {
            return Err(EINVAL);
        }
        let next = this.next(file)?;
        // There is room for the fixed part: checked above.
        let encoded = next
            .result
            .encode(layout, next.lvb.as_ref(), len)
            .ok_or(EINVAL)?;
        to.write_slice(encoded.bytes())?;
        Ok(encoded.bytes().len())
    }

    fn write(this: ArcBorrow<'_, Self>, from: UserSliceReader, len: usize) -> Result<usize> {
        let written = Written::read(from, len)?;
        let request = written.request()?;
        match request.layout {
            Layout::Compat => this.compat.store(true, ordering::Relaxed),
            Layout::Native => {}
        }
        if this.ls.is_gone() {
            return Err(ENODEV);
        }
        Self::run(&this.into(), request.command)
    }

    fn poll(this: ArcBorrow<'_, Self>, file: &File, table: PollTable<'_>) -> u32 {
        table.register_wait(file, &this.changed);
        if this.ls.is_gone() {
            bindings::POLLIN | bindings::POLLRDNORM | bindings::POLLERR | bindings::POLLHUP
        } else if this.line.is_empty() {
            0
        } else {
            bindings::POLLIN | bindings::POLLRDNORM
        }
    }
}
