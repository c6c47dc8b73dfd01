// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note
//! Layouts and numbers shared with programs and other kernel modules.
//!
//! Mounted by the module and, for tests and tools, by the host crate at the same name; uses only
//! `core`. What a layout means is said by the file of the module that speaks it.

pub mod device;
pub mod lock;
pub mod netlink;
pub mod plock;
