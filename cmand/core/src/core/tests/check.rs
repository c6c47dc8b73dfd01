// SPDX-License-Identifier: GPL-2.0-only
//! What must always hold; numbers as at the top of the crate.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::Departure;
use crate::Effect;
use crate::GroupView;
use crate::Incarnation;
use crate::Instant;
use crate::NodeId;
use crate::View;

use super::cluster::DETECTION_MS;
use super::cluster::Node;

pub(super) type Life = (NodeId, Incarnation);

/// What one life saw in one view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    Group(GroupView),
    Message(NodeId, Payload),
}

impl Seen {
    /// Whether it is the end of a node's membership.
    fn ends(&self, node: NodeId) -> bool {
        match self {
            Self::Group(view) => !view.members.contains(&node),
            Self::Message(..) => false,
        }
    }

    /// Unique in a run: a number of group views, or a payload.
    fn key(&self) -> (u64, u64) {
        match self {
            Self::Group(view) => (0, view.number),
            Self::Message(_, payload) => (1, payload.0),
        }
    }
}

/// Number and length of a payload: the rest is zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Payload(pub(super) u64, pub(super) usize);

impl Payload {
    pub(super) fn bytes(self) -> Vec<u8> {
        let mut bytes = self.0.to_le_bytes().to_vec();
        bytes.resize(self.1.max(8), 0);
        bytes
    }

    fn of(bytes: &[u8]) -> Self {
        let number = u64::from_le_bytes(*bytes.first_chunk().unwrap());
        let payload = Self(number, bytes.len());
        assert_eq!(payload.bytes(), bytes, "a payload changed on the way");
        payload
    }
}

#[derive(Debug, Default)]
struct Record {
    /// Views in order, each with what was seen in it.
    views: Vec<(View, Vec<Seen>)>,
    sent: Vec<Payload>,
    delivered: BTreeSet<Payload>,
    own_delivered: usize,
    ended: bool,
}

/// Whether a life went on to another view as a member of the group, and what it
/// saw before.
type Part<'a> = (bool, &'a Vec<Seen>);

#[derive(Debug)]
pub(super) struct History {
    /// Nodes go by files of their own: two views at once, and quorums of other sizes, are right.
    pub(super) files_differ: bool,
    log: BTreeMap<NodeId, Vec<String>>,
    /// Answers to questions whether a node lives.
    pub(super) probed: Vec<(u64, bool)>,
    /// Who told of which node that it returned.
    pub(super) returned: Vec<(NodeId, NodeId)>,
    quorum: usize,
    lives: BTreeMap<Life, Record>,
    present: BTreeMap<NodeId, Incarnation>,
    views: BTreeMap<(u64, u64), View>,
    /// Tags of quorate views by number.
    quorate: BTreeMap<u64, u64>,
    /// Which view each view follows, and which follows it.
    before: BTreeMap<(u64, u64), (u64, u64)>,
    after: BTreeMap<(u64, u64), (u64, u64)>,
    split_since: Option<Instant>,
    pub(super) expelled: Vec<NodeId>,
    pub(super) refused: Vec<String>,
}

impl History {
    pub(super) fn new(count: u32) -> Self {
        Self {
            files_differ: false,
            log: BTreeMap::new(),
            probed: Vec::new(),
            returned: Vec::new(),
            quorum: count as usize / 2 + 1,
            lives: BTreeMap::new(),
            present: BTreeMap::new(),
            views: BTreeMap::new(),
            quorate: BTreeMap::new(),
            before: BTreeMap::new(),
            after: BTreeMap::new(),
            split_since: None,
            expelled: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// What a node wrote to its log, in all its lives.
    pub(super) fn logged(&self, node: u32) -> &[String] {
        self.log.get(&NodeId(node)).map_or(&[], Vec::as_slice)
    }

    pub(super) fn begin(&mut self, node: NodeId, incarnation: Incarnation) {
        self.end(node);
        self.present.insert(node, incarnation);
        self.lives.insert((node, incarnation), Record::default());
    }

    pub(super) fn end(&mut self, node: NodeId) {
        if let Some(incarnation) = self.present.remove(&node) {
            self.lives.get_mut(&(node, incarnation)).unwrap().ended = true;
        }
    }

    fn record(&mut self, node: NodeId) -> &mut Record {
        let life = (node, self.present[&node]);
        self.lives.get_mut(&life).unwrap()
    }

    pub(super) fn sent(&mut self, node: NodeId, payload: Payload) {
        self.record(node).sent.push(payload);
    }

    pub(super) fn unsend(&mut self, node: NodeId) {
        self.record(node).sent.pop();
    }

    pub(super) fn note(&mut self, _now: Instant, node: NodeId, effect: Effect) {
        match effect {
            Effect::View(view) => self.note_view(node, view),
            Effect::Group(view) => self.see(node, Seen::Group(view)),
            Effect::Message { from, payload, .. } => {
                self.note_message(node, from, Payload::of(&payload))
            }
            Effect::Expelled { .. } => {
                self.end(node);
                self.expelled.push(node);
            }
            Effect::Refused { reason } => self.refused.push(reason),
            Effect::Send { .. }
            | Effect::Quorum { .. }
            | Effect::Peer { .. }
            | Effect::Rejoining { .. }
            | Effect::Left
            | Effect::Remember { .. } => {}
            Effect::Probed { token, alive } => self.probed.push((token, alive)),
            Effect::Returned { node: other, .. } => self.returned.push((node, other)),
            Effect::Log { text, .. } => self.log.entry(node).or_default().push(text),
        }
    }

    fn see(&mut self, node: NodeId, seen: Seen) {
        let last = self.record(node).views.last_mut();
        last.expect("nothing is seen before the first view")
            .1
            .push(seen);
    }

    fn note_message(&mut self, node: NodeId, from: NodeId, payload: Payload) {
        let record = self.record(node);
        assert!(record.delivered.insert(payload), "rule 3: twice at n{node}");
        if from == node {
            let next = record.sent.get(record.own_delivered);
            assert_eq!(
                next,
                Some(&payload),
                "rule 5: order of n{node}'s own messages"
            );
            record.own_delivered += 1;
        }
        self.see(node, Seen::Message(from, payload));
    }

    fn note_view(&mut self, node: NodeId, view: View) {
        // The same number, the same view (rule 1); what joined is the same too.
        let id = (view.number, view.tag);
        let known = self.views.entry(id).or_insert_with(|| view.clone());
        assert_eq!(*known, view, "rule 1: two views of one identity");
        if view.quorate && !self.files_differ {
            let tag = *self.quorate.entry(view.number).or_insert(view.tag);
            assert_eq!(tag, view.tag, "rule 1: two quorate views of one number");
        }
        let only_left = view.departed.iter().all(|gone| gone.why == Departure::Left);
        let enough = view.members.len() >= self.quorum;
        if !self.files_differ {
            assert!(enough || only_left, "rule 2: illegal {view:?}");
            assert_eq!(
                view.quorate, enough,
                "rule 2: says wrongly whether it is quorate"
            );
        }
        let incarnation = self.present[&node];
        let me = |member: &&crate::Member| (member.node, member.incarnation) == (node, incarnation);
        assert!(
            view.members.iter().any(|member| me(&member)),
            "in a view without it"
        );
        let record = self.record(node);
        if let Some((last, _)) = record.views.last() {
            let last = (last.number, last.tag);
            assert!(last.0 < view.number, "rule 1: numbers grow");
            assert!(!view.joined.contains(&node), "joined a view it came from");
            let before = *self.before.entry(id).or_insert(last);
            assert_eq!(before, last, "rule 1: view {id:?} has two predecessors");
            let after = *self.after.entry(last).or_insert(id);
            assert_eq!(after, id, "rule 1: view {last:?} has two successors");
        } else {
            assert!(
                view.joined.contains(&node),
                "entered a view without joining"
            );
        }
        self.record(node).views.push((view, Vec::new()));
    }

    /// Two parts of the cluster do not act for long in different views.
    pub(super) fn watch(&mut self, now: Instant, nodes: &BTreeMap<NodeId, Node>) {
        let acting = nodes.values().filter(|node| node.paused_until.is_none());
        let acting = acting.filter_map(|node| node.core.as_ref());
        let views: BTreeSet<u64> = acting
            .filter(|core| core.is_quorate(now))
            .filter_map(|core| core.view_id())
            .map(|view| view.number)
            .collect();
        if views.len() < 2 {
            self.split_since = None;
        } else {
            let since = *self.split_since.get_or_insert(now);
            assert!(
                now.since(since) < 2 * DETECTION_MS,
                "split: quorate in {views:?}"
            );
        }
    }

    /// What the present lives sent was delivered (rule 5).
    pub(super) fn all_delivered(&self) -> bool {
        let present = self
            .present
            .iter()
            .map(|(node, life)| &self.lives[&(*node, *life)]);
        present
            .clone()
            .all(|record| record.own_delivered == record.sent.len())
    }

    /// Rule 3 and 4: what lives saw in one view is one sequence. A life may have
    /// joined the group late (it misses the beginning) or have ended early (it
    /// misses the end); lives that went on saw it up to the same end.
    pub(super) fn check_sequences(&self) {
        let mut by_view: BTreeMap<(u64, u64), Vec<Part<'_>>> = BTreeMap::new();
        for ((node, _), record) in &self.lives {
            for (index, (view, seen)) in record.views.iter().enumerate() {
                let stays = seen.last().is_some_and(|last| !last.ends(*node));
                let went_on = index + 1 < record.views.len() && stays;
                by_view
                    .entry((view.number, view.tag))
                    .or_default()
                    .push((went_on, seen));
            }
        }
        for ((view, _), lives) in by_view {
            check_order(view, &lives);
            for (_, went_on) in lives.iter().filter(|(went_on, _)| *went_on) {
                for (_, other) in &lives {
                    check_end(view, went_on, other);
                }
            }
        }
    }

    /// The views of its present life.
    pub(super) fn views(&self, node: u32) -> Vec<&View> {
        let node = NodeId(node);
        let record = &self.lives[&(node, self.present[&node])];
        record.views.iter().map(|(view, _)| view).collect()
    }

    pub(super) fn last_view(&self, node: u32) -> &View {
        self.views(node).last().expect("a view")
    }

    pub(super) fn messages(&self, node: u32) -> Vec<(NodeId, Payload)> {
        let node = NodeId(node);
        let record = &self.lives[&(node, self.present[&node])];
        let seen = record.views.iter().flat_map(|(_, seen)| seen);
        seen.filter_map(|seen| match seen {
            Seen::Message(from, payload) => Some((*from, *payload)),
            Seen::Group(_) => None,
        })
        .collect()
    }

    pub(super) fn groups(&self, node: u32) -> Vec<GroupView> {
        let node = NodeId(node);
        let record = &self.lives[&(node, self.present[&node])];
        let seen = record.views.iter().flat_map(|(_, seen)| seen);
        seen.filter_map(|seen| match seen {
            Seen::Group(view) => Some(view.clone()),
            Seen::Message(..) => None,
        })
        .collect()
    }
}

/// Each entry has one that follows it, at all lives the same.
fn check_order(view: u64, lives: &[Part<'_>]) {
    let mut after = BTreeMap::new();
    let mut before = BTreeMap::new();
    for pair in lives.iter().flat_map(|(_, seen)| seen.windows(2)) {
        let next = *after.entry(pair[0].key()).or_insert(&pair[1]);
        assert_eq!(next, &pair[1], "rule 3: view {view}: two orders");
        let last = *before.entry(pair[1].key()).or_insert(&pair[0]);
        assert_eq!(last, &pair[0], "rule 3: view {view}: two orders");
    }
}

/// A life that went on saw everything another life saw, except before it joined.
fn check_end(view: u64, went_on: &[Seen], other: &[Seen]) {
    let Some(last) = other.last() else {
        return;
    };
    let keys: BTreeSet<_> = went_on.iter().map(Seen::key).collect();
    let meet = other.iter().any(|seen| keys.contains(&seen.key()));
    let late = matches!(&went_on[0], Seen::Group(view) if !view.joined.is_empty());
    assert!(
        keys.contains(&last.key()) || (!meet && late),
        "rule 4: view {view}: {last:?} was delivered, but not to a life that went on"
    );
}
