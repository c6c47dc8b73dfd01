// SPDX-License-Identifier: GPL-2.0-only
//! The misc devices of programs: what libdlm and daemons open.
//!
//! | Device | File | Who |
//! |---|---|---|
//! | `dlm-control` | [`control`] | makes and removes lockspaces |
//! | `dlm-monitor` | [`monitor`] | held open by a daemon while it lives |
//! | `dlm_<lockspace>` | [`lockspace_file`] | locks |
//! | `dlm_plock` | `plock.rs` | the daemon that keeps POSIX locks |
//!
//! Bytes are decoded by `uapi/device.rs`; what is asked is done by `lockspace.rs`. Nothing a
//! program writes is trusted: a lock id is good only in the open file that owns the lock.

mod control;
mod lockspace_file;
mod lockspaces;
mod monitor;

use kernel::{
    fs::{
        file,
        File, //
    },
    prelude::*,
    uaccess::{
        UserSliceReader,
        UserSliceWriter, //
    }, //
};

use crate::ffi::errno;
use crate::ffi::misc::Misc;
use crate::uapi::device::{
    decode_request,
    encode_version,
    Request,
    RequestError,
    REQUEST_MAX,
    VERSION_LEN, //
};

pub(crate) use lockspaces::{
    close,
    init,
    open, //
};

/// The devices that are there as long as the module. Dropping takes them away.
pub(crate) struct Devices {
    _control: Misc<control::ControlFile>,
    _monitor: Misc<monitor::MonitorFile>,
    _plock: Misc<crate::plock::PlockFile>,
}

impl Devices {
    /// Registers them.
    pub(crate) fn register() -> Result<Self> {
        Ok(Self {
            _control: control::register()?,
            _monitor: monitor::register()?,
            _plock: crate::plock::register()?,
        })
    }
}

/// A write of a program, as far as a request may be long.
struct Written {
    bytes: [u8; REQUEST_MAX],
    len: usize,
}

impl Written {
    fn read(mut from: UserSliceReader, len: usize) -> Result<Self> {
        let mut this = Self {
            bytes: [0; REQUEST_MAX],
            len,
        };
        from.read_slice(this.bytes.get_mut(..len).ok_or(EINVAL)?)?;
        Ok(this)
    }

    fn request(&self) -> Result<Request<'_>> {
        let bytes = self.bytes.get(..self.len).ok_or(EINVAL)?;
        // No line in the log: whoever may open the device could fill it.
        decode_request(bytes).map_err(|error| match error {
            RequestError::Length | RequestError::Command(_) => EINVAL,
            RequestError::Version(_) => errno::EBADE.into(),
        })
    }
}

/// The answer to a read of exactly [`VERSION_LEN`] bytes.
fn read_version(to: &mut UserSliceWriter) -> Result<usize> {
    to.write_slice(&encode_version())?;
    Ok(VERSION_LEN)
}

/// Whether the program does not want to wait.
fn nonblocking(file: &File) -> bool {
    file.flags() & file::flags::O_NONBLOCK != 0
}
