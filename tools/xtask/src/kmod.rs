// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask kmod`: builds our modules against a prepared kernel tree.
//!
//! The sources are copied into the root, changed files only, so make builds what changed. Rule:
//! what is built is exactly what is in `kmod/`; a file removed there is removed in the copy.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

use crate::kernel::Kernels;
use crate::paths::Layout;
use crate::paths::inside;
use crate::run::Log;
use crate::setup::Prepared;
use crate::step::Turn;
use crate::step::seconds;
use crate::uml::Flavour;

/// Directories of `kmod/` that belong to userspace.
const NOT_KERNEL: [&str; 3] = ["host", "client", "target"];

/// The sources of the module that measures lock managers.
pub(crate) const BENCH: &str = "qemu-test/bench";

/// File in the copy that lists what was copied.
const MANIFEST: &str = ".copied";

/// For which kernel to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Debian's kernel.
    X86,
    /// A User Mode Linux kernel.
    Uml(Flavour),
}

impl Kind {
    /// Name of the directories: `x86`, `uml`, `uml-kasan`, `uml-fast`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::X86 => "x86",
            Kind::Uml(Flavour::Smp) => "uml",
            Kind::Uml(Flavour::Kasan) => "uml-kasan",
            Kind::Uml(Flavour::Fast) => "uml-fast",
        }
    }

    fn tree(self, release: &str) -> String {
        match self {
            Kind::X86 => inside::kdir(release),
            Kind::Uml(flavour) => inside::uml(release, flavour.name()),
        }
    }

    fn make_args(self, local_version: &str) -> String {
        match self {
            Kind::X86 => format!("CC=gcc-14 LOCALVERSION={local_version}"),
            // User Mode Linux compiles Rust position independent, and its module loader does not
            // know the relocations that accesses through the GOT would have.
            Kind::Uml(flavour) => {
                let flags = "KRUSTFLAGS=-Zdirect-access-external-data=yes";
                format!("{} {flags}", flavour.make_args())
            }
        }
    }
}

/// What to build, and how.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// For which kernel.
    pub(crate) kind: Kind,
    /// Sources: `kmod/`, or another directory with a Kbuild.
    pub(crate) source: PathBuf,
    /// Run clippy in place of the compiler.
    pub(crate) clippy: bool,
}

/// Builds and copies the finished modules to `target/kmod/`.
pub(crate) fn build(layout: &Layout, prepared: &Prepared, request: &Request) -> Result<()> {
    if !request.source.join("Kbuild").exists() {
        bail!(
            "{} has no Kbuild; nothing to build",
            request.source.display()
        );
    }
    let _turn = Turn::take(layout, "kmod")?;
    let begin = Instant::now();
    let name = build_name(request)?;
    let kernels = Kernels {
        layout,
        rights: prepared.rights,
    };
    let place = format!("{}/{name}", inside::BUILD);
    let copy = kernels.in_root(&place);
    sync(&request.source, &copy)?;
    let log = Log::create(&layout.logs(), &name)?;
    let script = "make -C $1 M=$2 $3 $4 -j$(nproc) modules";
    let tree = request.kind.tree(&prepared.kernel.release);
    let args = request.kind.make_args(prepared.kernel.local_version());
    let clippy = if request.clippy { "CLIPPY=1" } else { "" };
    let made = kernels.shell("make", script, &[&tree, &place, &args, clippy], &log);
    if made.is_err() {
        print_words(&log.lines()?);
        bail!(
            "{} was not built; all output: {}",
            request.source.display(),
            log.path().display()
        );
    }
    let lines = log.lines()?;
    let is_warned = lines.iter().any(|line| line.contains("warning"));
    if is_warned {
        print_words(&lines);
    }
    if request.clippy {
        if is_warned {
            // make takes what was linted for done; without it the next call complains again.
            prepared.rights.remove_tree(&copy)?;
            bail!(
                "clippy has complaints; all of them: {}",
                log.path().display()
            );
        }
        eprintln!(
            "kmod: clippy has no complaints ({})",
            seconds(begin.elapsed())
        );
        return Ok(());
    }
    // Only the module itself goes where nodes get it from.
    let is_ours = request.source == layout.workspace().join("kmod");
    let to = layout
        .kmod()
        .join(if is_ours { request.kind.name() } else { &name });
    let modules = collect(&copy, &to)?;
    let what = modules.join(" ");
    eprintln!(
        "kmod: {} in {} ({})",
        what,
        to.display(),
        seconds(begin.elapsed())
    );
    Ok(())
}

/// Builds what scenarios on User Mode Linux load: the module, the one with planted faults that
/// proves the kernel would find such faults in ours, and the one that measures lock managers.
pub(crate) fn build_for_uml(layout: &Layout, prepared: &Prepared) -> Result<()> {
    let sources = ["kmod", "qemu-test/planted", BENCH];
    build_all(layout, prepared, Kind::Uml(Flavour::Smp), &sources)
}

/// Builds what benches on the User Mode Linux for figures load.
pub(crate) fn build_for_figures(layout: &Layout, prepared: &Prepared) -> Result<()> {
    build_all(layout, prepared, Kind::Uml(Flavour::Fast), &["kmod", BENCH])
}

fn build_all(layout: &Layout, prepared: &Prepared, kind: Kind, sources: &[&str]) -> Result<()> {
    for source in sources {
        let source = layout.workspace().join(source);
        build(
            layout,
            prepared,
            &Request {
                kind,
                source,
                clippy: false,
            },
        )?;
    }
    Ok(())
}

/// Prints the compiler's words, which are longer than the tail of a log that errors show.
fn print_words(lines: &[String]) {
    lines
        .iter()
        .filter(|line| !is_chatter(line))
        .for_each(|line| eprintln!("{line}"));
}

/// What make says about itself.
fn is_chatter(line: &str) -> bool {
    ["make", "# ", "Skipping BTF"]
        .iter()
        .any(|begin| line.starts_with(begin))
        || line.starts_with("  ") && line[2..].starts_with(char::is_uppercase)
}

/// Name of the copy in the root and of the log. Clippy has a copy of its own, as its objects must
/// not be taken for compiled ones.
fn build_name(request: &Request) -> Result<String> {
    let source = request
        .source
        .file_name()
        .context("the sources need a directory name")?;
    let clippy = if request.clippy { "-clippy" } else { "" };
    Ok(format!(
        "{}-{}{clippy}",
        source.to_string_lossy(),
        request.kind.name()
    ))
}

/// Makes `copy` hold the sources, leaving files alone that are as they should be.
pub(crate) fn sync(source: &Path, copy: &Path) -> Result<()> {
    let mut files = BTreeSet::new();
    list(source, Path::new(""), &mut files)?;
    fs::create_dir_all(copy).with_context(|| format!("creating {}", copy.display()))?;
    let manifest = copy.join(MANIFEST);
    for gone in fs::read_to_string(&manifest).unwrap_or_default().lines() {
        let file = copy.join(gone);
        if !files.contains(Path::new(gone)) && file.exists() {
            fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
        }
    }
    for file in &files {
        update(&source.join(file), &copy.join(file))?;
    }
    let text: String = files
        .iter()
        .map(|file| format!("{}\n", file.display()))
        .collect();
    fs::write(&manifest, text).with_context(|| format!("writing {}", manifest.display()))
}

fn list(source: &Path, below: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    let dir = source.join(below);
    for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            let is_top = below.as_os_str().is_empty();
            if !(is_top && NOT_KERNEL.iter().any(|name| entry.file_name() == *name)) {
                list(source, &path, files)?;
            }
        } else {
            files.insert(path);
        }
    }
    Ok(())
}

/// Copies a file and its permissions unless it is there with the same contents. True if it copied.
pub(crate) fn update(from: &Path, to: &Path) -> Result<bool> {
    let new = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    fs::write(to, new).with_context(|| format!("writing {}", to.display()))?;
    let permissions = fs::metadata(from)
        .with_context(|| format!("reading {}", from.display()))?
        .permissions();
    fs::set_permissions(to, permissions)
        .with_context(|| format!("setting the permissions of {}", to.display()))?;
    Ok(true)
}

/// Makes `to` hold the modules that make listed, and no others; their names.
fn collect(copy: &Path, to: &Path) -> Result<Vec<String>> {
    let order = copy.join("modules.order");
    let order =
        fs::read_to_string(&order).with_context(|| format!("reading {}", order.display()))?;
    let mut names = Vec::new();
    for object in order.lines().map(Path::new) {
        let module = object.with_extension("ko");
        let name = module.file_name().context("a module without a name")?;
        update(&copy.join(&module), &to.join(name))?;
        names.push(name.to_string_lossy().into_owned());
    }
    if names.is_empty() {
        bail!("make ended well but made no module; does the Kbuild have an obj-m line?");
    }
    for entry in fs::read_dir(to).with_context(|| format!("reading {}", to.display()))? {
        let entry = entry?;
        if !names.iter().any(|name| entry.file_name() == name.as_str()) {
            fs::remove_file(entry.path())
                .with_context(|| format!("removing {}", entry.path().display()))?;
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temp(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn copy_follows_the_sources_and_keeps_what_make_made() {
        let dir = temp("sync");
        let (source, copy) = (dir.join("kmod"), dir.join("copy"));
        fs::create_dir_all(source.join("ffi")).unwrap();
        fs::create_dir_all(source.join("host")).unwrap();
        for file in ["Kbuild", "ffi/a.rs", "ffi/b.rs", "host/lib.rs"] {
            fs::write(source.join(file), file).unwrap();
        }
        sync(&source, &copy).unwrap();
        assert_eq!(
            fs::read_to_string(copy.join("ffi/a.rs")).unwrap(),
            "ffi/a.rs"
        );
        assert!(!copy.join("host").exists());

        fs::write(copy.join("ffi/a.o"), "object").unwrap();
        let before = fs::metadata(copy.join("ffi/a.rs"))
            .unwrap()
            .modified()
            .unwrap();
        fs::remove_file(source.join("ffi/b.rs")).unwrap();
        fs::write(source.join("Kbuild"), "changed").unwrap();
        sync(&source, &copy).unwrap();
        assert_eq!(fs::read_to_string(copy.join("Kbuild")).unwrap(), "changed");
        assert!(!copy.join("ffi/b.rs").exists());
        assert!(copy.join("ffi/a.o").exists());
        assert_eq!(
            fs::metadata(copy.join("ffi/a.rs"))
                .unwrap()
                .modified()
                .unwrap(),
            before
        );
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn words_of_the_compiler_are_no_chatter() {
        for line in [
            "make[1]: Entering",
            "  RUSTC [M] dlm_main.o",
            "  CC [M]  a.o",
        ] {
            assert!(is_chatter(line), "{line}");
        }
        for line in ["error[E0425]: x", "  --> dlm_main.rs:1:1", "   |", "", " é"] {
            assert!(!is_chatter(line), "{line}");
        }
    }

    #[test]
    fn build_without_a_module_is_an_error() {
        let dir = temp("collect");
        let (copy, out) = (dir.join("copy"), dir.join("out"));
        fs::create_dir_all(&copy).unwrap();
        fs::create_dir_all(&out).unwrap();
        fs::write(out.join("old.ko"), "module of a removed source").unwrap();
        fs::write(copy.join("modules.order"), "").unwrap();
        assert!(
            collect(&copy, &out)
                .unwrap_err()
                .to_string()
                .contains("obj-m")
        );
        fs::write(copy.join("modules.order"), "a.o\n").unwrap();
        assert!(collect(&copy, &out).is_err(), "listed but not made");
        fs::write(copy.join("a.ko"), "module").unwrap();
        assert_eq!(collect(&copy, &out).unwrap(), ["a.ko"]);
        assert!(out.join("a.ko").exists() && !out.join("old.ko").exists());
        fs::remove_dir_all(dir).unwrap();
    }
}
