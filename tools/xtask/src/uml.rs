// SPDX-License-Identifier: GPL-2.0-only
//! User Mode Linux kernels: the module's test bed at native speed.
//!
//! Built from the same source as the modules, when a command first needs one. Rule: each line of a
//! configuration fragment holds in the kernel, or the build fails. Not here: booting them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

use crate::apt::Kernel;
use crate::kernel::Kernels;
use crate::kernel::copy;
use crate::paths::inside;
use crate::run::Log;

/// Changes to the kernel that User Mode Linux needs, in order; the reason heads each.
const PATCHES: [&str; 3] = [
    include_str!("../kernel/01-um-vector-statistics-bh.patch"),
    include_str!("../kernel/02-um-idle-sigio.patch"),
    include_str!("../kernel/03-um-vector-static.patch"),
];

/// A change that only [`Flavour::Fast`] notices. All flavours share one source, so it is applied
/// for all of them; it is part of no other's key.
const FAST_PATCH: &str = include_str!("../kernel/04-um-hz.patch");

/// A way to configure the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// Two processors, lockdep, sleep checks; built by gcc.
    Smp,
    /// One processor, KASAN and time travel; built by clang, as Rust with KASAN asks for.
    Kasan,
    /// Two processors and no checks, for figures; built by gcc.
    Fast,
}

impl Flavour {
    /// Name of its directories.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Flavour::Smp => "smp",
            Flavour::Kasan => "kasan",
            Flavour::Fast => "fast",
        }
    }

    fn fragment(self) -> String {
        let own = match self {
            Flavour::Smp => include_str!("../kernel/uml-smp.config"),
            Flavour::Kasan => include_str!("../kernel/uml-kasan.config"),
            Flavour::Fast => include_str!("../kernel/uml-fast.config"),
        };
        format!("{}{own}", include_str!("../kernel/uml-common.config"))
    }

    /// Packages it is built with, beside those of the toolchain root.
    pub(crate) fn packages(self) -> &'static [&'static str] {
        match self {
            Flavour::Smp | Flavour::Fast => &[],
            Flavour::Kasan => &["clang-19", "lld-19", "llvm-19"],
        }
    }

    /// Arguments of make for the kernel and for modules.
    pub(crate) fn make_args(self) -> &'static str {
        match self {
            Flavour::Smp | Flavour::Fast => "ARCH=um CC=gcc-14",
            Flavour::Kasan => "ARCH=um LLVM=-19",
        }
    }

    /// Everything the kernel depends on beside its source.
    pub(crate) fn key(self) -> String {
        let own = match self {
            Flavour::Smp | Flavour::Kasan => "",
            Flavour::Fast => FAST_PATCH,
        };
        let (args, fragment, patches) = (self.make_args(), self.fragment(), PATCHES.concat());
        format!("{args}\n{fragment}\n{patches}{own}")
    }
}

/// Builds the kernel and puts it and its modules where scenarios find them.
pub(crate) fn build(
    kernels: &Kernels<'_>,
    kernel: &Kernel,
    flavour: Flavour,
    log: &Log,
) -> Result<()> {
    if !flavour.packages().is_empty() {
        let script = "apt-get install -y --no-install-recommends \"$@\"";
        kernels.shell("installing compilers", script, flavour.packages(), log)?;
    }
    patch(kernels, kernel, log)?;
    let tree = inside::uml(&kernel.release, flavour.name());
    let here = kernels.in_root(&tree);
    fs::create_dir_all(&here).with_context(|| format!("creating {}", here.display()))?;
    fs::write(here.join("fragment"), flavour.fragment()).context("writing the fragment")?;
    let script = "source=$1; tree=$2; release=$3; args=$4
        make -C $source O=$tree $args KCONFIG_ALLCONFIG=$tree/fragment allnoconfig
        make -C $source O=$tree $args -j$(nproc) linux modules";
    let source = inside::source(&kernel.release);
    let args = [&source, &tree, kernel.release.as_str(), flavour.make_args()];
    kernels.shell("building User Mode Linux", script, &args, log)?;
    let config = fs::read_to_string(here.join(".config")).context("reading .config")?;
    check_fragment(&flavour.fragment(), &config)?;
    install(kernels, &here, flavour)
}

/// Applies the patches to the pristine state of the files they touch.
fn patch(kernels: &Kernels<'_>, kernel: &Kernel, log: &Log) -> Result<()> {
    let source = inside::source(&kernel.release);
    let pristine = format!("{source}.pristine");
    let file = kernels.in_root(inside::KERNELS).join("um.patch");
    fs::write(&file, PATCHES.concat() + FAST_PATCH)
        .with_context(|| format!("writing {}", file.display()))?;
    let script = "cd $1; pristine=$2; patch=$3
        for file in $(sed -n 's,^+++ b/,,p' $patch); do
            mkdir -p $pristine/${file%/*}
            if [ -e $pristine/$file ]; then cp -p $pristine/$file $file
            else cp -p $file $pristine/$file; fi
        done
        patch -p1 <$patch";
    let patch = format!("{}/um.patch", inside::KERNELS);
    kernels.shell("patching", script, &[&source, &pristine, &patch], log)
}

fn install(kernels: &Kernels<'_>, tree: &Path, flavour: Flavour) -> Result<()> {
    let to = kernels.layout.uml().join(flavour.name());
    let modules = to.join("modules");
    kernels.rights.remove_tree(&to)?;
    fs::create_dir_all(&modules).with_context(|| format!("creating {}", modules.display()))?;
    let list = fs::read_to_string(tree.join("modules.order")).context("reading modules.order")?;
    for object in list.lines() {
        let module = tree.join(object).with_extension("ko");
        let name = module.file_name().context("a module without a name")?;
        copy(&module, &modules.join(name))?;
    }
    copy(
        &tree.join("include/config/kernel.release"),
        &to.join("release"),
    )?;
    copy(&tree.join("linux"), &to.join("linux"))
}

/// Every option asked for is in the configuration, and none that was taken back.
fn check_fragment(fragment: &str, config: &str) -> Result<()> {
    let (mut wanted, mut unwanted) = (BTreeSet::new(), BTreeSet::new());
    for line in fragment.lines() {
        if line.starts_with("CONFIG_") {
            wanted.insert(line);
        } else if let Some(option) = taken_back(line) {
            wanted.retain(|line| name_of(line) != option);
            unwanted.insert(option);
        }
    }
    let missing = wanted
        .into_iter()
        .filter(|line| !config.lines().any(|have| have == *line));
    let present = config
        .lines()
        .filter(|line| line.starts_with("CONFIG_") && unwanted.contains(name_of(line)));
    let wrong: Vec<&str> = missing.chain(present).collect();
    if !wrong.is_empty() {
        bail!(
            "the kernel does not take these options as the fragment has them: {}",
            wrong.join(" ")
        );
    }
    Ok(())
}

/// The option that a line switches off, in the kernel's own way of saying so.
fn taken_back(line: &str) -> Option<&str> {
    line.strip_prefix("# ")?.strip_suffix(" is not set")
}

fn name_of(line: &str) -> &str {
    line.split('=').next().unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_that_did_not_hold_is_named() {
        let fragment = "# A comment\nCONFIG_SMP=y\nCONFIG_DLM=m\n";
        assert!(check_fragment(fragment, "CONFIG_SMP=y\nCONFIG_DLM=m\n").is_ok());
        let config = "# CONFIG_SMP is not set\nCONFIG_DLM=m\n";
        let error = check_fragment(fragment, config).unwrap_err().to_string();
        assert!(
            error.contains("CONFIG_SMP=y") && !error.contains("CONFIG_DLM"),
            "{error}"
        );
    }

    #[test]
    fn option_that_is_taken_back_must_be_off() {
        let fragment = "CONFIG_KUNIT=y\n# CONFIG_KUNIT is not set\nCONFIG_DLM=m\n";
        for off in ["", "# CONFIG_KUNIT is not set\n"] {
            assert!(check_fragment(fragment, &format!("CONFIG_DLM=m\n{off}")).is_ok());
        }
        for on in ["y", "m"] {
            let error = check_fragment(fragment, &format!("CONFIG_DLM=m\nCONFIG_KUNIT={on}\n"));
            let error = error.unwrap_err().to_string();
            assert!(
                error.contains("CONFIG_KUNIT") && !error.contains("CONFIG_DLM"),
                "{error}"
            );
        }
        let other = "CONFIG_KUNIT=y\n# CONFIG_KUN is not set\n";
        assert!(check_fragment(other, "CONFIG_DLM=m\n").is_err());
    }

    #[test]
    fn patch_for_figures_concerns_no_other_kernel() {
        for (flavour, has_it) in [
            (Flavour::Smp, false),
            (Flavour::Kasan, false),
            (Flavour::Fast, true),
        ] {
            assert_eq!(flavour.key().contains(FAST_PATCH), has_it, "{flavour:?}");
        }
    }

    #[test]
    fn test_bed_finds_locking_mistakes() {
        for option in ["PROVE_LOCKING", "DEBUG_ATOMIC_SLEEP", "SMP"] {
            let line = format!("CONFIG_{option}=y");
            assert!(
                Flavour::Smp.fragment().lines().any(|have| have == line),
                "{line}"
            );
        }
    }
}
