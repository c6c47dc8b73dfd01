// SPDX-License-Identifier: GPL-2.0-only
//! Between the words of the control sockets and those of the core. Pure.

use std::collections::BTreeMap;

use fenced_client::How;
use fenced_client::Node;
use fenced_client::Refusal;
use fenced_client::RefusalKind;
use fenced_client::Status;
use fenced_client::Wait;
use fenced_core::Domain;
use fenced_core::NodeId;
use fenced_core::victim;

/// How a victim ceased to be one.
pub(crate) fn how(how: victim::How) -> How {
    match how {
        victim::How::Agent => How::Agent,
        victim::How::Member => How::Member,
        victim::How::Override => How::Override,
    }
}

/// What subscribers are told.
pub(crate) fn state(state: &fenced_core::State) -> fenced_client::State {
    fenced_client::State {
        view: state.view,
        victims: state
            .victims
            .iter()
            .map(|node| cmand_client::NodeId(node.0))
            .collect(),
    }
}

/// A device before it was asked anything.
pub(crate) fn device(device: &fence_agent::Device) -> fenced_client::Device {
    fenced_client::Device {
        name: device.call.device.clone(),
        agent: device.call.agent.clone(),
        monitor_s: device.interval.map_or(0, |interval| interval.as_secs()),
        at: 0,
        answers: false,
        failure: String::new(),
    }
}

/// What `fence_tool ls` shows.
pub(crate) fn status(
    domain: &Domain,
    names: &BTreeMap<NodeId, String>,
    last_failure: &str,
) -> Status {
    let victims: BTreeMap<NodeId, String> = domain
        .victims()
        .map(|(node, victim)| (node, victim.reason.to_string()))
        .collect();
    let history: BTreeMap<NodeId, _> = domain.history().collect();
    let node = |(node, name): (&NodeId, &String)| {
        let node = *node;
        let record = history.get(&node);
        Node {
            node: cmand_client::NodeId(node.0),
            name: name.clone(),
            member: domain.cluster_members().any(|member| member == node),
            victim: victims.contains_key(&node),
            reason: victims.get(&node).cloned().unwrap_or_default(),
            how: record.map(|record| how(record.how)),
            by: record.map_or(0, |record| record.by.0),
            at: record.map_or(0, |record| record.at),
            cut_off: is_cut_off(node, domain),
        }
    };
    Status {
        members: domain
            .members()
            .iter()
            .map(|node| cmand_client::NodeId(node.0))
            .collect(),
        victim_count: victims.len(),
        victim_now: domain.fencing().map_or(0, |node| node.0),
        master: domain.master().map_or(0, |node| node.0),
        wait: match domain.wait() {
            fenced_core::Wait::None => Wait::None,
            fenced_core::Wait::Quorum => Wait::Quorum,
            fenced_core::Wait::Messages => Wait::Messages,
            fenced_core::Wait::Delay => Wait::Delay,
            fenced_core::Wait::Fencing => Wait::Fencing,
        },
        view: domain.state().view,
        nodes: names.iter().map(node).collect(),
        last_failure: last_failure.to_owned(),
        doing: String::new(),
        devices: Vec::new(),
        complaints: Vec::new(),
    }
}

/// The node, if it is configured.
pub(crate) fn known(node: NodeId, names: &BTreeMap<NodeId, String>) -> Result<NodeId, Refusal> {
    if names.contains_key(&node) {
        return Ok(node);
    }
    let message = format!("node {node} is not in cluster.toml");
    Err(Refusal::new(RefusalKind::NotFound, message))
}

/// Whether a node is kept out until it is unfenced.
fn is_cut_off(node: NodeId, domain: &Domain) -> bool {
    domain.kept_out().any(|kept| kept == (node, None))
}

/// The node, if its storage is off.
pub(crate) fn cut_off(node: NodeId, domain: &Domain) -> Result<NodeId, Refusal> {
    if is_cut_off(node, domain) {
        return Ok(node);
    }
    let message =
        format!("node {node} is not cut off from storage; `fence_tool ls -n` shows who is");
    Err(Refusal::new(RefusalKind::NotFound, message))
}

/// The node, if it is a victim.
pub(crate) fn victim(node: NodeId, domain: &Domain) -> Result<NodeId, Refusal> {
    if domain.victims().any(|(victim, _)| victim == node) {
        return Ok(node);
    }
    let message = format!("node {node} is not a victim; `fence_tool ls -n` shows who is");
    Err(Refusal::new(RefusalKind::NotFound, message))
}

/// The node, if it is no member.
pub(crate) fn silent(node: NodeId, name: &str, domain: &Domain) -> Result<NodeId, Refusal> {
    if domain.cluster_members().all(|member| member != node) {
        return Ok(node);
    }
    let message = format!(
        "node {node} ({name}) is a member of the cluster and runs: what it holds would be given to \
         others while it writes; reset it, or have it fenced"
    );
    Err(Refusal::new(RefusalKind::Busy, message))
}

/// The node, if it does not answer heartbeats: whatever the operator has seen, a node that runs
/// must not be taken for one that was switched off.
pub(crate) fn stopped(
    node: NodeId,
    name: &str,
    lives: &Result<bool, String>,
) -> Result<NodeId, Refusal> {
    match lives {
        Ok(false) => Ok(node),
        Ok(true) => {
            let message = format!(
                "node {node} ({name}) answers heartbeats and runs: what it holds would be given to \
                 others while it writes; reset it, or have it fenced"
            );
            Err(Refusal::new(RefusalKind::Busy, message))
        }
        Err(why) => {
            let message = format!("{why}; whether node {node} ({name}) runs is not known");
            Err(Refusal::new(RefusalKind::Busy, message))
        }
    }
}
