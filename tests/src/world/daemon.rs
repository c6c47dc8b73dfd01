// SPDX-License-Identifier: GPL-2.0-only
//! The daemons of a machine: the lock daemon's own core, and how it is connected with the model of
//! the cluster and with the kernel.

use std::collections::VecDeque;

use dlm_controld_core::wire::PROTOCOL_RANGE;
use dlm_controld_core::{Config, Controld, Effect, Instant, NodeId, Notice, Start};
use dlm_core::lockcore::lockspace::{StartArgs, StartMember};
use dlm_core::lockcore::members;
use dlm_core::platform::{GFP, KVec};

use super::machine::{Machine, Mount};
use super::{Event, World, trace};
use crate::cluster::{Item, Request};
use crate::kernel::Link;
use crate::truth::{Violation, broken};

/// Name of the lockspace.
pub(super) const LOCKSPACE: &str = "sim";

/// Pause after which a machine whose daemon died, and which nobody fenced, is started again by its
/// operator, ms.
const OPERATOR_MS: u64 = 20_000;

/// How long a fence agent takes at most, ms.
const FENCE_MS: u64 = 3_000;

/// The lock daemon of a machine.
pub(super) struct Daemon {
    pub(super) controld: Controld,
    /// For the kernel, in order.
    queue: VecDeque<Effect>,
    /// The kernel is at it.
    busy: bool,
}

/// What the kernel tells the lock daemon.
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
    fn instant(&self) -> Instant {
        Instant(self.now_ms)
    }

    /// Calls a lock daemon, and carries out what it wants done.
    fn decide(
        &mut self,
        node: u32,
        f: impl FnOnce(&mut Controld, Instant, &mut Vec<Effect>),
    ) -> Result<(), Violation> {
        let now = self.instant();
        let Some(daemon) = &mut self.machine(node).daemon else {
            return Ok(());
        };
        let mut effects = Vec::new();
        f(&mut daemon.controld, now, &mut effects);
        for effect in effects {
            self.do_effect(node, effect)?;
        }
        Ok(())
    }

    fn do_effect(&mut self, node: u32, effect: Effect) -> Result<(), Violation> {
        match effect {
            Effect::GroupJoin { group } => self.want(node, Request::Join(group)),
            Effect::GroupLeave { group } => self.want(node, Request::Leave(group)),
            Effect::Send { group, message } => {
                self.want(node, Request::Send(group, message.encode()));
            }
            Effect::Fence { node: victim, .. } => self.want(node, Request::Fence(victim.0)),
            Effect::Stop { .. }
            | Effect::Start(_)
            | Effect::Answer { .. }
            | Effect::Forget { .. } => {
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

    /// Gives the kernel something to do, behind what it was given before.
    fn order(&mut self, node: u32, effect: Effect) {
        let delay = self.random.within(0, self.plan.daemon_ms);
        let machine = self.machine(node);
        let life = machine.life;
        let Some(daemon) = &mut machine.daemon else {
            return;
        };
        daemon.queue.push_back(effect);
        if !daemon.busy {
            daemon.busy = true;
            self.after(delay, Event::Control { node, life });
        }
    }

    /// Asks the cluster, behind what was asked before.
    fn want(&mut self, node: u32, request: Request) {
        let delay = self.random.within(0, self.plan.daemon_ms);
        let now_ms = self.now_ms;
        let machine = self.machine(node);
        machine.last_ask_ms = machine.last_ask_ms.max(now_ms + delay);
        let (at, life) = (machine.last_ask_ms, machine.life);
        self.at(
            at,
            Event::Ask {
                node,
                life,
                request,
            },
        );
    }

    pub(super) fn ask(&mut self, node: u32, life: u32, request: Request) {
        if self.is_life(node, life) {
            self.machine(node).asks.push_back(request);
            self.work_asks(node);
        }
    }

    fn work_asks(&mut self, node: u32) {
        let seen = self.seen();
        while self.cluster.hears(node, &seen) {
            let Some(request) = self.machine(node).asks.pop_front() else {
                return;
            };
            let fence_ms = self.random.within(10, FENCE_MS);
            let told = self
                .cluster
                .request(self.now_ms, fence_ms, node, request, &seen);
            self.tell(told);
        }
    }

    /// Has members hear something, each in its order.
    fn tell(&mut self, told: Vec<(u32, Item)>) {
        for (node, item) in told {
            let delay = self.random.within(0, self.plan.daemon_ms);
            let now_ms = self.now_ms;
            let way = usize::from(matches!(item, Item::Fence(_)));
            let machine = self.machine(node);
            let last = &mut machine.last_hear_ms[way];
            *last = (*last).max(now_ms + delay);
            let (at, life) = (*last, machine.life);
            let item = Box::new(item);
            self.at(at, Event::Hear { node, life, item });
        }
    }

    pub(super) fn hear(&mut self, node: u32, life: u32, item: Item) -> Result<(), Violation> {
        if !self.is_life(node, life) || self.machine(node).expelled {
            return Ok(());
        }
        let seen = self.seen();
        let leaves = matches!(&item, Item::Group(_));
        if !self.machine(node).held.is_empty() || !self.cluster.hears(node, &seen) && !leaves {
            self.machine(node).held.push_back(item);
            return Ok(());
        }
        self.take_item(node, item)
    }

    fn take_item(&mut self, node: u32, item: Item) -> Result<(), Violation> {
        match item {
            Item::View(view, lives) => {
                trace!(self, "node {node} hears view {} {lives:?}", view.number);
                self.know_nodes(node, &lives);
                self.first_view(node)?;
                self.decide(node, |controld, now, fx| {
                    controld.handle_view(now, view, fx)
                })
            }
            Item::Quorum(quorate) => {
                self.machine(node).quorate = quorate;
                self.decide(node, |controld, now, fx| {
                    controld.handle_quorum(now, quorate, fx);
                })
            }
            Item::Group(group) => {
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
            Item::Message {
                group,
                from,
                payload,
            } => self.decide(node, |controld, now, fx| {
                controld.handle_message(now, &group, NodeId(from), &payload, fx);
            }),
            Item::Fence(state) => {
                trace!(self, "node {node} hears {state:?}");
                self.machine(node).fence = state.clone();
                self.decide(node, |controld, now, fx| {
                    controld.handle_fence(now, state, fx)
                })
            }
        }
    }

    /// The cluster manager tells the kernel who is there, before it tells anybody else.
    fn know_nodes(&mut self, node: u32, lives: &std::collections::BTreeMap<u32, u32>) {
        for (other, life) in lives.iter().filter(|(other, _)| **other != node) {
            let known = self.link(node, *other);
            let same = known.is_some_and(|link| link.up && link.life == *life);
            if !same {
                self.cut_between(node, *other);
                let links = &mut self.machine(node).kernel.links;
                let users = links.get(other).map_or(0, |link| link.users);
                links.insert(*other, Link::new(node, *other, *life, users));
                self.talk(node, *other, |_, _, _| {});
            }
        }
        let links = self.machine(node).kernel.links.keys();
        let gone: Vec<u32> = links
            .filter(|other| !lives.contains_key(other))
            .copied()
            .collect();
        for other in gone {
            if let Some(link) = self.link(node, other) {
                link.up = false;
                link.inbox.clear();
            }
            self.cut_between(node, other);
        }
    }

    /// The daemons of a machine begin when it is a member.
    fn first_view(&mut self, node: u32) -> Result<(), Violation> {
        let machine = self.machine(node);
        if machine.member {
            return Ok(());
        }
        machine.member = true;
        let config = Config {
            node: NodeId(node),
            protocol: PROTOCOL_RANGE,
        };
        machine.daemon = Some(Daemon {
            controld: Controld::new(config),
            queue: VecDeque::new(),
            busy: false,
        });
        let life = machine.life;
        let delay = self.random.within(0, 2_000);
        self.after(delay, Event::Mount { node, life });
        let delay = self.random.within(1, 500);
        self.after(delay, Event::Client { node, life });
        let fence = self.machine(node).fence.clone();
        self.decide(node, |controld, now, fx| {
            controld.handle_begin(fx);
            controld.handle_fence(now, fence, fx);
        })
    }

    /// Tells the lock daemon what the kernel did, behind what it was told before.
    pub(super) fn say(&mut self, node: u32, report: Report) {
        let delay = self.random.within(0, self.plan.daemon_ms);
        let now_ms = self.now_ms;
        let machine = self.machine(node);
        machine.last_report_ms = machine.last_report_ms.max(now_ms + delay);
        let (at, life) = (machine.last_report_ms, machine.life);
        self.at(at, Event::Report { node, life, report });
    }

    pub(super) fn report(&mut self, node: u32, life: u32, report: Report) -> Result<(), Violation> {
        if !self.is_life(node, life) {
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

    /// The kernel does what its lock daemon wants, one thing at a time.
    pub(super) fn control(&mut self, node: u32, life: u32) -> Result<(), Violation> {
        if !self.is_life(node, life) {
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
            self.after(delay, Event::Control { node, life });
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

    fn stop(&mut self, node: u32) -> Result<(), Violation> {
        trace!(self, "node {node} stops");
        self.truth.disturb();
        if let Some(space) = &mut self.machine(node).kernel.space {
            space.stop();
        }
        self.settle(node)
    }

    fn start(&mut self, node: u32, start: &Start) -> Result<(), Violation> {
        trace!(self, "node {node} starts {start:?}");
        let now_ms = self.now_ms;
        let machine = self.machine(node);
        let own_life = machine.life;
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
                node: members::NodeId(*member),
                weight: 1,
                incarnation: u64::from(life.unwrap_or(0)),
            };
            known &= args.members.push(member, GFP).is_ok();
        }
        // The family has no word for a member that left and is back.
        for NodeId(failed) in start.failed.iter().chain(&start.renewed) {
            known &= args.failed.push(members::NodeId(*failed), GFP).is_ok();
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
    fn unmounted(&mut self, node: u32) -> Result<(), Violation> {
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
        let links: Vec<u32> = machine.kernel.links.keys().copied().collect();
        for other in links {
            self.talk(node, other, |now_ms, peer, sink| {
                peer.shutdown(now_ms, sink)
            });
        }
        self.set_timer(node);
        let pause = self.random.within(100, 4_000);
        self.after(pause, Event::Mount { node, life });
        Ok(())
    }

    /// A lock daemon dies; the machine goes on, and its kernel stops.
    pub(super) fn daemon_dies(&mut self, node: u32) -> Result<(), Violation> {
        let now_ms = self.now_ms;
        let machine = self.machine(node);
        if !machine.up || machine.mount != Mount::In || machine.generation == 0 {
            return Ok(());
        }
        if machine.daemon.take().is_none() {
            return Ok(());
        }
        machine.dead_ms = Some(now_ms);
        trace!(self, "node {node}: the daemon dies");
        let seen = self.seen();
        self.stop(node)?;
        if self.cluster.hears(node, &seen) {
            let told = self.cluster.daemon_died(node);
            self.tell(told);
        } else {
            // Nobody hears of it: the whole node is gone for them anyway.
            self.machine(node).expelled = true;
        }
        self.machine(node).asks.clear();
        self.last_resort();
        Ok(())
    }

    /// That a daemon has died with locks in its kernel is known to the other daemons only. When
    /// none of them is left that has the lockspace, nobody would have that machine fenced: it
    /// must end by itself, as its service's failure action has it.
    pub(super) fn last_resort(&mut self) {
        let knows = |machine: &Machine| machine.daemon.is_some() && machine.mount == Mount::In;
        if self.machines.values().any(knows) {
            return;
        }
        let dead = |machine: &Machine| machine.up && machine.member && machine.daemon.is_none();
        let nodes = self.machines.iter().filter(|(_, machine)| dead(machine));
        let nodes: Vec<u32> = nodes.map(|(node, _)| *node).collect();
        for node in nodes {
            trace!(
                self,
                "node {node} ends because its daemon is dead and nobody knows"
            );
            self.power_off(node);
            self.after(1_000, Event::Boot { node });
        }
    }

    /// The cluster manager looks who is there; fence agents come to their end.
    pub(super) fn look(&mut self) -> Result<(), Violation> {
        let now_ms = self.now_ms;
        let seen = self.seen();
        let fence_ms = self.random.within(10, FENCE_MS);
        let told = self.cluster.look(now_ms, fence_ms, &seen);
        self.tell(told);
        if self.cluster.primary(&seen).is_some() {
            self.fence();
        }
        let primary = self.cluster.primary(&self.seen());
        let nodes: Vec<u32> = self.machines.keys().copied().collect();
        for node in nodes {
            self.look_at(node, primary)?;
        }
        Ok(())
    }

    fn fence(&mut self) {
        for (victim, life) in self.cluster.due(self.now_ms) {
            if self.is_life(victim, life) {
                trace!(self, "node {victim} is fenced");
                self.power_off(victim);
            }
            let told = self.cluster.fenced(victim);
            self.tell(told);
            let pause = self.random.within(500, 5_000);
            self.after(pause, Event::Boot { node: victim });
        }
    }

    /// What one machine notices by itself.
    fn look_at(&mut self, node: u32, primary: Option<u32>) -> Result<(), Violation> {
        let now_ms = self.now_ms;
        let seen = self.seen();
        let hears = self.cluster.hears(node, &seen);
        let in_view = self.cluster.view().get(&node).copied();
        let machine = self.machine(node);
        let dead_ms = machine.dead_ms.filter(|_| machine.up);
        if dead_ms.is_some_and(|dead_ms| dead_ms + OPERATOR_MS <= now_ms) {
            trace!(self, "node {node} is started again by its operator");
            self.power_off(node);
            self.after(1_000, Event::Boot { node });
            return Ok(());
        }
        if !machine.up || machine.expelled {
            return Ok(());
        }
        let life = machine.life;
        if machine.member && primary == Some(machine.side) && in_view != Some(life) {
            trace!(self, "node {node} is expelled");
            let machine = self.machine(node);
            machine.expelled = true;
            machine.daemon = None;
            machine.dead_ms = Some(now_ms);
            return self.stop(node);
        }
        if hears {
            self.work_asks(node);
            while let Some(item) = self.machine(node).held.pop_front() {
                self.take_item(node, item)?;
            }
        }
        if !self.machine(node).member {
            return Ok(());
        }
        if self.machine(node).quorate != hears {
            self.take_item(node, Item::Quorum(hears))?;
        }
        let machine = self.machine(node);
        let due = |daemon: &Daemon| {
            daemon
                .controld
                .next_timeout()
                .is_some_and(|t| t.0 <= now_ms)
        };
        if machine.daemon.as_ref().is_some_and(due) {
            self.decide(node, |controld, now, fx| controld.handle_timeout(now, fx))?;
        }
        Ok(())
    }
}
