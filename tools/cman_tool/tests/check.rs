// SPDX-License-Identifier: GPL-2.0-only
//! `config check` on files with and without mistakes, and agents that are scripts.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

const AGENT: &str = r#"#!/bin/sh
test "$*" = "-o metadata" || exit 1
cat <<'END'
<resource-agent name="fence_demo"><parameters>
<parameter name="plug" required="1"/><parameter name="ip" required="1"/>
</parameters><actions><action name="off"/><action name="on"/><action name="reboot"/></actions>
</resource-agent>
END
"#;

/// A directory of its own, with an agent in it.
fn place(name: &str) -> PathBuf {
    let name = format!("cman_tool-check-{}-{name}", std::process::id());
    let dir = std::env::temp_dir().join(name);
    fs::create_dir_all(&dir).unwrap();
    let agent = dir.join("fence_demo");
    fs::write(&agent, AGENT).unwrap();
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn text(dir: &Path) -> String {
    let agent = dir.join("fence_demo");
    format!(
        r#"[cluster]
name = "alpha"

[[node]]
id = 1
name = "n1"
address = "192.0.2.1"
[[node.fence]]
name = "power"
devices = [ {{ device = "pdu", plug = "1" }} ]

[[fence_device]]
name = "pdu"
agent = "{}"
options = {{ ip = "192.0.2.9" }}
"#,
        agent.display()
    )
}

/// Exit status and answer, with the place left out.
fn check(dir: &Path, text: &str, more: &[&str]) -> (i32, String) {
    let file = dir.join("cluster.toml");
    fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_cman_tool"))
        .args(["config", "check"])
        .args(more)
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let said = said.replace(&dir.display().to_string(), "DIR");
    (output.status.code().unwrap(), said)
}

#[test]
fn a_good_file_is_called_good() {
    let dir = place("good");
    let good = "DIR/cluster.toml: good; nodes: 1, fence devices: 1, agents DIR/fence_demo\n";
    let answer = check(&dir, &text(&dir), &["--node", "n1"]);
    assert_eq!(answer, (0, good.to_owned()));
    let (status, json) = check(&dir, &text(&dir), &["--node", "n1", "--json"]);
    assert_eq!(status, 0);
    assert!(json.contains(r#""errors": []"#), "{json}");
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn each_mistake_has_its_line_and_a_remedy() {
    let dir = place("bad");
    let cases = [
        (
            "detection_ms = 5\nname = \"alpha\"",
            "name = \"alpha\"",
            "cluster.toml:2: detection_ms",
        ),
        (
            "{ device = \"pdu\", plugg = \"1\" }",
            "{ device = \"pdu\", plug = \"1\" }",
            "cluster.toml:8: method power: device pdu: the agent does not know the option \
             \"plugg\"; take it out, or correct its name",
        ),
        (
            "options = { }",
            "options = { ip = \"192.0.2.9\" }",
            "cluster.toml:8: method power: device pdu: the agent needs the option \"ip\"; add it",
        ),
        (
            "agent = \"/nonexistent/fence_demo\"",
            &format!("agent = \"{}/fence_demo\"", dir.display()),
            "cluster.toml:12: agent /nonexistent/fence_demo: ",
        ),
        ("name = \"n2\"", "name = \"n1\"", "cluster.toml: "),
    ];
    for (wrong, right, expected) in cases {
        let text = text(&dir);
        assert!(text.contains(right), "{right}");
        let (status, said) = check(&dir, &text.replace(right, wrong), &["--node", "n1"]);
        assert_eq!(status, 1, "{said}");
        assert!(said.contains(expected), "{wrong}: {said}");
        assert_eq!(said.lines().count(), 1, "{wrong}: {said}");
    }
    let gone = check(&dir, "", &["--node", "n1"]);
    assert_eq!(gone.0, 1, "{gone:?}");
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_cman_tool"))
        .args(["config", "check", "/nonexistent/cluster.toml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("/nonexistent/cluster.toml"), "{said}");
}
