// SPDX-License-Identifier: GPL-2.0-only
//! The proposer's side of a ballot.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::Core;
use super::log;
use crate::Departed;
use crate::Departure;
use crate::Instant;
use crate::Level;
use crate::Member;
use crate::NodeId;
use crate::Sink;
use crate::ViewId;
use crate::wire::Ballot;
use crate::wire::Message;
use crate::wire::NUMBER_JUMP;
use crate::wire::NodeIdOrNone;
use crate::wire::Value;

/// What this node is proposing.
#[derive(Debug)]
pub(super) enum Proposer {
    /// Nothing; not before this time after somebody else was first.
    Idle {
        /// When it may try again.
        not_before: Instant,
    },
    /// Waiting until all have promised, and have the same messages of the base.
    Asking(Attempt),
    /// Waiting until all have accepted.
    Accepting(Attempt, Value, BTreeSet<NodeId>),
}

/// One ballot of this node.
#[derive(Debug)]
pub(super) struct Attempt {
    ballot: Ballot,
    base: Option<ViewId>,
    targets: Vec<Member>,
    promises: BTreeMap<NodeId, Promise>,
    started: Instant,
}

#[derive(Debug)]
struct Promise {
    base: Option<ViewId>,
    received: u64,
    floor: u64,
    pending: Option<(Ballot, Value)>,
}

impl Proposer {
    pub(super) fn is_active(&self) -> bool {
        match self {
            Self::Idle { .. } => false,
            Self::Asking(_) | Self::Accepting(..) => true,
        }
    }

    /// Everybody has the whole time again to answer.
    pub(super) fn begin_again(&mut self, now: Instant) {
        match self {
            Self::Idle { .. } => {}
            Self::Asking(attempt) | Self::Accepting(attempt, ..) => attempt.started = now,
        }
    }

    fn attempt(&self) -> Option<&Attempt> {
        match self {
            Self::Idle { .. } => None,
            Self::Asking(attempt) | Self::Accepting(attempt, ..) => Some(attempt),
        }
    }
}

impl Core {
    /// Proposes a view if there should be another one and this node should
    /// propose it.
    pub(super) fn consider(&mut self, now: Instant, fx: &mut dyn Sink) {
        let not_before = match &self.proposer {
            Proposer::Idle { not_before } => *not_before,
            Proposer::Asking(_) | Proposer::Accepting(..) => return,
        };
        if self.standing.is_end() {
            return;
        }
        #[cfg(test)]
        {
            self.plans += 1;
        }
        let Some(members) = self.plan(now) else {
            self.settling = None;
            return;
        };
        let present = self.view.as_ref().map(|view| view.value.members.as_slice());
        let present: Vec<Member> = present.unwrap_or_default().iter().map(|m| m.0).collect();
        if present == members && !self.is_stuck(now) {
            self.settling = None;
            return;
        }
        let grows = present.iter().all(|old| members.contains(old)) && present != members;
        let settle_ms = if grows {
            self.config.settle_ms()
        } else if self.is_newly_quorate(now) && self.leaves_somebody_behind(&members) {
            self.config.detection_ms
        } else if self.somebody_is_late(now, &members) {
            self.config.late_ms()
        } else {
            0
        };
        if settle_ms > 0 && !self.has_settled(now, &members, settle_ms) {
            return;
        }
        if now >= not_before {
            self.settling = None;
            self.begin(now, members, fx);
        } else {
            // Looked at again soon.
            self.settling.get_or_insert((members, now));
        }
    }

    /// Somebody promised a ballot that nobody follows up.
    fn is_stuck(&self, now: Instant) -> bool {
        let limit = self.config.round_ms();
        let own = self.acceptor.blocked && now.since(self.acceptor.promised_at) >= limit;
        let present = self.view_id();
        own || self.peers.values().any(|peer| {
            let heard = peer.heard(now, self.config.detection_ms);
            heard.is_some_and(|(life, beat)| {
                let since = life.blocked_since.filter(|_| beat.view == present);
                since.is_some_and(|since| now.since(since) >= limit)
            })
        })
    }

    /// Nodes that go together fall silent one after the other: where one that
    /// should stay is late too, it is about to be heard or to be suspected.
    fn somebody_is_late(&self, now: Instant, members: &[Member]) -> bool {
        let late_ms = self.config.interval_ms() * 3;
        members.iter().any(|member| {
            let peer = self.peers.get(&member.node);
            peer.is_some_and(|peer| peer.silent_ms(now).is_none_or(|silent| silent >= late_ms))
        })
    }

    /// A cut heals link by link: who is heard first does not leave the others behind. They get
    /// as long to be heard, by this node and by each other, as anybody gets to be called silent.
    fn is_newly_quorate(&self, now: Instant) -> bool {
        self.told_quorate != Some(true) || now.since(self.quorate_at) < self.config.detection_ms
    }

    /// Whether a member of the present view that did not ask to leave is not in this set.
    fn leaves_somebody_behind(&self, members: &[Member]) -> bool {
        self.view.as_ref().is_some_and(|installed| {
            let mut present = installed.value.members.iter().map(|(member, _)| member);
            present.any(|old| !members.contains(old) && !installed.leaving.contains(&old.node))
        })
    }

    fn has_settled(&mut self, now: Instant, members: &[Member], settle_ms: u64) -> bool {
        match &self.settling {
            Some((set, since)) if set == members => now.since(*since) >= settle_ms,
            Some(_) | None => {
                self.settling = Some((members.to_vec(), now));
                false
            }
        }
    }

    pub(super) fn begin(&mut self, now: Instant, targets: Vec<Member>, fx: &mut dyn Sink) {
        self.round = self.round.max(self.acceptor.promised.round) + 1;
        let ballot = Ballot {
            round: self.round,
            proposer: NodeIdOrNone(self.config.node.0),
        };
        let ids: Vec<String> = targets.iter().map(|m| m.node.to_string()).collect();
        let text = format!(
            "proposing: round={} members={}",
            ballot.round,
            ids.join(",")
        );
        log(fx, Level::Debug, text);
        self.proposer = Proposer::Asking(Attempt {
            ballot,
            base: self.view_id(),
            targets,
            promises: BTreeMap::new(),
            started: now,
        });
        self.ask_again(fx);
    }

    /// Sends the present question to all that have not answered it.
    fn ask_again(&mut self, fx: &mut dyn Sink) {
        let (missing, message) = match &self.proposer {
            Proposer::Idle { .. } => return,
            Proposer::Asking(attempt) => (
                attempt.missing(|node| attempt.promises.contains_key(&node)),
                Message::Propose {
                    ballot: attempt.ballot,
                    base: attempt.base,
                    members: attempt.targets.clone(),
                },
            ),
            Proposer::Accepting(attempt, value, accepted) => (
                attempt.missing(|node| accepted.contains(&node)),
                Message::Accept {
                    ballot: attempt.ballot,
                    value: value.clone(),
                },
            ),
        };
        for node in missing {
            self.post(node, &message, fx);
        }
    }

    /// Asks again, or gives up on who does not answer.
    pub(super) fn look_after_proposal(&mut self, now: Instant, fx: &mut dyn Sink) {
        let Some(attempt) = self.proposer.attempt() else {
            return;
        };
        let detection_ms = self.config.detection_ms;
        let lost = attempt.targets.iter().any(|target| {
            let peer = self.peers.get(&target.node);
            peer.is_some_and(|peer| {
                let life = peer
                    .heard(now, detection_ms)
                    .map(|(life, _)| life.incarnation);
                life != Some(target.incarnation)
            })
        });
        if lost {
            return self.give_up(now);
        }
        if now.since(attempt.started) < self.config.round_ms() {
            self.ask_again(fx);
            return self.even_out(now, fx);
        }
        let silent = match &self.proposer {
            Proposer::Idle { .. } => Vec::new(),
            Proposer::Asking(attempt) => {
                let uneven = attempt.uneven();
                attempt.missing(|node| {
                    attempt.promises.contains_key(&node) && !uneven.contains_key(&node)
                })
            }
            Proposer::Accepting(attempt, _, accepted) => {
                attempt.missing(|node| accepted.contains(&node))
            }
        };
        let until = now.after(self.config.detection_ms * 2);
        for node in silent.into_iter().filter(|node| *node != self.config.node) {
            let text = format!("no answer to a proposal; going on without it: node={node}");
            log(fx, Level::Warn, text);
            self.avoided.insert(node, until);
        }
        self.give_up(now);
    }

    fn give_up(&mut self, now: Instant) {
        self.proposer = Proposer::Idle { not_before: now };
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(super) fn handle_promise(
        &mut self,
        now: Instant,
        from: NodeId,
        ballot: Ballot,
        base: Option<ViewId>,
        received: u64,
        floor: u64,
        pending: Option<(Ballot, Value)>,
        fx: &mut dyn Sink,
    ) {
        let Proposer::Asking(attempt) = &mut self.proposer else {
            return;
        };
        let is_target = attempt.targets.iter().any(|target| target.node == from);
        if attempt.ballot != ballot || !is_target {
            return;
        }
        let promise = Promise {
            base,
            received,
            floor,
            pending: pending.filter(|(_, value)| value.base == attempt.base),
        };
        attempt.promises.insert(from, promise);
        self.even_out(now, fx);
    }

    /// When all have promised: sees that all members of the base have the same
    /// messages of it, then asks to accept.
    fn even_out(&mut self, now: Instant, fx: &mut dyn Sink) {
        let Proposer::Asking(attempt) = &self.proposer else {
            return;
        };
        if attempt.promises.len() < attempt.targets.len() {
            return;
        }
        if let Some(text) = self.doubt(attempt) {
            return self.outvoted(now, &text, fx);
        }
        let flush = attempt.flush();
        let uneven = attempt.uneven();
        if uneven.is_empty() {
            return self.ask_to_accept(now, flush, fx);
        }
        let Some(installed) = &self.view else {
            return;
        };
        let (view, have) = (installed.value.id, installed.order.received());
        let mut out = Vec::new();
        if uneven.contains_key(&self.config.node) && have < flush {
            let mut holders = attempt.promises.iter();
            let holder = holders.find(|(_, promise)| promise.received >= flush);
            out.extend(holder.map(|(node, _)| {
                let (first, last) = (have + 1, flush);
                (*node, Message::Fetch { view, first, last })
            }));
        }
        for (node, received) in uneven {
            for entry in installed.order.entries(received + 1, flush.min(have)) {
                out.push((node, Message::Fill { view, entry }));
            }
        }
        self.post_all(out, fx);
    }

    /// Whether the base may have a successor that this node does not know. Where
    /// members of the base have no majority, a majority without them may have
    /// decided one: a node of it that started again still knows its number.
    fn doubt(&self, attempt: &Attempt) -> Option<String> {
        let base = attempt.base?;
        let stayers = attempt
            .promises
            .iter()
            .filter(|(_, promise)| promise.base.is_some());
        let votes: u32 = stayers.map(|(node, _)| self.config.votes(*node)).sum();
        let witness = |(_, promise): &(&NodeId, &Promise)| {
            promise.base.is_none() && promise.floor > base.number
        };
        let (node, promise) = attempt.promises.iter().find(witness)?;
        (votes < self.config.quorum()).then(|| {
            format!(
                "{} took part in view {} before it started again; this node knows view {} only",
                self.config.name(*node),
                promise.floor,
                base.number
            )
        })
    }

    fn ask_to_accept(&mut self, now: Instant, flush: u64, fx: &mut dyn Sink) {
        let tag = self.draw();
        let idle = Proposer::Idle { not_before: now };
        let Proposer::Asking(attempt) = std::mem::replace(&mut self.proposer, idle) else {
            return;
        };
        let value = match attempt.pending() {
            // It may have been decided: nothing else may be.
            Some(value) => value.clone(),
            None => self.new_value(&attempt, flush, tag),
        };
        self.proposer = Proposer::Accepting(attempt, value, BTreeSet::new());
        self.ask_again(fx);
    }

    fn new_value(&self, attempt: &Attempt, flush: u64, tag: u64) -> Value {
        let base = attempt.base.map_or(0, |base| base.number).max(self.floor);
        // One that is farther ahead was made up; nobody would accept what follows from it.
        let floors = attempt.promises.values().map(|promise| promise.floor);
        let floors = floors.filter(|floor| *floor < base.saturating_add(NUMBER_JUMP));
        let number = base.max(floors.max().unwrap_or(0)) + 1;
        let (groups, departed) = self.at_the_end(&attempt.targets, flush);
        let old = self.view.as_ref().map(|view| &view.value);
        let joined =
            |member: &Member| old.is_none_or(|old| !old.has(member.node, member.incarnation));
        let members = attempt.targets.iter();
        let votes: u32 = members.clone().map(|m| self.config.votes(m.node)).sum();
        Value {
            id: ViewId { number, tag },
            base: attempt.base,
            flush,
            quorate: votes >= self.config.quorum(),
            members: members.map(|member| (*member, joined(member))).collect(),
            departed: departed
                .iter()
                .map(|gone| (gone.member, gone.why == Departure::Left))
                .collect(),
            groups,
        }
    }

    /// The group table at the end of the present view, and who is gone after it.
    fn at_the_end(&self, stay: &[Member], flush: u64) -> (Vec<u8>, Vec<Departed>) {
        let Some(installed) = &self.view else {
            return (crate::groups::Groups::default().encode(), Vec::new());
        };
        let mut groups = installed.groups.clone();
        let mut leaving = installed.leaving.clone();
        for (sender, bytes) in installed.order.preview(flush) {
            super::local::apply(&mut groups, &mut leaving, sender, &bytes);
        }
        let gone = installed.value.members.iter().map(|(member, _)| member);
        let gone = gone.filter(|member| !stay.contains(member));
        let departed = gone.map(|member| Departed {
            member: *member,
            why: if leaving.contains(&member.node) {
                Departure::Left
            } else {
                Departure::NodeFailed
            },
        });
        (groups.encode(), departed.collect())
    }

    pub(super) fn handle_accepted(
        &mut self,
        now: Instant,
        from: NodeId,
        ballot: Ballot,
        fx: &mut dyn Sink,
    ) {
        let Proposer::Accepting(attempt, value, accepted) = &mut self.proposer else {
            return;
        };
        if attempt.ballot != ballot {
            return;
        }
        accepted.insert(from);
        if attempt
            .targets
            .iter()
            .any(|target| !accepted.contains(&target.node))
        {
            return;
        }
        let id = value.id;
        let targets: Vec<NodeId> = attempt.targets.iter().map(|target| target.node).collect();
        self.give_up(now);
        let me = self.config.node;
        for node in targets.into_iter().filter(|node| *node != me) {
            self.post(node, &Message::Commit { id }, fx);
        }
        self.handle_decided(now, me, id, fx);
    }

    /// Somebody promised another ballot: try again later with a larger one.
    pub(super) fn handle_reject(
        &mut self,
        now: Instant,
        ballot: Ballot,
        promised: Ballot,
        fx: &mut dyn Sink,
    ) {
        if !self.take_round(promised.round) {
            return;
        }
        let mine = self
            .proposer
            .attempt()
            .is_some_and(|attempt| attempt.ballot == ballot);
        if mine {
            let text = format!("proposal rejected: round={}", ballot.round);
            log(fx, Level::Debug, text);
            let interval = self.config.interval_ms();
            let pause = interval + self.draw() % (2 * interval);
            self.proposer = Proposer::Idle {
                not_before: now.after(pause),
            };
        }
    }
}

impl Attempt {
    fn missing(&self, answered: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
        let nodes = self.targets.iter().map(|target| target.node);
        nodes.filter(|node| !answered(*node)).collect()
    }

    /// What was accepted in the latest earlier ballot.
    fn pending(&self) -> Option<&Value> {
        let pending = self
            .promises
            .values()
            .filter_map(|promise| promise.pending.as_ref());
        let latest = pending.max_by_key(|(ballot, _)| *ballot);
        latest.map(|(_, value)| value)
    }

    /// Members of the base that stay and lack messages of it, and what they have.
    fn uneven(&self) -> BTreeMap<NodeId, u64> {
        let (flush, pending) = (self.flush(), self.pending());
        let promises = self.promises.iter();
        promises
            .filter(|(node, promise)| {
                let stays = pending.is_none_or(|value| value.member(**node).is_some());
                promise.base.is_some() && stays && promise.received < flush
            })
            .map(|(node, promise)| (*node, promise.received))
            .collect()
    }

    /// The last message of the base that will be delivered in it.
    fn flush(&self) -> u64 {
        let members = self
            .promises
            .values()
            .filter(|promise| promise.base.is_some());
        let highest = members.map(|promise| promise.received).max().unwrap_or(0);
        self.pending().map_or(highest, |value| value.flush)
    }
}
