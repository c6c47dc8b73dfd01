// SPDX-License-Identifier: GPL-2.0-only
//! Every mistake is named with its line.

use super::*;

const GOOD: &str = r#"
[cluster]
name = "alpha"
expected_votes = 3
[[node]]
id = 2
name = "n2"
address = "10.77.1.2"
[[node]]
id = 1
name = "n1"
address = "10.77.1.1"
[[node.fence]]
name = "power"
devices = [ { device = "vm", plug = "n1", delay = 3, verbose = true } ]
[[node]]
id = 3
name = "n3.example"
address = "10.77.1.3"
[[fence_device]]
name = "vm"
agent = "fence_vm"
options = { monitor = "/run/m" }
[fence]
clean_start = true
"#;

fn mistakes(text: &str) -> Vec<String> {
    let found = parse(text).expect_err("a mistake");
    found.iter().map(ToString::to_string).collect()
}

/// The good text with one line (from 1) replaced.
fn with(line: usize, replacement: &str) -> String {
    let mut lines: Vec<&str> = GOOD.lines().collect();
    lines[line - 1] = replacement;
    lines.join("\n")
}

#[test]
fn a_good_file_is_read_with_its_defaults() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.cluster.detection_ms, DETECTION_MS);
    assert_eq!(config.cluster.port, PORT);
    assert_eq!(config.cluster.key_file, Path::new(KEY_FILE));
    assert_eq!(config.quorum(), 2);
    let ids: Vec<u32> = config.nodes.iter().map(|node| node.id).collect();
    assert_eq!(ids, [1, 2, 3]);
    let device = &config.nodes[0].fence[0].devices[0];
    assert_eq!(device.device, "vm");
    assert_eq!(device.options.lines(), "delay=3\nplug=n1\nverbose=1\n");
    let vm = config.fence_device("vm").unwrap();
    assert_eq!(vm.options.open("monitor"), Some("/run/m"));
    assert_eq!((vm.action, vm.monitor_s), (None, 0));
    assert!(!config.has_secrets());
    assert_eq!(config.fence.post_join_delay_ms, POST_JOIN_DELAY_MS);
    assert!(config.fence.clean_start);
}

#[test]
fn a_file_with_many_mistakes_names_each_with_its_line() {
    let text = r#"[cluster]
name = "al pha"
detecton_ms = 500
port = 70000
[[node]]
id = 1
name = "n1"
address = "10.0.0.1"
[[node]]
id = 1
name = "n1"
address = "somewhere"
votes = "two"
[[node.fence]]
name = "power"
devices = [ { device = "vm" } ]
[[fence_device]]
name = "ipmi"
"#;
    assert_eq!(
        mistakes(text),
        [
            "line 2: name \"al pha\" must have 1 to 63 letters, digits, dots, dashes or \
             underscores",
            "line 3: [cluster] has no key \"detecton_ms\"; it knows: detection_ms, \
             expected_votes, key_file, name, port",
            "line 4: port is 70000; it must be 1 to 65535",
            "line 10: node id 1 is used twice",
            "line 11: node name n1 is used twice",
            "line 12: address \"somewhere\" must be the node's own IP address",
            "line 13: votes must be a whole number",
            "line 16: there is no [[fence_device]] called \"vm\"",
            "line 17: [[fence_device]] has no agent (a string)",
        ]
    );
}

#[test]
fn a_line_that_does_not_parse_does_not_hide_the_mistakes_after_it() {
    let text = with(3, "name = = \"alpha\"").replace("id = 3", "id = 2");
    let found = mistakes(&text);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("line 3: "), "{found:?}");
    assert_eq!(found[1], "line 17: node id 2 is used twice");
}

#[test]
fn single_mistakes_are_found_where_they_are() {
    for (line, replacement, expected) in [
        (
            4,
            "expected_votes = 2",
            "two parts of the cluster could both act",
        ),
        (4, "expected_votes = 6", "so 4 votes are needed"),
        (4, "expected_votes = -1", "must be 1 to 64000"),
        (
            4,
            "detection_ms = 100",
            "detection_ms is 100; it must be 200 to 60000",
        ),
        (
            4,
            "detection_ms = 1.5",
            "detection_ms must be a whole number",
        ),
        (4, "key_file = \"cluster.key\"", "absolute path"),
        (6, "id = 0", "id is 0; it must be 1 to 2147483647"),
        (
            8,
            "address = \"10.77.1.1\"",
            "address 10.77.1.1 is used twice",
        ),
        (
            8,
            "address = \"0.0.0.0\"",
            "must be the node's own IP address",
        ),
        (15, "devices = []", "has no devices"),
        (
            15,
            "devices = [ { device = \"vm\", x = [1] } ]",
            "option x must be one line",
        ),
        (
            22,
            "agent = \"sbin/fence_vm\"",
            "program name or an absolute path",
        ),
        (
            15,
            "devices = [ { device = \"vm\", action = \"status\" } ]",
            "action \"status\" does nothing to the node",
        ),
        (
            15,
            "devices = [ { device = \"vm\", action = \"on\" } ]",
            "a method that only switches on fences nobody",
        ),
        (
            23,
            "monitor_s = 1",
            "monitor_s is 1; it must be 10 to 86400",
        ),
        (
            23,
            "options_file = \"pdu\"",
            "options_file must be an absolute path",
        ),
        (
            23,
            "credential = \"../x\"",
            "must be a name as LoadCredential=",
        ),
        (23, "timeout_s = 0", "timeout_s is 0; it must be 1 to 3600"),
        (25, "clean_start = 1", "clean_start must be true or false"),
        (25, "post_fail_delay_ms = -1", "post_fail_delay_ms is -1"),
    ] {
        let found = mistakes(&with(line, replacement)).join("\n");
        assert!(found.contains(expected), "{replacement}: {found}");
        // The first of two equal values comes first in the text.
        let line = match (line, replacement) {
            (8, "address = \"10.77.1.1\"") => 12,
            (15, "devices = []" | "devices = [ { device = \"vm\", action = \"on\" } ]") => 13,
            _ => line,
        };
        assert!(
            found.contains(&format!("line {line}: ")),
            "{replacement}: {found}"
        );
    }
}

#[test]
fn a_cluster_without_votes_or_nodes_is_refused() {
    let text = "[cluster]\nname = \"a\"\n[[node]]\nid = 1\nname = \"n\"\n\
                address = \"::1\"\nvotes = 0\n";
    assert_eq!(
        mistakes(text),
        ["line 1: no node has votes; nobody could ever act"]
    );
    assert_eq!(
        mistakes(""),
        [
            "line 1: there is no section [[node]]",
            "line 1: there is no section [cluster]"
        ]
    );
}

#[test]
fn mixed_address_families_are_refused() {
    let found = mistakes(&with(8, "address = \"fd00::2\"")).join("\n");
    assert!(found.contains("IPv4"), "{found}");
}

#[test]
fn a_node_is_found_by_name_host_or_short_host() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.local_node(Some("n2")).unwrap().id, 2);
    assert_eq!(config.hosted("n1.some.domain").unwrap().id, 1);
    assert_eq!(config.hosted("n3.example").unwrap().id, 3);
    let error = config.hosted("n3").unwrap_err().to_string();
    assert!(error.contains("n1, n2, n3.example"), "{error}");
}

#[test]
fn an_unreadable_file_is_named() {
    let error = load(Path::new("/nonexistent/cluster.toml")).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("reading /nonexistent/cluster.toml: ")
    );
}

#[test]
fn secrets_are_known_by_name_or_by_word_and_shown_nowhere() {
    let by_name = parse(&with(
        15,
        "devices = [ { device = \"vm\", password = \"hunter2\" } ]",
    ));
    let by_name = by_name.unwrap();
    assert!(by_name.has_secrets());
    assert!(!format!("{by_name:?}").contains("hunter2"));
    let by_word = parse(&with(23, "secret = true")).unwrap();
    let vm = by_word.fence_device("vm").unwrap();
    assert_eq!(vm.options.open("monitor"), None);
    let used = &by_word.nodes[0].fence[0].devices[0].options;
    assert_eq!(
        used.open("plug"),
        None,
        "a use of a secret device is secret, too"
    );
}

#[test]
fn a_file_with_secrets_that_everybody_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::temp_dir().join(format!("cluster-toml-{}", std::process::id()));
    let text = with(
        15,
        "devices = [ { device = \"vm\", passwd = \"hunter2\" } ]",
    );
    std::fs::write(&path, text).unwrap();
    let set = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode));
    set(0o644).unwrap();
    let error = load(&path).unwrap_err().to_string();
    assert!(
        error.contains("chmod 0600") && !error.contains("hunter2"),
        "{error}"
    );
    set(0o640).unwrap();
    load(&path).unwrap();
    std::fs::write(&path, GOOD).unwrap();
    set(0o644).unwrap();
    load(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
}
