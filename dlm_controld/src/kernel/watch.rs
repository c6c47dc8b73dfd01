// SPDX-License-Identifier: GPL-2.0-only
//! Descriptors that tokio polls.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has an object polled for reading. The object must own its descriptor and
/// keep it: sockets and files do.
///
/// # Errors
/// The system's.
#[expect(
    deprecated,
    reason = "its replacement is unsafe, which this crate forbids; the objects given to it own \
              their descriptors, so that what was unsound about it cannot happen"
)]
pub(crate) fn watch<T: AsRawFd>(object: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(object, Interest::READABLE)
}
