// SPDX-License-Identifier: GPL-2.0-only
//! Cuts the byte stream of one socket into packets.
//!
//! The socket's reader fills [`Framer::space`] and says how much it filled; then it takes packets
//! out until there is none. A stream in which a packet has an impossible length is not one of
//! packets: the connection must be given up.

use super::wire::header::{packet_length, Malformed};
use super::wire::PACKET_MAX;
use crate::platform::{KVec, Result, GFP_MAY_WAIT};

/// Bytes of a reader's buffer: room for the largest packet behind what is left of another.
pub(super) const BUFFER_LEN: usize = 4 * PACKET_MAX;

/// The unread part of a byte stream.
pub struct Framer {
    buffer: KVec<u8>,
    /// Where the first packet begins.
    start: usize,
    /// Where the bytes end.
    end: usize,
}

impl Framer {
    /// Of a new connection.
    pub fn new() -> Result<Self> {
        Ok(Self {
            buffer: KVec::from_elem(0, BUFFER_LEN, GFP_MAY_WAIT)?,
            start: 0,
            end: 0,
        })
    }

    /// Where the next bytes of the stream go; never empty once [`Framer::next_packet`] found no
    /// whole
    /// packet.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        self.buffer.get_mut(self.end..).unwrap_or(&mut [])
    }

    /// The first `count` bytes of the last [`Framer::space`] were filled.
    pub fn filled(&mut self, count: usize) {
        self.end = self.end.saturating_add(count).min(self.buffer.len());
    }

    /// Takes the first packet out, if it is there as a whole.
    pub fn next_packet(&mut self) -> Result<Option<&[u8]>, Malformed> {
        let unread = self.buffer.get(self.start..self.end).unwrap_or(&[]);
        let Some(length) = packet_length(unread) else {
            return Ok(None);
        };
        let Some(packet) = unread.get(..length?) else {
            return Ok(None);
        };
        self.start += packet.len();
        Ok(Some(packet))
    }

    /// Forgets everything: for the next connection.
    pub fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lockcore::members::NodeId;
    use crate::lockcore::wire::header::{Command, Header};

    fn packet(length: usize, fill: u8) -> Vec<u8> {
        let mut packet = Header::new(Command::Message, 1, NodeId(1), length)
            .encode()
            .to_vec();
        packet.resize(length, fill);
        packet
    }

    /// Feeds `stream` in pieces of `size`, and collects the packets.
    fn cut(stream: &[u8], size: usize) -> Vec<Vec<u8>> {
        let mut framer = Framer::new().unwrap();
        let mut packets = Vec::new();
        let mut rest = stream;
        while !rest.is_empty() {
            let space = framer.space();
            let count = size.min(rest.len()).min(space.len());
            assert!(count > 0, "no room");
            space[..count].copy_from_slice(&rest[..count]);
            framer.filled(count);
            rest = &rest[count..];
            while let Some(packet) = framer.next_packet().unwrap() {
                packets.push(packet.to_vec());
            }
        }
        packets
    }

    #[test]
    fn packets_come_out_as_they_went_in_whatever_the_pieces() {
        let packets: Vec<Vec<u8>> = [16, 4096, 17, 88, 4096, 4095, 4096, 4096, 112, 16]
            .into_iter()
            .enumerate()
            .map(|(n, length)| packet(length, n as u8))
            .collect();
        let stream = packets.concat();
        for size in [1, 2, 15, 16, 17, 100, 1000, 4095, 4096, 5000, 100_000] {
            assert_eq!(cut(&stream, size), packets, "pieces of {size}");
        }
    }

    #[test]
    fn impossible_lengths_end_the_stream() {
        for length in [0_u16, 15, 4097, u16::MAX] {
            let mut framer = Framer::new().unwrap();
            framer.space()[12..14].copy_from_slice(&length.to_le_bytes());
            framer.filled(14);
            assert_eq!(framer.next_packet(), Err(Malformed));
            framer.clear();
            assert_eq!(framer.next_packet(), Ok(None));
        }
    }
}
