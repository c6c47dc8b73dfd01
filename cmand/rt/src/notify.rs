// SPDX-License-Identifier: GPL-2.0-only
//! Tells the service manager where a daemon stands (systemd's notify protocol).
//!
//! A datagram to the socket named by `NOTIFY_SOCKET`; without it nothing is sent.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixDatagram;

/// What there is to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Start-up is over; clients can connect.
    Ready,
    /// The daemon is ending.
    Stopping,
    /// One line for `systemctl status`.
    Status(String),
}

impl State {
    fn line(&self) -> String {
        match self {
            Self::Ready => "READY=1\n".to_owned(),
            Self::Stopping => "STOPPING=1\n".to_owned(),
            Self::Status(text) => format!("STATUS={}\n", text.replace('\n', " ")),
        }
    }
}

/// Tells it. Failures are logged: a missing manager must not stop the cluster.
pub fn notify(state: &State) {
    if let Some(name) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = send(&name, state)
    {
        tracing::warn!(socket = ?name, %error, "telling the service manager failed");
    }
}

fn send(name: &OsStr, state: &State) -> io::Result<()> {
    let address = match name.as_bytes() {
        [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.line().as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abstract_socket_gets_the_state() {
        let name = format!("conclave-notify-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        send(OsStr::new(&format!("@{name}")), &State::Ready).unwrap();
        send(
            OsStr::new(&format!("@{name}")),
            &State::Status("a\nb".to_owned()),
        )
        .unwrap();
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1\n");
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"STATUS=a b\n");
    }
}
