// SPDX-License-Identifier: GPL-2.0-only
//! Events that are sent to who listens.
//!
//! A listener that was too slow loses events, and learns that from its socket. It asks for all
//! lockspaces then: a join that waits shows as new, a leave as leaving. Anybody may listen, so that
//! an event was heard does not mean that the daemon did, nor that there is one.

use kernel::{
    prelude::*, //
};

use super::{
    entries::{
        full,
        slots as write_slots, //
    },
    lockspaces_role, //
};
use crate::ffi::errno;
use crate::ffi::netlink::notify;
use crate::lockcore::connection::Suspicion;
use crate::lockcore::members::NodeId;
use crate::lockspace::Recovered;
use crate::uapi::netlink::{
    Attr,
    Command, //
};

/// What was told wants an answer: somebody must hold the role. If that was not heard, it will ask;
/// if it goes from now on, the question is found open and answered in its place.
fn asked(told: Result) -> Result {
    told?;
    if lockspaces_role() {
        Ok(())
    } else {
        Err(errno::EUNATCH.into())
    }
}

/// Somebody creates a lockspace. [`errno::EUNATCH`]: there is no daemon to answer.
pub(crate) fn ask_join(name: &[u8], flags: u32) -> Result {
    asked(notify(Command::LsJoinNtf, |event| {
        event.text(Attr::LsName, name).map_err(full)?;
        event.u32(Attr::LsFlags, flags).map_err(full)
    }))
}

/// The last user releases a lockspace. [`errno::EUNATCH`]: there is no daemon to answer.
pub(crate) fn ask_leave(name: &[u8], release_recover: bool) -> Result {
    asked(notify(Command::LsLeaveNtf, |event| {
        event.text(Attr::LsName, name).map_err(full)?;
        event
            .u8(Attr::ReleaseRecover, u8::from(release_recover))
            .map_err(full)
    }))
}

/// A recovery ended.
pub(crate) fn notify_recovered(how: &Recovered<'_>) {
    let told = notify(Command::LsRecoveredNtf, |event| {
        event.text(Attr::LsName, how.name).map_err(full)?;
        event.i32(Attr::Result, how.result).map_err(full)?;
        event.u32(Attr::Generation, how.generation).map_err(full)?;
        event.u64(Attr::RecoverSeq, how.recover_seq).map_err(full)?;
        event.u32(Attr::RecoverMs, how.duration_ms).map_err(full)?;
        write_slots(how.slots, event).map_err(full)
    });
    log_unsent(told);
}

/// The module doubts a peer, or does not any more.
pub(crate) fn notify_peer(node: NodeId, suspicion: Suspicion) {
    let told = notify(Command::PeerNtf, |event| {
        event.u32(Attr::NodeId, node.0).map_err(full)?;
        event.u32(Attr::Suspicion, suspicion as u32).map_err(full)
    });
    log_unsent(told);
}

/// These events only hasten what the daemon would find out by asking.
fn log_unsent(told: Result) {
    match told {
        Ok(()) => {}
        Err(e) => pr_warn!("an event could not be sent, errno {}\n", e.to_errno()),
    }
}
