// SPDX-License-Identifier: GPL-2.0-only
//! Requests that change something, and the dispatch of all.
//!
//! A request is read whole into a type before anything is changed; what is missing or wrong is
//! named in the answer.

use kernel::{
    bindings,
    prelude::*,
    str::CStr,
    sync::Arc, //
};

use super::{
    check,
    claim,
    entries,
    require_local,
    Local,
    STATE, //
};
use crate::ffi::errno;
use crate::ffi::netlink::{
    Refusal,
    Request, //
};
use crate::ffi::socket::Address;
use crate::lockcore::members::NodeId;
use crate::lockcore::recovery::{
    StartArgs,
    StartMember, //
};
use crate::lockspace::{
    self,
    ClusterName,
    Lockspace, //
};
use crate::transport::{
    self,
    NodeConfig, //
};
use crate::uapi::netlink::attributes::{
    Attribute,
    Writer, //
};
use crate::uapi::netlink::{
    Attr,
    Command,
    MemberAttr,
    Role,
    ABI_VERSION, //
};

/// Members a lockspace may have: what fits the slots of one status reply.
const MEMBERS_MAX: usize = 249;

type Done = Result<(), Refusal>;

fn refuse<T>(error: Error, text: &'static CStr, attribute: Attr) -> Result<T, Refusal> {
    Err(Refusal {
        error,
        text,
        attribute: Some(attribute),
    })
}

/// Carries a request out. True: `reply` is the answer.
pub(super) fn run(request: &Request<'_>, reply: &mut Writer<'_>) -> Result<bool, Refusal> {
    match request.command {
        Command::Claim => run_claim(request)?,
        Command::ClusterSet => cluster_set(request)?,
        Command::NodeSet => node_set(request)?,
        Command::NodeDel => node_del(request)?,
        Command::QuorumSet => quorum_set(request)?,
        Command::LsStop => ls_stop(request)?,
        Command::LsStart => ls_start(request)?,
        Command::LsAnswer => ls_answer(request)?,
        Command::LsGet => {
            let ls = find_lockspace(request)?;
            entries::lockspace(&ls, reply)?;
            return Ok(true);
        }
        Command::NodeGet => {
            entries::node(node_id(request)?, reply)?;
            return Ok(true);
        }
        Command::StatusGet => {
            entries::status(reply)?;
            return Ok(true);
        }
        Command::LsJoinNtf | Command::LsLeaveNtf | Command::LsRecoveredNtf | Command::PeerNtf => {
            return Err(EINVAL.into())
        }
    }
    Ok(false)
}

/// An attribute that must be there.
fn required<'a>(request: &Request<'a>, attr: Attr) -> Result<Attribute<'a>, Refusal> {
    request.attributes.find(attr).ok_or(Refusal {
        error: EINVAL,
        text: c"an attribute is missing",
        attribute: Some(attr),
    })
}

/// A value that was read, or a refusal of the attribute.
fn valid<T>(value: Option<T>, attr: Attr) -> Result<T, Refusal> {
    value.map_or_else(
        || refuse(EINVAL, c"an attribute has a wrong value", attr),
        Ok,
    )
}

fn number(request: &Request<'_>, attr: Attr) -> Result<u32, Refusal> {
    valid(required(request, attr)?.u32(), attr)
}

fn flag(request: &Request<'_>, attr: Attr) -> Result<bool, Refusal> {
    match required(request, attr)?.u8() {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _other => refuse(EINVAL, c"a flag is 0 or 1", attr),
    }
}

fn node_id(request: &Request<'_>) -> Result<NodeId, Refusal> {
    Ok(NodeId(number(request, Attr::NodeId)?))
}

fn address(request: &Request<'_>) -> Result<Address, Refusal> {
    let bytes = required(request, Attr::Address)?.value;
    match Address::from_bytes(bytes) {
        Some(address) => Ok(address),
        None => refuse(EINVAL, c"an address has 4 or 16 bytes", Attr::Address),
    }
}

fn incarnation(request: &Request<'_>) -> Result<u64, Refusal> {
    valid(
        required(request, Attr::Incarnation)?.u64(),
        Attr::Incarnation,
    )
}

fn run_claim(request: &Request<'_>) -> Done {
    if number(request, Attr::AbiVersion)? != ABI_VERSION {
        let text = c"the daemon speaks another version of this family than the module";
        return refuse(errno::EPROTO.into(), text, Attr::AbiVersion);
    }
    let role = Role::from_raw(number(request, Attr::Role)?);
    claim(valid(role, Attr::Role)?, request.port)
}

fn cluster_set(request: &Request<'_>) -> Done {
    check(Role::Membership, request.port)?;
    let name = ClusterName::new(required(request, Attr::ClusterName)?.text());
    let new = Local {
        node: node_id(request)?,
        incarnation: incarnation(request)?,
        address: address(request)?,
        cluster: valid(name, Attr::ClusterName)?,
    };
    // A daemon that starts again says what was said before.
    if super::local() == Some(new) {
        return Ok(());
    }
    if lockspace::count() != 0 {
        let text = c"lockspaces exist; this node can get another identity when all are released";
        return refuse(EBUSY, text, Attr::NodeId);
    }
    transport::set_local(new.node, new.address);
    STATE.lock().local = Some(new);
    Ok(())
}

fn node_set(request: &Request<'_>) -> Done {
    check(Role::Membership, request.port)?;
    let local = require_local()?;
    let node = node_id(request)?;
    let config = NodeConfig {
        incarnation: incarnation(request)?,
        address: address(request)?,
        is_up: flag(request, Attr::Up)?,
    };
    if node == local.node {
        return refuse(
            EINVAL,
            c"this is the local node; cluster-set is about it",
            Attr::NodeId,
        );
    }
    if config.address.bytes().len() != local.address.bytes().len() {
        let text = c"all nodes need addresses of the same family, IPv4 or IPv6";
        return refuse(EINVAL, text, Attr::Address);
    }
    if config.address == local.address || transport::has_other_at(node, &config.address) {
        return refuse(EEXIST, c"another node has this address", Attr::Address);
    }
    Ok(transport::set_node(node, config)?)
}

fn node_del(request: &Request<'_>) -> Done {
    check(Role::Membership, request.port)?;
    let node = node_id(request)?;
    if !transport::remove_node(node) {
        return refuse(ENOENT, c"no node-set named this node", Attr::NodeId);
    }
    Ok(())
}

fn quorum_set(request: &Request<'_>) -> Done {
    check(Role::Membership, request.port)?;
    let quorate = flag(request, Attr::Quorate)?;
    STATE.lock().quorate = quorate;
    lockspace::set_quorate(quorate);
    Ok(())
}

fn find_lockspace(request: &Request<'_>) -> Result<Arc<Lockspace>, Refusal> {
    let name = required(request, Attr::LsName)?.text();
    match lockspace::find_by_name(name) {
        Some(ls) => Ok(ls),
        None => refuse(ENOENT, c"there is no lockspace of this name", Attr::LsName),
    }
}

fn ls_stop(request: &Request<'_>) -> Done {
    check(Role::Lockspaces, request.port)?;
    Ok(find_lockspace(request)?.stop()?)
}

fn ls_answer(request: &Request<'_>) -> Done {
    check(Role::Lockspaces, request.port)?;
    let result = valid(required(request, Attr::Result)?.i32(), Attr::Result)?;
    if !(-(bindings::MAX_ERRNO as i32)..=0).contains(&result) {
        return refuse(EINVAL, c"the answer is 0 or a negative errno", Attr::Result);
    }
    match find_lockspace(request)?.answer(result) {
        Err(e) if e == ENOENT => refuse(ENOENT, c"the lockspace waits for no answer", Attr::LsName),
        other => Ok(other?),
    }
}

fn ls_start(request: &Request<'_>) -> Done {
    check(Role::Lockspaces, request.port)?;
    let ls = find_lockspace(request)?;
    let id = number(request, Attr::LsId)?;
    if id == 0 || lockspace::find_by_id(id).is_some_and(|other| !Arc::ptr_eq(&other, &ls)) {
        return refuse(
            EINVAL,
            c"the id is 0 or that of another lockspace",
            Attr::LsId,
        );
    }
    let args = StartArgs {
        id,
        members: members(request)?,
        failed: failed(request)?,
    };
    match ls.start(args) {
        Err(e) if e == EBUSY => refuse(EBUSY, c"the lockspace is not stopped", Attr::LsName),
        other => Ok(other?),
    }
}

/// The members; each must be this node or one that node-set named.
fn members(request: &Request<'_>) -> Result<KVec<StartMember>, Refusal> {
    let local = require_local()?;
    let mut members = KVec::new();
    for found in request.attributes.all(Attr::Member) {
        let member = member(&found, &local)?;
        if members.len() == MEMBERS_MAX {
            return refuse(E2BIG, c"too many members for one lockspace", Attr::Member);
        }
        if members
            .iter()
            .any(|other: &StartMember| other.node == member.node)
        {
            return refuse(EINVAL, c"a member is named twice", Attr::Member);
        }
        members.push(member, GFP_KERNEL).map_err(Error::from)?;
    }
    if !members.iter().any(|member| member.node == local.node) {
        return refuse(EINVAL, c"the local node is not a member", Attr::Member);
    }
    Ok(members)
}

fn member(found: &Attribute<'_>, local: &Local) -> Result<StartMember, Refusal> {
    let inside = |attr| found.nested().find_member(attr).map(|value| value.u32());
    let node = valid(inside(MemberAttr::NodeId).flatten(), Attr::Member)?;
    let weight = match inside(MemberAttr::Weight) {
        None => 1,
        Some(weight) => valid(weight, Attr::Member)?,
    };
    let node = NodeId(node);
    let incarnation = if node == local.node {
        Some(local.incarnation)
    } else {
        transport::incarnation(node)
    };
    match incarnation {
        Some(incarnation) => Ok(StartMember {
            node,
            weight,
            incarnation,
        }),
        None => refuse(
            EINVAL,
            c"a member is unknown: node-set comes first",
            Attr::Member,
        ),
    }
}

fn failed(request: &Request<'_>) -> Result<KVec<NodeId>, Refusal> {
    let mut failed = KVec::new();
    for found in request.attributes.all(Attr::Failed) {
        let node = NodeId(valid(found.u32(), Attr::Failed)?);
        if failed.len() == MEMBERS_MAX {
            return refuse(
                E2BIG,
                c"more nodes failed than can be members",
                Attr::Failed,
            );
        }
        failed.push(node, GFP_KERNEL).map_err(Error::from)?;
    }
    Ok(failed)
}
