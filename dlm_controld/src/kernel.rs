// SPDX-License-Identifier: GPL-2.0-only
//! What the daemon needs of the kernel, whichever module is loaded.
//!
//! Two backends behind one trait: [`netlink`] for the cluster's own module,
//! [`configfs`] for the distribution's. Calls may block (a stop returns when the
//! lockspace has stopped), so they are made by [`crate::workers`], never by the
//! daemon's loop. Notifications come by [`events`].

pub(crate) mod choice;
pub(crate) mod configfs;
pub(crate) mod event;
pub(crate) mod events;
pub(crate) mod files;
pub(crate) mod netlink;
pub(crate) mod uevent;
pub(crate) mod watch;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use dlm_controld_core::Start;

/// Why the kernel did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KernelError {
    #[error(transparent)]
    Netlink(#[from] dlm_client::Error),
    #[error("{action} {path}: {source}")]
    File {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("node {0} is in the view and not in the configuration")]
    UnknownNode(u32),
    #[error(transparent)]
    Device(#[from] dlm_client::device::DeviceError),
    #[error("loading module {module}: {why}; load it by hand, or choose --no-load")]
    Load { module: &'static str, why: String },
    #[error("no lock manager in the kernel: neither netlink family `dlm` nor {path}")]
    NoModule { path: PathBuf },
}

impl KernelError {
    /// The kernel's errno, negative, for answers; `-EIO` where there is none.
    pub(crate) fn result(&self) -> i32 {
        let errno = match self {
            Self::Netlink(error) => error.errno().map(|errno| errno as i32),
            Self::File { source, .. } => source.raw_os_error(),
            Self::UnknownNode(_) | Self::Device(_) | Self::Load { .. } | Self::NoModule { .. } => {
                None
            }
        };
        -errno.unwrap_or(nix::errno::Errno::EIO as i32)
    }
}

/// What came of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    /// Somebody waited for it.
    Taken,
    /// Nobody waits any more.
    NobodyWaits,
}

/// Who this node is and where the others are.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) cluster: String,
    pub(crate) node: u32,
    pub(crate) addresses: BTreeMap<u32, IpAddr>,
    pub(crate) log_debug: bool,
}

/// Members of the cluster view and their lives.
pub(crate) type Members = BTreeMap<u32, u64>;

/// A way to steer the lock manager. Methods may be called from several threads,
/// for one lockspace from one at a time.
pub(crate) trait Kernel: Send + Sync {
    /// Name for status and logs.
    fn name(&self) -> &'static str;

    /// Whether it reports the end of a recovery.
    fn reports_recovery(&self) -> bool;

    /// Lockspaces that are in the kernel now.
    fn lockspaces(&self) -> Result<Vec<Found>, KernelError>;

    /// Takes over: cleans up what an earlier controller told, tells who we are.
    fn begin(&self) -> Result<(), KernelError>;

    /// Tells which nodes are members.
    fn set_members(&self, members: &Members) -> Result<(), KernelError>;

    /// Stops a lockspace; returns when it has stopped.
    fn stop(&self, lockspace: &str) -> Result<(), KernelError>;

    /// Starts recovery; returns at once.
    fn start(&self, start: &Start) -> Result<(), KernelError>;

    /// Answers the pending join or leave.
    fn answer(&self, lockspace: &str, result: i32) -> Result<Answered, KernelError>;

    /// Cleans up what was told of a lockspace.
    fn forget(&self, lockspace: &str) -> Result<(), KernelError>;

    /// Gives up control. Only without lockspaces.
    fn end(&self) -> Result<(), KernelError>;
}

/// What a lockspace found in the kernel waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Nothing, or it cannot be told.
    Unknown,
    /// An answer to its join.
    Join { flags: u32 },
    /// An answer to its leave.
    Leave,
}

/// A lockspace found in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) request: Request,
}
