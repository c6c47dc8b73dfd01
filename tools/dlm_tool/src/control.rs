// SPDX-License-Identifier: GPL-2.0-only
//! The device by which programs create and release lockspaces, version 6.
//!
//! | Offset | Field |
//! |---|---|
//! | 0 | version, three u32 in host byte order |
//! | 12 | command: create 4, remove 5 |
//! | 13 | 1: written by a 64-bit program |
//! | 16, 20 | flags, minor: u32 |
//! | 24 | name, zero-terminated |
//!
//! A request has 120 bytes and as many more as the name. The kernel answers a
//! creation with the minor of the lockspace's own device instead of a length.

use std::fs::File;
use std::fs::OpenOptions;
use std::fs::Permissions;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use dlm_client::device;

/// Name of the device.
const DEVICE: &str = "dlm-control";
/// Version of the interface that this program speaks; the rest may differ.
const MAJOR: u32 = 6;
/// Length of a request without a name.
const REQUEST_LENGTH: usize = 120;
/// Where udev's rule for these devices makes links.
const LINKS: &str = "/dev/misc";
/// How long udev may take, as programs of this field wait for it.
const LINK_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// Longest name.
const NAME_LIMIT: usize = 64;

const CREATE: u8 = 4;
const REMOVE: u8 = 5;
/// Release although this node's programs hold locks.
const FORCE: u32 = 2;

/// The lockspace must not exist yet.
pub(crate) const NEW_EXCLUSIVE: u32 = 8;
/// As file systems do.
pub(crate) const FS: u32 = 4;

pub(crate) fn flags(exclusive: bool, fs: bool) -> u32 {
    (u32::from(exclusive) * NEW_EXCLUSIVE) | (u32::from(fs) * FS)
}

/// The device, opened.
pub(crate) struct Control {
    file: File,
    version: [u8; 12],
}

impl Control {
    pub(crate) fn open() -> anyhow::Result<Self> {
        let mut file = device::open(DEVICE, OpenOptions::new().read(true).write(true))?;
        let mut version = [0; 12];
        file.read_exact(&mut version)
            .context("reading the version of dlm-control")?;
        let major = u32::from_ne_bytes([version[0], version[1], version[2], version[3]]);
        if major != MAJOR {
            bail!("the kernel's device interface is of version {major}, this tool speaks {MAJOR}");
        }
        Ok(Self { file, version })
    }

    /// Creates or joins a lockspace; returns when this node is a member.
    pub(crate) fn create(&mut self, name: &str, flags: u32) -> anyhow::Result<usize> {
        check(name)?;
        let request = request(self.version, CREATE, flags, 0, name);
        let minor = self.file.write(&request);
        minor.with_context(|| format!("joining lockspace {name:?}"))
    }

    /// Releases a lockspace; returns when this node has left.
    pub(crate) fn remove(&mut self, name: &str) -> anyhow::Result<()> {
        check(name)?;
        let minor = u32::try_from(device::minor(&device_name(name))?)?;
        let request = request(self.version, REMOVE, FORCE, minor, name);
        let done = self.file.write(&request);
        done.map(|_| ())
            .with_context(|| format!("leaving lockspace {name:?}"))
    }
}

fn device_name(name: &str) -> String {
    format!("dlm_{name}")
}

/// Sets the permission of a lockspace's device.
///
/// Where udev's rule is installed it sets one of its own, a moment after the
/// device appeared; its link is the sign that it has.
pub(crate) fn set_mode(name: &str, mode: u32) -> anyhow::Result<()> {
    let device = device_name(name);
    if Path::new(LINKS).join(DEVICE).exists() {
        let end = Instant::now() + LINK_LIMIT;
        while !Path::new(LINKS).join(&device).exists() && Instant::now() < end {
            std::thread::sleep(LOOK);
        }
    }
    let node = device::node(&device)?;
    std::fs::set_permissions(&node, Permissions::from_mode(mode))
        .with_context(|| format!("setting the permission of {}", node.display()))
}

fn check(name: &str) -> anyhow::Result<()> {
    if name.is_empty() || name.len() > NAME_LIMIT || name.contains(['\0', '/']) {
        bail!(
            "lockspace name {name:?}: 1 to {NAME_LIMIT} bytes without zero and slash are possible"
        );
    }
    Ok(())
}

fn request(version: [u8; 12], command: u8, flags: u32, minor: u32, name: &str) -> Vec<u8> {
    let mut bytes = vec![0; REQUEST_LENGTH + name.len()];
    bytes[..12].copy_from_slice(&version);
    bytes[12] = command;
    bytes[13] = 1;
    bytes[16..20].copy_from_slice(&flags.to_ne_bytes());
    bytes[20..24].copy_from_slice(&minor.to_ne_bytes());
    bytes[24..24 + name.len()].copy_from_slice(name.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_their_golden_bytes() {
        let mut version = [0; 12];
        version[0] = 6;
        version[8] = 2;
        let bytes = request(version, REMOVE, FORCE, 0x0102, "web");
        assert_eq!(bytes.len(), 123);
        #[rustfmt::skip]
        let head = [
            6, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 5, 1, 0, 0,
            2, 0, 0, 0, 2, 1, 0, 0, b'w', b'e', b'b', 0,
        ];
        assert_eq!(bytes[..28], head);
        assert!(bytes[28..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn names_the_device_would_misread_are_refused() {
        assert!(check("web").is_ok());
        for bad in ["", "a/b", "a\0", &"x".repeat(65)] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn flags_are_the_kernels() {
        assert_eq!(
            [flags(false, false), flags(true, false), flags(true, true)],
            [0, 8, 12]
        );
    }
}
