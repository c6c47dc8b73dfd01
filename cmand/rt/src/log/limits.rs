// SPDX-License-Identifier: GPL-2.0-only
//! Lines that somebody else can cause are limited: per cause and per peer, and
//! what was left out is summed up.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

/// A cause and peer get one line within this time.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);

/// Most pairs of cause and peer told apart; the peers beyond share one line a cause.
const KEYS: usize = 256;

/// Stands for the peers beyond [`KEYS`].
const OTHERS: &str = "others";

#[derive(Debug)]
struct Entry {
    since: Instant,
    left_out: u64,
}

/// Who caused lines of late.
#[derive(Debug)]
pub(super) struct Limits(BTreeMap<(&'static str, String), Entry>);

/// Lines that were not written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub(super) cause: &'static str,
    pub(super) peer: String,
    pub(super) lines: u64,
}

impl Limits {
    pub(super) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Whether a line may be written now.
    pub(super) fn is_due(&mut self, now: Instant, cause: &'static str, peer: String) -> bool {
        let mut key = (cause, peer);
        if self.0.len() >= KEYS && !self.0.contains_key(&key) {
            OTHERS.clone_into(&mut key.1);
        }
        let mut is_due = false;
        let entry = self.0.entry(key).or_insert_with(|| {
            is_due = true;
            Entry {
                since: now,
                left_out: 0,
            }
        });
        entry.left_out += u64::from(!is_due);
        is_due
    }

    /// What was left out and has not been told for an [`INTERVAL`]; who caused nothing
    /// for as long is forgotten.
    pub(super) fn sum_up(&mut self, now: Instant) -> Vec<LeftOut> {
        let mut told = Vec::new();
        self.0.retain(|(cause, peer), entry| {
            if now.duration_since(entry.since) < INTERVAL {
                return true;
            }
            let lines = std::mem::take(&mut entry.left_out);
            if lines > 0 {
                entry.since = now;
                let (cause, peer) = (*cause, peer.clone());
                told.push(LeftOut { cause, peer, lines });
            }
            lines > 0
        });
        told
    }

    /// When [`Self::sum_up`] has something to do.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().map(|entry| entry.since + INTERVAL).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_and_peer_gets_a_line_and_the_rest_is_summed_up() {
        let mut limits = Limits::new();
        let begun = Instant::now();
        let mut due = |now, cause, peer: u32| limits.is_due(now, cause, peer.to_string());
        assert!(due(begun, "a", 1) && due(begun, "b", 1) && due(begun, "a", 2));
        for _ in 0..82 {
            assert!(!due(begun, "a", 1));
        }
        assert_eq!(limits.sum_up(begun), []);
        assert_eq!(limits.next(), Some(begun + INTERVAL));
        let (cause, peer) = ("a", "1".to_owned());
        let told = LeftOut {
            cause,
            peer,
            lines: 82,
        };
        assert_eq!(limits.sum_up(begun + INTERVAL), [told]);
        // The sum was the line of the next interval.
        assert!(!limits.is_due(begun + INTERVAL, "a", "1".to_owned()));
        assert!(limits.is_due(begun + INTERVAL, "a", "2".to_owned()));
        limits.sum_up(begun + INTERVAL * 2);
        limits.sum_up(begun + INTERVAL * 3);
        assert_eq!(limits.next(), None);
    }

    #[test]
    fn peers_without_number_share_a_line() {
        let mut limits = Limits::new();
        let now = Instant::now();
        let due = (0..10_000).filter(|peer: &u32| limits.is_due(now, "a", peer.to_string()));
        assert_eq!(due.count(), KEYS + 1);
        assert_eq!(limits.0.len(), KEYS + 1);
    }
}
