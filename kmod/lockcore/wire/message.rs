// SPDX-License-Identifier: GPL-2.0-only
//! Messages about locks.
//!
//! | Field | Offset | Meaning |
//! |---|---|---|
//! | header | 0 | command 1 |
//! | type | 16 | [`MessageKind`] |
//! | nodeid | 20 | the lock's other node; LOOKUP_REPLY: the master, or -1; PURGE: whose orphans |
//! | pid | 24 | who asked |
//! | lkid | 28 | the lock's number at the sender; LOOKUP_REPLY: at the receiver |
//! | remid | 32 | the lock's number at the receiver |
//! | parents | 36 | twice 4 bytes, 0 |
//! | exflags | 44 | flags of the request |
//! | sbflags | 48 | flags of the status block |
//! | flags | 52 | flags that both copies of a lock agree on |
//! | lvbseq | 56 | sequence of the value block |
//! | hash | 60 | of the name |
//! | status | 64 | queue, as the sender sees it |
//! | grmode, rqmode, bastmode | 68, 72, 76 | modes, -1 for none |
//! | asts | 80 | which callbacks there are |
//! | result | 84 | 0 or a negative number |
//! | extra | 88 | the rest of the packet: a name or a value block |

use super::header::{Command, Header, HEADER_LEN};
use super::{put, u32_at};
use crate::lockcore::flags::{Asts, LockFlags, SharedFlags, StatusFlags};
use crate::lockcore::hash::name_hash;
use crate::lockcore::lkb::Queue;
use crate::lockcore::members::NodeId;
use crate::lockcore::mode::Mode;
use crate::lockcore::name::ResourceName;

/// Bytes of a message without what is extra.
pub const MESSAGE_LEN: usize = 88;

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MessageKind {
    /// A new lock, to who is believed to be master.
    Request = 1,
    /// Another mode; down, there is no reply.
    Convert = 2,
    /// The lock is given up.
    Unlock = 3,
    /// What waits is taken back.
    Cancel = 4,
    /// Answer to [`MessageKind::Request`], sometimes to [`MessageKind::Lookup`].
    RequestReply = 5,
    /// Answer to [`MessageKind::Convert`].
    ConvertReply = 6,
    /// Answer to [`MessageKind::Unlock`].
    UnlockReply = 7,
    /// Answer to [`MessageKind::Cancel`].
    CancelReply = 8,
    /// What waited is granted.
    Grant = 9,
    /// The lock is in somebody's way.
    Bast = 10,
    /// Who is the master? To the directory node, with all of a request.
    Lookup = 11,
    /// The master has forgotten the resource: to the directory node.
    Remove = 12,
    /// Answer to [`MessageKind::Lookup`].
    LookupReply = 13,
    /// Orphans are to be dropped.
    Purge = 14,
}

impl MessageKind {
    /// All of them.
    pub const ALL: [MessageKind; 14] = [
        MessageKind::Request,
        MessageKind::Convert,
        MessageKind::Unlock,
        MessageKind::Cancel,
        MessageKind::RequestReply,
        MessageKind::ConvertReply,
        MessageKind::UnlockReply,
        MessageKind::CancelReply,
        MessageKind::Grant,
        MessageKind::Bast,
        MessageKind::Lookup,
        MessageKind::Remove,
        MessageKind::LookupReply,
        MessageKind::Purge,
    ];

    fn from_raw(raw: u32) -> Option<Self> {
        Self::ALL
            .get(usize::try_from(raw.checked_sub(1)?).ok()?)
            .copied()
    }
}

/// A message about a lock. What a kind of message does not use is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// What it says.
    pub kind: MessageKind,
    /// See the table above.
    pub nodeid: i32,
    /// Who asked.
    pub pid: u32,
    /// The lock's number at the sender.
    pub lkid: u32,
    /// The lock's number at the receiver.
    pub remid: u32,
    /// What was asked for.
    pub exflags: LockFlags,
    /// What there is to say of the operation.
    pub sbflags: StatusFlags,
    /// What both copies of a lock agree on.
    pub flags: SharedFlags,
    /// Sequence of the value block.
    pub lvbseq: u32,
    /// Hash of the name.
    pub hash: u32,
    /// Queue, as the sender sees it.
    pub status: Queue,
    /// Granted mode.
    pub grmode: Option<Mode>,
    /// Requested mode.
    pub rqmode: Option<Mode>,
    /// Mode that is blocked.
    pub bastmode: Option<Mode>,
    /// What the owner is to be told.
    pub asts: Asts,
    /// 0 or a negative number.
    pub result: i32,
    /// A name or a value block.
    pub extra: &'a [u8],
}

/// Which shard a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// That of the name with this hash.
    Name(u32),
    /// That of the lock with this number.
    Lock(u32),
    /// Every one.
    All,
}

/// A message ready to be sent.
#[derive(Clone, Copy, Debug)]
pub struct MessagePacket<'a> {
    head: [u8; MESSAGE_LEN],
    extra: &'a [u8],
}

impl<'a> MessagePacket<'a> {
    /// The bytes, in two parts.
    pub fn parts(&self) -> [&[u8]; 2] {
        [&self.head, self.extra]
    }
}

impl<'a> Message<'a> {
    /// A message in which all but its kind is 0.
    pub const fn new(kind: MessageKind) -> Self {
        Self {
            kind,
            nodeid: 0,
            pid: 0,
            lkid: 0,
            remid: 0,
            exflags: LockFlags::NONE,
            sbflags: StatusFlags::NONE,
            flags: SharedFlags::NONE,
            lvbseq: 0,
            hash: 0,
            status: Queue::None,
            grmode: Some(Mode::Nl),
            rqmode: Some(Mode::Nl),
            bastmode: Some(Mode::Nl),
            asts: Asts::NONE,
            result: 0,
            extra: &[],
        }
    }

    /// The bytes of the message in lockspace `lockspace`. `extra` is at most a packet's rest long.
    pub fn encode(&self, lockspace: u32, own: NodeId) -> MessagePacket<'a> {
        let mut head = [0; MESSAGE_LEN];
        let length = MESSAGE_LEN + self.extra.len();
        let header = Header::new(Command::Message, lockspace, own, length);
        put(&mut head, 0, &header.encode());
        let numbers = [
            (16, self.kind as u32),
            (20, self.nodeid as u32),
            (24, self.pid),
            (28, self.lkid),
            (32, self.remid),
            (44, self.exflags.raw()),
            (48, self.sbflags.raw().into()),
            (52, self.flags.raw().into()),
            (56, self.lvbseq),
            (60, self.hash),
            (64, self.status as u32),
            (68, Mode::to_raw(self.grmode) as u32),
            (72, Mode::to_raw(self.rqmode) as u32),
            (76, Mode::to_raw(self.bastmode) as u32),
            (80, self.asts.raw().into()),
            (84, self.result as u32),
        ];
        for (at, value) in numbers {
            put(&mut head, at, &value.to_le_bytes());
        }
        MessagePacket {
            head,
            extra: self.extra,
        }
    }

    /// The message in a packet without envelope. What is no mode or no queue reads as none.
    pub fn decode(packet: &'a [u8]) -> Option<Self> {
        Header::decode(packet).filter(|h| h.command == Command::Message)?;
        let number = |at| u32_at(packet, at);
        // Those above it are never set.
        let low_byte = |at| Some(u32_at(packet, at)?.to_le_bytes()[0]);
        let mode = |at| Some(Mode::from_raw(u32_at(packet, at)? as i32));
        Some(Self {
            kind: MessageKind::from_raw(number(HEADER_LEN)?)?,
            nodeid: number(20)? as i32,
            pid: number(24)?,
            lkid: number(28)?,
            remid: number(32)?,
            exflags: LockFlags::from_raw(number(44)?),
            sbflags: StatusFlags::from_raw(low_byte(48)?),
            flags: SharedFlags::from_raw(low_byte(52)?),
            lvbseq: number(56)?,
            hash: number(60)?,
            status: queue_from_raw(number(64)?).unwrap_or(Queue::None),
            grmode: mode(68)?,
            rqmode: mode(72)?,
            bastmode: mode(76)?,
            asts: Asts::from_raw(low_byte(80)?),
            result: number(84)? as i32,
            extra: packet.get(MESSAGE_LEN..)?,
        })
    }

    /// The name it carries, if it carries one.
    pub fn name(&self) -> Option<ResourceName> {
        match self.kind {
            MessageKind::Request | MessageKind::Lookup | MessageKind::Remove => {
                ResourceName::new(self.extra)
            }
            MessageKind::Convert
            | MessageKind::Unlock
            | MessageKind::Cancel
            | MessageKind::RequestReply
            | MessageKind::ConvertReply
            | MessageKind::UnlockReply
            | MessageKind::CancelReply
            | MessageKind::Grant
            | MessageKind::Bast
            | MessageKind::LookupReply
            | MessageKind::Purge => None,
        }
    }

    /// Which shard it is for.
    pub fn route(&self) -> Route {
        match self.kind {
            MessageKind::Request | MessageKind::Lookup | MessageKind::Remove => {
                Route::Name(name_hash(self.extra))
            }
            MessageKind::LookupReply => Route::Lock(self.lkid),
            MessageKind::Purge => Route::All,
            MessageKind::Convert
            | MessageKind::Unlock
            | MessageKind::Cancel
            | MessageKind::RequestReply
            | MessageKind::ConvertReply
            | MessageKind::UnlockReply
            | MessageKind::CancelReply
            | MessageKind::Grant
            | MessageKind::Bast => Route::Lock(self.remid),
        }
    }
}

/// A queue by its number in messages.
pub(super) fn queue_from_raw(raw: u32) -> Option<Queue> {
    match raw {
        1 => Some(Queue::Wait),
        2 => Some(Queue::Grant),
        3 => Some(Queue::Convert),
        _none => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_go_to_the_shard_of_their_name_or_lock() {
        for kind in MessageKind::ALL {
            let message = Message {
                lkid: 5,
                remid: 6,
                hash: 7,
                extra: b"foo",
                ..Message::new(kind)
            };
            let raw = kind as u32;
            let expected = match raw {
                1 | 11 | 12 => Route::Name(0xe18f_6896),
                13 => Route::Lock(5),
                14 => Route::All,
                _ => Route::Lock(6),
            };
            assert_eq!(message.route(), expected, "{kind:?}");
            assert_eq!(message.name().is_some(), matches!(raw, 1 | 11 | 12));
            assert_eq!(MessageKind::from_raw(raw), Some(kind));
        }
        assert_eq!(MessageKind::from_raw(0), None);
        assert_eq!(MessageKind::from_raw(15), None);
    }
}
