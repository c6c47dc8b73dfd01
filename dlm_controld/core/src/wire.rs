// SPDX-License-Identifier: GPL-2.0-only
//! What the daemons say to each other in their groups.
//!
//! JSON with a version: these messages are few and small, and a person who
//! reads a capture should see what was agreed. A message of another version,
//! or one that does not parse, is dropped and reported, never guessed at.
//! Fields that a later version adds are skipped.
//!
//! | Message | Group | Sent |
//! |---|---|---|
//! | `protocol` | own | by every member after a view in which somebody joined |
//! | `holds` | own | before a node's first lockspace starts, after its last is gone |
//! | `start` | lockspace | once per change, when the sender's conditions hold |
//! | `leaving` | lockspace | before a leave that others must recover from |

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::BootId;
use crate::NodeId;

/// Version of these messages.
pub const VERSION: u32 = 1;

/// Versions of the choreography that this daemon can follow.
pub const PROTOCOL_RANGE: Range = Range { min: 1, max: 1 };

/// Longest message that is decoded, bytes: a `start` that lists every node of
/// the largest cluster is shorter.
pub const LENGTH_LIMIT: usize = 16 * 1024;

/// The oldest and the newest version of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Oldest.
    pub min: u16,
    /// Newest.
    pub max: u16,
}

impl Range {
    /// Whether a version is in it.
    #[must_use]
    pub fn contains(self, version: u16) -> bool {
        (self.min..=self.max).contains(&version)
    }
}

/// What one daemon says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// Which choreography the sender can follow, and what a newcomer must know.
    Protocol {
        /// What it can follow.
        range: Range,
        /// What it follows; none before it was agreed.
        running: Option<u16>,
        /// Whether its kernel may have lockspaces.
        holds: bool,
        /// Nodes whose daemon failed with lockspaces in the kernel, and that
        /// are not fenced yet, with the boot to end where it is known.
        unfenced: BTreeMap<NodeId, Option<BootId>>,
    },
    /// Whether the sender's kernel may have lockspaces from now on.
    Holds {
        /// Whether it may.
        holds: bool,
    },
    /// The sender's kernel has stopped and the conditions for this change hold.
    Start {
        /// Number of the group view.
        change: u64,
        /// Whether the sender's kernel was never started in this lockspace, so
        /// that it does not know who failed before.
        fresh: bool,
    },
    /// The sender will leave; the others must recover as if it had failed.
    Leaving,
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
    /// Longer than any message.
    #[error("has {0} bytes, at most {LENGTH_LIMIT} are possible")]
    Length(usize),
}

impl Message {
    /// The bytes of this message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let envelope = Envelope {
            version: VERSION,
            message: self.clone(),
        };
        serde_json::to_vec(&envelope).expect("integers, flags and lists are always JSON")
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
        if bytes.len() > LENGTH_LIMIT {
            return Err(WireError::Length(bytes.len()));
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_message_has_its_golden_bytes() {
        let range = Range { min: 1, max: 2 };
        let unfenced = BTreeMap::from([(NodeId(3), Some(BootId([0xab; 16]))), (NodeId(5), None)]);
        let cases = [
            (
                Message::Protocol {
                    range,
                    running: Some(1),
                    holds: true,
                    unfenced,
                },
                r#"{"protocol":{"range":{"min":1,"max":2},"running":1,"holds":true,"unfenced":{"3":"abababab-abab-abab-abab-abababababab","5":null}}}"#,
            ),
            (
                Message::Protocol {
                    range,
                    running: None,
                    holds: false,
                    unfenced: BTreeMap::new(),
                },
                r#"{"protocol":{"range":{"min":1,"max":2},"running":null,"holds":false,"unfenced":{}}}"#,
            ),
            (
                Message::Holds { holds: false },
                r#"{"holds":{"holds":false}}"#,
            ),
            (
                Message::Start {
                    change: 7,
                    fresh: true,
                },
                r#"{"start":{"change":7,"fresh":true}}"#,
            ),
            (Message::Leaving, r#""leaving""#),
        ];
        for (message, golden) in cases {
            let golden = format!(r#"{{"version":1,"message":{golden}}}"#);
            assert_eq!(String::from_utf8(message.encode()).unwrap(), golden);
            assert_eq!(Message::decode(golden.as_bytes()).unwrap(), message);
        }
    }

    #[test]
    fn foreign_truncated_and_overlong_bytes_are_errors() {
        let bytes = Message::Start {
            change: 7,
            fresh: true,
        }
        .encode();
        for length in 0..bytes.len() {
            assert!(
                Message::decode(&bytes[..length]).is_err(),
                "length {length}"
            );
        }
        let newer = br#"{"version":2,"message":{"unheard_of":{}}}"#;
        assert!(matches!(Message::decode(newer), Err(WireError::Version(2))));
        let long = vec![b' '; LENGTH_LIMIT + 1];
        assert!(matches!(Message::decode(&long), Err(WireError::Length(_))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Message::decode(&bytes);
        }

        #[test]
        fn damaged_messages_never_panic(at in 0usize..200, with in any::<u8>()) {
            let unfenced = BTreeMap::from([(NodeId(3), None)]);
            let range = PROTOCOL_RANGE;
            let message = Message::Protocol { range, running: Some(1), holds: true, unfenced };
            let mut bytes = message.encode();
            let at = at % bytes.len();
            bytes[at] = with;
            let _ = Message::decode(&bytes);
        }
    }
}
