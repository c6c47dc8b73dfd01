// SPDX-License-Identifier: GPL-2.0-only
//! Which lockspaces have a device, and by which minor number.
//!
//! Lock: `DEVICES`, a leaf; devices come and go outside it, for that waits for who opens them.

use kernel::{
    prelude::*,
    str::CString,
    sync::Arc, //
};

use super::lockspace_file::LockspaceFile;
use crate::ffi::global::global_mutex;
use crate::ffi::misc::Misc;
use crate::lockspace::Lockspace;

struct LockspaceDevice {
    ls: Arc<Lockspace>,
    device: Misc<LockspaceFile>,
}

global_mutex! {
    /// See the head of this file.
    static DEVICES: KVec<LockspaceDevice> = KVec::new();
    /// Makes the table usable; when the module is loaded, before everything else.
    fn init;
}

/// Registers the device of a lockspace that can be used from now on.
pub(crate) fn open(ls: &Arc<Lockspace>) -> Result {
    let name = CString::try_from_fmt(fmt!("dlm_{}", ls.display_name()))?;
    let new = LockspaceDevice {
        ls: ls.clone(),
        device: Misc::register(name, ls.clone())?,
    };
    let mut devices = DEVICES.lock();
    // So that an error drops `new` after the lock.
    devices.reserve(1, GFP_KERNEL)?;
    devices.push_within_capacity(new).map_err(|_| ENOMEM)?;
    Ok(())
}

/// No program can open a lockspace any more, which may have no device.
pub(crate) fn close(ls: &Lockspace) {
    let device = {
        let mut devices = DEVICES.lock();
        let at = devices.iter().position(|d| core::ptr::eq(&*d.ls, ls));
        at.and_then(|at| devices.remove(at).ok())
    };
    drop(device);
}

/// The lockspace that has the device of this number.
pub(super) fn find_by_minor(minor: u32) -> Option<Arc<Lockspace>> {
    let devices = DEVICES.lock();
    let found = devices.iter().find(|d| d.device.minor() == minor)?;
    Some(found.ls.clone())
}

/// Minor number of the device of a lockspace, if it has one.
pub(super) fn minor_of(ls: &Lockspace) -> Option<u32> {
    let devices = DEVICES.lock();
    let found = devices.iter().find(|d| core::ptr::eq(&*d.ls, ls))?;
    Some(found.device.minor())
}
