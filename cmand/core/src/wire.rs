// SPDX-License-Identifier: GPL-2.0-only
//! What cores say to each other, inside sealed packets (see [`crate::seal`]).
//!
//! A body is a piece of a message; most messages are one piece:
//! ```text
//! offset size  field (little-endian)
//!      0    4  number of the message, per sender
//!      4    2  index of this piece, from 0
//!      6    2  count of pieces, 1 to 128
//!      8    n  the piece
//! ```
//! A message is a type byte and its fields; all integers little-endian:
//! ```text
//! view id  = number u64, tag u64          ballot = round u64, proposer u32
//! member   = node u32, incarnation u64, boot 16 bytes
//! option X = u8 0, or u8 1 and X          list X = count u16, then X each
//! bytes    = length u32, then the bytes   bool   = u8 0 or 1
//!
//!  1 Heartbeat  boot 16, config u64, time u64, echo (incarnation u64, time u64),
//!               view option view id, flags u8 (1 quorate, 2 receiver is a member,
//!               4 blocked, 8 joining, 16 stopped, 32 founds), round u64, heard list u32,
//!               received u64, stable u64
//!  2 Propose    ballot, base option view id, members list member
//!  3 Promise    ballot, base option view id, received u64, floor u64,
//!               pending option (ballot, value)
//!  4 Reject     ballot, promised ballot
//!  5 Accept     ballot, value
//!  6 Accepted   ballot
//!  7 Commit     view id
//!  8 Submit     view id, number u64, chunk
//!  9 Order      view id, entry, stable u64
//! 10 Ack        view id, received u64, highest u64
//! 11 Stable     view id, stable u64
//! 12 Fetch      view id, first u64, last u64
//! 13 Fill       view id, entry
//! 14 FetchView  view id
//! 15 Install    value
//! 16 Refuse     incarnation u64, text bytes
//! 17 File       expected_votes u32, detection_ms u64, list (node u32, votes u32)
//!
//! chunk = more bool, bytes
//! entry = sequence u64, sender u32, number u64, chunk
//! value = view id, base option view id, flush u64, quorate bool,
//!         list (member, joined bool), list (member, left bool), groups bytes
//! ```
//! Unknown types, trailing bytes and values over a limit, such as a number of a
//! view, round or message above 2^48, are malformed: the packet is dropped and
//! counted. The version of all this is the packet's.

mod codec;
mod decode;
mod encode;
mod pieces;
#[cfg(test)]
mod tests;

pub use codec::Malformed;
pub(crate) use codec::Reader;
pub(crate) use codec::Writer;
pub use pieces::Assembly;
pub use pieces::PIECE;
pub use pieces::pieces;

use crate::BootId;
use crate::Incarnation;
use crate::Member;
use crate::NodeId;
use crate::ViewId;

/// Most nodes in any list.
pub const NODE_LIMIT: usize = 64;

/// Longest chunk of a group operation; with its headers it fits one piece.
pub const CHUNK_LIMIT: usize = 1200;

/// Longest encoded group table.
pub const GROUPS_LIMIT: usize = 96 * 1024;

/// Largest number of a view, a round or a message of a view. A million a second take nine
/// years to get there; what says more is wrong, and nothing is counted on from it.
pub const NUMBER_LIMIT: u64 = 1 << 48;

/// How far beyond its own a node lets others move the number of a view or a round at once. No
/// cluster comes so far in a lifetime, and one with a member that makes numbers up survives
/// 65,536 such moves.
pub const NUMBER_JUMP: u64 = 1 << 32;

/// Longest text of a refusal.
pub const TEXT_LIMIT: usize = 512;

/// Orders attempts to decide on the next view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ballot {
    /// Larger wins.
    pub round: u64,
    /// Then the larger proposer wins.
    pub proposer: NodeIdOrNone,
}

/// A node id, or 0 before the first ballot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeIdOrNone(pub u32);

/// A decided or proposed view with all that a member needs to install it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Its identity.
    pub id: ViewId,
    /// The view it follows; none for the first of a cluster.
    pub base: Option<ViewId>,
    /// Messages of the base up to here are delivered before.
    pub flush: u64,
    /// Whether the members' votes reach quorum.
    pub quorate: bool,
    /// Members by ascending node, and whether they joined in it.
    pub members: Vec<(Member, bool)>,
    /// Members of the base that are not in it, and whether they left cleanly.
    pub departed: Vec<(Member, bool)>,
    /// The group table at the end of the base, encoded.
    pub groups: Vec<u8>,
}

impl Value {
    /// The member that is this node, in any life.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        let mut members = self.members.iter().map(|(member, _)| member);
        members.find(|member| member.node == node)
    }

    /// Whether exactly this life is a member.
    #[must_use]
    pub fn has(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.member(node)
            .is_some_and(|member| member.incarnation == incarnation)
    }
}

/// A piece of a group operation. A sender's chunks up to one without `more` are
/// one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Whether the operation goes on in the sender's next chunk.
    pub more: bool,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// A chunk with its place in the order of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Place in the view's order, from 1.
    pub sequence: u64,
    /// Who sent it.
    pub sender: NodeId,
    /// Which chunk of the sender in this view, from 1.
    pub number: u64,
    /// What was sent.
    pub chunk: Chunk,
}

/// A sign of life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// The sender's boot.
    pub boot: BootId,
    /// Digest of the sender's configuration.
    pub config: u64,
    /// The sender's clock.
    pub time: u64,
    /// The newest heartbeat the sender had from the receiver: proves that this
    /// packet was not made before.
    pub echo: (Incarnation, u64),
    /// The sender's view.
    pub view: Option<ViewId>,
    /// Whether the sender has the votes to act for the cluster, by its own file.
    pub quorate: bool,
    /// Whether it does not, because it met a node with another file that could, too.
    pub stopped: bool,
    /// Whether it may be of those that found the first view of a cluster.
    pub founds: bool,
    /// Whether the receiver's life is a member of the sender's view.
    pub member: bool,
    /// Whether the sender promised a successor of its view that it has not seen.
    pub blocked: bool,
    /// Whether the sender wants to be a member.
    pub joining: bool,
    /// Largest round the sender has seen.
    pub round: u64,
    /// Nodes the sender hears.
    pub heard: Vec<NodeId>,
    /// Messages of its view the sender has without a gap.
    pub received: u64,
    /// Messages of its view the sender knows everybody has.
    pub stable: u64,
}

impl Heartbeat {
    /// Whether this one gives no reason to think anew about views and quorum where the other one
    /// of the same life was taken into account.
    pub(crate) fn calls_for_the_same(&self, other: &Self) -> bool {
        let about_views = |beat: &Self| {
            (
                beat.boot,
                beat.config,
                beat.view,
                beat.quorate,
                beat.stopped,
                beat.founds,
                beat.member,
                beat.blocked,
                beat.joining,
            )
        };
        about_views(self) == about_views(other) && self.heard == other.heard
    }
}

/// What all nodes of a cluster must have the same in their files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSummary {
    /// Votes of the whole cluster.
    pub expected_votes: u32,
    /// A node silent for this long is suspected.
    pub detection_ms: u64,
    /// Nodes by ascending id, and their votes.
    pub nodes: Vec<(NodeId, u32)>,
}

/// What cores say to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// I am alive.
    Heartbeat(Heartbeat),
    /// Let us decide on the successor of a view.
    Propose {
        /// The attempt.
        ballot: Ballot,
        /// The view to follow.
        base: Option<ViewId>,
        /// Who would be in.
        members: Vec<Member>,
    },
    /// I take part in no earlier ballot any more, and send nothing more in the base.
    Promise {
        /// The attempt.
        ballot: Ballot,
        /// My view.
        base: Option<ViewId>,
        /// What I have of it without a gap.
        received: u64,
        /// Largest number of a view I accepted.
        floor: u64,
        /// What I accepted for the successor, and do not know to be decided.
        pending: Option<(Ballot, Value)>,
    },
    /// I have promised otherwise, or have another view.
    Reject {
        /// The attempt.
        ballot: Ballot,
        /// What I promised.
        promised: Ballot,
    },
    /// Accept this.
    Accept {
        /// The attempt.
        ballot: Ballot,
        /// The view.
        value: Value,
    },
    /// I accept.
    Accepted {
        /// The attempt.
        ballot: Ballot,
    },
    /// It is decided.
    Commit {
        /// The view.
        id: ViewId,
    },
    /// Order this.
    Submit {
        /// The view.
        view: ViewId,
        /// Which chunk of the sender in the view, from 1.
        number: u64,
        /// The chunk.
        chunk: Chunk,
    },
    /// This is its place.
    Order {
        /// The view.
        view: ViewId,
        /// The place and the chunk.
        entry: Entry,
        /// What everybody has.
        stable: u64,
    },
    /// I have this much.
    Ack {
        /// The view.
        view: ViewId,
        /// Without a gap.
        received: u64,
        /// At most.
        highest: u64,
    },
    /// Everybody has this much.
    Stable {
        /// The view.
        view: ViewId,
        /// Up to here.
        stable: u64,
    },
    /// Give me these entries of a view that ends.
    Fetch {
        /// The view.
        view: ViewId,
        /// From here.
        first: u64,
        /// To here.
        last: u64,
    },
    /// An entry of a view that ends.
    Fill {
        /// The view.
        view: ViewId,
        /// The entry.
        entry: Entry,
    },
    /// Tell me what this view is.
    FetchView {
        /// The view.
        id: ViewId,
    },
    /// This view is decided.
    Install {
        /// The view.
        value: Value,
    },
    /// This is in my file, which is not yours.
    File {
        /// What nodes must agree on.
        summary: FileSummary,
    },
    /// The cluster does not take you.
    Refuse {
        /// Which life is meant.
        incarnation: Incarnation,
        /// Why, and what would help.
        text: String,
    },
}

impl Message {
    /// Whether it may call for another view. The others carry messages of the present one;
    /// a heartbeat shows by itself.
    pub(crate) fn is_about_views(&self) -> bool {
        match self {
            Self::Propose { .. }
            | Self::Promise { .. }
            | Self::Reject { .. }
            | Self::Accept { .. }
            | Self::Accepted { .. }
            | Self::Commit { .. }
            | Self::FetchView { .. }
            | Self::Install { .. }
            | Self::File { .. }
            | Self::Refuse { .. } => true,
            Self::Heartbeat(_)
            | Self::Submit { .. }
            | Self::Order { .. }
            | Self::Ack { .. }
            | Self::Stable { .. }
            | Self::Fetch { .. }
            | Self::Fill { .. } => false,
        }
    }
}
