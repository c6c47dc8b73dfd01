// SPDX-License-Identifier: GPL-2.0-only
//! The domain's state as it is sent to a daemon that joins: in parts, each small enough for one
//! message of the group however it is encoded.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::NodeId;
use crate::victim::Reason;
use crate::victim::Record;
use crate::victim::Victim;

/// Most that the entries of one part may weigh, bytes: what surrounds them in a message has room
/// beside them in a payload of cmand.
pub const PART_LIMIT: usize = cmand_view::PAYLOAD_LIMIT - 1024;

/// Longest text of a victim in JSON but for its reason, bytes.
const VICTIM_WEIGHT: usize = 256;

/// Longest text of a byte of a reason in JSON: a control character, escaped.
const ESCAPED: usize = 6;

/// Longest text of a record in JSON, bytes.
const RECORD_WEIGHT: usize = 256;

/// Some or all of what the domain knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Victims.
    pub victims: Vec<(NodeId, Victim)>,
    /// What was done before.
    pub history: Vec<(NodeId, Record)>,
}

impl Contents {
    /// All of a state, in parts; at least one.
    pub(crate) fn cut(
        victims: &BTreeMap<NodeId, Victim>,
        history: &BTreeMap<NodeId, Record>,
    ) -> Vec<Self> {
        let mut parts = vec![Self::default()];
        let mut weight = 0;
        let mut part_for = |parts: &mut Vec<Self>, more: usize| {
            if weight > 0 && weight + more > PART_LIMIT {
                parts.push(Self::default());
                weight = 0;
            }
            weight += more;
            parts.len() - 1
        };
        for (node, victim) in victims {
            let at = part_for(&mut parts, victim_weight(victim));
            parts[at].victims.push((*node, victim.clone()));
        }
        for (node, record) in history {
            let at = part_for(&mut parts, RECORD_WEIGHT);
            parts[at].history.push((*node, *record));
        }
        parts
    }

    /// Not less than its length in JSON. The same at every daemon.
    pub(crate) fn weight(&self) -> usize {
        let victims = self.victims.iter().map(|(_, victim)| victim_weight(victim));
        victims.sum::<usize>() + self.history.len() * RECORD_WEIGHT
    }
}

fn victim_weight(victim: &Victim) -> usize {
    let reason = match &victim.reason {
        Reason::Accused(reason) => reason.len(),
        Reason::Failed | Reason::Unseen => 0,
    };
    VICTIM_WEIGHT + reason * ESCAPED
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BootId;
    use crate::Incarnation;
    use crate::domain::LIMITS;
    use crate::domain::REASON_LIMIT;
    use crate::victim::CutOff;
    use crate::victim::How;
    use crate::wire::Message;
    use group_transfer::Mark;
    use group_transfer::Part;

    /// As long as it can be.
    fn victim() -> Victim {
        Victim {
            incarnation: Some(Incarnation(u64::MAX)),
            boot_id: Some(BootId([0xff; 16])),
            view: u64::MAX,
            reason: Reason::Accused("\u{1}".repeat(REASON_LIMIT)),
        }
    }

    fn record() -> Record {
        Record {
            how: How::Override,
            by: NodeId(u32::MAX),
            at: u64::MAX,
            ended: Some(Incarnation(u64::MAX)),
            boot_id: Some(BootId([0xff; 16])),
            method: Some(u32::MAX),
            cut_off: Some(CutOff::Unfenced),
        }
    }

    fn state(nodes: u32) -> (BTreeMap<NodeId, Victim>, BTreeMap<NodeId, Record>) {
        let ids = || (0..nodes).map(|index| NodeId(u32::MAX - index));
        let victims = ids().map(|node| (node, victim())).collect();
        let history = ids().map(|node| (node, record())).collect();
        (victims, history)
    }

    #[test]
    fn no_state_is_one_empty_part() {
        let parts = Contents::cut(&BTreeMap::new(), &BTreeMap::new());
        assert_eq!(parts, [Contents::default()]);
        assert_eq!(parts[0].weight(), 0);
    }

    #[test]
    fn parts_hold_all_and_each_fits_a_message() {
        for nodes in [1, 10, 200] {
            let (victims, history) = state(nodes);
            let parts = Contents::cut(&victims, &history);
            assert_eq!(parts.len() > 1, nodes > 10);
            assert!(parts.len() <= LIMITS.parts as usize);
            let weight: usize = parts.iter().map(Contents::weight).sum();
            assert!(weight <= LIMITS.snapshot_bytes);
            for part in &parts {
                assert!(part.weight() <= PART_LIMIT);
                let message = Message::of_part(Part {
                    as_of: Mark {
                        group_view: u64::MAX,
                        asks: u32::MAX,
                    },
                    index: u32::MAX,
                    count: u32::MAX,
                    content: part.clone(),
                });
                let bytes = message.encode().unwrap();
                assert!(bytes.len() <= cmand_view::PAYLOAD_LIMIT);
            }
            let all = |parts: &[Contents]| {
                let victims = parts.iter().flat_map(|part| part.victims.clone());
                let history = parts.iter().flat_map(|part| part.history.clone());
                (victims.collect(), history.collect())
            };
            assert_eq!(all(&parts), (victims, history));
        }
    }
}
