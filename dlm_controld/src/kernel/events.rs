// SPDX-License-Identifier: GPL-2.0-only
//! What the kernel asks and reports, from whichever socket the module uses.

use std::io;

use netlink_sys::Socket;
use nix::errno::Errno;
use tokio::io::unix::AsyncFd;

use super::KernelError;
use super::event::KernelEvent;
use super::uevent;
use super::watch::watch;

/// Where they come from.
pub(crate) enum KernelEvents {
    Netlink(AsyncFd<dlm_client::Events>),
    Uevents(AsyncFd<Socket>),
    /// A test's.
    #[cfg(test)]
    Channel(tokio::sync::mpsc::UnboundedReceiver<KernelEvent>),
}

fn failed(source: io::Error) -> KernelError {
    KernelError::File {
        action: "listening to",
        path: "the kernel".into(),
        source,
    }
}

impl KernelEvents {
    pub(crate) fn netlink() -> Result<Self, KernelError> {
        let events = dlm_client::Events::open()?;
        Ok(Self::Netlink(watch(events).map_err(failed)?))
    }

    pub(crate) fn uevents() -> Result<Self, KernelError> {
        let socket = uevent::listen().map_err(failed)?;
        Ok(Self::Uevents(watch(socket).map_err(failed)?))
    }

    /// The next one. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Result<KernelEvent, KernelError> {
        loop {
            if let Some(event) = self.take()? {
                return Ok(event);
            }
            match self {
                Self::Netlink(events) => {
                    events.readable_mut().await.map_err(failed)?.clear_ready();
                }
                Self::Uevents(socket) => {
                    socket.readable_mut().await.map_err(failed)?.clear_ready();
                }
                #[cfg(test)]
                Self::Channel(events) => match events.recv().await {
                    Some(event) => return Ok(event),
                    None => std::future::pending().await,
                },
            }
            // Readiness was cleared before it is read again: what came between
            // sets it anew.
            if let Some(event) = self.take()? {
                return Ok(event);
            }
        }
    }

    /// One that is there already.
    pub(crate) fn take(&mut self) -> Result<Option<KernelEvent>, KernelError> {
        match self {
            Self::Netlink(events) => take_netlink(events.get_mut()),
            Self::Uevents(socket) => take_uevent(socket.get_ref()),
            #[cfg(test)]
            Self::Channel(events) => Ok(events.try_recv().ok()),
        }
    }
}

fn take_netlink(events: &mut dlm_client::Events) -> Result<Option<KernelEvent>, KernelError> {
    let event = match events.receive() {
        Ok(Some(event)) => event,
        Ok(None) => return Ok(None),
        Err(dlm_client::Error::Lost) => return Ok(Some(KernelEvent::Lost)),
        Err(error) => return Err(error.into()),
    };
    Ok(Some(match event {
        dlm_client::Event::Join { lockspace, flags } => KernelEvent::Join {
            name: lockspace,
            flags,
        },
        dlm_client::Event::Leave {
            lockspace,
            release_recover,
        } => KernelEvent::Leave {
            name: lockspace,
            recover: release_recover,
        },
        dlm_client::Event::Recovered {
            lockspace,
            result,
            milliseconds,
            ..
        } => KernelEvent::Recovered {
            name: lockspace,
            result,
            milliseconds,
        },
        dlm_client::Event::Peer { node, suspicion } => KernelEvent::Peer {
            node,
            what: suspicion.to_string(),
        },
    }))
}

fn take_uevent(socket: &Socket) -> Result<Option<KernelEvent>, KernelError> {
    loop {
        match socket.recv_from_full() {
            Ok((datagram, sender)) if sender.port_number() == 0 => {
                if let Some(event) = uevent::parse(&datagram) {
                    return Ok(Some(event));
                }
            }
            Ok(_) => {}
            Err(error) => {
                return match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EAGAIN) => Ok(None),
                    Some(Errno::EINTR) => continue,
                    Some(Errno::ENOBUFS) => Ok(Some(KernelEvent::Lost)),
                    Some(_) | None => Err(failed(error)),
                };
            }
        }
    }
}
