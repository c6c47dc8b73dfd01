// SPDX-License-Identifier: GPL-2.0-only
//! The node's one network interface, set up with `ip` (of iproute2 or busybox).

use std::path::Path;
use std::process::Command;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

use crate::boot::SEARCH_PATH;
use crate::boot::wait_for;

/// Brings up loopback, and `link` with `address` if there is one. Runs before init has threads, so
/// nobody else reaps these children.
pub fn configure(link: &str, address: Option<&str>) -> Result<()> {
    ip(&["link", "set", "lo", "up"])?;
    let Some(address) = address else {
        return Ok(());
    };
    let device = Path::new("/sys/class/net").join(link);
    if wait_for(|| device.exists().then_some(())).is_none() {
        bail!("no network interface {link} appeared; is its driver in /modules.list?");
    }
    ip(&["addr", "add", address, "dev", link])?;
    ip(&["link", "set", link, "up"])
}

fn ip(arguments: &[&str]) -> Result<()> {
    let what = || format!("ip {}", arguments.join(" "));
    let output = Command::new("ip")
        .args(arguments)
        .env("PATH", SEARCH_PATH)
        .output()
        .with_context(what)?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", what(), text.trim());
    }
    Ok(())
}
