// SPDX-License-Identifier: GPL-2.0-only
//! The payload: our programs, module and test clients, as nodes mount them at `/opt/conclave`.
//!
//! Small and quick to make, so that a change of code is in a node seconds later. Rule: C clients
//! are compiled in the trixie root against the distribution's library, which is the point of them.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;

use crate::image::cargo;
use crate::kernel::Kernels;
use crate::kmod;
use crate::kmod::Kind;
use crate::kmod::Request;
use crate::paths::Layout;
use crate::paths::inside;
use crate::run;
use crate::run::Log;
use crate::setup::Prepared;
use crate::step::Turn;
use crate::step::seconds;

/// Our programs; each is a package of the workspace with a program of the same name. The last one
/// is of the tests.
const PROGRAMS: [&str; 8] = [
    "cmand",
    "fenced",
    "dlm_controld",
    "fence_vm",
    "cman_tool",
    "dlm_tool",
    "fence_tool",
    "dlm-steer",
];

/// Packs the image from what is in the directories beside it.
const PACK: &str = "cd /mnt; rm -f payload.part
    mkfs.erofs --quiet -T 0 --ignore-mtime --exclude-regex='^(payload[.]|runtime)' payload.part .
    mv payload.part payload.erofs";

/// Builds everything that goes in, and packs it if something changed. Without `module` the module
/// is what the last build made, or none: scenarios on the in-tree one do not need ours.
pub(crate) fn build(layout: &Layout, prepared: &Prepared, module: bool) -> Result<()> {
    let ours = module.then_some("kmod");
    for source in ours.into_iter().chain([kmod::BENCH]) {
        let source = layout.workspace().join(source);
        let request = Request {
            kind: Kind::X86,
            source,
            clippy: false,
        };
        kmod::build(layout, prepared, &request)?;
    }
    let mut command = cargo(layout.workspace());
    command.args(["build", "--release"]);
    PROGRAMS.iter().for_each(|name| {
        command.args(["--package", name, "--bin", name]);
    });
    eprintln!("payload: building {}", PROGRAMS.join(" "));
    run::visible("building the programs", &mut command)?;

    let _turn = Turn::take(layout, "payload")?;
    let begin = Instant::now();
    let kernels = Kernels {
        layout,
        rights: prepared.rights,
    };
    let log = Log::create(&layout.logs(), "payload")?;
    let to = layout.payload();
    let release = layout.target().join("release");
    let mut is_changed = collect(&release, &to.join("bin"), &|name| PROGRAMS.contains(&name))?;
    let modules = layout.kmod().join("x86");
    is_changed |= collect(&modules, &to.join("kmod"), &|name| name.ends_with(".ko"))?;
    let modules = layout.kmod().join("bench-x86");
    is_changed |= collect(&modules, &to.join("bench"), &|name| name.ends_with(".ko"))?;
    is_changed |= clients(&kernels, &log)?;
    if is_changed || !to.join("payload.erofs").exists() {
        kernels.shell_with(&to, "mkfs.erofs", PACK, &[], &log)?;
        eprintln!("payload: packed ({})", seconds(begin.elapsed()));
    }
    Ok(())
}

/// Makes `to` hold the files of `from` that are `wanted`, and no others. True if it changed.
fn collect(from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<bool> {
    let names = |dir: &Path| -> Result<Vec<String>> {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
        Ok(entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| wanted(name))
            .collect())
    };
    let source = names(from)?;
    let mut is_changed = false;
    for name in &source {
        is_changed |= kmod::update(&from.join(name), &to.join(name))?;
    }
    for name in names(to)?.iter().filter(|name| !source.contains(name)) {
        fs::remove_file(to.join(name)).with_context(|| format!("removing {name}"))?;
        is_changed = true;
    }
    Ok(is_changed)
}

/// Compiles `tests/clients/*.c`, each a program, inside the root. True if one changed. The
/// libraries they need, for nodes that have no root image, go to `runtime/`, at their paths.
fn clients(kernels: &Kernels<'_>, log: &Log) -> Result<bool> {
    let source = kernels.layout.workspace().join("tests/clients");
    let place = format!("{}/clients", inside::BUILD);
    let copy = kernels.in_root(&place);
    if source.is_dir() {
        kmod::sync(&source, &copy)?;
    }
    let script = "cd $1; mkdir -p out
        for file in *.c; do
            [ -e $file ] || continue
            program=out/${file%.c}
            [ -n \"$(find . -maxdepth 1 -name '*.[ch]' -newer $program 2>&1)\" ] || continue
            gcc -O2 -g -Wall -Wextra -Werror -o $program $file -ldlm -lpthread
        done
        for program in out/*; do
            [ -e $(basename $program).c ] || rm -f $program
        done
        rm -rf runtime; mkdir runtime
        ldd out/* 2>/dev/null | grep -oE '/[^ :]+[.]so[^ :]*' | sort -u |
            xargs -r cp -L --parents -t runtime";
    fs::create_dir_all(&copy).with_context(|| format!("creating {}", copy.display()))?;
    kernels.shell("compiling the test clients", script, &[&place], log)?;
    kmod::sync(
        &copy.join("runtime"),
        &kernels.layout.payload().join("runtime"),
    )?;
    collect(
        &copy.join("out"),
        &kernels.layout.payload().join("clients"),
        &|_| true,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collection_follows_its_source() {
        let dir = std::env::temp_dir().join(format!("xtask-payload-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let (from, to) = (dir.join("from"), dir.join("to"));
        fs::create_dir_all(&from).unwrap();
        fs::write(from.join("a.ko"), "one").unwrap();
        fs::write(from.join("a.o"), "object").unwrap();
        let wanted = |name: &str| name.ends_with(".ko");
        assert!(collect(&from, &to, &wanted).unwrap());
        assert!(!collect(&from, &to, &wanted).unwrap());
        assert!(!to.join("a.o").exists());
        fs::rename(from.join("a.ko"), from.join("b.ko")).unwrap();
        assert!(collect(&from, &to, &wanted).unwrap());
        assert!(to.join("b.ko").exists() && !to.join("a.ko").exists());
        fs::remove_dir_all(dir).unwrap();
    }
}
