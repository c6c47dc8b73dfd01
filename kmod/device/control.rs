// SPDX-License-Identifier: GPL-2.0-only
//! `dlm-control`: makes and removes lockspaces for programs, and tells the interface version.
//!
//! Anybody may open it, as libdlm does for the version; making and removing needs CAP_SYS_ADMIN.

use kernel::{
    fs::File,
    prelude::*,
    str::CString,
    sync::{
        Arc,
        ArcBorrow, //
    },
    uaccess::{
        UserSliceReader,
        UserSliceWriter, //
    }, //
};

use super::{
    lockspaces,
    read_version,
    Written, //
};
use crate::ffi::misc::{
    FileOps,
    Misc, //
};
use crate::ffi::task;
use crate::lockspace::{
    self,
    CreateArgs, //
};
use crate::uapi::device::{
    Command,
    LVB_LEN,
    NAME_MAX,
    REMOVE_FORCE,
    VERSION_LEN, //
};
use crate::uapi::lock::{
    LsFlags,
    Release,
    LSFL_SOFTIRQ, //
};

/// An open file of the device.
pub(crate) struct ControlFile;

/// Registers the device.
pub(super) fn register() -> Result<Misc<ControlFile>> {
    Misc::register(CString::try_from_fmt(fmt!("dlm-control"))?, ())
}

impl FileOps for ControlFile {
    type Device = ();

    fn open(_device: &()) -> Result<Arc<Self>> {
        Ok(Arc::new(Self, GFP_KERNEL)?)
    }

    fn read(
        _this: ArcBorrow<'_, Self>,
        _file: &File,
        to: &mut UserSliceWriter,
        len: usize,
    ) -> Result<usize> {
        if len != VERSION_LEN {
            return Err(EINVAL);
        }
        read_version(to)
    }

    fn write(_this: ArcBorrow<'_, Self>, from: UserSliceReader, len: usize) -> Result<usize> {
        let written = Written::read(from, len)?;
        match written.request()?.command {
            Command::CreateLockspace { flags, name } => create(name, LsFlags::from_raw(flags)),
            Command::RemoveLockspace { flags, minor } => remove(minor, flags),
            Command::Lock(_)
            | Command::Unlock(_)
            | Command::Deadlock(_)
            | Command::Purge { .. } => Err(EINVAL),
        }
    }
}

/// Returns the minor number of the lockspace's device.
fn create(name: &[u8], flags: LsFlags) -> Result<usize> {
    task::check_admin()?;
    // The name becomes part of a file name in /dev and debugfs.
    let plain = name.iter().all(|&b| b.is_ascii_graphic() && b != b'/');
    if flags.has(LSFL_SOFTIRQ) || name.is_empty() || name.len() > NAME_MAX || !plain {
        return Err(EINVAL);
    }
    let created = lockspace::create(CreateArgs {
        name,
        cluster: None,
        flags,
        lvblen: LVB_LEN as u32,
        ops: None,
        device: true,
    })?;
    let minor = lockspaces::minor_of(&created.lockspace).ok_or(ENODEV)?;
    Ok(minor as usize)
}

fn remove(minor: u32, flags: u32) -> Result<usize> {
    task::check_admin()?;
    let ls = lockspaces::find_by_minor(minor).ok_or(ENOENT)?;
    let option = if flags & REMOVE_FORCE != 0 {
        Release::Normal
    } else {
        Release::NoLocks
    };
    ls.release(option)?;
    Ok(0)
}
