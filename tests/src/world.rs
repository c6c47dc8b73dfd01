// SPDX-License-Identifier: GPL-2.0-only
//! A run: machines, wires, daemons and clients on one clock, driven by one seed.
//!
//! Everything that happens is an event at a time; events of the same time happen in the order in
//! which they were made. What belongs to a life of a machine that is over falls. First things go
//! wrong for a while, then everything is healed and must come to rest: every operation completed,
//! every lock given up, nothing left behind.

mod client;
mod daemon;
mod fencing;
mod machine;
mod membership;
mod process;
mod tcp;
mod transport;

use std::collections::{BTreeMap, VecDeque};

use dlm_core::lockcore::shard::dump::Format;
use dlm_core::platform::{fail, planted};

use crate::Mistake;
use crate::plan::Plan;
use crate::random::Random;
use crate::truth::{Truth, Violation, broken};
use crate::views::Views;
use machine::Machine;
use membership::Update;
use process::{End, Line, Process, Who};
use tcp::Tcp;

/// How long everything may take to come to rest once it is healed, ms.
const REST_MS: u64 = 120_000;

/// Something that happens.
#[derive(Debug)]
enum Event {
    /// Something arrives at an end of a connection.
    Arrive { connection: u64, side: usize },
    /// A request for a connection arrives.
    Dial { connection: u64 },
    /// A kernel looks after a connection and sends.
    Look { node: u32, life: u32, with: u32 },
    /// A kernel reads connections and delivers.
    Receive { node: u32, life: u32, with: u32 },
    /// Something in a kernel is due.
    Timer { node: u32, life: u32 },
    /// A datagram of a cmand arrives.
    Datagram { from: u32, to: u32, bytes: Vec<u8> },
    /// Something in a cmand is due.
    Beat { node: u32, process: u64 },
    /// cmand tells its kernel.
    Update {
        node: u32,
        process: u64,
        update: Update,
    },
    /// A daemon says something to another one on its machine.
    Line {
        node: u32,
        life: u32,
        from: Process,
        to: Process,
        line: Box<Line>,
    },
    /// A service manager starts a daemon.
    Begin { node: u32, life: u32, who: Who },
    /// The kernel notices that a daemon's socket is closed.
    Closed { node: u32, life: u32, who: Who },
    /// An operator looks after a machine that says it must be reset.
    Operator { node: u32, life: u32 },
    /// Something in a fenced is due.
    FenceTimer { node: u32, process: u64 },
    /// A fence agent that a node runs resets a machine.
    Agent { node: u32, life: u32, victim: u32 },
    /// A fence agent says how it ended.
    AgentSays {
        node: u32,
        process: u64,
        victim: u32,
        run: u64,
        success: Option<fenced_core::Success>,
    },
    /// An operator switches the storage of a machine on that was cut off.
    Unfence { node: u32 },
    /// Something in a dlm_controld is due.
    DaemonTimer { node: u32, process: u64 },
    /// The lock daemon hears of its kernel.
    Report {
        node: u32,
        process: u64,
        report: daemon::Report,
    },
    /// The kernel carries out what its lock daemon wants.
    Control { node: u32, process: u64 },
    /// A client does something.
    Client { node: u32, life: u32 },
    /// A client joins or leaves the lockspace.
    Mount { node: u32, life: u32 },
    /// A machine gets power.
    Boot { node: u32 },
    /// The configuration file of a machine becomes the right one.
    Correct { node: u32, life: u32 },
    /// The parts of the network come together.
    Mend,
    /// Something goes wrong.
    Disturb,
    /// Checkers that look at everything.
    Inspect,
}

/// What a run came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Events.
    pub events: u64,
    /// Grants checked.
    pub grants: u64,
    /// Operations completed.
    pub completions: u64,
    /// Value blocks checked.
    pub reads: u64,
    /// Recoveries completed, counted per node.
    pub recoveries: u64,
    /// Machines that lost power.
    pub crashes: u64,
    /// Connections that broke.
    pub cuts: u64,
    /// Views of the cluster, counted per node.
    pub views: u64,
    /// Daemons that were killed.
    pub kills: u64,
}

impl Summary {
    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            events: self.events + other.events,
            grants: self.grants + other.grants,
            completions: self.completions + other.completions,
            reads: self.reads + other.reads,
            recoveries: self.recoveries + other.recoveries,
            crashes: self.crashes + other.crashes,
            cuts: self.cuts + other.cuts,
            views: self.views + other.views,
            kills: self.kills + other.kills,
        }
    }
}

/// A run.
pub struct World {
    plan: Plan,
    random: Random,
    now_ms: u64,
    next_event: u64,
    events: BTreeMap<(u64, u64), Event>,
    machines: BTreeMap<u32, Machine>,
    connections: BTreeMap<u64, Tcp>,
    /// In which order the incarnations of the nodes came.
    incarnations: BTreeMap<(u32, u64), usize>,
    next_connection: u64,
    next_process: u64,
    truth: Truth,
    views: Views,
    mistake: Option<Mistake>,
    summary: Summary,
    /// Nothing goes wrong any more.
    healed: bool,
    /// Allocations fail until then.
    short_memory_until: u64,
    trace: Option<VecDeque<String>>,
}

/// Lines of a trace that are kept.
const TRACE_MAX: usize = 50_000;

macro_rules! trace {
    ($world:expr, $($arg:tt)*) => {
        if $world.trace.is_some() {
            let line = format!($($arg)*);
            $world.note(&line);
        }
    };
}
pub(crate) use trace;

/// Runs a seed, with a mistake planted or none. With `keep_trace`, what happened last is told
/// with a violation.
///
/// # Errors
/// The first rule that was broken, and the trace.
pub fn run(
    seed: u64,
    mistake: Option<Mistake>,
    keep_trace: bool,
) -> Result<Summary, (Violation, Vec<String>)> {
    fail::after(None);
    planted::set(match mistake {
        Some(Mistake::Locking(fault)) => Some(fault as u32),
        Some(_) | None => None,
    });
    let mut world = World::new(seed, mistake, keep_trace);
    let result = world.run();
    planted::set(None);
    fail::after(None);
    match result {
        Ok(()) => Ok(world.summary),
        Err(violation) => {
            let mut trace: Vec<String> = world.trace.take().unwrap_or_default().into();
            if keep_trace {
                trace.extend(world.dump());
            }
            Err((violation, trace))
        }
    }
}

impl World {
    fn new(seed: u64, mistake: Option<Mistake>, keep_trace: bool) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::new(&mut random);
        let mut world = Self {
            random,
            now_ms: 1_000,
            next_event: 0,
            events: BTreeMap::new(),
            machines: BTreeMap::new(),
            connections: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            next_connection: 1,
            next_process: 0,
            truth: Truth::default(),
            views: Views::default(),
            mistake,
            summary: Summary::default(),
            healed: false,
            short_memory_until: 0,
            trace: keep_trace.then(VecDeque::new),
            plan,
        };
        let all = 1..=world.plan.nodes;
        for node in all {
            world.machines.insert(node, Machine::off());
            let delay = world.random.below(3_000);
            world.after(delay, Event::Boot { node });
        }
        world.after(1_000, Event::Inspect);
        let first = world.random.below(world.plan.disturb_ms);
        world.after(3_000 + first, Event::Disturb);
        world
    }

    /// All resources and locks of all nodes, as debugfs shows them.
    fn dump(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (node, machine) in &self.machines {
            let Some(space) = &machine.kernel.space else {
                continue;
            };
            lines.push(format!("node {node}:"));
            space.each(|shard, _| {
                let mut text = String::new();
                // Writing to a string does not fail.
                let _ = shard.dump(self.now_ms, Format::Resources, &|handle| *handle, &mut text);
                let _ = shard.dump(self.now_ms, Format::Locks, &|handle| *handle, &mut text);
                let _ = shard.dump(self.now_ms, Format::Idle, &|handle| *handle, &mut text);
                lines.extend(text.lines().map(str::to_owned));
            });
        }
        lines
    }

    fn note(&mut self, line: &str) {
        let now_ms = self.now_ms;
        if let Some(trace) = &mut self.trace {
            if trace.len() == TRACE_MAX {
                trace.pop_front();
            }
            trace.push_back(format!("{now_ms:>7} {line}"));
        }
    }

    fn after(&mut self, delay_ms: u64, event: Event) {
        self.at(self.now_ms + delay_ms, event);
    }

    fn at(&mut self, at_ms: u64, event: Event) {
        self.next_event += 1;
        self.events
            .insert((at_ms.max(self.now_ms), self.next_event), event);
    }

    fn run(&mut self) -> Result<(), Violation> {
        let chaos_end = self.now_ms + self.plan.chaos_ms;
        while let Some(((at_ms, number), event)) = self.events.pop_first() {
            self.now_ms = at_ms;
            if !self.healed && at_ms >= chaos_end {
                self.heal();
            }
            if self.healed && at_ms > chaos_end + REST_MS {
                return broken(format!("no rest: {}", self.unrest()));
            }
            if let Some(until) = self.paused_until(&event) {
                // In the order in which it would have happened.
                self.events.insert((until, number), event);
                continue;
            }
            self.summary.events += 1;
            self.happen(event)?;
            if self.healed && self.unrest().is_empty() {
                break;
            }
        }
        self.summary.grants = self.truth.grants;
        self.summary.completions = self.truth.completions;
        self.summary.reads = self.truth.reads;
        self.summary.views = self.views.count;
        Ok(())
    }

    /// Until when the machine to which something happens gets no time.
    fn paused_until(&self, event: &Event) -> Option<u64> {
        let node = match event {
            Event::Arrive { connection, side } => {
                self.connections.get(connection)?.ends[*side].node
            }
            Event::Dial { connection } => self.connections.get(connection)?.ends[1].node,
            Event::Datagram { to, .. } => *to,
            Event::Look { node, .. }
            | Event::Receive { node, .. }
            | Event::Timer { node, .. }
            | Event::Beat { node, .. }
            | Event::Update { node, .. }
            | Event::Line { node, .. }
            | Event::Begin { node, .. }
            | Event::Closed { node, .. }
            | Event::FenceTimer { node, .. }
            | Event::Agent { node, .. }
            | Event::AgentSays { node, .. }
            | Event::DaemonTimer { node, .. }
            | Event::Report { node, .. }
            | Event::Control { node, .. }
            | Event::Client { node, .. }
            | Event::Mount { node, .. } => *node,
            Event::Operator { .. }
            | Event::Unfence { .. }
            | Event::Correct { .. }
            | Event::Boot { .. }
            | Event::Mend
            | Event::Disturb
            | Event::Inspect => return None,
        };
        let until = self.machines.get(&node)?.paused_until;
        (until > self.now_ms).then_some(until)
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Arrive { connection, side } => {
                self.arrive(connection, side);
                Ok(())
            }
            Event::Dial { connection } => {
                self.dialled(connection);
                Ok(())
            }
            Event::Look { node, life, with } => {
                self.look(node, life, with);
                Ok(())
            }
            Event::Receive { node, life, with } => self.receive(node, life, with),
            Event::Timer { node, life } => self.timer(node, life),
            Event::Datagram { from, to, bytes } => self.datagram(from, to, &bytes),
            Event::Beat { node, process } => self.beat(node, process),
            Event::Update {
                node,
                process,
                update,
            } => self.updated(node, process, update),
            Event::Line {
                node,
                life,
                from,
                to,
                line,
            } => {
                if self.is_life(node, life) {
                    return self.line(node, from, to, *line);
                }
                Ok(())
            }
            Event::Begin { node, life, who } => {
                if self.is_life(node, life) {
                    return self.begin(node, who);
                }
                Ok(())
            }
            Event::Closed { node, life, who } => {
                if self.is_life(node, life) {
                    return self.closed(node, who);
                }
                Ok(())
            }
            Event::Operator { node, life } => {
                if self.is_life(node, life) {
                    self.operator(node);
                }
                Ok(())
            }
            Event::Unfence { node } => self.unfence(node),
            Event::FenceTimer { node, process } => self.fence_timer(node, process),
            Event::Agent { node, life, victim } => {
                self.agent_acts(node, life, victim);
                Ok(())
            }
            Event::AgentSays {
                node,
                process,
                victim,
                run,
                success,
            } => self.agent_says(node, process, victim, run, success),
            Event::DaemonTimer { node, process } => self.daemon_timer(node, process),
            Event::Report {
                node,
                process,
                report,
            } => self.report(node, process, report),
            Event::Control { node, process } => self.control(node, process),
            Event::Client { node, life } => self.client(node, life),
            Event::Mount { node, life } => self.mount(node, life),
            Event::Correct { node, life } => {
                if self.is_life(node, life) {
                    self.correct_file(node);
                }
                Ok(())
            }
            Event::Boot { node } => {
                self.boot(node);
                Ok(())
            }
            Event::Mend => {
                self.mend();
                Ok(())
            }
            Event::Disturb => self.disturb(),
            Event::Inspect => {
                self.inspect()?;
                self.after(1_000, Event::Inspect);
                Ok(())
            }
        }
    }

    fn is_life(&self, node: u32, life: u32) -> bool {
        let machine = self.machines.get(&node);
        machine.is_some_and(|machine| machine.up && machine.life == life)
    }

    /// Something goes wrong, by the weights of the plan.
    fn disturb(&mut self) -> Result<(), Violation> {
        if self.healed {
            return Ok(());
        }
        let pause = self.random.within(50, self.plan.disturb_ms);
        self.after(pause, Event::Disturb);
        if self.plan.short_memory && self.random.percent(10) {
            self.short_memory_until = self.now_ms + self.random.below(500);
        }
        let weights = self.plan.weights;
        let node = self.random.within(1, u64::from(self.plan.nodes)) as u32;
        let kinds = [
            weights.crash,
            weights.partition,
            weights.cut,
            weights.daemon,
            weights.pause,
        ];
        let mut at = self.random.below(kinds.iter().sum());
        let mut kind = 0;
        for weight in kinds {
            if at < weight {
                break;
            }
            at -= weight;
            kind += 1;
        }
        match kind {
            0 => {
                trace!(self, "node {node} crashes");
                self.power_off(node);
                if self.random.percent(30) {
                    // It comes back by itself, before anybody fences it.
                    let pause = self.random.within(100, 4_000);
                    self.after(pause, Event::Boot { node });
                }
            }
            1 => self.fall_apart(),
            2 => self.cut_one(),
            3 => {
                let daemons = [Who::Controld, Who::Controld, Who::Fenced, Who::Cmand];
                let who = self.random.pick(&daemons).unwrap_or(Who::Controld);
                if self.running(node, who).is_some() {
                    self.summary.kills += 1;
                    self.end(node, who, End::Failed);
                }
            }
            _ => {
                let pause = self.random.within(50, 2_500);
                trace!(self, "node {node} gets no time for {pause} ms");
                let until = self.now_ms + pause;
                let machine = self.machine(node);
                machine.paused_until = machine.paused_until.max(until);
            }
        }
        Ok(())
    }

    fn fall_apart(&mut self) {
        let lonely = self.random.within(1, u64::from(self.plan.nodes)) as u32;
        let halves = self.random.percent(30);
        for (node, machine) in &mut self.machines {
            let away = if halves {
                self.random.percent(50)
            } else {
                *node == lonely
            };
            machine.side = u32::from(away);
        }
        let sides: Vec<u32> = self.machines.values().map(|machine| machine.side).collect();
        trace!(self, "network falls apart: {sides:?}");
        let pause = self.random.within(50, 6_000);
        self.after(pause, Event::Mend);
    }

    fn mend(&mut self) {
        for machine in self.machines.values_mut() {
            machine.side = 0;
        }
        trace!(self, "network mended");
    }

    /// From now on nothing goes wrong.
    fn heal(&mut self) {
        trace!(self, "everything is healed");
        self.healed = true;
        self.short_memory_until = 0;
        self.mend();
        for node in 1..=self.plan.nodes {
            self.after(4_000, Event::Boot { node });
        }
    }

    /// What is not as it should be at the end; empty if all is well.
    fn unrest(&self) -> String {
        let mut unrest = Vec::new();
        for (node, machine) in &self.machines {
            if let Some(what) = machine.unrest() {
                unrest.push(format!("node {node}: {what}"));
            }
            if unrest.len() > 6 {
                break;
            }
        }
        for node in self.machines.keys() {
            if let Some((handle, lock)) = self.truth.of_node(*node).next() {
                unrest.push(format!("lock {handle}: {lock:?}"));
            }
        }
        unrest.join("; ")
    }
}
