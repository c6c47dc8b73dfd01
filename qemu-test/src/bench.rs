// SPDX-License-Identifier: GPL-2.0-only
//! Measuring lock managers: ours and the distribution's, by the same module on the same nodes.
//!
//! `load` makes lock operations on a node through `dlmbench.ko` (in `qemu-test/bench/`), `drive`
//! forms lockspaces over nodes without any daemon, for both lock managers. The benches are in
//! `suite`, what they measure in `local`, `remote`, `memory` and `recovery`; `figure` makes rows of
//! samples, `table` text of rows; `command` is the command line.

mod beside;
pub mod command;
pub mod drive;
pub mod figure;
pub mod load;
mod local;
mod memory;
#[cfg(test)]
mod mounted;
mod profile;
mod recovery;
mod remote;
mod sample;
pub mod suite;
pub mod table;
