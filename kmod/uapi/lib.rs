// SPDX-License-Identifier: GPL-2.0-only
//! The module's interface as a crate, for user space: the files that the module mounts itself.
//!
//! So a number, a name or an id has one type on both sides of the kernel's border, and one in all
//! programs. Nothing is added here but serde's traits, for those who ask for them.

#[path = "mod.rs"]
mod interface;
#[cfg(feature = "serde")]
mod serde;

pub use interface::{device, lock, netlink, node, plock};
