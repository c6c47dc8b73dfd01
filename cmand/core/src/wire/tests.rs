// SPDX-License-Identifier: GPL-2.0-only
//! Golden bytes of every message, and bytes that are none.

use proptest::prelude::*;

use super::*;

fn member(node: u32) -> Member {
    Member {
        node: NodeId(node),
        incarnation: Incarnation(0x0102_0304_0506_0708),
        boot: BootId([0xbb; 16]),
    }
}

fn value() -> Value {
    Value {
        id: ViewId {
            number: 6,
            tag: 0x66,
        },
        base: Some(ViewId {
            number: 5,
            tag: 0x55,
        }),
        flush: 17,
        quorate: true,
        members: vec![(member(1), false), (member(3), true)],
        departed: vec![(member(2), true)],
        groups: crate::groups::Groups::default().encode(),
    }
}

fn ballot() -> Ballot {
    Ballot {
        round: 9,
        proposer: NodeIdOrNone(1),
    }
}

/// One of every kind.
fn messages() -> Vec<Message> {
    let view = ViewId {
        number: 5,
        tag: 0x55,
    };
    let chunk = Chunk {
        more: true,
        bytes: b"abc".to_vec(),
    };
    let entry = Entry {
        sequence: 18,
        sender: NodeId(3),
        number: 4,
        chunk: chunk.clone(),
    };
    vec![
        Message::Heartbeat(Heartbeat {
            boot: BootId([0xbb; 16]),
            config: 0xc0,
            time: 1000,
            echo: (Incarnation(7), 900),
            view: Some(view),
            quorate: true,
            stopped: false,
            founds: true,
            member: false,
            blocked: true,
            joining: false,
            round: 9,
            heard: vec![NodeId(2), NodeId(3)],
            received: 18,
            stable: 17,
        }),
        Message::Propose {
            ballot: ballot(),
            base: None,
            members: vec![member(1)],
        },
        Message::Promise {
            ballot: ballot(),
            base: Some(view),
            received: 18,
            floor: 5,
            pending: Some((Ballot::default(), value())),
        },
        Message::Reject {
            ballot: ballot(),
            promised: Ballot::default(),
        },
        Message::Accept {
            ballot: ballot(),
            value: value(),
        },
        Message::Accepted { ballot: ballot() },
        Message::Commit { id: view },
        Message::Submit {
            view,
            number: 4,
            chunk,
        },
        Message::Order {
            view,
            entry: entry.clone(),
            stable: 17,
        },
        Message::Ack {
            view,
            received: 18,
            highest: 20,
        },
        Message::Stable { view, stable: 17 },
        Message::Fetch {
            view,
            first: 1,
            last: 2,
        },
        Message::Fill { view, entry },
        Message::FetchView { id: view },
        Message::Install { value: value() },
        Message::Refuse {
            incarnation: Incarnation(7),
            text: "no".to_owned(),
        },
        Message::File {
            summary: FileSummary {
                expected_votes: 3,
                detection_ms: 1000,
                nodes: vec![(NodeId(1), 2), (NodeId(4), 1)],
            },
        },
    ]
}

#[test]
fn golden_bytes_of_every_message() {
    let hex =
        |bytes: Vec<u8>| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let lines: Vec<String> = messages()
        .iter()
        .map(|message| hex(message.encode()))
        .collect();
    assert_eq!(lines.join("\n"), include_str!("golden.txt").trim());
}

#[test]
fn messages_come_back_and_their_parts_do_not() {
    for message in messages() {
        let bytes = message.encode();
        assert_eq!(Message::decode(&bytes), Ok(message));
        for length in 0..bytes.len() {
            assert_eq!(Message::decode(&bytes[..length]), Err(Malformed));
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Message::decode(&longer), Err(Malformed));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_malformed(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(message.encode(), bytes);
        }
    }

    #[test]
    fn a_changed_message_is_a_message_or_malformed(
        which in 0_usize..17, at in 0_usize..400, to in any::<u8>(),
    ) {
        let mut bytes = messages()[which].encode();
        let at = at % bytes.len();
        bytes[at] = to;
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(message.encode(), bytes);
        }
    }
}
