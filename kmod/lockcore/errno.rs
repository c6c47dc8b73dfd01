// SPDX-License-Identifier: GPL-2.0-only
//! Error numbers as messages and status blocks carry them: negative, and the same on every machine.
//!
//! What a function inside the core fails with is [`crate::platform::Error`].

/// No such lock.
pub const ENOENT: i32 = -2;
/// Not to be had at once.
pub const EAGAIN: i32 = -11;
/// No memory, and nothing changed.
pub const ENOMEM: i32 = -12;
/// This node is not the master of the resource.
pub const ENOTBLK: i32 = -15;
/// The lock is not in a state for it.
pub const EBUSY: i32 = -16;
/// The new master has the lock already.
pub const EEXIST: i32 = -17;
/// The message or the arguments make no sense.
pub const EINVAL: i32 = -22;
/// The conversion would wait for ever.
pub const EDEADLK: i32 = -35;
/// The node does not have the resource, or not yet.
pub const EBADR: i32 = -53;
/// Members are configured otherwise: what a creator gets to hear.
pub const EPROTO: i32 = -71;
/// The operation waits in its queue.
pub const EINPROGRESS: i32 = -115;
/// What waited was taken back.
pub const ECANCEL: i32 = -0x1_0001;
/// The lock was given up.
pub const EUNLOCK: i32 = -0x1_0002;
