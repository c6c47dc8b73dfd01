// SPDX-License-Identifier: GPL-2.0-only
//! What lockspaces ask of the doors above them, and tell them.
//!
//! A lower storey names no door: it calls through this table, which the module sets when it is
//! loaded, before anything else can come here. Whoever steers the module, by netlink or otherwise,
//! is the *controller*. All hooks may be called from any task that may sleep; none is called under
//! a shard's mutex, and [`Hooks::recovered`] alone under the recovery mutex, hence it must not call
//! back into the lockspace.

use core::ops::Deref;

use kernel::{
    prelude::*,
    sync::{
        Arc,
        SetOnce, //
    }, //
};

use super::Lockspace;
use crate::ffi::errno;
use crate::lockcore::members::NodeId;
use crate::uapi::netlink::CLUSTER_NAME_MAX;

/// Name of the cluster.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClusterName {
    bytes: [u8; CLUSTER_NAME_MAX],
    len: u8,
}

impl ClusterName {
    /// `None` if it is empty or too long.
    pub(crate) fn new(name: &[u8]) -> Option<Self> {
        let mut bytes = [0; CLUSTER_NAME_MAX];
        bytes.get_mut(..name.len())?.copy_from_slice(name);
        let len = u8::try_from(name.len()).ok().filter(|len| *len > 0)?;
        Some(Self { bytes, len })
    }
}

impl Deref for ClusterName {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// This node, as the controller named it.
#[derive(Clone, Copy)]
pub(crate) struct Local {
    /// Its id.
    pub(crate) node: NodeId,
    /// The cluster it is in; `None` if the controller does not know.
    pub(crate) cluster: Option<ClusterName>,
}

/// How a recovery ended.
pub(crate) struct Recovered<'a> {
    /// Name of the lockspace.
    pub(crate) name: &'a [u8],
    /// 0 or a negative errno. With an error, the rest is of the last recovery without.
    pub(crate) result: i32,
    /// Of the members, as users of the lockspace are told it.
    pub(crate) generation: u32,
    /// Of the start that the recovery was for.
    pub(crate) recover_seq: u64,
    /// How long it took.
    pub(crate) duration_ms: u32,
    /// Members and their slots.
    pub(crate) slots: &'a [(NodeId, u32)],
}

/// Something that is there of a lockspace for others to see or use.
pub(crate) struct Outlet {
    /// Makes it; on an error nothing of it is left.
    pub(crate) open: fn(&Arc<Lockspace>) -> Result,
    /// Takes it away, if it is there: nobody comes in any more when this returns.
    pub(crate) close: fn(&Lockspace),
}

/// See the head of this file.
pub(crate) struct Hooks {
    /// This node, if the controller has named it.
    pub(crate) local: fn() -> Option<Local>,
    /// Whether there is a controller that answers.
    pub(crate) has_controller: fn() -> bool,
    /// Asks to make this node a member of the lockspace with this name and these `LSFL_*`;
    /// [`Lockspace::answer`] is the answer. [`errno::EUNATCH`]: there is nobody to ask.
    pub(crate) ask_join: fn(&[u8], u32) -> Result,
    /// Asks to take this node out, with a recovery of its locks by the others or without.
    pub(crate) ask_leave: fn(&[u8], bool) -> Result,
    /// A recovery ended.
    pub(crate) recovered: fn(&Recovered<'_>),
    /// The listings of a lockspace: from the first recovery until nothing is left to list.
    pub(crate) listings: Outlet,
    /// The device of a lockspace for programs: from the first recovery until the last release.
    pub(crate) device: Outlet,
}

static HOOKS: SetOnce<&'static Hooks> = SetOnce::new();

/// Sets the table, once.
pub(super) fn set(hooks: &'static Hooks) {
    // The module is loaded once, and nobody else calls this.
    let _first = HOOKS.populate(hooks);
}

/// The table; before it is set, one of a module without doors.
pub(super) fn hooks() -> &'static Hooks {
    HOOKS.copy().unwrap_or(&NO_DOORS)
}

fn nobody<T>() -> Result<T> {
    Err(errno::EUNATCH.into())
}

const NOTHING: Outlet = Outlet {
    open: |_ls| Ok(()),
    close: |_ls| {},
};

static NO_DOORS: Hooks = Hooks {
    local: || None,
    has_controller: || false,
    ask_join: |_name, _flags| nobody(),
    ask_leave: |_name, _recover| nobody(),
    recovered: |_how| {},
    listings: NOTHING,
    device: NOTHING,
};
