// SPDX-License-Identifier: GPL-2.0-only
//! Where everything lies: the one place that knows the layout of `target/`.
//!
//! Not here: what is in those places, and who makes it. Rule: nothing is written outside the
//! workspace's `target/` directory.

use std::path::Path;
use std::path::PathBuf;

/// Paths of one checkout.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    workspace: PathBuf,
}

impl Layout {
    /// The checkout this program was built from (or the one cargo runs it for).
    pub(crate) fn find() -> Layout {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let workspace = manifest
            .ancestors()
            .nth(2)
            .map_or(manifest.clone(), Path::to_path_buf);
        Layout { workspace }
    }

    /// A layout below any directory, for tests.
    #[cfg(test)]
    pub(crate) fn below(workspace: &Path) -> Layout {
        Layout {
            workspace: workspace.to_path_buf(),
        }
    }

    /// The checkout itself.
    pub(crate) fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// `target/`.
    pub(crate) fn target(&self) -> PathBuf {
        self.workspace.join("target")
    }

    /// Everything `setup` makes.
    pub(crate) fn setup(&self) -> PathBuf {
        self.target().join("setup")
    }

    /// One file per finished step, holding the inputs it was made from.
    pub(crate) fn stamps(&self) -> PathBuf {
        self.setup().join("stamps")
    }

    /// Long outputs of long commands.
    pub(crate) fn logs(&self) -> PathBuf {
        self.setup().join("logs")
    }

    /// The trixie root with compilers and the kernel tree.
    pub(crate) fn root(&self) -> PathBuf {
        self.setup().join("root")
    }

    /// The stock kernel: `vmlinuz`, `config`, `release`, `modules/`.
    pub(crate) fn kernel(&self) -> PathBuf {
        self.setup().join("kernel")
    }

    /// The node image and its initramfs.
    pub(crate) fn image(&self) -> PathBuf {
        self.setup().join("image")
    }

    /// User Mode Linux kernels, one directory per flavour.
    pub(crate) fn uml(&self) -> PathBuf {
        self.setup().join("uml")
    }

    /// Finished kernel modules of ours.
    pub(crate) fn kmod(&self) -> PathBuf {
        self.target().join("kmod")
    }

    /// What changes with our code and is mounted at `/opt/conclave` in a node.
    pub(crate) fn payload(&self) -> PathBuf {
        self.target().join("payload")
    }
}

/// Paths as seen inside the trixie root.
pub(crate) mod inside {
    /// The kernel source as packaged, our User Mode Linux patches applied.
    pub(crate) fn source(release: &str) -> String {
        format!("{}/{release}-source", KERNELS)
    }

    /// The prepared tree modules are built against (`KDIR`).
    pub(crate) fn kdir(release: &str) -> String {
        format!("{KERNELS}/{release}")
    }

    /// The build tree of a User Mode Linux flavour.
    pub(crate) fn uml(release: &str, flavour: &str) -> String {
        format!("{KERNELS}/{release}-uml-{flavour}")
    }

    /// Parent of all kernel trees.
    pub(crate) const KERNELS: &str = "/usr/src/conclave-kernel";

    /// Where sources are copied to be built.
    pub(crate) const BUILD: &str = "/build";
}
