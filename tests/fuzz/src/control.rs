// SPDX-License-Identifier: GPL-2.0-only
//! JSON from control sockets, and what daemons say in their groups.
//!
//! The bytes choose from the words that the protocols know, so that inputs are JSON of the right
//! form more often than not; a first byte of 255 gives the rest as it is.

use crate::input::Input;

/// What is known: verbs, keys, and values that have been trouble elsewhere.
const WORDS: [&str; 48] = [
    "status",
    "nodes",
    "dump",
    "subscribe",
    "group_join",
    "group_leave",
    "group_send",
    "probe",
    "accept_config",
    "leave",
    "join",
    "ls",
    "fence",
    "ack",
    "history",
    "lockspaces",
    "client",
    "group",
    "payload",
    "node",
    "boot_id",
    "force",
    "name",
    "reason",
    "view",
    "victims",
    "number",
    "members",
    "type",
    "version",
    "kind",
    "start",
    "stop",
    "agree",
    "ready",
    "id",
    "state",
    "done",
    "accuse",
    "acknowledge",
    "snapshot",
    "record",
    "victim",
    "how",
    "incarnation",
    "lockspace",
    "wait",
    "request",
];

const DEPTH: u32 = 5;

fn value(input: &mut Input<'_>, depth: u32) -> serde_json::Value {
    use serde_json::Value;
    match input.byte().unwrap_or(0) % 12 {
        0 => Value::Null,
        1 => Value::Bool(true),
        2 => Value::from(input.long()),
        3 => Value::from(-i64::from(input.long())),
        4 => Value::from(u64::MAX),
        5 => Value::from(String::from_utf8_lossy(input.bytes()).into_owned()),
        6 => Value::from("QUJD"),
        7 if depth > 0 => {
            let count = input.small(4);
            (0..count).map(|_| value(input, depth - 1)).collect()
        }
        8..=10 if depth > 0 => {
            let count = input.small(5);
            let pair = |_| (word(input).to_owned(), value(input, depth - 1));
            Value::Object((0..count).map(pair).collect())
        }
        _ => Value::from(word(input)),
    }
}

fn word(input: &mut Input<'_>) -> &'static str {
    WORDS[usize::from(input.small(WORDS.len() as u8))]
}

/// One message.
///
/// # Panics
/// A fault was found.
pub fn run(data: &[u8]) {
    let text = if data.first() == Some(&255) {
        data[1..].to_vec()
    } else {
        value(&mut Input(data), DEPTH).to_string().into_bytes()
    };
    look(&text);
}

fn look(text: &[u8]) {
    let cmand = serde_json::from_slice::<cmand_client::Request>(text);
    if let Ok(request) = &cmand {
        let again = serde_json::to_vec(request).expect("a request can be written");
        let read: cmand_client::Request = serde_json::from_slice(&again).expect("and read");
        assert_eq!(serde_json::to_vec(&read).expect("and written"), again);
    }
    let _ = serde_json::from_slice::<cmand_client::Event>(text);
    let _ = serde_json::from_slice::<fenced_client::Request>(text);
    let _ = serde_json::from_slice::<dlm_controld_client::Request>(text);
    let fenced = fenced_core::wire::Message::decode(text);
    if let Ok(message) = &fenced {
        let again = message.encode().expect("what was read can be said");
        assert_eq!(
            fenced_core::wire::Message::decode(&again).ok().as_ref(),
            Some(message)
        );
    }
    let controld = dlm_controld_core::wire::Message::decode(text);
    if let Ok(message) = &controld {
        let again = dlm_controld_core::wire::Message::decode(&message.encode());
        assert_eq!(again.ok().as_ref(), Some(message));
    }
    if let Ok(cmand_client::Request::GroupJoin { group }) = cmand {
        assert!(
            !crate::is_planted() || group == "fence:default",
            "planted: another group"
        );
    }
}

/// Messages as they are.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"group_join":{"group":"fence:default"}}"#,
        r#"{"probe":{"node":2,"boot_id":null}}"#,
        r#"{"leave":{"force":false}}"#,
        r#""status""#,
    ];
    texts
        .iter()
        .map(|text| [&[255], text.as_bytes()].concat())
        .collect()
}
