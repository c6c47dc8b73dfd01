// SPDX-License-Identifier: GPL-2.0-only
//! Every listing against a file under review; `REWRITE=1` writes them anew.

use super::*;

fn n(nodes: &[u32]) -> Vec<NodeId> {
    nodes.iter().map(|node| NodeId(*node)).collect()
}

fn lockspace_node(node: u32, member: bool) -> LockspaceNode {
    LockspaceNode {
        node: NodeId(node),
        member,
        departure: None,
        start: member,
        added: 1,
        removed: 0,
        check_fence: false,
        failed_at: 0,
    }
}

fn lockspaces() -> Vec<Lockspace> {
    let change = Change {
        first: 4,
        number: 4,
        members: n(&[1, 2, 3]),
        joined: 1,
        removed: 0,
        failed: 0,
    };
    let new_change = Change {
        first: 5,
        number: 6,
        members: n(&[1, 2]),
        joined: 0,
        removed: 1,
        failed: 1,
    };
    let mut dead = lockspace_node(3, false);
    (dead.departure, dead.removed) = (Some(Departure::NodeFailed), 5);
    (dead.check_fence, dead.failed_at) = (true, 88123);
    let web = Lockspace {
        name: "web".into(),
        id: 0x0a81_c2f3,
        flags: CREATED_FS,
        joining: false,
        leaving: false,
        stopped: true,
        recovering: false,
        change: Some(change),
        new_change: Some(new_change),
        wait: Wait::Fencing { nodes: n(&[3]) },
        nodes: vec![lockspace_node(1, true), lockspace_node(2, true), dead],
    };
    let joining = Lockspace {
        name: "new".into(),
        id: 0x77,
        flags: 0,
        joining: true,
        leaving: false,
        stopped: true,
        recovering: false,
        change: None,
        new_change: None,
        wait: Wait::Protocol,
        nodes: vec![],
    };
    vec![web, joining]
}

fn node(node: u32) -> Node {
    Node {
        node: NodeId(node),
        member: true,
        seen: true,
        added: 71,
        removed: 0,
        failed: 0,
        failed_wall: 0,
        fenced: 0,
        fenced_wall: 0,
        fenced_by: 0,
        must_be_fenced: None,
    }
}

fn daemon() -> Status {
    let mut dead = node(3);
    (dead.member, dead.removed, dead.failed) = (false, 88123, 88123);
    (dead.failed_wall, dead.must_be_fenced) = (1_795_167_301, Some(FenceReason::NodeFailed));
    (dead.fenced, dead.fenced_wall, dead.fenced_by) = (60_000, 1_795_100_000, 2);
    let mut unseen = node(4);
    (unseen.member, unseen.seen, unseen.added) = (false, false, 0);
    unseen.must_be_fenced = Some(FenceReason::Startup);
    let mut lost = node(2);
    lost.must_be_fenced = Some(FenceReason::ProcessFailed);
    (lost.failed, lost.failed_wall) = (88130, 1_795_167_308);
    Status {
        version: "0.1.0".into(),
        node: NodeId(1),
        kernel: "netlink".into(),
        protocol: Some(1),
        daemons: n(&[1, 2]),
        view: 5212,
        quorate: true,
        fence_view: 5212,
        fence_master: 1,
        fencing: 3,
        now: 88140,
        now_wall: 1_795_167_310,
        lockspaces: 2,
        nodes: vec![node(1), lost, dead, unseen],
    }
}

fn check(fixture: &str, rendered: &[u8]) {
    let path = format!("{}/fixtures/{fixture}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("REWRITE").is_some() {
        std::fs::write(&path, rendered).unwrap();
    }
    let expected = std::fs::read(&path).unwrap();
    let text = String::from_utf8_lossy(rendered);
    assert_eq!(text, String::from_utf8_lossy(&expected), "{fixture}");
}

fn text(render: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Vec<u8> {
    let mut out = Vec::new();
    render(&mut out).unwrap();
    out
}

#[test]
fn lockspaces_are_shown_as_under_review() {
    check("ls.txt", &text(|out| ls(out, &lockspaces(), false)));
    check("ls-nodes.txt", &text(|out| ls(out, &lockspaces(), true)));
    assert!(text(|out| ls(out, &[], true)).is_empty());
}

#[test]
fn the_daemon_is_shown_as_under_review() {
    check("status.txt", &text(|out| status(out, &daemon())));
}

#[test]
fn locks_are_shown_as_under_review() {
    let all = crate::locks::parse(include_bytes!("../../fixtures/web_locks")).unwrap();
    check("lockdump.txt", &text(|out| lockdump(out, &all)));
    check("lockdump.json", &serde_json::to_vec_pretty(&all).unwrap());
}

#[test]
fn json_is_as_under_review() {
    check(
        "ls.json",
        &serde_json::to_vec_pretty(&lockspaces()).unwrap(),
    );
    check(
        "status.json",
        &serde_json::to_vec_pretty(&daemon()).unwrap(),
    );
}

#[test]
fn what_a_join_does_is_said_before() {
    let line = |flags| String::from_utf8(text(|out| joining(out, "web", 0o600, flags))).unwrap();
    assert_eq!(line(0), "Joining lockspace \"web\" permission 600\n");
    let flags = control::NEW_EXCLUSIVE | control::FS;
    assert_eq!(
        line(flags),
        "Joining lockspace \"web\" permission 600 flags NEWEXCL FS \n"
    );
}

#[test]
fn every_wait_has_its_words() {
    let cases = [
        (Wait::Messages { nodes: n(&[1, 2]) }, "wait messages 2"),
        (Wait::View, "wait ringid"),
        (Wait::Quorum, "wait quorum"),
        (Wait::Fencing { nodes: n(&[]) }, "wait fencing"),
        (Wait::Halted, "wait halted"),
    ];
    for (reason, words) in cases {
        assert_eq!(wait(&reason).as_deref(), Some(words));
    }
    assert_eq!(wait(&Wait::None), None);
}
