// SPDX-License-Identifier: GPL-2.0-only
//! The built files that nodes are made of, and where they are below the target directory.
//!
//! | File | Made by |
//! | --- | --- |
//! | `setup/kernel/vmlinuz` | setup |
//! | `setup/image/initramfs.cpio`, `setup/image/root.erofs` | setup |
//! | `setup/image/init`, `setup/image/busybox` | setup: static programs for initramfs-only nodes |
//! | `setup/uml/smp/linux` | setup with `--uml` |
//! | `payload/payload.erofs` | payload |
//! | `kmod/uml/dlm.ko` | kmod with `--uml` |
//! | `kmod/planted-uml/planted.ko` | kmod with `--uml --source qemu-test/planted` |
//! | `kmod/bench-uml/dlmbench.ko` | kmod with `--uml --source qemu-test/bench` |

use std::path::Path;
use std::path::PathBuf;

use anyhow::Result;
use anyhow::bail;

/// The files below one target directory.
#[derive(Clone, Debug)]
pub struct Assets {
    target: PathBuf,
}

impl Assets {
    /// `target` is the workspace's target directory.
    pub fn new(target: &Path) -> Self {
        Assets {
            target: target.to_owned(),
        }
    }

    /// The target directory.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Kernel of QEMU nodes.
    pub fn kernel(&self) -> Result<PathBuf> {
        self.find("setup/kernel/vmlinuz", "setup")
    }

    /// Initramfs of QEMU nodes.
    pub fn initramfs(&self) -> Result<PathBuf> {
        self.find("setup/image/initramfs.cpio", "setup")
    }

    /// Root file system of QEMU nodes.
    pub fn root_image(&self) -> Result<PathBuf> {
        self.find("setup/image/root.erofs", "setup")
    }

    /// Our own programs and modules for QEMU nodes; nodes boot without it as well.
    pub fn payload(&self) -> Option<PathBuf> {
        self.find("payload/payload.erofs", "payload").ok()
    }

    /// The User Mode Linux kernel.
    pub fn uml(&self) -> Result<PathBuf> {
        self.find("setup/uml/smp/linux", "setup --uml")
    }

    /// The lock manager's module for User Mode Linux.
    pub fn uml_module(&self) -> Result<PathBuf> {
        self.find("kmod/uml/dlm.ko", "kmod --uml")
    }

    /// The distribution's lock manager for User Mode Linux.
    pub fn uml_intree_module(&self) -> Result<PathBuf> {
        self.find("setup/uml/smp/modules/dlm.ko", "setup --uml")
    }

    /// The in-tree GFS2 for User Mode Linux.
    pub fn uml_gfs2(&self) -> Result<PathBuf> {
        self.find("setup/uml/smp/modules/gfs2.ko", "setup --uml")
    }

    /// The module with planted faults for User Mode Linux.
    pub fn uml_planted_module(&self) -> Result<PathBuf> {
        let command = "kmod --uml --source qemu-test/planted";
        self.find("kmod/planted-uml/planted.ko", command)
    }

    /// The module that measures lock managers, for User Mode Linux.
    pub fn uml_bench_module(&self) -> Result<PathBuf> {
        let command = "kmod --uml --source qemu-test/bench";
        self.find("kmod/bench-uml/dlmbench.ko", command)
    }

    /// Init as a static program.
    pub fn init(&self) -> Result<PathBuf> {
        self.find("setup/image/init", "setup")
    }

    /// Busybox as a static program.
    pub fn busybox(&self) -> Result<PathBuf> {
        self.find("setup/image/busybox", "setup")
    }

    fn find(&self, name: &str, command: &str) -> Result<PathBuf> {
        let path = self.target.join(name);
        if !path.is_file() {
            bail!(
                "{} is missing; `cargo xtask {command}` makes it",
                path.display()
            );
        }
        Ok(path)
    }
}
