// SPDX-License-Identifier: GPL-2.0-only
//! The seam under the lock manager core, kernel side: memory, errors and log lines.
//!
//! `host/platform.rs` offers the same names in user space. The core runs under mutexes that others
//! wait for, so its allocations do not wait for memory: without, it says so before it has changed
//! anything, and who called it waits for memory outside and asks again (`ffi/memory.rs`).

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

pub use kernel::alloc::Flags;

/// Flags of every allocation of the core that may happen under a mutex: it does not wait.
pub const GFP: Flags = GFP_NOWAIT;

/// Flags of what is made before anybody else knows of it: it may wait.
pub const GFP_MAY_WAIT: Flags = GFP_KERNEL;

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

/// Whether the mistake of this number is planted: only the simulator plants any.
pub const fn is_planted(_mistake: u32) -> bool {
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
