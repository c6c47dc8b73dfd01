// SPDX-License-Identifier: GPL-2.0-only
//! fenced on each machine: its core, its agents, and those who watch its state.

use dlm_controld_core::FenceState;
use fenced_core::victim::CutOff;
use fenced_core::wire::Message;
use fenced_core::{BootId, Config, Domain, Effect, Instant, NodeId, Success};

use super::machine::{Lie, Mount};
use super::process::{Ask, End, Line, News, Plea, Process, Who};
use super::{Event, World, trace};
use crate::Mistake;
use crate::truth::{Violation, broken};

/// The group of all fence daemons.
pub(super) const GROUP: &str = "fence:default";

/// How long a fence agent takes at most, ms.
const AGENT_MS: u64 = 3_000;

/// After which time an operator looks after a machine that was cut off from storage, ms.
const UNFENCE_MS: u64 = 12_000;

/// How long a domain waits for nodes that were never seen, ms.
const POST_JOIN_MS: u64 = 6_000;

/// fenced.
pub(super) struct Fenced {
    pub(super) process: u64,
    pub(super) cmand: Process,
    domain: Domain,
    pub(super) watchers: Vec<Process>,
    /// Clients that must not end.
    needed: Vec<Process>,
    told: FenceState,
    /// Boots that cmand was told have ended.
    ended: Vec<(NodeId, BootId)>,
    /// Whom cmand was told to keep out, once the state was known.
    kept_out: Option<Vec<(NodeId, Option<BootId>)>>,
    next_request: u64,
    timer_ms: Option<u64>,
}

impl Fenced {
    pub(super) fn new(process: u64, cmand: Process, domain: Domain) -> Self {
        Self {
            process,
            cmand,
            domain,
            watchers: Vec::new(),
            needed: Vec::new(),
            told: FenceState::default(),
            ended: Vec::new(),
            kept_out: None,
            next_request: 1,
            timer_ms: None,
        }
    }

    /// Nodes that must be fenced, as far as this daemon knows.
    pub(super) fn victims(&self) -> Vec<u32> {
        self.domain.victims().map(|(node, _)| node.0).collect()
    }
}

impl World {
    pub(super) fn fence_config(&self, node: u32) -> Config {
        Config {
            node: NodeId(node),
            nodes: (1..=self.plan.nodes).map(NodeId).collect(),
            post_fail_delay_ms: 0,
            post_join_delay_ms: POST_JOIN_MS,
            clean_start: false,
            limits: self.plan.fence_limits,
        }
    }

    /// Calls the domain, and carries out what it wants done.
    fn domain(
        &mut self,
        node: u32,
        f: impl FnOnce(&mut Domain, Instant, &mut Vec<Effect>),
    ) -> Result<(), Violation> {
        let now = Instant(self.now_ms);
        let Some(fenced) = &mut self.machine(node).fenced else {
            return Ok(());
        };
        let mut effects = Vec::new();
        f(&mut fenced.domain, now, &mut effects);
        for effect in effects {
            match effect {
                Effect::Send(message) => self.send_fenced(node, &message)?,
                Effect::Fence {
                    node: victim, run, ..
                } => self.run_agent(node, victim.0, run),
                Effect::Changed => self.tell_state(node),
                Effect::Answered { .. } => {}
                Effect::Cleared {
                    node: other,
                    record,
                } => {
                    trace!(self, "node {node} fenced: {other} is cleared: {record:?}");
                    let machine = self.machine(other.0);
                    let boot = super::membership::boot(other.0, machine.life);
                    if record.cut_off == Some(CutOff::Fenced) {
                        self.after(UNFENCE_MS, Event::Unfence { node: other.0 });
                        continue;
                    }
                    if machine.lie == Lie::Told && record.boot_id == Some(boot) {
                        machine.lie = Lie::Believed;
                    }
                }
                Effect::Known => {
                    trace!(self, "node {node} fenced knows the state");
                    self.forget_lies(node);
                }
                effect @ (Effect::Accused { .. }
                | Effect::Returned { .. }
                | Effect::GaveUp { .. }) => {
                    trace!(self, "node {node} fenced: {effect:?}");
                }
                Effect::Unsent(large) => return broken(format!("node {node}: {large}")),
            }
        }
        self.tell_cmand_of_fenced(node);
        self.set_fence_timer(node);
        Ok(())
    }

    /// A domain that was founded anew knows nothing of what was said in the last one.
    fn forget_lies(&mut self, node: u32) {
        let fenced = self.machine(node).fenced.as_ref();
        let history: Vec<_> = fenced.map_or_else(Vec::new, |fenced| {
            let history = fenced.domain.history();
            history
                .map(|(node, record)| (node.0, record.boot_id))
                .collect()
        });
        for (other, machine) in &mut self.machines {
            let boot = super::membership::boot(*other, machine.life);
            if machine.lie == Lie::Believed && !history.contains(&(*other, Some(boot))) {
                machine.lie = Lie::None;
            }
        }
    }

    fn tell_cmand_of_fenced(&mut self, node: u32) {
        let Some(fenced) = &mut self.machine(node).fenced else {
            return;
        };
        let ended: Vec<_> = fenced.domain.ended().collect();
        if ended != fenced.ended {
            fenced.ended.clone_from(&ended);
            let (own, cmand) = ((Who::Fenced, fenced.process), fenced.cmand);
            self.say_to(node, own, cmand, Line::Ask(Ask::WatchEnded(ended)));
        }
        let Some(fenced) = &mut self.machine(node).fenced else {
            return;
        };
        let kept: Vec<_> = fenced.domain.kept_out().collect();
        if fenced.domain.is_known() && fenced.kept_out.as_ref() != Some(&kept) {
            fenced.kept_out = Some(kept.clone());
            let (own, cmand) = ((Who::Fenced, fenced.process), fenced.cmand);
            self.say_to(node, own, cmand, Line::Ask(Ask::KeepOut(kept)));
        }
    }

    /// An operator resets a machine that was cut off from storage, switches its storage on, and
    /// says so; again until a fence daemon has heard it.
    pub(super) fn unfence(&mut self, node: u32) -> Result<(), Violation> {
        let boot = super::membership::boot(node, self.machine(node).life);
        let knows = |fenced: &&Fenced| {
            let mut kept = fenced.domain.kept_out();
            kept.any(|kept| kept == (NodeId(node), None))
        };
        let machines = self.machines.iter();
        let mut knowing = machines.filter_map(|(id, machine)| {
            let fenced = machine.fenced.as_ref().filter(knows)?;
            let mut history = fenced.domain.history();
            let record = history.find(|(other, _)| other.0 == node)?.1;
            Some((*id, record.boot_id == Some(boot)))
        });
        let Some((speaker, is_same)) = knowing.next() else {
            return Ok(());
        };
        if is_same && self.machine(node).up {
            trace!(self, "node {node} was cut off and is reset by its operator");
            self.power_off(node);
            self.after(1_000, Event::Boot { node });
        }
        self.send_fenced(
            speaker,
            &Message::Unfence {
                node: NodeId(node),
                request: 0,
            },
        )?;
        self.after(UNFENCE_MS, Event::Unfence { node });
        Ok(())
    }

    fn set_fence_timer(&mut self, node: u32) {
        let now_ms = self.now_ms;
        let Some(fenced) = &mut self.machine(node).fenced else {
            return;
        };
        let Some(Instant(due)) = fenced.domain.next_timeout() else {
            return;
        };
        let due = due.max(now_ms);
        if fenced.timer_ms.is_some_and(|at| at <= due) {
            return;
        }
        fenced.timer_ms = Some(due);
        let process = fenced.process;
        self.at(due, Event::FenceTimer { node, process });
    }

    pub(super) fn fence_timer(&mut self, node: u32, process: u64) -> Result<(), Violation> {
        if self.running(node, Who::Fenced) != Some((Who::Fenced, process)) {
            return Ok(());
        }
        if let Some(fenced) = &mut self.machine(node).fenced {
            fenced.timer_ms = None;
        }
        self.domain(node, |domain, now, fx| domain.handle_timeout(now, fx))
    }

    fn send_fenced(&mut self, node: u32, message: &Message) -> Result<(), Violation> {
        let Some(fenced) = &self.machine(node).fenced else {
            return Ok(());
        };
        let (own, cmand) = ((Who::Fenced, fenced.process), fenced.cmand);
        trace!(self, "node {node} fenced sends {message:?}");
        let Ok(payload) = message.encode() else {
            return broken(format!("node {node}: {message:?} cannot be encoded"));
        };
        self.say_to(
            node,
            own,
            cmand,
            Line::Ask(Ask::Send(GROUP.to_owned(), payload)),
        );
        Ok(())
    }

    fn tell_state(&mut self, node: u32) {
        let hides = self.mistake == Some(Mistake::FencingIgnored);
        let Some(fenced) = &mut self.machine(node).fenced else {
            return;
        };
        let state = fenced.domain.state();
        let victims = state.victims.iter().filter(|_| !hides);
        let state = FenceState {
            view: state.view,
            victims: victims.copied().collect(),
        };
        if state == fenced.told {
            return;
        }
        fenced.told = state.clone();
        let own = (Who::Fenced, fenced.process);
        for watcher in fenced.watchers.clone() {
            self.say_to(node, own, watcher, Line::State(state.clone()));
        }
    }

    pub(super) fn tell_fenced(
        &mut self,
        node: u32,
        from: Process,
        line: Line,
    ) -> Result<(), Violation> {
        let Some(fenced) = &mut self.machine(node).fenced else {
            return Ok(());
        };
        let own = (Who::Fenced, fenced.process);
        match line {
            Line::News(News::View(view)) => {
                self.domain(node, |domain, now, fx| domain.handle_view(now, view, fx))
            }
            Line::News(News::Quorum(quorate)) => self.domain(node, |domain, now, fx| {
                domain.handle_quorum(now, quorate, fx);
            }),
            Line::News(News::Group(group)) => {
                trace!(self, "node {node} fenced hears {group:?}");
                self.domain(node, |domain, now, fx| domain.handle_group(now, &group, fx))
            }
            Line::News(News::Message { from, payload, .. }) => {
                let Ok(mut message) = Message::decode(&payload) else {
                    return broken(format!("node {node}: fenced cannot read {payload:?}"));
                };
                if let (Message::Snapshot(snapshot), Some(Mistake::SnapshotShort)) =
                    (&mut message, self.mistake)
                {
                    snapshot.content.victims.clear();
                }
                trace!(self, "node {node} fenced hears of {from}: {message:?}");
                let from = NodeId(from);
                self.domain(node, |domain, now, fx| {
                    domain.handle_message(now, from, message, fx);
                })
            }
            Line::News(News::Returned {
                node: other,
                incarnation,
                boot,
            }) => self.domain(node, |domain, now, fx| {
                domain.handle_returned(now, other, incarnation, boot, fx);
            }),
            Line::News(News::Expelled) => {
                self.end(node, Who::Fenced, End::Reset);
                Ok(())
            }
            Line::News(News::Refused) => {
                self.end(node, Who::Fenced, End::Failed);
                Ok(())
            }
            Line::Gone if from.0 == Who::Cmand => {
                self.end(node, Who::Fenced, End::Failed);
                Ok(())
            }
            Line::Gone => {
                fenced.watchers.retain(|other| *other != from);
                let count = fenced.needed.len();
                fenced.needed.retain(|other| *other != from);
                if fenced.needed.len() == count {
                    return Ok(());
                }
                self.accuse(node, node, None, "dlm_controld ended with lockspaces")
            }
            Line::Plea(Plea::Watch) => {
                fenced.watchers.push(from);
                let state = fenced.told.clone();
                self.say_to(node, own, from, Line::State(state));
                Ok(())
            }
            Line::Plea(Plea::Needed(needed)) => {
                fenced.needed.retain(|other| *other != from);
                fenced.needed.extend(needed.then_some(from));
                Ok(())
            }
            Line::Plea(Plea::Fence {
                node: victim,
                boot_id,
                reason,
            }) => self.accuse(node, victim, boot_id, &reason),
            Line::Ask(_) | Line::State(_) => {
                broken(format!("node {node}: {from:?} says {line:?} to fenced"))
            }
        }
    }

    fn accuse(
        &mut self,
        node: u32,
        victim: u32,
        boot_id: Option<BootId>,
        reason: &str,
    ) -> Result<(), Violation> {
        let Some(fenced) = &mut self.machine(node).fenced else {
            return Ok(());
        };
        let request = fenced.next_request;
        fenced.next_request += 1;
        trace!(
            self,
            "node {node} accuses node {victim} {boot_id:?}: {reason}"
        );
        let accuse = Message::Accuse {
            node: NodeId(victim),
            boot_id,
            reason: reason.to_owned(),
            request,
        };
        self.send_fenced(node, &accuse)
    }

    /// An agent is started; it acts after a while, and says so later.
    fn run_agent(&mut self, node: u32, victim: u32, run: u64) {
        let Some((_, process)) = self.running(node, Who::Fenced) else {
            return;
        };
        let act_ms = self.random.within(10, AGENT_MS);
        // It may look for long whether what it did had its effect.
        let say_ms = act_ms + self.random.within(0, self.plan.agent_ms);
        let fails = !self.healed && self.random.percent(self.plan.agent_fails_percent);
        trace!(
            self,
            "node {node}: an agent runs against node {victim}, fails: {fails}"
        );
        let life = self.machine(node).life;
        let lies = !fails && self.lies_about(node, victim);
        let cuts_off = !fails && !lies && self.cuts_off(node, victim);
        if cuts_off {
            trace!(self, "node {node}: the agent cuts off node {victim}");
        } else if lies {
            trace!(self, "node {node}: the agent lies about node {victim}");
            self.machine(victim).lie = Lie::Told;
        } else if !fails && self.mistake != Some(Mistake::AgentLies) {
            self.after(act_ms, Event::Agent { node, life, victim });
        }
        self.after(
            say_ms,
            Event::AgentSays {
                node,
                process,
                victim,
                run,
                success: (!fails).then_some(Success {
                    method: 0,
                    is_power: !cuts_off,
                }),
            },
        );
    }

    /// Whether an agent lies about a victim: of one that holds something others would be given it.
    fn lies_about(&mut self, node: u32, victim: u32) -> bool {
        let percent = self.plan.agent_lies_percent;
        self.is_idle(node, victim) && self.random.percent(percent)
    }

    /// Whether an agent cuts a victim off from storage and leaves it its power.
    fn cuts_off(&mut self, node: u32, victim: u32) -> bool {
        let percent = self.plan.cut_off_percent;
        self.is_idle(node, victim) && self.random.percent(percent)
    }

    /// Whether a machine has power and holds nothing, nor will in the life that failed, while
    /// things go wrong.
    fn is_idle(&mut self, node: u32, victim: u32) -> bool {
        let machine = self.machine(node);
        let fenced = machine.fenced.as_ref();
        let failed = fenced.and_then(|fenced| {
            let mut victims = fenced.domain.victims();
            victims.find(|(other, _)| other.0 == victim)?.1.incarnation
        });
        let member = machine
            .cmand
            .as_ref()
            .and_then(|cmand| cmand.life_of(victim));
        if member.is_some() && member == failed {
            return false;
        }
        let holds = self.truth.of_node(victim).next().is_some();
        let machine = self.machine(victim);
        let is_idle = machine.up && machine.kernel.space.is_none() && machine.mount == Mount::Out;
        !self.healed && is_idle && !holds
    }

    /// An agent resets a machine, whatever that does by then.
    pub(super) fn agent_acts(&mut self, node: u32, life: u32, victim: u32) {
        // It has no power any more; perhaps its word was on the way already.
        if !self.is_life(node, life) && self.random.percent(50) {
            return;
        }
        trace!(self, "node {victim} is reset by an agent of node {node}");
        self.power_off(victim);
        let pause = self.random.within(500, 5_000);
        self.after(pause, Event::Boot { node: victim });
    }

    pub(super) fn agent_says(
        &mut self,
        node: u32,
        process: u64,
        victim: u32,
        run: u64,
        success: Option<Success>,
    ) -> Result<(), Violation> {
        if self.running(node, Who::Fenced) != Some((Who::Fenced, process)) {
            return Ok(());
        }
        let at = self.now_ms / 1_000;
        self.domain(node, |domain, now, fx| {
            domain.handle_agent(now, NodeId(victim), run, success, at, fx);
        })
    }
}
