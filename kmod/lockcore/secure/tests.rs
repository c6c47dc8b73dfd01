// SPDX-License-Identifier: GPL-2.0-only
//! Two ends and whoever is between them. Node 1 connects, node 2 accepts.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::ChaCha20Poly1305;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::*;
use crate::lockcore::wire::header::{Command, Header};
use crate::lockcore::wire::PACKET_MAX;

/// The computations, by crates that many use.
struct Host;

fn aead_nonce(nonce: u64) -> chacha20poly1305::Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&nonce.to_le_bytes());
    bytes.into()
}

impl Cipher for Host {
    fn mac(key: &Key, data: &[u8]) -> [u8; 32] {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key.bytes()).unwrap();
        mac.update(data);
        mac.finalize().into_bytes().into()
    }

    fn seal(key: &Key, nonce: u64, aad: &[u8], msg: &[u8], out: &mut [u8]) {
        let cipher = ChaCha20Poly1305::new(key.bytes().into());
        let sealed = cipher.encrypt(&aead_nonce(nonce), Payload { msg, aad });
        out.copy_from_slice(&sealed.unwrap());
    }

    fn open(key: &Key, nonce: u64, aad: &[u8], msg: &[u8], out: &mut [u8]) -> bool {
        let cipher = ChaCha20Poly1305::new(key.bytes().into());
        match cipher.decrypt(&aead_nonce(nonce), Payload { msg, aad }) {
            Ok(plain) => {
                out.copy_from_slice(&plain);
                true
            }
            Err(_) => false,
        }
    }
}

const ONE: Life = Life {
    node: NodeId(1),
    incarnation: 0x1111,
};
const TWO: Life = Life {
    node: NodeId(2),
    incarnation: 0x2222,
};

/// One end, what it has not taken apart yet, and what it got out of it.
struct End {
    session: Session<Host>,
    stream: Vec<u8>,
    packets: Vec<u8>,
}

impl End {
    fn new(side: Side, own: Life, peer: Life, key: u8, nonce: u8) -> Self {
        let key = Key::new([key; 32]);
        End {
            session: Session::new(side, own, peer, key, &[nonce; NONCE_LEN]),
            stream: Vec::new(),
            packets: Vec::new(),
        }
    }

    fn preface(&mut self) -> Vec<u8> {
        let mut out = [0; PREFACE_MAX];
        let len = self.session.preface(&mut out);
        out[..len].to_vec()
    }

    fn seal(&mut self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut out = [0; SEALED_MAX];
        let (taken, len) = self.session.seal(plain, &mut out)?;
        assert_eq!(taken, plain.len().min(RECORD_MAX));
        Some(out[..len].to_vec())
    }

    fn hear(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.stream.extend(bytes);
        let mut plain = [0; RECORD_MAX];
        while let Some(taken) = self.session.take(&self.stream, &mut plain)? {
            self.stream.drain(..taken.used);
            self.packets.extend(&plain[..taken.plain]);
        }
        Ok(())
    }
}

fn ends() -> [End; 2] {
    [
        End::new(Side::Connector, ONE, TWO, 7, 0xa1),
        End::new(Side::Acceptor, TWO, ONE, 7, 0xb2),
    ]
}

/// Has both say what they say before data.
fn greet([one, two]: &mut [End; 2]) -> Result<(), Refusal> {
    two.hear(&one.preface())?;
    one.hear(&two.preface())?;
    two.hear(&one.preface())
}

fn proven() -> [End; 2] {
    let mut ends = ends();
    greet(&mut ends).unwrap();
    ends
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A request for a status as an in-tree node sends it.
fn clear_packet() -> Vec<u8> {
    let header = Header::new(Command::Rcom, 0, NodeId(1), 80);
    let mut packet = header.encode().to_vec();
    packet.resize(80, 0);
    packet
}

#[test]
fn both_ends_prove_themselves_and_then_talk() {
    let mut ends = ends();
    assert_eq!(ends[1].preface(), b"", "who accepts speaks second");
    greet(&mut ends).unwrap();
    assert!(ends.iter().all(|end| end.session.is_proven()));
    let [one, two] = &mut ends;
    for round in 0..3_u8 {
        two.hear(&one.seal(&[round; 100]).unwrap()).unwrap();
        one.hear(&two.seal(&[round; 9_000]).unwrap()).unwrap();
    }
    let said = [[0_u8; 100], [1; 100], [2; 100]].concat();
    assert_eq!(two.packets, said);
    assert_eq!(one.packets.len(), 3 * RECORD_MAX);
    assert_eq!(one.preface().len() + two.preface().len(), 0);
}

#[test]
fn golden_bytes() {
    let [mut one, mut two] = ends();
    let mut lines = Vec::new();
    for step in 0..3 {
        let (from, to) = match step {
            1 => (&mut two, &mut one),
            _ => (&mut one, &mut two),
        };
        let bytes = from.preface();
        to.hear(&bytes).unwrap();
        lines.push(hex(&bytes));
    }
    lines.push(hex(&one.seal(b"lock").unwrap()));
    lines.push(hex(&two.seal(b"grant").unwrap()));
    let expected: Vec<&str> = include_str!("golden.txt").lines().collect();
    assert_eq!(lines, expected);
}

#[test]
fn the_stream_may_come_in_any_pieces() {
    for size in [1, 3, 71, 72, 73, 1000] {
        let [mut one, mut two] = ends();
        two.hear(&one.preface()).unwrap();
        for piece in two.preface().chunks(size) {
            one.hear(piece).unwrap();
        }
        let proof = one.preface();
        let stream = [
            proof,
            one.seal(&[5; 300]).unwrap(),
            one.seal(&[6; 1]).unwrap(),
        ]
        .concat();
        for piece in stream.chunks(size) {
            two.hear(piece).unwrap();
        }
        assert_eq!(two.packets, [&[5; 300][..], &[6; 1]].concat(), "{size}");
    }
}

#[test]
fn without_the_key_nobody_is_proven() {
    let [_, mut two] = ends();
    let mut stranger = End::new(Side::Connector, ONE, TWO, 8, 0xa1);
    two.hear(&stranger.preface()).unwrap();
    assert_eq!(stranger.hear(&two.preface()), Err(Refusal::NotAuthentic));
    assert!(stranger.seal(b"x").is_none() && two.seal(b"x").is_none());
    // It lies about what it has seen, and answers anything.
    for len in 0..40_u32 {
        let [_, mut two] = ends();
        two.hear(&stranger.session.hello).unwrap();
        let record = [&len.to_le_bytes()[..], &[0x5a; 60]].concat();
        assert!(two.hear(&record).is_err(), "{len}");
        assert!(!two.session.is_proven() && two.packets.is_empty());
    }
}

#[test]
fn other_nodes_and_lives_are_refused_by_their_hello() {
    let other = |life: Life| Life {
        incarnation: life.incarnation + 1,
        ..life
    };
    let third = Life {
        node: NodeId(3),
        ..ONE
    };
    for (own, peer, refusal) in [
        (other(ONE), TWO, Refusal::OtherLife),
        (ONE, other(TWO), Refusal::OtherLife),
        (third, TWO, Refusal::OtherNode),
        (ONE, third, Refusal::OtherNode),
        (TWO, ONE, Refusal::OtherNode),
    ] {
        let [_, mut two] = ends();
        let mut one = End::new(Side::Connector, own, peer, 7, 1);
        assert_eq!(two.hear(&one.preface()), Err(refusal));
        assert_eq!(two.session.refusal(), Some(refusal));
        assert_eq!(two.preface(), b"", "nothing is said to it");
    }
}

#[test]
fn what_one_end_said_is_no_use_for_itself() {
    let [mut one, _] = ends();
    let said = one.preface();
    assert_eq!(one.hear(&said), Err(Refusal::OtherNode));
    let [mut one, mut two] = proven();
    let record = one.seal(b"lock").unwrap();
    assert_eq!(one.hear(&record), Err(Refusal::NotAuthentic));
    two.hear(&record).unwrap();
}

#[test]
fn any_changed_bit_ends_the_connection() {
    let [mut one, mut two] = ends();
    let first = one.preface();
    two.hear(&first).unwrap();
    let second = two.preface();
    one.hear(&second).unwrap();
    let third = [one.preface(), one.seal(b"unlock").unwrap()].concat();
    for bit in 0..(first.len() + third.len()) * 8 {
        let mut stream = [first.clone(), third.clone()].concat();
        stream[bit / 8] ^= 1 << (bit % 8);
        let [_, mut two] = ends();
        let heard = two.hear(&stream);
        let _ = two.preface();
        // A longer record may be waited for; nothing of it is taken.
        let waits = heard.is_ok() && !two.stream.is_empty();
        assert!(heard.is_err() || waits, "bit {bit}");
        assert!(two.packets.is_empty(), "bit {bit}");
    }
    for bit in 0..second.len() * 8 {
        let mut stream = second.clone();
        stream[bit / 8] ^= 1 << (bit % 8);
        let [mut one, _] = ends();
        let _ = one.preface();
        assert!(
            one.hear(&stream).is_err() || !one.session.is_proven(),
            "bit {bit}"
        );
    }
}

#[test]
fn records_come_once_in_order_and_whole() {
    let [mut one, mut two] = proven();
    let records: Vec<_> = (0..3_u8).map(|n| one.seal(&[n; 30]).unwrap()).collect();
    two.hear(&records[0]).unwrap();
    assert_eq!(two.hear(&records[0]), Err(Refusal::NotAuthentic));
    assert_eq!(
        two.hear(&records[1]),
        Err(Refusal::NotAuthentic),
        "it is over"
    );

    let [mut one, mut two] = proven();
    let _lost = one.seal(b"lost").unwrap();
    let next = one.seal(b"next").unwrap();
    assert_eq!(two.hear(&next), Err(Refusal::NotAuthentic));

    let [mut one, mut two] = proven();
    let record = one.seal(b"cut").unwrap();
    two.hear(&record[..record.len() - 1]).unwrap();
    assert_eq!(two.packets, b"");
    let next = one.seal(b"more").unwrap();
    assert_eq!(two.hear(&next), Err(Refusal::NotAuthentic));
}

#[test]
fn what_was_recorded_is_no_use_on_another_connection() {
    let [mut one, mut two] = ends();
    let mut recorded = one.preface();
    two.hear(&recorded).unwrap();
    one.hear(&two.preface()).unwrap();
    recorded.extend(one.preface());
    recorded.extend(one.seal(b"unlock").unwrap());
    two.hear(&recorded[HELLO_LEN..]).unwrap();
    assert_eq!(two.packets, b"unlock");
    // The same lives and key; only the nonce of who accepts is new.
    let mut again = End::new(Side::Acceptor, TWO, ONE, 7, 0xb3);
    assert_eq!(again.hear(&recorded), Err(Refusal::NotAuthentic));
    assert!(!again.session.is_proven() && again.packets.is_empty());
}

#[test]
fn a_second_hello_is_no_record() {
    let [mut one, mut two] = ends();
    let hello = one.preface();
    two.hear(&hello).unwrap();
    assert_eq!(two.hear(&hello), Err(Refusal::TooLong));
    let [mut one, mut two] = proven();
    assert_eq!(two.hear(&one.session.hello.clone()), Err(Refusal::TooLong));
    assert!(one.seal(b"x").is_some());
}

#[test]
fn lengths_beyond_any_are_not_waited_for() {
    for len in [RECORD_MAX as u32 + 1, 1 << 31, u32::MAX] {
        let [_, mut two] = proven();
        assert_eq!(two.hear(&len.to_le_bytes()), Err(Refusal::TooLong));
    }
    // Not even possible ones, from who has proven nothing.
    let [mut one, mut two] = ends();
    two.hear(&one.preface()).unwrap();
    assert_eq!(two.hear(&[1, 0, 0, 0]), Err(Refusal::TooLong));
}

#[test]
fn clear_dlm_is_known_by_its_first_bytes_and_a_hello_by_an_in_tree_node() {
    let [mut one, mut two] = ends();
    assert_eq!(two.hear(&clear_packet()[..4]), Err(Refusal::Clear));
    assert!(Refusal::Clear.sentence().contains("in-tree dlm?"));
    let hello = one.preface();
    assert!(crate::lockcore::wire::header::packet_length(&hello).is_some_and(|len| len.is_err()));
    let [_, mut two] = ends();
    assert_eq!(two.hear(b"GET / HTTP/1.1\r\n"), Err(Refusal::Foreign));
    let [_, mut two] = ends();
    let mut later = hello;
    later[8] = 2;
    assert_eq!(two.hear(&later), Err(Refusal::Foreign));
}

#[test]
fn who_says_nothing_is_told_nothing() {
    let [_, mut two] = ends();
    two.hear(b"").unwrap();
    two.hear(b"CONCLA").unwrap();
    assert_eq!(two.preface(), b"");
    assert!(two.seal(b"x").is_none());
}

// A record fits behind the beginning of a packet, and each name of a direction into its place.
const _: () = {
    assert!(PACKET_MAX - 1 + RECORD_MAX <= crate::lockcore::framer::BUFFER_LEN);
    assert!(FROM_CONNECTOR.len() <= 40 && FROM_ACCEPTOR.len() <= 40);
};

#[test]
fn keys_are_not_shown() {
    assert_eq!(format!("{:?}", Key::new([7; 32])), "Key");
}
