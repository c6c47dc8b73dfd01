// SPDX-License-Identifier: GPL-2.0-only
//! Nodes of one cluster whose files differ.

use super::cluster::Cluster;
use super::cluster::address;
use crate::NodeId;
use crate::RequestError;
use crate::seal::Header;

/// `count` nodes, of which these have a file in which there is nobody else.
fn with_own_file(count: u32, own: &[u32]) -> Cluster {
    let mut cluster = Cluster::new(5, count);
    cluster.history.files_differ = true;
    for node in own {
        let file = own.iter().copied().map(NodeId).collect();
        cluster.nodes.get_mut(&NodeId(*node)).unwrap().file = file;
    }
    cluster
}

fn start(cluster: &mut Cluster, nodes: &[u32]) {
    for node in nodes {
        cluster.start(NodeId(*node));
    }
}

fn quorate(cluster: &Cluster, node: u32) -> bool {
    cluster.core(node).is_quorate(cluster.now)
}

fn reason(cluster: &Cluster, node: u32) -> String {
    cluster.core(node).status(cluster.now).reason
}

fn accept(cluster: &mut Cluster, node: u32) -> Vec<String> {
    cluster.with(NodeId(node), |core, now, fx| core.accept_config(now, fx))
}

#[test]
fn a_node_alone_in_its_file_founds_nothing_beside_the_others() {
    let mut cluster = with_own_file(3, &[3]);
    start(&mut cluster, &[1, 2]);
    cluster.run(3000);
    assert!(quorate(&cluster, 1) && quorate(&cluster, 2));
    start(&mut cluster, &[3]);
    cluster.run(5000);
    assert!(quorate(&cluster, 1) && quorate(&cluster, 2), "these go on");
    assert_eq!(cluster.core(3).status(cluster.now).view, 0);
    let said = reason(&cluster, 3);
    assert!(
        said.contains("node 1 at 10.0.0.1 is of this cluster and not in this node's file"),
        "{said}"
    );
    let foreign = cluster.core(1).status(cluster.now).foreign;
    assert_eq!(
        foreign,
        ["n3 has another configuration: node 1 is not in its file"]
    );
}

#[test]
fn who_comes_after_a_node_with_a_file_of_its_own_founds_nothing_either() {
    let mut cluster = with_own_file(3, &[3]);
    start(&mut cluster, &[3]);
    cluster.run(3000);
    assert!(quorate(&cluster, 3), "it could not know");
    start(&mut cluster, &[1, 2]);
    cluster.run(5000);
    assert!(quorate(&cluster, 3), "the view that exists goes on");
    for node in [1, 2] {
        assert_eq!(cluster.core(node).status(cluster.now).view, 0);
        let said = reason(&cluster, node);
        assert!(said.contains("n3 has another configuration"), "{said}");
    }
    // The operator ends it: the others found their view.
    cluster.crash(NodeId(3));
    assert!(!accept(&mut cluster, 1).is_empty());
    accept(&mut cluster, 2);
    cluster.run(3000);
    assert!(quorate(&cluster, 1) && quorate(&cluster, 2));
}

#[test]
fn two_clusters_that_meet_stop_until_an_operator_decides() {
    let mut cluster = with_own_file(3, &[3]);
    cluster.isolate(3);
    start(&mut cluster, &[1, 2, 3]);
    cluster.run(3000);
    assert!((1..=3).all(|node| quorate(&cluster, node)));
    cluster.heal();
    let stopped = |cluster: &Cluster| (1..=3).all(|node| !quorate(cluster, node));
    assert!(cluster.run_until(2000, stopped).is_some());
    cluster.run(20_000);
    assert!(stopped(&cluster), "they do not begin again by themselves");
    let said = reason(&cluster, 2);
    assert!(
        said.contains("n3 has another configuration: node 1 is not in its file"),
        "{said}"
    );
    assert!(said.contains("cman_tool config accept"), "{said}");
    // Cut off again, nobody knows that the other has stopped.
    cluster.isolate(3);
    cluster.run(3000);
    assert!(stopped(&cluster));
    cluster.heal();
    cluster.crash(NodeId(3));
    accept(&mut cluster, 1);
    cluster.run(2000);
    assert!(!quorate(&cluster, 1), "n2 has not been told to go on");
    accept(&mut cluster, 2);
    accept(&mut cluster, 1);
    cluster.run(2000);
    assert!(quorate(&cluster, 1) && quorate(&cluster, 2));
}

#[test]
fn one_member_that_meets_another_cluster_stops_all_of_its_own() {
    let mut cluster = with_own_file(3, &[3]);
    cluster.isolate(3);
    start(&mut cluster, &[1, 2, 3]);
    cluster.run(3000);
    cluster.cut.remove(&(NodeId(1), NodeId(3)));
    cluster.cut.remove(&(NodeId(3), NodeId(1)));
    let stopped = |cluster: &Cluster| (1..=3).all(|node| !quorate(cluster, node));
    assert!(cluster.run_until(2000, stopped).is_some());
    let said = reason(&cluster, 2);
    assert!(
        said.contains("n1 has met a node with another configuration"),
        "{said}"
    );
}

#[test]
fn two_of_five_with_a_file_of_their_own_make_no_second_cluster() {
    for order in [[1, 2, 3, 4, 5], [4, 5, 1, 2, 3], [1, 4, 2, 5, 3]] {
        let mut cluster = with_own_file(5, &[4, 5]);
        for node in order {
            start(&mut cluster, &[node]);
            cluster.run(700);
        }
        cluster.run(5000);
        let one = [1, 2, 3].iter().any(|node| quorate(&cluster, *node));
        let other = [4, 5].iter().any(|node| quorate(&cluster, *node));
        assert!(!(one && other), "{order:?}");
    }
}

#[test]
fn a_node_whose_file_was_changed_founds_nothing_until_that_is_accepted() {
    let mut cluster = with_own_file(3, &[]);
    start(&mut cluster, &[1, 2, 3]);
    cluster.run(3000);
    cluster.crash(NodeId(3));
    cluster.nodes.get_mut(&NodeId(3)).unwrap().file = [NodeId(3)].into();
    cluster.isolate(3);
    start(&mut cluster, &[3]);
    cluster.run(10_000);
    assert!(!quorate(&cluster, 3));
    let said = reason(&cluster, 3);
    assert!(
        said.contains("not the one of the last quorate view"),
        "{said}"
    );
    assert_eq!(accept(&mut cluster, 3), Vec::<String>::new());
    cluster.run(2000);
    assert!(quorate(&cluster, 3));
    // It is the file of a quorate view now, in the next life, too.
    cluster.crash(NodeId(3));
    start(&mut cluster, &[3]);
    cluster.run(2000);
    assert!(quorate(&cluster, 3));
}

#[test]
fn a_changed_file_is_taken_in_by_a_view_that_goes_by_it() {
    let mut cluster = with_own_file(3, &[]);
    start(&mut cluster, &[1, 2, 3]);
    cluster.run(3000);
    for node in 1..=3 {
        cluster.crash(NodeId(node));
    }
    for node in 1..=3 {
        cluster.nodes.get_mut(&NodeId(node)).unwrap().file = [1, 2].map(NodeId).into();
    }
    start(&mut cluster, &[1, 2]);
    cluster.run(3000);
    assert!(!quorate(&cluster, 1));
    accept(&mut cluster, 1);
    cluster.run(3000);
    assert!(!quorate(&cluster, 1), "one of two nodes is no majority");
    accept(&mut cluster, 2);
    cluster.run(3000);
    assert!(quorate(&cluster, 1) && quorate(&cluster, 2));
}

#[test]
fn recordings_of_a_stranger_change_nothing() {
    let mut cluster = with_own_file(3, &[3]);
    cluster.record = true;
    start(&mut cluster, &[1, 2, 3]);
    cluster.run(3000);
    let recorded: Vec<_> = std::mem::take(&mut cluster.recorded);
    cluster.record = false;
    for node in 1..=3 {
        cluster.crash(NodeId(node));
    }
    cluster.nodes.get_mut(&NodeId(3)).unwrap().file = (1..=3).map(NodeId).collect();
    start(&mut cluster, &[1, 2]);
    for _ in 0..40 {
        for (from, to, bytes) in recorded
            .iter()
            .filter(|(from, to, _)| from.0 == 3 && to.0 != 3)
        {
            cluster.inject(*from, *to, bytes.clone());
        }
        cluster.run(100);
    }
    assert!(
        quorate(&cluster, 1) && quorate(&cluster, 2),
        "{}",
        reason(&cluster, 1)
    );
    assert!(cluster.core(1).status(cluster.now).foreign.is_empty());
}

#[test]
fn what_strangers_send_is_opened_a_few_times_a_second_only() {
    let mut cluster = with_own_file(3, &[]);
    start(&mut cluster, &[1, 2, 3]);
    cluster.run(3000);
    let header = |counter| Header {
        from: NodeId(9),
        to: NodeId(1),
        incarnation: crate::Incarnation(1),
        counter,
    };
    let keys = crate::seal::Keys::new("alpha", &[7; 32]);
    let key = keys.key(NodeId(9), crate::Incarnation(1));
    for counter in 1..=1000 {
        let bytes = keys.seal(&key, &header(counter), b"nonsense");
        cluster.receive(NodeId(1), address(NodeId(3)), bytes);
    }
    let status = cluster.core(1).status(cluster.now);
    assert_eq!(status.counters["dropped_unlisted"], 1000 - 64);
    assert_eq!(status.counters["dropped_malformed"], 64);
    assert!(quorate(&cluster, 1));
    let sent = cluster.with(NodeId(1), |core, now, fx| {
        core.send(now, super::cluster::GROUP, &[1], fx)
    });
    assert_ne!(sent, Err(RequestError::Ended));
}

#[test]
fn a_node_that_says_another_thing_each_time_fills_no_log() {
    let mut cluster = with_own_file(3, &[3]);
    start(&mut cluster, &[1, 2, 3]);
    cluster.run(3000);
    let incarnation = cluster.core(3).status(cluster.now).incarnation;
    let keys = crate::seal::Keys::new("alpha", &[7; 32]);
    let key = keys.key(NodeId(3), incarnation);
    let before = cluster.history.logged(1).len();
    for number in 0..200 {
        let summary = crate::wire::FileSummary {
            expected_votes: number,
            detection_ms: 1000,
            nodes: (1..=3).map(|node| (NodeId(node), 1)).collect(),
        };
        let header = Header {
            from: NodeId(3),
            to: NodeId(1),
            incarnation,
            counter: 1_000_000 + u64::from(number),
        };
        let message = crate::wire::Message::File { summary }.encode();
        for body in crate::wire::pieces(1_000_000 + number, &message) {
            cluster.receive(
                NodeId(1),
                address(NodeId(3)),
                keys.seal(&key, &header, &body),
            );
        }
    }
    let foreign = cluster.core(1).status(cluster.now).foreign;
    let last = "n3 has another configuration: expected_votes is 199 in its file, 3 here";
    assert_eq!(foreign, [last]);
    assert!(cluster.history.logged(1).len() <= before + 2);
}
