// SPDX-License-Identifier: GPL-2.0-only
//! The in-tree module's notifications: uevents of subsystem `dlm`.
//!
//! A datagram is `ACTION@DEVPATH`, a zero byte, then `KEY=VALUE` entries with a
//! zero byte each. Only what the kernel itself sent counts.

use netlink_sys::Socket;
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_KOBJECT_UEVENT;

use super::event::KernelEvent;

/// The kernel's own multicast group; udev's is another.
const GROUP: u32 = 1;

/// Receive buffer: a storm of other devices' events must not push ours out.
const BUFFER: i32 = 8 * 1024 * 1024;

/// Opens the socket.
///
/// # Errors
/// The system's.
pub(crate) fn listen() -> std::io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_KOBJECT_UEVENT)?;
    socket.set_rx_buf_sz(BUFFER)?;
    socket.bind(&SocketAddr::new(0, GROUP))?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// What a datagram says, if it is for us.
pub(crate) fn parse(datagram: &[u8]) -> Option<KernelEvent> {
    let text = std::str::from_utf8(datagram).ok()?;
    let value = |key: &str| {
        let mut entries = text.split('\0').skip(1);
        entries.find_map(|entry| entry.strip_prefix(key)?.strip_prefix('='))
    };
    if value("SUBSYSTEM")? != "dlm" {
        return None;
    }
    value("DEVPATH")?;
    let name = value("LOCKSPACE")
        .filter(|name| !name.is_empty())?
        .to_owned();
    match value("ACTION")? {
        "online" => Some(KernelEvent::Join { name, flags: 0 }),
        "offline" => {
            let recover = value("RELEASE_RECOVER").is_some_and(|value| value != "0");
            Some(KernelEvent::Leave { name, recover })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn datagram(action: &str, extra: &[&str]) -> Vec<u8> {
        let mut text = format!("{action}@/kernel/dlm/web\0ACTION={action}\0");
        text += "DEVPATH=/kernel/dlm/web\0SUBSYSTEM=dlm\0";
        for entry in extra {
            text += &format!("{entry}\0");
        }
        text += "LOCKSPACE=web\0SEQNUM=7\0";
        text.into_bytes()
    }

    #[test]
    fn online_and_offline_are_join_and_leave() {
        let name = || "web".to_owned();
        let join = KernelEvent::Join {
            name: name(),
            flags: 0,
        };
        assert_eq!(parse(&datagram("online", &[])), Some(join));
        let cases: [(&[&str], bool); 3] = [
            (&[], false),
            (&["RELEASE_RECOVER=0"], false),
            (&["RELEASE_RECOVER=1"], true),
        ];
        for (extra, recover) in cases {
            let leave = KernelEvent::Leave {
                name: name(),
                recover,
            };
            assert_eq!(parse(&datagram("offline", extra)), Some(leave), "{extra:?}");
        }
    }

    #[test]
    fn other_events_are_not_for_us() {
        assert_eq!(parse(&datagram("add", &[])), None);
        assert_eq!(parse(&datagram("remove", &[])), None);
        let block = b"online@/x\0ACTION=online\0DEVPATH=/x\0SUBSYSTEM=block\0LOCKSPACE=web\0";
        assert_eq!(parse(block), None);
        let nameless = b"online@/x\0ACTION=online\0DEVPATH=/x\0SUBSYSTEM=dlm\0LOCKSPACE=\0";
        assert_eq!(parse(nameless), None);
        assert_eq!(parse(b""), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
