// SPDX-License-Identifier: GPL-2.0-only
//! dlm_controld on each machine: its core, and how it is connected with the other daemons and with
//! the kernel.

use std::collections::{BTreeMap, VecDeque};

use dlm_controld_core::wire::PROTOCOL_RANGE;
use dlm_controld_core::{Config, Controld, Effect, Instant, NodeId, Notice, Start};
use dlm_core::lockcore::recovery::{StartArgs, StartMember};
use dlm_core::platform::{GFP, KVec};

use super::machine::Mount;
use super::process::{Ask, End, Line, News, Plea, Process, Who};
use super::{Event, World, trace};
use crate::truth::{Violation, broken};

/// Name of the lockspace.
pub(super) const LOCKSPACE: &str = "sim";

/// How long a start waits for the kernel to be told of all members, ms.
const MEMBERS_MS: u64 = 10_000;

/// Between two looks at what the kernel was told, ms.
const LOOK_MS: u64 = 5;

/// dlm_controld.
pub(super) struct Daemon {
    pub(super) process: u64,
    pub(super) cmand: Process,
    pub(super) fenced: Process,
    pub(super) controld: Controld,
    /// For the kernel, in order.
    queue: VecDeque<Effect>,
    /// The kernel is at it.
    busy: bool,
    /// Until when a start waits for members.
    waits_until: Option<u64>,
    /// Lives of the members of the view.
    members: BTreeMap<u32, u64>,
    /// A lockspace was started and is not left.
    started: bool,
    /// fenced was told so.
    needed: bool,
    timer_ms: Option<u64>,
}

impl Daemon {
    pub(super) fn new(node: u32, process: u64, cmand: Process, fenced: Process) -> Self {
        let config = Config {
            node: NodeId(node),
            protocol: PROTOCOL_RANGE,
        };
        Self {
            process,
            cmand,
            fenced,
            controld: Controld::new(config),
            queue: VecDeque::new(),
            busy: false,
            waits_until: None,
            members: BTreeMap::new(),
            started: false,
            needed: false,
            timer_ms: None,
        }
    }
}

/// What the kernel tells its lock daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    /// Somebody wants the lockspace.
    Join,
    /// Nobody wants it any more; with the wish that others recover.
    Leave(bool),
    /// It has stopped.
    Stopped,
    /// A start was accepted.
    Started,
    /// A start was refused.
    StartFailed(i32),
    /// A recovery ended well.
    Recovered,
}

impl World {
    /// Calls a lock daemon, and carries out what it wants done.
    pub(super) fn decide(
        &mut self,
        node: u32,
        f: impl FnOnce(&mut Controld, Instant, &mut Vec<Effect>),
    ) -> Result<(), Violation> {
        let now = Instant(self.now_ms);
        let Some(daemon) = &mut self.machine(node).daemon else {
            return Ok(());
        };
        let mut effects = Vec::new();
        f(&mut daemon.controld, now, &mut effects);
        for effect in effects {
            self.do_effect(node, effect)?;
        }
        if let Some(daemon) = &mut self.machine(node).daemon
            && daemon.controld.report().is_empty()
        {
            daemon.started = false;
        }
        self.tell_need(node);
        self.set_daemon_timer(node);
        Ok(())
    }

    /// Tells fenced whether this daemon may end.
    fn tell_need(&mut self, node: u32) {
        let Some(daemon) = &mut self.machine(node).daemon else {
            return;
        };
        let needed = daemon.started;
        if std::mem::replace(&mut daemon.needed, needed) != needed {
            let (own, fenced) = ((Who::Controld, daemon.process), daemon.fenced);
            self.say_to(node, own, fenced, Line::Plea(Plea::Needed(needed)));
        }
    }

    fn set_daemon_timer(&mut self, node: u32) {
        let now_ms = self.now_ms;
        let Some(daemon) = &mut self.machine(node).daemon else {
            return;
        };
        let Some(Instant(due)) = daemon.controld.next_timeout() else {
            return;
        };
        let due = due.max(now_ms);
        if daemon.timer_ms.is_some_and(|at| at <= due) {
            return;
        }
        daemon.timer_ms = Some(due);
        let process = daemon.process;
        self.at(due, Event::DaemonTimer { node, process });
    }

    pub(super) fn daemon_timer(&mut self, node: u32, process: u64) -> Result<(), Violation> {
        if self.running(node, Who::Controld) != Some((Who::Controld, process)) {
            return Ok(());
        }
        if let Some(daemon) = &mut self.machine(node).daemon {
            daemon.timer_ms = None;
        }
        self.decide(node, |controld, now, fx| controld.handle_timeout(now, fx))
    }

    fn do_effect(&mut self, node: u32, effect: Effect) -> Result<(), Violation> {
        let Some(daemon) = &mut self.machine(node).daemon else {
            return Ok(());
        };
        let (own, cmand, fenced) = ((Who::Controld, daemon.process), daemon.cmand, daemon.fenced);
        match effect {
            Effect::GroupJoin { group } => {
                self.say_to(node, own, cmand, Line::Ask(Ask::Join(group)))
            }
            Effect::GroupLeave { group } => {
                self.say_to(node, own, cmand, Line::Ask(Ask::Leave(group)))
            }
            Effect::Send { group, message } => {
                let send = Ask::Send(group, message.encode());
                self.say_to(node, own, cmand, Line::Ask(send));
            }
            Effect::Fence {
                node: victim,
                boot_id,
                reason,
            } => {
                let fence = Plea::Fence {
                    node: victim.0,
                    boot_id,
                    reason,
                };
                self.say_to(node, own, fenced, Line::Plea(fence));
            }
            Effect::Start(_) => {
                daemon.started = true;
                self.tell_need(node);
                self.order(node, effect);
            }
            Effect::Stop { .. } | Effect::Answer { .. } | Effect::Forget { .. } => {
                self.order(node, effect);
            }
            Effect::Notice(Notice::Stuck { result, .. }) => {
                return broken(format!("node {node}: the kernel refuses a start: {result}"));
            }
            Effect::Notice(Notice::Refused { version }) => {
                return broken(format!("node {node}: protocol refused: {version:?}"));
            }
            Effect::Notice(notice) => trace!(self, "node {node} daemon: {notice:?}"),
        }
        Ok(())
    }

    /// Another daemon says something to dlm_controld.
    pub(super) fn tell_controld(
        &mut self,
        node: u32,
        from: Process,
        line: Line,
    ) -> Result<(), Violation> {
        match line {
            Line::News(News::View(told)) => {
                if let Some(daemon) = &mut self.machine(node).daemon {
                    let lives = told.members.iter();
                    daemon.members = lives.map(|m| (m.node.0, m.incarnation.0)).collect();
                }
                self.decide(node, |controld, now, fx| {
                    controld.handle_view(now, told, fx)
                })
            }
            Line::News(News::Quorum(quorate)) => self.decide(node, |controld, now, fx| {
                controld.handle_quorum(now, quorate, fx);
            }),
            Line::News(News::Group(group)) => {
                trace!(
                    self,
                    "node {node} hears group {} {} {:?} departed {:?}",
                    group.group,
                    group.number,
                    group.members,
                    group.departed
                );
                self.decide(node, |controld, now, fx| {
                    controld.handle_group(now, &group, fx)
                })
            }
            Line::News(News::Message {
                group,
                from,
                payload,
            }) => self.decide(node, |controld, now, fx| {
                controld.handle_message(now, &group, NodeId(from), &payload, fx);
            }),
            Line::State(state) => {
                trace!(self, "node {node} hears {state:?}");
                self.decide(node, |controld, now, fx| {
                    controld.handle_fence(now, state, fx)
                })
            }
            Line::News(News::Returned { .. }) => {
                broken(format!("node {node}: dlm_controld watches nobody"))
            }
            Line::News(News::Expelled) => self.daemon_halts(node, End::Reset),
            Line::Gone | Line::News(News::Refused) => self.daemon_halts(node, End::Failed),
            Line::Ask(_) | Line::Plea(_) => broken(format!(
                "node {node}: {from:?} says {line:?} to dlm_controld"
            )),
        }
    }

    /// A lock daemon in trouble stops its lockspaces itself, and ends.
    fn daemon_halts(&mut self, node: u32, why: End) -> Result<(), Violation> {
        self.stop(node)?;
        self.end(node, Who::Controld, why);
        Ok(())
    }

    /// Tells the lock daemon what the kernel did, behind what it was told before.
    pub(super) fn say(&mut self, node: u32, report: Report) {
        let Some((_, process)) = self.running(node, Who::Controld) else {
            return;
        };
        let delay = self.random.within(0, self.plan.daemon_ms);
        let now_ms = self.now_ms;
        let machine = self.machine(node);
        machine.last_report_ms = machine.last_report_ms.max(now_ms + delay);
        let at = machine.last_report_ms;
        self.at(
            at,
            Event::Report {
                node,
                process,
                report,
            },
        );
    }

    pub(super) fn report(
        &mut self,
        node: u32,
        process: u64,
        report: Report,
    ) -> Result<(), Violation> {
        if self.running(node, Who::Controld) != Some((Who::Controld, process)) {
            return Ok(());
        }
        self.decide(node, |controld, now, fx| match report {
            Report::Join => controld.handle_join(now, LOCKSPACE, 0, fx),
            Report::Leave(recover) => controld.handle_leave(now, LOCKSPACE, recover, fx),
            Report::Stopped => controld.handle_stopped(now, LOCKSPACE, fx),
            Report::Started => controld.handle_started(now, LOCKSPACE, fx),
            Report::StartFailed(result) => {
                controld.handle_start_failed(now, LOCKSPACE, result, fx);
            }
            Report::Recovered => controld.handle_recovered(LOCKSPACE),
        })
    }

    /// Gives the kernel something to do, behind what it was given before.
    fn order(&mut self, node: u32, effect: Effect) {
        let delay = self.random.within(0, self.plan.daemon_ms);
        let Some(daemon) = &mut self.machine(node).daemon else {
            return;
        };
        daemon.queue.push_back(effect);
        let process = daemon.process;
        if !std::mem::replace(&mut daemon.busy, true) {
            self.after(delay, Event::Control { node, process });
        }
    }

    /// The kernel does what its lock daemon wants, one thing at a time.
    pub(super) fn control(&mut self, node: u32, process: u64) -> Result<(), Violation> {
        if self.running(node, Who::Controld) != Some((Who::Controld, process)) {
            return Ok(());
        }
        if self.waits_for_members(node) {
            self.after(LOOK_MS, Event::Control { node, process });
            return Ok(());
        }
        let delay = self.random.within(0, self.plan.daemon_ms);
        let Some(daemon) = &mut self.machine(node).daemon else {
            return Ok(());
        };
        let Some(effect) = daemon.queue.pop_front() else {
            return Ok(());
        };
        daemon.busy = !daemon.queue.is_empty();
        if daemon.busy {
            self.after(delay, Event::Control { node, process });
        }
        match effect {
            Effect::Stop { .. } => {
                self.stop(node)?;
                self.say(node, Report::Stopped);
            }
            Effect::Start(start) => self.start(node, &start)?,
            Effect::Answer { result, .. } => self.answered(node, result)?,
            Effect::Forget { .. }
            | Effect::GroupJoin { .. }
            | Effect::GroupLeave { .. }
            | Effect::Send { .. }
            | Effect::Fence { .. }
            | Effect::Notice(_) => {}
        }
        Ok(())
    }

    /// Whether the start that is next waits until the kernel knows all members.
    fn waits_for_members(&mut self, node: u32) -> bool {
        let now_ms = self.now_ms;
        let machine = self.machine(node);
        let Some(daemon) = &mut machine.daemon else {
            return false;
        };
        let Some(Effect::Start(start)) = daemon.queue.front() else {
            return false;
        };
        let links = &machine.kernel.links;
        let is_known = |member: &NodeId| match daemon.members.get(&member.0) {
            Some(life) if member.0 != node => {
                let link = links.get(&member.0);
                link.is_some_and(|link| link.up && link.life == *life)
            }
            Some(_) | None => true,
        };
        if start.members.iter().all(is_known) {
            daemon.waits_until = None;
            return false;
        }
        let until = *daemon.waits_until.get_or_insert(now_ms + MEMBERS_MS);
        if until > now_ms {
            return true;
        }
        daemon.waits_until = None;
        false
    }

    pub(super) fn stop(&mut self, node: u32) -> Result<(), Violation> {
        trace!(self, "node {node} stops");
        self.truth.disturb();
        if let Some(space) = &mut self.machine(node).kernel.space {
            space.stop();
        }
        self.settle(node)
    }

    /// Nothing is started without a majority, nor while somebody has locks that the members do
    /// not know of.
    fn check_start(&self, node: u32, start: &Start) -> Result<(), Violation> {
        let daemon = self.machines.get(&node).and_then(|m| m.daemon.as_ref());
        let view = daemon.and_then(|daemon| daemon.controld.view());
        let members = view.map_or(0, |view| view.members.len());
        if members * 2 <= self.plan.nodes as usize {
            return broken(format!(
                "node {node} starts with {members} nodes in its view"
            ));
        }
        for (other, machine) in &self.machines {
            let uses = machine.up && machine.mount == Mount::In;
            let holds = self.truth.of_node(*other).next().is_some();
            if uses && holds && !start.members.contains(&NodeId(*other)) {
                let members = &start.members;
                return broken(format!(
                    "node {node} starts with {members:?} while node {other} has power and locks"
                ));
            }
        }
        Ok(())
    }

    fn start(&mut self, node: u32, start: &Start) -> Result<(), Violation> {
        trace!(self, "node {node} starts {start:?}");
        self.check_start(node, start)?;
        let now_ms = self.now_ms;
        let machine = self.machine(node);
        let own_life = machine.kernel.life;
        let mut args = StartArgs {
            id: start.id,
            members: KVec::new(),
            failed: KVec::new(),
        };
        let mut known = true;
        for NodeId(member) in &start.members {
            let link = machine.kernel.links.get(member);
            let life = if *member == node {
                Some(own_life)
            } else {
                link.map(|link| link.life)
            };
            known &= life.is_some();
            let member = StartMember {
                node: NodeId(*member),
                weight: 1,
                incarnation: life.unwrap_or(0),
            };
            known &= args.members.push(member, GFP).is_ok();
        }
        // The family has no word for a member that left and is back.
        for NodeId(failed) in start.failed.iter().chain(&start.renewed) {
            known &= args.failed.push(NodeId(*failed), GFP).is_ok();
        }
        for NodeId(renewed) in &start.renewed {
            // What slot it had means nothing any more, and it is given another one.
            machine.slots.remove(renewed);
        }
        let Some(space) = machine.kernel.space.as_mut() else {
            return Ok(());
        };
        if !known {
            self.say(node, Report::StartFailed(-22));
            return Ok(());
        }
        space.set_id(start.id);
        let report = match space.recovery.control_start(now_ms, args) {
            Ok(()) => Report::Started,
            Err(error) => Report::StartFailed(error.to_errno()),
        };
        self.say(node, report);
        self.settle(node)
    }

    /// Who waits in the kernel for the lock daemon goes on.
    fn answered(&mut self, node: u32, result: i32) -> Result<(), Violation> {
        trace!(self, "node {node}: the daemon answers {result}");
        match self.machine(node).mount {
            Mount::Joining if result == 0 => self.machine(node).mount = Mount::In,
            Mount::Joining | Mount::Leaving => self.unmounted(node)?,
            Mount::Out | Mount::In => {
                return broken(format!("node {node}: an answer nobody waits for"));
            }
        }
        Ok(())
    }

    /// The kernel forgets the lockspace.
    pub(super) fn unmounted(&mut self, node: u32) -> Result<(), Violation> {
        if let Some(space) = &mut self.machine(node).kernel.space {
            space.leave();
        }
        self.settle(node)?;
        let machine = self.machine(node);
        machine.kernel.space = None;
        machine.mount = Mount::Out;
        machine.generation = 0;
        machine.slots.clear();
        machine.done = false;
        machine.holds = false;
        let life = machine.life;
        self.stop_transport(node);
        let pause = self.random.within(100, 4_000);
        self.after(pause, Event::Mount { node, life });
        Ok(())
    }
}
