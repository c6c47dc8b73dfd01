// SPDX-License-Identifier: GPL-2.0-only
//! `dlm_plock`: where a daemon that keeps POSIX locks takes requests and leaves answers.
//!
//! The four functions that file systems call (`capi.rs`) do not make requests yet, so there is
//! never one to read. The device is complete as far as that goes: a daemon that opens it, polls
//! it, reads and writes gets what it would get while no file is locked.

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

use crate::ffi::misc::{
    FileOps,
    Misc, //
};
use crate::uapi::plock::{
    Record,
    RECORD_LEN, //
};

/// An open file of the device.
pub(crate) struct PlockFile;

/// Registers the device.
pub(crate) fn register() -> Result<Misc<PlockFile>> {
    Misc::register(CString::try_from_fmt(fmt!("dlm_plock"))?, ())
}

impl FileOps for PlockFile {
    type Device = ();

    const POLLS: bool = true;

    fn open(_device: &()) -> Result<Arc<Self>> {
        Ok(Arc::new(Self, GFP_KERNEL)?)
    }

    /// Takes the oldest request; [`EAGAIN`] if there is none, whatever the file's flags.
    fn read(
        _this: ArcBorrow<'_, Self>,
        _file: &File,
        _to: &mut UserSliceWriter,
        len: usize,
    ) -> Result<usize> {
        if len < RECORD_LEN {
            return Err(EINVAL);
        }
        Err(EAGAIN)
    }

    /// An answer. That no request matches is no error: its asker may have been killed.
    fn write(_this: ArcBorrow<'_, Self>, mut from: UserSliceReader, len: usize) -> Result<usize> {
        if len != RECORD_LEN {
            return Err(EINVAL);
        }
        let mut bytes = [0; RECORD_LEN];
        from.read_slice(&mut bytes)?;
        Record::decode(&bytes).map_err(|_| EINVAL)?;
        Ok(RECORD_LEN)
    }
}
