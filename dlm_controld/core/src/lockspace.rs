// SPDX-License-Identifier: GPL-2.0-only
//! One lockspace: its group's newest change and what its kernel does.
//!
//! Holds what is known and says what could be done next; [`crate::Controld`]
//! decides and does it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::Departure;
use crate::GroupView;
use crate::NodeId;
use crate::fencing::Cause;
use crate::report::ChangeReport;
use crate::report::LockspaceReport;
use crate::report::NodeReport;
use crate::report::Wait;

/// Where this node stands with the lockspace's group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The daemons have not agreed on a protocol yet.
    Waiting,
    /// Asked cmand to join.
    Joining,
    /// A member.
    Member,
    /// Asked cmand to leave; a member until the last group view.
    Leaving,
    /// No member any more; the kernel stops.
    Left,
}

/// What the kernel does, as far as it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// Stopped, or never started.
    Stopped,
    /// Told to stop.
    Stopping,
    /// Told to start.
    Started,
}

/// What the kernel's join request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Join {
    /// Not answered.
    Open,
    /// Answered, or gone unanswered.
    Closed,
}

/// A change that has not been started yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// Number of the first group view that was merged into it.
    pub(crate) first: u64,
    /// Number of its group view.
    pub(crate) number: u64,
    /// Cluster view of it.
    pub(crate) view: u64,
    pub(crate) members: Vec<NodeId>,
    /// Whether the own START was sent.
    pub(crate) sent: bool,
    /// Received STARTs, and whether their senders are fresh.
    pub(crate) starts: BTreeMap<NodeId, bool>,
}

impl Change {
    /// Members whose START is not in.
    pub(crate) fn missing(&self) -> Vec<NodeId> {
        let missing = self
            .members
            .iter()
            .filter(|node| !self.starts.contains_key(node));
        missing.copied().collect()
    }

    /// Whether nobody knows who failed before.
    pub(crate) fn is_all_fresh(&self) -> bool {
        self.starts.values().all(|fresh| *fresh)
    }
}

/// A member that failed since recovery last ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    /// Whether it is known to be fenced. Once it was, it stays so: the node may
    /// fail again, but that is another failure.
    pub(crate) fenced: bool,
}

/// What this node remembers of another in this lockspace, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Past {
    pub(crate) departure: Option<Departure>,
    pub(crate) added: u64,
    pub(crate) removed: u64,
}

/// A lockspace that this node's kernel asked for.
#[derive(Debug, Clone)]
pub(crate) struct Lockspace {
    pub(crate) id: u32,
    pub(crate) flags: u32,
    pub(crate) stage: Stage,
    pub(crate) kernel: Kernel,
    pub(crate) join: Join,
    /// The kernel asked to leave and waits for an answer; with the wish that
    /// others recover as after a failure.
    pub(crate) leave: Option<bool>,
    /// Nobody in the kernel wants it any more, and nobody waits for an answer.
    pub(crate) abandoned: bool,
    /// The kernel has it no longer and asked for one of the same name, with these flags: that one
    /// begins when this one has ended.
    pub(crate) again: Option<u32>,
    pub(crate) change: Option<Change>,
    /// The last change that was started.
    pub(crate) started: Option<ChangeReport>,
    /// Members that failed since recovery last ended here.
    pub(crate) failures: BTreeMap<NodeId, Failure>,
    /// Members that departed since the last start.
    pub(crate) departed: BTreeSet<NodeId>,
    /// Members that said they leave and want recovery.
    pub(crate) releasing: BTreeSet<NodeId>,
    pub(crate) past: BTreeMap<NodeId, Past>,
    /// A start is on its way to the kernel.
    pub(crate) starting: bool,
    /// The kernel was started and has not said that recovery ended.
    pub(crate) recovering: bool,
}

impl Lockspace {
    pub(crate) fn new(name: &str, flags: u32) -> Self {
        Self {
            id: crate::global_id(name),
            flags,
            stage: Stage::Waiting,
            kernel: Kernel::Stopped,
            join: Join::Open,
            leave: None,
            abandoned: false,
            again: None,
            change: None,
            started: None,
            failures: BTreeMap::new(),
            departed: BTreeSet::new(),
            releasing: BTreeSet::new(),
            past: BTreeMap::new(),
            starting: false,
            recovering: false,
        }
    }

    /// Whether the kernel wants it no longer, or has it no longer.
    pub(crate) fn is_unwanted(&self) -> bool {
        self.leave.is_some() || self.abandoned
    }

    /// Whether the kernel was never started in it.
    pub(crate) fn is_fresh(&self) -> bool {
        self.started.is_none()
    }

    /// Takes a group view that this node is in; `lost` are those whose daemon
    /// failed before it joined. Returns the members whose daemon failed.
    pub(crate) fn note_change(&mut self, group: &GroupView, lost: &[NodeId]) -> Vec<NodeId> {
        let mut daemons = Vec::new();
        for node in lost {
            self.note_departure(*node, Departure::ProcessFailed, group);
            daemons.push(*node);
        }
        for (node, why) in &group.departed {
            self.note_departure(*node, *why, group);
            if *why == Departure::ProcessFailed {
                daemons.push(*node);
            }
        }
        for node in &group.joined {
            let past = self.past.entry(*node).or_default();
            *past = Past {
                added: group.number,
                ..Past::default()
            };
        }
        for node in &group.members {
            self.past.entry(*node).or_insert(Past {
                added: group.number,
                ..Past::default()
            });
        }
        let first = self
            .change
            .as_ref()
            .map_or(group.number, |change| change.first);
        self.change = Some(Change {
            first,
            number: group.number,
            view: group.view,
            members: group.members.clone(),
            sent: false,
            starts: BTreeMap::new(),
        });
        daemons
    }

    fn note_departure(&mut self, node: NodeId, why: Departure, group: &GroupView) {
        let releasing = self.releasing.remove(&node);
        let cause = match why {
            Departure::Left => releasing.then_some(Cause::Released),
            Departure::NodeFailed => Some(Cause::Node { view: group.view }),
            Departure::ProcessFailed => Some(Cause::Daemon),
        };
        if let Some(cause) = cause {
            let fenced = cause == Cause::Released;
            self.failures.insert(node, Failure { cause, fenced });
        }
        self.departed.insert(node);
        let past = self.past.entry(node).or_default();
        past.departure = Some(why);
        past.removed = group.number;
    }

    /// Failed members that are not known to be fenced.
    pub(crate) fn unfenced(&self) -> Vec<NodeId> {
        let unfenced = self.failures.iter().filter(|(_, failure)| !failure.fenced);
        unfenced.map(|(node, _)| *node).collect()
    }

    /// Members that left and asked for recovery.
    pub(crate) fn released(&self) -> Vec<NodeId> {
        let released = self
            .failures
            .iter()
            .filter(|(_, failure)| failure.cause == Cause::Released);
        released.map(|(node, _)| *node).collect()
    }

    /// ChangeReport of the pending change against the last one that was started.
    pub(crate) fn figures(&self, change: &Change) -> ChangeReport {
        let before = self
            .started
            .as_ref()
            .map_or(&[][..], |started| &started.members);
        let is_new = |node: &&NodeId| !before.contains(node) || self.departed.contains(node);
        let removed = before.iter().filter(|node| self.departed.contains(node));
        let failed = self
            .failures
            .keys()
            .filter(|node| self.departed.contains(node));
        ChangeReport {
            first: change.first,
            number: change.number,
            members: change.members.clone(),
            joined: change.members.iter().filter(is_new).count(),
            removed: removed.count(),
            failed: failed.count(),
        }
    }

    /// Everything about it, for people.
    pub(crate) fn report(&self, name: &str, wait: Wait) -> LockspaceReport {
        LockspaceReport {
            name: name.to_owned(),
            id: self.id,
            flags: self.flags,
            joining: self.join == Join::Open,
            leaving: self.leave.is_some(),
            stopped: self.kernel != Kernel::Started,
            recovering: self.recovering,
            started: self.started.clone(),
            pending: self.change.as_ref().map(|change| self.figures(change)),
            wait,
            nodes: self
                .past
                .iter()
                .map(|(node, past)| self.report_node(*node, past))
                .collect(),
        }
    }

    fn report_node(&self, node: NodeId, past: &Past) -> NodeReport {
        let started = self
            .started
            .as_ref()
            .map_or(&[][..], |started| &started.members);
        let members = self
            .change
            .as_ref()
            .map_or(started, |change| &change.members);
        NodeReport {
            node,
            member: members.contains(&node),
            departure: past.departure,
            start: match &self.change {
                Some(change) => change.starts.contains_key(&node),
                None => started.contains(&node),
            },
            added: past.added,
            removed: past.removed,
            check_fence: self
                .failures
                .get(&node)
                .is_some_and(|failure| !failure.fenced),
        }
    }
}
