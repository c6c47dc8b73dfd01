// SPDX-License-Identifier: GPL-2.0-only
//! Which module is loaded, and so which backend there is; loads one if none is.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use nix::mount::MsFlags;

use super::Identity;
use super::Kernel;
use super::KernelError;
use super::configfs;
use super::configfs::Configfs;
use super::events::KernelEvents;
use super::files::RealFiles;
use super::netlink::Netlink;

/// Where configfs is mounted.
const MOUNT_POINT: &str = "/sys/kernel/config";

/// A backend and its notifications.
pub(crate) type Chosen = (Arc<dyn Kernel>, KernelEvents);

/// The backend for the module that is loaded.
///
/// # Errors
/// [`KernelError::NoModule`] when none is and none may be loaded.
pub(crate) fn choose(identity: &Identity, load: bool) -> Result<Chosen, KernelError> {
    if let Some(chosen) = present(identity)? {
        return Ok(chosen);
    }
    if load {
        modprobe("configfs")?;
        mount_configfs()?;
        modprobe("dlm")?;
        if let Some(chosen) = present(identity)? {
            return Ok(chosen);
        }
    }
    Err(KernelError::NoModule {
        path: configfs::CONFIGFS.into(),
    })
}

fn present(identity: &Identity) -> Result<Option<Chosen>, KernelError> {
    match Netlink::open() {
        Ok(netlink) => return Ok(Some((Arc::new(netlink), KernelEvents::netlink()?))),
        Err(KernelError::Netlink(dlm_client::Error::NotLoaded(_))) => {}
        Err(error) => return Err(error),
    }
    if !Path::new(configfs::CONFIGFS).is_dir() {
        return Ok(None);
    }
    let backend = Configfs::new(RealFiles, identity.clone());
    Ok(Some((Arc::new(backend), KernelEvents::uevents()?)))
}

fn modprobe(module: &'static str) -> Result<(), KernelError> {
    let failed = |why: String| KernelError::Load { module, why };
    let output = Command::new("modprobe").arg(module).output();
    let output = output.map_err(|error| failed(format!("running modprobe: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}

/// Mounts configfs where the system has not.
fn mount_configfs() -> Result<(), KernelError> {
    let point = Path::new(MOUNT_POINT);
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let is_mounted = |line: &str| line.split(' ').nth(1) == Some(MOUNT_POINT);
    if mounts.lines().any(is_mounted) || !point.is_dir() {
        return Ok(());
    }
    let none: Option<&str> = None;
    nix::mount::mount(
        Some("configfs"),
        point,
        Some("configfs"),
        MsFlags::empty(),
        none,
    )
    .map_err(|errno| KernelError::File {
        action: "mounting configfs on",
        path: point.to_owned(),
        source: errno.into(),
    })
}
