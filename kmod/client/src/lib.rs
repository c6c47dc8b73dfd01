// SPDX-License-Identifier: GPL-2.0-only
//! Typed client of the kernel module's generic netlink family `dlm`.
//!
//! [`Client`] asks one thing at a time and waits for the kernel's answer; the
//! daemon that claims a role keeps its client for as long as it holds the role,
//! because the role is bound to the socket. [`Events`] is a second socket that
//! only listens; its file descriptor can be polled.
//!
//! What the operations mean is said by the family's spec, `uapi/dlm.yaml`; the
//! numbers are those of [`dlm_uapi::netlink`], which the module itself uses. Nothing here decides
//! anything: who may start a lockspace is the caller's business.
//!
//! A call runs in the kernel in the context of the caller: one that waits there
//! (only [`Client::lockspace_stop`] does) holds the calling thread, whatever the
//! time limit, so that daemons make it on a thread of its own.

mod attributes;
mod client;
pub mod device;
mod error;
mod events;
mod socket;
mod types;

pub use client::Client;
pub use dlm_uapi::netlink::LsState;
pub use dlm_uapi::netlink::PeerState;
pub use dlm_uapi::netlink::Role;
pub use dlm_uapi::netlink::Suspicion;
pub use error::Error;
pub use events::Event;
pub use events::Events;
pub use types::Lockspace;
pub use types::Member;
pub use types::Node;
pub use types::NodeUpdate;
pub use types::Slot;
pub use types::Start;
pub use types::Status;
