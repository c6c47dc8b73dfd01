// SPDX-License-Identifier: GPL-2.0-only
//! The command line.

use std::path::PathBuf;

use clap::Parser;
use clap::ValueEnum;

/// Cluster membership daemon
///
/// Finds the other nodes of the cluster, agrees with them on who is a member,
/// and gives the other cluster daemons views, quorum and ordered groups. Runs in
/// the foreground and logs to stderr; start it with a service manager.
#[derive(Debug, Clone, Parser)]
#[command(name = "cmand", version, max_term_width = 100)]
pub struct Args {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = cluster_rt::config::PATH)]
    pub config: PathBuf,

    /// Name of this machine's node, where it is not the host name
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,

    /// Control socket
    #[arg(long, value_name = "FILE", default_value = cmand_client::SOCKET)]
    pub socket: PathBuf,

    /// Directory for what is kept from one start to the next
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cluster")]
    pub state: PathBuf,

    /// Whether to tell the kernel's lock manager about nodes and quorum
    #[arg(long, value_name = "USE", default_value = "auto")]
    pub kernel: KernelUse,

    /// Log decisions too
    #[arg(long)]
    pub debug: bool,
}

/// Use of the kernel's lock manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KernelUse {
    /// Where a module is loaded, now or later
    Auto,
    /// Not at all; for clusters without lock manager
    Off,
}
