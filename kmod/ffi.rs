// SPDX-License-Identifier: GPL-2.0-only
//! Safe types over C facilities of the kernel, one file per facility.
//!
//! With `capi.rs` and `uapi/` the only place where `unsafe` is allowed. A file here knows nothing
//! of locks and nodes; what is declared `pub(crate)` can be used without knowing C.

pub(crate) mod caller;
pub(crate) mod completion;
pub(crate) mod errno;
pub(crate) mod global;
pub(crate) mod kthread;
pub(crate) mod memory;
pub(crate) mod misc;
pub(crate) mod module;
pub(crate) mod netlink;
pub(crate) mod own;
pub(crate) mod rcu;
pub(crate) mod socket;
pub(crate) mod task;
pub(crate) mod time;
pub(crate) mod workqueue;
