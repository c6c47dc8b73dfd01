// SPDX-License-Identifier: GPL-2.0-only
//! Whether a node that was fenced has really stopped: asked when an agent says that it has switched
//! it off.
//!
//! It lives if it answers a heartbeat that this node sends after the question. It has stopped if it
//! was silent before already, or is so for two heartbeats from the question on.

use super::Core;
use super::log;
use crate::BootId;
use crate::Effect;
use crate::Instant;
use crate::Level;
use crate::NodeId;
use crate::RequestError;
use crate::Sink;
use crate::wire::Heartbeat;

/// Most questions under way.
const LIMIT: usize = 64;

/// One question.
#[derive(Debug)]
pub(super) struct Probe {
    /// By which the asker knows it.
    token: u64,
    node: NodeId,
    /// Of this boot; any, where the node was never seen.
    boot: Option<BootId>,
    since: Instant,
}

impl Core {
    /// Asks whether a node lives, in a certain boot or in any; [`Effect::Probed`] with the same
    /// token answers, after two heartbeats at most.
    ///
    /// # Errors
    /// [`RequestError`]; nothing follows.
    pub fn probe(
        &mut self,
        now: Instant,
        token: u64,
        node: NodeId,
        boot: Option<BootId>,
        fx: &mut dyn Sink,
    ) -> Result<(), RequestError> {
        if self.standing.is_end() {
            return Err(RequestError::Ended);
        }
        if self.probes.len() >= LIMIT {
            return Err(RequestError::Full);
        }
        let since = now;
        let probe = Probe {
            token,
            node,
            boot,
            since,
        };
        if self.silent_since_ms(now, &probe) >= self.quiet_ms() {
            let alive = false;
            fx.push(Effect::Probed { token, alive });
        } else {
            self.probes.push(probe);
        }
        Ok(())
    }

    /// A node that stopped is silent for this long.
    fn quiet_ms(&self) -> u64 {
        self.config.interval_ms() * 2
    }

    /// How long a node was silent in the boot that is asked about.
    fn silent_since_ms(&self, now: Instant, probe: &Probe) -> u64 {
        let Some(peer) = self.peers.get(&probe.node) else {
            return u64::MAX;
        };
        let rival = peer.rival.as_ref().map(|rival| &rival.life);
        let lives = peer.life.iter().chain(rival);
        let heard = lives.filter_map(|life| {
            let boot = life.beat.as_ref().map(|beat| beat.boot);
            // Before its first proven heartbeat its boot is not known: it may be the one.
            let is_meant = probe.boot.is_none() || boot.is_none() || boot == probe.boot;
            life.heard_at.filter(|_| is_meant)
        });
        heard.max().map_or(u64::MAX, |at| now.since(at))
    }

    /// A node has proven to be alive by an answer to a heartbeat of this one.
    pub(super) fn answer_probes(&mut self, from: NodeId, beat: &Heartbeat, fx: &mut dyn Sink) {
        let answered = Instant(beat.echo.1);
        self.probes.retain(|probe| {
            let is_meant = probe.node == from && probe.boot.is_none_or(|boot| boot == beat.boot);
            if !is_meant || answered < probe.since {
                return true;
            }
            let token = probe.token;
            let alive = true;
            fx.push(Effect::Probed { token, alive });
            let text = format!("node lives although it was said to be fenced: node={from}");
            log(fx, Level::Warn, text);
            false
        });
    }

    /// Answers what silence answers.
    pub(super) fn look_after_probes(&mut self, now: Instant, fx: &mut dyn Sink) {
        let quiet_ms = self.quiet_ms();
        for probe in std::mem::take(&mut self.probes) {
            let is_over =
                now.since(probe.since) >= quiet_ms && self.silent_since_ms(now, &probe) >= quiet_ms;
            if is_over {
                let (token, alive) = (probe.token, false);
                fx.push(Effect::Probed { token, alive });
            } else {
                self.probes.push(probe);
            }
        }
    }

    /// This node did not listen for a while: silence of that time says nothing.
    pub(super) fn begin_probes_again(&mut self, now: Instant) {
        for probe in &mut self.probes {
            probe.since = now;
        }
    }
}
