// SPDX-License-Identifier: GPL-2.0-only
//! Error numbers for which `kernel::error::code` has no name.
//!
//! C headers: `include/uapi/asm-generic/errno.h`, `errno-base.h`.

use core::ffi::c_int;
use kernel::{
    bindings,
    error::Error, //
};

/// An error number; [`Error`] cannot be made from one at compile time outside the kernel crate.
#[derive(Clone, Copy)]
pub(crate) struct Errno(c_int);

impl Errno {
    const fn new(number: u32) -> Self {
        Self(-(number as c_int))
    }

    /// The number, negative, as C functions return it.
    pub(crate) const fn to_errno(self) -> c_int {
        self.0
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::from_errno(errno.0)
    }
}

/// The versions of a program's request and of the device do not fit.
pub(crate) const EBADE: Errno = Errno::new(bindings::EBADE);
/// The cluster has another name.
pub(crate) const EBADR: Errno = Errno::new(bindings::EBADR);
/// Whoever connected has gone again.
pub(crate) const ECONNABORTED: Errno = Errno::new(bindings::ECONNABORTED);
/// Membership has not named this node.
pub(crate) const ENOTCONN: Errno = Errno::new(bindings::ENOTCONN);
/// This module does not have that.
pub(crate) const EOPNOTSUPP: Errno = Errno::new(bindings::EOPNOTSUPP);
/// Another version of the protocol of control.
pub(crate) const EPROTO: Errno = Errno::new(bindings::EPROTO);
/// There is no controller to ask.
pub(crate) const EUNATCH: Errno = Errno::new(bindings::EUNATCH);
