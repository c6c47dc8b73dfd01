// SPDX-License-Identifier: GPL-2.0-only
//! The operations of the family.

use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::DecodeError;
use netlink_packet_core::NLM_F_ACK;
use netlink_packet_core::NLM_F_DUMP;

use crate::abi;
use crate::abi::attribute;
use crate::abi::command;
use crate::abi::member;
use crate::attributes::Attributes;
use crate::attributes::Packet;
use crate::attributes::required;
use crate::error::Error;
use crate::socket;
use crate::socket::Channel;
use crate::types::Lockspace;
use crate::types::LockspaceState;
use crate::types::Node;
use crate::types::NodeUpdate;
use crate::types::PeerState;
use crate::types::Role;
use crate::types::Slot;
use crate::types::Start;
use crate::types::Status;
use crate::types::Suspicion;

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
        let family = channel.family(abi::FAMILY)?.id;
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
            .u32(attribute::ROLE, role.raw())
            .u32(attribute::ABI_VERSION, abi::ABI_VERSION);
        self.act(&format!("claim of role {role}"), command::CLAIM, all)
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
            .string(attribute::CLUSTER_NAME, name("cluster name", cluster)?)
            .u32(attribute::NODE_ID, node)
            .u64(attribute::INCARNATION, incarnation)
            .address(attribute::ADDRESS, address);
        self.act(
            &format!("cluster-set of {cluster}"),
            command::CLUSTER_SET,
            all,
        )
    }

    /// Tells what the present view says about a peer. Membership role.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn node_set(&mut self, node: &NodeUpdate) -> Result<(), Error> {
        let all = Attributes::new()
            .u32(attribute::NODE_ID, node.node)
            .u64(attribute::INCARNATION, node.incarnation)
            .address(attribute::ADDRESS, node.address)
            .u8(attribute::UP, node.up.into());
        self.act(
            &format!("node-set of node {}", node.node),
            command::NODE_SET,
            all,
        )
    }

    /// Has a peer forgotten. Membership role.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn node_del(&mut self, node: u32) -> Result<(), Error> {
        let all = Attributes::new().u32(attribute::NODE_ID, node);
        self.act(&format!("node-del of node {node}"), command::NODE_DEL, all)
    }

    /// Tells whether the view is quorate. Membership role.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn quorum_set(&mut self, quorate: bool) -> Result<(), Error> {
        let all = Attributes::new().u8(attribute::QUORATE, quorate.into());
        self.act("quorum-set", command::QUORUM_SET, all)
    }

    /// Stops a lockspace; returns when it has stopped, which may take as long as
    /// the local operations in it. Lockspaces role.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn lockspace_stop(&mut self, lockspace: &str) -> Result<(), Error> {
        let all = Attributes::new().string(attribute::LS_NAME, lockspace_name(lockspace)?);
        self.act(&format!("ls-stop of {lockspace}"), command::LS_STOP, all)
    }

    /// Starts recovery of a lockspace; returns at once. Lockspaces role.
    ///
    /// # Errors
    /// [`Error::Refused`]: `EBUSY` when it is not stopped, `EINVAL` when this
    /// node is not one of the members.
    pub fn lockspace_start(&mut self, start: &Start) -> Result<(), Error> {
        let mut all = Attributes::new()
            .string(attribute::LS_NAME, lockspace_name(&start.name)?)
            .u32(attribute::LS_ID, start.id);
        for one in &start.members {
            let inner = Attributes::new()
                .u32(member::NODE_ID, one.node)
                .u32(member::WEIGHT, one.weight);
            all = all.nest(attribute::MEMBER, &inner);
        }
        for node in &start.failed {
            all = all.u32(attribute::FAILED, *node);
        }
        self.act(
            &format!("ls-start of {}", start.name),
            command::LS_START,
            all,
        )
    }

    /// Answers the pending join or leave request. Lockspaces role.
    ///
    /// # Errors
    /// [`Error::Refused`]: `ENOENT` when nothing is pending.
    pub fn lockspace_answer(&mut self, lockspace: &str, result: i32) -> Result<(), Error> {
        let all = Attributes::new()
            .string(attribute::LS_NAME, lockspace_name(lockspace)?)
            .i32(attribute::RESULT, result);
        self.act(
            &format!("ls-answer of {lockspace}"),
            command::LS_ANSWER,
            all,
        )
    }

    /// One lockspace of this node.
    ///
    /// # Errors
    /// [`Error::Refused`]: `ENOENT` when there is none of this name.
    pub fn lockspace(&mut self, lockspace: &str) -> Result<Lockspace, Error> {
        let all = Attributes::new().string(attribute::LS_NAME, lockspace_name(lockspace)?);
        self.get(
            &format!("ls-get of {lockspace}"),
            command::LS_GET,
            all,
            parse_lockspace,
        )
    }

    /// All lockspaces of this node.
    ///
    /// # Errors
    /// [`Error`].
    pub fn lockspaces(&mut self) -> Result<Vec<Lockspace>, Error> {
        self.dump("ls-get", command::LS_GET, parse_lockspace)
    }

    /// One node as the module knows it.
    ///
    /// # Errors
    /// [`Error::Refused`]: `ENOENT` when it does not know it.
    pub fn node(&mut self, node: u32) -> Result<Node, Error> {
        let all = Attributes::new().u32(attribute::NODE_ID, node);
        self.get(
            &format!("node-get of node {node}"),
            command::NODE_GET,
            all,
            parse_node,
        )
    }

    /// All nodes the module knows.
    ///
    /// # Errors
    /// [`Error`].
    pub fn nodes(&mut self) -> Result<Vec<Node>, Error> {
        self.dump("node-get", command::NODE_GET, parse_node)
    }

    /// The module as a whole.
    ///
    /// # Errors
    /// [`Error`].
    pub fn status(&mut self) -> Result<Status, Error> {
        self.get(
            "status-get",
            command::STATUS_GET,
            Attributes::new(),
            parse_status,
        )
    }

    fn ask(
        &mut self,
        operation: &str,
        command: u8,
        attributes: Attributes,
        flags: u16,
    ) -> Result<Vec<Attributes>, Error> {
        let packet = Packet {
            command,
            version: abi::HEADER_VERSION,
            attributes,
        };
        self.channel.ask(operation, self.family, packet, flags)
    }

    fn act(&mut self, operation: &str, command: u8, all: Attributes) -> Result<(), Error> {
        self.ask(operation, command, all, NLM_F_ACK).map(|_| ())
    }

    fn get<T>(
        &mut self,
        operation: &str,
        command: u8,
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
        command: u8,
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

/// Refuses what the kernel would cut or misread.
fn name<'a>(what: &'static str, value: &'a str) -> Result<&'a str, Error> {
    let why = if value.is_empty() {
        "must not be empty"
    } else if value.len() > abi::NAME_LIMIT {
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
            node: required(one.get_u32(member::NODE_ID)?, "node-id")?,
            slot: one.get_u32(member::SLOT)?.unwrap_or(0),
        })
    };
    all.all(attribute::SLOT).map(slot).collect()
}

fn parse_lockspace(all: &Attributes) -> Result<Lockspace, DecodeError> {
    let state = required(all.get_u32(attribute::LS_STATE)?, "ls-state")?;
    let number = |kind| all.get_u32(kind).map(Option::unwrap_or_default);
    let count = |kind| all.get_u64(kind).map(Option::unwrap_or_default);
    Ok(Lockspace {
        name: required(all.get_string(attribute::LS_NAME)?, "ls-name")?,
        id: number(attribute::LS_ID)?,
        flags: number(attribute::LS_FLAGS)?,
        state: required(LockspaceState::from_raw(state), "known ls-state")?,
        generation: number(attribute::GENERATION)?,
        recover_seq: count(attribute::RECOVER_SEQ)?,
        recover_status: number(attribute::RECOVER_STATUS)?,
        recover_node: all.get_i32(attribute::RECOVER_NODEID)?.unwrap_or(-1),
        locks: count(attribute::LOCKS)?,
        resources: count(attribute::RESOURCES)?,
        slots: slots(all)?,
    })
}

fn parse_node(all: &Attributes) -> Result<Node, DecodeError> {
    let count = |kind| all.get_u64(kind).map(Option::unwrap_or_default);
    let flag = |kind| all.get_u8(kind).map(|value| value.unwrap_or(0) != 0);
    let suspicion = all.get_u32(attribute::SUSPICION)?.unwrap_or(0);
    Ok(Node {
        node: required(all.get_u32(attribute::NODE_ID)?, "node-id")?,
        incarnation: count(attribute::INCARNATION)?,
        address: all.get_address(attribute::ADDRESS)?,
        up: flag(attribute::UP)?,
        local: flag(attribute::LOCAL)?,
        state: all
            .get_u32(attribute::PEER_STATE)?
            .and_then(PeerState::from_raw),
        suspicion: required(Suspicion::from_raw(suspicion), "known suspicion")?,
        sent: count(attribute::SENT)?,
        received: count(attribute::RECEIVED)?,
        resent: count(attribute::RESENT)?,
        dropped: count(attribute::DROPPED)?,
        unacked: count(attribute::UNACKED)?,
    })
}

fn parse_status(all: &Attributes) -> Result<Status, DecodeError> {
    Ok(Status {
        abi_version: required(all.get_u32(attribute::ABI_VERSION)?, "abi-version")?,
        cluster: all.get_string(attribute::CLUSTER_NAME)?.unwrap_or_default(),
        node: all.get_u32(attribute::NODE_ID)?.unwrap_or(0),
        quorate: all.get_u8(attribute::QUORATE)?.unwrap_or(0) != 0,
        dropped: all.get_u64(attribute::DROPPED)?.unwrap_or(0),
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
            .u32(member::NODE_ID, 2)
            .u32(member::SLOT, 1);
        let slot = {
            // As a reply has it: the flag of nested attributes is gone after parsing.
            let whole = Attributes::new().nest(attribute::SLOT, &slot);
            Attributes::reparsed(&whole)
        };
        let all = slot
            .string(attribute::LS_NAME, "web")
            .u32(attribute::LS_STATE, 3)
            .u32(attribute::LS_ID, 9)
            .u64(attribute::LOCKS, 7);
        let lockspace = parse_lockspace(&all).unwrap();
        assert_eq!(lockspace.name, "web");
        assert_eq!(lockspace.state, LockspaceState::Running);
        assert_eq!(
            (lockspace.id, lockspace.locks, lockspace.recover_node),
            (9, 7, -1)
        );
        assert_eq!(lockspace.slots, [Slot { node: 2, slot: 1 }]);
        let unknown = Attributes::new()
            .string(attribute::LS_NAME, "w")
            .u32(attribute::LS_STATE, 9);
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
