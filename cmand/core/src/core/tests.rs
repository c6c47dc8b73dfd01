// SPDX-License-Identifier: GPL-2.0-only
//! A cluster of cores in memory: seeded runs with faults, then without.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks at the effects it is about"
)]

mod ballots;
mod check;
mod cluster;
mod scenarios;
mod seeds;
mod strangers;
