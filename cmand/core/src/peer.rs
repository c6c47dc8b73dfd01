// SPDX-License-Identifier: GPL-2.0-only
//! What a core knows of another node: which life of it is heard, and how long ago.
//!
//! A life is *heard* when a heartbeat of it carried back the time of a recent
//! heartbeat of ours: it was made by a node that lives and hears us now, not
//! recorded earlier, nor kept in a queue while one of us slept.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::Incarnation;
use crate::Instant;
use crate::seal::Key;
use crate::seal::Replay;
use crate::wire::Assembly;
use crate::wire::Heartbeat;

/// Ended lives remembered per node, so that recordings of them change nothing.
const RETIRED: usize = 16;

/// One life of another node.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) incarnation: Incarnation,
    pub(crate) key: Key,
    pub(crate) replay: Replay,
    pub(crate) assembly: Assembly,
    /// Time of its newest heartbeat on its clock, to be carried back.
    pub(crate) time: u64,
    /// When its newest heartbeat came.
    pub(crate) came_at: Instant,
    /// When it was last proven to be alive.
    pub(crate) heard_at: Option<Instant>,
    /// The longest it was silent and heard again in time.
    pub(crate) longest_silent_ms: u64,
    /// This node paused since it was heard: how long it was silent is not known.
    pub(crate) has_grace: bool,
    /// Its newest proven heartbeat.
    pub(crate) beat: Option<Heartbeat>,
    /// Since when its heartbeats say that it is blocked.
    pub(crate) blocked_since: Option<Instant>,
}

impl Life {
    pub(crate) fn new(incarnation: Incarnation, key: Key) -> Self {
        Self {
            incarnation,
            key,
            replay: Replay::default(),
            assembly: Assembly::default(),
            time: 0,
            came_at: Instant::default(),
            heard_at: None,
            longest_silent_ms: 0,
            has_grace: false,
            beat: None,
            blocked_since: None,
        }
    }

    /// It is proven to be alive. Answers how long it had been silent, as far as that was not this
    /// node's own pause.
    pub(crate) fn hear(&mut self, now: Instant, detection_ms: u64) -> u64 {
        let heard_at = self.heard_at.filter(|_| !self.has_grace);
        let silent_ms = heard_at.map_or(0, |at| now.since(at));
        self.heard_at = Some(now);
        self.has_grace = false;
        if silent_ms < detection_ms {
            self.longest_silent_ms = self.longest_silent_ms.max(silent_ms);
        }
        silent_ms
    }
}

/// A second life heard beside the known one.
#[derive(Debug)]
pub(crate) struct Rival {
    pub(crate) life: Life,
    /// When it was first proven to be alive.
    pub(crate) heard_since: Option<Instant>,
    /// When the known life was last proven alive by an answer to a heartbeat
    /// younger than the rival: then both live.
    pub(crate) both: bool,
}

/// Another configured node.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) life: Option<Life>,
    pub(crate) rival: Option<Rival>,
    pub(crate) retired: VecDeque<Incarnation>,
    /// When a second holder of its id was last told that it is refused.
    pub(crate) refused_at: Option<Instant>,
    /// Whether its configuration differs from ours.
    pub(crate) other_config: bool,
    /// Whether it was heard at the last look, to log changes.
    pub(crate) was_heard: bool,
}

impl Peer {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            life: None,
            rival: None,
            retired: VecDeque::new(),
            refused_at: None,
            other_config: false,
            was_heard: false,
        }
    }

    /// The life with this incarnation, if it is one of those known.
    pub(crate) fn known(&self, incarnation: Incarnation) -> Option<&Life> {
        let rival = self.rival.as_ref().map(|rival| &rival.life);
        let mut known = self.life.iter().chain(rival);
        known.find(|life| life.incarnation == incarnation)
    }

    /// Milliseconds since it was last proven alive.
    pub(crate) fn silent_ms(&self, now: Instant) -> Option<u64> {
        let heard_at = self.life.as_ref()?.heard_at?;
        Some(now.since(heard_at))
    }

    /// The life that is heard now, with its newest heartbeat.
    pub(crate) fn heard(&self, now: Instant, detection_ms: u64) -> Option<(&Life, &Heartbeat)> {
        let life = self.life.as_ref()?;
        let silent = now.since(life.heard_at?);
        let beat = life.beat.as_ref()?;
        (silent < detection_ms).then_some((life, beat))
    }

    /// Puts the rival in the place of the known life. A life that was alive has
    /// ended; one that never proved it may yet do.
    pub(crate) fn promote_rival(&mut self) {
        let Some(rival) = self.rival.take() else {
            return;
        };
        self.other_config = false;
        let Some(old) = self.life.replace(rival.life) else {
            return;
        };
        if old.heard_at.is_none() {
            self.rival = Some(Rival {
                life: old,
                heard_since: None,
                both: false,
            });
            return;
        }
        if self.retired.len() == RETIRED {
            self.retired.pop_front();
        }
        self.retired.push_back(old.incarnation);
    }
}
