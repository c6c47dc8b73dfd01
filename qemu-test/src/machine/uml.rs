// SPDX-License-Identifier: GPL-2.0-only
//! The command line of a User Mode Linux machine.

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

use super::Disk;
use super::MachineSpec;
use super::fd;
use super::mac_text;
use super::utf8;

/// Kernel words of every machine. SMP works with the seccomp mode only.
const KERNEL_WORDS: [&str; 9] = [
    "quiet",
    "loglevel=5",
    "seccomp=on",
    "con=null",
    "ssl=null",
    "printk.devkmsg=on",
    "node.link=vec0",
    "node.control=/dev/ttyS0",
    "node.power=/dev/ttyS1",
];

/// Program and arguments.
pub(super) fn arguments(spec: &MachineSpec, links: usize) -> Result<Vec<String>> {
    let mut words = vec![utf8(&spec.kernel)?.to_owned()];
    words.push(format!("initrd={}", utf8(&spec.initramfs)?));
    words.push(format!("mem={}M", spec.memory_mib));
    words.push(format!("ncpus={}", spec.cpus));
    words.push(format!("umid={}", spec.name));
    // Relative to the working directory: the socket it makes there must have a short name.
    words.push("uml_dir=./".to_owned());
    words.extend(KERNEL_WORDS.map(str::to_owned));
    words.push(format!("con0=fd:{0},fd:{0}", fd::CONSOLE));
    words.push(format!("ssl0=fd:{0},fd:{0}", fd::CONTROL));
    words.push(format!("ssl1=fd:{0},fd:{0}", fd::POWER));
    for (number, fd) in (0..links).zip(fd::NETWORKS..) {
        let mut mac = spec.mac;
        mac[2] = u8::try_from(number).context("too many network interfaces")?;
        let mac = mac_text(&mac);
        words.push(format!("vec{number}:transport=fd,fd={fd},mac={mac}"));
    }
    for (number, disk) in spec.disks.iter().enumerate() {
        words.push(disk_word(number, disk)?);
    }
    words.extend(spec.append.split_whitespace().map(str::to_owned));
    Ok(words)
}

/// A disk as an argument: without a lock on its file (`c`) or a search for a copy-on-write header
/// (`d`); what is written to a shared one is on the host at once (`s`).
fn disk_word(number: usize, disk: &Disk) -> Result<String> {
    let path = utf8(&disk.path)?;
    if path.contains([',', ':']) {
        bail!("{path}: User Mode Linux cannot open a file whose path has a comma or colon");
    }
    let mode = if disk.is_shared { "s" } else { "r" };
    Ok(format!("ubd{number}{mode}cd={path},,{}", disk.serial))
}
