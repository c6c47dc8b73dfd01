// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note
//! Layouts and numbers shared with programs and other kernel modules.
//!
//! Mounted by the module, and by crate `dlm-uapi` (`lib.rs`) for user space; uses
//! only `core`. What a layout means is said by the file of the module that speaks it.

pub mod device;
pub mod lock;
pub mod netlink;
pub mod node;
pub mod plock;
