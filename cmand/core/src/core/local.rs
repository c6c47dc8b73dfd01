// SPDX-License-Identifier: GPL-2.0-only
//! Requests of local clients, and the operations that members agreed on.

use std::collections::BTreeSet;

use super::Core;
use super::Standing;
use super::log;
use crate::Departure;
use crate::Effect;
use crate::GROUP_NAME_LIMIT;
use crate::GroupView;
use crate::Instant;
use crate::Level;
use crate::NodeId;
use crate::PAYLOAD_LIMIT;
use crate::RequestError;
use crate::Sink;
use crate::ViewId;
use crate::groups::Change;
use crate::groups::GROUP_LIMIT;
use crate::groups::Groups;
use crate::groups::Operation;

/// Most bytes that may wait to be delivered; a thousand messages of 4 KiB. Who
/// sends faster than the cluster delivers is told to wait.
const WAITING_LIMIT: usize = 4 * 1024 * 1024;

/// Where this node stands in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LocalGroup {
    /// Its join is not agreed yet.
    Joining,
    /// A member.
    Member,
    /// Its leave is not agreed yet.
    Leaving,
}

/// What an operation came to.
enum Outcome {
    Changed(Change),
    Message(String, Vec<u8>),
    /// The sender leaves the cluster.
    Leaves,
    Nothing,
}

/// Applies an operation; the same at every member.
fn outcome(
    groups: &mut Groups,
    leaving: &mut BTreeSet<NodeId>,
    sender: NodeId,
    bytes: &[u8],
) -> Outcome {
    let changed = |change: Option<Change>| change.map_or(Outcome::Nothing, Outcome::Changed);
    match Operation::decode(bytes) {
        Ok(Operation::Join(group)) => changed(groups.join(&group, sender)),
        Ok(Operation::Leave(group)) => changed(groups.depart(&group, sender, Departure::Left)),
        Ok(Operation::Fail(group)) => {
            changed(groups.depart(&group, sender, Departure::ProcessFailed))
        }
        Ok(Operation::Send(group, payload)) if groups.has(&group, sender) => {
            Outcome::Message(group, payload)
        }
        Ok(Operation::LeaveCluster) => {
            leaving.insert(sender);
            Outcome::Leaves
        }
        // A message of a client that left meanwhile, or nonsense of an authentic
        // member: the same nothing everywhere.
        Ok(Operation::Send(..)) | Err(_) => Outcome::Nothing,
    }
}

/// Applies an operation without telling anybody.
pub(super) fn apply(
    groups: &mut Groups,
    leaving: &mut BTreeSet<NodeId>,
    sender: NodeId,
    bytes: &[u8],
) {
    outcome(groups, leaving, sender, bytes);
}

/// The view of a group, if this node is a member or was one until now.
pub(super) fn group_view(change: &Change, me: NodeId, view: Option<ViewId>) -> Option<GroupView> {
    change.concerns(me).then(|| GroupView {
        group: change.group.clone(),
        number: change.number,
        view: view.map_or(0, |view| view.number),
        members: change.members.clone(),
        joined: change.joined.clone(),
        departed: change.departed.clone(),
        lost: change.lost.clone(),
    })
}

impl Core {
    /// A local client joins a group. A group has one member per node. The view
    /// with this node in it follows.
    ///
    /// # Errors
    /// [`RequestError`]; nothing changed.
    pub fn join_group(
        &mut self,
        now: Instant,
        group: &str,
        fx: &mut dyn Sink,
    ) -> Result<(), RequestError> {
        self.check_open()?;
        if group.is_empty() || group.len() > GROUP_NAME_LIMIT {
            return Err(RequestError::GroupName);
        }
        if self.local.contains_key(group) {
            return Err(RequestError::AlreadyMember);
        }
        let groups = self.view.as_ref().map(|view| &view.groups);
        if self.local.len() >= GROUP_LIMIT || groups.is_some_and(|g| g.count() >= GROUP_LIMIT) {
            return Err(RequestError::TooManyGroups);
        }
        self.local.insert(group.to_owned(), LocalGroup::Joining);
        self.submit(now, &Operation::Join(group.to_owned()), fx);
        Ok(())
    }

    /// A local client leaves a group. A last view without this node follows.
    ///
    /// # Errors
    /// [`RequestError`]; nothing changed.
    pub fn leave_group(
        &mut self,
        now: Instant,
        group: &str,
        fx: &mut dyn Sink,
    ) -> Result<(), RequestError> {
        self.end_membership(now, group, Operation::Leave(group.to_owned()), fx)
    }

    /// A local client is gone without leaving a group.
    ///
    /// # Errors
    /// [`RequestError`]; nothing changed.
    pub fn fail_group(
        &mut self,
        now: Instant,
        group: &str,
        fx: &mut dyn Sink,
    ) -> Result<(), RequestError> {
        self.end_membership(now, group, Operation::Fail(group.to_owned()), fx)
    }

    fn end_membership(
        &mut self,
        now: Instant,
        group: &str,
        operation: Operation,
        fx: &mut dyn Sink,
    ) -> Result<(), RequestError> {
        self.check_open()?;
        match self.local.get_mut(group) {
            Some(state @ (LocalGroup::Joining | LocalGroup::Member)) => {
                *state = LocalGroup::Leaving;
            }
            Some(LocalGroup::Leaving) | None => return Err(RequestError::NotMember),
        }
        self.submit(now, &operation, fx);
        Ok(())
    }

    /// Sends to all members of a joined group, this node included.
    ///
    /// # Errors
    /// [`RequestError`]; nothing changed.
    pub fn send(
        &mut self,
        now: Instant,
        group: &str,
        payload: &[u8],
        fx: &mut dyn Sink,
    ) -> Result<(), RequestError> {
        self.check_open()?;
        match self.local.get(group) {
            Some(LocalGroup::Joining | LocalGroup::Member) => {}
            Some(LocalGroup::Leaving) | None => return Err(RequestError::NotMember),
        }
        if payload.len() > PAYLOAD_LIMIT {
            return Err(RequestError::PayloadLength);
        }
        if self.waiting() + payload.len() > WAITING_LIMIT {
            return Err(RequestError::Full);
        }
        let operation = Operation::Send(group.to_owned(), payload.to_vec());
        self.submit(now, &operation, fx);
        Ok(())
    }

    /// Leaves the cluster cleanly; [`Effect::Left`] follows. Where it is forced,
    /// local members of groups fail before: what they hold is not given up.
    ///
    /// # Errors
    /// [`RequestError::GroupsJoined`] unless forced; nothing changed.
    pub fn leave(
        &mut self,
        now: Instant,
        force: bool,
        fx: &mut dyn Sink,
    ) -> Result<(), RequestError> {
        self.check_open()?;
        if !force && !self.local.is_empty() {
            return Err(RequestError::GroupsJoined);
        }
        if self.standing == Standing::Joining {
            self.end_by_leave(fx);
            return Ok(());
        }
        for group in self.groups() {
            // Those that are leaving already stay so.
            let _ = self.fail_group(now, &group, fx);
        }
        self.standing = Standing::Leaving;
        self.changed = true;
        self.submit(now, &Operation::LeaveCluster, fx);
        Ok(())
    }

    fn check_open(&self) -> Result<(), RequestError> {
        match self.standing {
            Standing::Joining | Standing::Member => Ok(()),
            Standing::Leaving
            | Standing::Going { .. }
            | Standing::Left
            | Standing::Expelled
            | Standing::Refused => Err(RequestError::Ended),
        }
    }

    fn waiting(&self) -> usize {
        let early: usize = self.waiting.iter().map(|chunk| chunk.bytes.len()).sum();
        early + self.view.as_ref().map_or(0, |view| view.order.waiting())
    }

    fn submit(&mut self, now: Instant, operation: &Operation, fx: &mut dyn Sink) {
        self.waiting.extend(operation.chunks());
        self.pump(fx);
        self.settle(now, fx);
    }

    /// Hands waiting chunks to the order of the view, if there is one.
    pub(super) fn pump(&mut self, fx: &mut dyn Sink) {
        let mut out = Vec::new();
        if let Some(installed) = &mut self.view {
            let chunks = self.waiting.drain(..).collect();
            installed.order.submit(chunks, &mut out);
        }
        self.post_all(out, fx);
    }

    /// Delivers what every member has.
    pub(super) fn deliver(&mut self, now: Instant, fx: &mut dyn Sink) {
        let mut any = false;
        while let Some((sender, bytes)) = self
            .view
            .as_mut()
            .and_then(|installed| installed.order.next_stable())
        {
            any = true;
            self.execute(now, sender, &bytes, fx);
        }
        if any {
            self.pump(fx);
        }
        self.look_after_leave(now, fx);
    }

    /// Carries out an agreed operation.
    pub(super) fn execute(
        &mut self,
        now: Instant,
        sender: NodeId,
        bytes: &[u8],
        fx: &mut dyn Sink,
    ) {
        let me = self.config.node;
        let Some(installed) = &mut self.view else {
            return;
        };
        match outcome(&mut installed.groups, &mut installed.leaving, sender, bytes) {
            Outcome::Changed(change) => {
                if sender == me {
                    self.change_local(&change);
                }
                self.tell_group(&change, fx);
            }
            Outcome::Message(group, payload) => {
                if installed.groups.has(&group, me) {
                    fx.push(Effect::Message {
                        group,
                        from: sender,
                        payload,
                    });
                }
            }
            Outcome::Leaves => {
                self.changed = true;
                log(fx, Level::Info, format!("node leaves: node={sender}"));
                if sender == me {
                    self.standing = Standing::Going { since: now };
                }
            }
            Outcome::Nothing => {
                if sender == me {
                    self.give_up_local(bytes, fx);
                }
            }
        }
    }

    fn change_local(&mut self, change: &Change) {
        if change.joined.is_empty() {
            self.local.remove(&change.group);
        } else if let Some(state @ LocalGroup::Joining) = self.local.get_mut(&change.group) {
            *state = LocalGroup::Member;
        }
    }

    /// An own operation came to nothing: a join over the limit, or the end of one.
    fn give_up_local(&mut self, bytes: &[u8], fx: &mut dyn Sink) {
        match Operation::decode(bytes) {
            Ok(Operation::Join(group) | Operation::Leave(group) | Operation::Fail(group)) => {
                self.local.remove(&group);
                let text = format!("group not joined: too many groups: group={group:?}");
                log(fx, Level::Warn, text);
            }
            Ok(Operation::Send(..) | Operation::LeaveCluster) | Err(_) => {}
        }
    }

    /// Groups this node is a member of, or becoming one.
    #[must_use]
    pub fn groups(&self) -> Vec<String> {
        self.local.keys().cloned().collect()
    }
}
