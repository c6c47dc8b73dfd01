// SPDX-License-Identifier: GPL-2.0-only
//! The fence domain's state and how it changes.
//!
//! How the state reaches a daemon that joins is the business of the crate
//! `group-transfer`; what it shows in how many messages, of [`crate::snapshot`].

use std::collections::BTreeMap;
use std::collections::BTreeSet;

pub use group_transfer::Limits;

use group_transfer::Begin;
use group_transfer::Hearing;
use group_transfer::Mark;
use group_transfer::TooLarge;
use group_transfer::Transfer;
use group_transfer::Turn;

use crate::BootId;
use crate::GroupView;
use crate::Incarnation;
use crate::Instant;
use crate::Member;
use crate::NodeId;
use crate::View;
use crate::snapshot::Contents;
use crate::victim::CutOff;
use crate::victim::How;
use crate::victim::Reason;
use crate::victim::Record;
use crate::victim::Success;
use crate::victim::Victim;
use crate::wire::Message;

/// Pause after a failed attempt before the next, milliseconds. Long enough for
/// an operator to read the log line, short beside an agent's own time limit.
pub const RETRY_DELAY_MS: u64 = 3000;

/// Times a failure is logged in full; after that once in [`LOG_EVERY`].
pub const LOG_FULL: u32 = 3;

/// See [`LOG_FULL`].
pub const LOG_EVERY: u32 = 600;

/// A boot that was fenced and is heard all the same makes a victim at most this often,
/// milliseconds: an agent that always lies must not keep the domain busy with nothing else.
pub const RETURN_MS: u64 = 60_000;

/// Why a node is a victim whose boot was fenced before.
const RETURNED: &str = "heard in the boot that was fenced: the agent or the plug lied";

/// Longest reason kept of an accusation, bytes.
pub const REASON_LIMIT: usize = 200;

/// What a joiner keeps while the state is on its way: more changes than hundreds of nodes make in
/// minutes, and the victims of ten times as many nodes as a cluster can have.
pub const LIMITS: Limits = Limits {
    heard: 4096,
    heard_bytes: 1 << 20,
    parts: 64,
    snapshot_bytes: 1 << 20,
};

/// Settings of the domain.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// All configured nodes.
    pub nodes: BTreeSet<NodeId>,
    /// Wait this long after a failure, milliseconds.
    pub post_fail_delay_ms: u64,
    /// Wait this long for nodes that were never seen, milliseconds.
    pub post_join_delay_ms: u64,
    /// Trust that nodes never seen are off.
    pub clean_start: bool,
    /// What is kept while the state is on its way; the same at all daemons.
    pub limits: Limits,
}

/// What the domain wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send this to the group.
    Send(Message),
    /// Run the configured methods against this node; answer with
    /// [`Domain::handle_agent`].
    Fence {
        /// The victim.
        node: NodeId,
        /// Number of the run: its result counts for nothing else.
        run: u64,
        /// Which attempt, from 1.
        attempt: u32,
        /// Which of the node's methods comes first; those before it come last.
        first: u32,
        /// Whether to log it in full.
        verbose: bool,
    },
    /// [`Domain::state`] or [`Domain::wait`] changed.
    Changed,
    /// A request of this node was agreed on.
    Answered {
        /// Its number.
        request: u64,
    },
    /// A node became a victim.
    Accused {
        /// Which.
        node: NodeId,
        /// Why.
        reason: Reason,
    },
    /// A node is a victim no longer.
    Cleared {
        /// Which.
        node: NodeId,
        /// How.
        record: Record,
    },
    /// A node that was fenced is heard in the same boot: how it was fenced is not to
    /// be trusted.
    Returned {
        /// Which.
        node: NodeId,
        /// How it was fenced.
        record: Record,
    },
    /// The domain was founded here or its state arrived.
    Known,
    /// Too much was said before the state arrived: it was asked for anew.
    GaveUp {
        /// Changes written down until then.
        heard: usize,
        /// Bytes of them.
        bytes: usize,
    },
    /// The state is too large to be sent to those who joined: they will not know it.
    Unsent(TooLarge),
}

/// What subscribers are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Number of the last cluster view taken into account; 0 if not known.
    pub view: u64,
    /// Victims by ascending id.
    pub victims: Vec<NodeId>,
}

/// What keeps the next victim from being fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Nothing: there is no victim.
    None,
    /// No majority in reach.
    Quorum,
    /// The domain's state has not arrived.
    Messages,
    /// The delay has not passed, or the pause after a failed attempt.
    Delay,
    /// An agent runs here, or the master sees to it.
    Fencing,
}

/// What changes the state, in the group's order: a joiner writes it down until
/// the state arrives.
#[derive(Debug, Clone)]
enum Change {
    View(View),
    Done {
        node: NodeId,
        victim: Victim,
        record: Record,
    },
    Accuse {
        node: NodeId,
        boot_id: Option<BootId>,
        reason: String,
    },
    Returned {
        node: NodeId,
        incarnation: Incarnation,
        boot_id: BootId,
    },
    Unfence {
        node: NodeId,
    },
    Acknowledge {
        node: NodeId,
        by: NodeId,
        at: u64,
    },
}

impl Change {
    /// What it costs to keep, roughly, bytes.
    fn weight(&self) -> usize {
        let more = match self {
            Self::View(view) => (view.members.len() + view.departed.len()) * size_of::<Member>(),
            Self::Accuse { reason, .. } => reason.len(),
            Self::Done { victim, .. } => victim.reason.to_string().len(),
            Self::Returned { .. } | Self::Unfence { .. } | Self::Acknowledge { .. } => 0,
        };
        size_of::<Self>() + more
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agent {
    Idle,
    /// Against this life of a node; or it has ended well, and the message that
    /// says so is on its way.
    Running {
        node: NodeId,
        incarnation: Option<Incarnation>,
        run: u64,
    },
    /// Failed; not before this time again.
    Pausing(Instant),
}

/// The fence domain as one of its members sees it.
#[derive(Debug)]
pub struct Domain {
    config: Config,
    /// Who is in the domain, and who of them knows its state.
    transfer: Transfer<Change, Contents>,
    view: Option<View>,
    quorate: bool,
    victims: BTreeMap<NodeId, Victim>,
    /// Not before this time; on this node's clock, so not part of the state.
    not_before: BTreeMap<NodeId, Instant>,
    history: BTreeMap<NodeId, Record>,
    /// Boots that made a victim a second time, and when; on this node's clock.
    returned: BTreeMap<NodeId, (BootId, Instant)>,
    agent: Agent,
    /// Agent runs so far.
    runs: u64,
    attempts: BTreeMap<NodeId, u32>,
}

impl Domain {
    /// A domain nobody has joined.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            transfer: Transfer::new(config.node, config.limits),
            config,
            view: None,
            quorate: false,
            victims: BTreeMap::new(),
            not_before: BTreeMap::new(),
            history: BTreeMap::new(),
            returned: BTreeMap::new(),
            agent: Agent::Idle,
            runs: 0,
            attempts: BTreeMap::new(),
        }
    }

    /// What may be told to those who wait for fencing.
    #[must_use]
    pub fn state(&self) -> State {
        match &self.view {
            Some(view) if self.transfer.is_known() => State {
                view: view.number,
                victims: self.victims.keys().copied().collect(),
            },
            Some(_) | None => State::default(),
        }
    }

    /// Victims and why they are.
    pub fn victims(&self) -> impl Iterator<Item = (NodeId, &Victim)> {
        self.victims.iter().map(|(node, victim)| (*node, victim))
    }

    /// How each node was last fenced.
    pub fn history(&self) -> impl Iterator<Item = (NodeId, &Record)> {
        self.history.iter().map(|(node, record)| (*node, record))
    }

    /// Boots that were fenced and must not be heard any more.
    pub fn ended(&self) -> impl Iterator<Item = (NodeId, BootId)> {
        let fenced = self.history.iter();
        let fenced = fenced.filter(|(node, _)| !self.victims.contains_key(node));
        let fenced = fenced.filter(|(_, record)| record.cut_off.is_none());
        fenced.filter_map(|(node, record)| Some((*node, record.boot_id?)))
    }

    /// Nodes that were cut off from storage and must be in no view: in the boot that was cut off,
    /// or in any until they are unfenced.
    pub fn kept_out(&self) -> impl Iterator<Item = (NodeId, Option<BootId>)> {
        let kept = self.history.iter();
        kept.filter_map(|(node, record)| match record.cut_off? {
            CutOff::Fenced => Some((*node, None)),
            CutOff::Unfenced => Some((*node, Some(record.boot_id?))),
        })
    }

    /// Whether the domain's state is known here.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.transfer.is_known()
    }

    /// Nodes of the cluster view.
    pub fn cluster_members(&self) -> impl Iterator<Item = NodeId> {
        self.view
            .iter()
            .flat_map(|view| view.members.iter().map(|member| member.node))
    }

    /// Members of the domain.
    #[must_use]
    pub fn members(&self) -> &[NodeId] {
        self.transfer.members()
    }

    /// Who runs the agents: the lowest member that knows the state and is not
    /// itself a victim. When all are victims, the lowest of them: somebody must
    /// begin, and who is back after that goes on with the rest.
    #[must_use]
    pub fn master(&self) -> Option<NodeId> {
        if !self.transfer.is_known() {
            return None;
        }
        let mut knowing = self.transfer.knowing();
        let sound = knowing.find(|node| !self.victims.contains_key(node));
        sound.or_else(|| self.transfer.knowing().next())
    }

    /// The victim an agent of this node runs against.
    #[must_use]
    pub fn fencing(&self) -> Option<NodeId> {
        match self.agent {
            Agent::Running { node, .. } => Some(node),
            Agent::Idle | Agent::Pausing(_) => None,
        }
    }

    /// What the next victim waits for.
    #[must_use]
    pub fn wait(&self) -> Wait {
        if !self.transfer.is_known() {
            return Wait::Messages;
        }
        if self.victims.is_empty() {
            return Wait::None;
        }
        if !self.quorate {
            return Wait::Quorum;
        }
        match self.agent {
            Agent::Running { .. } => Wait::Fencing,
            Agent::Idle | Agent::Pausing(_) if self.next_timeout().is_some() => Wait::Delay,
            Agent::Idle | Agent::Pausing(_) => Wait::Fencing,
        }
    }

    /// When [`Domain::handle_timeout`] is wanted.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        if !self.may_fence() {
            return None;
        }
        let due = self.targets().map(|(_, due)| due).min()?;
        match self.agent {
            Agent::Running { .. } => None,
            Agent::Idle => Some(due),
            Agent::Pausing(until) => Some(until.max(due)),
        }
    }

    /// Victims that this node could have fenced, and when they are due: all but
    /// itself, which would not live to say so.
    fn targets(&self) -> impl Iterator<Item = (NodeId, Instant)> {
        let own = self.config.node;
        let others = self
            .not_before
            .iter()
            .filter(move |(node, _)| **node != own);
        others.map(|(node, due)| (*node, *due))
    }

    /// A cluster view was agreed on.
    pub fn handle_view(&mut self, now: Instant, view: View, fx: &mut Vec<Effect>) {
        // cmand's word that there is a majority again comes apart.
        self.quorate &= view.quorate;
        self.hear(now, Change::View(view), fx);
        self.act(now, fx);
    }

    /// This node can or cannot reach a majority now.
    pub fn handle_quorum(&mut self, now: Instant, quorate: bool, fx: &mut Vec<Effect>) {
        if self.quorate != quorate {
            self.quorate = quorate;
            fx.push(Effect::Changed);
        }
        self.act(now, fx);
    }

    /// A boot that [`Domain::ended`] names is heard.
    pub fn handle_returned(
        &mut self,
        now: Instant,
        node: NodeId,
        incarnation: Incarnation,
        boot_id: BootId,
        fx: &mut Vec<Effect>,
    ) {
        let recent =
            |(boot, at): &(BootId, Instant)| *boot == boot_id && now.since(*at) < RETURN_MS;
        let is_recent = self.returned.get(&node).is_some_and(recent);
        // What is too early now will be told again.
        if self.transfer.is_known() && self.must_be_over(node, boot_id) && !is_recent {
            fx.push(Effect::Send(Message::Returned {
                node,
                incarnation,
                boot_id,
            }));
        }
    }

    /// Whether this boot was fenced and is no victim's again.
    fn must_be_over(&self, node: NodeId, boot_id: BootId) -> bool {
        self.ended().any(|ended| ended == (node, boot_id))
    }

    /// The members of the domain changed.
    pub fn handle_group(&mut self, now: Instant, group: &GroupView, fx: &mut Vec<Effect>) {
        let turn = self.transfer.handle_group(group);
        self.take_turn(now, turn, fx);
        fx.push(Effect::Changed);
        self.act(now, fx);
    }

    /// A message of the group, in the group's order.
    pub fn handle_message(
        &mut self,
        now: Instant,
        from: NodeId,
        message: Message,
        fx: &mut Vec<Effect>,
    ) {
        match message {
            Message::Snapshot(_) | Message::Part { .. } => {
                if let Some(part) = message.into_part() {
                    let weight = part.content.weight();
                    let begin = self.transfer.take(from, part, weight);
                    self.begin(now, begin, fx);
                }
            }
            Message::Ask {} => {
                let turn = self.transfer.handle_ask(from);
                self.take_turn(now, turn, fx);
            }
            Message::Done {
                node,
                victim,
                record,
            } => {
                self.hear(
                    now,
                    Change::Done {
                        node,
                        victim,
                        record,
                    },
                    fx,
                );
            }
            Message::Accuse {
                node,
                boot_id,
                mut reason,
                request,
            } => {
                reason.truncate(reason.floor_char_boundary(REASON_LIMIT));
                let accuse = Change::Accuse {
                    node,
                    boot_id,
                    reason,
                };
                self.hear(now, accuse, fx);
                self.answer(from, request, fx);
            }
            Message::Returned {
                node,
                incarnation,
                boot_id,
            } => {
                let returned = Change::Returned {
                    node,
                    incarnation,
                    boot_id,
                };
                self.hear(now, returned, fx);
            }
            Message::Unfence { node, request } => {
                self.hear(now, Change::Unfence { node }, fx);
                self.answer(from, request, fx);
            }
            Message::Acknowledge { node, at, request } => {
                self.hear(now, Change::Acknowledge { node, by: from, at }, fx);
                self.answer(from, request, fx);
            }
        }
        self.act(now, fx);
    }

    /// The agents of the [`Effect::Fence`] of this run have ended. `at` is the
    /// wall clock, seconds since the epoch.
    pub fn handle_agent(
        &mut self,
        now: Instant,
        node: NodeId,
        run: u64,
        success: Option<Success>,
        at: u64,
        fx: &mut Vec<Effect>,
    ) {
        let running = self.agent;
        let incarnation = match running {
            Agent::Running {
                run: known,
                incarnation,
                ..
            } if known == run => incarnation,
            // It was cleared while the agent ran. Perhaps it is a victim again: what it does now
            // this run has not ended.
            Agent::Running { .. } | Agent::Idle | Agent::Pausing(_) => return,
        };
        self.agent = Agent::Idle;
        fx.push(Effect::Changed);
        match (self.victims.get(&node), success) {
            // Another life of it failed meanwhile.
            (Some(victim), Some(_)) if victim.incarnation != incarnation => {}
            (Some(victim), Some(success)) => {
                let record = Record {
                    how: How::Agent,
                    by: self.config.node,
                    at,
                    ended: victim.incarnation,
                    boot_id: victim.boot_id,
                    method: Some(success.method),
                    cut_off: (!success.is_power).then_some(CutOff::Fenced),
                };
                fx.push(Effect::Send(Message::Done {
                    node,
                    victim: victim.clone(),
                    record,
                }));
                // Until that message comes back, nothing else is to be done here.
                self.agent = running;
            }
            (Some(_), None) => self.agent = Agent::Pausing(now.after(RETRY_DELAY_MS)),
            (None, _) => {}
        }
        self.act(now, fx);
    }

    /// The time asked for by [`Domain::next_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant, fx: &mut Vec<Effect>) {
        self.act(now, fx);
    }

    fn is_master(&self) -> bool {
        self.master() == Some(self.config.node)
    }

    fn may_fence(&self) -> bool {
        self.quorate && self.is_master()
    }

    fn answer(&self, from: NodeId, request: u64, fx: &mut Vec<Effect>) {
        if from == self.config.node {
            fx.push(Effect::Answered { request });
        }
    }

    fn take_turn(&mut self, now: Instant, turn: Turn<Change, Contents>, fx: &mut Vec<Effect>) {
        self.begin(now, turn.begin, fx);
        if let Some(as_of) = turn.offer {
            self.offer(as_of, fx);
        }
    }

    fn offer(&mut self, as_of: Mark, fx: &mut Vec<Effect>) {
        let parts = Contents::cut(&self.victims, &self.history);
        let weighed = parts.into_iter().map(|part| {
            let weight = part.weight();
            (part, weight)
        });
        match self.transfer.cut(as_of, weighed.collect()) {
            Ok(parts) => {
                let messages = parts.into_iter().map(Message::of_part);
                fx.extend(messages.map(Effect::Send));
            }
            Err(large) => fx.push(Effect::Unsent(large)),
        }
    }

    /// This daemon knows the state now.
    fn begin(
        &mut self,
        now: Instant,
        begin: Option<Begin<Change, Contents>>,
        fx: &mut Vec<Effect>,
    ) {
        let heard = match begin {
            None => return,
            Some(Begin::Founded { heard }) => {
                self.found(now, fx);
                heard
            }
            Some(Begin::Adopted { parts, heard }) => {
                self.adopt(now, parts, fx);
                heard
            }
        };
        for change in heard {
            self.apply(now, change, fx);
        }
        fx.push(Effect::Changed);
    }

    /// Nobody knows anything of nodes outside the view: they may be doing anything.
    fn found(&mut self, now: Instant, fx: &mut Vec<Effect>) {
        self.victims.clear();
        self.history.clear();
        fx.push(Effect::Known);
        if self.config.clean_start {
            return;
        }
        let present: BTreeSet<NodeId> = self.cluster_members().collect();
        let view = self.view.as_ref().map_or(0, |view| view.number);
        let unseen: Vec<NodeId> = self.config.nodes.difference(&present).copied().collect();
        for node in unseen {
            let victim = Victim {
                incarnation: None,
                boot_id: None,
                view,
                reason: Reason::Unseen,
            };
            self.accuse(now, node, victim, fx);
        }
    }

    fn adopt(&mut self, now: Instant, parts: Vec<Contents>, fx: &mut Vec<Effect>) {
        self.victims.clear();
        self.history.clear();
        fx.push(Effect::Known);
        for Contents { victims, history } in parts {
            self.history.extend(history);
            for (node, victim) in victims {
                self.accuse(now, node, victim, fx);
            }
        }
    }

    fn hear(&mut self, now: Instant, change: Change, fx: &mut Vec<Effect>) {
        if let Change::View(view) = &change {
            self.view = Some(view.clone());
            fx.push(Effect::Changed);
        }
        let weight = change.weight();
        match self.transfer.hear(change, weight) {
            Hearing::Apply(change) => self.apply(now, change, fx),
            Hearing::GaveUp { heard, bytes } => {
                fx.push(Effect::GaveUp { heard, bytes });
                fx.push(Effect::Send(Message::Ask {}));
            }
            Hearing::Kept | Hearing::Missed => {}
        }
    }

    fn apply(&mut self, now: Instant, change: Change, fx: &mut Vec<Effect>) {
        match change {
            Change::View(view) => self.apply_view(now, &view, fx),
            Change::Done {
                node,
                victim,
                record,
            } => {
                // A message about an earlier life must not clear a later one.
                let same = |now: &Victim| now.incarnation == victim.incarnation;
                if self.victims.get(&node).is_some_and(same) {
                    self.clear(node, record, fx);
                } else if record.by == self.config.node && self.fencing() == Some(node) {
                    // It went out before that later life failed; nothing else would follow.
                    self.agent = Agent::Idle;
                }
            }
            Change::Accuse {
                node,
                boot_id,
                reason,
            } => {
                let member = self.member(node);
                // An accusation that comes late must not hit the boot after.
                let is_over =
                    member.is_some_and(|member| boot_id.is_some_and(|boot| boot != member.boot));
                let victim = Victim {
                    incarnation: member.map(|member| member.incarnation),
                    boot_id: member.map(|member| member.boot),
                    view: self.view.as_ref().map_or(0, |view| view.number),
                    reason: Reason::Accused(reason),
                };
                let is_known = self.config.nodes.contains(&node);
                if is_known && !is_over && !self.victims.contains_key(&node) {
                    self.accuse(now, node, victim, fx);
                }
            }
            Change::Returned {
                node,
                incarnation,
                boot_id,
            } => {
                let is_back = self.member(node).is_some_and(|now| now.boot != boot_id);
                if !is_back {
                    self.apply_returned(now, node, incarnation, boot_id, fx);
                }
            }
            Change::Unfence { node } => {
                if let Some(record) = self.history.get_mut(&node)
                    && record.cut_off.is_some()
                {
                    record.cut_off = Some(CutOff::Unfenced);
                    fx.push(Effect::Changed);
                }
            }
            Change::Acknowledge { node, by, at } => {
                // An operator who knows that it runs is not to be told so.
                let runs = self.member(node).is_some();
                if let Some(victim) = self.victims.get(&node) {
                    let record = Record {
                        how: How::Override,
                        by,
                        at,
                        ended: victim.incarnation,
                        boot_id: victim.boot_id.filter(|_| !runs),
                        method: None,
                        cut_off: None,
                    };
                    self.clear(node, record, fx);
                }
            }
        }
    }

    /// The word that this boot had ended was wrong.
    fn apply_returned(
        &mut self,
        now: Instant,
        node: NodeId,
        incarnation: Incarnation,
        boot_id: BootId,
        fx: &mut Vec<Effect>,
    ) {
        let Some(record) = self.history.get(&node).copied() else {
            return;
        };
        if !self.must_be_over(node, boot_id) {
            return;
        }
        self.returned.insert(node, (boot_id, now));
        fx.push(Effect::Returned { node, record });
        let victim = Victim {
            incarnation: Some(incarnation),
            boot_id: Some(boot_id),
            view: self.view.as_ref().map_or(0, |view| view.number),
            reason: Reason::Accused(RETURNED.to_owned()),
        };
        self.accuse(now, node, victim, fx);
    }

    fn apply_view(&mut self, now: Instant, view: &View, fx: &mut Vec<Effect>) {
        for member in view.failed() {
            let fenced = self
                .history
                .get(&member.node)
                .and_then(|record| record.ended);
            if fenced == Some(member.incarnation) {
                // It failed because it was fenced.
                continue;
            }
            let victim = Victim {
                incarnation: Some(member.incarnation),
                boot_id: Some(member.boot),
                view: view.number,
                reason: Reason::Failed,
            };
            self.accuse(now, member.node, victim, fx);
        }
        for member in &view.members {
            let victim = self
                .victims
                .get(&member.node)
                .filter(|victim| victim.is_over(member));
            if let Some(ended) = victim.map(|victim| victim.incarnation) {
                let record = Record {
                    how: How::Member,
                    by: member.node,
                    at: 0,
                    ended,
                    boot_id: None,
                    method: None,
                    cut_off: None,
                };
                self.clear(member.node, record, fx);
            }
        }
        // Who was a member already when it was fenced stays one until its silence is noticed.
        let joined = |member: &&Member| view.joined.contains(&member.node);
        for member in view.members.iter().filter(joined) {
            self.apply_returned(now, member.node, member.incarnation, member.boot, fx);
        }
    }

    fn member(&self, node: NodeId) -> Option<&Member> {
        self.view.as_ref()?.member(node)
    }

    fn accuse(&mut self, now: Instant, node: NodeId, victim: Victim, fx: &mut Vec<Effect>) {
        let delay = match victim.reason {
            Reason::Unseen => self.config.post_join_delay_ms,
            Reason::Failed | Reason::Accused(_) => self.config.post_fail_delay_ms,
        };
        self.not_before.insert(node, now.after(delay));
        self.attempts.remove(&node);
        let reason = victim.reason.clone();
        self.victims.insert(node, victim);
        fx.push(Effect::Accused { node, reason });
        fx.push(Effect::Changed);
    }

    fn clear(&mut self, node: NodeId, mut record: Record, fx: &mut Vec<Effect>) {
        // Whatever else is done to it: its storage is off until somebody switches it on.
        let before = self.history.get(&node).and_then(|record| record.cut_off);
        let before = before.filter(|cut_off| *cut_off == CutOff::Fenced);
        record.cut_off = record.cut_off.or(before);
        self.victims.remove(&node);
        self.not_before.remove(&node);
        self.attempts.remove(&node);
        self.history.insert(node, record);
        if self.fencing() == Some(node) {
            self.agent = Agent::Idle;
        }
        fx.push(Effect::Cleared { node, record });
        fx.push(Effect::Changed);
    }

    /// Starts the next agent when nothing speaks against it.
    fn act(&mut self, now: Instant, fx: &mut Vec<Effect>) {
        if !self.may_fence() || self.next_timeout().is_none_or(|due| due > now) {
            return;
        }
        // The one that was tried least often first: a victim whose agent always
        // fails must not keep another from being fenced.
        let tries = |node: &NodeId| self.attempts.get(node).copied().unwrap_or(0);
        let due = self.targets().filter(|(_, due)| *due <= now);
        let Some((node, _)) = due.min_by_key(|(node, _)| tries(node)) else {
            return;
        };
        let attempt = tries(&node).saturating_add(1);
        self.attempts.insert(node, attempt);
        self.runs += 1;
        let run = self.runs;
        let victim = self.victims.get(&node);
        let incarnation = victim.and_then(|victim| victim.incarnation);
        let boot_id = victim.and_then(|victim| victim.boot_id);
        // The method that said it had ended this boot is not to be trusted.
        let lied = self
            .history
            .get(&node)
            .filter(|record| boot_id.is_some() && record.boot_id == boot_id)
            .and_then(|record| record.method);
        let first = lied.map_or(0, |method| method.saturating_add(1));
        self.agent = Agent::Running {
            node,
            incarnation,
            run,
        };
        let verbose = attempt <= LOG_FULL || attempt.is_multiple_of(LOG_EVERY);
        fx.push(Effect::Fence {
            node,
            run,
            attempt,
            first,
            verbose,
        });
        fx.push(Effect::Changed);
    }
}

#[cfg(test)]
mod tests;
