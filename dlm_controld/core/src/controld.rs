// SPDX-License-Identifier: GPL-2.0-only
//! All lockspaces of this node, and what they have in common: the view, quorum,
//! fencing and the own group.
//!
//! Every input may let any lockspace go on, so each ends in [`Controld::advance`],
//! which takes the lockspaces by name and does what their state allows.

mod conditions;

use std::collections::BTreeMap;

use crate::BootId;
use crate::Departure;
use crate::GROUP_PREFIX;
use crate::GroupView;
use crate::Instant;
use crate::NodeId;
use crate::View;
use crate::effect::Effect;
use crate::effect::Notice;
use crate::effect::Start;
use crate::fencing::ACCUSE_AGAIN_MS;
use crate::fencing::FenceState;
use crate::fencing::Fencing;
use crate::lockspace::Join;
use crate::lockspace::Kernel;
use crate::lockspace::Lockspace;
use crate::lockspace::Stage;
use crate::lockspace_group;
use crate::own_group::Agreement;
use crate::own_group::OWN_GROUP;
use crate::own_group::OwnGroup;
use crate::report::LockspaceReport;
use crate::report::Wait;
use crate::wire::Message;
use crate::wire::Range;

use conditions::Step;

/// `EACCES`: what a join ends with that cmand refuses.
const EACCES: i32 = 13;

/// Settings.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Versions of the choreography it can follow; [`crate::wire::PROTOCOL_RANGE`].
    pub protocol: Range,
}

/// dlm_controld's decisions on one node.
#[derive(Debug)]
pub struct Controld {
    config: Config,
    view: Option<View>,
    quorate: bool,
    halted: bool,
    fencing: Fencing,
    own: OwnGroup,
    lockspaces: BTreeMap<String, Lockspace>,
    /// What each lockspace was last said to wait for.
    told: BTreeMap<String, Wait>,
}

impl Controld {
    /// A daemon that knows nothing yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            view: None,
            quorate: false,
            halted: false,
            fencing: Fencing::default(),
            own: OwnGroup::default(),
            lockspaces: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    /// Begins: joins the own group.
    pub fn handle_begin(&mut self, fx: &mut Vec<Effect>) {
        fx.push(Effect::GroupJoin {
            group: OWN_GROUP.into(),
        });
    }

    /// A new cluster view.
    pub fn handle_view(&mut self, now: Instant, view: View, fx: &mut Vec<Effect>) {
        self.fencing.handle_view(&view);
        self.view = Some(view);
        self.advance(now, fx);
    }

    /// The quorum state as this node sees it.
    pub fn handle_quorum(&mut self, now: Instant, quorate: bool, fx: &mut Vec<Effect>) {
        self.quorate = quorate;
        self.advance(now, fx);
    }

    /// fenced's state.
    pub fn handle_fence(&mut self, now: Instant, state: FenceState, fx: &mut Vec<Effect>) {
        self.fencing.handle_state(state);
        self.advance(now, fx);
    }

    /// A view of a joined group.
    pub fn handle_group(&mut self, now: Instant, group: &GroupView, fx: &mut Vec<Effect>) {
        if group.group == OWN_GROUP {
            self.own_group_view(now, group, fx);
        } else if let Some(name) = group.group.strip_prefix(GROUP_PREFIX) {
            self.lockspace_group_view(now, name, group, fx);
        }
        self.advance(now, fx);
    }

    /// A message to a joined group.
    pub fn handle_message(
        &mut self,
        now: Instant,
        group: &str,
        from: NodeId,
        payload: &[u8],
        fx: &mut Vec<Effect>,
    ) {
        match Message::decode(payload) {
            Ok(message) => self.take_message(now, group, from, message, fx),
            Err(error) => dropped(group, from, &error, fx),
        }
        self.advance(now, fx);
    }

    /// A program or file system creates a lockspace and waits.
    pub fn handle_join(&mut self, now: Instant, name: &str, flags: u32, fx: &mut Vec<Effect>) {
        if let Some(lockspace) = self.lockspaces.get_mut(name) {
            if lockspace.join == Join::Open && !lockspace.is_unwanted() {
                let lockspace = name.to_owned();
                let what = "second join of a lockspace that is being joined";
                return fx.push(Effect::Notice(Notice::Odd { lockspace, what }));
            }
            // The task that left it, or waited to join it, was killed, and the kernel has let go of
            // it: whoever asks now must not wait for an answer that is nobody's.
            lockspace.again = Some(flags);
            lockspace.abandoned = true;
            lockspace.join = Join::Closed;
            let lockspace = name.to_owned();
            let what = "join of a lockspace that is still being left";
            fx.push(Effect::Notice(Notice::Odd { lockspace, what }));
            return self.advance(now, fx);
        }
        self.lockspaces
            .insert(name.to_owned(), Lockspace::new(name, flags));
        self.announce(fx);
        self.advance(now, fx);
    }

    /// The last user releases a lockspace and waits.
    pub fn handle_leave(&mut self, now: Instant, name: &str, recover: bool, fx: &mut Vec<Effect>) {
        match self.lockspaces.get_mut(name) {
            // The one that is asked for again has not begun: there is nothing to leave.
            Some(lockspace) if lockspace.again.is_some() => {
                lockspace.again = None;
                fx.push(Effect::Answer {
                    lockspace: name.to_owned(),
                    result: 0,
                });
            }
            Some(lockspace) if lockspace.leave.is_none() => lockspace.leave = Some(recover),
            Some(_) => {
                let lockspace = name.to_owned();
                let what = "second leave of a lockspace";
                return fx.push(Effect::Notice(Notice::Odd { lockspace, what }));
            }
            None => {
                let lockspace = name.to_owned();
                let what = "leave of a lockspace it never joined";
                fx.push(Effect::Notice(Notice::Odd {
                    lockspace: lockspace.clone(),
                    what,
                }));
                return fx.push(Effect::Answer {
                    lockspace,
                    result: 0,
                });
            }
        }
        self.advance(now, fx);
    }

    /// The kernel's request is pending no more, although it was not answered: its
    /// task was killed.
    pub fn handle_abandoned(&mut self, now: Instant, name: &str, fx: &mut Vec<Effect>) {
        if let Some(lockspace) = self.lockspaces.get_mut(name) {
            lockspace.again = None;
            lockspace.abandoned = true;
            lockspace.join = Join::Closed;
            self.advance(now, fx);
        }
    }

    /// cmand does not let this node join a lockspace's group.
    pub fn handle_join_refused(&mut self, now: Instant, name: &str, fx: &mut Vec<Effect>) {
        let joining = self
            .lockspaces
            .get(name)
            .is_some_and(|ls| ls.stage == Stage::Joining);
        if joining {
            self.finish(name, -EACCES, fx);
            self.advance(now, fx);
        }
    }

    /// The kernel has stopped a lockspace.
    pub fn handle_stopped(&mut self, now: Instant, name: &str, fx: &mut Vec<Effect>) {
        if let Some(lockspace) = self.lockspaces.get_mut(name)
            && lockspace.kernel == Kernel::Stopping
        {
            lockspace.kernel = Kernel::Stopped;
            lockspace.recovering = false;
        }
        self.advance(now, fx);
    }

    /// The kernel accepted a start.
    pub fn handle_started(&mut self, now: Instant, name: &str, fx: &mut Vec<Effect>) {
        if let Some(lockspace) = self.lockspaces.get_mut(name) {
            lockspace.starting = false;
            if lockspace.join == Join::Open {
                lockspace.join = Join::Closed;
                let lockspace = name.to_owned();
                fx.push(Effect::Answer {
                    lockspace,
                    result: 0,
                });
            }
        }
        self.advance(now, fx);
    }

    /// The kernel refused a start. A joiner is told; one that ran before cannot
    /// go on, and its peers wait for it.
    pub fn handle_start_failed(
        &mut self,
        now: Instant,
        name: &str,
        result: i32,
        fx: &mut Vec<Effect>,
    ) {
        let Some(lockspace) = self.lockspaces.get_mut(name) else {
            return;
        };
        lockspace.starting = false;
        if lockspace.join == Join::Closed {
            let lockspace = name.to_owned();
            return fx.push(Effect::Notice(Notice::Stuck { lockspace, result }));
        }
        lockspace.join = Join::Closed;
        lockspace.abandoned = true;
        lockspace.kernel = Kernel::Stopped;
        fx.push(Effect::Answer {
            lockspace: name.to_owned(),
            result,
        });
        self.advance(now, fx);
    }

    /// A recovery ended well; a stop that was asked for since makes that void.
    pub fn handle_recovered(&mut self, name: &str) {
        if let Some(lockspace) = self.lockspaces.get_mut(name)
            && lockspace.kernel == Kernel::Started
        {
            lockspace.recovering = false;
            // Who departed since is a matter of the next change.
            let departed = &lockspace.departed;
            lockspace.failures.retain(|node, _| departed.contains(node));
        }
    }

    /// The time asked for by [`Controld::next_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant, fx: &mut Vec<Effect>) {
        self.accuse_due(now, fx);
    }

    /// When [`Controld::handle_timeout`] wants to be called.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.fencing.next_due()
    }

    /// Stops everything for good: this node has lost what it needs to decide.
    pub fn halt(&mut self, fx: &mut Vec<Effect>) {
        self.halted = true;
        for (name, lockspace) in &mut self.lockspaces {
            stop(name, lockspace, fx);
        }
    }

    /// Whether this node has lockspaces, in whatever state.
    #[must_use]
    pub fn has_lockspaces(&self) -> bool {
        !self.lockspaces.is_empty()
    }

    /// The agreed protocol.
    #[must_use]
    pub fn protocol(&self) -> Option<u16> {
        self.own.running()
    }

    /// Nodes that run this daemon.
    pub fn daemons(&self) -> impl Iterator<Item = NodeId> {
        self.own.members().iter().copied()
    }

    /// The cluster view.
    #[must_use]
    pub fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    /// Whether this node may act for the cluster.
    #[must_use]
    pub fn is_quorate(&self) -> bool {
        self.quorate
    }

    /// What fenced said last.
    #[must_use]
    pub fn fence_state(&self) -> &FenceState {
        self.fencing.state()
    }

    /// Nodes whose daemon failed and that are not known to be fenced.
    #[must_use]
    pub fn accused(&self) -> Vec<NodeId> {
        self.fencing.accused().into_keys().collect()
    }

    /// All lockspaces by name.
    #[must_use]
    pub fn report(&self) -> Vec<LockspaceReport> {
        self.lockspaces
            .iter()
            .map(|(name, lockspace)| {
                lockspace.report(name, self.obstacle(lockspace).unwrap_or(Wait::None))
            })
            .collect()
    }

    fn own_group_view(&mut self, now: Instant, group: &GroupView, fx: &mut Vec<Effect>) {
        for (node, why) in &group.departed {
            let holds = self.own.depart(*node);
            if holds && *why == Departure::ProcessFailed {
                self.accuse(now, *node);
            }
        }
        for node in &group.joined {
            self.fencing.absolve(*node);
        }
        self.own
            .set_members(&group.members, &group.joined, self.config.node);
        if group.members.contains(&self.config.node) && !group.joined.is_empty() {
            let message = Message::Protocol {
                range: self.config.protocol,
                running: self.own.running(),
                holds: self.own.announced(),
                unfenced: self.fencing.accused(),
            };
            fx.push(Effect::Send {
                group: OWN_GROUP.into(),
                message,
            });
        }
    }

    fn lockspace_group_view(
        &mut self,
        now: Instant,
        name: &str,
        group: &GroupView,
        fx: &mut Vec<Effect>,
    ) {
        let Some(lockspace) = self.lockspaces.get_mut(name) else {
            return;
        };
        if !group.members.contains(&self.config.node) {
            lockspace.stage = Stage::Left;
            lockspace.change = None;
            return stop(name, lockspace, fx);
        }
        if lockspace.stage == Stage::Joining {
            lockspace.stage = Stage::Member;
        }
        stop(name, lockspace, fx);
        let joins = group.joined.contains(&self.config.node);
        // A daemon joins the own group only when its kernel has no lockspaces,
        // and cmand lets the one before fail there first: nothing is left.
        let is_back = |node: &&NodeId| self.own.members().contains(node);
        let lost = group.lost.iter().filter(|node| joins && !is_back(node));
        let lost: Vec<NodeId> = lost.copied().collect();
        for node in lockspace.note_change(group, &lost) {
            self.accuse(now, node);
        }
        fx.push(Effect::Notice(Notice::Changing {
            lockspace: name.to_owned(),
            change: group.number,
            members: group.members.clone(),
        }));
    }

    fn take_message(
        &mut self,
        now: Instant,
        group: &str,
        from: NodeId,
        message: Message,
        fx: &mut Vec<Effect>,
    ) {
        let name = group.strip_prefix(GROUP_PREFIX);
        let lockspace = name.and_then(|name| self.lockspaces.get_mut(name));
        match message {
            Message::Protocol {
                range,
                running,
                holds,
                unfenced,
            } if group == OWN_GROUP => {
                self.take_introduction(now, from, (range, running, holds), unfenced, fx);
            }
            Message::Holds { holds } if group == OWN_GROUP => {
                self.own.set_holds(from, holds, from == self.config.node);
            }
            Message::Start { change, fresh } if name.is_some() => {
                let pending = lockspace.and_then(|lockspace| lockspace.change.as_mut());
                // One of an older change is void; one of a newer cannot be: the
                // group view comes first.
                if let Some(pending) = pending.filter(|pending| pending.number == change) {
                    pending.starts.insert(from, fresh);
                }
            }
            Message::Leaving if name.is_some() => {
                if let Some(lockspace) = lockspace {
                    lockspace.releasing.insert(from);
                }
            }
            Message::Protocol { .. }
            | Message::Holds { .. }
            | Message::Start { .. }
            | Message::Leaving => dropped(group, from, &"sent to the wrong group", fx),
        }
    }

    fn take_introduction(
        &mut self,
        now: Instant,
        from: NodeId,
        (range, running, holds): (Range, Option<u16>, bool),
        unfenced: BTreeMap<NodeId, Option<BootId>>,
        fx: &mut Vec<Effect>,
    ) {
        self.own.note_holds(from, holds);
        if self.own.running().is_none() {
            let members = self.own.members();
            for (node, boot_id) in unfenced
                .into_iter()
                .filter(|(node, _)| !members.contains(node))
            {
                self.fencing.inherit(now, node, boot_id, self.view.as_ref());
            }
        }
        match self
            .own
            .introduce(from, range, running, self.config.protocol)
        {
            Agreement::Pending => {}
            Agreement::Agreed(version) => fx.push(Effect::Notice(Notice::Agreed { version })),
            Agreement::Refused(version) => fx.push(Effect::Notice(Notice::Refused { version })),
        }
    }

    /// Tells the others when this node begins or ceases to have lockspaces.
    fn announce(&mut self, fx: &mut Vec<Effect>) {
        let holds = self.has_lockspaces();
        let is_member = self.own.members().contains(&self.config.node);
        if is_member && holds != self.own.announced() {
            self.own.announce(holds);
            let message = Message::Holds { holds };
            fx.push(Effect::Send {
                group: OWN_GROUP.into(),
                message,
            });
        }
    }

    /// Has a node fenced whose daemon failed: the lowest of the others asks at
    /// once, the rest only if that is not heard.
    fn accuse(&mut self, now: Instant, node: NodeId) {
        let accused = |other: &&NodeId| **other == node || self.fencing.is_accused(**other);
        let lowest = self.own.members().iter().find(|other| !accused(other));
        let at_once = lowest == Some(&self.config.node);
        let due = if at_once {
            now
        } else {
            now.after(ACCUSE_AGAIN_MS)
        };
        self.fencing.accuse(due, node, self.view.as_ref());
    }

    fn accuse_due(&mut self, now: Instant, fx: &mut Vec<Effect>) {
        if self.halted {
            return;
        }
        for (node, boot_id) in self.fencing.take_due(now) {
            let reason = "dlm_controld failed with lockspaces in the kernel".to_owned();
            fx.push(Effect::Fence {
                node,
                boot_id,
                reason,
            });
        }
    }

    /// Does whatever the state allows.
    fn advance(&mut self, now: Instant, fx: &mut Vec<Effect>) {
        self.note_fenced();
        self.accuse_due(now, fx);
        let names: Vec<String> = self.lockspaces.keys().cloned().collect();
        for name in names {
            self.advance_group(&name, fx);
            self.advance_kernel(&name, fx);
        }
        self.announce(fx);
    }

    fn note_fenced(&mut self) {
        for lockspace in self.lockspaces.values_mut() {
            for (node, failure) in &mut lockspace.failures {
                failure.fenced |= self.fencing.is_fenced(*node, failure.cause);
            }
        }
    }

    /// Joins and leaves the lockspace's group.
    fn advance_group(&mut self, name: &str, fx: &mut Vec<Effect>) {
        let agreed = self.own.running().is_some();
        let Some(lockspace) = self.lockspaces.get_mut(name) else {
            return;
        };
        let unwanted = lockspace.is_unwanted();
        let group = lockspace_group(name);
        match lockspace.stage {
            Stage::Waiting if unwanted => self.finish(name, 0, fx),
            Stage::Waiting if agreed && !self.halted => {
                lockspace.stage = Stage::Joining;
                fx.push(Effect::GroupJoin { group });
            }
            // After a leave the others go on; a start that is still on its way to
            // this kernel would then be of a membership that is over.
            Stage::Member if unwanted && !lockspace.starting => {
                lockspace.stage = Stage::Leaving;
                if lockspace.leave == Some(true) {
                    let message = Message::Leaving;
                    fx.push(Effect::Send {
                        group: group.clone(),
                        message,
                    });
                }
                fx.push(Effect::GroupLeave { group });
            }
            Stage::Left if lockspace.kernel == Kernel::Stopped => self.finish(name, 0, fx),
            Stage::Waiting | Stage::Joining | Stage::Member | Stage::Leaving | Stage::Left => {}
        }
    }

    /// Sends START and starts the kernel.
    fn advance_kernel(&mut self, name: &str, fx: &mut Vec<Effect>) {
        loop {
            let Some(lockspace) = self.lockspaces.get(name) else {
                self.told.remove(name);
                return;
            };
            let step = self.next_step(lockspace);
            let Some(lockspace) = self.lockspaces.get_mut(name) else {
                return;
            };
            match step {
                Step::Wait(wait) => return self.tell(name, wait, fx),
                Step::Send => {
                    let fresh = lockspace.is_fresh();
                    let Some(change) = lockspace.change.as_mut() else {
                        return;
                    };
                    change.sent = true;
                    let message = Message::Start {
                        change: change.number,
                        fresh,
                    };
                    fx.push(Effect::Send {
                        group: lockspace_group(name),
                        message,
                    });
                }
                Step::Start => fx.extend(start(name, lockspace)),
            }
        }
    }

    /// Says what a lockspace waits for, when that is new.
    fn tell(&mut self, name: &str, wait: Wait, fx: &mut Vec<Effect>) {
        if self.told.get(name) != Some(&wait) {
            self.told.insert(name.to_owned(), wait.clone());
            fx.push(Effect::Notice(Notice::Waiting {
                lockspace: name.to_owned(),
                wait,
            }));
        }
    }

    /// Ends a lockspace: cleans up and answers whoever waits in the kernel.
    fn finish(&mut self, name: &str, result: i32, fx: &mut Vec<Effect>) {
        let Some(lockspace) = self.lockspaces.remove(name) else {
            return;
        };
        self.told.remove(name);
        fx.push(Effect::Forget {
            lockspace: name.to_owned(),
        });
        let lockspace_name = name.to_owned();
        if let Some(flags) = lockspace.again {
            // Who waits in the kernel by now waits to join.
            let next = Lockspace::new(name, flags);
            self.lockspaces.insert(lockspace_name, next);
            return self.advance_group(name, fx);
        }
        if lockspace.leave.is_some() {
            fx.push(Effect::Answer {
                lockspace: lockspace_name,
                result: 0,
            });
        } else if lockspace.join == Join::Open {
            fx.push(Effect::Answer {
                lockspace: lockspace_name,
                result,
            });
        }
    }
}

/// Stops the kernel unless it is stopped or told to stop.
fn stop(name: &str, lockspace: &mut Lockspace, fx: &mut Vec<Effect>) {
    if lockspace.kernel == Kernel::Started {
        lockspace.kernel = Kernel::Stopping;
        fx.push(Effect::Stop {
            lockspace: name.to_owned(),
        });
    }
}

/// Starts the kernel with the pending change.
fn start(name: &str, lockspace: &mut Lockspace) -> Option<Effect> {
    let change = lockspace.change.take()?;
    let figures = lockspace.figures(&change);
    let renewed = change
        .members
        .iter()
        .filter(|node| lockspace.departed.contains(node));
    let start = Start {
        lockspace: name.to_owned(),
        id: lockspace.id,
        change: change.number,
        renewed: renewed.copied().collect(),
        members: change.members,
        failed: lockspace.failures.keys().copied().collect(),
        released: lockspace.released(),
    };
    lockspace.departed.clear();
    lockspace.started = Some(figures);
    lockspace.kernel = Kernel::Started;
    lockspace.starting = true;
    lockspace.recovering = true;
    Some(Effect::Start(start))
}

fn dropped(group: &str, from: NodeId, reason: &dyn std::fmt::Display, fx: &mut Vec<Effect>) {
    let reason = reason.to_string();
    fx.push(Effect::Notice(Notice::Dropped {
        group: group.to_owned(),
        from,
        reason,
    }));
}
