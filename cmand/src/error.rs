// SPDX-License-Identifier: GPL-2.0-only
//! Why the daemon ends, and with which exit status.

use std::io;
use std::path::PathBuf;

use cluster_rt::config::IdentityError;
use cluster_rt::config::LoadError;
use cluster_rt::exit;
use cluster_rt::server::BindError;

/// Why the daemon ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// It is not known which node this is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] crate::key::KeyError),
    /// Somebody has the UDP port.
    #[error("UDP port {address} is in use; is another instance running?")]
    PortInUse {
        /// The address.
        address: std::net::SocketAddr,
    },
    /// The control socket cannot be opened.
    #[error(transparent)]
    Socket(#[from] BindError),
    /// The kernel still has lockspaces of an earlier life.
    #[error(
        "the kernel still has lockspaces of an earlier life of the cluster software: {}; \
         reset this node",
        lockspaces.join(", ")
    )]
    EarlierLife {
        /// Their names.
        lockspaces: Vec<String>,
    },
    /// The cluster does not take this node.
    #[error("the cluster does not take this node: {0}")]
    Refused(String),
    /// A leave was asked for, and the others could not be told in time.
    #[error("ending without having left the cluster: {0}; the others will see a failure")]
    NotLeft(String),
    /// The system failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A file or directory failed.
    #[error("{what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The real-time thread is gone.
    #[error("the membership thread ended")]
    EngineGone,
}

impl Error {
    /// The exit status; see [`cluster_rt::exit`].
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Identity(_) | Self::Key(_) => exit::CONFIG,
            Self::PortInUse { .. } | Self::Socket(BindError::Running { .. }) => exit::RUNNING,
            Self::EarlierLife { .. } => exit::RESET,
            Self::Refused(_) => exit::REFUSED,
            Self::Socket(BindError::System { .. })
            | Self::NotLeft(_)
            | Self::System { .. }
            | Self::File { .. }
            | Self::EngineGone => exit::FAILED,
        }
    }
}
