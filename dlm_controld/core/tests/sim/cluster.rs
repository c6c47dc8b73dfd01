// SPDX-License-Identifier: GPL-2.0-only
//! Nodes with a core each, and models of what is around them.
//!
//! The sequencer stands for cmand: it puts views, group views and messages in
//! one order and gives each member its part. A node that is cut off receives
//! nothing more of it. Only a majority moves on. The fence domain learns of
//! failures after a while, ends the victim's boot after a while, and its state
//! reaches each node after a while.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;

use dlm_controld_core::BootId;
use dlm_controld_core::Config;
use dlm_controld_core::Controld;
use dlm_controld_core::Departure;
use dlm_controld_core::Effect;
use dlm_controld_core::FenceState;
use dlm_controld_core::GroupView;
use dlm_controld_core::Incarnation;
use dlm_controld_core::Instant;
use dlm_controld_core::Member;
use dlm_controld_core::NodeId;
use dlm_controld_core::OWN_GROUP;
use dlm_controld_core::View;
use dlm_controld_core::report::Wait;
use dlm_controld_core::wire::Message;
use dlm_controld_core::wire::PROTOCOL_RANGE;

use crate::checker::Checker;
use crate::kernel::Answer;
use crate::kernel::Answered;
use crate::kernel::Job;
use crate::kernel::Kernel;
use crate::kernel::Lockspace;
use crate::kernel::Pending;
use crate::kernel::State;
use crate::rng::Rng;

/// Lockspaces the workload uses.
const NAMES: [&str; 2] = ["a", "b"];

/// A fault planted around the cores, to see the checkers find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    None,
    /// fenced says that all is fenced when nothing is.
    FencingLies,
    /// The kernel says it stopped and runs on.
    StopIgnored,
    /// STARTs of members appear that they did not send.
    StartForged,
    /// Group views differ between members.
    MembersDiffer,
    /// fenced never ends anybody.
    FencedForgets,
}

/// What cmand tells a node.
#[derive(Debug, Clone)]
enum Told {
    View(View),
    Quorum(bool),
    Group(GroupView),
    Message {
        group: String,
        from: NodeId,
        payload: Vec<u8>,
    },
    Expelled,
}

/// What a node asks of cmand and fenced.
#[derive(Debug, Clone)]
enum Asked {
    Join(String),
    Leave(String),
    Send(String, Vec<u8>),
    Fence(NodeId),
}

/// dlm_controld on a node.
struct Daemon {
    core: Controld,
    inbox: VecDeque<Told>,
    outbox: VecDeque<Asked>,
    fence: VecDeque<FenceState>,
    quorate: bool,
    /// What cmand told last, received or not.
    told_quorate: bool,
    expelled: bool,
}

struct Node {
    id: NodeId,
    boot: u32,
    /// cmand runs.
    up: bool,
    linked: bool,
    /// The others went on without this life of it.
    expelled: bool,
    daemon: Option<Daemon>,
    /// cmand has not told the others yet that the daemon died.
    daemon_died: bool,
    kernel: Kernel,
    /// On their way from the sequencer; dropped when the node is expelled.
    wire: VecDeque<Told>,
}

impl Node {
    fn may_be_member(&self) -> bool {
        self.linked && self.up && !self.expelled
    }
}

#[derive(Default)]
struct Group {
    number: u64,
    members: BTreeSet<NodeId>,
}

/// The model of the fence domain.
#[derive(Default)]
struct Fenced {
    view: u64,
    victims: BTreeSet<NodeId>,
    /// Views not processed yet: number and who failed with which boot.
    backlog: VecDeque<(u64, Vec<(NodeId, u32)>)>,
    ended: BTreeSet<(NodeId, u32)>,
}

pub(crate) struct Cluster {
    rng: Rng,
    planted: Planted,
    now: Instant,
    nodes: Vec<Node>,
    view: View,
    boots: BTreeMap<NodeId, u32>,
    groups: BTreeMap<String, Group>,
    fenced: Fenced,
    checker: Checker,
    /// What happened, for a failure's message.
    trace: VecDeque<String>,
}

/// `ENOENT`: what a start ends with whose lockspace is gone.
const ENOENT: i32 = 2;

/// Lines of the trace that are kept.
const TRACE: usize = 60;

fn boot_id(node: NodeId, boot: u32) -> BootId {
    let id = u128::from(node.0) << 64 | u128::from(boot);
    BootId(id.to_be_bytes())
}

impl Cluster {
    pub(crate) fn new(seed: u64, planted: Planted) -> Self {
        let mut rng = Rng::new(seed);
        let count = [2, 3, 4, 5][rng.below(4)];
        let node = |id| Node {
            id: NodeId(id),
            boot: 1,
            up: true,
            linked: true,
            expelled: false,
            daemon: None,
            daemon_died: false,
            kernel: Kernel::default(),
            wire: VecDeque::new(),
        };
        let nodes: Vec<Node> = (1..=count).map(node).collect();
        let boots: BTreeMap<_, _> = nodes.iter().map(|node| (node.id, 1)).collect();
        let view = View {
            number: 1,
            tag: 0,
            members: members(&boots),
            joined: Vec::new(),
            departed: Vec::new(),
            quorate: true,
        };
        let fenced = Fenced {
            view: 1,
            ..Fenced::default()
        };
        Self {
            rng,
            planted,
            now: Instant(0),
            nodes,
            view,
            boots,
            groups: BTreeMap::new(),
            fenced,
            checker: Checker::default(),
            trace: VecDeque::new(),
        }
    }

    fn note(&mut self, line: String) {
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// What happened last.
    pub(crate) fn story(&self) -> String {
        self.trace.iter().map(|line| format!("{line}\n")).collect()
    }

    /// One thing happens somewhere.
    pub(crate) fn step(&mut self, faults: bool) -> Result<(), String> {
        self.now = self.now.after(1 + self.rng.below(40) as u64);
        let at = self.rng.below(self.nodes.len());
        if faults && self.rng.once_in(250) {
            self.fault(at);
            return Ok(());
        }
        for _ in 0..=self.rng.below(6) {
            match self.rng.below(6) {
                0 | 1 => self.deliver(at)?,
                2 => self.receive(at),
                3 => self.sequence(at)?,
                _ => self.work(at)?,
            }
        }
        match self.rng.below(10) {
            0 | 1 => self.fence_told(at)?,
            2 => self.recovered(at),
            3 | 4 if faults => self.workload(at)?,
            3..=5 => self.tell_quorum(at),
            6 | 7 => self.membership(at),
            _ => self.fencing(at)?,
        }
        self.timeout(at)
    }

    fn fault(&mut self, at: usize) {
        match self.rng.below(6) {
            0 | 1 => self.nodes[at].linked = false,
            2 | 3 => self.nodes[at].linked = true,
            4 => self.power_off(at),
            _ => self.kill_daemon(at),
        }
    }

    pub(crate) fn heal(&mut self) {
        for node in &mut self.nodes {
            node.linked = true;
        }
    }

    fn power_off(&mut self, at: usize) {
        self.note(format!("node {} off", self.nodes[at].id));
        let node = &mut self.nodes[at];
        node.up = false;
        node.daemon = None;
        node.daemon_died = false;
        node.kernel = Kernel::default();
        node.wire.clear();
    }

    /// The daemon dies; its kernel stops, its groups learn it.
    fn kill_daemon(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.daemon.take().is_none() {
            return;
        }
        node.kernel.stop_all();
        node.daemon_died = true;
        let id = node.id;
        self.note(format!("daemon {id} killed"));
    }

    fn groups_of(&self, node: NodeId) -> Vec<String> {
        let of = self
            .groups
            .iter()
            .filter(|(_, group)| group.members.contains(&node));
        of.map(|(name, _)| name.clone()).collect()
    }

    /// Whether this life of the node is a member of the view.
    fn is_current(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        node.up && self.boots.get(&node.id) == Some(&node.boot)
    }

    /// Nodes that hear each other, if they are a majority. With no member of the
    /// view among them they begin anew: every life before counts as failed.
    fn majority(&self) -> Option<Vec<usize>> {
        let linked: Vec<usize> = (0..self.nodes.len())
            .filter(|at| self.nodes[*at].may_be_member())
            .collect();
        (linked.len() * 2 > self.nodes.len()).then_some(linked)
    }

    /// Gives an event to every member that is one now.
    fn tell(&mut self, to: &BTreeSet<NodeId>, told: &Told) {
        for at in 0..self.nodes.len() {
            if to.contains(&self.nodes[at].id) && self.is_current(at) {
                self.nodes[at].wire.push_back(told.clone());
            }
        }
    }

    /// The sequencer: a new view if somebody is gone or wants in.
    fn membership(&mut self, at: usize) {
        if !self.nodes[at].up && self.rng.once_in(3) {
            return self.boot(at);
        }
        if self.nodes[at].daemon.is_none() {
            self.start_daemon(at);
        }
        let Some(linked) = self.majority() else {
            return;
        };
        let now: BTreeMap<NodeId, u32> = linked
            .iter()
            .map(|at| (self.nodes[*at].id, self.nodes[*at].boot))
            .collect();
        if now == self.boots || self.rng.once_in(2) {
            return;
        }
        self.new_view(now);
    }

    fn boot(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.up = true;
        node.boot += 1;
        node.linked = true;
        node.expelled = false;
    }

    fn new_view(&mut self, now: BTreeMap<NodeId, u32>) {
        let before = std::mem::replace(&mut self.boots, now);
        let failed: Vec<(NodeId, u32)> = before
            .iter()
            .filter(|(node, boot)| self.boots.get(node) != Some(boot))
            .map(|(node, boot)| (*node, *boot))
            .collect();
        self.view.number += 1;
        self.view.members = members(&self.boots);
        for node in self.nodes.iter_mut().filter(|node| node.up) {
            if failed.contains(&(node.id, node.boot)) {
                node.expelled = true;
                node.wire = VecDeque::from([Told::Expelled]);
            }
        }
        self.fenced
            .backlog
            .push_back((self.view.number, failed.clone()));
        let everybody = self.boots.keys().copied().collect();
        let view = Told::View(self.view.clone());
        self.tell(&everybody, &view);
        for name in self.groups.keys().cloned().collect::<Vec<_>>() {
            let members = &self.groups[&name].members;
            let departed: Vec<_> = failed
                .iter()
                .filter(|(node, _)| members.contains(node))
                .map(|(node, _)| (*node, Departure::NodeFailed))
                .collect();
            if !departed.is_empty() {
                self.group_change(&name, &[], &departed);
            }
        }
    }

    fn group_change(&mut self, name: &str, joined: &[NodeId], gone: &[(NodeId, Departure)]) {
        self.note(format!(
            "{name}: view {} joined {joined:?} gone {gone:?}",
            self.view.number
        ));
        let number = self.view.number;
        let group = self.groups.entry(name.to_owned()).or_default();
        let mut to = group.members.clone();
        group.number += 1;
        group.members.extend(joined);
        to.extend(joined);
        for (node, why) in gone {
            group.members.remove(node);
            if *why != Departure::Left {
                to.remove(node);
            }
        }
        let mut view = GroupView {
            group: name.to_owned(),
            number: group.number,
            view: number,
            members: group.members.iter().copied().collect(),
            joined: joined.to_vec(),
            departed: gone.to_vec(),
            lost: Vec::new(),
        };
        if self.planted == Planted::MembersDiffer && view.members.len() > 1 {
            let first = view.members[0];
            self.tell(&BTreeSet::from([first]), &Told::Group(view.clone()));
            to.remove(&first);
            view.members.remove(0);
        }
        self.tell(&to, &Told::Group(view));
    }

    fn start_daemon(&mut self, at: usize) {
        if !self.is_current(at) || self.nodes[at].daemon_died {
            return;
        }
        if !self.nodes[at].kernel.lockspaces.is_empty() {
            // What an earlier daemon left can only be ended by a reset.
            self.fenced.victims.insert(self.nodes[at].id);
            return self.tell_fence_state();
        }
        let config = Config {
            node: self.nodes[at].id,
            protocol: PROTOCOL_RANGE,
        };
        let mut fx = Vec::new();
        let mut core = Controld::new(config);
        core.handle_begin(&mut fx);
        let node = &mut self.nodes[at];
        // Views on the wire are older than the one it begins with.
        node.wire.retain(|told| matches!(told, Told::Expelled));
        node.daemon = Some(Daemon {
            core,
            inbox: VecDeque::from([Told::View(self.view.clone()), Told::Quorum(true)]),
            outbox: VecDeque::new(),
            fence: VecDeque::from([self.fenced.told()]),
            quorate: false,
            told_quorate: true,
            expelled: false,
        });
        self.effects(at, fx)
            .expect("nothing starts at the beginning");
    }

    fn receive(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let expelled = matches!(node.wire.front(), Some(Told::Expelled));
        if (node.linked || expelled)
            && let Some(daemon) = &mut node.daemon
            && let Some(told) = node.wire.pop_front()
        {
            daemon.inbox.push_back(told);
        }
    }

    /// The sequencer takes what a node asked.
    fn sequence(&mut self, at: usize) -> Result<(), String> {
        if !self.nodes[at].linked || !self.is_current(at) || self.majority().is_none() {
            return Ok(());
        }
        let id = self.nodes[at].id;
        if std::mem::take(&mut self.nodes[at].daemon_died) {
            for name in self.groups_of(id) {
                self.group_change(&name, &[], &[(id, Departure::ProcessFailed)]);
            }
            self.last_witness(at);
        }
        let asked = self.nodes[at]
            .daemon
            .as_mut()
            .and_then(|daemon| daemon.outbox.pop_front());
        match asked {
            Some(Asked::Join(group)) => self.group_change(&group, &[id], &[]),
            Some(Asked::Leave(group)) => {
                if let Some(name) = group.strip_prefix("dlm:ls:") {
                    self.checker.left(id, name);
                }
                self.group_change(&group, &[], &[(id, Departure::Left)]);
            }
            Some(Asked::Send(group, payload)) => return self.send(group, id, payload),
            Some(Asked::Fence(node)) => {
                self.note(format!("node {id} accuses {node}"));
                self.fenced.victims.insert(node);
                self.tell_fence_state();
            }
            None => {}
        }
        Ok(())
    }

    /// A daemon that died while no other runs has no witness but its own node:
    /// the next daemon there finds what it left and has the node fenced. The
    /// model does that at once.
    fn last_witness(&mut self, at: usize) {
        let group = self.groups.get(OWN_GROUP).map(|group| &group.members);
        let witness = |node: &Node| {
            let is_member = group.is_some_and(|members| members.contains(&node.id));
            is_member && node.daemon.is_some() && node.may_be_member()
        };
        let holds = !self.nodes[at].kernel.lockspaces.is_empty();
        if holds && !self.nodes.iter().any(witness) {
            self.fenced.victims.insert(self.nodes[at].id);
            self.tell_fence_state();
        }
    }

    /// cmand refuses what is sent to a group by no member of it.
    fn send(&mut self, group: String, from: NodeId, payload: Vec<u8>) -> Result<(), String> {
        let to = self
            .groups
            .get(&group)
            .map(|group| group.members.clone())
            .unwrap_or_default();
        if !to.contains(&from) {
            let message = Message::decode(&payload);
            return Err(format!(
                "node {from} sends {message:?} to {group}, no member of it"
            ));
        }
        let forged = match Message::decode(&payload) {
            Ok(Message::Start { .. }) if self.planted == Planted::StartForged => to.clone(),
            Ok(_) | Err(_) => BTreeSet::from([from]),
        };
        for from in forged {
            let (group, payload) = (group.clone(), payload.clone());
            self.tell(
                &to,
                &Told::Message {
                    group,
                    from,
                    payload,
                },
            );
        }
        Ok(())
    }

    fn deliver(&mut self, at: usize) -> Result<(), String> {
        let now = self.now;
        let Some(daemon) = &mut self.nodes[at].daemon else {
            return Ok(());
        };
        let Some(told) = daemon.inbox.pop_front() else {
            return Ok(());
        };
        let mut fx = Vec::new();
        match told {
            Told::View(view) => daemon.core.handle_view(now, view, &mut fx),
            Told::Quorum(quorate) => {
                daemon.quorate = quorate;
                daemon.core.handle_quorum(now, quorate, &mut fx);
            }
            Told::Group(group) => daemon.core.handle_group(now, &group, &mut fx),
            Told::Message {
                group,
                from,
                payload,
            } => {
                daemon
                    .core
                    .handle_message(now, &group, from, &payload, &mut fx);
            }
            Told::Expelled => {
                daemon.expelled = true;
                daemon.core.halt(&mut fx);
            }
        }
        self.effects(at, fx)
    }

    fn effects(&mut self, at: usize, fx: Vec<Effect>) -> Result<(), String> {
        let node = &mut self.nodes[at];
        let Some(daemon) = &mut node.daemon else {
            return Ok(());
        };
        for effect in fx {
            let (name, job) = match effect {
                Effect::GroupJoin { group } => {
                    daemon.outbox.push_back(Asked::Join(group));
                    continue;
                }
                Effect::GroupLeave { group } => {
                    daemon.outbox.push_back(Asked::Leave(group));
                    continue;
                }
                Effect::Send { group, message } => {
                    daemon
                        .outbox
                        .push_back(Asked::Send(group, message.encode()));
                    continue;
                }
                Effect::Fence { node, .. } => {
                    daemon.outbox.push_back(Asked::Fence(node));
                    continue;
                }
                Effect::Notice(_) => continue,
                Effect::Stop { lockspace } => (lockspace, Job::Stop),
                Effect::Start(start) => {
                    if !daemon.quorate || daemon.expelled {
                        return Err(format!("node {} starts while not quorate", node.id));
                    }
                    (start.lockspace.clone(), Job::Start(start))
                }
                Effect::Answer { lockspace, result } => {
                    let asked = node.kernel.lockspaces.get(&lockspace);
                    let life = asked.map(|asked| asked.life);
                    (lockspace, Job::Answer(Answer { result, life }))
                }
                Effect::Forget { lockspace } => (lockspace, Job::Forget),
            };
            node.kernel.jobs.entry(name).or_default().push_back(job);
        }
        Ok(())
    }

    /// The kernel does one job of one lockspace.
    fn work(&mut self, at: usize) -> Result<(), String> {
        let name = NAMES[self.rng.below(NAMES.len())];
        let id = self.nodes[at].id;
        let kernel = &mut self.nodes[at].kernel;
        let Some(job) = kernel.next_job(name) else {
            return Ok(());
        };
        let mut fx = Vec::new();
        match job {
            Job::Stop => {
                // One that is gone counts as stopped.
                if self.planted != Planted::StopIgnored
                    && let Some(lockspace) = kernel.lockspaces.get_mut(name)
                {
                    lockspace.state = State::Stopped;
                    lockspace.recovering = false;
                }
                let now = self.now;
                if let Some(daemon) = &mut self.nodes[at].daemon {
                    daemon.core.handle_stopped(now, name, &mut fx);
                }
            }
            Job::Start(start) if !kernel.lockspaces.contains_key(name) => {
                self.note(format!("no lockspace for {start:?}"));
                let now = self.now;
                if let Some(daemon) = &mut self.nodes[at].daemon {
                    daemon.core.handle_start_failed(now, name, -ENOENT, &mut fx);
                }
            }
            Job::Start(start) => {
                let nodes = &self.nodes;
                let state = |member: NodeId| {
                    let node = nodes.iter().find(|node| node.id == member);
                    node.map_or(State::Absent, |node| node.kernel.state(name))
                };
                self.trace.push_back(format!("node {id}: {start:?}"));
                self.checker.start(id, &start, state)?;
                self.started(at, name, start.change, &mut fx);
            }
            Job::Answer(answer) => match kernel.answer(name, answer)? {
                Answered::Stays => {}
                Answered::Gone => self.checker.left(id, name),
                Answered::NobodyWaits => {
                    let now = self.now;
                    if let Some(daemon) = &mut self.nodes[at].daemon {
                        daemon.core.handle_abandoned(now, name, &mut fx);
                    }
                }
            },
            Job::Forget => {}
        }
        self.effects(at, fx)
    }

    fn started(&mut self, at: usize, name: &str, change: u64, fx: &mut Vec<Effect>) {
        let now = self.now;
        let node = &mut self.nodes[at];
        if let Some(Lockspace {
            state,
            begun,
            recovering,
            ..
        }) = node.kernel.lockspaces.get_mut(name)
        {
            *state = State::Running(change);
            *begun = true;
            *recovering = true;
        }
        if let Some(daemon) = &mut node.daemon {
            daemon.core.handle_started(now, name, fx);
        }
    }

    fn recovered(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        for (name, lockspace) in &mut node.kernel.lockspaces {
            if std::mem::take(&mut lockspace.recovering)
                && let Some(daemon) = &mut node.daemon
            {
                daemon.core.handle_recovered(name);
            }
        }
    }

    fn workload(&mut self, at: usize) -> Result<(), String> {
        let name = NAMES[self.rng.below(NAMES.len())];
        let release = self.rng.once_in(3);
        let recover = self.rng.once_in(4);
        let killed = self.rng.once_in(8);
        let now = self.now;
        let node = &mut self.nodes[at];
        let Some(daemon) = &mut node.daemon else {
            return Ok(());
        };
        let mut fx = Vec::new();
        if killed {
            let waited = node.kernel.kill_task(name);
            if waited != Pending::None {
                // The module lets go of all locks before the task ends. Should the daemon die
                // before the others hear of a leave, there is nothing that its node would have to
                // be fenced for: the next daemon there finds nothing.
                self.checker.left(node.id, name);
            }
            // A leave was asked for already; nobody will wait for its answer.
            if waited == Pending::Join {
                daemon.core.handle_leave(now, name, false, &mut fx);
            }
        } else if release && node.kernel.release(name) {
            daemon.core.handle_leave(now, name, recover, &mut fx);
        } else if !release && node.kernel.create(name) {
            daemon.core.handle_join(now, name, 0, &mut fx);
        }
        self.effects(at, fx)
    }

    fn tell_quorum(&mut self, at: usize) {
        let heard = self.majority().is_some();
        let current = self.is_current(at);
        let node = &mut self.nodes[at];
        let quorate = heard && node.linked && current;
        if let Some(daemon) = &mut node.daemon
            && daemon.told_quorate != quorate
        {
            daemon.told_quorate = quorate;
            daemon.inbox.push_back(Told::Quorum(quorate));
        }
    }

    fn fence_told(&mut self, at: usize) -> Result<(), String> {
        let now = self.now;
        let lies = self.planted == Planted::FencingLies;
        let Some(daemon) = &mut self.nodes[at].daemon else {
            return Ok(());
        };
        let Some(mut state) = daemon.fence.pop_front() else {
            return Ok(());
        };
        if lies {
            state = FenceState {
                view: u64::MAX,
                victims: BTreeSet::new(),
            };
        }
        let mut fx = Vec::new();
        daemon.core.handle_fence(now, state, &mut fx);
        self.effects(at, fx)
    }

    /// The fence domain learns of a failure, or ends a victim.
    fn fencing(&mut self, at: usize) -> Result<(), String> {
        if self.majority().is_none() {
            return Ok(());
        }
        if let Some((view, failed)) = self.fenced.backlog.pop_front() {
            for (node, boot) in failed {
                let back = self.boots.get(&node).is_some_and(|now| *now != boot);
                if back {
                    self.checker.ended(node);
                    self.fenced.victims.remove(&node);
                } else if !self.fenced.ended.contains(&(node, boot)) {
                    self.fenced.victims.insert(node);
                }
            }
            self.fenced.view = view;
            self.note(format!(
                "fenced: view {view} victims {:?}",
                self.fenced.victims
            ));
            self.tell_fence_state();
            return Ok(());
        }
        let id = self.nodes[at].id;
        if self.planted == Planted::FencedForgets || !self.fenced.victims.contains(&id) {
            return Ok(());
        }
        self.fenced.ended.insert((id, self.nodes[at].boot));
        self.power_off(at);
        self.checker.ended(id);
        self.note(format!("node {id} fenced"));
        self.fenced.victims.remove(&id);
        self.tell_fence_state();
        Ok(())
    }

    fn tell_fence_state(&mut self) {
        let state = self.fenced.told();
        for daemon in self
            .nodes
            .iter_mut()
            .filter_map(|node| node.daemon.as_mut())
        {
            daemon.fence.push_back(state.clone());
        }
    }

    fn timeout(&mut self, at: usize) -> Result<(), String> {
        let now = self.now;
        let Some(daemon) = &mut self.nodes[at].daemon else {
            return Ok(());
        };
        let mut fx = Vec::new();
        if daemon.core.next_timeout().is_some_and(|due| due <= now) {
            daemon.core.handle_timeout(now, &mut fx);
        }
        self.effects(at, fx)
    }

    /// Whether nothing is left to happen.
    pub(crate) fn is_at_rest(&self) -> bool {
        let quiet = |node: &Node| {
            let Some(daemon) = &node.daemon else {
                return false;
            };
            let reports = daemon.core.report();
            node.wire.is_empty()
                && daemon.inbox.is_empty()
                && daemon.outbox.is_empty()
                && daemon.fence.is_empty()
                && daemon.quorate
                && !daemon.expelled
                && reports
                    .iter()
                    .all(|ls| ls.wait == Wait::None && ls.pending.is_none())
                && node.kernel.jobs.values().all(VecDeque::is_empty)
                && node
                    .kernel
                    .lockspaces
                    .values()
                    .all(|ls| ls.pending == Pending::None && !ls.recovering)
        };
        self.nodes.iter().all(quiet)
            && self.fenced.backlog.is_empty()
            && self.fenced.victims.is_empty()
            && self.boots.len() == self.nodes.len()
    }

    /// At rest every lockspace runs everywhere it exists, with the same change.
    pub(crate) fn check_rest(&self) -> Result<(), String> {
        for name in NAMES {
            let states: BTreeMap<NodeId, State> = self
                .nodes
                .iter()
                .map(|node| (node.id, node.kernel.state(name)))
                .filter(|(_, state)| *state != State::Absent)
                .collect();
            let running: BTreeSet<_> = states.values().map(|state| format!("{state:?}")).collect();
            if running.len() > 1 || running.contains("Stopped") {
                return Err(format!("{name} at rest: {states:?}"));
            }
            let members = self
                .groups
                .get(&format!("dlm:ls:{name}"))
                .map(|group| &group.members);
            let there: BTreeSet<NodeId> = states.keys().copied().collect();
            if members.is_some_and(|members| *members != there) {
                return Err(format!(
                    "{name} at rest: group {members:?}, kernels {there:?}"
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn describe(&self) -> String {
        let mut out = format!("view {:?} victims {:?}\n", self.view, self.fenced.victims);
        for (name, group) in &self.groups {
            out += &format!("group {name} {} {:?}\n", group.number, group.members);
        }
        for node in &self.nodes {
            let Node {
                id,
                up,
                boot,
                expelled,
                ..
            } = node;
            out += &format!("node {id} up {up} boot {boot} expelled {expelled}\n");
            out += &format!("  {:?}\n", node.kernel.lockspaces);
            if let Some(daemon) = &node.daemon {
                let own: Vec<_> = daemon.core.daemons().collect();
                let accused = daemon.core.accused();
                out += &format!("  {:?} accused {accused:?}\n", daemon.core.fence_state());
                let Daemon {
                    inbox,
                    outbox,
                    quorate,
                    ..
                } = daemon;
                out += &format!(
                    "  own {own:?} {:?} quorate {quorate}\n",
                    daemon.core.protocol()
                );
                out += &format!("  {inbox:?} {outbox:?}\n  {:?}\n", daemon.core.report());
            }
        }
        out
    }
}

impl Fenced {
    fn told(&self) -> FenceState {
        FenceState {
            view: self.view,
            victims: self.victims.clone(),
        }
    }
}

fn members(boots: &BTreeMap<NodeId, u32>) -> Vec<Member> {
    let member = |(node, boot): (&NodeId, &u32)| Member {
        node: *node,
        incarnation: Incarnation((*boot).into()),
        boot: boot_id(*node, *boot),
    };
    boots.iter().map(member).collect()
}
