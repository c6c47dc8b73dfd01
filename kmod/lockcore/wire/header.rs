// SPDX-License-Identifier: GPL-2.0-only
//! What every packet begins with.
//!
//! | Field | Offset | Bytes | Content |
//! |---|---|---|---|
//! | version | 0 | 4 | 0x00030001 or 0x00030002 |
//! | lockspace or sequence | 4 | 4 | lockspace: MSG, RCOM, FIN (0); sequence: OPTS, ACK |
//! | node | 8 | 4 | who sends |
//! | length | 12 | 2 | of the packet, with this header |
//! | command | 14 | 1 | 1 MSG, 2 RCOM, 3 OPTS, 4 ACK, 5 FIN |
//! | pad | 15 | 1 | 0 |
//!
//! Version rule: we write 3.2 everywhere. Other versions than these two are not read.

use super::{put, u16_at, u32_at, PACKET_MAX};
use crate::lockcore::members::NodeId;

/// Bytes of a header.
pub const HEADER_LEN: usize = 16;

const VERSION_3_1: u32 = 0x0003_0001;
const VERSION_3_2: u32 = 0x0003_0002;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Without envelopes, acknowledgements and orderly ends.
    V3_1,
    /// With them.
    V3_2,
}

impl Version {
    /// The number in a header.
    pub const fn to_raw(self) -> u32 {
        match self {
            Version::V3_1 => VERSION_3_1,
            Version::V3_2 => VERSION_3_2,
        }
    }

    const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            VERSION_3_1 => Some(Version::V3_1),
            VERSION_3_2 => Some(Version::V3_2),
            _unknown => None,
        }
    }
}

/// What kind of packet it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Command {
    /// About locks.
    Message = 1,
    /// Of recovery.
    Rcom = 2,
    /// Envelope of a sequenced packet.
    Opts = 3,
    /// Acknowledgement.
    Ack = 4,
    /// Orderly end.
    Fin = 5,
}

impl Command {
    pub(super) const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Command::Message),
            2 => Some(Command::Rcom),
            3 => Some(Command::Opts),
            4 => Some(Command::Ack),
            5 => Some(Command::Fin),
            _unknown => None,
        }
    }
}

/// What every packet begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of the protocol.
    pub version: Version,
    /// Lockspace, or for OPTS and ACK a sequence.
    pub lockspace: u32,
    /// Who sends.
    pub node: NodeId,
    /// Of the packet, with the header.
    pub length: u16,
    /// What kind of packet it is.
    pub command: Command,
}

impl Header {
    /// Of a packet of ours. `length` must be the whole packet's and at most [`PACKET_MAX`].
    pub const fn new(command: Command, lockspace: u32, own: NodeId, length: usize) -> Self {
        Self {
            version: Version::V3_2,
            lockspace,
            node: own,
            length: length as u16,
            command,
        }
    }

    /// The bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        put(&mut bytes, 0, &self.version.to_raw().to_le_bytes());
        put(&mut bytes, 4, &self.lockspace.to_le_bytes());
        put(&mut bytes, 8, &self.node.0.to_le_bytes());
        put(&mut bytes, 12, &self.length.to_le_bytes());
        put(&mut bytes, 14, &[self.command as u8]);
        bytes
    }

    /// Of a packet that is exactly as long as it says; `None` for everything else.
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let header = Self {
            version: Version::from_raw(u32_at(packet, 0)?)?,
            lockspace: u32_at(packet, 4)?,
            node: NodeId(u32_at(packet, 8)?),
            length: u16_at(packet, 12)?,
            command: Command::from_raw(*packet.get(14)?)?,
        };
        let length = usize::from(header.length);
        let fits = length == packet.len() && (HEADER_LEN..=PACKET_MAX).contains(&length);
        fits.then_some(header)
    }
}

/// A length that no packet can have: the stream is not one of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Length that a packet says it has, from its first bytes: `None` if there are too few of them to
/// tell, `Some(Err)` if no packet can have that length.
pub fn packet_length(bytes: &[u8]) -> Option<Result<usize, Malformed>> {
    let length = usize::from(u16_at(bytes, 12)?);
    let fits = (HEADER_LEN..=PACKET_MAX).contains(&length);
    Some(if fits { Ok(length) } else { Err(Malformed) })
}

/// An acknowledgement of everything before `expected`.
pub fn ack(own: NodeId, expected: u32) -> [u8; HEADER_LEN] {
    Header::new(Command::Ack, expected, own, HEADER_LEN).encode()
}

/// An orderly end, to be put in an envelope.
pub fn fin(own: NodeId) -> [u8; HEADER_LEN] {
    Header::new(Command::Fin, 0, own, HEADER_LEN).encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_length_version_or_command_is_no_packet() {
        let good = ack(NodeId(3), 9);
        assert!(Header::decode(&good).is_some());
        for (at, value) in [
            (0, 3),
            (2, 4),
            (12, 15),
            (12, 17),
            (13, 1),
            (14, 0),
            (14, 6),
        ] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(Header::decode(&bad), None, "{at}");
        }
        for length in 0..HEADER_LEN {
            assert_eq!(Header::decode(&good[..length]), None);
        }
        let mut old = good;
        old[0] = 1;
        assert_eq!(Header::decode(&old).unwrap().version, Version::V3_1);
    }

    #[test]
    fn lengths_no_packet_can_have() {
        let says = |length: u16| {
            let mut bytes = [0; HEADER_LEN];
            bytes[12..14].copy_from_slice(&length.to_le_bytes());
            packet_length(&bytes)
        };
        assert_eq!(says(15), Some(Err(Malformed)));
        assert_eq!(says(16), Some(Ok(16)));
        assert_eq!(says(4096), Some(Ok(4096)));
        assert_eq!(says(4097), Some(Err(Malformed)));
        assert_eq!(packet_length(&[0; 13]), None);
    }
}
