// SPDX-License-Identifier: GPL-2.0-only
//! What the module tells of lockspaces, nodes and itself.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::{
    local,
    Local,
    STATE, //
};
use crate::ffi::errno;
use crate::ffi::netlink::Entry;
use crate::lockcore::members::NodeId;
use crate::lockspace::{
    self,
    Lockspace, //
};
use crate::transport::{
    self,
    PeerInfo, //
};
use crate::uapi::netlink::attributes::{
    Full,
    Writer, //
};
use crate::uapi::netlink::{
    Attr,
    Command,
    MemberAttr,
    ABI_VERSION, //
};

/// There was no room for an entry.
pub(super) fn full(_: Full) -> Error {
    EMSGSIZE
}

/// Writes the entry number `index` of a dump.
pub(super) fn dump(command: Command, index: usize, entry: &mut Writer<'_>) -> Result<Entry> {
    match command {
        Command::LsGet => match nth_lockspace(index) {
            Some(ls) => lockspace(&ls, entry)?,
            None => return Ok(Entry::End),
        },
        Command::NodeGet => match (local(), index) {
            (Some(local), 0) => local_node(&local, entry).map_err(full)?,
            (found, _) => {
                let skip = usize::from(found.is_some());
                match index.checked_sub(skip).and_then(transport::nth_peer) {
                    Some(info) => peer(&info, entry).map_err(full)?,
                    None => return Ok(Entry::End),
                }
            }
        },
        Command::Claim
        | Command::ClusterSet
        | Command::NodeSet
        | Command::NodeDel
        | Command::QuorumSet
        | Command::LsStop
        | Command::LsStart
        | Command::LsAnswer
        | Command::StatusGet
        | Command::LsJoinNtf
        | Command::LsLeaveNtf
        | Command::LsRecoveredNtf
        | Command::PeerNtf => return Err(errno::EOPNOTSUPP.into()),
    }
    Ok(Entry::Written)
}

fn nth_lockspace(index: usize) -> Option<Arc<Lockspace>> {
    let mut left = index;
    let mut found = None;
    lockspace::for_each(&mut |ls| {
        if left == 0 && found.is_none() {
            found = Some(ls.clone());
        }
        left = left.saturating_sub(1);
    });
    // With fewer than `index` before it, what was found is a later one.
    found
}

/// One lockspace.
pub(super) fn lockspace(ls: &Lockspace, entry: &mut Writer<'_>) -> Result {
    let info = ls.info();
    entry.text(Attr::LsName, ls.name()).map_err(full)?;
    write_info(&info, entry).map_err(full)
}

fn write_info(info: &lockspace::Info, entry: &mut Writer<'_>) -> Result<(), Full> {
    entry.u32(Attr::LsId, info.id)?;
    entry.u32(Attr::LsFlags, info.flags)?;
    entry.u32(Attr::LsState, info.state.raw())?;
    entry.u32(Attr::Generation, info.generation)?;
    entry.u64(Attr::RecoverSeq, info.recover_seq)?;
    entry.u32(Attr::RecoverStatus, info.recover_status)?;
    entry.i32(Attr::RecoverNodeid, info.recover_nodeid)?;
    entry.u64(Attr::Locks, info.locks)?;
    entry.u64(Attr::Resources, info.resources)?;
    slots(&info.slots, entry)
}

/// The members and their slots.
pub(super) fn slots(slots: &[(NodeId, u32)], entry: &mut Writer<'_>) -> Result<(), Full> {
    for (node, slot) in slots {
        entry.nest(
            Attr::Slot,
            &[(MemberAttr::NodeId, node.0), (MemberAttr::Slot, *slot)],
        )?;
    }
    Ok(())
}

/// One node, this one or a peer.
pub(super) fn node(node: NodeId, entry: &mut Writer<'_>) -> Result {
    match local() {
        Some(local) if local.node == node => local_node(&local, entry).map_err(full),
        Some(_) | None => {
            let info = transport::peer_info(node).ok_or(ENOENT)?;
            peer(&info, entry).map_err(full)
        }
    }
}

fn local_node(local: &Local, entry: &mut Writer<'_>) -> Result<(), Full> {
    entry.u32(Attr::NodeId, local.node.0)?;
    entry.u64(Attr::Incarnation, local.incarnation)?;
    entry.bytes(Attr::Address, local.address.bytes())?;
    entry.u8(Attr::Up, 1)?;
    entry.u8(Attr::Local, 1)
}

fn peer(info: &PeerInfo, entry: &mut Writer<'_>) -> Result<(), Full> {
    entry.u32(Attr::NodeId, info.node.0)?;
    entry.u64(Attr::Incarnation, info.config.incarnation)?;
    entry.bytes(Attr::Address, info.config.address.bytes())?;
    entry.u8(Attr::Up, u8::from(info.config.is_up))?;
    entry.u8(Attr::Local, 0)?;
    entry.u32(Attr::PeerState, info.state as u32)?;
    entry.u32(Attr::Suspicion, info.suspicion as u32)?;
    entry.u64(Attr::Sent, info.sent)?;
    entry.u64(Attr::Received, info.received)?;
    entry.u64(Attr::Resent, info.resent)?;
    entry.u64(Attr::Dropped, info.dropped)?;
    entry.u64(Attr::Unacked, info.unacked)
}

/// The module as a whole.
pub(super) fn status(entry: &mut Writer<'_>) -> Result {
    let quorate = STATE.lock().quorate;
    write_status(local(), quorate, entry).map_err(full)
}

fn write_status(local: Option<Local>, quorate: bool, entry: &mut Writer<'_>) -> Result<(), Full> {
    entry.u32(Attr::AbiVersion, ABI_VERSION)?;
    if let Some(local) = local {
        entry.text(Attr::ClusterName, &local.cluster)?;
        entry.u32(Attr::NodeId, local.node.0)?;
    }
    entry.u8(Attr::Quorate, u8::from(quorate))?;
    entry.u64(Attr::Dropped, transport::refused())
}
