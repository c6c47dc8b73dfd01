// SPDX-License-Identifier: GPL-2.0-only
//! PID 1 of a test node, as a library: the host-side runner uses [`protocol`], the binary the rest.
//!
//! Not a general init: it brings one node to the point where the runner can execute programs on
//! it, reaps what is orphaned, and powers the node off when it is told to. It decides nothing about
//! tests. Rule it keeps: whatever fails while booting is said on the console with its cause, and
//! the node still offers its control channel whenever that is possible.

pub mod boot;
pub mod children;
pub mod cmdline;
pub mod devices;
pub mod exec;
pub mod handover;
pub mod modules;
pub mod network;
pub mod port;
pub mod protocol;
pub mod relay;
pub mod server;
