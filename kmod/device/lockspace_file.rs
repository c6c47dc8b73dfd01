// SPDX-License-Identifier: GPL-2.0-only
//! `dlm_<lockspace>`: one open file, and with it one owner of locks.
//!
//! A write is one operation, a read takes one result. What the file owns goes when it is closed:
//! locks are unlocked and their value blocks marked invalid, unless they were asked for as
//! persistent, and then they stay as orphans to be adopted. A file that is still open when its
//! lockspace is released gets [`ENODEV`].

use kernel::{
    bindings,
    fs::File,
    prelude::*,
    sync::{
        atomic::{
            ordering,
            Atomic, //
        },
        poll::PollTable,
        Arc,
        ArcBorrow, //
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
    Note,
    OpenFile,
    Owner,
    UserResult, //
};
use crate::ffi::misc::FileOps;
use crate::ffi::task;
use crate::lockcore::flags::{
    self,
    LockFlags, //
};
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
pub(crate) struct LockspaceFile {
    ls: Arc<Lockspace>,
    file: Arc<OpenFile>,
    /// The program has 32 bits and wants results in that layout.
    compat: Atomic<bool>,
}

impl LockspaceFile {
    fn layout(&self) -> Layout {
        if self.compat.load(ordering::Relaxed) {
            Layout::Compat
        } else {
            Layout::Native
        }
    }

    fn run(&self, command: Command<'_>) -> Result<usize> {
        match command {
            Command::Lock(params) => self.lock(&params),
            Command::Unlock(params) => self.unlock(&params),
            Command::Deadlock(params) => self.deadlock(&params),
            Command::Purge { nodeid, pid } => self.purge(nodeid, pid),
            Command::CreateLockspace { .. } | Command::RemoveLockspace { .. } => Err(EINVAL),
        }
    }

    /// Waits for the next result.
    fn next(&self, file: &File) -> Result<UserResult> {
        loop {
            if let Some(result) = self.file.line().take_result() {
                return Ok(result);
            }
            if self.ls.is_gone() {
                return Err(ENODEV);
            }
            if nonblocking(file) {
                return Err(EAGAIN);
            }
            if self
                .file
                .line()
                .wait(self.file.changed(), || self.ls.is_gone())
            {
                return Err(ERESTARTSYS);
            }
        }
    }

    /// A new lock, a conversion, or the adoption of an orphan. Returns the id for all but
    /// conversions.
    fn lock(&self, params: &LockParams<'_>) -> Result<usize> {
        if params.user.castaddr == 0 || params.user.lksb == 0 {
            return Err(EINVAL);
        }
        let flags = LockFlags::from_raw(params.flags);
        let mode = i32::from(params.mode);
        if flags.has(flags::CONVERT) {
            self.ls.convert_user(&self.file, params, mode, flags)?;
            return Ok(0);
        }
        let name = params.name().ok_or(EINVAL)?;
        let owner = Owner::user(
            self.file.clone(),
            params.user,
            params.xid,
            flags.has(flags::VALBLK),
        )?;
        let note = Note::new()?;
        let lkid = if flags.has(flags::ORPHAN) {
            self.ls.adopt(&self.file, owner, note, name, mode, flags)?
        } else {
            self.ls
                .request_user(&self.file, owner, note, name, mode, flags)?
        };
        Ok(lkid as usize)
    }

    fn unlock(&self, params: &LockParams<'_>) -> Result<usize> {
        self.ls
            .unlock_user(&self.file, params, LockFlags::from_raw(params.flags), false)?;
        Ok(0)
    }

    /// A cancel that tells its reason.
    fn deadlock(&self, params: &LockParams<'_>) -> Result<usize> {
        self.ls
            .unlock_user(&self.file, params, flags::CANCEL, true)?;
        Ok(0)
    }

    /// Drops orphans, here or on another node; or silently all locks of this file.
    fn purge(&self, nodeid: u32, pid: u32) -> Result<usize> {
        let here = nodeid == 0 || nodeid == self.ls.own_node();
        if here && pid == task::pid() {
            while !self.ls.drop_owned(&self.file, true) {
                self.ls.wait_running()?;
            }
        } else {
            self.ls.purge((!here).then_some(NodeId(nodeid)), pid)?;
        }
        Ok(0)
    }
}

impl FileOps for LockspaceFile {
    type Device = Arc<Lockspace>;

    const POLLS: bool = true;

    fn open(ls: &Arc<Lockspace>) -> Result<Arc<Self>> {
        let file = OpenFile::new()?;
        let this = Self {
            ls: ls.clone(),
            file: file.clone(),
            compat: Atomic::new(false),
        };
        let this = Arc::new(this, GFP_KERNEL)?;
        ls.file_opened(&file)?;
        Ok(this)
    }

    fn release(this: Arc<Self>) {
        this.ls.file_closed(&this.file);
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
        this.run(request.command)
    }

    fn poll(this: ArcBorrow<'_, Self>, file: &File, table: PollTable<'_>) -> u32 {
        table.register_wait(file, this.file.changed());
        if this.ls.is_gone() {
            bindings::POLLIN | bindings::POLLRDNORM | bindings::POLLERR | bindings::POLLHUP
        } else if this.file.line().is_empty() {
            0
        } else {
            bindings::POLLIN | bindings::POLLRDNORM
        }
    }
}
