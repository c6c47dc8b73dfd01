// SPDX-License-Identifier: GPL-2.0-only
//! What the daemons and tools share: control socket frames, client and server,
//! logging, configuration reader.
//!
//! Not here: anything one daemon alone decides, and any protocol between nodes.

pub mod client;
pub mod config;
pub mod exit;
pub mod files;
pub mod frame;
pub mod log;
pub mod notify;
pub mod realtime;
pub mod server;
pub mod signals;
