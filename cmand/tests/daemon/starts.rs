// SPDX-License-Identifier: GPL-2.0-only
//! Starts that fail, each with its exit status and a reason.

use std::os::unix::fs::PermissionsExt;

use cluster_rt::exit;

use super::cluster::Place;

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
fn a_node_that_is_not_configured_or_not_here_is_refused() {
    let place = Place::new();
    let log = fails(&place, "n9", "n9", &place.three_config(), exit::CONFIG);
    assert!(log.contains("(there are: n1, n2, n3)"), "{log}");
    // An address for documentation: no machine has it.
    let away = place.address(1).to_string();
    let config = place.three_config().replace(&away, "192.0.2.1");
    let log = fails(&place, "n1", "n1", &config, exit::CONFIG);
    assert!(
        log.contains("192.0.2.1 of node n1 is not on this machine"),
        "{log}"
    );
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
