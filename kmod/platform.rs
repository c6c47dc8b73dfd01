// SPDX-License-Identifier: GPL-2.0-only
//! The seam under the lock manager core, kernel side: memory, errors and log lines.
//!
//! `host/platform.rs` offers the same names in user space. The core allocates with one set of
//! flags; that no allocation waits for file systems or I/O is seen to by who calls the core
//! (`ffi/memory.rs`).

pub use kernel::alloc::{
    KVVec,
    KVec, //
};
pub use kernel::error::{
    Error,
    Result, //
};
pub use kernel::prelude::KBox;
pub use kernel::sync::Arc;

use kernel::prelude::*;

/// Flags of every allocation of the core.
pub const GFP: kernel::alloc::Flags = GFP_KERNEL;

/// Error numbers by name.
pub mod code {
    pub use kernel::error::code::*;
}

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The operator must act.
    Error,
    /// Odd but handled.
    Warn,
    /// Recovery begins, ends.
    Info,
    /// Decisions.
    Debug,
}

/// Whether a mistake is planted: only the simulator plants any.
pub const fn fault(_fault: crate::lockcore::fault::Fault) -> bool {
    false
}

/// Writes a log line, without line end.
pub fn log(level: Level, args: core::fmt::Arguments<'_>) {
    match level {
        Level::Error => pr_err!("{}\n", args),
        Level::Warn => pr_warn!("{}\n", args),
        Level::Info => pr_info!("{}\n", args),
        Level::Debug => pr_debug!("{}\n", args),
    }
}
