// SPDX-License-Identifier: GPL-2.0-only
//! The node image: what a virtual machine boots, without any program of ours but init.
//!
//! One read-only root for all nodes (stock Debian packages and modules), and an initramfs with init
//! and the drivers that reach the root. Rule: our own programs and modules are not in here but in
//! the payload, so a change of code never makes a new image.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

use crate::kernel::Kernels;
use crate::kernel::copy;
use crate::root;
use crate::root::Recipe;
use crate::run::Log;

/// What nodes have of Debian: the stock stack, its consumers, and what scenarios call.
pub(crate) const NODE: Recipe<'_> = Recipe {
    packages: &[
        "corosync",
        "dlm-controld",
        "gfs2-utils",
        "iproute2",
        "iputils-ping",
        "kmod",
        "libdlm3",
        "libdlmcontrol3",
        "lvm2-lockd",
        "procps",
        "strace",
        "systemd",
    ],
    finish: "mkdir -p /opt/conclave /etc/cluster /sys/kernel",
};

/// Drivers from power-on to the root, by module name; some may be part of the kernel.
const DRIVERS: [&str; 7] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "erofs",
    "overlay",
    "configfs",
];

/// Packs the root; uncompressed, as reading it is then cheapest under emulation.
const PACK: &str = "cd /mnt; rm -f root.part
    mkfs.erofs --quiet -T 0 --ignore-mtime root.part root
    mv root.part root.erofs";

/// The target for which static programs are built.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What image and initramfs depend on beside packages and init.
pub(crate) fn key() -> String {
    format!("{PACK}\n{}", DRIVERS.join(" "))
}

/// Makes the root of the nodes, without modules.
pub(crate) fn make_root(kernels: &Kernels<'_>, log: &Log) -> Result<()> {
    root::make(
        kernels.rights,
        &NODE,
        &kernels.layout.image().join("root"),
        log,
    )
}

/// Adds the stock modules and packs the root.
pub(crate) fn pack_root(kernels: &Kernels<'_>, release: &str, log: &Log) -> Result<()> {
    let image = kernels.layout.image();
    let modules = image.join("root/usr/lib/modules");
    kernels.rights.remove_tree(&modules)?;
    fs::create_dir_all(&modules).with_context(|| format!("creating {}", modules.display()))?;
    let mut command = kernels.rights.outside("cp");
    command
        .arg("-a")
        .arg(kernels.layout.kernel().join("modules"))
        .arg(modules.join(release));
    log.run("copying the modules", &mut command)?;
    kernels.shell_with(&image, "mkfs.erofs", PACK, &[], log)?;
    copy(&kernels.in_root("/bin/busybox"), &image.join("busybox"))
}

/// Builds init and packs the initramfs.
pub(crate) fn pack_initramfs(kernels: &Kernels<'_>, log: &Log) -> Result<()> {
    let image = kernels.layout.image();
    fs::create_dir_all(&image).with_context(|| format!("creating {}", image.display()))?;
    let init = build_init(kernels, log)?;
    copy(&init, &image.join("init"))?;
    let stage = image.join("initramfs");
    kernels.rights.remove_tree(&stage)?;
    for dir in [
        "dev",
        "lib/modules",
        "lower",
        "newroot",
        "proc",
        "run",
        "sys",
        "tmp",
        "upper",
    ] {
        let dir = stage.join(dir);
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    copy(&init, &stage.join("init"))?;
    let modules = kernels.layout.kernel().join("modules");
    let read = |name: &str| {
        fs::read_to_string(modules.join(name)).with_context(|| format!("reading {name}"))
    };
    let order = load_order(&read("modules.dep")?, &read("modules.builtin")?, &DRIVERS)?;
    let mut list = String::new();
    for path in &order {
        let name = path.file_name().context("a module without a name")?;
        copy(&modules.join(path), &stage.join("lib/modules").join(name))?;
        list.push_str(&format!("{}\n", name.to_string_lossy()));
    }
    fs::write(stage.join("modules.list"), list).context("writing modules.list")?;
    let script = "cd /mnt/initramfs
        find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -R 0:0 -o -H newc >../initramfs.part
        mv ../initramfs.part ../initramfs.cpio";
    kernels.shell_with(&image, "cpio", script, &[], log)
}

/// Init as a static program; it has a target directory of its own, as its flags differ.
fn build_init(kernels: &Kernels<'_>, log: &Log) -> Result<PathBuf> {
    let target = kernels.layout.target().join("static");
    let mut command = cargo(kernels.layout.workspace());
    command
        .args([
            "build",
            "--release",
            "--package",
            "guest-init",
            "--target",
            TARGET,
        ])
        .arg("--target-dir")
        .arg(&target)
        // They would take the place of the flags for the target.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env(
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            "-Ctarget-feature=+crt-static -Cstrip=symbols",
        );
    log.run("building init", &mut command)?;
    Ok(target.join(TARGET).join("release/guest-init"))
}

/// cargo, as this program was called by it, in `dir`.
pub(crate) fn cargo(dir: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(dir);
    command
}

/// The modules of `wanted` and all they need, each after those it needs; paths as in modules.dep.
fn load_order(dep: &str, builtin: &str, wanted: &[&str]) -> Result<Vec<PathBuf>> {
    let needs: BTreeMap<String, (&str, Vec<&str>)> = dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(path, needs)| {
            (
                module_name(path),
                (path, needs.split_whitespace().collect()),
            )
        })
        .collect();
    let mut order: Vec<PathBuf> = Vec::new();
    for name in wanted {
        let Some((path, needed)) = needs.get(*name) else {
            if builtin.lines().any(|line| module_name(line) == *name) {
                continue;
            }
            bail!("the kernel has no driver {name}, without which no node can boot");
        };
        // modules.dep lists what is needed first last.
        for module in needed.iter().rev().chain([path]) {
            if !order.iter().any(|have| have == Path::new(module)) {
                order.push(PathBuf::from(module));
            }
        }
    }
    Ok(order)
}

/// `virtio_blk` of `kernel/drivers/block/virtio-blk.ko`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/net/failover.ko:\n\
        kernel/drivers/net/net_failover.ko: kernel/net/failover.ko\n\
        kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko \
        kernel/net/failover.ko\n\
        kernel/fs/over-lay.ko:\n";

    #[test]
    fn needed_modules_come_first_and_once() {
        let order = load_order(DEP, "", &["virtio_net", "net_failover", "over_lay"]).unwrap();
        let names: Vec<String> = order
            .iter()
            .map(|path| module_name(&path.to_string_lossy()))
            .collect();
        assert_eq!(
            names,
            ["failover", "net_failover", "virtio_net", "over_lay"]
        );
    }

    #[test]
    fn built_in_drivers_are_not_loaded_and_missing_ones_named() {
        let builtin = "kernel/drivers/virtio/virtio_pci.ko\n";
        assert!(
            load_order(DEP, builtin, &["virtio_pci"])
                .unwrap()
                .is_empty()
        );
        let error = load_order(DEP, "", &["virtio_pci"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("virtio_pci"), "{error}");
    }
}
