// SPDX-License-Identifier: GPL-2.0-only
//! Between the types of the core and those on the control socket.

use std::net::SocketAddr;

use cluster_rt::config;
use cluster_rt::config::Config;
use cmand_client as client;
use cmand_client::Refusal;
use cmand_client::RefusalKind;
use cmand_core as core;

use crate::identity::Identity;
use crate::memory::Memory;

pub(crate) fn core_config(
    config: &Config,
    node: &config::Node,
    key: Vec<u8>,
    identity: &Identity,
    memory: &Memory,
) -> core::Config {
    let nodes = config.nodes.iter().map(|node| {
        let config = core::NodeConfig {
            name: node.name.clone(),
            address: SocketAddr::new(node.address, config.cluster.port),
            votes: node.votes,
        };
        (core::NodeId(node.id), config)
    });
    core::Config {
        cluster: config.cluster.name.clone(),
        key,
        node: core::NodeId(node.id),
        incarnation: identity.incarnation,
        boot: identity.boot,
        nodes: nodes.collect(),
        expected_votes: config.cluster.expected_votes,
        detection_ms: u64::from(config.cluster.detection_ms),
        view_floor: memory.view_floor(),
        remembered: memory.config(),
        seed: identity.seed,
    }
}

pub(crate) fn membership(standing: core::Standing) -> client::Membership {
    match standing {
        core::Standing::Joining | core::Standing::Refused => client::Membership::Joining,
        core::Standing::Member => client::Membership::Member,
        core::Standing::Leaving | core::Standing::Going { .. } | core::Standing::Left => {
            client::Membership::Leaving
        }
        core::Standing::Expelled => client::Membership::Expelled,
    }
}

pub(crate) fn refusal(error: &core::RequestError) -> Refusal {
    let kind = match error {
        core::RequestError::GroupName | core::RequestError::PayloadLength => RefusalKind::Invalid,
        core::RequestError::NotMember => RefusalKind::NotFound,
        core::RequestError::AlreadyMember
        | core::RequestError::Full
        | core::RequestError::TooManyGroups
        | core::RequestError::Ended
        | core::RequestError::GroupsJoined => RefusalKind::Busy,
    };
    Refusal::new(kind, error.to_string())
}
