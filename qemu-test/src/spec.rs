// SPDX-License-Identifier: GPL-2.0-only
//! What a cluster of nodes is to look like.

use std::fmt;
use std::path::PathBuf;

use clap::ValueEnum;

/// What a node is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// A virtual machine with the distribution's kernel and the node image.
    Qemu,
    /// User Mode Linux, SMP with lockdep: a process, at native speed.
    Uml,
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Kind::Qemu => "qemu",
            Kind::Uml => "uml",
        })
    }
}

/// Which kernel User Mode Linux nodes boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UmlKernel {
    /// With lockdep and other checks.
    Checked,
    /// Without: for figures.
    Fast,
}

/// How the nodes of a cluster are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// A switch, whose links can be cut, delayed and made lossy.
    Switch,
    /// A cable between every two nodes, which costs the host least; User Mode Linux only.
    Cables,
}

/// Where User Mode Linux nodes with the node image have our module (the payload's is for QEMU).
pub const UML_MODULE: &str = "/opt/dlm.ko";

/// Where they have the distribution's.
pub const UML_INTREE_MODULE: &str = "/opt/intree/dlm.ko";

/// A file to be put on User Mode Linux nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestFile {
    /// Where it is here.
    pub from: PathBuf,
    /// Absolute path on the node.
    pub to: String,
}

/// A cluster to be booted.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    /// What the nodes are.
    pub kind: Kind,
    /// How many; they are called n1, n2, ... and have the addresses 10.77.C.1, 10.77.C.2, ...
    pub nodes: u32,
    /// Memory of each.
    pub memory_mib: u32,
    /// Processors of each.
    pub cpus: u32,
    /// Size of a disk that all share (serial `shared`), if they do.
    pub shared_disk_mib: Option<u64>,
    /// Words added to the kernel's command line.
    pub append: String,
    /// Whether the nodes have the node image and the payload. QEMU nodes always do; User Mode Linux
    /// nodes have only an initramfs with busybox otherwise.
    pub has_image: bool,
    /// Files added to the nodes. User Mode Linux only; QEMU nodes have the payload.
    pub files: Vec<GuestFile>,
    /// The kernel, if they are User Mode Linux.
    pub uml_kernel: UmlKernel,
    /// How they are connected.
    pub wiring: Wiring,
    /// Whether the clock counts instructions: a nanosecond is one. QEMU with one processor only.
    pub counts_instructions: bool,
    /// Whether what its processor executes in the kernel can be written down, with
    /// [`Node::begin_trace`](crate::node::Node::begin_trace). QEMU only.
    pub is_traced: bool,
    /// Decides which frames lossy links lose.
    pub seed: u64,
}

impl ClusterSpec {
    /// The usual cluster of `nodes` nodes.
    pub fn new(kind: Kind, nodes: u32) -> Self {
        let (memory_mib, cpus) = match kind {
            Kind::Qemu => (768, 1),
            Kind::Uml => (256, 2),
        };
        ClusterSpec {
            kind,
            nodes,
            memory_mib,
            cpus,
            shared_disk_mib: None,
            has_image: kind == Kind::Qemu,
            append: String::new(),
            files: Vec::new(),
            uml_kernel: UmlKernel::Checked,
            wiring: Wiring::Switch,
            counts_instructions: false,
            is_traced: false,
            seed: 1,
        }
    }

    /// The same with the node image and the payload on whatever kind of node, and both lock
    /// managers for User Mode Linux at [`UML_MODULE`] and [`UML_INTREE_MODULE`].
    pub fn with_image(self) -> Self {
        ClusterSpec {
            has_image: true,
            ..self
        }
    }

    /// The same with a disk that all nodes share.
    pub fn with_shared_disk(self, mib: u64) -> Self {
        ClusterSpec {
            shared_disk_mib: Some(mib),
            ..self
        }
    }

    /// The same with a file on every User Mode Linux node.
    pub fn with_file(mut self, from: impl Into<PathBuf>, to: &str) -> Self {
        self.files.push(GuestFile {
            from: from.into(),
            to: to.to_owned(),
        });
        self
    }
}
