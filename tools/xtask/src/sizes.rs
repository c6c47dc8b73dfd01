// SPDX-License-Identifier: GPL-2.0-only
//! Compares the prepared tree with the kernel it claims to be of.
//!
//! Nothing in this kernel detects a module built against a differing tree; it would corrupt memory
//! instead. Rule: the structures a module of ours touches have the sizes that the kernel's own
//! type information (BTF) gives them, or there is no build.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

use crate::apt::Kernel;
use crate::kernel::Kernels;
use crate::paths::inside;
use crate::run;
use crate::run::Log;

const KBUILD: &str = include_str!("../kernel/sizes/Kbuild");
const SOURCE: &str = include_str!("../kernel/sizes/sizes.c");
const PREFIX: &str = "size_of_";

type Sizes = BTreeMap<String, u64>;

/// Everything the verdict depends on beside the tree.
pub(crate) fn key() -> String {
    format!("{KBUILD}{SOURCE}")
}

/// Fails if a structure differs.
pub(crate) fn check(kernels: &Kernels<'_>, kernel: &Kernel, log: &Log) -> Result<()> {
    let place = format!("{}/sizes", inside::BUILD);
    let dir = kernels.in_root(&place);
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    fs::write(dir.join("Kbuild"), KBUILD).context("writing Kbuild")?;
    fs::write(dir.join("sizes.c"), SOURCE).context("writing sizes.c")?;
    let kdir = inside::kdir(&kernel.release);
    let script = "make -C $1 M=$2 CC=gcc-14 LOCALVERSION=$3 sizes.o";
    let args = [kdir.as_str(), &place, kernel.local_version()];
    kernels.shell("compiling the structures", script, &args, log)?;

    let root = kernels.layout.root();
    let inside = |what: &str, script: &str, args: &[&str]| {
        let mut words = vec!["sh", "-euc", script, "sh"];
        words.extend(args);
        run::output(what, &mut kernels.rights.inside(&root, &words))
    };
    let ours = of_object(&inside("reading sizes.o", "nm -S $1/sizes.o", &[&place])?)?;
    let names: Vec<&str> = ours.keys().map(String::as_str).collect();
    let btf = inside(
        "reading the kernel's BTF",
        "pahole -C $1 $2/vmlinux.btf 2>/dev/null",
        &[&names.join(","), &kdir],
    )?;
    compare(&ours, &of_btf(&btf), &kernel.release)
}

/// Sizes by structure, from the output of `nm -S`.
fn of_object(nm: &str) -> Result<Sizes> {
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = words.get(3)?.strip_prefix(PREFIX)?;
        Some((name.to_owned(), u64::from_str_radix(words[1], 16).ok()?))
    };
    let sizes: Sizes = nm.lines().filter_map(parse).collect();
    if sizes.is_empty() {
        bail!("no sizes in the output of nm");
    }
    Ok(sizes)
}

/// Sizes by structure, from the output of pahole.
fn of_btf(pahole: &str) -> Sizes {
    let mut sizes = Sizes::new();
    let mut name = None;
    for line in pahole.lines() {
        if let Some(begin) = line.strip_prefix("struct ") {
            name = begin.strip_suffix(" {");
        } else if let (Some(of), Some(rest)) = (name, line.strip_prefix("\t/* size: ")) {
            let digits = rest.split(',').next().unwrap_or_default();
            sizes.extend(digits.parse().ok().map(|size| (of.to_owned(), size)));
        }
    }
    sizes
}

fn compare(ours: &Sizes, theirs: &Sizes, release: &str) -> Result<()> {
    let mut wrong = Vec::new();
    for (name, size) in ours {
        match theirs.get(name) {
            Some(real) if real == size => {}
            Some(real) => wrong.push(format!("struct {name} has {size} bytes, really {real}")),
            None => wrong.push(format!("struct {name} is unknown to the kernel")),
        }
    }
    if !wrong.is_empty() {
        bail!(
            "the prepared tree is not that of kernel {release}: {}; a module built with it would \
             corrupt memory. Remove target/setup/stamps/kernel-* and call setup again",
            wrong.join("; ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NM: &str = "0000000000000000 0000000000000320 B size_of_sock\n\
        0000000000000320 00000000000000c0 B size_of_file_lock\n0000000000000000 T other\n";

    const PAHOLE: &str = "struct sock {\n\tstruct sock_common __sk_common; /* 0 136 */\n\n\
        \t/* size: 800, cachelines: 13, members: 111 */\n};\nstruct file_lock {\n\
        \tint a;\n\t/* size: 192, cachelines: 3 */\n};\n";

    #[test]
    fn equal_sizes_pass() {
        let ours = of_object(NM).unwrap();
        assert_eq!(ours.get("sock"), Some(&800));
        compare(&ours, &of_btf(PAHOLE), "7.2.1").unwrap();
    }

    #[test]
    fn other_size_or_missing_structure_fails() {
        let ours = of_object(NM).unwrap();
        let grown = PAHOLE.replace("size: 800", "size: 808");
        let error = compare(&ours, &of_btf(&grown), "7.2.1")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("struct sock has 800 bytes, really 808"),
            "{error}"
        );
        assert!(!error.contains("file_lock"), "{error}");
        let error = compare(&ours, &Sizes::new(), "7.2.1")
            .unwrap_err()
            .to_string();
        assert!(error.contains("struct file_lock is unknown"), "{error}");
    }

    #[test]
    fn object_without_sizes_is_an_error() {
        assert!(of_object("0000 T other\n").is_err());
    }
}
