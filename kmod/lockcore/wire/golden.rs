// SPDX-License-Identifier: GPL-2.0-only
//! Known bytes of every packet there is, and what becomes of arbitrary ones.
//!
//! The bytes were put together from the published tables of the protocol by a program that shares
//! nothing with the encoders.

use super::header::{ack, fin, packet_length, Command, Header, Version};
use super::message::{Message, MessageKind};
use super::names::Reader;
use super::rcom::{
    decode_status, encode_status, Config, Rcom, RcomKind, RcomLock, SlotOf, CONFIG_LEN, LOCK_LEN,
};
use super::{options, INNER_MAX, PACKET_MAX};
use crate::lockcore::flags::*;
use crate::lockcore::lkb::Queue;
use crate::lockcore::members::NodeId;
use crate::lockcore::mode::Mode;
use crate::lockcore::name::ResourceName;

const LOCKSPACE: u32 = 0xabcd_ef01;
const NODE: NodeId = NodeId(7);

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .bytes()
        .map(|c| (c as char).to_digit(16).unwrap() as u8)
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

fn message(kind: MessageKind, extra: &[u8]) -> Message<'_> {
    let n = kind as u32;
    let queues = [Queue::None, Queue::Wait, Queue::Grant, Queue::Convert];
    Message {
        kind,
        nodeid: if kind == MessageKind::LookupReply {
            -1
        } else {
            0x102
        },
        pid: 0x203,
        lkid: 0x1_0304,
        remid: 0x2_0405,
        exflags: LockFlags::from_raw(8 | n),
        sbflags: SBF_VALNOTVALID,
        flags: SHARED_USER,
        lvbseq: 0xffff_fff0 + n,
        hash: 0xe18f_6896,
        status: queues[n as usize % 4],
        grmode: if n % 2 == 1 { None } else { Some(Mode::Pr) },
        rqmode: Mode::from_raw(n as i32 % 6),
        bastmode: Mode::from_raw((n as i32 + 1) % 6),
        asts: AST_COMPLETION | AST_BLOCKING,
        result: -11 * n as i32,
        extra,
    }
}

#[test]
fn every_lock_message() {
    let lvb: Vec<u8> = (1..=32).collect();
    for (kind, golden) in MessageKind::ALL.into_iter().zip(MESSAGES) {
        let extra: &[u8] = match kind as u32 {
            1 | 11 | 12 => b"foo",
            2 | 3 | 5 | 6 | 9 => &lvb,
            _ => b"",
        };
        let golden = bytes(golden);
        let message = message(kind, extra);
        let packet = message.encode(LOCKSPACE, NODE).parts().concat();
        assert_eq!(packet, golden, "{kind:?}");
        assert_eq!(Message::decode(&golden), Some(message));
        let header = Header::decode(&golden).unwrap();
        assert_eq!((header.lockspace, header.node), (LOCKSPACE, NODE));
        assert_eq!(Rcom::decode(&golden), None, "not a recovery message");
    }
}

fn rcom_lock(lvb: &[u8]) -> RcomLock<'_> {
    RcomLock {
        ownpid: 0x11,
        lkid: 0x22,
        remid: 0x33,
        exflags: CONVERT | CONVDEADLK,
        flags: SHARED_USER,
        lvbseq: 0x55,
        result: -17,
        rqmode: Some(Mode::Ex),
        grmode: None,
        status: Queue::Wait,
        asts: AST_COMPLETION | AST_BLOCKING,
        wait_type: 2,
        name: ResourceName::new(b"foo").unwrap(),
        lvb,
    }
}

fn payload(kind: RcomKind) -> Vec<u8> {
    let slot = |node, slot| SlotOf {
        node: NodeId(node),
        slot,
    };
    match kind {
        RcomKind::Status => encode_status(true).to_vec(),
        RcomKind::Names => b"last".to_vec(),
        RcomKind::Lookup => b"foo".to_vec(),
        RcomKind::Lock => [&rcom_lock(&[]).encode()[..], &[0, 1, 2, 3, 4, 5, 6, 7]].concat(),
        RcomKind::StatusReply => {
            let config = Config {
                lvb_len: 32,
                flags: 0x10,
                own_slot: 2,
                slots: 2,
                generation: 9,
            };
            [
                &config.encode()[..],
                &slot(7, 1).encode(),
                &slot(9, 2).encode(),
            ]
            .concat()
        }
        RcomKind::NamesReply => b"\x00\x03foo\x00\x01x\xff\xff".to_vec(),
        RcomKind::LookupReply => Vec::new(),
        RcomKind::LockReply => rcom_lock(&[]).encode().to_vec(),
    }
}

#[test]
fn every_recovery_message() {
    for (kind, golden) in RcomKind::ALL.into_iter().zip(RCOMS) {
        let n = kind as u32;
        let payload = payload(kind);
        let rcom = Rcom {
            kind,
            result: 0x80 + n,
            id: 0x1122_3344_5566_7700 + u64::from(n),
            seq: 0xa1a2_a3a4_a5a6_a700 + u64::from(n),
            seq_reply: if kind.is_reply() {
                0x5152_5354_5556_5700 + u64::from(n)
            } else {
                0
            },
            payload: &payload,
        };
        let golden = bytes(golden);
        assert_eq!(
            &rcom.encode(LOCKSPACE, NODE).unwrap()[..],
            golden,
            "{kind:?}"
        );
        assert_eq!(Rcom::decode(&golden), Some(rcom));
    }
}

#[test]
fn payloads_of_recovery_messages() {
    let golden: Vec<Vec<u8>> = RCOMS.into_iter().map(bytes).collect();
    let payload = |kind: RcomKind| Rcom::decode(&golden[kind as usize - 1]).unwrap().payload;
    assert!(decode_status(payload(RcomKind::Status)));
    let lock = payload(RcomKind::Lock);
    assert_eq!(RcomLock::decode(lock), Some(rcom_lock(&lock[LOCK_LEN..])));
    assert_eq!(lock.len(), LOCK_LEN + 8);
    let status = payload(RcomKind::StatusReply);
    let config = Config::decode(status).unwrap();
    assert_eq!(
        (config.lvb_len, config.flags, config.own_slot),
        (32, 0x10, 2)
    );
    assert_eq!((config.slots, config.generation), (2, 9));
    let slots: Vec<(u32, u16)> = SlotOf::decode_all(status)
        .unwrap()
        .map(|s| (s.node.0, s.slot))
        .collect();
    assert_eq!(slots, [(7, 1), (9, 2)]);
    let names = Reader::new(payload(RcomKind::NamesReply));
    let names: Vec<Vec<u8>> = names.map(|name| name.as_bytes().to_vec()).collect();
    assert_eq!(names, [b"foo".to_vec(), b"x".to_vec()]);
}

#[test]
fn envelope_acknowledgement_and_end() {
    let golden = bytes("02000300040302010700000010000400");
    assert_eq!(ack(NODE, 0x0102_0304)[..], golden);
    assert_eq!(Header::decode(&golden).unwrap().command, Command::Ack);
    let golden = bytes(
        "02000300feffffff070000002800030005000000000000000200030000000000070000001000\
         0500",
    );
    let fin = fin(NODE);
    let envelope = options::encode(NODE, 0xffff_fffe, Command::Fin, fin.len());
    assert_eq!([&envelope[..], &fin].concat(), golden);
    let open = options::decode(&golden).unwrap();
    assert_eq!((open.seq, open.inner), (0xffff_fffe, &fin[..]));
    assert_eq!(open.header.version, Version::V3_2);
}

/// xorshift64.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }
}

/// Reads it as everything it could be.
fn read(packet: &[u8]) -> usize {
    let mut read = usize::from(matches!(packet_length(packet), Some(Ok(_))));
    read += usize::from(Header::decode(packet).is_some());
    if let Some(envelope) = options::decode(packet) {
        read += read_inner(envelope.inner);
    }
    read + read_inner(packet)
}

fn read_inner(packet: &[u8]) -> usize {
    let mut read = 0;
    if let Some(message) = Message::decode(packet) {
        let _route = message.route();
        read += usize::from(message.name().is_some());
        assert!(message.extra.len() <= INNER_MAX);
    }
    if let Some(rcom) = Rcom::decode(packet) {
        read += usize::from(Config::decode(rcom.payload).is_some());
        read += SlotOf::decode_all(rcom.payload).map_or(0, |slots| slots.count());
        read += usize::from(RcomLock::decode(rcom.payload).is_some());
        read += Reader::new(rcom.payload).count();
        read += decode_status(rcom.payload) as usize & 1;
    }
    read
}

/// All known packets, bare and in envelopes.
fn all() -> Vec<Vec<u8>> {
    let bare = MESSAGES.into_iter().chain(RCOMS).map(bytes);
    bare.flat_map(|packet| {
        let command = Header::decode(&packet).unwrap().command;
        let envelope = options::encode(NODE, 5, command, packet.len());
        [[&envelope[..], &packet].concat(), packet]
    })
    .collect()
}

#[test]
fn every_length_of_every_packet_is_survived() {
    for packet in all() {
        assert!(read(&packet) > 0);
        for length in 0..packet.len() {
            let cut = &packet[..length];
            assert_eq!(Header::decode(cut), None, "a packet must be whole");
            // The same with a length that fits.
            let mut says = cut.to_vec();
            if length >= 14 {
                says[12..14].copy_from_slice(&(length as u16).to_le_bytes());
            }
            read(&says);
            if (24..length).contains(&38) {
                says[36..38].copy_from_slice(&((length - 24) as u16).to_le_bytes());
                read(&says);
            }
        }
    }
}

#[test]
fn arbitrary_bytes_are_survived() {
    let mut noise = Noise(0x5eed_0001);
    let known = all();
    for round in 0..200_000 {
        let mut packet = if round % 4 == 0 {
            let length = noise.next() as usize % 300;
            (0..length).map(|_| noise.next() as u8).collect()
        } else {
            known[noise.next() as usize % known.len()].clone()
        };
        for _ in 0..noise.next() % 6 {
            if !packet.is_empty() {
                let at = noise.next() as usize % packet.len();
                packet[at] = [0, 1, 0x7f, 0xff, noise.next() as u8][noise.next() as usize % 5];
            }
        }
        read(&packet);
    }
}

#[test]
fn the_largest_packets_fit() {
    let payload = [0; super::names::BLOCK_LEN];
    let rcom = Rcom {
        kind: RcomKind::NamesReply,
        result: 0,
        id: 0,
        seq: 0,
        seq_reply: 0,
        payload: &payload,
    };
    let packet = rcom.encode(1, NODE).unwrap();
    assert_eq!(packet.len(), 4072);
    let envelope = options::encode(NODE, 0, Command::Rcom, packet.len());
    let whole = [&envelope[..], &packet].concat();
    assert_eq!(whole.len(), PACKET_MAX);
    assert!(options::decode(&whole).is_some());
    assert_eq!(CONFIG_LEN, 32);
}

/// Lock messages, in the order of their numbers.
pub(super) const MESSAGES: [&str; 14] = [
    // REQUEST
    "\
     0200030001efcdab070000005b00010001000000020100000302000004030100\
     050402000000000000000000090000000200000001000000f1ffffff96688fe1\
     01000000ffffffff010000000200000003000000f5ffffff666f6f\
     ",
    // CONVERT
    "\
     0200030001efcdab070000007800010002000000020100000302000004030100\
     0504020000000000000000000a0000000200000001000000f2ffffff96688fe1\
     0200000003000000020000000300000003000000eaffffff0102030405060708\
     090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20\
     ",
    // UNLOCK
    "\
     0200030001efcdab070000007800010003000000020100000302000004030100\
     0504020000000000000000000b0000000200000001000000f3ffffff96688fe1\
     03000000ffffffff030000000400000003000000dfffffff0102030405060708\
     090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20\
     ",
    // CANCEL
    "\
     0200030001efcdab070000005800010004000000020100000302000004030100\
     0504020000000000000000000c0000000200000001000000f4ffffff96688fe1\
     0000000003000000040000000500000003000000d4ffffff\
     ",
    // REQUEST_REPLY
    "\
     0200030001efcdab070000007800010005000000020100000302000004030100\
     0504020000000000000000000d0000000200000001000000f5ffffff96688fe1\
     01000000ffffffff050000000000000003000000c9ffffff0102030405060708\
     090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20\
     ",
    // CONVERT_REPLY
    "\
     0200030001efcdab070000007800010006000000020100000302000004030100\
     0504020000000000000000000e0000000200000001000000f6ffffff96688fe1\
     0200000003000000000000000100000003000000beffffff0102030405060708\
     090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20\
     ",
    // UNLOCK_REPLY
    "\
     0200030001efcdab070000005800010007000000020100000302000004030100\
     0504020000000000000000000f0000000200000001000000f7ffffff96688fe1\
     03000000ffffffff010000000200000003000000b3ffffff\
     ",
    // CANCEL_REPLY
    "\
     0200030001efcdab070000005800010008000000020100000302000004030100\
     050402000000000000000000080000000200000001000000f8ffffff96688fe1\
     0000000003000000020000000300000003000000a8ffffff\
     ",
    // GRANT
    "\
     0200030001efcdab070000007800010009000000020100000302000004030100\
     050402000000000000000000090000000200000001000000f9ffffff96688fe1\
     01000000ffffffff0300000004000000030000009dffffff0102030405060708\
     090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20\
     ",
    // BAST
    "\
     0200030001efcdab07000000580001000a000000020100000302000004030100\
     0504020000000000000000000a0000000200000001000000faffffff96688fe1\
     020000000300000004000000050000000300000092ffffff\
     ",
    // LOOKUP
    "\
     0200030001efcdab070000005b0001000b000000020100000302000004030100\
     0504020000000000000000000b0000000200000001000000fbffffff96688fe1\
     03000000ffffffff05000000000000000300000087ffffff666f6f\
     ",
    // REMOVE
    "\
     0200030001efcdab070000005b0001000c000000020100000302000004030100\
     0504020000000000000000000c0000000200000001000000fcffffff96688fe1\
     00000000030000000000000001000000030000007cffffff666f6f\
     ",
    // LOOKUP_REPLY
    "\
     0200030001efcdab07000000580001000d000000ffffffff0302000004030100\
     0504020000000000000000000d0000000200000001000000fdffffff96688fe1\
     01000000ffffffff01000000020000000300000071ffffff\
     ",
    // PURGE
    "\
     0200030001efcdab07000000580001000e000000020100000302000004030100\
     0504020000000000000000000e0000000200000001000000feffffff96688fe1\
     020000000300000002000000030000000300000066ffffff\
     ",
];

/// Recovery messages, in the order of their numbers.
pub(super) const RCOMS: [&str; 8] = [
    // STATUS
    "\
     0200030001efcdab070000004000020001000000810000000177665544332211\
     01a7a6a5a4a3a2a1000000000000000001000000000000000000000000000000\
     ",
    // NAMES
    "\
     0200030001efcdab070000003400020002000000820000000277665544332211\
     02a7a6a5a4a3a2a100000000000000006c617374\
     ",
    // LOOKUP
    "\
     0200030001efcdab070000003300020003000000830000000377665544332211\
     03a7a6a5a4a3a2a10000000000000000666f6f\
     ",
    // LOCK
    "\
     0200030001efcdab07000000a400020004000000840000000477665544332211\
     04a7a6a5a4a3a2a1000000000000000011000000220000003300000000000000\
     00000000440000000100000055000000efffffff05ff010302000300666f6f00\
     0000000000000000000000000000000000000000000000000000000000000000\
     0000000000000000000000000000000000000000000000000000000000010203\
     04050607\
     ",
    // STATUS_REPLY
    "\
     0200030001efcdab070000007000020005000000850000000577665544332211\
     05a7a6a5a4a3a2a1055756555453525120000000100000000000000002000200\
     0900000000000000000000000000000007000000010000000000000000000000\
     09000000020000000000000000000000\
     ",
    // NAMES_REPLY
    "\
     0200030001efcdab070000003a00020006000000860000000677665544332211\
     06a7a6a5a4a3a2a106575655545352510003666f6f000178ffff\
     ",
    // LOOKUP_REPLY
    "\
     0200030001efcdab070000003000020007000000870000000777665544332211\
     07a7a6a5a4a3a2a10757565554535251\
     ",
    // LOCK_REPLY
    "\
     0200030001efcdab070000009c00020008000000880000000877665544332211\
     08a7a6a5a4a3a2a1085756555453525111000000220000003300000000000000\
     00000000440000000100000055000000efffffff05ff010302000300666f6f00\
     0000000000000000000000000000000000000000000000000000000000000000\
     00000000000000000000000000000000000000000000000000000000\
     ",
];
