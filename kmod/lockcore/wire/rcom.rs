// SPDX-License-Identifier: GPL-2.0-only
//! Messages of recovery.
//!
//! | Field | Offset | Bytes | Meaning |
//! |---|---|---|---|
//! | header | 0 | 16 | command 2 |
//! | type | 16 | 4 | [`RcomKind`] |
//! | result | 20 | 4 | by type |
//! | id | 24 | 8 | the receiver echoes it |
//! | seq | 32 | 8 | recovery of the sender |
//! | seq reply | 40 | 8 | of a reply: seq of what it answers |
//! | payload | 48 | | by type |
//!
//! Payload of STATUS, 16 bytes: u32 flags (1: with slots), 12 bytes 0.
//!
//! Payload of STATUS_REPLY ([`Config`]), 32 bytes: u32 length of value blocks, u32 lockspace flags,
//! u32 0, u16 own slot, u16 number of slots, u32 generation, 12 bytes 0. Then slots ([`SlotOf`]) of
//! 16 bytes: u32 node, u16 slot, 10 bytes 0.
//!
//! Payload of LOCK and LOCK_REPLY ([`RcomLock`]), 108 bytes and a value block:
//!
//! | Field | Offset | Bytes |
//! |---|---|---|
//! | ownpid, lkid, remid | 0, 4, 8 | 4 each |
//! | parents | 12 | 8, 0 |
//! | exflags, flags, lvbseq, result | 20, 24, 28, 32 | 4 each |
//! | rqmode, grmode, status, asts | 36, 37, 38, 39 | 1 each, signed |
//! | wait type, name length | 40, 42 | 2 each |
//! | name | 44 | 64 |
//! | value block | 108 | |

use super::header::{Command, Header, HEADER_LEN};
use super::message::queue_from_raw;
use super::{bytes_at, put, u16_at, u32_at, u64_at};
use crate::lockcore::flags::{Asts, LockFlags, SharedFlags};
use crate::lockcore::lkb::Queue;
use crate::lockcore::members::NodeId;
use crate::lockcore::mode::Mode;
use crate::lockcore::name::{ResourceName, NAME_MAX};
use crate::platform::{KVec, Result, GFP};

/// Bytes of a recovery message without payload.
pub const RCOM_LEN: usize = 48;
/// Bytes of the payload of STATUS.
pub const STATUS_LEN: usize = 16;
/// Bytes of the payload of STATUS_REPLY without slots.
pub const CONFIG_LEN: usize = 32;
/// Bytes of one slot.
pub const SLOT_LEN: usize = 16;
/// Bytes of a lock without its value block.
pub const LOCK_LEN: usize = 44 + NAME_MAX;

const _: () = assert!(LOCK_LEN == 108 && RCOM_LEN == HEADER_LEN + 32);

/// Flag of STATUS: answer with slots.
const NEED_SLOTS: u32 = 1;
/// Result of STATUS_REPLY: no such lockspace here, or not yet.
pub const NOT_READY: u32 = -3_i32 as u32;

/// What a message of recovery says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RcomKind {
    /// How far are you?
    Status = 1,
    /// Which names do you master that I am the directory node of?
    Names = 2,
    /// Who is the new master?
    Lookup = 3,
    /// A lock for its new master.
    Lock = 4,
    /// Answer to [`RcomKind::Status`].
    StatusReply = 5,
    /// Answer to [`RcomKind::Names`].
    NamesReply = 6,
    /// Answer to [`RcomKind::Lookup`].
    LookupReply = 7,
    /// Answer to [`RcomKind::Lock`].
    LockReply = 8,
}

impl RcomKind {
    /// All of them.
    pub const ALL: [RcomKind; 8] = [
        RcomKind::Status,
        RcomKind::Names,
        RcomKind::Lookup,
        RcomKind::Lock,
        RcomKind::StatusReply,
        RcomKind::NamesReply,
        RcomKind::LookupReply,
        RcomKind::LockReply,
    ];

    fn from_raw(raw: u32) -> Option<Self> {
        Self::ALL
            .get(usize::try_from(raw.checked_sub(1)?).ok()?)
            .copied()
    }

    /// Whether it answers another one.
    pub const fn is_reply(self) -> bool {
        self as u32 >= RcomKind::StatusReply as u32
    }

    /// Whether it may come without envelope.
    pub const fn may_be_plain(self) -> bool {
        match self {
            RcomKind::Status | RcomKind::StatusReply | RcomKind::Names | RcomKind::NamesReply => {
                true
            }
            RcomKind::Lookup | RcomKind::LookupReply | RcomKind::Lock | RcomKind::LockReply => {
                false
            }
        }
    }
}

/// A message of recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rcom<'a> {
    /// What it says.
    pub kind: RcomKind,
    /// By kind.
    pub result: u32,
    /// The receiver echoes it.
    pub id: u64,
    /// Recovery of the sender.
    pub seq: u64,
    /// Of a reply: seq of what it answers.
    pub seq_reply: u64,
    /// By kind.
    pub payload: &'a [u8],
}

impl<'a> Rcom<'a> {
    /// The bytes in lockspace `lockspace`; fails only for want of memory. The payload is at most a
    /// packet's rest long.
    pub fn encode(&self, lockspace: u32, own: NodeId) -> Result<KVec<u8>> {
        let length = RCOM_LEN + self.payload.len();
        let mut head = [0; RCOM_LEN];
        put(
            &mut head,
            0,
            &Header::new(Command::Rcom, lockspace, own, length).encode(),
        );
        put(&mut head, 16, &(self.kind as u32).to_le_bytes());
        put(&mut head, 20, &self.result.to_le_bytes());
        put(&mut head, 24, &self.id.to_le_bytes());
        put(&mut head, 32, &self.seq.to_le_bytes());
        put(&mut head, 40, &self.seq_reply.to_le_bytes());
        let mut packet = KVec::with_capacity(length, GFP)?;
        packet.extend_from_slice(&head, GFP)?;
        packet.extend_from_slice(self.payload, GFP)?;
        Ok(packet)
    }

    /// The message in a packet without envelope.
    pub fn decode(packet: &'a [u8]) -> Option<Self> {
        Header::decode(packet).filter(|h| h.command == Command::Rcom)?;
        Some(Self {
            kind: RcomKind::from_raw(u32_at(packet, 16)?)?,
            result: u32_at(packet, 20)?,
            id: u64_at(packet, 24)?,
            seq: u64_at(packet, 32)?,
            seq_reply: u64_at(packet, 40)?,
            payload: packet.get(RCOM_LEN..)?,
        })
    }
}

/// Payload of STATUS, which asks for slots or not.
pub fn encode_status(asks_slots: bool) -> [u8; STATUS_LEN] {
    let flags = if asks_slots { NEED_SLOTS } else { 0 };
    let mut bytes = [0; STATUS_LEN];
    put(&mut bytes, 0, &flags.to_le_bytes());
    bytes
}

/// Whether a STATUS asks for slots; it does not if it has no payload.
pub fn decode_status(payload: &[u8]) -> bool {
    u32_at(payload, 0).unwrap_or(0) & NEED_SLOTS != 0
}

/// What the members of a lockspace must agree on, and what they tell about slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Length of value blocks.
    pub lvb_len: u32,
    /// Flags of the lockspace.
    pub flags: u32,
    /// Slot of the sender, 0 if it has none.
    pub own_slot: u16,
    /// How many slots follow.
    pub slots: u16,
    /// Of the sender's last recovery.
    pub generation: u32,
}

impl Config {
    /// What "not ready" is answered with.
    pub const NOT_READY: Config = Config {
        lvb_len: u32::MAX,
        flags: 0,
        own_slot: 0,
        slots: 0,
        generation: 0,
    };

    /// The bytes.
    pub fn encode(&self) -> [u8; CONFIG_LEN] {
        let mut bytes = [0; CONFIG_LEN];
        put(&mut bytes, 0, &self.lvb_len.to_le_bytes());
        put(&mut bytes, 4, &self.flags.to_le_bytes());
        put(&mut bytes, 12, &self.own_slot.to_le_bytes());
        put(&mut bytes, 14, &self.slots.to_le_bytes());
        put(&mut bytes, 16, &self.generation.to_le_bytes());
        bytes
    }

    /// From the payload of a STATUS_REPLY.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        payload.get(..CONFIG_LEN)?;
        Some(Self {
            lvb_len: u32_at(payload, 0)?,
            flags: u32_at(payload, 4)?,
            own_slot: u16_at(payload, 12)?,
            slots: u16_at(payload, 14)?,
            generation: u32_at(payload, 16)?,
        })
    }
}

/// The slot of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotOf {
    /// Who.
    pub node: NodeId,
    /// Its slot, from 1.
    pub slot: u16,
}

impl SlotOf {
    /// The bytes.
    pub fn encode(&self) -> [u8; SLOT_LEN] {
        let mut bytes = [0; SLOT_LEN];
        put(&mut bytes, 0, &self.node.0.to_le_bytes());
        put(&mut bytes, 4, &self.slot.to_le_bytes());
        bytes
    }

    /// The slots in the payload of a STATUS_REPLY: as many as it names, or `None` if there are
    /// fewer.
    pub fn decode_all(payload: &[u8]) -> Option<impl Iterator<Item = SlotOf> + '_> {
        let count = usize::from(Config::decode(payload)?.slots);
        let slots = payload
            .get(CONFIG_LEN..)?
            .get(..count.checked_mul(SLOT_LEN)?)?;
        Some(slots.chunks_exact(SLOT_LEN).filter_map(|slot| {
            Some(SlotOf {
                node: NodeId(u32_at(slot, 0)?),
                slot: u16_at(slot, 4)?,
            })
        }))
    }
}

/// A lock, for its new master or back from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RcomLock<'a> {
    /// Process that asked.
    pub ownpid: u32,
    /// Number at its owner.
    pub lkid: u32,
    /// Number at the new master.
    pub remid: u32,
    /// What was asked for.
    pub exflags: LockFlags,
    /// What both copies of a lock agree on.
    pub flags: SharedFlags,
    /// Sequence of the value block.
    pub lvbseq: u32,
    /// 0 or a negative errno.
    pub result: i32,
    /// Requested mode.
    pub rqmode: Option<Mode>,
    /// Granted mode.
    pub grmode: Option<Mode>,
    /// The queue it is in, never none.
    pub status: Queue,
    /// What the owner is to be told.
    pub asts: Asts,
    /// Number of the message it waits to be answered, 0 for none.
    pub wait_type: u16,
    /// The resource.
    pub name: ResourceName,
    /// Value block; empty if there is none.
    pub lvb: &'a [u8],
}

impl<'a> RcomLock<'a> {
    /// The bytes without the value block.
    pub fn encode(&self) -> [u8; LOCK_LEN] {
        let mut bytes = [0; LOCK_LEN];
        let name = self.name.as_bytes();
        let numbers = [
            (0, self.ownpid),
            (4, self.lkid),
            (8, self.remid),
            (20, self.exflags.raw()),
            (24, self.flags.raw().into()),
            (28, self.lvbseq),
            (32, self.result as u32),
        ];
        for (at, value) in numbers {
            put(&mut bytes, at, &value.to_le_bytes());
        }
        let rqmode = Mode::to_raw(self.rqmode) as u8;
        let grmode = Mode::to_raw(self.grmode) as u8;
        put(
            &mut bytes,
            36,
            &[rqmode, grmode, self.status as u8, self.asts.raw()],
        );
        put(&mut bytes, 40, &self.wait_type.to_le_bytes());
        put(&mut bytes, 42, &(name.len() as u16).to_le_bytes());
        put(&mut bytes, 44, name);
        bytes
    }

    /// From the payload of a LOCK or LOCK_REPLY: `None` if a mode, the queue or the length of the
    /// name is none, or if it has a parent.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let number = |at| u32_at(payload, at);
        let [rqmode, grmode, status, asts] = bytes_at(payload, 36)?;
        let length = usize::from(u16_at(payload, 42)?);
        let name: [u8; NAME_MAX] = bytes_at(payload, 44)?;
        if u64_at(payload, 12)? != 0 {
            return None;
        }
        Some(Self {
            ownpid: number(0)?,
            lkid: number(4)?,
            remid: number(8)?,
            exflags: LockFlags::from_raw(number(20)?),
            flags: SharedFlags::from_raw(number(24)?.to_le_bytes()[0]),
            lvbseq: number(28)?,
            result: number(32)? as i32,
            rqmode: mode_from_byte(rqmode)?,
            grmode: mode_from_byte(grmode)?,
            status: queue_from_raw(u32::from(status))?,
            asts: Asts::from_raw(asts),
            wait_type: u16_at(payload, 40)?,
            name: ResourceName::new(name.get(..length)?)?,
            lvb: payload.get(LOCK_LEN..)?,
        })
    }
}

/// A mode, or no mode, or neither.
fn mode_from_byte(byte: u8) -> Option<Option<Mode>> {
    let raw = i32::from(byte as i8);
    match Mode::from_raw(raw) {
        None if raw != Mode::to_raw(None) => None,
        mode => Some(mode),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock() -> RcomLock<'static> {
        RcomLock {
            ownpid: 1,
            lkid: 2,
            remid: 3,
            exflags: LockFlags::from_raw(4),
            flags: SharedFlags::from_raw(1),
            lvbseq: 5,
            result: -17,
            rqmode: Some(Mode::Ex),
            grmode: None,
            status: Queue::Wait,
            asts: Asts::from_raw(3),
            wait_type: 2,
            name: ResourceName::new(&[9; NAME_MAX]).unwrap(),
            lvb: b"12345678",
        }
    }

    #[test]
    fn a_lock_that_cannot_be_is_refused() {
        let good = [&lock().encode()[..], lock().lvb].concat();
        assert_eq!(RcomLock::decode(&good), Some(lock()));
        for (at, value) in [
            (12, 1),
            (19, 1),
            (36, 6),
            (37, 0xfe),
            (38, 0),
            (38, 4),
            (42, 65),
        ] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(RcomLock::decode(&bad), None, "{at}");
        }
        for length in 0..LOCK_LEN {
            assert_eq!(RcomLock::decode(&good[..length]), None);
        }
    }

    #[test]
    fn slots_that_are_missing_are_noticed() {
        let config = Config {
            slots: 2,
            ..Config::NOT_READY
        };
        let slot = |n: u16| SlotOf {
            node: NodeId(u32::from(n)),
            slot: n,
        };
        let mut payload = config.encode().to_vec();
        payload.extend_from_slice(&slot(1).encode());
        assert!(SlotOf::decode_all(&payload).is_none());
        payload.extend_from_slice(&slot(2).encode());
        let slots: Vec<SlotOf> = SlotOf::decode_all(&payload).unwrap().collect();
        assert_eq!(slots, [slot(1), slot(2)]);
    }
}
