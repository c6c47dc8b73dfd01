// SPDX-License-Identifier: GPL-2.0-only
//! The operations of the family.

use std::net::IpAddr;
use std::time::Duration;

use dlm_uapi::netlink;
use dlm_uapi::netlink::Attr;
use dlm_uapi::netlink::Command;
use dlm_uapi::netlink::LsState;
use dlm_uapi::netlink::MemberAttr;
use dlm_uapi::netlink::PeerState;
use dlm_uapi::netlink::Role;
use dlm_uapi::netlink::Suspicion;
use netlink_packet_core::DecodeError;
use netlink_packet_core::NLM_F_ACK;
use netlink_packet_core::NLM_F_DUMP;

use crate::attributes::Attributes;
use crate::attributes::Packet;
use crate::attributes::required;
use crate::error::Error;
use crate::socket;
use crate::socket::Channel;
use crate::types::Lockspace;
use crate::types::Node;
use crate::types::NodeUpdate;
use crate::types::Slot;
use crate::types::Start;
use crate::types::Status;

/// How long an answer may take unless the caller says otherwise. The kernel
/// answers everything but a stop at once.
const LIMIT: Duration = Duration::from_secs(5);

/// Steers and queries the module. A role claimed with it is held until it is
/// dropped.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
    family: u16,
}

impl Client {
    /// Opens a socket and finds the family.
    ///
    /// # Errors
    /// [`Error::NotLoaded`] when the kernel has no such family.
    pub fn open() -> Result<Self, Error> {
        let mut channel = Channel::open(LIMIT)?;
        let family = channel.family(netlink::FAMILY)?.id;
        Ok(Self { channel, family })
    }

    /// Sets how long an answer may take.
    pub fn set_time_limit(&mut self, limit: Duration) {
        self.channel.set_limit(limit);
    }

    /// Binds a role to this client.
    ///
    /// # Errors
    /// [`Error::Refused`]: `EBUSY` when somebody else holds it, `EPROTO` when the
    /// module is of another version, `EPERM` without the rights.
    pub fn claim(&mut self, role: Role) -> Result<(), Error> {
        let all = Attributes::new()
            .u32(Attr::Role, role.raw())
            .u32(Attr::AbiVersion, netlink::ABI_VERSION);
        self.act(&format!("claim of role {role}"), Command::Claim, all)
    }

    /// Tells the cluster's name and who this node is. Membership role.
    ///
    /// # Errors
    /// [`Error::Refused`]: `EBUSY` while lockspaces exist.
    pub fn cluster_set(
        &mut self,
        cluster: &str,
        node: u32,
        incarnation: u64,
        address: IpAddr,
    ) -> Result<(), Error> {
        let all = Attributes::new()
            .string(Attr::ClusterName, name("cluster name", cluster)?)
            .u32(Attr::NodeId, node)
            .u64(Attr::Incarnation, incarnation)
            .address(Attr::Address, address);
        self.act(
            &format!("cluster-set of {cluster}"),
            Command::ClusterSet,
            all,
        )
    }

    /// Tells what the present view says about a peer. Membership role.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn node_set(&mut self, node: &NodeUpdate) -> Result<(), Error> {
        let all = Attributes::new()
            .u32(Attr::NodeId, node.node)
            .u64(Attr::Incarnation, node.incarnation)
            .address(Attr::Address, node.address)
            .u8(Attr::Up, node.up.into());
        self.act(
            &format!("node-set of node {}", node.node),
            Command::NodeSet,
            all,
        )
    }

    /// Has a peer forgotten. Membership role.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn node_del(&mut self, node: u32) -> Result<(), Error> {
        let all = Attributes::new().u32(Attr::NodeId, node);
        self.act(&format!("node-del of node {node}"), Command::NodeDel, all)
    }

    /// Tells whether the view is quorate. Membership role.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn quorum_set(&mut self, quorate: bool) -> Result<(), Error> {
        let all = Attributes::new().u8(Attr::Quorate, quorate.into());
        self.act("quorum-set", Command::QuorumSet, all)
    }

    /// Stops a lockspace; returns when it has stopped, which may take as long as
    /// the local operations in it. Lockspaces role.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn lockspace_stop(&mut self, lockspace: &str) -> Result<(), Error> {
        let all = Attributes::new().string(Attr::LsName, lockspace_name(lockspace)?);
        self.act(&format!("ls-stop of {lockspace}"), Command::LsStop, all)
    }

    /// Starts recovery of a lockspace; returns at once. Lockspaces role.
    ///
    /// # Errors
    /// [`Error::Refused`]: `EBUSY` when it is not stopped, `EINVAL` when this
    /// node is not one of the members.
    pub fn lockspace_start(&mut self, start: &Start) -> Result<(), Error> {
        let mut all = Attributes::new()
            .string(Attr::LsName, lockspace_name(&start.name)?)
            .u32(Attr::LsId, start.id);
        for one in &start.members {
            let inner = Attributes::new()
                .u32(MemberAttr::NodeId, one.node)
                .u32(MemberAttr::Weight, one.weight);
            all = all.nest(Attr::Member, &inner);
        }
        for node in &start.failed {
            all = all.u32(Attr::Failed, *node);
        }
        self.act(
            &format!("ls-start of {}", start.name),
            Command::LsStart,
            all,
        )
    }

    /// Answers the pending join or leave request. Lockspaces role.
    ///
    /// # Errors
    /// [`Error::Refused`]: `ENOENT` when nothing is pending.
    pub fn lockspace_answer(&mut self, lockspace: &str, result: i32) -> Result<(), Error> {
        let all = Attributes::new()
            .string(Attr::LsName, lockspace_name(lockspace)?)
            .i32(Attr::Result, result);
        self.act(&format!("ls-answer of {lockspace}"), Command::LsAnswer, all)
    }

    /// One lockspace of this node.
    ///
    /// # Errors
    /// [`Error::Refused`]: `ENOENT` when there is none of this name.
    pub fn lockspace(&mut self, lockspace: &str) -> Result<Lockspace, Error> {
        let all = Attributes::new().string(Attr::LsName, lockspace_name(lockspace)?);
        self.get(
            &format!("ls-get of {lockspace}"),
            Command::LsGet,
            all,
            parse_lockspace,
        )
    }

    /// All lockspaces of this node.
    ///
    /// # Errors
    /// [`Error`].
    pub fn lockspaces(&mut self) -> Result<Vec<Lockspace>, Error> {
        self.dump("ls-get", Command::LsGet, parse_lockspace)
    }

    /// One node as the module knows it.
    ///
    /// # Errors
    /// [`Error::Refused`]: `ENOENT` when it does not know it.
    pub fn node(&mut self, node: u32) -> Result<Node, Error> {
        let all = Attributes::new().u32(Attr::NodeId, node);
        self.get(
            &format!("node-get of node {node}"),
            Command::NodeGet,
            all,
            parse_node,
        )
    }

    /// All nodes the module knows.
    ///
    /// # Errors
    /// [`Error`].
    pub fn nodes(&mut self) -> Result<Vec<Node>, Error> {
        self.dump("node-get", Command::NodeGet, parse_node)
    }

    /// The module as a whole.
    ///
    /// # Errors
    /// [`Error`].
    pub fn status(&mut self) -> Result<Status, Error> {
        self.get(
            "status-get",
            Command::StatusGet,
            Attributes::new(),
            parse_status,
        )
    }

    fn ask(
        &mut self,
        operation: &str,
        command: Command,
        attributes: Attributes,
        flags: u16,
    ) -> Result<Vec<Attributes>, Error> {
        let packet = Packet {
            command: command.raw(),
            version: netlink::HEADER_VERSION,
            attributes,
        };
        self.channel.ask(operation, self.family, packet, flags)
    }

    fn act(&mut self, operation: &str, command: Command, all: Attributes) -> Result<(), Error> {
        self.ask(operation, command, all, NLM_F_ACK).map(|_| ())
    }

    fn get<T>(
        &mut self,
        operation: &str,
        command: Command,
        all: Attributes,
        parse: fn(&Attributes) -> Result<T, DecodeError>,
    ) -> Result<T, Error> {
        let answers = self.ask(operation, command, all, NLM_F_ACK)?;
        let answer = answers
            .first()
            .ok_or_else(|| socket::malformed(operation, &"an empty answer"))?;
        parse(answer).map_err(|error| socket::malformed(operation, &error))
    }

    fn dump<T>(
        &mut self,
        operation: &str,
        command: Command,
        parse: fn(&Attributes) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, Error> {
        let answers = self.ask(operation, command, Attributes::new(), NLM_F_DUMP)?;
        let parsed: Result<_, _> = answers.iter().map(parse).collect();
        parsed.map_err(|error| socket::malformed(operation, &error))
    }
}

fn lockspace_name(lockspace: &str) -> Result<&str, Error> {
    name("lockspace name", lockspace)
}

// One limit serves both names.
const _: () = assert!(netlink::LS_NAME_MAX == netlink::CLUSTER_NAME_MAX);

/// Refuses what the kernel would cut or misread.
fn name<'a>(what: &'static str, value: &'a str) -> Result<&'a str, Error> {
    let why = if value.is_empty() {
        "must not be empty"
    } else if value.len() > netlink::LS_NAME_MAX {
        "is longer than 64 bytes"
    } else if value.contains('\0') {
        "must not contain a zero byte"
    } else {
        return Ok(value);
    };
    Err(Error::Argument {
        what,
        value: value.to_owned(),
        why,
    })
}

pub(crate) fn slots(all: &Attributes) -> Result<Vec<Slot>, DecodeError> {
    let slot = |bytes| {
        let one = Attributes::parse(bytes)?;
        Ok(Slot {
            node: required(one.get_u32(MemberAttr::NodeId)?, "node-id")?,
            slot: one.get_u32(MemberAttr::Slot)?.unwrap_or(0),
        })
    };
    all.all(Attr::Slot).map(slot).collect()
}

fn parse_lockspace(all: &Attributes) -> Result<Lockspace, DecodeError> {
    let state = required(all.get_u32(Attr::LsState)?, "ls-state")?;
    let number = |attr: Attr| all.get_u32(attr).map(Option::unwrap_or_default);
    let count = |attr: Attr| all.get_u64(attr).map(Option::unwrap_or_default);
    Ok(Lockspace {
        name: required(all.get_string(Attr::LsName)?, "ls-name")?,
        id: number(Attr::LsId)?,
        flags: number(Attr::LsFlags)?,
        state: required(LsState::from_raw(state), "known ls-state")?,
        generation: number(Attr::Generation)?,
        recover_seq: count(Attr::RecoverSeq)?,
        recover_status: number(Attr::RecoverStatus)?,
        recover_node: all.get_i32(Attr::RecoverNodeid)?.unwrap_or(-1),
        locks: count(Attr::Locks)?,
        resources: count(Attr::Resources)?,
        slots: slots(all)?,
    })
}

fn parse_node(all: &Attributes) -> Result<Node, DecodeError> {
    let count = |attr: Attr| all.get_u64(attr).map(Option::unwrap_or_default);
    let flag = |attr: Attr| all.get_u8(attr).map(|value| value.unwrap_or(0) != 0);
    let suspicion = all.get_u32(Attr::Suspicion)?.unwrap_or(0);
    Ok(Node {
        node: required(all.get_u32(Attr::NodeId)?, "node-id")?,
        incarnation: count(Attr::Incarnation)?,
        address: all.get_address(Attr::Address)?,
        up: flag(Attr::Up)?,
        local: flag(Attr::Local)?,
        state: all.get_u32(Attr::PeerState)?.and_then(PeerState::from_raw),
        suspicion: required(Suspicion::from_raw(suspicion), "known suspicion")?,
        sent: count(Attr::Sent)?,
        received: count(Attr::Received)?,
        resent: count(Attr::Resent)?,
        dropped: count(Attr::Dropped)?,
        unacked: count(Attr::Unacked)?,
    })
}

fn parse_status(all: &Attributes) -> Result<Status, DecodeError> {
    Ok(Status {
        abi_version: required(all.get_u32(Attr::AbiVersion)?, "abi-version")?,
        cluster: all.get_string(Attr::ClusterName)?.unwrap_or_default(),
        node: all.get_u32(Attr::NodeId)?.unwrap_or(0),
        quorate: all.get_u8(Attr::Quorate)?.unwrap_or(0) != 0,
        dropped: all.get_u64(Attr::Dropped)?.unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_would_cut_are_refused() {
        assert!(name("n", "web").is_ok());
        assert!(name("n", &"x".repeat(64)).is_ok());
        for bad in ["", "a\0b", &"x".repeat(65)] {
            assert!(
                matches!(name("n", bad), Err(Error::Argument { .. })),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_lockspace_is_read_with_its_slots() {
        let slot = Attributes::new()
            .u32(MemberAttr::NodeId, 2)
            .u32(MemberAttr::Slot, 1);
        let slot = {
            // As a reply has it: the flag of nested attributes is gone after parsing.
            let whole = Attributes::new().nest(Attr::Slot, &slot);
            Attributes::reparsed(&whole)
        };
        let all = slot
            .string(Attr::LsName, "web")
            .u32(Attr::LsState, 3)
            .u32(Attr::LsId, 9)
            .u64(Attr::Locks, 7);
        let lockspace = parse_lockspace(&all).unwrap();
        assert_eq!(lockspace.name, "web");
        assert_eq!(lockspace.state, LsState::Running);
        assert_eq!(
            (lockspace.id, lockspace.locks, lockspace.recover_node),
            (9, 7, -1)
        );
        assert_eq!(lockspace.slots, [Slot { node: 2, slot: 1 }]);
        let unknown = Attributes::new()
            .string(Attr::LsName, "w")
            .u32(Attr::LsState, 9);
        assert!(parse_lockspace(&unknown).is_err());
    }

    #[test]
    fn a_kernel_without_the_module_is_told_from_a_failure() {
        // Where the module is loaded this opens; anything else is a failure.
        match Client::open() {
            Ok(_) | Err(Error::NotLoaded("dlm")) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
