// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask setup`: from a bare machine to everything that builds and boots.
//!
//! The list of steps and their order; each step's work is in the module of its name. Rules: called
//! before every other command, so a call with nothing to do takes no time and waits for nobody; a
//! step's key holds the keys of the steps it builds on.

use std::fs;
use std::hash::Hash;
use std::hash::Hasher;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

use crate::apt::Kernel;
use crate::host;
use crate::image;
use crate::kernel::Kernels;
use crate::paths::Layout;
use crate::root;
use crate::root::Recipe;
use crate::root::Rights;
use crate::run;
use crate::run::Log;
use crate::sizes;
use crate::step::Ledger;
use crate::step::Step;
use crate::step::Turn;
use crate::step::seconds;
use crate::uml;
use crate::uml::Flavour;

/// Free space asked for before the first large step: 5 GiB are used in the end, and making an
/// image or a tree anew needs its size once more.
const NEED_GIB: u64 = 10;

/// Free space asked for before each of the other steps; a kernel tree is the largest.
const STEP_GIB: u64 = 3;

/// Compilers and build tools, of the very versions that built the kernel.
const TOOLCHAIN: Recipe<'_> = Recipe {
    packages: &[
        "bc",
        "bindgen",
        "bison",
        "busybox-static",
        "ca-certificates",
        "cpio",
        "e2fsprogs",
        "erofs-utils",
        "flex",
        "gcc",
        "gcc-14",
        "kmod",
        "libc6-dev",
        "libdlm-dev",
        "libdlmcontrol-dev",
        "libdw-dev",
        "libelf-dev",
        "libssl-dev",
        "make",
        "pahole",
        "patch",
        "perl",
        "python3",
        "rsync",
        "rust-clippy",
        "rust-src",
        "rustc",
        "rustfmt",
        "xz-utils",
        "zlib1g-dev",
    ],
    finish: "rustc --version | grep -q \"^rustc 1[.]85[.]\"",
};

/// Packages whose versions decide what a kernel tree contains.
const COMPILERS: [&str; 4] = ["rustc", "rust-src", "bindgen", "gcc-14"];

/// What setup made and the builds need.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// How the root is entered.
    pub(crate) rights: Rights,
    /// The kernel modules are built for.
    pub(crate) kernel: Kernel,
}

/// Options of the command.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    /// Ask the archive again for the newest kernel.
    pub(crate) refresh: bool,
    /// Make the node image as well.
    pub(crate) image: bool,
    /// Build the User Mode Linux kernel as well.
    pub(crate) uml: bool,
    /// Build the one with KASAN as well.
    pub(crate) kasan: bool,
    /// Build the one for figures as well.
    pub(crate) fast: bool,
}

/// What a step does.
#[derive(Debug, Clone, Copy)]
enum Work {
    Packages,
    Source,
    Tree,
    Sizes,
    Stock,
    NodeRoot,
    NodeImage,
    Initramfs,
    Uml(Flavour),
}

impl Work {
    fn is_long(self) -> bool {
        matches!(self, Work::Uml(_))
    }
}

/// Does what is not done yet.
pub(crate) fn run(layout: &Layout, options: Options) -> Result<Prepared> {
    let ledger = Ledger::open(layout)?;
    let missing = host::missing_packages();
    if missing.is_empty()
        && !options.refresh
        && let Some(prepared) = finished(layout, &ledger, options)?
    {
        return Ok(prepared);
    }
    let turn = Turn::take(layout, "setup")?;
    announce(layout, &ledger, options)?;
    host_packages(&ledger, &missing)?;
    let rights = Rights::find()?;
    let toolchain = toolchain_step();
    if !ledger.is_done(&toolchain) {
        host::check_space(layout, NEED_GIB)?;
    }
    ledger.ensure(&toolchain, |log| toolchain_work(layout, rights, log))?;
    let kernels = Kernels { layout, rights };
    let kernel = chosen(&ledger, &kernels, options.refresh)?;
    let (short, long): (Vec<_>, Vec<_>) = steps(layout, &kernel, options)?
        .into_iter()
        .partition(|(_, work)| !work.is_long());
    let all = |steps: Vec<(Step, Work)>| {
        steps.into_iter().try_for_each(|(step, work)| {
            if !ledger.is_done(&step) {
                host::check_space(layout, STEP_GIB)?;
            }
            ledger
                .ensure(&step, |log| carry_out(work, &kernels, &kernel, log))
                .map(drop)
        })
    };
    all(short)?;
    // Who does not need these need not wait for them either.
    drop(turn);
    let _turn = if long.is_empty() {
        None
    } else {
        Some(Turn::take(layout, "setup-uml")?)
    };
    all(long)?;
    Ok(Prepared { rights, kernel })
}

/// Says how much there is to do, before doing it.
fn announce(layout: &Layout, ledger: &Ledger, options: Options) -> Result<()> {
    let unknown = || Kernel {
        release: String::new(),
        version: String::new(),
        source: String::new(),
    };
    let kernel = read_choice(layout).unwrap_or_else(unknown);
    let mut all = vec![toolchain_step(), choice_step(layout)];
    all.extend(
        steps(layout, &kernel, options)?
            .into_iter()
            .map(|(step, _)| step),
    );
    let open: Vec<&Step> = all.iter().filter(|step| !ledger.is_done(step)).collect();
    let time: Duration = open.iter().map(|step| step.about).sum();
    eprintln!(
        "setup: {} steps of {} to do, about {} on two processors; logs in {}",
        open.len(),
        all.len(),
        seconds(time),
        layout.logs().display()
    );
    Ok(())
}

/// The result, if every step's result stands.
fn finished(layout: &Layout, ledger: &Ledger, options: Options) -> Result<Option<Prepared>> {
    if !ledger.is_done(&toolchain_step()) || !ledger.is_done(&choice_step(layout)) {
        return Ok(None);
    }
    let Some(kernel) = read_choice(layout) else {
        return Ok(None);
    };
    if !steps(layout, &kernel, options)?
        .iter()
        .all(|(step, _)| ledger.is_done(step))
    {
        return Ok(None);
    }
    Ok(Some(Prepared {
        rights: Rights::find()?,
        kernel,
    }))
}

fn step(name: &str, what: &str, about_s: u64, key: String) -> Step {
    let (name, what) = (name.to_owned(), what.to_owned());
    Step {
        name,
        what,
        about: Duration::from_secs(about_s),
        key,
    }
}

fn host_packages(ledger: &Ledger, missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let what = format!("host packages, as root: {list}");
    // Asked for because they are missing now, whatever a stamp says.
    ledger.forget("host")?;
    ledger.ensure(&step("host", &what, 60, list), |log| {
        host::install(missing, log)
    })?;
    let left = host::missing_packages();
    if !left.is_empty() {
        bail!("installed, but still missing: {}", left.join(" "));
    }
    Ok(())
}

fn toolchain_step() -> Step {
    step(
        "root",
        "toolchain root (Debian trixie)",
        60,
        TOOLCHAIN.key(),
    )
}

fn toolchain_work(layout: &Layout, rights: Rights, log: &Log) -> Result<()> {
    root::bring_up(rights, &TOOLCHAIN, &layout.root(), log)?;
    let mut words = vec!["dpkg-query", "-W"];
    words.extend(COMPILERS);
    let versions = run::output(
        "asking for versions",
        &mut rights.inside(&layout.root(), &words),
    )?;
    fs::write(compilers_file(layout), versions).context("writing the compilers' versions")
}

fn compilers_file(layout: &Layout) -> std::path::PathBuf {
    layout.setup().join("compilers")
}

fn choice_step(layout: &Layout) -> Step {
    // A root made anew knows no kernel; one of the same compilers can keep it.
    let compilers = fs::read_to_string(compilers_file(layout)).unwrap_or_default();
    step("choice", "newest kernel of the archive", 15, compilers)
}

/// The kernel chosen before, or now.
fn chosen(ledger: &Ledger, kernels: &Kernels<'_>, refresh: bool) -> Result<Kernel> {
    if refresh || read_choice(kernels.layout).is_none() {
        ledger.forget("choice")?;
    }
    ledger.ensure(&choice_step(kernels.layout), |log| {
        let Kernel {
            release,
            version,
            source,
        } = kernels.choose(log)?;
        eprintln!("setup: kernel {release} ({version})");
        fs::write(
            choice_file(kernels.layout),
            format!("{release}\n{version}\n{source}\n"),
        )
        .context("writing the choice")
    })?;
    read_choice(kernels.layout).context("the chosen kernel was not written")
}

fn choice_file(layout: &Layout) -> std::path::PathBuf {
    layout.setup().join("kernel.choice")
}

fn read_choice(layout: &Layout) -> Option<Kernel> {
    parse_choice(&fs::read_to_string(choice_file(layout)).ok()?)
}

fn parse_choice(text: &str) -> Option<Kernel> {
    let mut lines = text.lines().map(str::to_owned);
    Some(Kernel {
        release: lines.next()?,
        version: lines.next()?,
        source: lines.next()?,
    })
}

/// All steps after the choice of the kernel, in order.
fn steps(layout: &Layout, kernel: &Kernel, options: Options) -> Result<Vec<(Step, Work)>> {
    let release = &kernel.release;
    let compilers = fs::read_to_string(compilers_file(layout)).unwrap_or_default();
    let packages = kernel.packages().join(" ");
    let tree = format!("{packages}\n{compilers}");
    let mut list = Vec::new();
    let mut add = |name: &str, what: String, about_s: u64, key: String, work: Work| {
        list.push((step(name, &what, about_s, key), work));
    };
    let of = |what: &str| format!("kernel {release}: {what}");
    let fetched = packages.clone();
    add(
        "kernel-packages",
        of("image, headers, source"),
        20,
        fetched,
        Work::Packages,
    );
    add(
        "kernel-source",
        of("unpack"),
        15,
        packages.clone(),
        Work::Source,
    );
    add(
        "kernel-tree",
        of("prepare for Rust modules"),
        80,
        tree.clone(),
        Work::Tree,
    );
    let sizes = format!("{tree}\n{}", sizes::key());
    add(
        "kernel-sizes",
        of("compare structures with its BTF"),
        5,
        sizes,
        Work::Sizes,
    );
    add(
        "kernel-stock",
        of("stock modules"),
        10,
        packages.clone(),
        Work::Stock,
    );
    if options.image {
        let root = image::NODE.key();
        add(
            "node-root",
            "node root (Debian trixie)".into(),
            30,
            root.clone(),
            Work::NodeRoot,
        );
        let key = format!("{root}\n{packages}\n{}", image::key());
        add("node-image", "node image".into(), 10, key, Work::NodeImage);
        let key = format!("{packages}\n{}\n{}", image::key(), init_key(layout)?);
        add(
            "initramfs",
            "initramfs with init".into(),
            30,
            key,
            Work::Initramfs,
        );
    }
    let flavours = [
        (options.uml, Flavour::Smp),
        (options.kasan, Flavour::Kasan),
        (options.fast, Flavour::Fast),
    ];
    for (_, flavour) in flavours.into_iter().filter(|(is_wanted, _)| *is_wanted) {
        let what = of(&format!("User Mode Linux, {}", flavour.name()));
        let key = format!("{tree}\n{}", flavour.key());
        let name = format!("uml-{}", flavour.name());
        add(&name, what, 280, key, Work::Uml(flavour));
    }
    Ok(list)
}

fn carry_out(work: Work, kernels: &Kernels<'_>, kernel: &Kernel, log: &Log) -> Result<()> {
    match work {
        Work::Packages => kernels.fetch(kernel, log),
        Work::Source => kernels.unpack_source(kernel, log),
        Work::Tree => kernels.prepare(kernel, log),
        Work::Sizes => sizes::check(kernels, kernel, log),
        Work::Stock => kernels.stock(kernel, log),
        Work::NodeRoot => image::make_root(kernels, log),
        Work::NodeImage => image::pack_root(kernels, &kernel.release, log),
        Work::Initramfs => image::pack_initramfs(kernels, log),
        Work::Uml(flavour) => uml::build(kernels, kernel, flavour, log),
    }
}

/// Changes when a source of init changes, or a version in the lock file.
fn init_key(layout: &Layout) -> Result<String> {
    let mut hasher = std::hash::DefaultHasher::new();
    hash_tree(&layout.workspace().join("qemu-test/init"), &mut hasher)?;
    hash_tree(&layout.workspace().join("Cargo.lock"), &mut hasher)?;
    Ok(format!("init {:016x}", hasher.finish()))
}

fn hash_tree(path: &Path, hasher: &mut impl Hasher) -> Result<()> {
    if !path.is_dir() {
        let content = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        path.hash(hasher);
        content.hash(hasher);
        return Ok(());
    }
    let mut entries = fs::read_dir(path)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .with_context(|| format!("reading {}", path.display()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    entries
        .iter()
        .try_for_each(|entry| hash_tree(&entry.path(), hasher))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> Kernel {
        parse_choice("7.2.1+x-amd64\n7.2.1-1\nlinux-source-7.2\n").unwrap()
    }

    #[test]
    fn choice_is_three_lines() {
        assert_eq!(kernel().version, "7.2.1-1");
        assert_eq!(kernel().local_version(), "+x-amd64");
        assert!(parse_choice("7.2.1\n").is_none());
    }

    fn keys(dir: &Path, kernel: &Kernel) -> Vec<String> {
        let options = Options {
            uml: true,
            ..Options::default()
        };
        let steps = steps(&Layout::below(dir), kernel, options).unwrap();
        steps.into_iter().map(|(step, _)| step.key).collect()
    }

    #[test]
    fn another_kernel_repeats_every_step_and_other_compilers_the_trees() {
        let dir = std::env::temp_dir().join(format!("xtask-setup-{}", std::process::id()));
        fs::create_dir_all(dir.join("target/setup")).unwrap();
        let before = keys(&dir, &kernel());
        let other = Kernel {
            version: "7.2.1-2".into(),
            ..kernel()
        };
        assert!(before.iter().zip(keys(&dir, &other)).all(|(a, b)| *a != b));

        fs::write(dir.join("target/setup/compilers"), "rustc 2").unwrap();
        let changed: Vec<bool> = before
            .iter()
            .zip(keys(&dir, &kernel()))
            .map(|(a, b)| *a != b)
            .collect();
        // packages, source, tree, sizes, stock, uml
        assert_eq!(changed, [false, false, true, true, false, true]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn key_of_init_follows_its_sources() {
        let dir = std::env::temp_dir().join(format!("xtask-init-{}", std::process::id()));
        let sources = dir.join("qemu-test/init/src");
        fs::create_dir_all(&sources).unwrap();
        fs::write(dir.join("Cargo.lock"), "").unwrap();
        fs::write(sources.join("main.rs"), "a").unwrap();
        let layout = Layout::below(&dir);
        let before = init_key(&layout).unwrap();
        assert_eq!(init_key(&layout).unwrap(), before);
        fs::write(sources.join("main.rs"), "b").unwrap();
        assert_ne!(init_key(&layout).unwrap(), before);
        fs::remove_dir_all(dir).unwrap();
    }
}
