// SPDX-License-Identifier: GPL-2.0-only
//! Between the words of the control sockets and those of the core. Pure.

use dlm_controld_client::Change;
use dlm_controld_client::Lockspace;
use dlm_controld_client::LockspaceNode;
use dlm_controld_client::Wait;
use dlm_controld_core::FenceState;
use dlm_controld_core::NodeId;
use dlm_controld_core::report;

use crate::history::History;
use crate::kernel::Members;

/// Members of a cluster view and their lives, for the kernel.
pub(crate) fn members(view: &cmand_client::View) -> Members {
    view.members
        .iter()
        .map(|member| (member.node.0, member.incarnation.0))
        .collect()
}

/// Members that failed in it.
pub(crate) fn failed(view: &cmand_client::View) -> Vec<NodeId> {
    view.failed().map(|member| member.node).collect()
}

/// fenced's state.
pub(crate) fn fence_state(state: &fenced_client::State) -> FenceState {
    FenceState {
        view: state.view,
        victims: state.victims.iter().copied().collect(),
    }
}

/// What a lockspace waits for.
pub(crate) fn wait(wait: &report::Wait) -> Wait {
    match wait {
        report::Wait::None => Wait::None,
        report::Wait::Protocol => Wait::Protocol,
        report::Wait::Group => Wait::Group,
        report::Wait::Stop => Wait::Stop,
        report::Wait::Announcement => Wait::Announcement,
        report::Wait::View => Wait::View,
        report::Wait::Quorum => Wait::Quorum,
        report::Wait::Fencing(list) => Wait::Fencing {
            nodes: list.clone(),
        },
        report::Wait::Messages(list) => Wait::Messages {
            nodes: list.clone(),
        },
        report::Wait::Halted => Wait::Halted,
    }
}

fn change(change: &report::ChangeReport) -> Change {
    Change {
        first: change.first,
        number: change.number,
        members: change.members.clone(),
        joined: change.joined,
        removed: change.removed,
        failed: change.failed,
    }
}

/// A lockspace, for `dlm_tool ls`.
pub(crate) fn lockspace(report: &report::LockspaceReport, history: &History) -> Lockspace {
    let node = |node: &report::NodeReport| LockspaceNode {
        node: node.node,
        member: node.member,
        departure: node.departure,
        start: node.start,
        added: node.added,
        removed: node.removed,
        check_fence: node.check_fence,
        failed_at: if node.check_fence {
            history.failed_at(node.node)
        } else {
            0
        },
    };
    Lockspace {
        name: report.name.clone(),
        id: report.id,
        flags: report.flags,
        joining: report.joining,
        leaving: report.leaving,
        stopped: report.stopped,
        recovering: report.recovering,
        change: report.started.as_ref().map(change),
        new_change: report.pending.as_ref().map(change),
        wait: wait(&report.wait),
        nodes: report.nodes.iter().map(node).collect(),
    }
}

/// One line for the log.
pub(crate) fn describe(wait: &report::Wait) -> String {
    let list = |nodes: &[NodeId]| {
        let names: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
        names.join(",")
    };
    match wait {
        report::Wait::None => "nothing".into(),
        report::Wait::Protocol => "agreement on a protocol".into(),
        report::Wait::Group => "cmand".into(),
        report::Wait::Stop => "the kernel to stop".into(),
        report::Wait::Announcement => "the other daemons".into(),
        report::Wait::View => "the cluster view".into(),
        report::Wait::Quorum => "quorum".into(),
        report::Wait::Fencing(nodes) if nodes.is_empty() => "fenced".into(),
        report::Wait::Fencing(nodes) => format!("fencing of {}", list(nodes)),
        report::Wait::Messages(nodes) => format!("start of {}", list(nodes)),
        report::Wait::Halted => "a reset of this node".into(),
    }
}
