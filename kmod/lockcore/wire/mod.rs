// SPDX-License-Identifier: GPL-2.0-only
//! What nodes say to each other: protocol 3.2 of the distributed lock manager, byte for byte.
//!
//! Encoders and decoders only; who may say what, and when, is decided elsewhere. All numbers are
//! little-endian (but the lengths in a block of names). A decoder takes arbitrary bytes: it answers
//! `None` for what cannot be, and never reads behind the packet or allocates.
//!
//! Layouts are tables at the top of each file:
//! [`header`] what every packet begins with, and the packets that are nothing else;
//! [`options`] the envelope of a sequenced packet; [`message`] lock messages;
//! [`rcom`] recovery messages; [`names`] the block of names in one of them.

pub mod header;
pub mod message;
pub mod names;
pub mod options;
pub mod rcom;

#[cfg(test)]
mod golden;

/// Largest packet with its envelope, bytes.
pub const PACKET_MAX: usize = 4096;

/// Largest packet without envelope, bytes.
pub const INNER_MAX: usize = PACKET_MAX - options::OPTIONS_LEN;

/// The `N` bytes at `at`, if there are that many.
pub(super) fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes_at(bytes, at)?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes_at(bytes, at)?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes_at(bytes, at)?))
}

/// Writes `value` at `at`; the layouts see to it that it is inside.
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(room) = bytes.get_mut(at..at + value.len()) {
        room.copy_from_slice(value);
    }
}
