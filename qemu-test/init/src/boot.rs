// SPDX-License-Identifier: GPL-2.0-only
//! From the kernel's hand-over to a usable root: file systems, disks, overlay, payload.
//!
//! Disks are known by their virtio serial: `root` (read-only erofs, shared by all nodes),
//! `payload` (our programs and modules, read-only erofs). The root gets a tmpfs on top, so every
//! boot of a node begins with the same files. A disk named `shared` is left to the scenario.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use nix::mount::MsFlags;
use nix::mount::mount;

/// How long a disk or device may take to appear after its driver is loaded.
pub const DEVICE_LIMIT: Duration = Duration::from_secs(15);

/// Where the payload image is mounted.
pub const PAYLOAD_DIR: &str = "/opt/conclave";

/// What of the initramfs is copied into an overlay root.
pub const FILES_DIR: &str = "/files";

/// The search path of every program that init starts.
pub const SEARCH_PATH: &str = "/opt/conclave/bin:/opt/conclave/clients:/usr/local/sbin:\
    /usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Kernel settings of every node. A test wants all messages and a quick complaint about hangs.
const SYSCTLS: [(&str, &str); 4] = [
    ("kernel/printk", "7"),
    ("kernel/hung_task_timeout_secs", "60"),
    ("kernel/sysrq", "1"),
    ("net/ipv6/conf/default/accept_dad", "0"),
];

struct Mount {
    kind: &'static str,
    target: &'static str,
    flags: MsFlags,
    data: &'static str,
}

const fn plain(kind: &'static str, target: &'static str, data: &'static str) -> Mount {
    let flags = MsFlags::MS_NOSUID;
    Mount {
        kind,
        target,
        flags,
        data,
    }
}

/// Needed to look at anything at all.
const FIRST: [Mount; 3] = [
    plain("proc", "/proc", ""),
    plain("sysfs", "/sys", ""),
    plain("devtmpfs", "/dev", "mode=0755"),
];

/// Mounted in the final root.
const SECOND: [Mount; 7] = [
    plain("devpts", "/dev/pts", "mode=0620,ptmxmode=0666"),
    plain("tmpfs", "/dev/shm", "mode=1777"),
    plain("tmpfs", "/run", "mode=0755"),
    plain("tmpfs", "/tmp", "mode=1777"),
    plain("cgroup2", "/sys/fs/cgroup", ""),
    plain("debugfs", "/sys/kernel/debug", ""),
    plain("configfs", "/sys/kernel/config", ""),
];

/// Mounts proc, sys and dev.
pub fn mount_first() -> Vec<String> {
    mount_all(&FIRST)
}

/// Mounts everything else a program may expect, and sets the kernel's switches.
pub fn mount_second() -> Vec<String> {
    let mut complaints = mount_all(&SECOND);
    for (name, value) in SYSCTLS {
        let path = Path::new("/proc/sys").join(name);
        // A kernel built without the feature has no such file.
        if path.exists()
            && let Err(error) = fs::write(&path, value)
        {
            complaints.push(format!("writing {value} to {}: {error}", path.display()));
        }
    }
    complaints.extend(link_standard_files().err().map(|e| format!("{e:#}")));
    complaints
}

fn mount_all(list: &[Mount]) -> Vec<String> {
    list.iter()
        .filter(|entry| !is_absent(entry.kind))
        .filter_map(|entry| mount_one(entry).err())
        .map(|error| format!("{error:#}"))
        .collect()
}

/// Small kernels have no control groups, and no test of theirs needs them.
fn is_absent(kind: &str) -> bool {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    kind == "cgroup2" && !known.split_whitespace().any(|word| word == kind)
}

fn mount_one(entry: &Mount) -> Result<()> {
    // sysfs makes its own mount points; elsewhere they may be missing in a bare initramfs.
    if !Path::new(entry.target).exists() {
        fs::create_dir_all(entry.target).with_context(|| format!("making {}", entry.target))?;
    }
    mount(
        Some(entry.kind),
        entry.target,
        Some(entry.kind),
        entry.flags,
        Some(entry.data),
    )
    .with_context(|| format!("mounting {} on {}", entry.kind, entry.target))
}

fn link_standard_files() -> Result<()> {
    for (name, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        if !Path::new(name).exists() {
            symlink(target, name).with_context(|| format!("linking {name}"))?;
        }
    }
    Ok(())
}

/// Moves to the overlay root: disk `root` below, a tmpfs above. Nothing of the initramfs stays
/// visible.
pub fn enter_overlay_root() -> Result<()> {
    let disk = wait_for_disk("root")?;
    for dir in ["/lower", "/upper", "/newroot"] {
        fs::create_dir_all(dir).with_context(|| format!("making {dir}"))?;
    }
    mount_image(&disk, Path::new("/lower"))?;
    mount(
        Some("tmpfs"),
        "/upper",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=0755"),
    )
    .context("mounting the tmpfs above the root")?;
    for dir in ["/upper/data", "/upper/work"] {
        fs::create_dir(dir).with_context(|| format!("making {dir}"))?;
    }
    let layers = "lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work";
    mount(
        Some("overlay"),
        "/newroot",
        Some("overlay"),
        MsFlags::empty(),
        Some(layers),
    )
    .context("mounting the overlay root")?;
    if Path::new(FILES_DIR).exists() {
        copy_tree(Path::new(FILES_DIR), Path::new("/newroot"))?;
    }
    for dir in ["dev", "proc", "sys"] {
        let target = Path::new("/newroot").join(dir);
        fs::create_dir_all(&target).with_context(|| format!("making {}", target.display()))?;
        move_mount(&Path::new("/").join(dir), &target)?;
    }
    std::env::set_current_dir("/newroot").context("entering the overlay root")?;
    move_mount(Path::new("."), Path::new("/"))?;
    nix::unistd::chroot(".").context("changing the root")?;
    std::env::set_current_dir("/").context("entering the new root")
}

/// Mounts the payload, if the node has that disk.
pub fn mount_payload() -> Result<()> {
    let Some(disk) = find_disk("payload") else {
        return Ok(());
    };
    fs::create_dir_all(PAYLOAD_DIR).with_context(|| format!("making {PAYLOAD_DIR}"))?;
    mount_image(&disk, Path::new(PAYLOAD_DIR))
}

/// Copies directories and files, with their permissions.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let what = || format!("copying {} to {}", from.display(), to.display());
    for entry in fs::read_dir(from).with_context(what)? {
        let entry = entry.with_context(what)?;
        let target = to.join(entry.file_name());
        if entry.file_type().with_context(what)?.is_dir() {
            fs::create_dir_all(&target).with_context(what)?;
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(what)?;
        }
    }
    Ok(())
}

fn mount_image(disk: &Path, target: &Path) -> Result<()> {
    mount(
        Some(disk),
        target,
        Some("erofs"),
        MsFlags::MS_RDONLY,
        None::<&str>,
    )
    .with_context(|| format!("mounting {} on {}", disk.display(), target.display()))
}

fn move_mount(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .with_context(|| format!("moving {} to {}", from.display(), to.display()))
}

fn wait_for_disk(serial: &str) -> Result<PathBuf> {
    match wait_for(|| find_disk(serial)) {
        Some(disk) => Ok(disk),
        None => bail!("no disk with serial {serial} appeared; is its driver in /modules.list?"),
    }
}

fn find_disk(serial: &str) -> Option<PathBuf> {
    let entries = fs::read_dir("/sys/block").ok()?;
    entries.flatten().find_map(|entry| {
        let text = fs::read_to_string(entry.path().join("serial")).ok()?;
        (text.trim() == serial).then(|| Path::new("/dev").join(entry.file_name()))
    })
}

/// Asks until there is an answer or [`DEVICE_LIMIT`] has passed. For things of the kernel that
/// give no event before the uevent listener runs.
pub fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + DEVICE_LIMIT;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
