// SPDX-License-Identifier: GPL-2.0-only
//! The UDP socket of this node, and the wait for the address it is bound to.
//!
//! At boot an address may come seconds after cmand: from DHCP, on an interface that waits for its
//! switch, or as an IPv6 address that is still tentative. All of these refuse the same way, so the
//! membership thread tries again, and no core runs before: a node that nobody can hear must not
//! found a view, not even one of itself. What the service commands meanwhile is held for the core,
//! but for what has an answer without one. Not here: an address that goes away later, which counts
//! as a silent network.

use std::net::SocketAddr;
use std::net::UdpSocket;
use std::os::fd::AsFd;

use cluster_rt::config::Node;
use cmand_core::Config;
use cmand_core::Core;
use cmand_core::RequestError;
use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt;
use tokio::sync::mpsc::UnboundedSender;

use crate::Error;
use crate::engine::Command;
use crate::engine::Notice;
use crate::engine::clock;
use crate::mailbox;

/// Room for what comes while the thread is not scheduled: seconds of heartbeats
/// and some bursts of messages of a full cluster.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// Between two attempts. A failed one costs a system call or two, and a detection time is longer.
const PAUSE_MS: u16 = 500;

/// Commands held for the core at most: more than all clients of a node ask before the first view.
const HELD_LIMIT: usize = 1024;

/// Where this node sends from and receives at.
#[derive(Debug)]
pub(crate) struct Address(SocketAddr);

impl Address {
    pub(crate) fn new(node: &Node, port: u16) -> Self {
        Self(SocketAddr::new(node.address, port))
    }

    /// Opens the UDP socket. None: the address is not there yet.
    pub(crate) fn bind(&self) -> Result<Option<UdpSocket>, Error> {
        let socket = match UdpSocket::bind(self.0) {
            Ok(socket) => socket,
            Err(source) if source.kind() == std::io::ErrorKind::AddrNotAvailable => {
                return Ok(None);
            }
            Err(source) if source.kind() == std::io::ErrorKind::AddrInUse => {
                return Err(Error::PortInUse { address: self.0 });
            }
            Err(source) => {
                let what = "opening the UDP socket";
                return Err(Error::System { what, source });
            }
        };
        prepare(&socket).map_err(|source| Error::System {
            what: "preparing the UDP socket",
            source,
        })?;
        Ok(Some(socket))
    }

    /// What a node without its address waits for, one sentence.
    pub(crate) fn missing(&self) -> String {
        let address = self.0.ip();
        format!(
            "address {address} is not on any interface yet; waiting. If it never will be, \
             correct the [[node]] section"
        )
    }
}

fn prepare(socket: &UdpSocket) -> std::io::Result<()> {
    socket.set_nonblocking(true)?;
    let forced = setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
    if forced.is_err() {
        // Without the privilege: as much as the system allows.
        setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
    }
    Ok(())
}

/// Waits in the membership thread until the address is there; gives the socket and what was
/// commanded meanwhile, in order. None: the daemon ends.
pub(crate) fn wait(
    address: &Address,
    config: &Config,
    commands: &mailbox::Receiver<Command>,
    notices: &UnboundedSender<Notice>,
) -> Option<(UdpSocket, Vec<Command>)> {
    let missing = address.missing();
    tracing::warn!("{missing}");
    let notice = |notice| {
        // Without a service the daemon is ending.
        let _ = notices.send(notice);
    };
    notice(Notice::Waiting {
        reason: missing.clone(),
    });
    let mut waiting = Waiting {
        idle: Core::new(config.clone(), clock()),
        missing,
        held: Vec::new(),
    };
    loop {
        let mut files = [PollFd::new(commands.as_fd(), PollFlags::POLLIN)];
        match poll(&mut files, PollTimeout::from(PAUSE_MS)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => panic!("poll on our own file fails: {errno}"),
        }
        for command in commands.take()? {
            waiting.take(command).into_iter().for_each(notice);
        }
        match address.bind() {
            Ok(None) => {}
            Ok(Some(socket)) => {
                tracing::info!(address = %address.0.ip(), "the address is there");
                return Some((socket, waiting.held));
            }
            Err(error) => {
                notice(Notice::Failed(error));
                return None;
            }
        }
    }
}

/// Takes commands while there is no core that runs.
struct Waiting {
    /// Tells what a core that has not begun would.
    idle: Core,
    missing: String,
    held: Vec<Command>,
}

impl Waiting {
    /// The answer to a command, if it is not held.
    fn take(&mut self, command: Command) -> Vec<Notice> {
        match command {
            Command::Turn => vec![Notice::Turned],
            Command::Status { caller, nodes } => {
                let mut status = Box::new(self.idle.status(clock()));
                status.reason.clone_from(&self.missing);
                vec![Notice::Status {
                    caller,
                    nodes,
                    status,
                }]
            }
            // Nobody knows of this node: there is nobody to tell.
            Command::Leave { caller, .. } => {
                let result = Ok(());
                let answer = caller.map(|caller| Notice::Answer { caller, result });
                answer.into_iter().chain([Notice::Left]).collect()
            }
            Command::FailGroup { group } => {
                self.held.retain(|held| held.group() != Some(&group));
                Vec::new()
            }
            Command::WatchEnded { .. } | Command::KeepOut { .. } => {
                // The last one of a kind says all.
                let kind = std::mem::discriminant(&command);
                self.held
                    .retain(|held| std::mem::discriminant(held) != kind);
                self.held.push(command);
                Vec::new()
            }
            Command::Join { caller, .. }
            | Command::Send { caller, .. }
            | Command::LeaveGroup { caller, .. }
            | Command::AcceptConfig { caller }
                if self.held.len() >= HELD_LIMIT =>
            {
                let result = Err(RequestError::Full);
                vec![Notice::Answer { caller, result }]
            }
            Command::Probe { token, .. } if self.held.len() >= HELD_LIMIT => {
                let error = RequestError::Full;
                vec![Notice::NotProbed { token, error }]
            }
            Command::Join { .. }
            | Command::Send { .. }
            | Command::LeaveGroup { .. }
            | Command::AcceptConfig { .. }
            | Command::Probe { .. } => {
                self.held.push(command);
                Vec::new()
            }
        }
    }
}
