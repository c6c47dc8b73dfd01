// SPDX-License-Identifier: GPL-2.0-only
//! The trixie root: how it is entered, and how a root is made.
//!
//! Everything that needs to be root runs in namespaces of its own: as root in a mount and a process
//! namespace, as an ordinary user in a user namespace as well. Rule: nothing is left mounted or
//! running on the host, also after an error. Not here: what is built inside.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

use crate::apt;
use crate::apt::SUITE;
use crate::host;
use crate::run;
use crate::run::Log;

/// Mounts what builds need and changes the root; `$1` is the root, `$2` a directory to show as
/// `/mnt` (or nothing), the rest the command.
const ENTER: &str = r#"
set -eu
root=$1; extra=$2; shift 2
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc" 2>/dev/null || mount --rbind /proc "$root/proc"
if [ -e /etc/resolv.conf ]; then
	[ -e "$root/etc/resolv.conf" ] || : >"$root/etc/resolv.conf"
	mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
fi
[ -z "$extra" ] || mount --bind "$extra" "$root/mnt"
exec chroot "$root" "$@"
"#;

/// Variables of the caller that commands in a root see, beside a fixed few.
const PASSED_ON: [&str; 7] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "TERM",
];

/// By which right we are root in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rights {
    /// We are.
    Root,
    /// A user namespace makes us so.
    UserNamespace,
}

impl Rights {
    /// Finds out, by trying, and says what is missing otherwise.
    pub(crate) fn find() -> Result<Rights> {
        let rights = if nix::unistd::geteuid().is_root() {
            Rights::Root
        } else {
            Rights::UserNamespace
        };
        let tried = rights
            .unshare()
            .arg("true")
            .output()
            .context("starting unshare")?;
        if tried.status.success() {
            return Ok(rights);
        }
        let stderr = String::from_utf8_lossy(&tried.stderr).trim().to_owned();
        bail!("{}", missing_rights(rights, &stderr))
    }

    /// `unshare` with the flags that make the namespaces; to be continued with the command.
    fn unshare(self) -> Command {
        let mut command = Command::new("unshare");
        // An ordinary user's search path may lack the programs of root.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin:/usr/bin:/bin"));
        if self == Rights::UserNamespace {
            command.args(["--user", "--map-root-user", "--map-auto"]);
        }
        command.args(["--mount", "--pid", "--fork", "--kill-child"]);
        command
    }

    /// A command as root on the host's own files, in namespaces.
    pub(crate) fn outside(self, program: &str) -> Command {
        let mut command = self.unshare();
        command.args(["--mount-proc", program]);
        command
    }

    /// A command inside `root`.
    pub(crate) fn inside<S: AsRef<OsStr>>(self, root: &Path, args: &[S]) -> Command {
        self.inside_with(root, None, args)
    }

    /// A command inside `root` that sees the host's directory `extra` as `/mnt`.
    pub(crate) fn inside_with<S: AsRef<OsStr>>(
        self,
        root: &Path,
        extra: Option<&Path>,
        args: &[S],
    ) -> Command {
        let mut command = self.unshare();
        command.args(["sh", "-c", ENTER, "enter"]).arg(root);
        command
            .arg(extra.unwrap_or(Path::new("")))
            .args(["/usr/bin/env", "-i"]);
        command.args([
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
            "LC_ALL=C.UTF-8",
            "DEBIAN_FRONTEND=noninteractive",
        ]);
        for name in PASSED_ON {
            if let Ok(value) = std::env::var(name) {
                command.arg(format!("{name}={value}"));
            }
        }
        command.args(args);
        command
    }

    /// Removes a tree that may have files of other (mapped) users.
    pub(crate) fn remove_tree(self, tree: &Path) -> Result<()> {
        if !tree.exists() {
            return Ok(());
        }
        run::output(
            "removing a tree",
            self.outside("rm").arg("-rf").arg("--").arg(tree),
        )
        .map(drop)
    }
}

fn missing_rights(rights: Rights, stderr: &str) -> String {
    match rights {
        Rights::Root => format!(
            "root may not make namespaces here ({stderr}); in a container, give it CAP_SYS_ADMIN \
             (docker run --privileged)"
        ),
        Rights::UserNamespace => {
            let user = std::env::var("USER").unwrap_or_else(|_| "$USER".into());
            format!(
                "no user namespace for an ordinary user ({stderr}). Needed, once, by root:\n\
                 \x20 apt-get install uidmap\n\
                 \x20 usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}\n\
                 \x20 sysctl kernel.unprivileged_userns_clone=1   (where that setting exists)\n\
                 or run the command as root"
            )
        }
    }
}

/// What a root consists of.
#[derive(Debug)]
pub(crate) struct Recipe<'a> {
    /// Packages beside the essential ones.
    pub packages: &'a [&'a str],
    /// Shell lines run in the finished root.
    pub finish: &'a str,
}

impl Recipe<'_> {
    /// Everything the result depends on (but for what the archive has at the moment).
    pub(crate) fn key(&self) -> String {
        format!(
            "{SUITE}\n{}\n{}\n{}",
            self.packages.join(" "),
            DPKG.join(" "),
            self.finish
        )
    }
}

/// No manuals or translations, and no syncing of each file: an interrupted root is made anew.
const DPKG: [&str; 6] = [
    "--dpkgopt=force-unsafe-io",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/info/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
];

/// Brings the root at `place` to the recipe: one of our suite gets the packages it lacks (kernel
/// trees and copies in it stay), anything else is made anew.
pub(crate) fn bring_up(rights: Rights, recipe: &Recipe<'_>, place: &Path, log: &Log) -> Result<()> {
    let release = fs::read_to_string(place.join("usr/lib/os-release")).unwrap_or_default();
    if apt::codename(&release) != Some(SUITE) {
        return make(rights, recipe, place, log);
    }
    let script = "apt-get update; apt-get install -y --no-install-recommends \"$@\"";
    let mut words = vec!["sh", "-euc", script, "sh"];
    words.extend(recipe.packages);
    log.run(
        "installing packages in the root",
        &mut rights.inside(place, &words),
    )?;
    if recipe.finish.is_empty() {
        return Ok(());
    }
    log.run(
        "finishing the root",
        &mut rights.inside(place, &["sh", "-euc", recipe.finish]),
    )
}

/// Makes a root at `place`, beside it first so that a half-made one is never taken for whole.
pub(crate) fn make(rights: Rights, recipe: &Recipe<'_>, place: &Path, log: &Log) -> Result<()> {
    let part = with_suffix(place, ".part");
    rights.remove_tree(&part)?;
    let dir = place
        .parent()
        .context("a root needs a directory to be in")?;
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let sources = with_suffix(place, ".list");
    fs::write(&sources, host::mirrors()?.lines(host::KEYRING))
        .with_context(|| format!("writing {}", sources.display()))?;

    let mut command = rights.outside("mmdebstrap");
    command.args(["--mode=root", "--variant=minbase", "--format=directory"]);
    command.arg(format!("--include={}", recipe.packages.join(",")));
    command.args(DPKG);
    for option in host::apt_options()? {
        command.arg(format!("--aptopt={option}"));
    }
    if !recipe.finish.is_empty() {
        command.arg(format!(
            "--customize-hook=chroot \"$1\" sh -euc '{}'",
            recipe.finish
        ));
    }
    command.arg(SUITE).arg(&part).arg(&sources);
    log.run("mmdebstrap", &mut command).context(
        "making a Debian root; if the archive was not reachable, check this machine's apt sources \
         and network, or name another mirror in CONCLAVE_MIRROR",
    )?;
    rights.remove_tree(place)?;
    fs::rename(&part, place).with_context(|| format!("renaming to {}", place.display()))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_rights_name_the_remedy() {
        let text = missing_rights(Rights::UserNamespace, "no mapping");
        assert!(
            text.contains("usermod --add-subuids") && text.contains("no mapping"),
            "{text}"
        );
        assert!(missing_rights(Rights::Root, "EPERM").contains("CAP_SYS_ADMIN"));
    }

    #[test]
    fn key_changes_with_packages() {
        let key = |packages: &[&str]| {
            Recipe {
                packages,
                finish: "",
            }
            .key()
        };
        assert_ne!(key(&["a"]), key(&["b"]));
    }

    #[test]
    fn ordinary_users_get_a_user_namespace() {
        let args = |rights: Rights| {
            let command = rights.outside("true");
            command
                .get_args()
                .map(|arg| arg.to_string_lossy().into_owned())
                .collect::<Vec<_>>()
        };
        assert!(args(Rights::UserNamespace).contains(&"--user".to_owned()));
        assert!(!args(Rights::Root).contains(&"--user".to_owned()));
    }
}
