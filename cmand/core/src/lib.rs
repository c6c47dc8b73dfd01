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
//! 7. Nothing unauthenticated, foreign, replayed or stale changes any state.

mod config;
mod core;
mod effect;
pub mod groups;
mod order;
mod peer;
pub mod seal;
pub mod wire;

pub use config::Config;
pub use config::NodeConfig;
pub use config::RememberedConfig;
pub use core::Core;
pub use core::PeerStatus;
pub use core::Standing;
pub use core::Status;
pub use effect::Departed;
pub use effect::Departure;
pub use effect::Effect;
pub use effect::GroupView;
pub use effect::Level;
pub use effect::RequestError;
pub use effect::Sink;
pub use effect::View;

/// A node of the configuration, 1 and up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One life of cmand on a node; never the same for two lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

impl std::fmt::Display for Incarnation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Identity of a boot, as the kernel gives it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(pub [u8; 16]);

impl std::fmt::Display for BootId {
    /// In the kernel's way of writing it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if [4, 6, 8, 10].contains(&index) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl BootId {
    /// Reads the kernel's way of writing it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
        let number = u128::from_str_radix(&digits, 16).ok()?;
        (digits.len() == 32).then(|| Self(number.to_be_bytes()))
    }
}

impl std::fmt::Debug for BootId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// Milliseconds on a clock that only moves forward.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub u64);

impl Instant {
    /// This much later.
    #[must_use]
    pub fn after(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }

    /// Milliseconds since an earlier instant; 0 if it is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A member of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Which node.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Which boot of the node.
    pub boot: BootId,
}

/// Which view: views of the same number with different tags are views of
/// different clusters, grown after a majority lost its memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ViewId {
    /// Larger in each following view.
    pub number: u64,
    /// Drawn at random by whoever proposed it.
    pub tag: u64,
}

/// Longest group name, bytes.
pub const GROUP_NAME_LIMIT: usize = 128;

/// Longest payload of one group message, bytes.
pub const PAYLOAD_LIMIT: usize = 32 * 1024;
