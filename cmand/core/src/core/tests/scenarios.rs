// SPDX-License-Identifier: GPL-2.0-only
//! Single stories, told step by step.

use crate::Departure;
use crate::Effect;
use crate::Incarnation;
use crate::NodeId;
use crate::RequestError;
use crate::Standing;
use crate::View;
use crate::seal::Header;
use crate::seal::Keys;

use super::check::Payload;
use super::cluster::Cluster;
use super::cluster::DETECTION_MS;
use super::cluster::GROUP;
use super::cluster::address;

fn whole(count: u32) -> Cluster {
    let mut cluster = Cluster::new(1, count);
    cluster.start_all();
    let took = cluster
        .run_until(2000, Cluster::is_whole)
        .expect("a first view");
    assert!(took < DETECTION_MS, "{took} ms");
    cluster.run(500);
    cluster
}

fn send(cluster: &mut Cluster, node: u32, number: u64, length: usize) {
    let payload = Payload(number, length);
    cluster.history.sent(NodeId(node), payload);
    let sent = cluster.with(NodeId(node), |core, now, fx| {
        core.send(now, GROUP, &payload.bytes(), fx)
    });
    sent.unwrap();
}

fn dropped(cluster: &Cluster, node: u32, counter: &str) -> u64 {
    cluster.core(node).status(cluster.now).counters[counter]
}

#[test]
fn nodes_started_together_come_in_one_view() {
    let cluster = whole(3);
    let view = cluster.history.last_view(2);
    assert_eq!(view.number, 1);
    assert_eq!(view.joined, [NodeId(1), NodeId(2), NodeId(3)]);
}

#[test]
fn a_silent_node_is_out_of_the_view_within_two_seconds() {
    for victim in 1..=3 {
        let mut cluster = whole(3);
        let gone = cluster.core(victim).status(cluster.now).incarnation;
        cluster.crash(NodeId(victim));
        let other = if victim == 1 { 2 } else { 1 };
        let took = cluster.run_until(2000, |cluster| cluster.history.last_view(other).number == 2);
        assert!(
            took.is_some_and(|took| took < DETECTION_MS + 100),
            "{took:?}"
        );
        let departed = &cluster.history.last_view(other).departed;
        assert_eq!(departed.len(), 1);
        assert_eq!(departed[0].member.incarnation, gone);
        assert_eq!(departed[0].why, Departure::NodeFailed);
        let group = cluster.history.groups(other).pop().unwrap();
        assert_eq!(group.departed, [(NodeId(victim), Departure::NodeFailed)]);
    }
}

#[test]
fn the_minority_says_why_and_goes_on_when_nobody_moved_on() {
    let mut cluster = whole(3);
    for node in 1..=3 {
        cluster.isolate(node);
    }
    cluster.run(1400);
    for node in 1..=3 {
        let status = cluster.core(node).status(cluster.now);
        assert!(!status.quorate);
        assert_eq!(status.votes, 1);
        let reason = &status.reason;
        assert!(
            reason.starts_with("2 of 3 votes needed, 1 heard: "),
            "{reason}"
        );
        let other = if node == 1 {
            "n2 silent for 1."
        } else {
            "n1 silent for 1."
        };
        assert!(reason.contains(other), "{reason}");
    }
    send(&mut cluster, 2, 1, 20);
    cluster.run(2000);
    assert!(cluster.history.messages(2).is_empty());
    cluster.heal();
    assert!(cluster.run_until(2000, Cluster::is_whole).is_some());
    assert_eq!(
        cluster.history.last_view(1).number,
        1,
        "the same view goes on"
    );
    assert_eq!(cluster.history.messages(3), [(NodeId(2), Payload(1, 20))]);
}

#[test]
fn nodes_that_go_together_are_not_proposed_one_by_one() {
    let mut cluster = whole(3);
    cluster.isolate(3);
    cluster.run(60);
    cluster.isolate(2);
    cluster.run(1500);
    cluster.heal();
    assert!(cluster.run_until(3000, Cluster::is_whole).is_some());
    assert_eq!(
        cluster.history.last_view(3).number,
        1,
        "nobody is left behind"
    );
}

#[test]
fn who_is_heard_first_after_a_cut_does_not_leave_the_others_behind() {
    let mut cluster = whole(3);
    for node in 1..=3 {
        cluster.isolate(node);
    }
    cluster.run(2000);
    let held = std::mem::take(&mut cluster.cut);
    cluster.cut = held
        .into_iter()
        .filter(|(a, b)| a.0 == 3 || b.0 == 3)
        .collect();
    assert!(
        cluster
            .run_until(500, |cluster| cluster.core(1).is_quorate(cluster.now))
            .is_some()
    );
    cluster.heal();
    assert!(cluster.run_until(3000, Cluster::is_whole).is_some());
    assert_eq!(cluster.history.last_view(3).number, 1);
}

#[test]
fn a_link_that_heals_last_after_a_cut_of_all_leaves_nobody_behind() {
    let mut cluster = whole(3);
    for node in 1..=3 {
        cluster.isolate(node);
    }
    cluster.run(2000);
    cluster.heal();
    cluster.cut = [(2, 3), (3, 2)].map(|(a, b)| (NodeId(a), NodeId(b))).into();
    cluster.run(DETECTION_MS * 3 / 4);
    assert!(cluster.core(1).is_quorate(cluster.now));
    cluster.heal();
    assert!(cluster.run_until(3000, Cluster::is_whole).is_some());
    assert_eq!(cluster.history.last_view(3).number, 1);
}

#[test]
fn who_died_while_there_was_no_quorum_is_out_a_detection_time_after_it() {
    let mut cluster = whole(3);
    for node in 1..=3 {
        cluster.isolate(node);
    }
    cluster.run(2000);
    cluster.crash(NodeId(3));
    cluster.heal();
    let quorate = |cluster: &Cluster| cluster.core(1).is_quorate(cluster.now);
    assert!(cluster.run_until(500, quorate).is_some());
    let took = cluster.run_until(3000, |cluster| cluster.history.last_view(1).number == 2);
    assert!(
        took.is_some_and(|took| took < DETECTION_MS + 100),
        "{took:?}"
    );
}

#[test]
fn who_was_left_behind_is_expelled_if_it_held_groups_and_joins_again_if_not() {
    for holds in [true, false] {
        let mut cluster = Cluster::new(2, 3);
        cluster.nodes.get_mut(&NodeId(3)).unwrap().joins = holds;
        cluster.start_all();
        cluster.run_until(2000, Cluster::is_whole).unwrap();
        let life = cluster.core(3).status(cluster.now).incarnation;
        cluster.isolate(3);
        cluster.run(3000);
        assert!(!cluster.core(3).is_quorate(cluster.now));
        assert!(cluster.core(1).is_quorate(cluster.now));
        cluster.heal();
        cluster.run(3000);
        if holds {
            assert_eq!(cluster.history.expelled, [NodeId(3)]);
            let status = cluster.core(3).status(cluster.now);
            assert_eq!(status.standing, Standing::Expelled);
            assert!(status.reason.contains("reset it"), "{}", status.reason);
            let refused = cluster.with(NodeId(3), |core, now, fx| core.join_group(now, "h", fx));
            assert_eq!(refused, Err(RequestError::Ended));
        } else {
            assert!(cluster.is_whole());
            assert_ne!(cluster.core(3).status(cluster.now).incarnation, life);
        }
    }
}

#[test]
fn a_node_that_starts_again_at_once_is_a_failure_and_a_joiner() {
    let mut cluster = whole(3);
    let old = cluster.core(2).status(cluster.now).incarnation;
    cluster.crash(NodeId(2));
    cluster.start(NodeId(2));
    let took = cluster
        .run_until(3000, Cluster::is_whole)
        .expect("whole again");
    assert!(took < 2000, "{took} ms");
    assert_eq!(cluster.history.last_view(1).number, 3, "two steps");
    assert_eq!(cluster.history.last_view(1).joined, [NodeId(2)]);
    let status = cluster.core(1).status(cluster.now);
    assert_ne!(status.nodes[&NodeId(2)].incarnation, Some(old));
}

#[test]
fn a_clean_leave_is_no_failure_even_below_quorum() {
    let mut cluster = whole(3);
    for (leaver, quorate) in [(1, true), (3, false)] {
        let left = cluster.with(NodeId(leaver), |core, now, fx| core.leave(now, true, fx));
        left.unwrap();
        let gone = |cluster: &Cluster| cluster.nodes[&NodeId(leaver)].core.is_none();
        assert!(cluster.run_until(1000, gone).is_some(), "left");
        let view = cluster.history.last_view(2);
        assert_eq!(view.departed[0].why, Departure::Left);
        assert_eq!(view.quorate, quorate);
    }
    let status = cluster.core(2).status(cluster.now);
    assert_eq!((status.members, status.quorate), (1, false));
}

#[test]
fn a_life_that_was_leaving_does_not_take_the_next_one_with_it() {
    let mut cluster = whole(2);
    // Its leave gets its place, and the node ends before everybody has it.
    cluster.cut.insert((NodeId(1), NodeId(2)));
    cluster
        .with(NodeId(2), |core, now, fx| core.leave(now, true, fx))
        .unwrap();
    cluster.run(20);
    cluster.crash(NodeId(2));
    cluster.cut.clear();
    cluster.start(NodeId(2));
    assert!(cluster.run_until(3000, Cluster::is_whole).is_some());
    // One step: without the new life there would be no quorum.
    let view = cluster.history.last_view(1);
    assert_eq!((view.number, view.joined.as_slice()), (2, &[NodeId(2)][..]));
    assert_eq!(view.departed[0].why, Departure::Left);
    cluster.run(3000);
    assert!(cluster.is_whole());
    assert_eq!(cluster.history.last_view(1).number, 2);
}

#[test]
fn leaving_with_groups_needs_force() {
    let mut cluster = whole(1);
    let refused = cluster.with(NodeId(1), |core, now, fx| core.leave(now, false, fx));
    assert_eq!(refused, Err(RequestError::GroupsJoined));
}

#[test]
fn long_messages_and_many_of_them_come_in_order() {
    let mut cluster = whole(3);
    cluster.faults.loss_percent = 5;
    cluster.faults.delay_ms_max = 5;
    for number in 0..100 {
        send(&mut cluster, 1 + (number % 3) as u32, 100 + number, 50);
    }
    send(&mut cluster, 2, 1, crate::PAYLOAD_LIMIT);
    assert!(cluster.run_until(20_000, Cluster::is_whole).is_some());
    cluster.run(500);
    assert_eq!(cluster.history.messages(1).len(), 101);
    assert_eq!(cluster.history.messages(1), cluster.history.messages(3));
}

#[test]
fn a_full_queue_and_wrong_requests_are_refused() {
    let mut cluster = whole(3);
    cluster.isolate(1);
    let payload = vec![0; crate::PAYLOAD_LIMIT];
    cluster.with(NodeId(1), |core, now, fx| {
        let mut sent = 0;
        while core.send(now, GROUP, &payload, fx).is_ok() {
            sent += payload.len();
        }
        assert!((3 << 20..=4 << 20).contains(&sent), "{sent}");
        assert_eq!(core.send(now, GROUP, &payload, fx), Err(RequestError::Full));
        let long = vec![0; crate::PAYLOAD_LIMIT + 1];
        assert_eq!(
            core.send(now, GROUP, &long, fx),
            Err(RequestError::PayloadLength)
        );
        assert_eq!(
            core.send(now, "other", &[], fx),
            Err(RequestError::NotMember)
        );
        assert_eq!(
            core.join_group(now, GROUP, fx),
            Err(RequestError::AlreadyMember)
        );
        assert_eq!(core.join_group(now, "", fx), Err(RequestError::GroupName));
        assert_eq!(
            core.leave_group(now, "other", fx),
            Err(RequestError::NotMember)
        );
    });
}

#[test]
fn groups_tell_failures_of_processes_apart_from_leaves() {
    let mut cluster = whole(2);
    cluster
        .with(NodeId(2), |core, now, fx| core.fail_group(now, GROUP, fx))
        .unwrap();
    cluster.run(500);
    let view = cluster.history.groups(1).pop().unwrap();
    assert_eq!(view.departed, [(NodeId(2), Departure::ProcessFailed)]);
    assert_eq!(view.members, [NodeId(1)]);
    cluster
        .with(NodeId(2), |core, now, fx| core.join_group(now, GROUP, fx))
        .unwrap();
    cluster.run(500);
    cluster
        .with(NodeId(2), |core, now, fx| core.leave_group(now, GROUP, fx))
        .unwrap();
    cluster.run(500);
    let last = cluster.history.groups(2).pop().unwrap();
    assert_eq!(last.departed, [(NodeId(2), Departure::Left)]);
    assert_eq!(cluster.history.groups(1).pop(), Some(last));
}

#[test]
fn a_node_with_another_key_or_cluster_stays_out_and_is_counted() {
    for (cluster_name, key, counter) in [
        ("alpha", vec![8; 32], "dropped_unauthenticated"),
        ("beta", vec![7; 32], "dropped_foreign_cluster"),
    ] {
        let mut cluster = Cluster::new(3, 3);
        cluster.start(NodeId(1));
        cluster.start(NodeId(2));
        let mut config = cluster.config(NodeId(3));
        config.cluster = cluster_name.to_owned();
        config.key = key;
        cluster.start_with(NodeId(3), config);
        cluster.run(3000);
        assert_eq!(cluster.history.last_view(1).members.len(), 2);
        assert!(dropped(&cluster, 1, counter) > 10);
        assert!(dropped(&cluster, 3, counter) > 10);
        assert_eq!(
            cluster.core(3).status(cluster.now).standing,
            Standing::Joining
        );
    }
}

#[test]
fn replayed_packets_change_nothing_in_this_life_or_the_next() {
    let mut cluster = Cluster::new(4, 3);
    cluster.record = true;
    cluster.start_all();
    cluster.run(3000);
    cluster.record = false;
    let recorded = cluster.recorded.clone();
    for (from, to, bytes) in &recorded {
        cluster.inject(*from, *to, bytes.clone());
    }
    cluster.run(50);
    assert!(cluster.is_whole());
    assert_eq!(cluster.history.last_view(1).number, 1);
    assert!(dropped(&cluster, 1, "dropped_replayed") > 40);
    // All stop; one starts again and hears only recordings of the others.
    for node in 1..=3 {
        cluster.crash(NodeId(node));
    }
    cluster.start(NodeId(1));
    for _ in 0..5 {
        for (from, to, bytes) in recorded.iter().filter(|(_, to, _)| to.0 == 1) {
            cluster.inject(*from, *to, bytes.clone());
        }
        cluster.run(300);
        let status = cluster.core(1).status(cluster.now);
        assert_eq!((status.view, status.votes), (0, 1), "nobody's votes");
    }
    cluster.start(NodeId(2));
    cluster.start(NodeId(3));
    assert!(
        cluster.run_until(3000, Cluster::is_whole).is_some(),
        "and keep nobody out"
    );
}

/// A receiver that starts again has forgotten which lives of the others have ended.
#[test]
fn a_recording_of_an_earlier_life_played_without_end_expels_nobody() {
    let mut cluster = Cluster::new(5, 3);
    cluster.record = true;
    cluster.start_all();
    cluster.run(200_000);
    cluster.record = false;
    let is_early = |(from, to, _): &&(NodeId, NodeId, Vec<u8>)| (from.0, to.0) == (2, 1);
    let recorded: Vec<_> = cluster.recorded.iter().filter(is_early).cloned().collect();
    for node in [2, 1] {
        cluster.crash(NodeId(node));
        cluster.run(3000);
        cluster.start(NodeId(node));
        assert!(cluster.run_until(5000, Cluster::is_whole).is_some());
    }
    let before = cluster.history.last_view(1).number;
    assert!(recorded.len() > 1500, "{}", recorded.len());
    for (from, to, bytes) in recorded {
        // So many to a heartbeat that one is nearly always what came last.
        cluster.inject(from, to, bytes);
        cluster.run(2);
    }
    assert!(cluster.is_whole());
    assert_eq!(cluster.history.last_view(1).number, before, "another view");
}

#[test]
fn numbers_that_somebody_makes_up_stop_no_view() {
    let mut cluster = Cluster::new(6, 3);
    // Node 3 has kept a number that no cluster comes to.
    let mut config = cluster.config(NodeId(3));
    config.view_floor = crate::wire::NUMBER_LIMIT;
    cluster.start_with(NodeId(3), config);
    cluster.start(NodeId(1));
    cluster.start(NodeId(2));
    assert!(cluster.run_until(8000, Cluster::is_whole).is_some());
    assert!(cluster.history.last_view(1).number < 100);
    for round in [crate::wire::NUMBER_LIMIT, u64::MAX] {
        let believed = cluster.with(NodeId(1), |core, _, _| core.take_round(round));
        assert!(!believed, "{round}");
    }
    cluster.crash(NodeId(2));
    cluster.run(3000);
    cluster.start(NodeId(2));
    assert!(cluster.run_until(8000, Cluster::is_whole).is_some());
}

#[test]
fn truncated_and_garbled_packets_change_nothing() {
    let mut cluster = Cluster::new(5, 2);
    cluster.record = true;
    cluster.start_all();
    cluster.run(2000);
    let recorded = cluster.recorded.clone();
    for (index, (from, to, bytes)) in recorded.iter().enumerate() {
        cluster.inject(*from, *to, bytes[..index % bytes.len()].to_vec());
        for at in [index % 4, index % bytes.len(), bytes.len() - 1] {
            let mut garbled = bytes.clone();
            garbled[at] ^= 0x10;
            cluster.inject(*from, *to, garbled);
        }
    }
    cluster.run(1000);
    assert!(cluster.is_whole());
    assert_eq!(cluster.history.last_view(1).number, 1);
    for counter in [
        "dropped_length",
        "dropped_unauthenticated",
        "dropped_version",
    ] {
        assert!(dropped(&cluster, 1, counter) > 0, "{counter}");
    }
}

#[test]
fn a_second_node_with_a_used_id_is_told_and_the_members_stay() {
    let mut cluster = whole(3);
    // The impostor: the same id, another address, its own life.
    let mut config = cluster.config(NodeId(2));
    let wrong = address(NodeId(99));
    config.nodes.get_mut(&NodeId(2)).unwrap().address = wrong;
    let mut impostor = crate::Core::new(config, cluster.now);
    let mut refused = None;
    for _ in 0..20 {
        let mut fx = Vec::new();
        impostor.handle_timeout(cluster.now, &mut fx);
        for effect in fx {
            let Effect::Send { to, bytes } = effect else {
                continue;
            };
            let node = (1..=3)
                .map(NodeId)
                .find(|node| address(*node) == to)
                .unwrap();
            let mut answers = Vec::new();
            let core = cluster.nodes.get_mut(&node).unwrap().core.as_mut().unwrap();
            core.handle_datagram(cluster.now, wrong, &bytes, &mut answers);
            for answer in answers {
                if let Effect::Send { to, bytes } = answer
                    && to == wrong
                {
                    let mut fx = Vec::new();
                    impostor.handle_datagram(cluster.now, address(node), &bytes, &mut fx);
                    refused = refused.or(fx.into_iter().find_map(|effect| match effect {
                        Effect::Refused { reason } => Some(reason),
                        _ => None,
                    }));
                }
            }
        }
        cluster.run(125);
    }
    let reason = refused.expect("told");
    assert!(
        reason.contains("node id 2 is in use by 10.0.0.2:5405"),
        "{reason}"
    );
    assert!(cluster.is_whole());
    assert_eq!(cluster.history.last_view(1).number, 1);
    assert!(dropped(&cluster, 1, "dropped_wrong_address") > 0);
}

#[test]
fn a_second_life_at_the_same_address_beside_a_live_one_is_refused() {
    let mut cluster = whole(3);
    let config = cluster.config(NodeId(2));
    let mut twin = crate::Core::new(config, cluster.now);
    let mut refused = None;
    cluster.record = true;
    for _ in 0..24 {
        cluster.recorded.clear();
        let mut fx = Vec::new();
        twin.handle_timeout(cluster.now, &mut fx);
        for effect in fx {
            let Effect::Send { to, bytes } = effect else {
                continue;
            };
            let node = (1..=3)
                .map(NodeId)
                .find(|node| address(*node) == to)
                .unwrap();
            cluster.receive(node, address(NodeId(2)), bytes);
        }
        // Both hold the address: what is sent to it reaches both.
        cluster.run(125);
        for (from, to, bytes) in cluster.recorded.clone() {
            if to == NodeId(2) {
                let mut fx = Vec::new();
                twin.handle_datagram(cluster.now, address(from), &bytes, &mut fx);
                refused = refused.or(fx.into_iter().find_map(|effect| match effect {
                    Effect::Refused { reason } => Some(reason),
                    _ => None,
                }));
            }
        }
    }
    let reason = refused.expect("told");
    assert!(reason.contains("node id 2 is in use"), "{reason}");
    assert!(cluster.is_whole());
    assert_eq!(cluster.history.last_view(1).number, 1);
}

#[test]
fn a_node_with_another_configuration_is_not_counted() {
    let mut cluster = Cluster::new(6, 3);
    cluster.start(NodeId(1));
    cluster.start(NodeId(2));
    cluster.run(1000);
    let mut config = cluster.config(NodeId(3));
    config.detection_ms += 1;
    cluster.start_with(NodeId(3), config);
    cluster.run(3000);
    assert_eq!(cluster.history.last_view(1).members.len(), 2);
    assert!(dropped(&cluster, 1, "dropped_other_config") > 10);
}

#[test]
fn a_pause_of_this_node_is_counted_and_accuses_nobody() {
    let mut cluster = whole(2);
    let until = cluster.now.after(900);
    cluster.nodes.get_mut(&NodeId(1)).unwrap().paused_until = Some(until);
    cluster.run(3000);
    assert_eq!(dropped(&cluster, 1, "pauses"), 1);
    assert!(cluster.is_whole());
    assert_eq!(cluster.history.last_view(1).number, 1);
}

/// Pauses nodes, each so many milliseconds, at every moment around the admission of
/// a third node. The worst is between two steps of the proposal that takes it in.
fn pause_around_a_join(pauses: &[(u32, u64)]) {
    for begin in (0..400).step_by(8) {
        let mut cluster = Cluster::new(begin, 3);
        cluster.start(NodeId(1));
        cluster.start(NodeId(2));
        cluster.run(1000);
        cluster.start(NodeId(3));
        cluster.run(begin);
        for (node, length) in pauses {
            let until = cluster.now.after(*length);
            cluster.nodes.get_mut(&NodeId(*node)).unwrap().paused_until = Some(until);
        }
        cluster.run(7000);
        assert!(cluster.is_whole());
        let views = cluster.history.views(1);
        let is_growing = |view: &&View| view.departed.is_empty();
        assert!(
            views.iter().all(is_growing),
            "{begin} ms after n3 started: {views:?}"
        );
    }
}

#[test]
fn a_pause_while_a_node_joins_is_no_failure() {
    for node in 1..=3 {
        pause_around_a_join(&[(node, DETECTION_MS * 3 / 4)]);
    }
}

/// What pauses a host pauses all nodes on it, and they go on one after the other.
#[test]
fn a_pause_of_all_while_a_node_joins_is_no_failure() {
    for last in 1..=3 {
        let length = |node| if node == last { 3300 } else { 3000 };
        pause_around_a_join(&[1, 2, 3].map(|node| (node, length(node))));
    }
}

#[test]
fn a_forged_refusal_or_one_for_another_life_is_ignored() {
    let mut cluster = whole(3);
    let keys = Keys::new("alpha", &[7; 32]);
    let incarnation = cluster.core(1).status(cluster.now).incarnation;
    let refusal = |incarnation: Incarnation| {
        let message = crate::wire::Message::Refuse {
            incarnation,
            text: "go away".to_owned(),
        };
        let header = Header {
            from: NodeId(2),
            to: NodeId(1),
            incarnation: Incarnation(1),
            counter: 1 << 40,
        };
        let key = keys.key(NodeId(2), Incarnation(1));
        keys.seal(&key, &header, &crate::wire::pieces(1, &message.encode())[0])
    };
    cluster.inject(NodeId(2), NodeId(1), refusal(incarnation));
    cluster.run(500);
    assert!(cluster.history.refused.is_empty(), "a member stays one");
    cluster.crash(NodeId(1));
    cluster.start(NodeId(1));
    cluster.inject(NodeId(2), NodeId(1), refusal(incarnation));
    cluster.run(5);
    assert!(cluster.history.refused.is_empty(), "another life was meant");
}

#[test]
fn messages_of_a_view_do_not_make_nodes_think_about_views() {
    let mut cluster = whole(3);
    cluster.run(1000);
    let before = cluster.core(1).plans;
    for number in 1..=500 {
        send(&mut cluster, 2, number, 20);
    }
    let took = cluster.run_until(2000, |cluster| cluster.history.messages(1).len() == 500);
    let beats = took.unwrap() / (DETECTION_MS / 8) + 1;
    let plans = cluster.core(1).plans - before;
    // A timer at each heartbeat, and those that look after what may be lost.
    assert!(plans <= beats * 6, "{plans} times in {beats} heartbeats");
}

#[test]
fn drops_are_logged_for_each_sender_and_summed_up() {
    let mut cluster = whole(3);
    let mut lines = Vec::new();
    let mut garbage = |cluster: &mut Cluster, from: std::net::SocketAddr, count: usize| {
        let core = cluster
            .nodes
            .get_mut(&NodeId(1))
            .unwrap()
            .core
            .as_mut()
            .unwrap();
        let mut fx = Vec::new();
        for _ in 0..count {
            core.handle_datagram(cluster.now, from, &[0; 100], &mut fx);
        }
        lines.extend(fx.into_iter().filter_map(|effect| match effect {
            crate::Effect::Log { text, .. } if text.contains("dropped") => Some(text),
            _ => None,
        }));
        lines.len()
    };
    for port in 1000..1100 {
        let stranger = std::net::SocketAddr::from(([10, 9, 9, 9], port));
        assert_eq!(
            garbage(&mut cluster, stranger, 10),
            1,
            "all strangers together"
        );
    }
    assert_eq!(garbage(&mut cluster, address(NodeId(2)), 83), 2);
    assert_eq!(garbage(&mut cluster, address(NodeId(3)), 1), 3);
    cluster.run(11_000);
    let told = cluster.history.logged(1);
    let more = |text: &str| told.iter().filter(|line| line.contains(text)).count();
    assert_eq!(more("more=82 last_from=10.0.0.2:5405"), 1, "{told:?}");
    assert_eq!(more("more=999 last_from=10.9.9.9:1099"), 1, "{told:?}");
}

/// Asks n1 about n3, and says what and when it answered.
fn probed(cluster: &mut Cluster, boot: Option<crate::BootId>, ms: u64) -> Option<(bool, u64)> {
    cluster.history.probed.clear();
    cluster
        .with(NodeId(1), |core, now, fx| {
            core.probe(now, 7, NodeId(3), boot, fx)
        })
        .unwrap();
    let took = cluster.run_until(ms, |cluster| !cluster.history.probed.is_empty());
    took.map(|took| (cluster.history.probed == [(7, true)], took))
}

#[test]
fn a_node_lives_if_it_answers_what_was_sent_after_the_question() {
    let mut cluster = whole(3);
    let boot = Some(crate::BootId([3; 16]));
    let (alive, took) = probed(&mut cluster, boot, 1000).unwrap();
    assert!(alive && took <= DETECTION_MS / 4 + 10, "{alive} {took}");
    assert!(probed(&mut cluster, None, 1000).unwrap().0);
    let other = Some(crate::BootId([9; 16]));
    let (alive, _) = probed(&mut cluster, other, 1000).unwrap();
    assert!(!alive, "another boot of it has ended");
    // Its last answers are on the way when it is switched off.
    cluster.faults.delay_ms_max = 60;
    cluster.run(500);
    cluster.crash(NodeId(3));
    let (alive, took) = probed(&mut cluster, boot, 1000).unwrap();
    assert!(!alive && took >= DETECTION_MS / 4, "{took}");
    assert!(took <= DETECTION_MS / 2, "{took}");
    let (alive, took) = probed(&mut cluster, boot, 1000).unwrap();
    assert!(!alive && took == 0, "it was silent already: {took}");
    cluster.start(NodeId(3));
    assert!(cluster.run_until(3000, Cluster::is_whole).is_some());
    assert!(probed(&mut cluster, None, 1000).unwrap().0, "it is back");
}

#[test]
fn a_node_that_was_not_scheduled_does_not_call_another_one_silent_for_that() {
    let mut cluster = whole(3);
    cluster.history.probed.clear();
    cluster
        .with(NodeId(1), |core, now, fx| {
            core.probe(now, 7, NodeId(3), None, fx)
        })
        .unwrap();
    let until = cluster.now.after(700);
    cluster.nodes.get_mut(&NodeId(1)).unwrap().paused_until = Some(until);
    cluster.run_until(2000, |cluster| !cluster.history.probed.is_empty());
    assert_eq!(cluster.history.probed, [(7, true)]);
}

/// All but n3 are told that this boot of it was fenced.
fn fenced(cluster: &mut Cluster, boot: u8) {
    let ended = [(NodeId(3), crate::BootId([boot; 16]))];
    for node in [1, 2] {
        cluster.with(NodeId(node), |core, now, _| core.watch_ended(now, &ended));
    }
}

#[test]
fn a_boot_that_is_heard_after_it_was_fenced_is_told_of() {
    // In the last of them it is expelled before it has answered anybody.
    for seed in (0..30).chain([490]) {
        let mut cluster = Cluster::new(seed, 3);
        cluster.faults.delay_ms_max = 20;
        cluster.start_all();
        cluster.run_until(3000, Cluster::is_whole).unwrap();
        cluster.isolate(3);
        cluster.run(3000);
        fenced(&mut cluster, 3);
        cluster.run(3000);
        assert_eq!(cluster.history.returned, [], "it is silent");
        // Packets of one direction may come before those of the other.
        let (there, back) = ((NodeId(1), NodeId(3)), (NodeId(3), NodeId(1)));
        match seed % 3 {
            0 => cluster.cut = [there].into(),
            1 => cluster.cut = [back].into(),
            _ => cluster.cut.clear(),
        }
        cluster.run(seed * 10);
        cluster.heal();
        cluster.run(1000);
        assert_eq!(cluster.history.expelled, [NodeId(3)]);
        let returned = &cluster.history.returned;
        let by_any = [1, 2].map(|node| returned.contains(&(NodeId(node), NodeId(3))));
        assert!(by_any.contains(&true), "seed {seed}");
    }
}

#[test]
fn a_boot_that_goes_on_is_told_of_once_in_a_while() {
    let mut cluster = whole(3);
    cluster.nodes.get_mut(&NodeId(3)).unwrap().joins = false;
    fenced(&mut cluster, 3);
    cluster.run(super::super::returned::TELL_MS - 1000);
    // It was fenced again, and that was no better.
    cluster.with(NodeId(1), |core, now, _| core.watch_ended(now, &[]));
    fenced(&mut cluster, 3);
    let told = |cluster: &Cluster| {
        let of_first = cluster.history.returned.iter();
        of_first.filter(|(by, _)| *by == NodeId(1)).count()
    };
    assert_eq!(told(&cluster), 1);
    cluster.run(2000);
    assert_eq!(told(&cluster), 2);
    // And this time it was.
    cluster.crash(NodeId(3));
    cluster.run(super::super::returned::TELL_MS * 2);
    assert_eq!(told(&cluster), 2);
}

#[test]
fn neither_another_boot_nor_a_recording_nor_an_early_answer_accuses() {
    let mut cluster = whole(3);
    fenced(&mut cluster, 9);
    cluster.run(2000);
    assert_eq!(cluster.history.returned, [], "another boot");
    cluster.record = true;
    cluster.run(1000);
    cluster.record = false;
    let recorded = cluster.recorded.clone();
    cluster.crash(NodeId(3));
    fenced(&mut cluster, 3);
    for _ in 0..20 {
        for (from, to, bytes) in &recorded {
            cluster.inject(*from, *to, bytes.clone());
        }
        cluster.run(200);
    }
    assert_eq!(cluster.history.returned, [], "recordings");
    // Its last answers are on the way when it is switched off.
    for ms in (0..DETECTION_MS / 4).step_by(10) {
        let mut cluster = whole(3);
        cluster.faults.delay_ms_max = 60;
        cluster.run(500 + ms);
        cluster.crash(NodeId(3));
        fenced(&mut cluster, 3);
        cluster.run(1000);
        assert_eq!(cluster.history.returned, [], "after {ms} ms");
    }
}

/// These nodes are told to keep n3 out, in this boot or in any.
fn keep_out(cluster: &mut Cluster, nodes: &[u32], boot: Option<u8>) {
    let kept = [(NodeId(3), boot.map(|boot| crate::BootId([boot; 16])))];
    for node in nodes {
        cluster.with(NodeId(*node), |core, now, fx| core.keep_out(now, &kept, fx));
    }
}

fn members(cluster: &Cluster) -> Vec<u32> {
    let view = cluster.history.last_view(1);
    view.members.iter().map(|member| member.node.0).collect()
}

#[test]
fn who_is_kept_out_stays_out_until_it_may_and_has_another_boot() {
    // One of the two is enough: it may be the other who proposes.
    for knowing in [&[1, 2][..], &[1], &[2]] {
        let mut cluster = whole(3);
        cluster.crash(NodeId(3));
        cluster.run(2000);
        keep_out(&mut cluster, knowing, None);
        for boot in [3, 9] {
            let mut config = cluster.config(NodeId(3));
            config.boot = crate::BootId([boot; 16]);
            cluster.start_with(NodeId(3), config);
            cluster.run(5000);
            assert_eq!(members(&cluster), [1, 2], "{knowing:?} boot {boot}");
            assert!(cluster.core(1).is_quorate(cluster.now));
            assert!(cluster.core(2).is_quorate(cluster.now));
            cluster.crash(NodeId(3));
        }
        // It may come back, but not in the boot that was cut off.
        keep_out(&mut cluster, knowing, Some(3));
        cluster.start(NodeId(3));
        cluster.run(5000);
        assert_eq!(members(&cluster), [1, 2], "{knowing:?}");
        cluster.crash(NodeId(3));
        let mut config = cluster.config(NodeId(3));
        config.boot = crate::BootId([9; 16]);
        cluster.start_with(NodeId(3), config);
        cluster.run(5000);
        assert_eq!(members(&cluster), [1, 2, 3], "{knowing:?}");
    }
}

#[test]
fn a_member_that_is_kept_out_is_one_no_longer() {
    for kept in [3, 1] {
        let mut cluster = whole(3);
        let others: Vec<u32> = (1..=3).filter(|node| *node != kept).collect();
        let boot = Some(crate::BootId([kept as u8; 16]));
        for node in &others {
            cluster.with(NodeId(*node), |core, now, fx| {
                core.keep_out(now, &[(NodeId(kept), boot)], fx);
            });
        }
        cluster.run(3000);
        let view = cluster.history.last_view(2);
        let members: Vec<u32> = view.members.iter().map(|member| member.node.0).collect();
        assert_eq!(members, others);
        assert_eq!(view.number, 2, "in one step");
        assert_eq!(cluster.history.expelled, [NodeId(kept)]);
        let told = cluster.history.logged(2);
        let lines = told.iter().filter(|line| line.contains("node kept out"));
        assert_eq!(lines.count(), 1, "{told:?}");
    }
}
