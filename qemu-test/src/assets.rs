// SPDX-License-Identifier: GPL-2.0-only
//! The built files that nodes are made of, and where they are below the target directory.
//!
//! | File | Made by |
//! | --- | --- |
//! | `setup/kernel/vmlinuz` | setup |
//! | `setup/image/initramfs.cpio`, `setup/image/root.erofs` | setup |
//! | `setup/image/init`, `setup/image/busybox` | setup: static programs for initramfs-only nodes |
//! | `setup/uml/smp/linux` | setup with `--uml`; with `--fast` below `fast` |
//! | `payload/payload.erofs` | payload |
//! | `kmod/uml/dlm.ko` | kmod with `--uml`; with `--fast` below `uml-fast` |
//! | `kmod/planted-uml/planted.ko` | kmod with `--uml --source qemu-test/planted` |
//! | `kmod/bench-uml/dlmbench.ko` | kmod with `--uml --source qemu-test/bench` |

use std::path::Path;
use std::path::PathBuf;

use anyhow::Result;
use anyhow::bail;

use crate::spec::UmlKernel;

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

    /// A User Mode Linux kernel.
    pub fn uml(&self, kernel: UmlKernel) -> Result<PathBuf> {
        let (dir, option, _) = names(kernel);
        self.find(
            &format!("setup/uml/{dir}/linux"),
            &format!("setup {option}"),
        )
    }

    /// The lock manager's module for User Mode Linux.
    pub fn uml_module(&self, kernel: UmlKernel) -> Result<PathBuf> {
        let (_, option, build) = names(kernel);
        self.find(&format!("kmod/{build}/dlm.ko"), &format!("kmod {option}"))
    }

    /// The distribution's lock manager for User Mode Linux.
    pub fn uml_intree_module(&self, kernel: UmlKernel) -> Result<PathBuf> {
        let (dir, option, _) = names(kernel);
        let module = format!("setup/uml/{dir}/modules/dlm.ko");
        self.find(&module, &format!("setup {option}"))
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
    pub fn uml_bench_module(&self, kernel: UmlKernel) -> Result<PathBuf> {
        let (_, option, build) = names(kernel);
        let command = format!("kmod {option} --source qemu-test/bench");
        self.find(&format!("kmod/bench-{build}/dlmbench.ko"), &command)
    }

    /// Init as a static program.
    pub fn init(&self) -> Result<PathBuf> {
        self.find("setup/image/init", "setup")
    }

    /// Busybox as a static program.
    pub fn busybox(&self) -> Result<PathBuf> {
        self.find("setup/image/busybox", "setup")
    }

    /// What `cargo xtask bench` leaves of a bench.
    pub fn bench_result(&self, name: &str) -> PathBuf {
        self.target.join("bench").join(format!("{name}.json"))
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

/// Of a User Mode Linux kernel: its directory, the option of commands that make something for it,
/// and the directory of what is built for it.
fn names(kernel: UmlKernel) -> (&'static str, &'static str, &'static str) {
    match kernel {
        UmlKernel::Checked => ("smp", "--uml", "uml"),
        UmlKernel::Fast => ("fast", "--fast", "uml-fast"),
    }
}
