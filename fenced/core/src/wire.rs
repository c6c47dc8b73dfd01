// SPDX-License-Identifier: GPL-2.0-only
//! What fence daemons say to each other in the domain's group.
//!
//! JSON with a version: these messages are few and small, and a person who
//! reads a capture should see what was decided. A message of another version,
//! or one that does not parse, is dropped and logged, never guessed at.
//!
//! Daemons of version 1 that know neither [`Message::Part`] nor [`Message::Ask`]
//! drop those: such a daemon does not come to know a state that needs several
//! messages, and never takes a part of it for the whole. One that does not know
//! [`Message::Returned`] or [`Message::Unfence`] believes agents as it did before.

use group_transfer::Mark;
use group_transfer::Part;
use serde::Deserialize;
use serde::Serialize;

use crate::BootId;
use crate::Incarnation;
use crate::NodeId;
use crate::snapshot::Contents;
use crate::victim::Record;
use crate::victim::Victim;

/// Version of these messages.
pub const VERSION: u32 = 1;

/// A message of the domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The sender's state as of a group view, for those who joined in it: in one
    /// message, as it nearly always is.
    Snapshot(Snapshot),
    /// A part of the sender's state, for those who joined or asked.
    Part {
        /// Number of the group view.
        group_view: u64,
        /// Asks since that view.
        asks: u32,
        /// Which part, from 0.
        index: u32,
        /// How many there are.
        count: u32,
        /// What it shows.
        content: Contents,
    },
    /// The sender gave up to write down what is said, and needs the state as of
    /// this message.
    Ask {},
    /// A victim is one no longer.
    Done {
        /// Which.
        node: NodeId,
        /// The life of the victim this is about.
        victim: Victim,
        /// What was done.
        record: Record,
    },
    /// A member asks that this node be fenced.
    Accuse {
        /// Which.
        node: NodeId,
        /// The boot of it that is to end; none: whichever it is in.
        boot_id: Option<BootId>,
        /// Why.
        reason: String,
        /// Number by which the sender knows its request.
        request: u64,
    },
    /// A boot that was fenced answered a heartbeat of the sender's node.
    Returned {
        /// Which node.
        node: NodeId,
        /// The life of it that answered.
        incarnation: Incarnation,
        /// The boot.
        boot_id: BootId,
    },
    /// An operator says that the storage of a node is switched on again.
    Unfence {
        /// Which node.
        node: NodeId,
        /// Number by which the sender knows its request.
        request: u64,
    },
    /// An operator says that this victim is off or was reset.
    Acknowledge {
        /// Which.
        node: NodeId,
        /// Seconds since the epoch on the sender's clock.
        at: u64,
        /// Number by which the sender knows its request.
        request: u64,
    },
}

/// See [`Message::Snapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Number of the group view.
    pub group_view: u64,
    /// The whole state.
    #[serde(flatten)]
    pub content: Contents,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    version: u32,
    message: Message,
}

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Not JSON, or not of these messages.
    #[error("does not parse: {0}")]
    Json(#[from] serde_json::Error),
    /// Of another version.
    #[error("is of version {0}, this daemon speaks {VERSION}")]
    Version(u32),
}

impl Message {
    /// The message that carries this part of a snapshot.
    pub(crate) fn of_part(part: Part<Contents>) -> Self {
        let Part {
            as_of: Mark { group_view, asks },
            index,
            count,
            content,
        } = part;
        if (asks, count) == (0, 1) {
            return Self::Snapshot(Snapshot {
                group_view,
                content,
            });
        }
        Self::Part {
            group_view,
            asks,
            index,
            count,
            content,
        }
    }

    /// The part of a snapshot that this message carries.
    pub(crate) fn into_part(self) -> Option<Part<Contents>> {
        match self {
            Self::Snapshot(Snapshot {
                group_view,
                content,
            }) => Some(Part {
                as_of: Mark {
                    group_view,
                    asks: 0,
                },
                index: 0,
                count: 1,
                content,
            }),
            Self::Part {
                group_view,
                asks,
                index,
                count,
                content,
            } => Some(Part {
                as_of: Mark { group_view, asks },
                index,
                count,
                content,
            }),
            Self::Ask {}
            | Self::Done { .. }
            | Self::Accuse { .. }
            | Self::Returned { .. }
            | Self::Unfence { .. }
            | Self::Acknowledge { .. } => None,
        }
    }

    /// The bytes of this message.
    ///
    /// # Errors
    /// None for the messages of this type; the signature is the encoder's.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let envelope = Envelope {
            version: VERSION,
            message: self.clone(),
        };
        Ok(serde_json::to_vec(&envelope)?)
    }

    /// The message in these bytes.
    ///
    /// # Errors
    /// [`WireError`]; nothing was taken from the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(bytes)?;
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        let envelope: Envelope = serde_json::from_slice(bytes)?;
        Ok(envelope.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::victim::CutOff;
    use crate::victim::How;
    use crate::victim::Reason;

    const BOOT: BootId = BootId([0xab; 16]);

    fn victim() -> Victim {
        Victim {
            incarnation: Some(Incarnation(7)),
            boot_id: Some(BOOT),
            view: 3,
            reason: Reason::Failed,
        }
    }

    fn record() -> Record {
        Record {
            how: How::Agent,
            by: NodeId(1),
            at: 1_800_000_000,
            ended: Some(Incarnation(7)),
            boot_id: None,
            method: None,
            cut_off: None,
        }
    }

    /// What daemons of before know and what they do not know.
    #[test]
    fn a_record_says_which_boot_ended_by_which_method() {
        let more = Record {
            boot_id: Some(BOOT),
            method: Some(1),
            cut_off: Some(CutOff::Fenced),
            ..record()
        };
        let json = serde_json::to_string(&more).unwrap();
        let golden = r#"{"how":"agent","by":1,"at":1800000000,"ended":7,"boot_id":"abababab-abab-abab-abab-abababababab","method":1,"cut_off":"fenced"}"#;
        assert_eq!(json, golden);
        assert_eq!(serde_json::from_str::<Record>(golden).unwrap(), more);
    }

    fn content() -> Contents {
        Contents {
            victims: vec![(NodeId(2), victim())],
            history: vec![(NodeId(2), record())],
        }
    }

    #[test]
    fn a_part_comes_back_from_its_message() {
        for (asks, count, is_whole) in [(0, 1, true), (1, 1, false), (0, 2, false)] {
            let part = Part {
                as_of: Mark {
                    group_view: 4,
                    asks,
                },
                index: 0,
                count,
                content: content(),
            };
            let message = Message::of_part(part.clone());
            // Older daemons know nothing else, and take that for the whole.
            assert_eq!(matches!(message, Message::Snapshot(_)), is_whole);
            assert_eq!(message.into_part(), Some(part));
        }
        assert_eq!(Message::Ask {}.into_part(), None);
    }

    #[test]
    fn every_message_has_its_golden_bytes() {
        let n = NodeId(2);
        let victim_json = r#"{"incarnation":7,"boot_id":"abababab-abab-abab-abab-abababababab","view":3,"reason":"failed"}"#;
        let record_json = r#"{"how":"agent","by":1,"at":1800000000,"ended":7}"#;
        let cases = [
            (
                Message::Snapshot(Snapshot {
                    group_view: 4,
                    content: content(),
                }),
                format!(
                    "{{\"snapshot\":{{\"group_view\":4,\"victims\":[[2,{victim_json}]],\
                     \"history\":[[2,{record_json}]]}}}}"
                ),
            ),
            (
                Message::Part {
                    group_view: 4,
                    asks: 1,
                    index: 2,
                    count: 3,
                    content: content(),
                },
                format!(
                    "{{\"part\":{{\"group_view\":4,\"asks\":1,\"index\":2,\"count\":3,\
                     \"content\":{{\"victims\":[[2,{victim_json}]],\
                     \"history\":[[2,{record_json}]]}}}}}}"
                ),
            ),
            (Message::Ask {}, r#"{"ask":{}}"#.into()),
            (
                Message::Unfence {
                    node: n,
                    request: 9,
                },
                r#"{"unfence":{"node":2,"request":9}}"#.into(),
            ),
            (
                Message::Returned {
                    node: n,
                    incarnation: Incarnation(8),
                    boot_id: BOOT,
                },
                r#"{"returned":{"node":2,"incarnation":8,"boot_id":"abababab-abab-abab-abab-abababababab"}}"#.into(),
            ),
            (
                Message::Done {
                    node: n,
                    victim: victim(),
                    record: record(),
                },
                format!(r#"{{"done":{{"node":2,"victim":{victim_json},"record":{record_json}}}}}"#),
            ),
            (
                Message::Accuse {
                    node: n,
                    boot_id: Some(BOOT),
                    reason: "r".into(),
                    request: 9,
                },
                r#"{"accuse":{"node":2,"boot_id":"abababab-abab-abab-abab-abababababab","reason":"r","request":9}}"#.into(),
            ),
            (
                Message::Acknowledge {
                    node: n,
                    at: 5,
                    request: 9,
                },
                r#"{"acknowledge":{"node":2,"at":5,"request":9}}"#.into(),
            ),
        ];
        for (message, golden) in cases {
            let golden = format!(r#"{{"version":1,"message":{golden}}}"#);
            assert_eq!(
                String::from_utf8(message.encode().unwrap()).unwrap(),
                golden
            );
            assert_eq!(Message::decode(golden.as_bytes()).unwrap(), message);
        }
    }

    #[test]
    fn truncated_and_foreign_bytes_are_errors() {
        let bytes = Message::Accuse {
            node: NodeId(2),
            boot_id: None,
            reason: "r".into(),
            request: 1,
        }
        .encode()
        .unwrap();
        for length in 0..bytes.len() {
            assert!(
                Message::decode(&bytes[..length]).is_err(),
                "length {length}"
            );
        }
        let newer = br#"{"version":2,"message":{"unheard_of":{}}}"#;
        assert!(matches!(Message::decode(newer), Err(WireError::Version(2))));
    }
}
