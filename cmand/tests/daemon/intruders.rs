// SPDX-License-Identifier: GPL-2.0-only
//! Wrong keys, foreign clusters, twins, garbage and recordings.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::Mutex;

use cluster_rt::exit;
use cmand_client::Membership;
use cmand_client::Reply;
use cmand_client::Request;

use super::cluster::Daemon;
use super::cluster::LIMIT;
use super::cluster::PORT;
use super::cluster::Place;
use super::cluster::wait_for;
use super::groups::Client;

fn two(place: &Place) -> [Daemon; 2] {
    let config = place.three_config();
    let daemons = [1, 2].map(|id| {
        let name = format!("n{id}");
        place.start(&name, &name, &config)
    });
    for daemon in &daemons {
        daemon.wait_for_members(2);
    }
    daemons
}

#[test]
fn a_node_with_a_wrong_key_or_of_another_cluster_stays_out() {
    for (cluster, key, counter) in [
        ("alpha", "other-key", "dropped_unauthenticated"),
        ("beta", "key", "dropped_foreign_cluster"),
    ] {
        let place = Place::new();
        place.write_key("other-key", &[8; 32]);
        let [n1, n2] = two(&place);
        let view = n1.status().view;
        let config = place.config(cluster, key, &[(1, 1), (2, 2), (3, 3)]);
        let n3 = place.start("n3", "n3", &config);
        wait_for("drops at both ends", || {
            (n1.counter(counter) > 10 && n3.counter(counter) > 10).then_some(())
        });
        assert_eq!(n3.status().membership, Membership::Joining);
        assert_eq!((n1.status().view, n2.status().members), (view, 2));
        assert!(n1.log().contains(&format!("counter={counter}")));
    }
}

#[test]
fn a_node_with_a_file_of_its_own_founds_nothing_until_an_operator_says_so() {
    let place = Place::new();
    let [n1, n2] = two(&place);
    let config = place.config("alpha", "key", &[(3, 3)]);
    let n3 = place.start("n3", "n3", &config);
    let differs = "n3 has another configuration: node 1 is not in its file";
    wait_for("n1 to know how the files differ", || {
        n1.status()
            .foreign
            .iter()
            .any(|said| said == differs)
            .then_some(())
    });
    wait_for("n3 to know, too", || {
        let said = n3.status().reason;
        let differs = format!("node 1 at {} is of this cluster", place.address(1));
        said.contains(&differs).then_some(())
    });
    assert_eq!(n3.status().membership, Membership::Joining);
    assert!(n1.status().quorate && n2.status().quorate);
    let accepted = cmand_client::call(&n3.socket, &Request::AcceptConfig).unwrap();
    assert!(
        matches!(&accepted, Reply::Accepted(beside) if beside.len() == 2),
        "{accepted:?}"
    );
    // It acts now, and the others cannot know which side is to go on.
    let stopped = |daemon: &super::cluster::Daemon| {
        let status = daemon.status();
        (!status.quorate && status.reason.contains("config accept")).then_some(())
    };
    wait_for("n1 to stop", || stopped(&n1));
    wait_for("n2 to stop", || stopped(&n2));
}

#[test]
fn a_second_node_with_a_used_id_ends_with_a_clear_error() {
    let place = Place::new();
    let [n1, n2, _n3] = place.three();
    let view = n1.status().view;
    // The same id from another address.
    let config = place.config("alpha", "key", &[(1, 1), (2, 22), (3, 3)]);
    let mut twin = place.start("twin", "n2", &config);
    let (status, log) = twin.wait();
    assert_eq!(status.code(), Some(i32::from(exit::REFUSED)), "{log}");
    let address = place.address(2);
    assert!(
        log.contains(&format!("node id 2 is in use by {address}")),
        "{log}"
    );
    assert!(n1.log().contains("refused a node: node id 2"));
    assert_eq!((n1.status().view, n2.status().view), (view, view));
}

#[test]
fn garbage_datagrams_are_counted_and_change_nothing() {
    let place = Place::new();
    let [n1, _n2] = two(&place);
    let view = n1.status().view;
    let target = SocketAddr::new(place.address(1), PORT);
    let socket = UdpSocket::bind(SocketAddr::new(place.address(9), 0)).unwrap();
    for length in [0_usize, 1, 31, 32, 47, 48, 600, 1400, 1401, 9000] {
        socket.send_to(&vec![0x5a; length], target).unwrap();
        let mut head = b"CMN\x01".to_vec();
        head.resize(length.max(4), 0);
        socket.send_to(&head, target).unwrap();
    }
    wait_for("every one counted", || {
        let counted = ["length", "version", "foreign_cluster"];
        let counted = counted.map(|name| n1.counter(&format!("dropped_{name}")));
        (counted.iter().sum::<u64>() == 20).then_some(())
    });
    assert_eq!((n1.status().view, n1.status().members), (view, 2));
}

/// Passes datagrams between two nodes, each of which takes it for the other, and
/// keeps those to the second.
struct Relay {
    recorded: Arc<Mutex<Vec<Vec<u8>>>>,
    towards_second: UdpSocket,
    second: SocketAddr,
}

impl Relay {
    fn new(place: &Place) -> Self {
        let at = |host| SocketAddr::new(place.address(host), PORT);
        // Node 1 knows node 2 as host 12; node 2 knows node 1 as host 11.
        let as_second = UdpSocket::bind(at(12)).unwrap();
        let as_first = UdpSocket::bind(at(11)).unwrap();
        let recorded = Arc::new(Mutex::new(Vec::new()));
        let relay = Self {
            recorded: recorded.clone(),
            towards_second: as_first.try_clone().unwrap(),
            second: at(2),
        };
        let (from, to) = (
            as_second.try_clone().unwrap(),
            as_first.try_clone().unwrap(),
        );
        let (first, second) = (at(1), at(2));
        std::thread::spawn(move || pass(&from, &to, second, Some(&recorded)));
        std::thread::spawn(move || pass(&as_first, &as_second, first, None));
        relay
    }
}

fn pass(from: &UdpSocket, to: &UdpSocket, target: SocketAddr, keep: Option<&Mutex<Vec<Vec<u8>>>>) {
    from.set_read_timeout(Some(LIMIT)).unwrap();
    let mut buffer = [0; 2048];
    loop {
        match from.recv(&mut buffer) {
            Ok(length) => {
                let datagram = buffer[..length].to_vec();
                if let Some(keep) = keep {
                    keep.lock().unwrap().push(datagram.clone());
                }
                let _ = to.send_to(&datagram, target);
            }
            // A daemon that has ended answers with errors until the test ends.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(_) => return,
        }
    }
}

#[test]
fn recorded_datagrams_change_nothing_in_this_life_or_the_next() {
    let place = Place::new();
    let relay = Relay::new(&place);
    let first = place.config("alpha", "key", &[(1, 1), (2, 12)]);
    let second = place.config("alpha", "key", &[(1, 11), (2, 2)]);
    let n1 = place.start("n1", "n1", &first);
    let mut n2 = place.start("n2", "n2", &second);
    let view = n2.wait_for_members(2).view;
    // What came before node 2 listened it never had: only what comes from now on are replays.
    relay.recorded.lock().unwrap().clear();
    let recorded = wait_for("some datagrams", || {
        let recorded = relay.recorded.lock().unwrap();
        (recorded.len() > 3).then(|| recorded.clone())
    });
    for datagram in &recorded {
        relay
            .towards_second
            .send_to(datagram, relay.second)
            .unwrap();
    }
    let count = recorded.len() as u64;
    wait_for("replays counted", || {
        (n2.counter("dropped_replayed") >= count).then_some(())
    });
    assert_eq!((n2.status().view, n1.status().view), (view, view));
    // Node 1 is gone for good; node 2 starts again and hears recordings only.
    drop(n1);
    n2.signal(nix::sys::signal::Signal::SIGKILL);
    n2.wait();
    n2 = place.start("n2", "n2", &second);
    n2.status();
    for datagram in &recorded {
        relay
            .towards_second
            .send_to(datagram, relay.second)
            .unwrap();
    }
    wait_for("recordings taken for recordings", || {
        (n2.status()
            .counters
            .get("heartbeats_unproven")
            .is_some_and(|count| *count > 0))
        .then_some(())
    });
    let status = n2.status();
    assert_eq!((status.view, status.total_votes), (0, 1), "nobody's votes");
}

#[test]
fn clients_that_send_garbage_or_hang_disturb_nobody() {
    let place = Place::new();
    let [n1, _n2] = two(&place);
    let mut hangs = UnixStream::connect(&n1.socket).unwrap();
    hangs.write_all(b"\x40\0\0\0{\"id\":1,").unwrap();
    for garbage in [
        &b"\xff\xff\xff\xff"[..],
        b"\x04\0\0\0\xff\xfe\xfd\xfc",
        b"\x02\0\0\0{}",
    ] {
        let mut client = UnixStream::connect(&n1.socket).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client.write_all(garbage).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("\"kind\":\"invalid\""), "{answer}");
    }
    assert!(n1.status().quorate);
    hangs.set_read_timeout(Some(LIMIT)).unwrap();
    let mut answer = Vec::new();
    hangs.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("middle of a frame"), "{answer}");
    assert!(n1.status().quorate);
}

#[test]
fn a_member_that_never_reads_does_not_slow_the_others() {
    let place = Place::new();
    let [n1, n2] = two(&place);
    let mut lazy = Client::subscribe(&n1, "lazy");
    lazy.join("g");
    let mut busy = Client::subscribe(&n2, "busy");
    busy.join("g");
    // More than the socket to the lazy one holds.
    let payload = vec![0x55; cmand_client::PAYLOAD_LIMIT];
    for _ in 0..40 {
        busy.send("g", &payload);
    }
    assert_eq!(busy.messages(40).len(), 40);
    assert_eq!(n1.status().clients, ["lazy"]);
    // And nothing is lost for who reads late.
    assert_eq!(lazy.messages(40).len(), 40);
}
