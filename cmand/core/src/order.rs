// SPDX-License-Identifier: GPL-2.0-only
//! The order of messages in one view.
//!
//! Members submit chunks to the leader (the member with the lowest id); it gives
//! each a place and sends it to all; they acknowledge; what all have is *stable*
//! and may be delivered. Before a view ends the order is frozen: nothing new is
//! taken, only entries that another member already has.
//!
//! Not here: what chunks mean, and how views end.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use crate::Instant;
use crate::NodeId;
use crate::ViewId;
use crate::wire::Chunk;
use crate::wire::Entry;
use crate::wire::Message;

/// Chunks of one sender that may be on their way at once: enough for a round trip
/// of a fast network, few enough that a leader with 64 members keeps a few MiB.
const WINDOW: u64 = 64;

/// Entries a member keeps beyond the first gap; the leader never has more on the way.
const AHEAD: u64 = WINDOW * 64;

/// Entries sent again at once; more would be lost the same way.
const BATCH: u64 = 16;

/// A member that reports a gap gets it again at most this often.
const GAP_MS: u64 = 3;

/// A completed operation: who sent it, and its bytes.
pub(crate) type Whole = (NodeId, Vec<u8>);

/// Messages to send, filled by the functions of [`Order`].
pub(crate) type Out = Vec<(NodeId, Message)>;

/// What the leader keeps of a member.
#[derive(Debug, Default)]
struct Follower {
    received: u64,
    /// `received` at the last look: no progress since means something is lost.
    looked: u64,
    gap_at: Instant,
    /// Number of its next chunk.
    next: u64,
    /// Chunks that overtook an earlier one.
    early: BTreeMap<u64, Chunk>,
}

/// The order of one view at one member.
#[derive(Debug)]
pub(crate) struct Order {
    view: ViewId,
    me: NodeId,
    leader: NodeId,
    /// Only at the leader: all members, itself included.
    followers: BTreeMap<NodeId, Follower>,
    frozen: bool,
    /// Entries that somebody else may still need.
    log: BTreeMap<u64, Entry>,
    /// All up to here are or were in the log.
    received: u64,
    highest: u64,
    stable: u64,
    delivered: u64,
    /// Operations of which some chunks are delivered.
    partial: BTreeMap<NodeId, Vec<u8>>,
    /// Own chunks, from the first one of the first operation not yet delivered.
    outgoing: VecDeque<Chunk>,
    /// Own chunks of this view that were in `outgoing` and are gone.
    finished: u64,
    sent: u64,
    ordered: u64,
    looked: u64,
    own_delivered: u64,
}

impl Order {
    pub(crate) fn new(
        view: ViewId,
        me: NodeId,
        members: &[NodeId],
        outgoing: VecDeque<Chunk>,
    ) -> Self {
        let leader = members.iter().copied().min().unwrap_or(me);
        let followers = members.iter().filter(|_| leader == me);
        Self {
            view,
            me,
            leader,
            followers: followers
                .map(|node| {
                    (
                        *node,
                        Follower {
                            next: 1,
                            ..Follower::default()
                        },
                    )
                })
                .collect(),
            frozen: false,
            log: BTreeMap::new(),
            received: 0,
            highest: 0,
            stable: 0,
            delivered: 0,
            partial: BTreeMap::new(),
            outgoing,
            finished: 0,
            sent: 0,
            ordered: 0,
            looked: 0,
            own_delivered: 0,
        }
    }

    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    pub(crate) fn stable(&self) -> u64 {
        self.stable
    }

    /// Bytes waiting to be delivered to this node itself.
    pub(crate) fn waiting(&self) -> usize {
        self.outgoing.iter().map(|chunk| chunk.bytes.len()).sum()
    }

    pub(crate) fn freeze(&mut self) {
        self.frozen = true;
    }

    /// Whether something may be lost and must be looked after.
    pub(crate) fn is_busy(&self) -> bool {
        !self.frozen
            && (self.sent > self.ordered
                || self.delivered < self.highest
                || self.followers.values().any(|f| f.received < self.highest))
    }

    /// Queues an operation of this node.
    pub(crate) fn submit(&mut self, chunks: Vec<Chunk>, out: &mut Out) {
        self.outgoing.extend(chunks);
        self.pump(out);
    }

    /// Sends what the window allows.
    pub(crate) fn pump(&mut self, out: &mut Out) {
        while !self.frozen
            && self.sent < self.finished + self.outgoing.len() as u64
            && self.sent < self.own_delivered + WINDOW
        {
            self.sent += 1;
            self.submit_one(self.sent, out);
        }
    }

    fn submit_one(&mut self, number: u64, out: &mut Out) {
        let index = usize::try_from(number - self.finished - 1).unwrap_or(usize::MAX);
        let Some(chunk) = self.outgoing.get(index).cloned() else {
            return;
        };
        if self.leader == self.me {
            self.take_submit(self.me, number, chunk, out);
        } else {
            let view = self.view;
            out.push((
                self.leader,
                Message::Submit {
                    view,
                    number,
                    chunk,
                },
            ));
        }
    }

    /// At the leader: a member wants a chunk ordered.
    pub(crate) fn take_submit(&mut self, from: NodeId, number: u64, chunk: Chunk, out: &mut Out) {
        let Some(follower) = self.followers.get_mut(&from).filter(|_| !self.frozen) else {
            return;
        };
        if number < follower.next || number >= follower.next + WINDOW {
            return;
        }
        follower.early.insert(number, chunk);
        let mut ready = Vec::new();
        while let Some(chunk) = follower.early.remove(&follower.next) {
            ready.push((follower.next, chunk));
            follower.next += 1;
        }
        for (number, chunk) in ready {
            self.place(from, number, chunk, out);
        }
    }

    /// At the leader: gives a chunk its place.
    fn place(&mut self, sender: NodeId, number: u64, chunk: Chunk, out: &mut Out) {
        let entry = Entry {
            sequence: self.highest + 1,
            sender,
            number,
            chunk,
        };
        self.insert(entry.clone());
        for node in self
            .followers
            .keys()
            .copied()
            .filter(|node| *node != self.me)
        {
            out.push((node, self.order(entry.clone())));
        }
        let received = self.received;
        self.take_ack(self.me, received, received, Instant::default(), out);
    }

    fn order(&self, entry: Entry) -> Message {
        Message::Order {
            view: self.view,
            entry,
            stable: self.stable,
        }
    }

    fn insert(&mut self, entry: Entry) {
        let sequence = entry.sequence;
        if sequence <= self.received || sequence > self.received + AHEAD {
            return;
        }
        if entry.sender == self.me {
            self.ordered = self.ordered.max(entry.number);
        }
        self.highest = self.highest.max(sequence);
        self.log.entry(sequence).or_insert(entry);
        while self.log.contains_key(&(self.received + 1)) {
            self.received += 1;
        }
    }

    /// From the leader: an entry.
    pub(crate) fn take_order(&mut self, from: NodeId, entry: Entry, stable: u64, out: &mut Out) {
        if self.frozen || from != self.leader || self.leader == self.me {
            return;
        }
        self.insert(entry);
        self.take_stable(from, stable);
        out.push((
            self.leader,
            Message::Ack {
                view: self.view,
                received: self.received,
                highest: self.highest,
            },
        ));
    }

    /// From any member while the view ends: an entry that this node lacks.
    pub(crate) fn take_fill(&mut self, entry: Entry) {
        self.insert(entry);
    }

    /// At the leader: what a member has.
    pub(crate) fn take_ack(
        &mut self,
        from: NodeId,
        received: u64,
        highest: u64,
        now: Instant,
        out: &mut Out,
    ) {
        let Some(follower) = self.followers.get_mut(&from) else {
            return;
        };
        follower.received = follower.received.max(received.min(self.received));
        let missing = follower.received + 1;
        let gap = highest > follower.received && now.since(follower.gap_at) >= GAP_MS;
        if gap && !self.frozen && from != self.me {
            follower.gap_at = now;
            self.resend(from, missing, highest, out);
        }
        let all = self.followers.values().map(|follower| follower.received);
        let stable = all.min().unwrap_or(0);
        if stable > self.stable {
            self.stable = stable;
            let view = self.view;
            let others = self.followers.keys().filter(|node| **node != self.me);
            out.extend(others.map(|node| (*node, Message::Stable { view, stable })));
        }
    }

    fn resend(&self, to: NodeId, first: u64, last: u64, out: &mut Out) {
        let last = last.min(first.saturating_add(BATCH - 1));
        for entry in self.log.range(first..=last).map(|(_, entry)| entry) {
            out.push((to, self.order(entry.clone())));
        }
    }

    /// From the leader: what everybody has.
    pub(crate) fn take_stable(&mut self, from: NodeId, stable: u64) {
        if from == self.leader {
            self.stable = self.stable.max(stable.min(self.received));
        }
    }

    /// What a heartbeat of this view tells.
    pub(crate) fn take_heartbeat(
        &mut self,
        from: NodeId,
        received: u64,
        stable: u64,
        now: Instant,
        out: &mut Out,
    ) {
        self.take_ack(from, received, received, now, out);
        self.take_stable(from, stable);
    }

    /// Sends again what made no progress since the last look.
    pub(crate) fn look(&mut self, out: &mut Out) {
        if self.frozen {
            return;
        }
        let mut again = Vec::new();
        for (node, follower) in &mut self.followers {
            if *node != self.me
                && follower.received < self.highest
                && follower.looked == follower.received
            {
                again.push((*node, follower.received + 1));
            }
            follower.looked = follower.received;
        }
        for (node, first) in again {
            self.resend(node, first, self.highest, out);
        }
        if self.leader != self.me && self.sent > self.ordered && self.looked == self.ordered {
            let last = self.sent.min(self.ordered + BATCH);
            for number in self.ordered + 1..=last {
                self.submit_one(number, out);
            }
        }
        self.looked = self.ordered;
    }

    /// The next operation that everybody has, in order.
    pub(crate) fn next_stable(&mut self) -> Option<Whole> {
        let limit = self.stable.min(self.received);
        let whole = self.next_up_to(limit);
        // What everybody has is needed by nobody.
        let keep = self.delivered.min(self.stable) + 1;
        self.log = self.log.split_off(&keep);
        whole
    }

    /// The next operation up to a place, stable or not: the view ends there.
    pub(crate) fn next_up_to(&mut self, limit: u64) -> Option<Whole> {
        while self.delivered < limit {
            let entry = self.log.get(&(self.delivered + 1))?.clone();
            self.delivered += 1;
            if entry.sender == self.me {
                self.own_delivered += 1;
            }
            let whole = collect(&mut self.partial, &entry);
            if whole.is_some() && entry.sender == self.me {
                self.finish_own();
            }
            if whole.is_some() {
                return whole;
            }
        }
        None
    }

    fn finish_own(&mut self) {
        while self.finished < self.own_delivered && self.outgoing.pop_front().is_some() {
            self.finished += 1;
        }
    }

    /// The operations that [`Self::next_up_to`] would give, without giving them.
    pub(crate) fn preview(&self, limit: u64) -> Vec<Whole> {
        let mut partial = self.partial.clone();
        let entries = self
            .log
            .range(self.delivered + 1..=limit.max(self.delivered + 1));
        entries
            .filter(|(sequence, _)| **sequence <= limit)
            .filter_map(|(_, entry)| collect(&mut partial, entry))
            .collect()
    }

    /// Entries of this view that are still kept.
    pub(crate) fn entries(&self, first: u64, last: u64) -> Vec<Entry> {
        let last = last.min(first.saturating_add(BATCH * 4 - 1));
        if first > last {
            return Vec::new();
        }
        self.log
            .range(first..=last)
            .map(|(_, e)| e.clone())
            .collect()
    }

    /// Ends the order: own chunks that were not delivered, and the entries others
    /// may still ask for.
    pub(crate) fn end(self) -> (VecDeque<Chunk>, BTreeMap<u64, Entry>) {
        (self.outgoing, self.log)
    }
}

fn collect(partial: &mut BTreeMap<NodeId, Vec<u8>>, entry: &Entry) -> Option<Whole> {
    let bytes = partial.entry(entry.sender).or_default();
    bytes.extend_from_slice(&entry.chunk.bytes);
    if entry.chunk.more {
        return None;
    }
    let bytes = partial.remove(&entry.sender)?;
    Some((entry.sender, bytes))
}
