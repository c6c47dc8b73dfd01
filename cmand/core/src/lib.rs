// SPDX-License-Identifier: GPL-2.0-only
//! Membership, heartbeat, quorum and ordered groups as a pure state machine.
//!
//! One [`Core`] is one life of one node. It is fed with datagrams
//! ([`Core::handle_datagram`]), time ([`Core::handle_timeout`], when
//! [`Core::next_timeout`] says) and requests of local clients
//! ([`Core::join_group`], [`Core::send`], [`Core::leave`], …). It answers by
//! pushing [`Effect`]s. It knows no socket, clock, thread or file; the daemon
//! and the simulator run the same code. The same inputs give the same effects.
//!
//! # How a view comes about
//! ```text
//!            hears a legal set         all promised        all accepted
//!   (idle) ------------------> PROPOSE ------------> ACCEPT -----------> COMMIT
//!  coordinator                    |        ^            |                  |
//!                                 v        | FILL       v                  v
//!   (member) <- installed -- promised -> flushed -> pending ----------> installed
//! ```
//! The decision "which view follows view V" is one instance of Paxos, its
//! ballots ordered by round and proposer. Its acceptors are the nodes of a
//! proposed view, whose votes are a majority of all: two decisions share a node,
//! and that node tells the later proposer what it has accepted (`pending`).
//! Before a view is accepted its members from the view before have the same
//! messages of that view (`FILL`). A member that sees anybody in the view it
//! holds as pending installs it.
//!
//! # Where a node stands
//! ```text
//!   Joining --(view with this life)--> Member --(own leave delivered)--> Left
//!      ^                                 |
//!      |                                 | others went on without it
//!      +---- new life, if no groups -----+----> Expelled
//! ```
//!
//! # Rules the checkers test
//! 1. Quorate views with the same number are the same. Every view has one
//!    predecessor and one successor; a node goes from a view only to its
//!    successor (or leaves). A view that is not quorate (see 2) may have the
//!    number of a view that others formed anew without it; its tag differs.
//! 2. Every view is legal: its members' votes reach quorum, or it is its
//!    predecessor without members that left cleanly.
//! 3. Members that go from view V to view W together delivered the same messages
//!    in V, in the same order; nobody delivers a message twice.
//! 4. A message is delivered only when every member of the view has received it.
//! 5. What a node sent before and after a view change is delivered if it stays a
//!    member, in the order it sent it.
//! 6. After faults end, all nodes that can hear each other are in one view.
//! 7. Who is told which boots were fenced hears of one that goes on, and of none
//!    that does not.
//! 8. No view is made with a node that one of its other members keeps out.
//! 9. Nothing unauthenticated, foreign, replayed or stale changes any state.

mod config;
mod core;
mod effect;
pub mod groups;
mod order;
mod peer;
pub mod seal;
pub mod wire;

pub use cmand_view::BootId;
pub use cmand_view::Departed;
pub use cmand_view::Departure;
pub use cmand_view::GROUP_NAME_LIMIT;
pub use cmand_view::GroupView;
pub use cmand_view::Incarnation;
pub use cmand_view::Instant;
pub use cmand_view::Member;
pub use cmand_view::NodeId;
pub use cmand_view::PAYLOAD_LIMIT;
pub use cmand_view::View;
pub use config::Config;
pub use config::NodeConfig;
pub use config::RememberedConfig;
pub use core::Core;
pub use core::PeerStatus;
pub use core::Standing;
pub use core::Status;
pub use effect::Effect;
pub use effect::Level;
pub use effect::RequestError;
pub use effect::Sink;

/// Which view: views of the same number with different tags are views of
/// different clusters, grown after a majority lost its memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ViewId {
    /// Larger in each following view.
    pub number: u64,
    /// Drawn at random by whoever proposed it.
    pub tag: u64,
}
