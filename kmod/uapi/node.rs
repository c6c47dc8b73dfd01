// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note
//! The id of a node: what membership, fencing, lockspaces and the lock manager call a node by.

use core::fmt;

/// A node of the cluster's configuration. The kernel and the configuration refuse 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
