// SPDX-License-Identifier: GPL-2.0-only
//! The fence domain as a pure state machine: who must be fenced, who does it,
//! and when everybody may believe that it is done.
//!
//! [`Domain`] is fed with what cmand says (views, quorum, group views, group
//! messages, all in the order of one connection), with the results of agents,
//! and with the time. It answers with [`Effect`]s. No socket, clock or process
//! in here: the daemon and the simulator run the same code.
//!
//! # Rules the checkers test
//! 1. A member that a cluster view says has failed is a victim at every daemon
//!    that knows the domain's state, from that view on.
//! 2. A member that left cleanly is no victim.
//! 3. A victim ceases to be one only by a message that all members of the
//!    domain receive in the same order, or with them by a view in which it is
//!    back after a reboot.
//! 4. An agent is started only on the domain's master, only while the master
//!    can reach a majority, and never against the master itself. While any
//!    other victim is left and there is a majority, there is a master.
//! 5. A boot that was fenced and is heard all the same is a victim again, and the
//!    method after the one that lied comes first.
//! 6. No daemon claims a state ([`Domain::state`] with a view above 0) before
//!    it has the domain's state or has founded the domain.

pub mod domain;
pub mod snapshot;
pub mod victim;
pub mod wire;

pub use cmand_view::BootId;
pub use cmand_view::GroupView;
pub use cmand_view::Incarnation;
pub use cmand_view::Instant;
pub use cmand_view::Member;
pub use cmand_view::NodeId;
pub use cmand_view::View;
pub use domain::Config;
pub use domain::Domain;
pub use domain::Effect;
pub use domain::State;
pub use domain::Wait;
pub use victim::Success;
