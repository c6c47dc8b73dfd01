// SPDX-License-Identifier: GPL-2.0-only
//! Lockspace membership as a pure state machine: who is in which lockspace,
//! when the kernel stops one, and when it may start it again.
//!
//! [`Controld`] is fed with what cmand says (views, quorum, group views, group
//! messages, in the order of one connection), with what fenced says, with what
//! the kernel asks and has done, and with the time. It answers with
//! [`Effect`]s. No socket, clock or thread in here: the daemon and the
//! simulator run the same code.
//!
//! # One lockspace
//! Every lockspace has a group `dlm:ls:NAME`; its members are the nodes that
//! use it. Each group view is a *change*: every member stops its kernel at
//! once, waits until the conditions hold, and then says so by a START message
//! that carries the change's number. When the START of every member of the
//! newest change is in, each member starts its kernel with the same members.
//!
//! ```text
//!  kernel asks to join       own group view            all STARTs in
//! ──► Waiting ──► Joining ──────────────► Member ┌──────────────────► running
//!   (protocol)   (cmand)                    │    │ conditions, START     │
//!                                     stop  └────┴──◄── group view ──────┘
//!                    kernel asks to leave: Leaving ── own last view ──► gone
//! ```
//!
//! Conditions: the kernel has stopped; the view is quorate and not older than
//! the change; every member that failed since the last completed start is
//! fenced. A member that only just joined cannot know who failed before; when
//! *all* members are such, nobody who knows is left, and they wait until no
//! node at all is to be fenced.
//!
//! A daemon that fails with lockspaces in the kernel is witnessed by the other
//! daemons, who have its node fenced. When there was no other one, fenced on its
//! node does, and the next daemon there, which finds what is left. One that
//! joins the lockspace before that hears of it from the group's view (`lost`),
//! and waits for the fencing like those who saw it happen.
//!
//! # Rules the checkers test
//! 1. No kernel is started while this node is not quorate.
//! 2. No kernel is started while a node that may hold locks of that lockspace,
//!    and is not a member of the change, is neither fenced nor cleanly gone.
//! 3. All members start a change with the same members.
//! 4. When a kernel is started with a change, every member of that change has
//!    stopped its kernel since whatever it ran before.
//! 5. A join or leave request of the kernel is answered at most once, and a
//!    joining kernel is answered only after it was started.

mod controld;
mod effect;
mod fencing;
mod id;
mod lockspace;
mod own_group;
pub mod report;
pub mod wire;

pub use cmand_view::BootId;
pub use cmand_view::Departed;
pub use cmand_view::Departure;
pub use cmand_view::GroupView;
pub use cmand_view::Incarnation;
pub use cmand_view::Instant;
pub use cmand_view::Member;
pub use cmand_view::NodeId;
pub use cmand_view::View;
pub use controld::Config;
pub use controld::Controld;
pub use effect::Effect;
pub use effect::Notice;
pub use effect::Start;
pub use fencing::FenceState;
pub use id::global_id;
pub use own_group::OWN_GROUP;

/// Start of the name of each lockspace's group.
pub const GROUP_PREFIX: &str = "dlm:ls:";

/// The group of a lockspace.
#[must_use]
pub fn lockspace_group(lockspace: &str) -> String {
    format!("{GROUP_PREFIX}{lockspace}")
}
