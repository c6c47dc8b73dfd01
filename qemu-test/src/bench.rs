// SPDX-License-Identifier: GPL-2.0-only
//! Measuring lock managers: ours and the distribution's, by the same module on the same nodes.
//!
//! `load` makes lock operations on a node through `dlmbench.ko` (in `qemu-test/bench/`), `drive`
//! forms lockspaces over nodes without any daemon, for both lock managers. `figure` makes rows of samples, `table`
//! text of rows.

pub mod drive;
pub mod figure;
pub mod load;
#[cfg(test)]
mod mounted;
pub mod table;
