// SPDX-License-Identifier: GPL-2.0-only
//! One machine: power, its kernel, and what the kernel wants done.

use std::collections::BTreeMap;

use cmand_core::RememberedConfig;
use dlm_core::lockcore::arena::Walk;
use dlm_core::lockcore::members::NodeId;
use dlm_core::lockcore::recovery::State;
use dlm_core::lockcore::shard::Received;
use dlm_core::lockcore::wire::header::{Command, Header};
use dlm_core::lockcore::wire::message::{Message, Route};
use dlm_core::lockcore::wire::rcom::{self, Rcom, RcomKind};
use dlm_core::platform::{code, fail};

use super::daemon::{Daemon, Report};
use super::fencing::Fenced;
use super::membership::Cmand;
use super::process::Who;
use super::{Event, World, trace};
use crate::kernel::{Effect, Kernel, Link};
use crate::truth::{Violation, broken};

/// Where a node stands with the lockspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mount {
    /// It does not have it.
    Out,
    /// It waits for its daemon.
    Joining,
    /// It has it.
    In,
    /// It waits for its daemon, and uses it no more.
    Leaving,
}

/// Whether an agent said that it had ended this life of a machine, and had not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lie {
    /// No.
    None,
    /// It is about to say so, or has.
    Told,
    /// The fence domain believes it.
    Believed,
}

/// One machine; everything but power, life, place and disk is of its present life.
pub(super) struct Machine {
    pub(super) up: bool,
    pub(super) life: u32,
    pub(super) side: u32,
    /// What cmand keeps on disk.
    /// Whether its configuration file lists only itself, in this life of the machine.
    pub(super) own_file: bool,
    pub(super) memory: (u64, RememberedConfig),
    /// Nothing runs until then, as on a virtual machine that gets no time.
    pub(super) paused_until: u64,
    pub(super) kernel: Kernel,
    pub(super) cmand: Option<Cmand>,
    pub(super) fenced: Option<Fenced>,
    pub(super) daemon: Option<Daemon>,
    pub(super) mount: Mount,
    /// When the last line from one daemon to another arrives.
    pub(super) line_ms: BTreeMap<(Who, Who), u64>,
    pub(super) last_update_ms: u64,
    pub(super) last_report_ms: u64,
    /// Since it has the lockspace: last generation, slots, and whether callbacks are kept back.
    pub(super) generation: u32,
    pub(super) slots: BTreeMap<u32, u16>,
    pub(super) done: bool,
    pub(super) holds: bool,
    pub(super) lie: Lie,
}

impl Machine {
    /// Without power.
    pub(super) fn off() -> Self {
        Self {
            up: false,
            life: 0,
            side: 0,
            own_file: false,
            memory: (0, RememberedConfig::Nothing),
            paused_until: 0,
            kernel: Kernel::default(),
            cmand: None,
            fenced: None,
            daemon: None,
            mount: Mount::Out,
            line_ms: BTreeMap::new(),
            last_update_ms: 0,
            last_report_ms: 0,
            generation: 0,
            slots: BTreeMap::new(),
            done: false,
            holds: false,
            lie: Lie::None,
        }
    }

    /// The same machine, with nothing left of its present life.
    fn anew(&self, up: bool, life: u32) -> Self {
        Self {
            up,
            life,
            side: self.side,
            own_file: false,
            memory: self.memory,
            ..Self::off()
        }
    }

    /// What is not as it should be at the end of a run.
    pub(super) fn unrest(&self) -> Option<String> {
        let Some(space) = self.kernel.space.as_ref().filter(|_| self.up) else {
            let links = self.kernel.links.iter();
            let links: Vec<_> = links.map(|(node, link)| (node, link.describe())).collect();
            let controld = self.daemon.as_ref().map(|daemon| daemon.controld.report());
            return Some(format!(
                "up: {} has no lockspace, {:?}, {links:?}, {controld:?}",
                self.up, self.mount
            ));
        };
        if self.lie == Lie::Believed {
            return Some("runs on although an agent said that it had ended".to_owned());
        }
        let victims = self.fenced.as_ref().map(Fenced::victims);
        if victims.as_ref().is_none_or(|victims| !victims.is_empty()) {
            return Some(format!("has victims {victims:?}"));
        }
        let expelled = self.cmand.as_ref().is_none_or(|cmand| cmand.expelled);
        if expelled || self.mount != Mount::In || space.recovery.state() != State::Running {
            let state = space.recovery.state();
            let waits_for = space.recovery.waits_for();
            let links = self.kernel.links.iter();
            let links = links.map(|(node, link)| (node, link.describe()));
            let links: Vec<_> = links.collect();
            let what = format!(
                "is {state:?}, status {:#x}, waits for {waits_for:?}, {:?}, expelled: {expelled}, {links:?}, {:?}",
                space.recovery.status_bits(),
                self.mount,
                self.daemon.as_ref().map(|daemon| daemon.controld.report())
            );
            return Some(what);
        }
        for (node, link) in &self.kernel.links {
            if link.machine.peer().unacked() > 0 || !link.held.is_empty() {
                return Some(format!("packets for or of node {node} are under way"));
            }
        }
        let mut left = None;
        space.each(|shard, _| {
            let counts = shard.counts();
            if (counts.locks, counts.resources, counts.records, counts.saved) != (0, 0, 0, 0) {
                left = Some(format!("still has {counts:?}"));
            }
        });
        left
    }
}

impl World {
    pub(super) fn link(&mut self, node: u32, with: u32) -> Option<&mut Link> {
        self.machines.get_mut(&node)?.kernel.links.get_mut(&with)
    }

    pub(super) fn machine(&mut self, node: u32) -> &mut Machine {
        self.machines.entry(node).or_insert_with(Machine::off)
    }

    /// Power, and a new life.
    pub(super) fn boot(&mut self, node: u32) {
        let machine = self.machine(node);
        if machine.up {
            return;
        }
        let life = machine.life + 1;
        *machine = machine.anew(true, life);
        self.choose_file(node);
        trace!(self, "node {node} boots, life {life}");
        for who in [Who::Cmand, Who::Fenced, Who::Controld] {
            self.begin_later(node, who, 300);
        }
        let delay = self.random.within(0, 2_000);
        self.after(delay, Event::Mount { node, life });
        let delay = self.random.within(1, 500);
        self.after(delay, Event::Client { node, life });
    }

    /// Somebody may have changed its file since it was last in a view; an operator corrects that.
    fn choose_file(&mut self, node: u32) {
        let knows_one = matches!(self.machine(node).memory.1, RememberedConfig::Digest(_));
        let percent = self.plan.own_file_percent;
        if self.healed || !knows_one || !self.random.percent(percent) {
            return;
        }
        let machine = self.machine(node);
        machine.own_file = true;
        let life = machine.life;
        trace!(self, "node {node} has a file of its own");
        let pause = self.random.within(2_000, 10_000);
        self.after(pause, Event::Correct { node, life });
    }

    /// The file of a machine is corrected, and it is started again.
    pub(super) fn correct_file(&mut self, node: u32) {
        trace!(self, "node {node}: the file is corrected");
        self.power_off(node);
        self.boot(node);
        self.machine(node).own_file = false;
    }

    /// No power: nothing it had counts any more.
    pub(super) fn power_off(&mut self, node: u32) {
        let machine = self.machine(node);
        if !machine.up {
            return;
        }
        let life = machine.life;
        *machine = machine.anew(false, life);
        trace!(self, "node {node} is without power, life {life}");
        self.summary.crashes += 1;
        self.truth.forget_node(node);
        self.truth.disturb();
        self.power_cut(node);
    }

    /// Lets allocations of the call that follows fail, if it is the time for it.
    pub(super) fn press(&mut self) {
        if self.now_ms < self.short_memory_until {
            fail::one_in(5, self.random.next_u64());
        }
    }

    /// A packet for a kernel. `false`: there was no memory for it.
    pub(super) fn deliver(
        &mut self,
        node: u32,
        from: u32,
        packet: &[u8],
    ) -> Result<bool, Violation> {
        let now_ms = self.now_ms;
        let Some(header) = Header::decode(packet) else {
            return broken(format!("node {from} sends nonsense: {packet:?}"));
        };
        self.press();
        let machine = self.machine(node);
        let ours = |space: &&mut crate::kernel::Space| space.recovery.id() == header.lockspace;
        let Some(space) = machine.kernel.space.as_mut().filter(ours) else {
            fail::after(None);
            self.answer_not_ready(node, from, &header, packet);
            return Ok(true);
        };
        let taken = match header.command {
            Command::Message => {
                let Some(message) = Message::decode(packet) else {
                    return broken(format!("node {from} sends no message: {packet:?}"));
                };
                let mut received = Received::Done;
                let receive = |shard: &mut crate::kernel::Locks, fx: &mut crate::kernel::Sink| {
                    shard.receive(now_ms, NodeId(from), &message, fx)
                };
                match message.route() {
                    Route::Name(hash) => received = space.of_hash(hash, receive),
                    Route::Lock(id) => received = space.of_lock(id, receive),
                    Route::All => space.each(|shard, fx| {
                        if received != Received::NoMemory {
                            received = shard.receive(now_ms, NodeId(from), &message, fx);
                        }
                    }),
                }
                received != Received::NoMemory
            }
            Command::Rcom => match space.rcom(now_ms, from, packet) {
                Ok(()) => true,
                Err(error) if error == code::ENOMEM => false,
                Err(error) => {
                    return broken(format!("node {node} refuses an rcom of {from}: {error}"));
                }
            },
            Command::Opts | Command::Ack | Command::Fin => {
                return broken(format!("{header:?} was delivered"));
            }
        };
        self.settle(node)?;
        Ok(taken)
    }

    /// Who asks for a lockspace that is not here is told so.
    fn answer_not_ready(&mut self, node: u32, from: u32, header: &Header, packet: &[u8]) {
        let question = Rcom::decode(packet).filter(|rcom| rcom.kind == RcomKind::Status);
        let Some(question) = question else {
            return;
        };
        let config = rcom::Config::NOT_READY.encode();
        let answer = Rcom {
            kind: RcomKind::StatusReply,
            result: rcom::NOT_READY,
            id: question.id,
            seq: 0,
            seq_reply: question.seq,
            payload: &config,
        };
        if let Ok(packet) = answer.encode(header.lockspace, NodeId(node)) {
            self.transmit(node, from, false, &packet);
        }
    }

    /// Has the kernel called again when something in it is due.
    pub(super) fn set_timer(&mut self, node: u32) {
        let now_ms = self.now_ms;
        let Some(machine) = self.machines.get(&node).filter(|machine| machine.up) else {
            return;
        };
        let life = machine.life;
        let due = machine.kernel.next_timeout();
        let Some(due) = due.into_iter().chain(self.next_look(node)).min() else {
            return;
        };
        if machine
            .kernel
            .timer_ms
            .is_some_and(|at| at <= due.max(now_ms))
        {
            return;
        }
        // A thread runs when it runs.
        let late = if self.random.percent(90) {
            self.random.below(2)
        } else {
            self.random.below(40)
        };
        let at = due.max(now_ms) + late;
        self.machine(node).kernel.timer_ms = Some(at);
        self.at(at, Event::Timer { node, life });
    }

    pub(super) fn timer(&mut self, node: u32, life: u32) -> Result<(), Violation> {
        let now_ms = self.now_ms;
        if !self.is_life(node, life) {
            return Ok(());
        }
        let kernel = &mut self.machine(node).kernel;
        if kernel.timer_ms.is_none_or(|at| at > now_ms) {
            return Ok(());
        }
        kernel.timer_ms = None;
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now_ms);
        self.look_at_due(node);
        self.press();
        if let Some(space) = &mut self.machine(node).kernel.space {
            if due(space.recovery.next_timeout()) {
                space.step(now_ms);
            }
            space.each(|shard, fx| {
                if due(shard.next_timeout()) {
                    shard.handle_timeout(now_ms, fx);
                }
            });
        }
        self.settle(node)
    }

    /// Carries out what a kernel wants done.
    pub(super) fn settle(&mut self, node: u32) -> Result<(), Violation> {
        fail::after(None);
        let space = self.machine(node).kernel.space.as_mut();
        let effects = space.map(crate::kernel::Space::take_effects);
        for effect in effects.unwrap_or_default() {
            self.carry_out(node, effect)?;
        }
        self.set_timer(node);
        Ok(())
    }

    fn carry_out(&mut self, node: u32, effect: Effect) -> Result<(), Violation> {
        let uses = matches!(self.machine(node).mount, Mount::Joining | Mount::In);
        match effect {
            Effect::Send { to, .. } if to == node => {
                return broken(format!("node {node} sends to itself"));
            }
            Effect::Send {
                to,
                sequenced,
                packet,
            } => {
                if self.trace.is_some() {
                    self.trace_packet(node, to, &packet);
                }
                self.transmit(node, to, sequenced, &packet);
            }
            Effect::Completed {
                handle,
                id,
                status,
                stale,
                mode,
                lvb,
            } => {
                trace!(
                    self,
                    "node {node} lock {handle} ({id:x?}) {status:?} {mode:?} stale: {stale} {lvb:?}"
                );
                if !self.machine(node).kernel.quorate {
                    return broken(format!(
                        "node {node} tells lock {handle} {status:?}, and was told that it may not act"
                    ));
                }
                if uses {
                    let lvb = lvb.as_deref();
                    self.truth.completed(handle, id, status, stale, mode, lvb)?;
                }
            }
            Effect::Blocking { handle } => {
                if let Some(lock) = self.truth.lock_mut(handle) {
                    lock.blocks = true;
                }
            }
            Effect::Released { handle } => {
                if uses {
                    self.truth.released(handle)?;
                }
            }
            Effect::MemberAdded(other) => {
                trace!(self, "node {node} adds member {other}");
                let known = self.talk(node, other, |now_ms, machine, _| {
                    machine.member_added(now_ms)
                });
                if known.is_none() {
                    return broken(format!("node {node} adds {other}, which it does not know"));
                }
            }
            Effect::MemberRemoved(other) => {
                trace!(self, "node {node} removes member {other}");
                self.machine(node).slots.remove(&other);
                self.talk(node, other, |now_ms, machine, sink| {
                    machine.member_removed(now_ms, sink);
                });
            }
            Effect::Hold => self.machine(node).holds = true,
            Effect::GoOn => self.machine(node).holds = false,
            Effect::Prep => {
                if !std::mem::take(&mut self.machine(node).done) {
                    return broken(format!("node {node}: recover_prep twice"));
                }
            }
            Effect::Slot(other, slot) => {
                // Once said, it is that of another life.
                let known = self.machine(node).slots.remove(&other);
                if slot == 0 || known.is_some_and(|known| u32::from(known) != slot) {
                    return broken(format!(
                        "node {node}: failed {other} had slot {known:?}, not {slot}"
                    ));
                }
            }
            Effect::Enabled => self.check_enabled(node)?,
            Effect::Done {
                slots,
                own_slot,
                generation,
            } => self.check_done(node, slots, own_slot, generation)?,
            Effect::Finished(0) => {
                self.summary.recoveries += 1;
                self.say(node, Report::Recovered);
            }
            Effect::Finished(error) => {
                return broken(format!("node {node}: recovery failed with {error}"));
            }
        }
        Ok(())
    }

    fn trace_packet(&mut self, node: u32, to: u32, packet: &[u8]) {
        let line = match (Message::decode(packet), Rcom::decode(packet)) {
            (Some(m), _) => format!(
                "{:?} lkid {:x} remid {:x} result {} rq {:?} lvbseq {} extra {:?}",
                m.kind,
                m.lkid,
                m.remid,
                m.result,
                m.rqmode,
                m.lvbseq,
                String::from_utf8_lossy(m.extra)
            ),
            (None, Some(r)) => format!(
                "{:?} result {:#x} id {} seq {:x} reply {:x} {}",
                r.kind,
                r.result,
                r.id,
                r.seq,
                r.seq_reply,
                r.payload.escape_ascii()
            ),
            (None, None) => "?".into(),
        };
        trace!(self, "node {node} -> {to} {line}");
    }

    /// Locking goes on at a node: nobody else may rely on locks that it does not know of.
    fn check_enabled(&mut self, node: u32) -> Result<(), Violation> {
        trace!(self, "node {node} goes on");
        let Some(space) = &self.machine(node).kernel.space else {
            return Ok(());
        };
        let members: Vec<u32> = space.recovery.slots().map(|slot| slot.node.0).collect();
        for (other, machine) in &self.machines {
            let uses = machine.up && machine.mount == Mount::In;
            let holds = self.truth.of_node(*other).next().is_some();
            if uses && holds && !members.contains(other) {
                return broken(format!(
                    "node {node} goes on with {members:?} while node {other} has power and locks"
                ));
            }
        }
        Ok(())
    }

    fn check_done(
        &mut self,
        node: u32,
        slots: Vec<(u32, u16)>,
        own_slot: u16,
        generation: u32,
    ) -> Result<(), Violation> {
        trace!(
            self,
            "node {node} has recovered: generation {generation}, slots {slots:?}"
        );
        let machine = self.machine(node);
        if machine.holds {
            return broken(format!(
                "node {node}: recovery is over and callbacks are kept back"
            ));
        }
        if generation <= machine.generation {
            return broken(format!(
                "node {node}: generation {generation} follows {}",
                machine.generation
            ));
        }
        let before = machine.slots.get(&node).copied();
        let given = slots
            .iter()
            .find(|(of, _)| *of == node)
            .map(|(_, slot)| *slot);
        let stays = before.is_none_or(|before| before == own_slot);
        if own_slot == 0 || given != Some(own_slot) || !stays {
            return broken(format!(
                "node {node}: own slot {own_slot}, before {before:?}, table {slots:?}"
            ));
        }
        let mut numbers: Vec<u16> = slots.iter().map(|(_, slot)| *slot).collect();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.len() != slots.len() || numbers.first() == Some(&0) {
            return broken(format!("node {node}: slots {slots:?}"));
        }
        machine.generation = generation;
        machine.slots = slots.iter().copied().collect();
        machine.done = true;
        let own_table = machine.slots.clone();
        for (other, machine) in &self.machines {
            let same = machine.done && machine.generation == generation;
            let both = machine.slots.contains_key(&node) && own_table.contains_key(other);
            if same && both && machine.slots != own_table {
                let others = &machine.slots;
                return broken(format!(
                    "generation {generation}: node {node} has slots {own_table:?}, node {other} \
                     {others:?}"
                ));
            }
        }
        Ok(())
    }

    /// Checkers that look at everything.
    pub(super) fn inspect(&mut self) -> Result<(), Violation> {
        let mut masters: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        for (node, machine) in &self.machines {
            let Some(space) = machine.kernel.space.as_ref().filter(|_| machine.up) else {
                continue;
            };
            if space.recovery.state() != State::Running || machine.mount != Mount::In {
                continue;
            }
            let mut twice = None;
            space.each(|shard, _| {
                if shard.is_broken() {
                    twice = Some(format!("node {node}: a shard is broken"));
                }
                let mut walk = Walk::default();
                while let Some((name, _)) = shard.next_mastered(&mut walk) {
                    if let Some(other) = masters.insert(name.as_bytes().to_vec(), *node) {
                        twice = Some(format!("nodes {other} and {node} both master {name:?}"));
                    }
                }
            });
            if let Some(what) = twice {
                return broken(what);
            }
        }
        Ok(())
    }
}
