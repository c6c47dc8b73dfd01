// SPDX-License-Identifier: GPL-2.0-only
//! The family's notifications.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::RawFd;
use std::time::Duration;

use dlm_uapi::netlink;
use dlm_uapi::netlink::Attr;
use dlm_uapi::netlink::Command;
use dlm_uapi::netlink::Suspicion;
use netlink_packet_core::DecodeError;
use netlink_sys::Socket;
use nix::errno::Errno;

use crate::attributes::Attributes;
use crate::attributes::Packet;
use crate::attributes::required;
use crate::client::slots;
use crate::error::Error;
use crate::socket;
use crate::socket::Channel;
use crate::types::Slot;

/// Receive buffer: a join and a leave of every lockspace there can be, many
/// times over. When it is too small nevertheless, [`Error::Lost`] says so.
const BUFFER: usize = 1024 * 1024;

/// How long looking the family up may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Something the module tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A lockspace is created here and waits for an answer.
    Join {
        /// Which.
        lockspace: String,
        /// Its flags.
        flags: u32,
    },
    /// The last user releases a lockspace and waits for an answer.
    Leave {
        /// Which.
        lockspace: String,
        /// The leaver asks that others recover as if it had failed.
        release_recover: bool,
    },
    /// A recovery ended.
    Recovered {
        /// Of which lockspace.
        lockspace: String,
        /// 0, or a negative errno.
        result: i32,
        /// Generation the members agreed on.
        generation: u32,
        /// Number of the start it belongs to.
        recover_seq: u64,
        /// How long it took.
        milliseconds: u32,
        /// Members and their slots.
        slots: Vec<Slot>,
    },
    /// Something is odd about a peer.
    Peer {
        /// Which.
        node: u32,
        /// What.
        suspicion: Suspicion,
    },
}

/// A socket that listens. Its descriptor is readable when [`Events::receive`] has
/// something, and never blocks.
#[derive(Debug)]
pub struct Events {
    socket: Socket,
    family: u16,
    queue: std::collections::VecDeque<Event>,
}

impl Events {
    /// Starts listening.
    ///
    /// # Errors
    /// [`Error::NotLoaded`] without the module; [`Error::System`].
    pub fn open() -> Result<Self, Error> {
        let family = Channel::open(LIMIT)?.family(netlink::FAMILY)?;
        let group = family
            .groups
            .iter()
            .find(|(name, _)| name == netlink::GROUP);
        let (_, group) = group
            .ok_or_else(|| socket::malformed("listening", &"the family has no group `events`"))?;
        Ok(Self {
            socket: socket::listen(*group, BUFFER)?,
            family: family.id,
            queue: std::collections::VecDeque::new(),
        })
    }

    /// The next notification, or none for now. Unknown ones are skipped.
    ///
    /// # Errors
    /// [`Error::Lost`] once when some were lost; the socket goes on.
    pub fn receive(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(Some(event));
            }
            let datagram = match self.socket.recv_from_full() {
                Ok((datagram, sender)) if sender.port_number() == 0 => datagram,
                Ok(_) => continue,
                Err(error) => return nothing(error),
            };
            let events = decode(&datagram, self.family);
            let malformed = |error| socket::malformed("a notification", &error);
            self.queue.extend(events.map_err(malformed)?);
        }
    }
}

/// What an error of the socket means.
fn nothing(error: io::Error) -> Result<Option<Event>, Error> {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EAGAIN | Errno::EINTR) => Ok(None),
        Some(Errno::ENOBUFS) => Err(Error::Lost),
        Some(_) | None => {
            let operation = "reading notifications".to_owned();
            Err(Error::System {
                operation,
                source: error,
            })
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn decode(datagram: &[u8], family: u16) -> Result<Vec<Event>, DecodeError> {
    let mut events = Vec::new();
    for packet in socket::packets(datagram, family)? {
        events.extend(event(&packet)?);
    }
    Ok(events)
}

fn lockspace(attributes: &Attributes) -> Result<String, DecodeError> {
    required(attributes.get_string(Attr::LsName)?, "ls-name")
}

fn event(packet: &Packet) -> Result<Option<Event>, DecodeError> {
    let all = &packet.attributes;
    Ok(Some(match Command::from_raw(packet.command) {
        Some(Command::LsJoinNtf) => Event::Join {
            lockspace: lockspace(all)?,
            flags: all.get_u32(Attr::LsFlags)?.unwrap_or(0),
        },
        Some(Command::LsLeaveNtf) => Event::Leave {
            lockspace: lockspace(all)?,
            release_recover: all.get_u8(Attr::ReleaseRecover)?.unwrap_or(0) != 0,
        },
        Some(Command::LsRecoveredNtf) => Event::Recovered {
            lockspace: lockspace(all)?,
            result: required(all.get_i32(Attr::Result)?, "result")?,
            generation: all.get_u32(Attr::Generation)?.unwrap_or(0),
            recover_seq: all.get_u64(Attr::RecoverSeq)?.unwrap_or(0),
            milliseconds: all.get_u32(Attr::RecoverMs)?.unwrap_or(0),
            slots: slots(all)?,
        },
        Some(Command::PeerNtf) => Event::Peer {
            node: required(all.get_u32(Attr::NodeId)?, "node-id")?,
            suspicion: all
                .get_u32(Attr::Suspicion)?
                .and_then(Suspicion::from_raw)
                .unwrap_or(Suspicion::None),
        },
        // Unknown, or no notification.
        None
        | Some(
            Command::Claim
            | Command::ClusterSet
            | Command::NodeSet
            | Command::NodeDel
            | Command::QuorumSet
            | Command::LsStop
            | Command::LsStart
            | Command::LsAnswer
            | Command::LsGet
            | Command::NodeGet
            | Command::StatusGet,
        ) => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(command: impl Into<u8>, attributes: Attributes) -> Packet {
        Packet {
            command: command.into(),
            version: 1,
            attributes,
        }
    }

    #[test]
    fn each_notification_is_understood() {
        let name = || Attributes::new().string(Attr::LsName, "web");
        let join = packet(Command::LsJoinNtf, name().u32(Attr::LsFlags, 4));
        let expected = Event::Join {
            lockspace: "web".into(),
            flags: 4,
        };
        assert_eq!(event(&join).unwrap(), Some(expected));
        let leave = packet(Command::LsLeaveNtf, name().u8(Attr::ReleaseRecover, 1));
        let expected = Event::Leave {
            lockspace: "web".into(),
            release_recover: true,
        };
        assert_eq!(event(&leave).unwrap(), Some(expected));
        let peer = Attributes::new()
            .u32(Attr::NodeId, 2)
            .u32(Attr::Suspicion, 1);
        let expected = Event::Peer {
            node: 2,
            suspicion: Suspicion::Reset,
        };
        assert_eq!(
            event(&packet(Command::PeerNtf, peer)).unwrap(),
            Some(expected)
        );
    }

    #[test]
    fn incomplete_ones_are_errors_and_unknown_ones_are_skipped() {
        assert!(event(&packet(Command::LsJoinNtf, Attributes::new())).is_err());
        assert_eq!(event(&packet(200_u8, Attributes::new())).unwrap(), None);
    }
}
