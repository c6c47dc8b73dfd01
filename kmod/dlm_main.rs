// SPDX-License-Identifier: GPL-2.0-only
//! The module: what it is made of, and the order in which it comes up and goes down.
//!
//! While a lockspace exists it holds a reference to the module, so that at exit there is none.

mod callback;
mod capi;
mod control;
mod debugfs;
mod device;
mod doorbell;
mod ffi;
// Shared with user space, where they are the public face of a crate.
#[allow(dead_code, unreachable_pub)]
mod lockcore;
mod lockspace;
#[allow(dead_code, unreachable_pub)]
mod platform;
mod plock;
mod transport;
#[allow(dead_code, unreachable_pub)]
mod uapi;

use kernel::prelude::*;

module! {
    type: Dlm,
    name: "dlm",
    authors: ["Conclave"],
    description: "Distributed lock manager",
    license: "GPL",
    // MODULE_ALIAS_GENL_FAMILY("dlm")
    alias: ["net-pf-16-proto-16-family-dlm"],
}

/// What the transport reaches up to.
static TRANSPORT_HOOKS: transport::Hooks = transport::Hooks {
    deliver: lockspace::deliver,
    suspicion_changed: control::notify_peer,
    peer_appeared: debugfs::peer_added,
    peer_gone: debugfs::peer_removed,
};

/// What lockspaces ask of the doors and tell them.
static LOCKSPACE_HOOKS: lockspace::Hooks = lockspace::Hooks {
    local: control::identity,
    has_controller: control::lockspaces_role,
    ask_join: control::ask_join,
    ask_leave: control::ask_leave,
    recovered: control::notify_recovered,
    listings: lockspace::Outlet {
        open: debugfs::lockspace_added,
        close: debugfs::lockspace_removed,
    },
    device: lockspace::Outlet {
        open: device::open,
        close: device::close,
    },
};

/// Fields are dropped in this order: first programs and daemons can ask for nothing any more, then
/// what shows state goes, and what carries it last.
struct Dlm {
    _devices: device::Devices,
    _control: control::Control,
    _debugfs: debugfs::Root,
    _transport: transport::Transport,
}

impl kernel::Module for Dlm {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        control::init();
        device::init();
        lockspace::init(&LOCKSPACE_HOOKS);
        let transport = transport::Transport::new(&TRANSPORT_HOOKS)?;
        let debugfs = debugfs::Root::new()?;
        let control = control::Control::register()?;
        let devices = device::Devices::register()?;
        Ok(Self {
            _devices: devices,
            _control: control,
            _debugfs: debugfs,
            _transport: transport,
        })
    }
}
