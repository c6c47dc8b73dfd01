// SPDX-License-Identifier: GPL-2.0-only
//! The lock manager core of the kernel module, mounted in user space.

// The shared sources keep the kernel's order of imports and its edition.
#[path = "../callback/fifo.rs"]
pub mod callback_fifo;
#[path = "../lockcore/mod.rs"]
pub mod lockcore;
pub mod platform;

pub use dlm_uapi as uapi;
