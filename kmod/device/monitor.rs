// SPDX-License-Identifier: GPL-2.0-only
//! `dlm-monitor`: a daemon that steers the module through configfs holds it open while it lives.
//!
//! Only who administers the system may open it: a stranger who held it open would hide the death
//! of the daemon. A daemon that uses netlink is known by its socket and needs no monitor.

use kernel::{
    prelude::*,
    str::CString,
    sync::Arc, //
};

use crate::ffi::misc::{
    FileOps,
    Misc, //
};
use crate::ffi::task;

/// An open file of the device.
pub(crate) struct MonitorFile;

/// Registers the device.
pub(super) fn register() -> Result<Misc<MonitorFile>> {
    Misc::register(CString::try_from_fmt(fmt!("dlm-monitor"))?, ())
}

impl FileOps for MonitorFile {
    type Device = ();

    fn open(_device: &()) -> Result<Arc<Self>> {
        task::check_admin()?;
        Ok(Arc::new(Self, GFP_KERNEL)?)
    }
}
