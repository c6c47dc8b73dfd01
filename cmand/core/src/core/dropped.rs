// SPDX-License-Identifier: GPL-2.0-only
//! Dropped packets in the log: one line at a time for each reason and each sender that is
//! configured, one for all others together, and the rest is summed up. So nobody can fill the log,
//! and a flood from one address hides nothing of another.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::log;
use crate::Instant;
use crate::Level;
use crate::Sink;
use crate::seal::Drop;

/// A line about the same reason and sender is logged at most this often.
const PAUSE_MS: u64 = 10_000;

#[derive(Debug)]
struct Line {
    /// Dropped and not in the log yet.
    more: u64,
    /// Where the last of them came from.
    last_from: SocketAddr,
    logged_at: Instant,
}

/// What was dropped lately: bounded by the reasons and the configured nodes.
#[derive(Debug, Default)]
pub(super) struct Dropped(BTreeMap<(Drop, Option<SocketAddr>), Line>);

impl Dropped {
    /// Takes note of one packet; `sender` only if it is a configured address.
    pub(super) fn note(
        &mut self,
        now: Instant,
        reason: Drop,
        sender: Option<SocketAddr>,
        from: SocketAddr,
        fx: &mut dyn Sink,
    ) {
        if let Some(line) = self.0.get_mut(&(reason, sender)) {
            line.more += 1;
            line.last_from = from;
            return;
        }
        let line = Line {
            more: 0,
            last_from: from,
            logged_at: now,
        };
        self.0.insert((reason, sender), line);
        let text = format!("dropped a packet: counter={} from={from}", reason.name());
        log(fx, Level::Warn, text);
    }

    /// Says what came since, where the pause is over; what was quiet for as long is forgotten.
    pub(super) fn sum_up(&mut self, now: Instant, fx: &mut dyn Sink) {
        self.0.retain(|(reason, _), line| {
            if now.since(line.logged_at) < PAUSE_MS {
                return true;
            }
            if line.more == 0 {
                return false;
            }
            let text = format!(
                "dropped packets: counter={} more={} last_from={}",
                reason.name(),
                line.more,
                line.last_from
            );
            log(fx, Level::Warn, text);
            (line.more, line.logged_at) = (0, now);
            true
        });
    }
}
