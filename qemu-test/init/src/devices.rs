// SPDX-License-Identifier: GPL-2.0-only
//! The links in `/dev` that programs expect and the kernel does not make: a very small udev.
//!
//! | Device | Link | Mode |
//! | --- | --- | --- |
//! | misc devices `dlm-*` | `/dev/misc/NAME` | 0666 |
//! | misc devices `dlm_*` | `/dev/misc/NAME` | 0660 |
//! | virtio-serial ports | `/dev/virtio-ports/PORTNAME` | as made |
//!
//! Kept up to date from the kernel's uevents for as long as the node runs. [`Listener::open`] comes
//! before the first [`scan`]: what appears in between is then seen twice, never missed.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::NetlinkAddr;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockProtocol;
use nix::sys::socket::SockType;
use nix::sys::socket::bind;
use nix::sys::socket::recv;
use nix::sys::socket::socket;

const MISC_DIR: &str = "/dev/misc";
/// Where programs look for virtio-serial ports by name.
pub const PORTS_DIR: &str = "/dev/virtio-ports";
const PORTS_CLASS: &str = "/sys/class/virtio-ports";

/// The kernel's multicast group of uevents.
const UEVENT_GROUP: u32 = 1;

/// A uevent is at most 2 KiB of environment and a path.
const UEVENT_LEN_MAX: usize = 8192;

/// What of a uevent matters here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Uevent {
    action: String,
    subsystem: String,
    device: String,
}

/// Receives the kernel's uevents.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
}

impl Listener {
    /// Starts to receive.
    pub fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, UEVENT_GROUP))?;
        Ok(Listener { socket })
    }

    /// Keeps the links up to date; returns only if the socket breaks.
    pub fn run(self) -> io::Error {
        let mut buffer = vec![0; UEVENT_LEN_MAX];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(len) => handle(&parse(&buffer[..len])),
                Err(Errno::EINTR) => {}
                // Events were lost: look at everything again.
                Err(Errno::ENOBUFS) => scan(),
                Err(error) => return error.into(),
            }
        }
    }
}

/// Makes the links of everything that exists.
pub fn scan() {
    if let Ok(text) = fs::read_to_string("/proc/misc") {
        for name in text
            .lines()
            .filter_map(|line| line.split_whitespace().nth(1))
        {
            link_misc(name);
        }
    }
    link_ports();
}

/// The device of the virtio-serial port `name`, if it is there.
pub fn find_port(name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(PORTS_CLASS).ok()?;
    entries.flatten().find_map(|entry| {
        let text = fs::read_to_string(entry.path().join("name")).ok()?;
        (text.trim() == name).then(|| Path::new("/dev").join(entry.file_name()))
    })
}

/// A uevent is a header and `KEY=value` strings, each ended by a NUL.
fn parse(bytes: &[u8]) -> Uevent {
    let mut event = Uevent::default();
    for field in bytes.split(|byte| *byte == 0) {
        let field = String::from_utf8_lossy(field);
        match field.split_once('=') {
            Some(("ACTION", value)) => event.action = value.to_owned(),
            Some(("SUBSYSTEM", value)) => event.subsystem = value.to_owned(),
            Some(("DEVNAME", value)) => event.device = value.to_owned(),
            Some(_) | None => {}
        }
    }
    event
}

fn handle(event: &Uevent) {
    match (event.subsystem.as_str(), event.action.as_str()) {
        ("misc", "add") => link_misc(&event.device),
        ("misc", "remove") if misc_mode(&event.device).is_some() => {
            remove_link(&Path::new(MISC_DIR).join(&event.device));
        }
        ("virtio-ports", _) => link_ports(),
        (_, _) => {}
    }
}

/// The mode the distribution's udev rule gives to a misc device of the lock manager.
fn misc_mode(name: &str) -> Option<u32> {
    if name.starts_with("dlm-") {
        Some(0o666)
    } else if name.starts_with("dlm_") {
        Some(0o660)
    } else {
        None
    }
}

fn link_misc(name: &str) {
    let Some(mode) = misc_mode(name) else {
        return;
    };
    let device = Path::new("/dev").join(name);
    // It may be gone again already.
    if fs::set_permissions(&device, fs::Permissions::from_mode(mode)).is_ok() {
        make_link(&Path::new("..").join(name), &Path::new(MISC_DIR).join(name));
    }
}

fn link_ports() {
    let Ok(entries) = fs::read_dir(PORTS_CLASS) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(name) = fs::read_to_string(entry.path().join("name")) else {
            continue;
        };
        let link = Path::new(PORTS_DIR).join(name.trim());
        make_link(&Path::new("..").join(entry.file_name()), &link);
    }
}

fn make_link(target: &Path, link: &Path) {
    let made = link
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| symlink(target, link));
    match made {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => complain(&format!("linking {}: {error}", link.display())),
    }
}

fn remove_link(link: &Path) {
    match fs::remove_file(link) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => complain(&format!("removing {}: {error}", link.display())),
    }
}

/// Says something in the kernel log, and so on the console. Level 4 is "warning".
pub fn complain(text: &str) {
    // There is nowhere else to say that this failed.
    let _ = fs::write("/dev/kmsg", format!("<4>conclave-init: {text}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_uevent_are_found() {
        let bytes = b"add@/devices/virtual/misc/dlm_x\0ACTION=add\0DEVPATH=/devices/virtual/misc/\
            dlm_x\0SUBSYSTEM=misc\0MAJOR=10\0DEVNAME=dlm_x\0SEQNUM=9\0";
        let event = parse(bytes);
        assert_eq!(event.action, "add");
        assert_eq!(event.subsystem, "misc");
        assert_eq!(event.device, "dlm_x");
    }

    #[test]
    fn only_devices_of_the_lock_manager_are_linked() {
        assert_eq!(misc_mode("dlm-control"), Some(0o666));
        assert_eq!(misc_mode("dlm_plock"), Some(0o660));
        assert_eq!(misc_mode("dlm_default"), Some(0o660));
        assert_eq!(misc_mode("hpet"), None);
    }

    #[test]
    fn garbage_is_no_event() {
        assert_eq!(parse(&[0xff, 0, b'=', 0, 0]), Uevent::default());
    }
}
