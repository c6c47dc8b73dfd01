// SPDX-License-Identifier: GPL-2.0-only
//! What the kernel asks and reports, whichever module said it.

/// Something the kernel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KernelEvent {
    /// A lockspace is created and waits for an answer.
    Join { name: String, flags: u32 },
    /// A lockspace is released and waits for an answer.
    Leave { name: String, recover: bool },
    /// A recovery ended.
    Recovered {
        name: String,
        result: i32,
        milliseconds: u32,
    },
    /// Something is odd about a peer.
    Peer { node: u32, what: String },
    /// Some were lost; the kernel's state must be looked at.
    Lost,
}
