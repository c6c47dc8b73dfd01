// SPDX-License-Identifier: GPL-2.0-only
//! Turns the domain's state into text for people; knows no socket.

use std::io::Write;

use fenced_client::Device;
use fenced_client::Status;

/// The listing of `fence_tool ls`: label padded to column 15, an empty line at
/// the end; with `nodes`, a block with all nodes follows.
pub(crate) fn ls(out: &mut impl Write, status: &Status, nodes: bool) -> std::io::Result<()> {
    writeln!(out, "fence domain")?;
    writeln!(out, "member count  {}", status.members.len())?;
    writeln!(out, "victim count  {}", status.victim_count)?;
    writeln!(out, "victim now    {}", status.victim_now)?;
    writeln!(out, "master nodeid {}", status.master)?;
    writeln!(out, "wait state    {}", status.wait)?;
    write!(out, "members       ")?;
    for node in &status.members {
        write!(out, "{node} ")?;
    }
    writeln!(out)?;
    if !status.last_failure.is_empty() {
        writeln!(out, "last failure  {}", status.last_failure)?;
    }
    if !status.doing.is_empty() {
        writeln!(out, "doing         {}", status.doing)?;
    }
    for complaint in &status.complaints {
        writeln!(out, "complaint     {complaint}")?;
    }
    for device in status.devices.iter().filter(|device| is_silent(device)) {
        writeln!(out, "silent device {}: {}", device.name, device.failure)?;
    }
    writeln!(out)?;
    if nodes {
        writeln!(out, "all nodes")?;
        for node in &status.nodes {
            let how = node
                .how
                .map_or_else(|| "none".to_owned(), |how| how.to_string());
            write!(
                out,
                "nodeid {} member {} victim {} last fence master {} how {how}",
                node.node,
                u8::from(node.member),
                u8::from(node.victim),
                node.by,
            )?;
            if !node.reason.is_empty() {
                write!(out, " reason {}", node.reason)?;
            }
            if node.cut_off {
                write!(out, " cut off from storage, kept out until unfenced")?;
            }
            writeln!(out)?;
        }
        writeln!(out)?;
        writeln!(out, "all devices")?;
        for device in &status.devices {
            let state = match (device.monitor_s, device.at) {
                (0, _) => "not watched",
                (_, 0) => "not asked yet",
                (..) if device.answers => "answers",
                (..) => "silent",
            };
            writeln!(out, "device {} agent {} {state}", device.name, device.agent)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// Whether a device was asked last in vain.
fn is_silent(device: &Device) -> bool {
    device.at != 0 && !device.answers
}

#[cfg(test)]
mod tests {
    use super::*;
    use cmand_client::NodeId;
    use fenced_client::How;
    use fenced_client::Node;
    use fenced_client::Wait;

    fn node(id: u32, member: bool, victim: bool) -> Node {
        Node {
            node: NodeId(id),
            name: format!("n{id}"),
            member,
            victim,
            reason: String::new(),
            how: None,
            by: 0,
            at: 0,
            cut_off: false,
        }
    }

    fn status() -> Status {
        let mut dead = node(2, false, true);
        dead.reason = "failed".into();
        let mut was = node(3, true, false);
        (was.how, was.by, was.at) = (Some(How::Agent), 1, 1_800_000_000);
        Status {
            members: vec![NodeId(1), NodeId(3)],
            victim_count: 1,
            victim_now: 2,
            master: 1,
            wait: Wait::Fencing,
            view: 4,
            nodes: vec![node(1, true, false), dead, was],
            last_failure: String::new(),
            doing: "n2: method power: device pdu: off".into(),
            devices: vec![device("pdu", 60, true), device("san", 0, false)],
            complaints: Vec::new(),
        }
    }

    fn device(name: &str, monitor_s: u64, answers: bool) -> Device {
        Device {
            name: name.into(),
            agent: format!("fence_{name}"),
            monitor_s,
            at: if monitor_s == 0 { 0 } else { 1_800_000_100 },
            answers,
            failure: String::new(),
        }
    }

    fn rendered(status: &Status, nodes: bool) -> String {
        let mut out = Vec::new();
        ls(&mut out, status, nodes).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_listing_is_as_under_review() {
        assert_eq!(
            rendered(&status(), false),
            include_str!("../fixtures/ls.txt")
        );
        let mut apart = node(4, false, false);
        (apart.how, apart.by, apart.cut_off) = (Some(How::Agent), 1, true);
        let failed = Status {
            last_failure: "n2: device vm: no answer".into(),
            doing: String::new(),
            complaints: vec!["agent fence_san: there is no such program".into()],
            devices: vec![Device {
                failure: "exit status: 1".into(),
                ..device("pdu", 60, false)
            }],
            nodes: status().nodes.into_iter().chain([apart]).collect(),
            ..status()
        };
        assert_eq!(
            rendered(&failed, true),
            include_str!("../fixtures/ls-nodes.txt")
        );
    }

    #[test]
    fn the_json_is_as_under_review() {
        let json = serde_json::to_string_pretty(&status()).unwrap();
        assert_eq!(json.trim(), include_str!("../fixtures/ls.json").trim());
    }
}
