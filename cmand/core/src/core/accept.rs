// SPDX-License-Identifier: GPL-2.0-only
//! The acceptor's side of a ballot, and learning what was decided.

use super::Core;
use super::Standing;
use crate::Instant;
use crate::Member;
use crate::NodeId;
use crate::Sink;
use crate::ViewId;
use crate::wire::Ballot;
use crate::wire::Entry;
use crate::wire::Heartbeat;
use crate::wire::Message;
use crate::wire::NUMBER_JUMP;
use crate::wire::Value;

/// Since when, and when last, others were seen to act in another view while this
/// node could not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outvoted {
    since: Instant,
    last: Instant,
}

impl Core {
    pub(super) fn handle_propose(
        &mut self,
        now: Instant,
        from: NodeId,
        ballot: Ballot,
        base: Option<ViewId>,
        members: &[Member],
        fx: &mut dyn Sink,
    ) {
        if !members.contains(&self.me()) || matches!(self.standing, Standing::Going { .. }) {
            return;
        }
        if !self.take_round(ballot.round) {
            return;
        }
        if base.is_none() && self.view.is_none() && self.may_found(now).is_err() {
            return;
        }
        if let Some(base) = base
            && Some(base) != self.view_id()
        {
            self.learn(now, from, base, fx);
        }
        let mine = self.view_id();
        let promised = self.acceptor.promised;
        if mine.is_some() && mine != base {
            // The proposer is behind, or this node is and now asks what it missed.
            let ahead = mine > base;
            if ahead {
                self.post(from, &Message::Reject { ballot, promised }, fx);
            }
            return;
        }
        if ballot < promised {
            return self.post(from, &Message::Reject { ballot, promised }, fx);
        }
        self.acceptor.promised = ballot;
        self.acceptor.promised_at = now;
        if let Some(installed) = &mut self.view {
            installed.order.freeze();
            self.acceptor.blocked = true;
        }
        self.promise(from, fx);
    }

    /// (Again) says what this node has, to the proposer it promised.
    fn promise(&mut self, to: NodeId, fx: &mut dyn Sink) {
        let order = self.view.as_ref().map(|installed| &installed.order);
        let message = Message::Promise {
            ballot: self.acceptor.promised,
            base: self.view_id(),
            received: order.map_or(0, super::Order::received),
            floor: self.floor,
            pending: self.acceptor.pending.clone(),
        };
        self.post(to, &message, fx);
    }

    pub(super) fn handle_accept(
        &mut self,
        now: Instant,
        from: NodeId,
        ballot: Ballot,
        value: Value,
        fx: &mut dyn Sink,
    ) {
        let promised = self.acceptor.promised;
        if self.view_id() == Some(value.id) {
            return self.post(from, &Message::Accepted { ballot }, fx);
        }
        if ballot != promised {
            return self.post(from, &Message::Reject { ballot, promised }, fx);
        }
        let fits = self.view_id().is_none_or(|mine| value.base == Some(mine));
        let even = self.view.as_ref().is_none_or(|installed| {
            !value.has(self.config.node, self.config.incarnation)
                || installed.order.received() >= value.flush
        });
        if !fits || !even || !self.is_legal_value(&value) {
            return;
        }
        self.acceptor.promised_at = now;
        self.raise_floor(value.id.number, fx);
        self.acceptor.pending = Some((ballot, value));
        self.post(from, &Message::Accepted { ballot }, fx);
    }

    /// Rule 2 at the top of the crate, from what the value itself says.
    fn is_legal_value(&self, value: &Value) -> bool {
        let members = value.members.iter().map(|(member, _)| member.node);
        let votes: u32 = members.map(|node| self.config.votes(node)).sum();
        let enough = votes >= self.config.quorum();
        let only_left = value.base.is_some() && value.departed.iter().all(|(_, left)| *left);
        let is_next = value.id.number <= self.floor.saturating_add(NUMBER_JUMP);
        enough == value.quorate && (enough || only_left) && is_next
    }

    pub(super) fn raise_floor(&mut self, number: u64, fx: &mut dyn Sink) {
        if number > self.floor {
            self.floor = number;
            self.remember(fx);
        }
    }

    /// Somebody says that a view is decided.
    pub(super) fn handle_decided(
        &mut self,
        now: Instant,
        from: NodeId,
        id: ViewId,
        fx: &mut dyn Sink,
    ) {
        if self.view_id() != Some(id) {
            self.learn(now, from, id, fx);
        }
    }

    /// A view is decided: installs it if it is known here, or asks for it.
    fn learn(&mut self, now: Instant, from: NodeId, id: ViewId, fx: &mut dyn Sink) {
        let pending = self.acceptor.pending.as_ref();
        let pending = pending.filter(|(_, value)| value.id == id);
        match pending.map(|(_, value)| value.clone()) {
            Some(value) => self.install(now, from, value, fx),
            None if self.view_id().is_some_and(|mine| mine.number < id.number) => {
                self.post(from, &Message::FetchView { id }, fx);
            }
            None => {}
        }
    }

    pub(super) fn handle_fetch_view(&mut self, from: NodeId, id: ViewId, fx: &mut dyn Sink) {
        let Some(installed) = &self.view else {
            return;
        };
        let departed = &installed.value.departed;
        let concerned = installed.value.member(from).is_some()
            || departed.iter().any(|(gone, _)| gone.node == from);
        if installed.value.id == id && concerned {
            let value = installed.value.clone();
            self.post(from, &Message::Install { value }, fx);
        }
    }

    pub(super) fn handle_install(
        &mut self,
        now: Instant,
        from: NodeId,
        value: Value,
        fx: &mut dyn Sink,
    ) {
        let next = self.view_id().is_none_or(|mine| value.base == Some(mine));
        if !next || !self.is_legal_value(&value) {
            return;
        }
        if !value.has(self.config.node, self.config.incarnation) {
            let left = value.departed.contains(&(self.me(), true));
            if left && self.view.is_some() {
                self.end_by_leave(fx);
            }
            return;
        }
        self.raise_floor(value.id.number, fx);
        self.acceptor.pending = Some((self.acceptor.promised, value.clone()));
        self.install(now, from, value, fx);
    }

    pub(super) fn handle_fetch(
        &mut self,
        from: NodeId,
        view: ViewId,
        first: u64,
        last: u64,
        fx: &mut dyn Sink,
    ) {
        let entries: Vec<Entry> = match (&self.view, &self.previous) {
            (Some(installed), _) if installed.value.id == view => {
                installed.order.entries(first, last)
            }
            (_, Some((previous, log))) if *previous == view => log
                .values()
                .filter(|entry| (first..=last).contains(&entry.sequence))
                .take(64)
                .cloned()
                .collect(),
            (Some(_) | None, _) => return,
        };
        for entry in entries {
            self.post(from, &Message::Fill { view, entry }, fx);
        }
    }

    pub(super) fn handle_fill(
        &mut self,
        now: Instant,
        from: NodeId,
        view: ViewId,
        entry: Entry,
        fx: &mut dyn Sink,
    ) {
        let blocked = self.acceptor.blocked;
        let proposer = NodeId(self.acceptor.promised.proposer.0);
        let Some(installed) = self.view.as_mut().filter(|v| v.value.id == view) else {
            return;
        };
        let before = installed.order.received();
        installed.order.take_fill(entry);
        if installed.order.received() == before {
            return;
        }
        if blocked && from != self.config.node {
            self.acceptor.promised_at = now;
            self.promise(proposer, fx);
        }
    }

    /// What a heartbeat says about views.
    pub(super) fn compare_views(
        &mut self,
        now: Instant,
        from: NodeId,
        beat: &Heartbeat,
        fx: &mut dyn Sink,
    ) {
        let Some(theirs) = beat.view.filter(|theirs| Some(*theirs) != self.view_id()) else {
            return;
        };
        let pending = self.acceptor.pending.as_ref();
        if pending.is_some_and(|(_, value)| value.id == theirs) {
            return self.learn(now, from, theirs, fx);
        }
        let Some(mine) = self.view_id() else {
            if beat.member {
                self.post(from, &Message::FetchView { id: theirs }, fx);
            }
            return;
        };
        if beat.member {
            return self.learn(now, from, theirs, fx);
        }
        if matches!(self.standing, Standing::Going { .. }) && theirs.number > mine.number {
            return self.end_by_leave(fx);
        }
        if self.standing == Standing::Leaving && theirs.number > mine.number {
            // Perhaps the leave was agreed and this node did not hear of it.
            self.post(from, &Message::FetchView { id: theirs }, fx);
        }
        if !beat.quorate {
            return;
        }
        let text = format!(
            "{} is in view {} without this node, which is in view {}",
            self.config.name(from),
            theirs.number,
            mine.number
        );
        if theirs.number > mine.number {
            self.outvoted(now, &text, fx);
        } else if !self.is_quorate(now) {
            self.suspect_outvoted(now, &text, fx);
        }
    }

    /// Others act in a view that is not newer by its number: they may be about to
    /// follow this node. Not if it stays so.
    fn suspect_outvoted(&mut self, now: Instant, text: &str, fx: &mut dyn Sink) {
        let detection_ms = self.config.detection_ms;
        let known = self
            .outvoted_since
            .filter(|known| now.since(known.last) < detection_ms);
        let since = known.map_or(now, |known| known.since);
        self.outvoted_since = Some(Outvoted { since, last: now });
        if now.since(since) >= detection_ms * 3 {
            self.outvoted(now, text, fx);
        }
    }
}
