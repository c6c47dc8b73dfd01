// SPDX-License-Identifier: GPL-2.0-only
//! The envelope of a sequenced packet.
//!
//! | Field | Offset | Bytes | Content |
//! |---|---|---|---|
//! | header | 0 | 16 | command OPTS, sequence, length of envelope and packet |
//! | next | 16 | 1 | command of the packet inside: 1, 2 or 5 |
//! | pad | 17 | 1 | 0 |
//! | options length | 18 | 2 | of the options behind the envelope |
//! | pad | 20 | 4 | 0 |
//! | options | 24 | | `{u16 type, u16 length, u32 pad, value}`; none are defined, all are skipped |
//!
//! Then the packet with its own header.

use super::header::{Command, Header, HEADER_LEN};
use super::message::MESSAGE_LEN;
use super::rcom::RCOM_LEN;
use super::{bytes_at, put, u16_at};
use crate::lockcore::members::NodeId;

/// Bytes of an envelope.
pub const OPTIONS_LEN: usize = 24;

/// A sequenced packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Its place in the stream of sequenced packets.
    pub seq: u32,
    /// The packet inside, from its header on.
    pub inner: &'a [u8],
    /// The header of the packet inside.
    pub header: Header,
}

/// The envelope to be put before a packet of `inner_len` bytes.
pub fn encode(own: NodeId, seq: u32, inner: Command, inner_len: usize) -> [u8; OPTIONS_LEN] {
    let mut bytes = [0; OPTIONS_LEN];
    let header = Header::new(Command::Opts, seq, own, OPTIONS_LEN + inner_len);
    put(&mut bytes, 0, &header.encode());
    put(&mut bytes, HEADER_LEN, &[inner as u8]);
    bytes
}

/// Gives the packet in an envelope another number.
pub fn renumber(packet: &mut [u8], seq: u32) {
    if let Some(Header {
        command,
        node,
        length,
        ..
    }) = Header::decode(packet)
    {
        let header = Header::new(command, seq, node, usize::from(length));
        put(packet, 0, &header.encode());
    }
}

/// Opens a packet with the command OPTS.
pub fn decode(packet: &[u8]) -> Option<Envelope<'_>> {
    let outer = Header::decode(packet).filter(|h| h.command == Command::Opts)?;
    let [next] = bytes_at(packet, 16)?;
    let options = usize::from(u16_at(packet, 18)?);
    let inner = packet.get(OPTIONS_LEN.checked_add(options)?..)?;
    let header = Header::decode(inner)?;
    let least = match header.command {
        Command::Message => MESSAGE_LEN,
        Command::Rcom => RCOM_LEN,
        Command::Fin => HEADER_LEN,
        Command::Opts | Command::Ack => return None,
    };
    let fits = next == header.command as u8 && inner.len() >= least && header.node == outer.node;
    fits.then_some(Envelope {
        seq: outer.lockspace,
        inner,
        header,
    })
}

#[cfg(test)]
mod tests {
    use super::super::header::{ack, fin};
    use super::*;

    fn sealed(inner: &[u8], next: u8, options: &[u8]) -> Vec<u8> {
        let length = options.len() + inner.len();
        let mut packet = encode(NodeId(2), 77, Command::Fin, length).to_vec();
        packet[16] = next;
        packet[18] = options.len() as u8;
        packet.extend_from_slice(options);
        packet.extend_from_slice(inner);
        packet
    }

    #[test]
    fn options_are_skipped() {
        for options in [&[][..], &[1, 0, 4, 0, 0, 0, 0, 0, 9, 9, 9, 9]] {
            let packet = sealed(&fin(NodeId(2)), 5, options);
            let open = decode(&packet).unwrap();
            assert_eq!((open.seq, open.header.command), (77, Command::Fin));
            assert_eq!(open.inner, fin(NodeId(2)));
        }
    }

    #[test]
    fn what_cannot_be_inside_is_refused() {
        assert!(
            decode(&sealed(&ack(NodeId(2), 1), 4, &[])).is_none(),
            "an ack"
        );
        assert!(
            decode(&sealed(&fin(NodeId(2)), 1, &[])).is_none(),
            "not what it says"
        );
        assert!(
            decode(&sealed(&fin(NodeId(3)), 5, &[])).is_none(),
            "from somebody else"
        );
        let short = Header::new(Command::Message, 1, NodeId(2), 20).encode();
        assert!(
            decode(&sealed(&[&short[..], &[0; 4]].concat(), 1, &[])).is_none(),
            "short"
        );
        let mut far = sealed(&fin(NodeId(2)), 5, &[]);
        far[18] = 200;
        assert!(decode(&far).is_none(), "options behind the end");
    }
}
