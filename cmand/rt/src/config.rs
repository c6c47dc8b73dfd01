// SPDX-License-Identifier: GPL-2.0-only
//! `/etc/cluster/cluster.toml`, read by every daemon.
//!
//! [`parse`] is pure and reports every mistake with its line; [`load`] reads the
//! file. Unknown keys are mistakes: a misspelt limit must not become a default.
//!
//! Not here: what follows from the values. Timers derived from
//! [`Cluster::detection_ms`] belong to cmand.

mod action;
mod build;
mod fence;
mod options;
mod reader;

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

pub use action::Action;
pub use fence::FenceDevice;
pub use fence::FenceMethod;
pub use fence::FenceUse;
pub use options::Options;
pub use options::OptionsError;
pub use options::is_secret;

/// Where the configuration is read from unless a daemon is told otherwise.
pub const PATH: &str = "/etc/cluster/cluster.toml";

/// Where the key is read from unless configured.
pub const KEY_FILE: &str = "/etc/cluster/cluster.key";

/// UDP port unless configured; the one this field has always used.
pub const PORT: u16 = 5405;

/// Time after which a silent node is suspected unless configured: long enough
/// for a busy host, short enough that a view without it comes within 2 s.
pub const DETECTION_MS: u32 = 1000;

/// Shortest detection time: five heartbeats of 40 ms, what an ordinary kernel
/// can schedule.
pub const DETECTION_MS_MIN: u32 = 200;

/// Longest detection time; beyond it an operator is faster.
pub const DETECTION_MS_MAX: u32 = 60_000;

/// Most nodes in a cluster. Every node sends to every other one; the view and
/// its acknowledgements fit one datagram up to here.
pub const NODE_LIMIT: usize = 64;

/// Largest node id: the lock manager keeps ids in signed 32-bit fields.
pub const NODE_ID_MAX: u32 = i32::MAX as u32;

/// Longest cluster or node name, bytes; what the lock manager's interfaces take.
pub const NAME_LIMIT: usize = 63;

/// Most votes of one node; sums of 64 such nodes stay far from overflow.
pub const VOTES_MAX: u32 = 1000;

/// Time limit of a fence agent unless configured.
pub const FENCE_TIMEOUT_S: u32 = 30;

/// Delay before nodes never seen are fenced unless configured, as fenced always
/// had it.
pub const POST_JOIN_DELAY_MS: u32 = 6000;

/// Shortest time between two questions whether a fence device answers, seconds: stock agents log in
/// for each, and some devices take one user at a time.
pub const MONITOR_S_MIN: u32 = 10;

/// Longest such time, a day.
pub const MONITOR_S_MAX: u32 = 86_400;

/// Permission bits that let users read the file who are neither its owner nor of its group.
const FOR_OTHERS: u32 = 0o004;

/// Longest delay that may be configured, a day.
pub const DELAY_MS_MAX: u32 = 86_400_000;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Section `[cluster]`.
    pub cluster: Cluster,
    /// Sections `[[node]]`, by ascending id.
    pub nodes: Vec<Node>,
    /// Sections `[[fence_device]]`, in the order of the file.
    pub fence_devices: Vec<FenceDevice>,
    /// Section `[fence]`.
    pub fence: Fence,
    /// Section `[dlm]`.
    pub dlm: Dlm,
}

/// Section `[cluster]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Name; nodes of another cluster are ignored.
    pub name: String,
    /// File with the secret all nodes share.
    pub key_file: PathBuf,
    /// A node silent for this long is suspected; other timers are derived.
    pub detection_ms: u32,
    /// UDP port of heartbeats and group messages, the same on all nodes.
    pub port: u16,
    /// Votes of the whole cluster: as configured, or the sum.
    pub expected_votes: u32,
}

/// A section `[[node]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its id, 1 and up.
    pub id: u32,
    /// Its name; by default the host name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its votes.
    pub votes: u32,
    /// How to fence it: tried in this order until one succeeds.
    pub fence: Vec<FenceMethod>,
}

/// Section `[fence]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// Wait this long after a failure.
    pub post_fail_delay_ms: u32,
    /// Wait this long for nodes that were never seen.
    pub post_join_delay_ms: u32,
    /// Trust that nodes never seen are off.
    pub clean_start: bool,
}

/// Section `[dlm]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dlm {
    /// Let the kernel module log more.
    pub log_debug: bool,
}

impl Config {
    /// Votes needed to act: more than half of the expected ones.
    #[must_use]
    pub fn quorum(&self) -> u32 {
        self.cluster.expected_votes / 2 + 1
    }

    /// The node with this id.
    #[must_use]
    pub fn node(&self, id: u32) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// Whether the file holds what strangers may not know.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        let devices = self.fence_devices.iter().map(|device| &device.options);
        let uses = self.nodes.iter().flat_map(|node| &node.fence);
        let uses = uses.flat_map(|method| &method.devices);
        devices
            .chain(uses.map(|used| &used.options))
            .any(Options::has_secrets)
    }

    /// The fence device with this name.
    #[must_use]
    pub fn fence_device(&self, name: &str) -> Option<&FenceDevice> {
        self.fence_devices.iter().find(|device| device.name == name)
    }

    /// The node this machine is: the one called `name`, or without a name the
    /// one called like the host, with or without its domain.
    ///
    /// # Errors
    /// [`IdentityError`] when no node is called so.
    pub fn local_node(&self, name: Option<&str>) -> Result<&Node, IdentityError> {
        match name {
            Some(name) => self.named(name).ok_or_else(|| self.unknown(name)),
            None => {
                let host = nix::unistd::gethostname()
                    .map_err(|source| IdentityError::Hostname(source.into()))?;
                self.hosted(&host.to_string_lossy())
            }
        }
    }

    fn hosted(&self, host: &str) -> Result<&Node, IdentityError> {
        let short = host.split('.').next().unwrap_or(host);
        let found = self.named(host).or_else(|| self.named(short));
        found.ok_or_else(|| self.unknown(host))
    }

    fn named(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    fn unknown(&self, name: &str) -> IdentityError {
        let names: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        IdentityError::Unknown {
            name: name.to_owned(),
            names: names.join(", "),
        }
    }
}

/// It is not known which of the configured nodes this machine is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No node has the name.
    #[error(
        "no [[node]] is called {name:?} (there are: {names}); \
         give this machine's node a section, or its name with --node"
    )]
    Unknown {
        /// The name looked for.
        name: String,
        /// The names there are.
        names: String,
    },
    /// The system does not tell its name.
    #[error("reading the host name: {0}; give the node's name with --node")]
    Hostname(std::io::Error),
}

/// One mistake in the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ConfigError {
    /// Line of the file, from 1.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// The configuration could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("reading {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file holds secrets and everybody may read it.
    #[error(
        "{path} holds passwords of fence devices, and mode {mode:04o} lets every user of this \
         machine read them; `chmod 0600 {path}` on every node, and change those passwords"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file has mistakes; one line each.
    #[error("{}", list(path, mistakes))]
    Mistakes {
        /// The file.
        path: PathBuf,
        /// All of them, by line.
        mistakes: Vec<ConfigError>,
    },
}

fn list(path: &Path, mistakes: &[ConfigError]) -> String {
    let lines: Vec<String> = mistakes
        .iter()
        .map(|mistake| format!("{}: {mistake}", path.display()))
        .collect();
    lines.join("\n")
}

/// Reads the text of a configuration.
///
/// # Errors
/// Every mistake found, by line.
pub fn parse(text: &str) -> Result<Config, Vec<ConfigError>> {
    build::config(text)
}

/// Reads a configuration file.
///
/// # Errors
/// [`LoadError`].
pub fn load(path: &Path) -> Result<Config, LoadError> {
    let read = || {
        let mut file = File::open(path)?;
        let mode = file.metadata()?.mode() & 0o7777;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok((text, mode))
    };
    let (text, mode) = read().map_err(|source| LoadError::Read {
        path: path.to_owned(),
        source,
    })?;
    let config = parse(&text).map_err(|mistakes| LoadError::Mistakes {
        path: path.to_owned(),
        mistakes,
    })?;
    if config.has_secrets() && mode & FOR_OTHERS != 0 {
        let path = path.to_owned();
        return Err(LoadError::Open { path, mode });
    }
    Ok(config)
}

#[cfg(test)]
mod tests;
