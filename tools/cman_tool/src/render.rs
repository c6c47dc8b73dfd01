// SPDX-License-Identifier: GPL-2.0-only
//! Turns what cmand says into text for people; knows no socket.

use std::io::Write;

use cmand_client::Membership;
use cmand_client::Node;
use cmand_client::Status;

/// Width of a time in the listing of nodes, `YYYY-MM-DD HH:MM:SS`.
const TIME_WIDTH: usize = 19;

/// The listing of `cman_tool status`: one field a line.
pub(crate) fn status(out: &mut impl Write, status: &Status) -> std::io::Result<()> {
    let membership = match status.membership {
        Membership::Joining => "Joining",
        Membership::Member => "Cluster-Member",
        Membership::Leaving => "Leaving",
        Membership::Expelled => "Expelled",
    };
    let is_member = if status.membership == Membership::Member {
        "Yes"
    } else {
        "No"
    };
    let blocked = if status.quorate {
        ""
    } else {
        " Activity blocked"
    };
    writeln!(out, "Version: {}", status.version)?;
    writeln!(out, "Cluster Name: {}", status.cluster)?;
    writeln!(out, "Cluster Member: {is_member}")?;
    writeln!(out, "Cluster Generation: {}", status.view)?;
    writeln!(out, "Membership state: {membership}")?;
    writeln!(out, "Nodes: {}", status.members)?;
    writeln!(out, "Expected votes: {}", status.expected_votes)?;
    writeln!(out, "Total votes: {}", status.total_votes)?;
    writeln!(out, "Node votes: {}", status.node_votes)?;
    writeln!(out, "Quorum: {}{blocked}", status.quorum)?;
    if !status.reason.is_empty() {
        writeln!(out, "Blocked because: {}", status.reason)?;
    }
    for foreign in &status.foreign {
        writeln!(out, "Not taken in: {foreign}")?;
    }
    writeln!(out, "Active subsystems: {}", status.clients.len())?;
    writeln!(out, "Groups: {}", status.groups.join(" "))?;
    writeln!(out, "Node name: {}", status.name)?;
    writeln!(out, "Node ID: {}", status.node)?;
    writeln!(out, "Node addresses: {}", status.address)
}

/// What an accepted configuration means.
pub(crate) fn accepted(out: &mut impl Write, beside: &[String]) -> std::io::Result<()> {
    writeln!(
        out,
        "this node may found views with its present configuration"
    )?;
    for foreign in beside {
        writeln!(out, "and acts beside this one: {foreign}")?;
    }
    Ok(())
}

/// The listing of `cman_tool nodes`: a header, then one line per node.
pub(crate) fn nodes(
    out: &mut impl Write,
    nodes: &[Node],
    addresses: bool,
    time: &dyn Fn(u64) -> String,
) -> std::io::Result<()> {
    writeln!(out, "Node  Sts   Inc   Joined               Name")?;
    for node in nodes {
        let state = if node.member { 'M' } else { 'X' };
        let joined = node.joined_at.map(time).unwrap_or_default();
        writeln!(
            out,
            "{:>4}   {state}  {:>5}   {joined:TIME_WIDTH$}  {}",
            node.node.0, node.joined_view, node.name
        )?;
        if addresses {
            writeln!(out, "       Addresses: {} ", node.address)?;
        }
    }
    Ok(())
}

/// Seconds since the epoch as local time.
pub(crate) fn local_time(seconds: u64) -> String {
    // The one thing that needs the system's time zones; `date` knows them.
    let date = std::process::Command::new("date")
        .args(["+%Y-%m-%d %H:%M:%S", "-d", &format!("@{seconds}")])
        .output();
    match date {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        Ok(_) | Err(_) => format!("@{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cmand_client::Incarnation;
    use cmand_client::NodeId;

    fn member() -> Status {
        Status {
            version: "0.1.0".into(),
            cluster: "alpha".into(),
            node: NodeId(1),
            name: "n1".into(),
            address: "192.0.2.11".into(),
            membership: Membership::Member,
            view: 148,
            members: 3,
            expected_votes: 3,
            total_votes: 3,
            node_votes: 1,
            quorum: 2,
            quorate: true,
            reason: String::new(),
            groups: vec!["dlm:controld".into(), "fence:default".into()],
            clients: vec!["fenced".into(), "dlm_controld".into()],
            foreign: Vec::new(),
            longest_pause_ms: 3,
            counters: [("sent".to_owned(), 7)].into(),
        }
    }

    fn alone() -> Status {
        Status {
            total_votes: 1,
            quorate: false,
            reason: "2 of 3 votes needed, 1 heard: n2 silent for 1.2 s, n3 silent for 1.3 s".into(),
            foreign: vec!["n3 has another configuration: node 2 is not in its file".into()],
            ..member()
        }
    }

    fn node(id: u32, joined_view: u64) -> Node {
        let member = joined_view != 0;
        Node {
            node: NodeId(id),
            name: format!("n{id}"),
            address: format!("192.0.2.1{id}"),
            votes: 1,
            member,
            heard: member,
            silent_ms: member.then_some(40),
            longest_silent_ms: if member { 170 } else { 0 },
            incarnation: member.then_some(Incarnation(7)),
            joined_view,
            joined_at: member.then_some(1_800_000_000),
        }
    }

    fn text(render: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
        let mut out = Vec::new();
        render(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn status_is_as_under_review() {
        let got = text(|out| status(out, &member()));
        assert_eq!(got, include_str!("../fixtures/status.txt"));
        let got = text(|out| status(out, &alone()));
        assert_eq!(got, include_str!("../fixtures/status-alone.txt"));
    }

    #[test]
    fn nodes_are_as_under_review() {
        let list = [node(1, 140), node(2, 144), node(3, 0)];
        let time = |_| "2027-01-15 08:00:00".to_owned();
        let got = text(|out| nodes(out, &list, true, &time));
        assert_eq!(got, include_str!("../fixtures/nodes.txt"));
        let short = text(|out| nodes(out, &list, false, &time));
        assert_eq!(short.lines().count(), 4);
    }

    #[test]
    fn json_is_as_under_review() {
        let got = serde_json::to_string_pretty(&alone()).unwrap();
        assert_eq!(
            got,
            include_str!("../fixtures/status-alone.json").trim_end()
        );
        let got = serde_json::to_string_pretty(&[node(1, 140), node(3, 0)]).unwrap();
        assert_eq!(got, include_str!("../fixtures/nodes.json").trim_end());
    }
}
