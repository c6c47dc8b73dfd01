// SPDX-License-Identifier: GPL-2.0-only
//! Nodes that come, go, die and sleep.

use std::time::Duration;
use std::time::Instant;

use cmand_client::Departure;
use cmand_client::Event;
use cmand_client::Membership;
use nix::sys::signal::Signal;

use super::cluster::Place;
use super::cluster::wait_for;
use super::groups::Client;

/// What the cluster promises at the default detection time.
const NEW_VIEW: Duration = Duration::from_secs(2);

#[test]
fn a_killed_node_is_out_within_two_seconds_and_comes_back() {
    let place = Place::new();
    let [n1, n2, mut n3] = place.three();
    let config = place.three_config();
    let before = n1.status().view;
    let mut watcher = Client::subscribe(&n1, "watcher");
    watcher.until("the present view", |event| {
        matches!(event, Event::Quorum { .. })
    });
    let begun = Instant::now();
    n3.signal(Signal::SIGKILL);
    let view = watcher.next_view();
    let took = begun.elapsed();
    println!("silent node to new view: {} ms", took.as_millis());
    assert!(took < NEW_VIEW, "{took:?}");
    assert_eq!(view.number, before + 1);
    assert!(view.quorate);
    assert_eq!(view.departed.len(), 1);
    assert_eq!(view.departed[0].member.node.0, 3);
    assert_eq!(view.departed[0].why, Departure::NodeFailed);
    n3.wait();
    let nodes = n2.nodes();
    assert!(!nodes[2].member && !nodes[2].heard && nodes[2].incarnation.is_none());
    n3 = place.start("n3", "n3", &config);
    n3.wait_for_members(3);
    let joined = watcher.next_view();
    assert_eq!(joined.joined.len(), 1);
    assert_ne!(
        joined.members[2].incarnation,
        view.departed[0].member.incarnation
    );
    assert_eq!(joined.members[2].boot, view.departed[0].member.boot);
}

#[test]
fn the_last_of_three_may_not_act_and_says_why() {
    let place = Place::new();
    let [n1, n2, n3] = place.three();
    n2.signal(Signal::SIGSTOP);
    n3.signal(Signal::SIGSTOP);
    let status = wait_for("no quorum", || Some(n1.status()).filter(|s| !s.quorate));
    assert_eq!((status.total_votes, status.quorum), (1, 2));
    let reason = &status.reason;
    assert!(
        reason.starts_with("2 of 3 votes needed, 1 heard: n2 silent for 1."),
        "{reason}"
    );
    assert!(reason.contains("n3 silent for 1."), "{reason}");
    let view = status.view;
    n2.signal(Signal::SIGCONT);
    n3.signal(Signal::SIGCONT);
    // Nobody moved on: the same view goes on.
    assert_eq!(n1.wait_for_members(3).view, view);
    assert_eq!(n3.wait_for_members(3).view, view);
}

#[test]
fn a_stopped_node_is_left_behind_and_joins_again_if_it_held_nothing() {
    let place = Place::new();
    let [n1, _n2, n3] = place.three();
    let life = n1.nodes()[2].incarnation;
    let begun = Instant::now();
    n3.signal(Signal::SIGSTOP);
    n1.wait_for_members(2);
    assert!(begun.elapsed() < NEW_VIEW, "{:?}", begun.elapsed());
    n3.signal(Signal::SIGCONT);
    n1.wait_for_members(3);
    assert_ne!(n1.nodes()[2].incarnation, life, "a new life");
    assert!(n3.log().contains("joining again as a new life"));
    assert!(n3.log().contains("this node was not scheduled"));
}

#[test]
fn a_stopped_node_that_held_a_group_is_expelled_and_stays_so() {
    let place = Place::new();
    let [n1, _n2, n3] = place.three();
    let mut holder = Client::subscribe(&n3, "holder");
    holder.join("g");
    n3.signal(Signal::SIGSTOP);
    n1.wait_for_members(2);
    n3.signal(Signal::SIGCONT);
    let expelled = holder.until("an end", |event| matches!(event, Event::Expelled { .. }));
    assert!(
        format!("{expelled:?}").contains("without this node"),
        "{expelled:?}"
    );
    let status = n3.status();
    assert_eq!(status.membership, Membership::Expelled);
    assert!(!status.quorate && status.reason.contains("without this node"));
    assert_eq!(n1.status().members, 2);
}

#[test]
fn sigterm_leaves_cleanly() {
    let place = Place::new();
    let [n1, mut n2, mut n3] = place.three();
    let mut watcher = Client::subscribe(&n1, "watcher");
    watcher.until("the present view", |event| {
        matches!(event, Event::Quorum { .. })
    });
    n3.signal(Signal::SIGTERM);
    let (status, log) = n3.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    let view = watcher.next_view();
    assert_eq!(view.departed[0].why, Departure::Left);
    // The last but one leaves: the rest may not act, and nobody has failed.
    n2.signal(Signal::SIGTERM);
    let view = watcher.next_view();
    assert_eq!(view.departed[0].why, Departure::Left);
    assert!(!view.quorate);
    let (status, log) = n2.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    let status = n1.status();
    assert!(status.reason.contains("n2 has left"), "{}", status.reason);
}

#[test]
fn a_tool_says_which_daemon_does_not_answer() {
    let place = Place::new();
    let n1 = place.start("n1", "n1", &place.three_config());
    n1.status();
    n1.signal(Signal::SIGSTOP);
    let asked = cmand_client::call(&n1.socket, &cmand_client::Request::Status);
    n1.signal(Signal::SIGCONT);
    let error = asked.unwrap_err().to_string();
    assert!(error.starts_with("cmand does not answer"), "{error}");
}
