// SPDX-License-Identifier: GPL-2.0-only
//! Packets: who sent them, that nobody changed them, and that each comes once.
//!
//! ```text
//! offset size  field (little-endian)
//!      0    3  "CMN"
//!      3    1  version, 1
//!      4    4  sender's node id
//!      8    4  receiver's node id
//!     12    4  first bytes of SHA-256 of the cluster's name
//!     16    8  sender's incarnation
//!     24    8  counter of the sender's packets, from 1
//!     32    n  sealed body
//!   32+n   16  tag
//! ```
//! Sealed by ChaCha20-Poly1305. The key is HKDF-SHA256 of the cluster's secret
//! with the sender's node id and incarnation, so the counter may be the nonce:
//! it never repeats under one key. The header and the cluster's name are
//! authenticated with the body. Another version is dropped, never guessed at.

use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::KeyInit;
use chacha20poly1305::Nonce;
use chacha20poly1305::aead::Aead;
use chacha20poly1305::aead::Payload;
use hkdf::Hkdf;
use sha2::Digest;
use sha2::Sha256;

use crate::Incarnation;
use crate::NodeId;

/// Bytes before the sealed body.
pub const HEADER: usize = 32;

/// Bytes after it.
pub const TAG: usize = 16;

/// Longest datagram: fits an Ethernet frame with IPv6 and some tunnel around it.
pub const DATAGRAM_LIMIT: usize = 1400;

/// Longest body of one packet.
pub const BODY_LIMIT: usize = DATAGRAM_LIMIT - HEADER - TAG;

const MAGIC: [u8; 4] = *b"CMN\x01";

/// Packets of one sender that may overtake each other and are still accepted.
/// The counter also counts packets to others, so this is generous.
const WINDOW: u64 = 1024;

/// Why a packet is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drop {
    /// Too short or too long to be one.
    Length,
    /// Not this protocol, or another version of it.
    Version,
    /// Of a cluster with another name.
    ForeignCluster,
    /// From a node that is not configured, or from this one.
    UnknownNode,
    /// For another node.
    NotForUs,
    /// Another key, or changed on the way.
    Unauthenticated,
    /// Received before, or much too late.
    Replayed,
    /// Not from the node's configured address.
    WrongAddress,
    /// From a life that has ended.
    Retired,
    /// From a second life beside the one that is known.
    Rival,
    /// Authentic, but not understood.
    Malformed,
    /// From an address or for a node that is not configured, and too many of these.
    Unlisted,
    /// From a node whose configuration differs.
    OtherConfig,
}

impl Drop {
    /// All reasons, for tables of counters.
    pub const ALL: [Self; 13] = [
        Self::Length,
        Self::Version,
        Self::ForeignCluster,
        Self::UnknownNode,
        Self::NotForUs,
        Self::Unauthenticated,
        Self::Replayed,
        Self::WrongAddress,
        Self::Retired,
        Self::Rival,
        Self::Malformed,
        Self::Unlisted,
        Self::OtherConfig,
    ];

    /// Name of the counter.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Length => "dropped_length",
            Self::Version => "dropped_version",
            Self::ForeignCluster => "dropped_foreign_cluster",
            Self::UnknownNode => "dropped_unknown_node",
            Self::NotForUs => "dropped_not_for_us",
            Self::Unauthenticated => "dropped_unauthenticated",
            Self::Replayed => "dropped_replayed",
            Self::WrongAddress => "dropped_wrong_address",
            Self::Retired => "dropped_retired_life",
            Self::Rival => "dropped_second_life",
            Self::Malformed => "dropped_malformed",
            Self::Unlisted => "dropped_unlisted",
            Self::OtherConfig => "dropped_other_config",
        }
    }
}

/// The header of a packet, as it claims to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Who says to have sent it.
    pub from: NodeId,
    /// Whom it is for.
    pub to: NodeId,
    /// Which life of the sender.
    pub incarnation: Incarnation,
    /// Which packet of that life.
    pub counter: u64,
}

/// Derives keys from the cluster's secret.
pub struct Keys {
    extracted: Hkdf<Sha256>,
    cluster: Vec<u8>,
    cluster_hash: [u8; 4],
}

impl std::fmt::Debug for Keys {
    /// Shows no secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

/// The key of one life of one sender.
#[derive(Clone)]
pub struct Key(ChaCha20Poly1305);

impl std::fmt::Debug for Key {
    /// Shows no secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

fn four(bytes: &[u8], at: usize) -> [u8; 4] {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    out
}

fn eight(bytes: &[u8], at: usize) -> [u8; 8] {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    out
}

impl Keys {
    /// For a cluster with this name and secret.
    #[must_use]
    pub fn new(cluster: &str, secret: &[u8]) -> Self {
        let hash = Sha256::digest(cluster.as_bytes());
        Self {
            extracted: Hkdf::<Sha256>::new(Some(b"conclave cmand packet key 1"), secret),
            cluster: cluster.as_bytes().to_vec(),
            cluster_hash: four(&hash, 0),
        }
    }

    /// The key of one life of one sender.
    #[must_use]
    pub fn key(&self, from: NodeId, incarnation: Incarnation) -> Key {
        let mut info = [0; 12];
        info[..4].copy_from_slice(&from.0.to_le_bytes());
        info[4..].copy_from_slice(&incarnation.0.to_le_bytes());
        let mut okm = [0; 32];
        self.extracted
            .expand(&info, &mut okm)
            .expect("32 bytes are within what HKDF can give");
        Key(ChaCha20Poly1305::new(&okm.into()))
    }

    fn bytes(&self, header: &Header) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&header.from.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&header.to.0.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.cluster_hash);
        bytes[16..24].copy_from_slice(&header.incarnation.0.to_le_bytes());
        bytes[24..].copy_from_slice(&header.counter.to_le_bytes());
        bytes
    }

    /// Reads what a datagram claims to be; nothing of it is proven yet.
    ///
    /// # Errors
    /// [`Drop::Length`], [`Drop::Version`] or [`Drop::ForeignCluster`].
    pub fn claim(&self, datagram: &[u8]) -> Result<Header, Drop> {
        if datagram.len() < HEADER + TAG || datagram.len() > DATAGRAM_LIMIT {
            return Err(Drop::Length);
        }
        if datagram[..4] != MAGIC {
            return Err(Drop::Version);
        }
        if datagram[12..16] != self.cluster_hash {
            return Err(Drop::ForeignCluster);
        }
        Ok(Header {
            from: NodeId(u32::from_le_bytes(four(datagram, 4))),
            to: NodeId(u32::from_le_bytes(four(datagram, 8))),
            incarnation: Incarnation(u64::from_le_bytes(eight(datagram, 16))),
            counter: u64::from_le_bytes(eight(datagram, 24)),
        })
    }

    fn associated(&self, header: &[u8]) -> Vec<u8> {
        [header, &self.cluster].concat()
    }

    /// A whole datagram.
    #[must_use]
    pub fn seal(&self, key: &Key, header: &Header, body: &[u8]) -> Vec<u8> {
        assert!(body.len() <= BODY_LIMIT, "a packet's body is cut before");
        let head = self.bytes(header);
        let payload = Payload {
            msg: body,
            aad: &self.associated(&head),
        };
        let sealed = key.0.encrypt(&nonce(header.counter), payload);
        let sealed = sealed.expect("a body of a few hundred bytes can be sealed");
        [&head[..], &sealed].concat()
    }

    /// The body of a datagram whose header was read by [`Self::claim`].
    ///
    /// # Errors
    /// [`Drop::Unauthenticated`].
    pub fn open(&self, key: &Key, header: &Header, datagram: &[u8]) -> Result<Vec<u8>, Drop> {
        let (head, sealed) = datagram.split_at_checked(HEADER).ok_or(Drop::Length)?;
        let payload = Payload {
            msg: sealed,
            aad: &self.associated(head),
        };
        let opened = key.0.decrypt(&nonce(header.counter), payload);
        opened.map_err(|_| Drop::Unauthenticated)
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce.into()
}

/// Which counters of one sender were seen.
#[derive(Debug, Clone)]
pub struct Replay {
    highest: u64,
    seen: [u64; (WINDOW / 64) as usize],
}

impl Default for Replay {
    fn default() -> Self {
        Self {
            highest: 0,
            seen: [0; (WINDOW / 64) as usize],
        }
    }
}

impl Replay {
    /// Takes note of a counter; to be called for authentic packets only.
    ///
    /// # Errors
    /// [`Drop::Replayed`] if it was seen, or is too old to tell.
    pub fn accept(&mut self, counter: u64) -> Result<(), Drop> {
        let index = |counter: u64| ((counter / 64 % (WINDOW / 64)) as usize, counter % 64);
        if counter > self.highest {
            // A word is reused for new counters: forget the old ones.
            let (from, to) = (self.highest / 64 + 1, counter / 64);
            for word in from..=to.min(from + WINDOW / 64 - 1) {
                self.seen[(word % (WINDOW / 64)) as usize] = 0;
            }
            self.highest = counter;
        } else if counter == 0 || counter / 64 + WINDOW / 64 <= self.highest / 64 {
            return Err(Drop::Replayed);
        }
        let (word, bit) = index(counter);
        if self.seen[word] & (1 << bit) != 0 {
            return Err(Drop::Replayed);
        }
        self.seen[word] |= 1 << bit;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn header() -> Header {
        Header {
            from: NodeId(2),
            to: NodeId(3),
            incarnation: Incarnation(0x1122_3344_5566_7788),
            counter: 9,
        }
    }

    fn sealed(cluster: &str, secret: &[u8]) -> Vec<u8> {
        let keys = Keys::new(cluster, secret);
        let key = keys.key(NodeId(2), header().incarnation);
        keys.seal(&key, &header(), b"hello")
    }

    fn opened(datagram: &[u8]) -> Result<Vec<u8>, Drop> {
        let keys = Keys::new("alpha", &[7; 32]);
        let claim = keys.claim(datagram)?;
        keys.open(&keys.key(claim.from, claim.incarnation), &claim, datagram)
    }

    #[test]
    fn golden_bytes() {
        let hex: String = sealed("alpha", &[7; 32])
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, include_str!("seal_golden.txt").trim());
    }

    #[test]
    fn what_is_sealed_opens_and_nothing_else_does() {
        assert_eq!(opened(&sealed("alpha", &[7; 32])).unwrap(), b"hello");
        let wrong_key = opened(&sealed("alpha", &[8; 32]));
        assert_eq!(wrong_key, Err(Drop::Unauthenticated));
        let foreign = opened(&sealed("beta", &[7; 32]));
        assert_eq!(foreign, Err(Drop::ForeignCluster));
        let good = sealed("alpha", &[7; 32]);
        for bit in 0..good.len() * 8 {
            let mut changed = good.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(opened(&changed).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(opened(&good[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_name_with_the_same_hash_would_still_not_authenticate() {
        let mut keys = Keys::new("alpha", &[7; 32]);
        keys.cluster = b"beta".to_vec();
        let key = keys.key(NodeId(2), header().incarnation);
        let datagram = keys.seal(&key, &header(), b"hello");
        assert_eq!(opened(&datagram), Err(Drop::Unauthenticated));
    }

    #[test]
    fn the_window_accepts_each_counter_once_as_a_set_would() {
        let mut replay = Replay::default();
        let mut seen = BTreeSet::new();
        let (mut state, mut highest) = (1_u64, 0_u64);
        for _ in 0..200_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let jump = (state >> 33) % 1200;
            let counter = (highest + 64).saturating_sub(jump) + state % 3;
            let too_old = counter == 0 || counter / 64 + WINDOW / 64 <= highest / 64;
            let fresh = !too_old && seen.insert(counter);
            assert_eq!(
                replay.accept(counter).is_ok(),
                fresh,
                "{counter} of {highest}"
            );
            highest = highest.max(counter);
        }
        assert!(replay.accept(u64::MAX).is_ok());
        assert!(replay.accept(u64::MAX).is_err());
    }
}
