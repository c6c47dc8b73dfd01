// SPDX-License-Identifier: GPL-2.0-only
//! Whole daemons on loopback addresses: three processes, a real network, real
//! signals. Needs no privilege.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "all of this is tests, and each looks at what it is about"
)]

mod cluster;
mod groups;
mod intruders;
mod members;
mod signals;
mod starts;
mod watchdog;
