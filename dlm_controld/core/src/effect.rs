// SPDX-License-Identifier: GPL-2.0-only
//! What the state machine wants done. Plain data; [`crate::Controld`] makes it.

use crate::BootId;
use crate::NodeId;
use crate::report::Wait;
use crate::wire::Message;

/// A start of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The lockspace.
    pub lockspace: String,
    /// Its global id.
    pub id: u32,
    /// Number of the change, for logs.
    pub change: u64,
    /// Members by ascending id.
    pub members: Vec<NodeId>,
    /// Nodes that failed since recovery last ended here. One that is a member
    /// again is in both lists.
    pub failed: Vec<NodeId>,
    /// Those of them that are no failures, but left and asked for recovery.
    pub released: Vec<NodeId>,
    /// Members that departed since the last start and are back.
    pub renewed: Vec<NodeId>,
}

/// What the state machine wants done, in this order.
///
/// What concerns one lockspace in the kernel (stop, start, answer, forget) must
/// be done in order; different lockspaces may overtake each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Ask cmand to join a group.
    GroupJoin {
        /// Which.
        group: String,
    },
    /// Ask cmand to leave a group.
    GroupLeave {
        /// Which.
        group: String,
    },
    /// Send to a joined group.
    Send {
        /// Which.
        group: String,
        /// What.
        message: Message,
    },
    /// Stop the kernel; answered by [`crate::Controld::handle_stopped`].
    Stop {
        /// Which lockspace.
        lockspace: String,
    },
    /// Start the kernel; answered by [`crate::Controld::handle_started`] or
    /// [`crate::Controld::handle_start_failed`], later by [`crate::Controld::handle_recovered`].
    Start(Start),
    /// Answer the kernel's pending join or leave.
    Answer {
        /// Of which lockspace.
        lockspace: String,
        /// 0, or a negative errno.
        result: i32,
    },
    /// Clean up what the kernel was told of a lockspace that is left.
    Forget {
        /// Which.
        lockspace: String,
    },
    /// Ask fenced to fence a node that is a member.
    Fence {
        /// Which.
        node: NodeId,
        /// The boot of it whose daemon failed, if it was a member.
        boot_id: Option<BootId>,
        /// Why, one line.
        reason: String,
    },
    /// Tell the operator.
    Notice(Notice),
}

/// Something worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The daemons agreed on a protocol.
    Agreed {
        /// Its version.
        version: u16,
    },
    /// The others follow a protocol that this daemon cannot; it must end.
    Refused {
        /// Theirs; none when there is none in common.
        version: Option<u16>,
    },
    /// A message was dropped.
    Dropped {
        /// Its group.
        group: String,
        /// Its sender.
        from: NodeId,
        /// Why.
        reason: String,
    },
    /// A request of the kernel makes no sense.
    Odd {
        /// Lockspace.
        lockspace: String,
        /// What it asked.
        what: &'static str,
    },
    /// The membership of a lockspace changes.
    Changing {
        /// Lockspace.
        lockspace: String,
        /// Number of the change.
        change: u64,
        /// Its members.
        members: Vec<NodeId>,
    },
    /// What a lockspace waits for is new.
    Waiting {
        /// Lockspace.
        lockspace: String,
        /// What for.
        wait: Wait,
    },
    /// A running lockspace could not be started again: this node must end.
    Stuck {
        /// Lockspace.
        lockspace: String,
        /// The kernel's errno, negative.
        result: i32,
    },
}
