// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note
//! Numbers of the control family, as `dlm.yaml` describes it: a test compares the two.
//!
//! Netlink counts commands and attributes from 1 in the order of the description; new ones go to
//! the end. How attributes are laid out in a message is in [`attributes`].

pub mod attributes;

use core::fmt;

/// Name of the family.
pub const FAMILY: &str = "dlm";
/// Version in the generic netlink header; the family does not look at it.
pub const HEADER_VERSION: u8 = 1;
/// Version of the family; the attribute `abi-version` carries it.
pub const ABI_VERSION: u32 = 1;
/// The multicast group that notifications go to.
pub const GROUP: &str = "events";

/// Longest cluster name, bytes.
pub const CLUSTER_NAME_MAX: usize = 64;
/// Longest lockspace name, bytes.
pub const LS_NAME_MAX: usize = 64;
/// Longest address, bytes.
pub const ADDRESS_MAX: usize = 16;

/// Declares an enum of numbers, the way back from a number, and its names in the description.
macro_rules! numbers {
    (
        $(#[$doc:meta])*
        pub enum $name:ident: $int:ty {
            $($(#[$variant_doc:meta])* $variant:ident = $value:literal $text:literal,)+
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr($int)]
        pub enum $name {
            $($(#[$variant_doc])* $variant = $value,)+
        }

        impl $name {
            /// All, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The one with this number.
            pub fn from_raw(raw: $int) -> Option<Self> {
                match raw {
                    $($value => Some(Self::$variant),)+
                    _unknown => None,
                }
            }

            /// Its number.
            pub const fn raw(self) -> $int {
                self as $int
            }

            /// Its name in the description.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl From<$name> for $int {
            fn from(it: $name) -> Self {
                it.raw()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

numbers! {
    /// A request, a reply to it, or a notification.
    pub enum Command: u8 {
        /// Binds a role to the socket.
        Claim = 1 "claim",
        /// Names the cluster and this node.
        ClusterSet = 2 "cluster-set",
        /// A peer as the view has it.
        NodeSet = 3 "node-set",
        /// Forgets a peer.
        NodeDel = 4 "node-del",
        /// Whether the view is quorate.
        QuorumSet = 5 "quorum-set",
        /// Stops a lockspace.
        LsStop = 6 "ls-stop",
        /// Starts recovery.
        LsStart = 7 "ls-start",
        /// Answers a join or a leave.
        LsAnswer = 8 "ls-answer",
        /// One lockspace or all.
        LsGet = 9 "ls-get",
        /// One node or all.
        NodeGet = 10 "node-get",
        /// The module as a whole.
        StatusGet = 11 "status-get",
        /// Somebody creates a lockspace.
        LsJoinNtf = 12 "ls-join-ntf",
        /// The last user releases a lockspace.
        LsLeaveNtf = 13 "ls-leave-ntf",
        /// A recovery ended.
        LsRecoveredNtf = 14 "ls-recovered-ntf",
        /// Something odd about a peer.
        PeerNtf = 15 "peer-ntf",
    }
}

numbers! {
    /// An attribute of a message.
    pub enum Attr: u16 {
        /// [`Role`].
        Role = 1 "role",
        /// Bytes without a zero byte.
        ClusterName = 2 "cluster-name",
        /// Not 0.
        NodeId = 3 "node-id",
        /// One life of a node.
        Incarnation = 4 "incarnation",
        /// 4 or 16 bytes in network order.
        Address = 5 "address",
        /// 0 or 1.
        Up = 6 "up",
        /// 0 or 1.
        Quorate = 7 "quorate",
        /// Name of a lockspace.
        LsName = 8 "ls-name",
        /// Wire id of a lockspace; not 0.
        LsId = 9 "ls-id",
        /// A nest of [`MemberAttr`].
        Member = 10 "member",
        /// Id of a member that failed.
        Failed = 11 "failed",
        /// 0 or a negative errno.
        Result = 12 "result",
        /// Flags of a lockspace.
        LsFlags = 13 "ls-flags",
        /// [`LsState`].
        LsState = 14 "ls-state",
        /// 0 or 1.
        ReleaseRecover = 15 "release-recover",
        /// Generation of the members.
        Generation = 16 "generation",
        /// Sequence number of the recovery.
        RecoverSeq = 17 "recover-seq",
        /// Bits of the barriers.
        RecoverStatus = 18 "recover-status",
        /// Node waited for, or -1.
        RecoverNodeid = 19 "recover-nodeid",
        /// Milliseconds.
        RecoverMs = 20 "recover-ms",
        /// Locks of a lockspace.
        Locks = 21 "locks",
        /// Resources of a lockspace.
        Resources = 22 "resources",
        /// [`PeerState`].
        PeerState = 23 "peer-state",
        /// [`Suspicion`].
        Suspicion = 24 "suspicion",
        /// Packets sent.
        Sent = 25 "sent",
        /// Packets received and accepted.
        Received = 26 "received",
        /// Packets sent again.
        Resent = 27 "resent",
        /// Packets refused.
        Dropped = 28 "dropped",
        /// Packets not acknowledged yet.
        Unacked = 29 "unacked",
        /// Fills up to a multiple of 8.
        Pad = 30 "pad",
        /// A nest of [`MemberAttr`] with a slot.
        Slot = 31 "slot",
        /// 1: this node itself.
        Local = 32 "local",
        /// [`ABI_VERSION`].
        AbiVersion = 33 "abi-version",
    }
}

numbers! {
    /// An attribute inside [`Attr::Member`] or [`Attr::Slot`].
    pub enum MemberAttr: u16 {
        /// Not 0.
        NodeId = 1 "node-id",
        /// Shares of the directory.
        Weight = 2 "weight",
        /// Number of the slot.
        Slot = 3 "slot",
    }
}

numbers! {
    /// What a socket may do.
    pub enum Role: u32 {
        /// Nothing but ask.
        None = 0 "none",
        /// Say who the nodes are.
        Membership = 1 "membership",
        /// Steer lockspaces.
        Lockspaces = 2 "lockspaces",
    }
}

numbers! {
    /// State of a lockspace.
    pub enum LsState: u32 {
        /// Before the first start.
        New = 0 "new",
        /// Operations wait.
        Stopped = 1 "stopped",
        /// Recovery is on its way.
        Recovering = 2 "recovering",
        /// Operations go on.
        Running = 3 "running",
        /// The last user has released it.
        Leaving = 4 "leaving",
        /// Recovery failed.
        Failed = 5 "failed",
    }
}

numbers! {
    /// State of the connection to a peer, as debugfs shows it.
    pub enum PeerState: u32 {
        /// Nothing between the two.
        Closed = 1 "closed",
        /// Packets flow.
        Established = 2 "established",
        /// We said that we leave.
        FinWait1 = 3 "fin-wait1",
        /// The peer knows that we leave.
        FinWait2 = 4 "fin-wait2",
        /// The peer said that it leaves.
        CloseWait = 5 "close-wait",
        /// Both said so, the peer first.
        LastAck = 6 "last-ack",
        /// Both said so at once.
        Closing = 7 "closing",
    }
}

numbers! {
    /// Why the module doubts a peer.
    pub enum Suspicion: u32 {
        /// It does not.
        None = 0 "none",
        /// The connection broke.
        Reset = 1 "reset",
        /// What is to be sent does not get out.
        SendStuck = 2 "send-stuck",
        /// No connection can be made.
        ConnectFailed = 3 "connect-failed",
    }
}

/// What may stand in an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One byte.
    U8,
    /// Four bytes.
    U32,
    /// Eight bytes.
    U64,
    /// Four bytes with a sign.
    S32,
    /// Text that ends with a zero byte, of at most so many bytes before it.
    Text(u16),
    /// At most so many bytes.
    Bytes(u16),
    /// [`MemberAttr`]s.
    Member,
    /// Nothing that is looked at.
    Pad,
}

/// What may stand in an attribute, and whether 0 is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What it is.
    pub kind: Kind,
    /// 0 is refused.
    pub nonzero: bool,
}

const fn policy(kind: Kind) -> Policy {
    Policy {
        kind,
        nonzero: false,
    }
}

impl Attr {
    /// What the attribute may be.
    pub const fn policy(self) -> Policy {
        match self {
            Self::Role
            | Self::LsId
            | Self::Failed
            | Self::LsFlags
            | Self::LsState
            | Self::Generation
            | Self::RecoverStatus
            | Self::RecoverMs
            | Self::PeerState
            | Self::Suspicion
            | Self::AbiVersion => policy(Kind::U32),
            Self::NodeId => Policy {
                kind: Kind::U32,
                nonzero: true,
            },
            Self::Incarnation
            | Self::RecoverSeq
            | Self::Locks
            | Self::Resources
            | Self::Sent
            | Self::Received
            | Self::Resent
            | Self::Dropped
            | Self::Unacked => policy(Kind::U64),
            Self::Up | Self::Quorate | Self::ReleaseRecover | Self::Local => policy(Kind::U8),
            Self::Result | Self::RecoverNodeid => policy(Kind::S32),
            Self::ClusterName => policy(Kind::Text(CLUSTER_NAME_MAX as u16)),
            Self::LsName => policy(Kind::Text(LS_NAME_MAX as u16)),
            Self::Address => policy(Kind::Bytes(ADDRESS_MAX as u16)),
            Self::Member | Self::Slot => policy(Kind::Member),
            Self::Pad => policy(Kind::Pad),
        }
    }
}

impl MemberAttr {
    /// What the attribute may be.
    pub const fn policy(self) -> Policy {
        match self {
            Self::NodeId => Policy {
                kind: Kind::U32,
                nonzero: true,
            },
            Self::Weight | Self::Slot => policy(Kind::U32),
        }
    }
}

impl Command {
    /// Whether the request changes something, and so needs CAP_NET_ADMIN.
    pub const fn is_write(self) -> bool {
        match self {
            Self::Claim
            | Self::ClusterSet
            | Self::NodeSet
            | Self::NodeDel
            | Self::QuorumSet
            | Self::LsStop
            | Self::LsStart
            | Self::LsAnswer => true,
            Self::LsGet
            | Self::NodeGet
            | Self::StatusGet
            | Self::LsJoinNtf
            | Self::LsLeaveNtf
            | Self::LsRecoveredNtf
            | Self::PeerNtf => false,
        }
    }

    /// Whether all entries can be asked for at once.
    pub const fn has_dump(self) -> bool {
        matches!(self, Self::LsGet | Self::NodeGet)
    }

    /// Whether it is sent by the module only.
    pub const fn is_notification(self) -> bool {
        matches!(
            self,
            Self::LsJoinNtf | Self::LsLeaveNtf | Self::LsRecoveredNtf | Self::PeerNtf
        )
    }
}
