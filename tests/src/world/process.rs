// SPDX-License-Identifier: GPL-2.0-only
//! The daemons of a machine as processes: how they begin, talk and end.
//!
//! Each is connected with the others as on a real machine: cmand with both of its clients, fenced
//! with dlm_controld. What one says arrives in order and late; that it has ended comes behind
//! that. A service manager starts them again, but for reasons that would stay.

use fenced_core::Domain;

use super::daemon::Daemon;
use super::fencing::Fenced;
use super::machine::{Machine, Mount};
use super::membership::Cmand;
use super::{Event, World, trace};
use crate::truth::Violation;
use dlm_controld_core::FenceState;

/// Longest pause before a service manager starts a daemon again, ms.
const RESTART_MS: u64 = 1_500;

/// Pause after which an operator resets a machine that says it must be reset, ms.
const OPERATOR_MS: u64 = 20_000;

/// How long the kernel takes to notice that a socket was closed, ms.
const CLOSE_MS: u64 = 50;

/// Which daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Cmand,
    Fenced,
    Controld,
}

/// A run of a daemon: the number is never the same for two of them.
pub(super) type Process = (Who, u64);

/// What a daemon says to another one.
#[derive(Debug, Clone)]
pub(super) enum Line {
    /// To cmand.
    Ask(Ask),
    /// Of cmand.
    News(News),
    /// To fenced.
    Plea(Plea),
    /// Of fenced.
    State(FenceState),
    /// The other end is no more.
    Gone,
}

/// What a client wants of cmand.
#[derive(Debug, Clone)]
pub(super) enum Ask {
    /// Views and quorum from now on.
    Subscribe,
    Join(String),
    Leave(String),
    Send(String, Vec<u8>),
    /// These boots were fenced.
    WatchEnded(Vec<(cmand_core::NodeId, cmand_core::BootId)>),
    /// These nodes are kept out.
    KeepOut(Vec<(cmand_core::NodeId, Option<cmand_core::BootId>)>),
}

/// What cmand tells its clients.
#[derive(Debug, Clone)]
pub(super) enum News {
    View(cmand_core::View),
    Quorum(bool),
    Group(cmand_core::GroupView),
    Message {
        group: String,
        from: u32,
        payload: Vec<u8>,
    },
    /// A boot is heard that was fenced.
    Returned {
        node: cmand_core::NodeId,
        incarnation: cmand_core::Incarnation,
        boot: cmand_core::BootId,
    },
    /// The others went on without this node.
    Expelled,
    /// A request came at a time when it cannot be granted.
    Refused,
}

/// What dlm_controld wants of fenced.
#[derive(Debug, Clone)]
pub(super) enum Plea {
    /// The state from now on.
    Watch,
    /// Have this node fenced if I end, or not any more.
    Needed(bool),
    Fence {
        node: u32,
        boot_id: Option<cmand_core::BootId>,
        reason: String,
    },
}

/// Why a daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Killed, or in trouble: it is started again.
    Failed,
    /// This machine must be reset.
    Reset,
}

impl World {
    /// Says something, behind what was said before on the same connection.
    pub(super) fn say_to(&mut self, node: u32, from: Process, to: Process, line: Line) {
        let delay = self.random.within(0, self.plan.daemon_ms);
        let now_ms = self.now_ms;
        let machine = self.machine(node);
        let last = machine.line_ms.entry((from.0, to.0)).or_default();
        *last = (*last).max(now_ms + delay);
        let (at, life) = (*last, machine.life);
        let line = Box::new(line);
        self.at(
            at,
            Event::Line {
                node,
                life,
                from,
                to,
                line,
            },
        );
    }

    /// The process number of a daemon that runs.
    pub(super) fn running(&self, node: u32, who: Who) -> Option<Process> {
        let machine = self.machines.get(&node)?;
        let process = match who {
            Who::Cmand => machine.cmand.as_ref()?.process,
            Who::Fenced => machine.fenced.as_ref()?.process,
            Who::Controld => machine.daemon.as_ref()?.process,
        };
        Some((who, process))
    }

    pub(super) fn line(
        &mut self,
        node: u32,
        from: Process,
        to: Process,
        line: Line,
    ) -> Result<(), Violation> {
        if self.running(node, to.0) != Some(to) {
            if !matches!(line, Line::Gone) {
                // It had ended before it accepted the connection.
                self.say_to(node, to, from, Line::Gone);
            }
            return Ok(());
        }
        match to.0 {
            Who::Cmand => self.tell_cmand(node, from, line),
            Who::Fenced => self.tell_fenced(node, from, line),
            Who::Controld => self.tell_controld(node, from, line),
        }
    }

    pub(super) fn begin_later(&mut self, node: u32, who: Who, most_ms: u64) {
        let delay = self.random.within(50, most_ms);
        let life = self.machine(node).life;
        self.after(delay, Event::Begin { node, life, who });
    }

    /// The service manager starts a daemon.
    pub(super) fn begin(&mut self, node: u32, who: Who) -> Result<(), Violation> {
        if self.running(node, who).is_some() {
            return Ok(());
        }
        let has_leftovers = self.machine(node).kernel.space.is_some();
        let cmand = self.running(node, Who::Cmand);
        let fenced = self.running(node, Who::Fenced);
        match (who, cmand, fenced) {
            (Who::Cmand, ..) if has_leftovers => {
                trace!(
                    self,
                    "node {node}: cmand finds lockspaces of an earlier life"
                );
                self.need_reset(node);
                Ok(())
            }
            (Who::Cmand, ..) => {
                let process = self.fresh_process();
                self.begin_cmand(node, process)
            }
            (Who::Fenced, Some(cmand), _) => {
                let process = (Who::Fenced, self.fresh_process());
                let domain = Domain::new(self.fence_config(node));
                self.machine(node).fenced = Some(Fenced::new(process.1, cmand, domain));
                self.say_to(node, process, cmand, Line::Ask(Ask::Subscribe));
                let group = super::fencing::GROUP.to_owned();
                self.say_to(node, process, cmand, Line::Ask(Ask::Join(group)));
                Ok(())
            }
            (Who::Controld, _, Some(fenced)) if has_leftovers => {
                trace!(
                    self,
                    "node {node}: dlm_controld finds lockspaces nobody controls"
                );
                let process = (Who::Controld, self.fresh_process());
                let fence = Plea::Fence {
                    node,
                    boot_id: None,
                    reason: "leftovers".into(),
                };
                self.say_to(node, process, fenced, Line::Plea(fence));
                self.need_reset(node);
                Ok(())
            }
            (Who::Controld, Some(cmand), Some(fenced)) => {
                let process = (Who::Controld, self.fresh_process());
                self.machine(node).daemon = Some(Daemon::new(node, process.1, cmand, fenced));
                self.say_to(node, process, cmand, Line::Ask(Ask::Subscribe));
                self.say_to(node, process, fenced, Line::Plea(Plea::Watch));
                self.decide(node, |controld, _, fx| controld.handle_begin(fx))
            }
            (Who::Fenced | Who::Controld, ..) => {
                self.begin_later(node, who, RESTART_MS);
                Ok(())
            }
        }
    }

    fn fresh_process(&mut self) -> u64 {
        self.next_process += 1;
        self.next_process
    }

    /// Only a reset helps this machine.
    pub(super) fn need_reset(&mut self, node: u32) {
        let life = self.machine(node).life;
        self.after(OPERATOR_MS, Event::Operator { node, life });
    }

    /// An operator resets a machine that said so, unless the cluster is about to do it.
    pub(super) fn operator(&mut self, node: u32) {
        let sees_to_it = |machine: &Machine| {
            let quorate = machine.cmand.as_ref().is_some_and(Cmand::is_quorate);
            let fenced = machine.fenced.as_ref();
            quorate && fenced.is_some_and(|fenced| fenced.victims().contains(&node))
        };
        if self.machines.values().any(sees_to_it) {
            return self.need_reset(node);
        }
        trace!(self, "node {node} is reset by its operator");
        self.power_off(node);
        self.after(1_000, Event::Boot { node });
    }

    /// A daemon ends; those that it talked with hear of it.
    pub(super) fn end(&mut self, node: u32, who: Who, why: End) {
        let Some(process) = self.running(node, who) else {
            return;
        };
        trace!(self, "node {node}: {who:?} ends: {why:?}");
        let machine = self.machine(node);
        let mut others = Vec::new();
        match who {
            Who::Cmand => {
                let cmand = machine.cmand.take();
                others.extend(cmand.into_iter().flat_map(|cmand| cmand.subscribers));
            }
            Who::Fenced => {
                if let Some(fenced) = machine.fenced.take() {
                    others.push(fenced.cmand);
                    others.extend(fenced.watchers);
                }
            }
            Who::Controld => {
                if let Some(daemon) = machine.daemon.take() {
                    others.extend([daemon.cmand, daemon.fenced]);
                }
            }
        }
        for other in others {
            self.say_to(node, process, other, Line::Gone);
        }
        if matches!(who, Who::Cmand | Who::Controld) {
            let delay = self.random.within(0, CLOSE_MS);
            let life = self.machine(node).life;
            self.after(delay, Event::Closed { node, life, who });
        }
        match why {
            End::Failed => self.begin_later(node, who, RESTART_MS),
            End::Reset => self.need_reset(node),
        }
    }

    /// The kernel notices that the socket of a daemon was closed: its lockspaces stop, and nobody
    /// waits for an answer of dlm_controld any more.
    pub(super) fn closed(&mut self, node: u32, who: Who) -> Result<(), Violation> {
        if who == Who::Cmand {
            // Nobody says any more that it may act.
            self.set_quorate(node, false)?;
        }
        self.stop(node)?;
        let machine = self.machine(node);
        let waits = matches!(machine.mount, Mount::Joining | Mount::Leaving);
        // A program that creates a lockspace waits for the first recovery, too.
        let is_new = machine.mount == Mount::In && machine.generation == 0;
        if who == Who::Controld && (waits || is_new) {
            return self.unmounted(node);
        }
        Ok(())
    }
}
