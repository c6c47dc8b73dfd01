// SPDX-License-Identifier: GPL-2.0-only
//! How nodes are fenced: sections `[[node.fence]]` and `[[fence_device]]`.

use std::path::PathBuf;

use super::Action;
use super::Options;

/// A section `[[node.fence]]`: succeeds when all its devices do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FenceMethod {
    /// Its name, for logs.
    pub name: String,
    /// Its devices, used in this order.
    pub devices: Vec<FenceUse>,
    /// Line of the file where it begins.
    pub line: usize,
}

/// The use of a fence device against one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FenceUse {
    /// Name of the [`FenceDevice`].
    pub device: String,
    /// What the device does to the node; none: what its agent does best, a reboot or an off.
    pub action: Option<Action>,
    /// Options of the agent for this node, such as `plug`, without the action.
    pub options: Options,
}

/// A section `[[fence_device]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FenceDevice {
    /// Its name.
    pub name: String,
    /// The agent: a name on `PATH`, or an absolute path.
    pub agent: String,
    /// How long one run of the agent may take.
    pub timeout_s: u32,
    /// The device is asked so often whether it answers, seconds; 0: never.
    pub monitor_s: u32,
    /// What it does where its use does not say.
    pub action: Option<Action>,
    /// Options passed with every use, without the action.
    pub options: Options,
    /// File with more of them, all secret, one `name=value` a line.
    pub options_file: Option<PathBuf>,
    /// Credential of the service manager with more of them, in the same form.
    pub credential: Option<String>,
    /// Line of the file where it begins.
    pub line: usize,
}
