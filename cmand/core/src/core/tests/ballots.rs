// SPDX-License-Identifier: GPL-2.0-only
//! Single steps of a ballot that seeded runs meet too rarely.

use crate::Member;
use crate::NodeId;
use crate::ViewId;
use crate::wire::Ballot;
use crate::wire::NodeIdOrNone;

use super::cluster::Cluster;

fn ballot(round: u64, proposer: u32) -> Ballot {
    Ballot {
        round,
        proposer: NodeIdOrNone(proposer),
    }
}

/// Five nodes in a view, from now on each on its own.
fn five() -> (Cluster, ViewId, Vec<Member>) {
    let mut cluster = Cluster::new(9, 5);
    cluster.start_all();
    cluster
        .run_until(3000, Cluster::is_whole)
        .expect("a first view");
    cluster.run(300);
    for node in 1..=5 {
        cluster.isolate(node);
    }
    let installed = cluster.core(1).view.as_ref().unwrap();
    let members = installed.value.members.iter().map(|(member, _)| *member);
    let (id, members) = (installed.value.id, members.collect());
    (cluster, id, members)
}

#[test]
fn a_promise_is_never_taken_back() {
    let (mut cluster, view, members) = five();
    let propose = |cluster: &mut Cluster, ballot: Ballot| {
        let from = NodeId(ballot.proposer.0);
        cluster.with(NodeId(5), |core, now, fx| {
            core.handle_propose(now, from, ballot, Some(view), &members, fx);
            core.acceptor.promised
        })
    };
    let high = ballot(70, 2);
    assert_eq!(propose(&mut cluster, high), high);
    for low in [ballot(69, 4), ballot(70, 1)] {
        assert_eq!(propose(&mut cluster, low), high);
    }
    assert_eq!(propose(&mut cluster, ballot(70, 3)), ballot(70, 3));
    // And nothing is accepted but in the promised ballot.
    let mut value = cluster.core(5).view.as_ref().unwrap().value.clone();
    (value.base, value.flush) = (Some(view), 0);
    value.id.number += 1;
    for (attempt, accepted) in [(high, false), (ballot(71, 3), false), (ballot(70, 3), true)] {
        let value = value.clone();
        let pending = cluster.with(NodeId(5), |core, now, fx| {
            core.handle_accept(now, NodeId(attempt.proposer.0), attempt, value, fx);
            core.acceptor.pending.is_some()
        });
        assert_eq!(pending, accepted, "{attempt:?}");
    }
}

#[test]
fn a_view_is_decided_when_all_that_were_asked_have_accepted() {
    let (mut cluster, view, members) = five();
    let received = cluster.core(1).view.as_ref().unwrap().order.received();
    let targets = members.clone();
    let attempt = cluster.with(NodeId(1), |core, now, fx| {
        core.begin(now, targets, fx);
        core.settle(now, fx);
        ballot(core.round, 1)
    });
    for node in 2..=5 {
        cluster.with(NodeId(1), |core, now, fx| {
            let base = Some(view);
            core.handle_promise(now, NodeId(node), attempt, base, received, 0, None, fx);
            core.settle(now, fx);
        });
    }
    for node in 2..=5 {
        assert_eq!(
            cluster.core(1).view_id(),
            Some(view),
            "before n{node} accepted"
        );
        cluster.with(NodeId(1), |core, now, fx| {
            core.handle_accepted(now, NodeId(node), attempt, fx);
            core.settle(now, fx);
        });
    }
    assert_eq!(
        cluster.core(1).view_id().map(|id| id.number),
        Some(view.number + 1)
    );
}

#[test]
fn what_may_have_been_decided_is_proposed_again() {
    let (mut cluster, view, members) = five();
    let received = cluster.core(1).view.as_ref().unwrap().order.received();
    let mut decided = cluster.core(1).view.as_ref().unwrap().value.clone();
    (decided.base, decided.flush) = (Some(view), received);
    decided.id = ViewId { number: 40, tag: 4 };
    for (_, joined) in &mut decided.members {
        *joined = false;
    }
    let mut older = decided.clone();
    older.id = ViewId { number: 50, tag: 5 };
    let attempt = cluster.with(NodeId(1), |core, now, fx| {
        core.begin(now, members, fx);
        core.settle(now, fx);
        ballot(core.round, 1)
    });
    for node in 2..=5 {
        let pending = match node {
            3 => Some((ballot(1, 3), older.clone())),
            4 => Some((ballot(1, 4), decided.clone())),
            _ => None,
        };
        cluster.with(NodeId(1), |core, now, fx| {
            let base = Some(view);
            core.handle_promise(now, NodeId(node), attempt, base, received, 0, pending, fx);
            core.settle(now, fx);
        });
    }
    let pending = cluster.core(1).acceptor.pending.clone();
    assert_eq!(
        pending,
        Some((attempt, decided)),
        "the value of the latest ballot"
    );
}
