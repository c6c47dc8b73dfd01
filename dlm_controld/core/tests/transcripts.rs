// SPDX-License-Identifier: GPL-2.0-only
//! Scenarios as text: what one daemon is told, and what it then wants done.
//! `REWRITE=1` writes the effects anew; the diff is what a reviewer reads.
//!
//! A line of a transcript is an input; lines that begin with `>` are its effects.
//! `#` begins a comment. Node 1 is the one that is watched.

use std::fmt::Write;
use std::path::Path;

use dlm_controld_core::BootId;
use dlm_controld_core::Config;
use dlm_controld_core::Controld;
use dlm_controld_core::Departure;
use dlm_controld_core::Effect;
use dlm_controld_core::FenceState;
use dlm_controld_core::GroupView;
use dlm_controld_core::Incarnation;
use dlm_controld_core::Instant;
use dlm_controld_core::Member;
use dlm_controld_core::NodeId;
use dlm_controld_core::Notice;
use dlm_controld_core::View;
use dlm_controld_core::wire::Message;
use dlm_controld_core::wire::PROTOCOL_RANGE;

/// `1,2` as nodes; `-` as none.
fn nodes(text: &str) -> Vec<NodeId> {
    let numbers = text.split(',').filter(|word| *word != "-");
    numbers
        .map(|word| NodeId(word.parse().expect("a node id")))
        .collect()
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

/// `2=failed,3=left` as departures.
fn departures(text: &str) -> Vec<(NodeId, Departure)> {
    let one = |word: &str| {
        let (node, why) = word.split_once('=').expect("NODE=WHY");
        let why = match why {
            "left" => Departure::Left,
            "failed" => Departure::NodeFailed,
            "daemon" => Departure::ProcessFailed,
            other => panic!("departure {other:?}"),
        };
        (NodeId(node.parse().expect("a node id")), why)
    };
    text.split(',')
        .filter(|word| *word != "-")
        .map(one)
        .collect()
}

fn message(words: &[&str]) -> Message {
    match words {
        ["protocol", holds] => Message::Protocol {
            range: PROTOCOL_RANGE,
            running: None,
            holds: *holds == "holds",
            unfenced: Default::default(),
        },
        ["holds", holds] => Message::Holds {
            holds: *holds == "yes",
        },
        ["start", change] => Message::Start {
            change: number(change),
            fresh: false,
        },
        ["start", change, "fresh"] => Message::Start {
            change: number(change),
            fresh: true,
        },
        ["leaving"] => Message::Leaving,
        other => panic!("message {other:?}"),
    }
}

struct Player {
    core: Controld,
    now: Instant,
}

impl Player {
    fn new() -> Self {
        let config = Config {
            node: NodeId(1),
            protocol: PROTOCOL_RANGE,
        };
        Self {
            core: Controld::new(config),
            now: Instant(0),
        }
    }

    fn play(&mut self, line: &str) -> Vec<Effect> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let now = self.now;
        let core = &mut self.core;
        let mut fx = Vec::new();
        match words[..] {
            ["begin"] => core.handle_begin(&mut fx),
            ["view", n, list] => {
                let member = |node: NodeId| Member {
                    node,
                    incarnation: Incarnation(1),
                    // Every node in a boot of its own.
                    boot: BootId(u128::from(node.0).to_be_bytes()),
                };
                let members = nodes(list).into_iter().map(member).collect();
                core.handle_view(
                    now,
                    View {
                        number: number(n),
                        tag: 0,
                        members,
                        joined: vec![],
                        departed: vec![],
                        quorate: true,
                    },
                    &mut fx,
                );
            }
            ["quorum", yes] => core.handle_quorum(now, yes == "yes", &mut fx),
            ["fence", view, victims] => {
                let victims = nodes(victims).into_iter().collect();
                core.handle_fence(
                    now,
                    FenceState {
                        view: number(view),
                        victims,
                    },
                    &mut fx,
                );
            }
            [
                "group",
                name,
                n,
                "view",
                view,
                "members",
                list,
                "joined",
                new,
                "gone",
                gone,
                ref rest @ ..,
            ] => {
                let lost = match *rest {
                    [] => Vec::new(),
                    ["lost", lost] => nodes(lost),
                    _ => panic!("after `gone` comes `lost` or nothing: {rest:?}"),
                };
                let group = GroupView {
                    group: name.into(),
                    number: number(n),
                    view: number(view),
                    members: nodes(list),
                    joined: nodes(new),
                    departed: departures(gone),
                    lost,
                };
                core.handle_group(now, &group, &mut fx);
            }
            ["message", group, from, ref rest @ ..] => {
                let from = NodeId(from.parse().expect("a node id"));
                core.handle_message(now, group, from, &message(rest).encode(), &mut fx);
            }
            ["join", name] => core.handle_join(now, name, 0, &mut fx),
            ["leave", name] => core.handle_leave(now, name, false, &mut fx),
            ["leave", name, "recover"] => core.handle_leave(now, name, true, &mut fx),
            ["stopped", name] => core.handle_stopped(now, name, &mut fx),
            ["started", name] => core.handle_started(now, name, &mut fx),
            ["start-failed", name, errno] => {
                let errno = i32::try_from(number(errno)).expect("an errno");
                core.handle_start_failed(now, name, -errno, &mut fx);
            }
            ["recovered", name] => core.handle_recovered(name),
            ["abandoned", name] => core.handle_abandoned(now, name, &mut fx),
            ["join-refused", name] => core.handle_join_refused(now, name, &mut fx),
            ["halt"] => core.halt(&mut fx),
            ["after", ms] => {
                self.now = now.after(number(ms));
                core.handle_timeout(self.now, &mut fx);
            }
            ref other => panic!("input {other:?}"),
        }
        fx
    }
}

fn list(nodes: &[NodeId]) -> String {
    let words: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    if words.is_empty() {
        "-".into()
    } else {
        words.join(",")
    }
}

fn show(effect: &Effect) -> String {
    match effect {
        Effect::GroupJoin { group } => format!("join group {group}"),
        Effect::GroupLeave { group } => format!("leave group {group}"),
        Effect::Send { group, message } => {
            format!(
                "send to {group}: {}",
                String::from_utf8_lossy(&message.encode())
            )
        }
        Effect::Stop { lockspace } => format!("KERNEL stop {lockspace}"),
        Effect::Start(start) => format!(
            "KERNEL start {} change {} members {} failed {} released {} renewed {}",
            start.lockspace,
            start.change,
            list(&start.members),
            list(&start.failed),
            list(&start.released),
            list(&start.renewed),
        ),
        Effect::Answer { lockspace, result } => format!("KERNEL answer {lockspace} {result}"),
        Effect::Forget { lockspace } => format!("KERNEL forget {lockspace}"),
        Effect::Fence { node, reason, .. } => format!("FENCE {node}: {reason}"),
        Effect::Notice(Notice::Waiting { lockspace, wait }) => {
            format!("{lockspace} waits: {wait:?}")
        }
        Effect::Notice(Notice::Changing { .. }) => "(changing)".into(),
        Effect::Notice(notice) => format!("notice {notice:?}"),
    }
}

/// The transcript with the effects that the core has now.
fn replay(text: &str) -> String {
    let mut player = Player::new();
    let mut out = String::new();
    for line in text.lines().filter(|line| !line.starts_with('>')) {
        writeln!(out, "{line}").expect("memory");
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        for effect in player
            .play(line)
            .iter()
            .map(show)
            .filter(|line| line != "(changing)")
        {
            writeln!(out, "> {effect}").expect("memory");
        }
    }
    out
}

#[test]
fn every_transcript_is_played_as_written() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 8, "transcripts are missing");
    for path in paths {
        let written = std::fs::read_to_string(&path).unwrap();
        let played = replay(&written);
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(&path, &played).unwrap();
            continue;
        }
        assert_eq!(played, written, "{}", path.display());
    }
}
