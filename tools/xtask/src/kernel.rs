// SPDX-License-Identifier: GPL-2.0-only
//! The kernel: choose a version, fetch its packages, prepare the tree modules are built against.
//!
//! Debian's headers carry no Rust metadata, so the full source of exactly the kernel's version is
//! prepared with the headers' `.config` and `Module.symvers`. Rule: nothing but those three
//! packages of one version goes into the tree. Not here: building modules (`kmod`).

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

use crate::apt;
use crate::apt::Kernel;
use crate::paths::Layout;
use crate::paths::inside;
use crate::root::Rights;
use crate::run;
use crate::run::Log;

/// Where the packages are unpacked inside the root; everything in it can be removed again.
const UNPACKED: &str = "/var/cache/conclave";

/// Drivers a virtual machine can have; the others only make the node image larger.
const USEFUL: &str = "drivers/(acpi|block|char|connector|dca|firmware|md|misc/[^/]*[.]ko|nvme|\
    net/[^/]*[.]ko|net/bonding|net/team|pps|ptp|rtc|scsi/[^/]*[.]ko|target|vhost|virtio|watchdog)";

/// The kernel's parts in one checkout.
#[derive(Debug)]
pub(crate) struct Kernels<'a> {
    /// Where.
    pub layout: &'a Layout,
    /// How roots are entered.
    pub rights: Rights,
}

impl Kernels<'_> {
    /// Runs a shell script inside the root.
    pub(crate) fn shell(&self, what: &str, script: &str, args: &[&str], log: &Log) -> Result<()> {
        let mut words = vec!["sh", "-euc", script, "sh"];
        words.extend(args);
        log.run(what, &mut self.rights.inside(&self.layout.root(), &words))
    }

    /// Runs a shell script inside the root that sees the host's directory `extra` as `/mnt`.
    pub(crate) fn shell_with(
        &self,
        extra: &Path,
        what: &str,
        script: &str,
        args: &[&str],
        log: &Log,
    ) -> Result<()> {
        let mut words = vec!["sh", "-euc", script, "sh"];
        words.extend(args);
        let root = self.layout.root();
        log.run(
            what,
            &mut self.rights.inside_with(&root, Some(extra), &words),
        )
    }

    /// A path inside the root, as seen from outside.
    pub(crate) fn in_root(&self, path: &str) -> PathBuf {
        self.layout.root().join(path.trim_start_matches('/'))
    }

    /// Asks the archive for the newest kernel that can be built against.
    pub(crate) fn choose(&self, log: &Log) -> Result<Kernel> {
        self.shell("apt-get update", "apt-get update", &[], log)
            .context(
                "the package archive cannot be reached; check the network, then call this again",
            )?;
        let script = "apt-cache pkgnames linux- | grep -E '^linux-(image|headers|source)-[0-9]' \
                      | xargs apt-cache madison";
        let madison = run::output(
            "asking apt for kernels",
            &mut self
                .rights
                .inside(&self.layout.root(), &["sh", "-c", script]),
        )?;
        apt::newest_kernel(&madison)
    }

    /// Downloads and unpacks the three packages. apt checks signatures and sizes.
    pub(crate) fn fetch(&self, kernel: &Kernel, log: &Log) -> Result<()> {
        let script = "dir=$1; release=$2; shift 2; rm -rf $dir; mkdir -p $dir/debs; cd $dir/debs
            chown _apt . 2>/dev/null || :
            parts=$(apt-cache depends --important linux-image-$release \
                | grep -oE 'linux-(base|binary|modules)-[0-9].*' | sed \"s/$/=${1#*=}/\")
            apt-get download \"$@\" $parts
            for part in image base binary modules; do
                for deb in linux-$part-*.deb; do [ ! -e $deb ] || dpkg-deb -x $deb $dir/image; done
            done
            for part in headers source; do dpkg-deb -x linux-$part-*.deb $dir/$part; done
            rm -r $dir/debs";
        let packages = kernel.packages();
        let mut args = vec![UNPACKED, kernel.release.as_str()];
        args.extend(packages.iter().map(String::as_str));
        self.shell("downloading the kernel packages", script, &args, log)
            .context(
                "if the archive no longer has this version, run: cargo xtask setup --refresh",
            )?;
        check_rust(
            &fs::read_to_string(self.headers(kernel).join(".config"))?,
            &kernel.release,
        )
    }

    fn headers(&self, kernel: &Kernel) -> PathBuf {
        self.in_root(UNPACKED)
            .join("headers/usr/src")
            .join(format!("linux-headers-{}", kernel.release))
    }

    /// The stock kernel and its modules, decompressed and indexed, for the nodes.
    pub(crate) fn stock(&self, kernel: &Kernel, log: &Log) -> Result<()> {
        let script = "image=$1/image; release=$2; keep=$3; cd $image
            [ -e lib ] || mkdir lib; [ -e lib/modules ] || ln -s ../usr/lib/modules lib/modules
            boot=boot; end=-$release
            [ -e boot/vmlinuz-$release ] || { boot=lib/modules/$release; end=; }
            mkdir -p $1/stock; cp $boot/vmlinuz$end $1/stock/vmlinuz
            cp $boot/config$end $1/stock/config; cd lib/modules/$release
            find kernel/sound kernel/drivers -name '*.ko.xz' | grep -vE \"$keep\" | xargs -r rm -f
            find . -name '*.ko.xz' -print0 | xargs -0 -r -n 64 -P 2 xz -d
            rm -f vmlinuz config; depmod -b $image $release";
        self.shell(
            "unpacking modules",
            script,
            &[UNPACKED, &kernel.release, USEFUL],
            log,
        )?;
        let image = self.in_root(UNPACKED).join("image");
        let to = self.layout.kernel();
        self.rights.remove_tree(&to)?;
        fs::create_dir_all(&to).with_context(|| format!("creating {}", to.display()))?;
        for part in ["vmlinuz", "config"] {
            copy(
                &self.in_root(UNPACKED).join("stock").join(part),
                &to.join(part),
            )?;
        }
        let modules = image.join("usr/lib/modules").join(&kernel.release);
        fs::rename(&modules, to.join("modules")).context("moving the modules")?;
        fs::write(to.join("release"), format!("{}\n", kernel.release)).context("writing release")
    }

    /// Unpacks the kernel source.
    pub(crate) fn unpack_source(&self, kernel: &Kernel, log: &Log) -> Result<()> {
        let script = "to=$1; tarball=$2; release=$3
            for tree in ${to%/*}/*; do
                case ${tree##*/} in $release*) ;; *) rm -rf $tree ;; esac
            done
            rm -rf $to $to.part $to.pristine; mkdir -p $to.part
            tar -C $to.part --strip-components=1 -xf $tarball
            mv $to.part $to";
        let tarball = format!("{UNPACKED}/source/usr/src/{}.tar.xz", kernel.source);
        self.shell(
            "unpacking",
            script,
            &[&inside::source(&kernel.release), &tarball, &kernel.release],
            log,
        )
    }

    /// Prepares `KDIR`: configuration, generated headers, Rust metadata.
    pub(crate) fn prepare(&self, kernel: &Kernel, log: &Log) -> Result<()> {
        let kdir = inside::kdir(&kernel.release);
        let tree = self.in_root(&kdir);
        self.rights.remove_tree(&tree)?;
        fs::create_dir_all(&tree).with_context(|| format!("creating {}", tree.display()))?;
        for part in [".config", "Module.symvers"] {
            copy(&self.headers(kernel).join(part), &tree.join(part))?;
        }
        let vmlinux = self.headers(kernel).join("vmlinux");
        if vmlinux.exists() {
            copy(&vmlinux, &tree.join("vmlinux.btf"))?;
        }
        let script = "make -C $1 O=$2 LOCALVERSION=$3 CC=gcc-14 -j$(nproc) prepare modules_prepare";
        let source = inside::source(&kernel.release);
        self.shell(
            "make modules_prepare",
            script,
            &[&source, &kdir, kernel.local_version()],
            log,
        )?;
        check_prepared(&tree, kernel)
    }
}

/// Copies a file; an error names both.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

/// The kernel can load Rust modules, or nothing here makes sense.
fn check_rust(config: &str, release: &str) -> Result<()> {
    if !config.lines().any(|line| line == "CONFIG_RUST=y") {
        bail!(
            "kernel {release} is built without CONFIG_RUST, so no Rust module can be loaded into \
             it; Debian's 7.x kernels for amd64 have it: is the mirror's a foreign one?"
        );
    }
    if config.lines().any(|line| line == "CONFIG_MODVERSIONS=y") {
        bail!(
            "kernel {release} has CONFIG_MODVERSIONS, which the tree prepared here cannot satisfy"
        );
    }
    Ok(())
}

/// The prepared tree is what it should be.
fn check_prepared(tree: &Path, kernel: &Kernel) -> Result<()> {
    let read = |name: &str| {
        fs::read_to_string(tree.join(name)).with_context(|| format!("reading {name} of the tree"))
    };
    let release = read("include/config/kernel.release")?;
    if release.trim() != kernel.release {
        bail!(
            "the tree calls itself {}, the kernel is {}",
            release.trim(),
            kernel.release
        );
    }
    check_rust(&read("include/config/auto.conf")?, &kernel.release).context(
        "make switched Rust off: rustc or bindgen of the toolchain root do not suit this kernel",
    )?;
    let metadata = tree.join("rust/libkernel.rmeta");
    if !metadata.exists() {
        bail!("{} was not made", metadata.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_without_rust_is_refused() {
        let error = check_rust("CONFIG_RUST_IS_AVAILABLE=y\n", "7.2.1")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("CONFIG_RUST") && error.contains("7.2.1"),
            "{error}"
        );
        assert!(check_rust("CONFIG_RUST=y\n", "7.2.1").is_ok());
        assert!(check_rust("CONFIG_RUST=y\nCONFIG_MODVERSIONS=y\n", "7.2.1").is_err());
    }
}
