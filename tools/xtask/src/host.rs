// SPDX-License-Identifier: GPL-2.0-only
//! What this machine must offer: programs, space, rights, a mirror.
//!
//! The only step that needs root is installing packages, and it happens only if a program is
//! missing. Rule: whatever is missing is named together with the command that cures it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

use crate::apt;
use crate::apt::Mirrors;
use crate::apt::Source;
use crate::paths::Layout;
use crate::run;
use crate::run::Log;

/// Programs we call on the host, and the Debian 12 package that has each.
const PROGRAMS: [(&str, &str); 6] = [
    // libFuzzer is C++.
    ("c++", "g++"),
    ("mmdebstrap", "mmdebstrap"),
    ("newuidmap", "uidmap"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
];

/// The keyring that signs the archive; its package must know the suite's key.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Packages to install: those whose program or file is missing.
pub(crate) fn missing_packages() -> Vec<&'static str> {
    let mut packages: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !run::has_program(program))
        .map(|(_, package)| *package)
        .collect();
    if !Path::new(KEYRING).exists() {
        packages.push("debian-archive-keyring");
    }
    packages
}

/// Installs what is missing.
pub(crate) fn install(packages: &[&str], log: &Log) -> Result<()> {
    let list = packages.join(" ");
    if !run::has_program("apt-get") {
        bail!("this is no Debian system; install by its own means what contains: {list}");
    }
    let prefix: &[&str] = if nix::unistd::geteuid().is_root() {
        &[]
    } else if run::has_program("sudo") {
        &["sudo"]
    } else {
        bail!(
            "packages are missing and you are neither root nor have sudo; \
             ask an administrator to run: apt-get install {list}"
        );
    };
    let apt = |args: &[&str]| {
        let mut words = prefix.to_vec();
        words.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-y"]);
        words.extend(args);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    };
    let remedy = || {
        format!(
            "the package archive cannot be used; check /etc/apt/sources.list and the network, \
                 then try by hand: sudo apt-get update && sudo apt-get install {list}"
        )
    };
    log.run("apt-get update", &mut apt(&["update"]))
        .with_context(remedy)?;
    let mut args = vec!["install", "--no-install-recommends"];
    args.extend(packages);
    log.run("apt-get install", &mut apt(&args))
        .with_context(remedy)
}

/// Fails unless the file system of `layout` has `need_gib` free.
pub(crate) fn check_space(layout: &Layout, need_gib: u64) -> Result<()> {
    fs::create_dir_all(layout.setup())
        .with_context(|| format!("creating {}", layout.setup().display()))?;
    let place = layout.setup();
    let stat = nix::sys::statvfs::statvfs(&place)
        .with_context(|| format!("asking for the free space of {}", place.display()))?;
    enough(
        stat.blocks_available() * stat.fragment_size(),
        need_gib,
        &place,
    )
}

fn enough(free: u64, need_gib: u64, place: &Path) -> Result<()> {
    const GIB: u64 = 1 << 30;
    if free < need_gib * GIB {
        bail!(
            "setup needs {need_gib} GiB free on the file system of {}, which has {:.1} GiB; \
             make room, or let target/ be a link to a larger place",
            place.display(),
            free as f64 / GIB as f64
        );
    }
    Ok(())
}

/// The mirrors to use: from the environment, or those of this machine's apt.
pub(crate) fn mirrors() -> Result<Mirrors> {
    if let Ok(main) = std::env::var("CONCLAVE_MIRROR") {
        return Ok(Mirrors {
            main,
            security: std::env::var("CONCLAVE_MIRROR_SECURITY").ok(),
        });
    }
    let os_release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let codename = apt::codename(&os_release).context(
        "/etc/os-release has no VERSION_CODENAME; name a Debian mirror in CONCLAVE_MIRROR",
    )?;
    apt::choose_mirrors(&sources()?, codename)
}

fn sources() -> Result<Vec<Source>> {
    let mut texts = vec![fs::read_to_string("/etc/apt/sources.list").unwrap_or_default()];
    let parts = Path::new("/etc/apt/sources.list.d");
    if parts.is_dir() {
        let mut files: Vec<_> = fs::read_dir(parts)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        files.sort();
        for file in files {
            let kind = file.extension().and_then(|kind| kind.to_str());
            if matches!(kind, Some("list" | "sources")) {
                texts.push(
                    fs::read_to_string(&file)
                        .with_context(|| format!("reading {}", file.display()))?,
                );
            }
        }
    }
    Ok(texts
        .iter()
        .flat_map(|text| apt::parse_sources(text))
        .collect())
}

/// How this machine's apt reaches archives (proxies, certificates, policies), to be handed on.
pub(crate) fn apt_options() -> Result<Vec<String>> {
    if !run::has_program("apt-config") {
        return Ok(Vec::new());
    }
    let dump = run::output(
        "asking apt for its settings",
        Command::new("apt-config").arg("dump"),
    )?;
    Ok(dump
        .lines()
        .filter(|line| is_transport_option(line))
        .map(str::to_owned)
        .collect())
}

fn is_transport_option(line: &str) -> bool {
    const WANTED: [&str; 6] = [
        "Acquire::http::",
        "Acquire::https::",
        "Acquire::Retries ",
        "Acquire::ForceIPv4 ",
        "Acquire::Check-Valid-Until ",
        "Acquire::Check-Date ",
    ];
    WANTED.iter().any(|wanted| line.starts_with(wanted)) && !line.contains(" \"\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortage_of_space_names_both_figures() {
        let error = enough(5 << 30, 12, Path::new("/x"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("12 GiB") && error.contains("5.0 GiB"),
            "{error}"
        );
        assert!(enough(12 << 30, 12, Path::new("/x")).is_ok());
    }

    #[test]
    fn only_transport_options_are_handed_on() {
        assert!(is_transport_option(
            "Acquire::http::Proxy \"http://p.example:3128\";"
        ));
        assert!(!is_transport_option("Acquire::http::Proxy \"\";"));
        assert!(!is_transport_option(
            "Acquire::cdrom::mount \"/media/cdrom/\";"
        ));
        assert!(!is_transport_option("DPkg::Post-Invoke:: \"rm -rf /\";"));
    }
}
