// SPDX-License-Identifier: GPL-2.0-only
//! The agent as a caller sees it: options on standard input, exit status,
//! against a power switch on a unix socket that answers as each case says.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;

use quick_xml::events::Event;
use serde_json::Value;
use serde_json::json;

/// A switch that answers each request with what `answer` makes of it.
fn switch(
    name: &str,
    answer: impl Fn(&Value) -> Vec<Value> + Send + 'static,
) -> (PathBuf, Receiver<Value>) {
    let path = std::env::temp_dir().join(format!("fence_vm-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let (seen, requests) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap()).lines();
        for line in lines.map_while(Result::ok).filter(|line| !line.is_empty()) {
            let request: Value = serde_json::from_str(&line).unwrap();
            for reply in answer(&request) {
                writeln!(stream, "{reply}").unwrap();
            }
            seen.send(request).unwrap();
        }
    });
    (path, requests)
}

fn agent(input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fence_vm"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_confirmed_reset_is_success_and_stale_lines_are_skipped() {
    let (path, requests) = switch("reboot", |request| {
        let stale = json!({"id": 0, "ok": false, "error": "for another agent"});
        vec![
            json!("tail of a line"),
            stale,
            json!({"id": request["id"], "ok": true}),
        ]
    });
    let output = agent(&format!("plug=n2\nmonitor={}\n", path.display()));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let request = requests.recv().unwrap();
    assert_eq!(
        (&request["action"], &request["plug"]),
        (&json!("reboot"), &json!("n2"))
    );
}

#[test]
fn a_refusal_is_a_failure_that_says_why() {
    let (path, _requests) = switch("refuse", |request| {
        vec![json!({"id": request["id"], "ok": false, "error": "no such machine"})]
    });
    let output = agent(&format!(
        "plug=n9\naction=reboot\nmonitor={}\n",
        path.display()
    ));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "fence_vm: reboot n9: no such machine\n");
}

#[test]
fn silence_is_a_failure() {
    let (path, _requests) = switch("silent", |_| Vec::new());
    let output = agent(&format!(
        "plug=n2\npower_timeout=1\nmonitor={}\n",
        path.display()
    ));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no answer from the power switch in 1 s"));
}

#[test]
fn a_machine_that_is_still_on_after_off_is_a_failure() {
    let (path, _requests) = switch("off", |request| {
        vec![json!({"id": request["id"], "ok": true, "state": "on"})]
    });
    let output = agent(&format!(
        "plug=n2\naction=off\nmonitor={}\n",
        path.display()
    ));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("n2 was switched off and is not off"));
}

#[test]
fn status_tells_off_by_its_exit_status() {
    for (state, code) in [("on", 0), ("off", 2), ("unknown", 1)] {
        let (path, _requests) = switch(state, move |request| {
            vec![json!({"id": request["id"], "ok": true, "state": state})]
        });
        let output = agent(&format!(
            "plug=n2\naction=status\nmonitor={}\n",
            path.display()
        ));
        assert_eq!(output.status.code(), Some(code), "{state}");
    }
}

#[test]
fn list_prints_a_line_for_each_machine() {
    let (path, _requests) = switch("list", |request| {
        vec![json!({"id": request["id"], "ok": true, "plugs": ["n1", "n2"]})]
    });
    let output = agent(&format!("action=list\nmonitor={}\n", path.display()));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "n1,\nn2,\n");
}

#[test]
fn a_missing_switch_is_a_failure_that_names_it() {
    let output = agent("plug=n2\nmonitor=/nonexistent/switch\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("opening the power switch /nonexistent/switch"));
}

#[test]
fn the_metadata_is_xml_and_names_every_action() {
    let output = agent("action=metadata\n");
    assert_eq!(output.status.code(), Some(0));
    let xml = String::from_utf8(output.stdout).unwrap();
    let mut reader = quick_xml::Reader::from_str(&xml);
    let mut actions = Vec::new();
    let mut event = reader.read_event().unwrap();
    while event != Event::Eof {
        if let Event::Empty(tag) = &event
            && tag.name().as_ref() == "action"
        {
            let name = tag.try_get_attribute("name").unwrap().unwrap();
            actions.push(name.value.into_owned());
        }
        event = reader.read_event().unwrap();
    }
    let expected = [
        "on",
        "off",
        "reboot",
        "status",
        "monitor",
        "list",
        "metadata",
        "validate-all",
    ];
    assert_eq!(actions, expected);
}
