// SPDX-License-Identifier: GPL-2.0-only
//! Starts that fail, each with its exit status and a reason.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use cluster_rt::exit;
use cmand_client::Event;
use cmand_client::Membership;
use cmand_client::Request;
use nix::sys::signal::Signal;

use super::cluster::CMAND;
use super::cluster::Place;
use super::cluster::wait_for;
use super::groups::Client;

fn fails(place: &Place, label: &str, node: &str, config: &str, status: u8) -> String {
    let mut daemon = place.start(label, node, config);
    let (ended, log) = daemon.wait();
    assert_eq!(ended.code(), Some(i32::from(status)), "{log}");
    log
}

#[test]
fn a_configuration_with_three_mistakes_names_all_three() {
    let place = Place::new();
    let config = place
        .three_config()
        .replace("port = 15405", "port = 0")
        .replace("id = 3", "id = 2")
        .replace("detection_ms", "detection");
    let log = fails(&place, "n1", "n1", &config, exit::CONFIG);
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(": line "))
        .collect();
    assert_eq!(lines.len(), 3, "{log}");
    for words in [
        "line 4: port is 0",
        "line 5: [cluster] has no key \"detection\"",
        "twice",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let place = Place::new();
    let key = place.file("key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let log = fails(&place, "n1", "n1", &place.three_config(), exit::CONFIG);
    assert!(log.contains("chmod 0600"), "{log}");
    std::fs::remove_file(&key).unwrap();
    let log = fails(&place, "n2", "n2", &place.three_config(), exit::CONFIG);
    assert!(log.contains("cman_tool keygen"), "{log}");
}

#[test]
fn a_node_that_is_not_configured_is_refused() {
    let place = Place::new();
    let log = fails(&place, "n9", "n9", &place.three_config(), exit::CONFIG);
    assert!(log.contains("(there are: n1, n2, n3)"), "{log}");
}

/// An address for documentation: no machine has it.
const AWAY: &str = "192.0.2.1";

/// A configuration of one node, so that it could act as soon as it runs, with that address.
fn away(place: &Place) -> String {
    let config = place.config("alpha", "key", &[(1, 1)]);
    config.replace(&place.address(1).to_string(), AWAY)
}

/// The beginning of a daemon in a network of its own, which ends with it.
fn in_a_network() -> Command {
    let mut command = Command::new("unshare");
    // A user's own namespace lets them make the network. Without any address every one is free.
    let script = "ip link set lo up && exec \"$@\"";
    command.args(["--map-root-user", "--net", "sh", "-c", script, "sh", CMAND]);
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

#[test]
fn an_address_that_is_not_there_yet_is_waited_for() {
    let place = Place::new();
    let config = away(&place);
    let mut n1 = place.start_with("n1", "n1", &config, in_a_network());
    let status = n1.status();
    assert_eq!(status.membership, Membership::Joining);
    assert!(!status.quorate && status.members == 0, "{status:?}");
    let sentence = "address 192.0.2.1 is not on any interface yet; waiting";
    assert!(status.reason.starts_with(sentence), "{}", status.reason);
    let mut client = Client::subscribe(&n1, "locks");
    client.ask(&Request::Nodes).unwrap();
    let group = "g".to_owned();
    client.tell(&Request::GroupJoin { group });
    assert_eq!(n1.log().matches(sentence).count(), 1, "{}", n1.log());

    let mut ip = Command::new("nsenter");
    ip.args(["--preserve-credentials", "--user", "--net", "--target"]);
    ip.arg(n1.id().to_string());
    run(ip.args(["ip", "address", "add", &format!("{AWAY}/32"), "dev", "lo"]));
    n1.wait_for_members(1);
    client.until("the group", |event| matches!(event, Event::Group(_)));
    assert_eq!(n1.log().matches(sentence).count(), 1, "{}", n1.log());
    drop(client);
    wait_for("the end of the group", || {
        n1.status().groups.is_empty().then_some(())
    });
    n1.signal(Signal::SIGTERM);
    assert_eq!(n1.wait().0.code(), Some(0));
}

#[test]
fn a_daemon_that_waits_for_its_address_ends_when_told() {
    let place = Place::new();
    let mut n1 = place.start("n1", "n1", &away(&place));
    n1.status();
    n1.signal(Signal::SIGTERM);
    let (status, log) = n1.wait();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn a_second_instance_is_refused() {
    let place = Place::new();
    let config = place.three_config();
    let first = place.start("n1", "n1", &config);
    first.status();
    let log = fails(&place, "again", "n1", &config, exit::RUNNING);
    assert!(log.contains("is in use"), "{log}");
}
