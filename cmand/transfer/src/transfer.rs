// SPDX-License-Identifier: GPL-2.0-only
//! One member's part in handing the group's state on. The rules are at the head of the crate.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use cmand_view::GroupView;
use cmand_view::NodeId;

/// A place in the group's order: a group view, or an ask since that view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Number of the group view.
    pub group_view: u64,
    /// Asks delivered since that group view; 0 is the view itself.
    pub asks: u32,
}

/// What a member keeps at most. The same at every member of a group: what one gives up as too
/// large, the others must not count as delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Messages written down while the snapshot is on its way.
    pub heard: usize,
    /// Bytes of them.
    pub heard_bytes: usize,
    /// Parts of a snapshot.
    pub parts: u32,
    /// Bytes of a snapshot.
    pub snapshot_bytes: usize,
}

/// A part of a snapshot, small enough for one message of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<P> {
    /// The place whose state the snapshot shows.
    pub as_of: Mark,
    /// Which part, from 0.
    pub index: u32,
    /// How many there are.
    pub count: u32,
    /// This part of the state.
    pub content: P,
}

/// A snapshot has more parts or bytes than [`Limits`] allow, or no part at all. It cannot be sent:
/// members that wait for it go on waiting, and the operator must be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge {
    /// Its parts.
    pub parts: usize,
    /// Its bytes.
    pub bytes: usize,
}

impl std::fmt::Display for TooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { parts, bytes } = self;
        write!(
            f,
            "the group's state has {parts} parts and {bytes} bytes, which is too much"
        )
    }
}

impl std::error::Error for TooLarge {}

/// How this member came to know the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin<M, P> {
    /// There was none: begin with an empty one.
    Founded {
        /// To be applied to it, in this order.
        heard: Vec<M>,
    },
    /// It came from another member.
    Adopted {
        /// All parts of the snapshot, in order.
        parts: Vec<P>,
        /// To be applied on top, in this order.
        heard: Vec<M>,
    },
}

/// What a new place in the order brought. To be carried out in this order, before anything else is
/// applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn<M, P> {
    /// This member knows the state now.
    pub begin: Option<Begin<M, P>>,
    /// Send the state as it is then, cut by [`Transfer::cut`], as of this mark.
    pub offer: Option<Mark>,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hearing<M> {
    /// Apply it to the state.
    Apply(M),
    /// It is written down until the snapshot has come.
    Kept,
    /// There was too much to write down, and all of it is forgotten. Send an ask to the group: what
    /// is said after that ask will be written down anew, and a snapshot as of it comes.
    GaveUp {
        /// Messages written down until then.
        heard: usize,
        /// Bytes of them.
        bytes: usize,
    },
    /// It is not for this member to apply: it is no member, or its ask is still on its way.
    Missed,
}

#[derive(Debug, Clone)]
enum Knowledge<M> {
    Outside,
    Joining { heard: Vec<(Mark, M)>, bytes: usize },
    Behind,
    Known,
}

/// A snapshot of one sender of which not all parts have come.
#[derive(Debug, Clone)]
struct Partial<P> {
    as_of: Mark,
    count: u32,
    /// Parts that came.
    came: u32,
    bytes: usize,
    /// Their contents, if this member needs them.
    contents: Vec<P>,
}

/// One member's part in handing the group's state on: of messages `M`, and snapshots in parts `P`.
#[derive(Debug, Clone)]
pub struct Transfer<M, P> {
    own: NodeId,
    limits: Limits,
    knowledge: Knowledge<M>,
    members: Vec<NodeId>,
    /// The latest mark.
    mark: Mark,
    /// The mark of each member; those there before us have none, which is earlier than all.
    marks: BTreeMap<NodeId, Mark>,
    /// Members that know the state.
    knowing: BTreeSet<NodeId>,
    /// By sender: its messages come in the order it sent them.
    partial: BTreeMap<NodeId, Partial<P>>,
    /// The mark of each sender's last snapshot.
    offered: BTreeMap<NodeId, Mark>,
    /// The mark of the last snapshot that this member sent, whether it has come back or not.
    sent: Mark,
}

impl<M, P> Transfer<M, P> {
    /// Of a node that is in no group yet.
    #[must_use]
    pub fn new(own: NodeId, limits: Limits) -> Self {
        Self {
            own,
            limits,
            knowledge: Knowledge::Outside,
            members: Vec::new(),
            mark: Mark::default(),
            marks: BTreeMap::new(),
            knowing: BTreeSet::new(),
            partial: BTreeMap::new(),
            offered: BTreeMap::new(),
            sent: Mark::default(),
        }
    }

    /// Whether this member knows the state.
    #[must_use]
    pub fn is_known(&self) -> bool {
        matches!(self.knowledge, Knowledge::Known)
    }

    /// The group's members.
    #[must_use]
    pub fn members(&self) -> &[NodeId] {
        &self.members
    }

    /// Members that know the state, by ascending id. The same at all of them.
    pub fn knowing(&self) -> impl Iterator<Item = NodeId> {
        self.knowing.iter().copied()
    }

    /// The group has a new view.
    pub fn handle_group(&mut self, group: &GroupView) -> Turn<M, P> {
        self.mark = Mark {
            group_view: group.number,
            asks: 0,
        };
        self.members.clone_from(&group.members);
        if group.joined.contains(&self.own) {
            self.join();
        } else if !group.members.contains(&self.own) {
            self.knowledge = Knowledge::Outside;
        }
        let stays = |node: &NodeId| group.members.contains(node) && !group.joined.contains(node);
        self.marks.retain(|node, _| stays(node));
        self.knowing.retain(|node| stays(node));
        self.partial.retain(|node, _| stays(node));
        self.offered.retain(|node, _| stays(node));
        let joined = group.joined.iter().map(|node| (*node, self.mark));
        self.marks.extend(joined);
        self.turn()
    }

    /// This member is new. Whoever was there before is taken to know the state: one who does not
    /// will found it if all who do are gone, or say in an ask that it does not.
    fn join(&mut self) {
        self.begin_to_hear();
        self.marks.clear();
        self.partial.clear();
        self.offered.clear();
        self.sent = Mark::default();
        self.knowing = self.members.iter().copied().collect();
    }

    fn begin_to_hear(&mut self) {
        self.knowledge = Knowledge::Joining {
            heard: Vec::new(),
            bytes: 0,
        };
    }

    /// A member asks anew, in the group's order: as if it had left and joined again here.
    pub fn handle_ask(&mut self, from: NodeId) -> Turn<M, P> {
        if !self.members.contains(&from) || !self.members.contains(&self.own) {
            return Turn {
                begin: None,
                offer: None,
            };
        }
        self.mark.asks = self.mark.asks.saturating_add(1);
        self.marks.insert(from, self.mark);
        self.knowing.remove(&from);
        if from == self.own {
            self.begin_to_hear();
        }
        self.turn()
    }

    /// At each mark: somebody must know the state, and send it to those who do not.
    fn turn(&mut self) -> Turn<M, P> {
        let is_member = self.members.contains(&self.own);
        let begin = (is_member && self.knowing.is_empty())
            .then(|| self.found())
            .flatten();
        let is_first = self.knowing.first() == Some(&self.own) && self.is_known();
        let offers = is_first && self.members.iter().any(|node| self.is_owed(*node));
        Turn {
            begin,
            offer: offers.then_some(self.mark),
        }
    }

    /// Whether a member does not know the state, and what this one has sent will not change that.
    fn is_owed(&self, node: NodeId) -> bool {
        let will_be = self.marks.get(&node).is_none_or(|mark| *mark <= self.sent);
        !self.knowing.contains(&node) && !will_be
    }

    /// Nobody knows the state: those with the earliest mark found it. The others wait for them.
    fn found(&mut self) -> Option<Begin<M, P>> {
        let mark = |node: &NodeId| self.marks.get(node).copied();
        let earliest = self.members.iter().map(mark).min()?;
        let founders = self.members.iter().filter(|node| mark(node) == earliest);
        self.knowing = founders.copied().collect();
        if !self.knowing.contains(&self.own) {
            return None;
        }
        match std::mem::replace(&mut self.knowledge, Knowledge::Known) {
            Knowledge::Joining { heard, .. } => {
                self.partial.clear();
                let heard = heard.into_iter().map(|(_, message)| message).collect();
                Some(Begin::Founded { heard })
            }
            // Its ask is on its way and will make others the founders.
            other @ (Knowledge::Outside | Knowledge::Behind | Knowledge::Known) => {
                self.knowledge = other;
                None
            }
        }
    }

    /// A message of the group. `bytes`: what it costs to keep it.
    pub fn hear(&mut self, message: M, bytes: usize) -> Hearing<M> {
        let mark = self.mark;
        match &mut self.knowledge {
            Knowledge::Known => Hearing::Apply(message),
            Knowledge::Outside | Knowledge::Behind => Hearing::Missed,
            Knowledge::Joining { heard, bytes: sum } => {
                let total = sum.saturating_add(bytes);
                if heard.len() >= self.limits.heard || total > self.limits.heard_bytes {
                    let (heard, bytes) = (heard.len(), *sum);
                    self.knowledge = Knowledge::Behind;
                    return Hearing::GaveUp { heard, bytes };
                }
                heard.push((mark, message));
                *sum = total;
                Hearing::Kept
            }
        }
    }

    /// Cuts a snapshot into what is sent one by one, in this order. With each part of it comes what
    /// it costs to keep.
    ///
    /// # Errors
    /// [`TooLarge`]: nothing may be sent.
    pub fn cut(&mut self, as_of: Mark, parts: Vec<(P, usize)>) -> Result<Vec<Part<P>>, TooLarge> {
        let bytes = parts
            .iter()
            .fold(0_usize, |sum, (_, bytes)| sum.saturating_add(*bytes));
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        if count == 0 || count > self.limits.parts || bytes > self.limits.snapshot_bytes {
            let parts = parts.len();
            return Err(TooLarge { parts, bytes });
        }
        self.sent = as_of;
        let parts = (0..count).zip(parts).map(|(index, (content, _))| Part {
            as_of,
            index,
            count,
            content,
        });
        Ok(parts.collect())
    }

    /// A part of a snapshot, in the group's order. `bytes` as given to [`Transfer::cut`].
    pub fn take(&mut self, from: NodeId, part: Part<P>, bytes: usize) -> Option<Begin<M, P>> {
        let whole = self.collect(from, part, bytes)?;
        let serves = |mark: Option<&Mark>| mark.is_none_or(|mark| *mark <= whole.as_of);
        let served = self
            .members
            .iter()
            .filter(|node| serves(self.marks.get(node)));
        self.knowing.extend(served.copied());
        if !serves(self.marks.get(&self.own)) {
            // For those who joined before us; ours follows.
            return None;
        }
        match std::mem::replace(&mut self.knowledge, Knowledge::Known) {
            Knowledge::Joining { heard, .. } => {
                let came = u32::try_from(whole.contents.len());
                assert_eq!(
                    came,
                    Ok(whole.count),
                    "a snapshot that is needed is kept whole"
                );
                self.partial.values_mut().for_each(Partial::forget);
                let later = heard.into_iter().filter(|(mark, _)| *mark >= whole.as_of);
                Some(Begin::Adopted {
                    parts: whole.contents,
                    heard: later.map(|(_, message)| message).collect(),
                })
            }
            other @ (Knowledge::Outside | Knowledge::Behind | Knowledge::Known) => {
                self.knowledge = other;
                None
            }
        }
    }

    /// Adds a part to what came of that snapshot; answers with the whole. The same at every member
    /// but for the contents, which only those keep who need them.
    fn collect(&mut self, from: NodeId, part: Part<P>, bytes: usize) -> Option<Partial<P>> {
        let Part {
            as_of,
            index,
            count,
            content,
        } = part;
        if !self.knowing.contains(&from) || as_of > self.mark {
            return None;
        }
        if index == 0 {
            let is_old = self.offered.get(&from).is_some_and(|old| as_of <= *old);
            if is_old || count == 0 || count > self.limits.parts {
                return None;
            }
            self.offered.insert(from, as_of);
            let begun = Partial {
                as_of,
                count,
                came: 0,
                bytes: 0,
                contents: Vec::new(),
            };
            self.partial.insert(from, begun);
        }
        let is_needed = matches!(self.knowledge, Knowledge::Joining { .. })
            && self.marks.get(&self.own).is_none_or(|own| *own <= as_of);
        let partial = self.partial.get_mut(&from)?;
        if (as_of, index, count) != (partial.as_of, partial.came, partial.count) {
            return None;
        }
        partial.came += 1;
        partial.bytes = partial.bytes.saturating_add(bytes);
        if is_needed {
            partial.contents.push(content);
        }
        let is_too_large = partial.bytes > self.limits.snapshot_bytes;
        if is_too_large || partial.came == partial.count {
            return self.partial.remove(&from).filter(|_| !is_too_large);
        }
        None
    }
}

impl<P> Partial<P> {
    /// Nobody here needs it: only its end is of interest.
    fn forget(&mut self) {
        self.contents = Vec::new();
    }
}

#[cfg(test)]
mod tests;
