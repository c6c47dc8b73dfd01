// SPDX-License-Identifier: GPL-2.0-only
//! The lock manager as pure state machines.
//!
//! Mounted twice at the same name: by the kernel module and by the user-space crate that tests and
//! simulates it. Uses `core` and `crate::platform` and nothing else: no clock, no thread, no
//! socket, no unsafe. What an operation needs is reserved before it is accepted; bad input from a
//! peer gets an answer or is dropped, and never a panic.
//!
//! Start at [`shard`]: one single-threaded machine holds the resources, locks and directory records
//! of a share of the names of a lockspace.

#![forbid(unsafe_code)]

pub mod arena;
pub mod connection;
pub mod errno;
pub mod fault;
pub mod flags;
pub mod framer;
pub mod hash;
pub mod lkb;
pub mod lvb;
pub mod members;
pub mod mode;
pub mod name;
pub mod peer;
pub mod queue;
pub mod recovery;
pub mod rsb;
pub mod secure;
pub mod shard;
pub mod table;
pub mod wire;
pub mod word;
