// SPDX-License-Identifier: GPL-2.0-only
//! The table by which the transport reaches what stands above it.
//!
//! It is given when the transport is made and names nobody: neither a lockspace nor a door. Every
//! hook is called from a task that may sleep, with none of the transport's locks but a framer's.

use kernel::prelude::*;

use crate::lockcore::connection::Suspicion;
use crate::lockcore::members::NodeId;

/// Functions that the transport calls.
pub(crate) struct Hooks {
    /// Takes one packet of a peer: a lock message or a recovery message, the next in order.
    pub(crate) deliver: fn(from: NodeId, packet: &[u8]) -> Delivered,
    /// There is a new reason to doubt a peer, or none any more.
    pub(crate) suspicion_changed: fn(NodeId, Suspicion),
    /// Membership has named a peer. An error is logged and changes nothing else.
    pub(crate) peer_appeared: fn(NodeId) -> Result,
    /// Membership has forgotten a peer.
    pub(crate) peer_gone: fn(NodeId),
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// It was dealt with, or dropped and counted.
    Done,
    /// This node is in no lockspace of that id.
    UnknownLockspace,
    /// No memory, nothing changed: deliver it again later, before what came behind it.
    NoMemory,
    /// It is not what it says it is.
    Malformed,
}
