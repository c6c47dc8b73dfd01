// SPDX-License-Identifier: GPL-2.0-only
//! A generic netlink socket: finds the family, asks, collects answers.
//!
//! One request is under way at a time; every answer is matched by its sequence
//! number, and late ones of an earlier request are skipped.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;
use std::time::Instant;

use netlink_packet_core::DecodeError;
use netlink_packet_core::NLM_F_ACK;
use netlink_packet_core::NLM_F_ACK_TLVS;
use netlink_packet_core::NLM_F_CAPPED;
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_core::NLM_F_REQUEST;
use netlink_packet_core::NetlinkHeader;
use netlink_packet_core::NetlinkMessage;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_generic::GenlHeader;
use netlink_packet_generic::GenlMessage;
use netlink_sys::Socket;
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_GENERIC;
use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;

use crate::attributes::Attributes;
use crate::attributes::Packet;
use crate::attributes::required;
use crate::attributes::text;
use crate::error::Error;

/// The controller of generic netlink, which knows all families
/// (`linux/genetlink.h`).
mod controller {
    pub(super) const ID: u16 = 0x10;
    pub(super) const VERSION: u8 = 2;
    pub(super) const GET_FAMILY: u8 = 3;
    pub(super) const ATTR_FAMILY_ID: u16 = 1;
    pub(super) const ATTR_FAMILY_NAME: u16 = 2;
    pub(super) const ATTR_GROUPS: u16 = 7;
    pub(super) const ATTR_GROUP_NAME: u16 = 1;
    pub(super) const ATTR_GROUP_ID: u16 = 2;
}

/// `NLMSGERR_ATTR_MSG`: the kernel's words in an error.
const ERROR_ATTR_MESSAGE: u16 = 1;

/// Bytes of a netlink header.
const HEADER_LENGTH: usize = 16;

type Message = NetlinkMessage<GenlMessage<Packet>>;

/// A family as the controller describes it.
#[derive(Debug, Clone)]
pub(crate) struct Family {
    pub(crate) id: u16,
    pub(crate) groups: Vec<(String, u32)>,
}

/// A socket with which requests can be made.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: Socket,
    sequence: u32,
    limit: Duration,
}

impl Channel {
    pub(crate) fn open(limit: Duration) -> Result<Self, Error> {
        let socket = bound().map_err(system("opening"))?;
        Ok(Self {
            socket,
            sequence: 0,
            limit,
        })
    }

    pub(crate) fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Looks a family up; the kernel loads a module for it if it has one.
    pub(crate) fn family(&mut self, name: &'static str) -> Result<Family, Error> {
        let operation = format!("looking up family {name}");
        let packet = Packet {
            command: controller::GET_FAMILY,
            version: controller::VERSION,
            attributes: Attributes::new().string(controller::ATTR_FAMILY_NAME, name),
        };
        let answers = self.ask(&operation, controller::ID, packet, NLM_F_ACK);
        let answers = answers.map_err(|error| match error.errno() {
            Some(Errno::ENOENT) => Error::NotLoaded(name),
            Some(_) | None => error,
        })?;
        let answer = answers
            .first()
            .ok_or_else(|| malformed(&operation, &"no answer"))?;
        parse_family(answer).map_err(|error| malformed(&operation, &error))
    }

    /// Asks one thing of a family and waits for the acknowledgement. A dump is
    /// complete or an error.
    pub(crate) fn ask(
        &mut self,
        operation: &str,
        family: u16,
        packet: Packet,
        flags: u16,
    ) -> Result<Vec<Attributes>, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let header = GenlHeader {
            cmd: packet.command,
            version: packet.version,
        };
        let mut message = Message::new(
            NetlinkHeader::default(),
            NetlinkPayload::InnerMessage(GenlMessage::new(header, packet, family)),
        );
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket
            .send_to(&bytes, &SocketAddr::new(0, 0), 0)
            .map_err(system(operation))?;
        self.collect(operation, flags & NLM_F_DUMP == NLM_F_DUMP)
    }

    fn collect(&self, operation: &str, dump: bool) -> Result<Vec<Attributes>, Error> {
        let end = Instant::now() + self.limit;
        let mut answers = Vec::new();
        loop {
            self.wait(operation, end)?;
            let (datagram, _) = self.socket.recv_from_full().map_err(system(operation))?;
            for bytes in messages(&datagram) {
                let message =
                    Message::deserialize(bytes).map_err(|error| malformed(operation, &error))?;
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                let flags = message.header.flags;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner.payload.attributes),
                    NetlinkPayload::Done(done) => {
                        refusal(operation, done.code, String::new())?;
                        return Ok(answers);
                    }
                    NetlinkPayload::Error(error) => {
                        let words = words(flags, &error.header);
                        refusal(operation, error.raw_code(), words)?;
                        if !dump {
                            return Ok(answers);
                        }
                    }
                    NetlinkPayload::Noop => {}
                    NetlinkPayload::Overrun(_) | _ => {
                        return Err(malformed(operation, &"an overrun message"));
                    }
                }
            }
        }
    }

    /// Waits until there is something to read.
    fn wait(&self, operation: &str, end: Instant) -> Result<(), Error> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match nix::poll::poll(&mut fds, timeout) {
                Ok(0) if left.is_zero() => {
                    let operation = operation.to_owned();
                    return Err(Error::Silent {
                        operation,
                        limit: self.limit,
                    });
                }
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(system(operation)(errno.into())),
            }
        }
    }
}

/// A bound socket whose errors come with the kernel's words and without a copy
/// of the request.
fn bound() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.set_cap_ack(true)?;
    socket.set_ext_ack(true)?;
    Ok(socket)
}

/// A socket that only listens to one group of a family.
pub(crate) fn listen(group: u32, buffer: usize) -> Result<Socket, Error> {
    let operation = "listening for notifications";
    let open = || {
        let socket = bound()?;
        socket.set_rx_buf_sz(i32::try_from(buffer).unwrap_or(i32::MAX))?;
        socket.add_membership(group)?;
        socket.set_non_blocking(true)?;
        Ok(socket)
    };
    open().map_err(system(operation))
}

/// The packets of a family in a datagram.
pub(crate) fn packets(datagram: &[u8], family: u16) -> Result<Vec<Packet>, DecodeError> {
    let mut packets = Vec::new();
    for bytes in messages(datagram) {
        if let NetlinkPayload::InnerMessage(inner) = Message::deserialize(bytes)?.payload
            && inner.resolved_family_id() == family
        {
            packets.push(inner.payload);
        }
    }
    Ok(packets)
}

/// Cuts a datagram into messages. What is left over too short for a header is
/// given out as it is, so that parsing it fails.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let length = datagram
            .first_chunk::<4>()
            .map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        let length = usize::try_from(length)
            .unwrap_or(usize::MAX)
            .max(HEADER_LENGTH);
        let end = length.min(datagram.len());
        let next = length.saturating_add(3) & !3;
        let message = &datagram[..end];
        datagram = &datagram[next.min(datagram.len())..];
        Some(message)
    })
}

/// The kernel's words in an error message: they follow the request's header.
fn words(flags: u16, payload: &[u8]) -> String {
    if flags & NLM_F_ACK_TLVS == 0 || flags & NLM_F_CAPPED == 0 {
        return String::new();
    }
    let attributes = payload.get(HEADER_LENGTH..).unwrap_or_default();
    let message = Attributes::parse(attributes).ok().and_then(|all| {
        let message = all.all(ERROR_ATTR_MESSAGE).next().map(text);
        message.and_then(Result::ok)
    });
    message.unwrap_or_default()
}

fn refusal(operation: &str, code: i32, message: String) -> Result<(), Error> {
    if code == 0 {
        return Ok(());
    }
    Err(Error::Refused {
        operation: operation.to_owned(),
        errno: Errno::from_raw(code.saturating_abs()),
        message,
    })
}

fn system(operation: &str) -> impl Fn(io::Error) -> Error {
    let operation = operation.to_owned();
    move |source| Error::System {
        operation: operation.clone(),
        source,
    }
}

pub(crate) fn malformed(operation: &str, what: &dyn std::fmt::Display) -> Error {
    Error::Malformed {
        operation: operation.to_owned(),
        what: what.to_string(),
    }
}

fn parse_family(answer: &Attributes) -> Result<Family, DecodeError> {
    let id = required(answer.get_u16(controller::ATTR_FAMILY_ID)?, "family id")?;
    let mut groups = Vec::new();
    for list in answer.all(controller::ATTR_GROUPS) {
        for (_, group) in Attributes::parse(list)?.entries() {
            let group = Attributes::parse(group)?;
            let name = required(group.get_string(controller::ATTR_GROUP_NAME)?, "group name")?;
            let id = required(group.get_u32(controller::ATTR_GROUP_ID)?, "group id")?;
            groups.push((name, id));
        }
    }
    Ok(Family { id, groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controller_is_found_and_an_unknown_family_is_not_loaded() {
        let mut channel = Channel::open(Duration::from_secs(5)).unwrap();
        let family = channel.family("nlctrl").unwrap();
        assert_eq!(family.id, controller::ID);
        assert_eq!(
            family.groups.first().map(|(name, _)| name.as_str()),
            Some("notify")
        );
        let error = channel.family("no-such-family").unwrap_err();
        assert!(
            matches!(error, Error::NotLoaded("no-such-family")),
            "{error}"
        );
        assert!(
            channel.family("nlctrl").is_ok(),
            "the socket goes on after an error"
        );
    }

    #[test]
    fn a_dump_ends_with_all_entries() {
        let mut channel = Channel::open(Duration::from_secs(5)).unwrap();
        let packet = Packet {
            command: controller::GET_FAMILY,
            version: controller::VERSION,
            attributes: Attributes::new(),
        };
        let all = channel
            .ask("dump", controller::ID, packet, NLM_F_DUMP)
            .unwrap();
        let name = |entry: &Attributes| entry.get_string(controller::ATTR_FAMILY_NAME).unwrap();
        assert!(
            all.iter()
                .any(|entry| name(entry).as_deref() == Some("nlctrl"))
        );
    }

    #[test]
    fn the_kernels_words_are_taken_from_an_error() {
        let mut payload = vec![0; HEADER_LENGTH];
        payload.extend([9, 0, 1, 0, b'b', b'u', b's', b'y', 0, 0, 0, 0]);
        let flags = NLM_F_ACK_TLVS | NLM_F_CAPPED;
        assert_eq!(words(flags, &payload), "busy");
        assert_eq!(words(0, &payload), "");
        assert_eq!(words(flags, &payload[..10]), "");
    }

    #[test]
    fn datagrams_are_cut_by_their_lengths() {
        let mut two = vec![0; 20];
        two[0] = 17;
        two.extend([16; 16]);
        two[20..24].copy_from_slice(&16u32.to_ne_bytes());
        let lengths: Vec<_> = messages(&two).map(<[u8]>::len).collect();
        assert_eq!(lengths, [17, 16]);
        let lengths: Vec<_> = messages(&[0xff; 40]).map(<[u8]>::len).collect();
        assert_eq!(lengths, [40]);
        assert_eq!(messages(&[0; 3]).count(), 1);
    }
}
