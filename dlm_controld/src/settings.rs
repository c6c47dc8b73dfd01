// SPDX-License-Identifier: GPL-2.0-only
//! What the daemon takes from the configuration, and why it may end.

use std::path::PathBuf;

use cluster_rt::client::CallError;
use cluster_rt::config::Config;
use cluster_rt::config::IdentityError;
use cluster_rt::exit;
use cluster_rt::server::BindError;
use dlm_controld_core::NodeId;

use crate::kernel::Identity;
use crate::kernel::KernelError;

/// Where the daemons listen.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) own: PathBuf,
    pub(crate) cmand: PathBuf,
    pub(crate) fenced: PathBuf,
}

/// What the daemon takes from the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) node: NodeId,
    pub(crate) nodes: Vec<NodeId>,
    pub(crate) identity: Identity,
    /// Load a module when none is loaded.
    pub(crate) load: bool,
}

impl Settings {
    /// # Errors
    /// When this machine is none of the configured nodes.
    pub(crate) fn new(
        config: &Config,
        name: Option<&str>,
        load: bool,
    ) -> Result<Self, IdentityError> {
        let node = config.local_node(name)?.id;
        Ok(Self {
            node: NodeId(node),
            nodes: config.nodes.iter().map(|node| NodeId(node.id)).collect(),
            identity: Identity {
                cluster: config.cluster.name.clone(),
                node,
                addresses: config
                    .nodes
                    .iter()
                    .map(|node| (node.id, node.address))
                    .collect(),
                log_debug: config.dlm.log_debug,
            },
            load,
        })
    }
}

/// Why the daemon ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("connection to another daemon: {0}; lockspaces stay stopped")]
    Connection(#[from] CallError),
    #[error("cmand refused: {0}")]
    Refused(cmand_client::Refusal),
    #[error("fenced refused: {0}")]
    FencedRefused(fenced_client::Refusal),
    #[error("the cluster went on without this node: {0}; reset it")]
    Expelled(String),
    #[error("{0}")]
    Kernel(#[from] KernelError),
    #[error(
        "the kernel has lockspaces that no daemon controls: {0}; \
         they cannot be taken over, so this node must be reset"
    )]
    Leftovers(String),
    #[error("the other daemons follow protocol {0}, which this one cannot; update it")]
    Protocol(String),
    #[error("the kernel did not start lockspace {lockspace} again: errno {errno}")]
    Stuck { lockspace: String, errno: i32 },
    #[error("system: {0}")]
    System(#[from] std::io::Error),
}

impl DaemonError {
    /// The exit status that tells a service manager what to do.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Bind(BindError::Running { .. }) => exit::RUNNING,
            Self::Bind(BindError::System { .. })
            | Self::Connection(_)
            | Self::Refused(_)
            | Self::FencedRefused(_)
            | Self::Kernel(_)
            | Self::System(_) => exit::FAILED,
            Self::Expelled(_) | Self::Leftovers(_) | Self::Stuck { .. } => exit::RESET,
            Self::Protocol(_) => exit::REFUSED,
        }
    }
}
