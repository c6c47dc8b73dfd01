// SPDX-License-Identifier: GPL-2.0-only
//! Views taking effect, and what they mean for quorum, peers and this node.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;

use super::Acceptor;
use super::Core;
use super::Installed;
use super::Order;
use super::Proposer;
use super::Standing;
use super::local;
use super::log;
use crate::Departed;
use crate::Departure;
use crate::Effect;
use crate::Incarnation;
use crate::Instant;
use crate::Level;
use crate::NodeId;
use crate::Sink;
use crate::View;
use crate::groups::Groups;
use crate::wire::Chunk;
use crate::wire::Message;
use crate::wire::Value;

/// What a view takes over from the one before.
struct Carried {
    groups: Groups,
    leaving: BTreeSet<NodeId>,
    joined_in: BTreeMap<NodeId, u64>,
    up: BTreeSet<NodeId>,
    outgoing: VecDeque<Chunk>,
}

impl Core {
    /// A decided view takes effect, once this node has all messages before it.
    pub(super) fn install(&mut self, now: Instant, from: NodeId, value: Value, fx: &mut dyn Sink) {
        let survives = self.view.is_some();
        if self.view_id().is_some_and(|mine| value.base != Some(mine)) {
            return;
        }
        if !value.has(self.config.node, self.config.incarnation) {
            self.acceptor.pending = None;
            if survives {
                let text = format!("view {} was decided without this node", value.id.number);
                self.outvoted(now, &text, fx);
            }
            return;
        }
        if let Some(installed) = &self.view
            && installed.order.received() < value.flush
        {
            let fetch = Message::Fetch {
                view: installed.value.id,
                first: installed.order.received() + 1,
                last: value.flush,
            };
            return self.post(from, &fetch, fx);
        }
        let Some(mut carried) = self.carry_over(now, &value, fx) else {
            return;
        };
        let gone: BTreeMap<NodeId, Departure> = value
            .departed
            .iter()
            .map(|(member, left)| (member.node, why(*left)))
            .collect();
        let view = view_of(&value);
        let changes = carried.groups.change_view(&gone, &view.joined);
        let quorate = value.quorate;
        self.enter(value, carried);
        log(fx, Level::Info, describe(&view));
        fx.push(Effect::View(view));
        if quorate {
            self.remember_config(fx);
        }
        self.tell_quorum(now, fx);
        self.tell_peers(now, fx);
        for change in changes.iter().filter(|_| survives) {
            self.tell_group(change, fx);
        }
        self.pump(fx);
        self.send_heartbeats(now, fx);
    }

    /// Delivers what is left of the present view and takes it down; a joiner
    /// reads what the view carries.
    fn carry_over(&mut self, now: Instant, value: &Value, fx: &mut dyn Sink) -> Option<Carried> {
        while let Some((sender, bytes)) = self
            .view
            .as_mut()
            .and_then(|installed| installed.order.next_up_to(value.flush))
        {
            self.execute(now, sender, &bytes, fx);
        }
        let Some(installed) = self.view.take() else {
            let Ok(groups) = Groups::decode(&value.groups) else {
                let text = "the view's group table is malformed; not joining".to_owned();
                log(fx, Level::Warn, text);
                return None;
            };
            return Some(Carried {
                groups,
                leaving: BTreeSet::new(),
                joined_in: BTreeMap::new(),
                up: BTreeSet::new(),
                outgoing: std::mem::take(&mut self.waiting),
            });
        };
        assert_eq!(
            installed.groups.encode(),
            value.groups,
            "members that delivered the same operations have the same groups"
        );
        let (outgoing, entries) = installed.order.end();
        self.previous = Some((installed.value.id, entries));
        Some(Carried {
            groups: installed.groups,
            leaving: installed.leaving,
            joined_in: installed.joined_in,
            up: installed.up,
            outgoing,
        })
    }

    fn enter(&mut self, value: Value, carried: Carried) {
        let number = value.id.number;
        let members: Vec<NodeId> = value.members.iter().map(|(m, _)| m.node).collect();
        let joined_in = value.members.iter().map(|(member, joined)| {
            let since = carried.joined_in.get(&member.node).filter(|_| !joined);
            (member.node, *since.unwrap_or(&number))
        });
        let joined_in = joined_in.collect();
        // A life that stays may be leaving; a new life of the node is not.
        let stays = |node: &NodeId| value.members.iter().any(|(m, new)| m.node == *node && !new);
        let leaving = carried.leaving.into_iter().filter(stays).collect();
        let order = Order::new(value.id, self.config.node, &members, carried.outgoing);
        self.floor = self.floor.max(number);
        self.changed = true;
        self.acceptor.blocked = false;
        self.acceptor.pending = None;
        self.proposer = Proposer::Idle {
            not_before: Instant::default(),
        };
        self.settling = None;
        self.outvoted_since = None;
        self.told_quorate = None;
        if self.standing == Standing::Joining {
            self.standing = Standing::Member;
        }
        self.view = Some(Installed {
            value,
            order,
            groups: carried.groups,
            leaving,
            joined_in,
            up: carried.up,
        });
    }

    /// The others went on without this node.
    pub(super) fn outvoted(&mut self, now: Instant, reason: &str, fx: &mut dyn Sink) {
        let idle = self.local.is_empty();
        let waiting = self.view.as_ref().map_or(0, |view| view.order.waiting());
        match self.standing {
            Standing::Going { .. } => self.end_by_leave(fx),
            Standing::Leaving if idle => self.end_by_leave(fx),
            Standing::Member if idle && waiting == 0 => self.rejoin(now, reason, fx),
            Standing::Member | Standing::Leaving | Standing::Joining => {
                // A last time: who had this node fenced must hear that it was not.
                self.send_heartbeats(now, fx);
                self.all_down(fx);
                self.standing = Standing::Expelled;
                let reason = reason.to_owned();
                fx.push(Effect::Quorum {
                    quorate: false,
                    reason: reason.clone(),
                });
                fx.push(Effect::Expelled { reason });
            }
            Standing::Left | Standing::Expelled | Standing::Refused => {}
        }
    }

    pub(super) fn end_by_leave(&mut self, fx: &mut dyn Sink) {
        self.all_down(fx);
        self.standing = Standing::Left;
        fx.push(Effect::Left);
    }

    fn all_down(&mut self, fx: &mut dyn Sink) {
        let Some(installed) = &mut self.view else {
            return;
        };
        for node in std::mem::take(&mut installed.up) {
            if let Some(member) = installed.value.member(node) {
                let incarnation = member.incarnation;
                let up = false;
                fx.push(Effect::Peer {
                    node,
                    incarnation,
                    up,
                });
            }
        }
    }

    /// Begins a new life: this node held nothing.
    fn rejoin(&mut self, now: Instant, reason: &str, fx: &mut dyn Sink) {
        self.all_down(fx);
        let incarnation = Incarnation(self.config.incarnation.0.wrapping_add(1));
        self.config.incarnation = incarnation;
        self.key = self.keys.key(self.config.node, incarnation);
        self.packets = 0;
        self.changed = true;
        self.standing = Standing::Joining;
        self.view = None;
        self.previous = None;
        self.acceptor = Acceptor::default();
        self.proposer = Proposer::Idle { not_before: now };
        self.settling = None;
        self.outvoted_since = None;
        self.told_quorate = None;
        self.loopback.clear();
        self.forget_proofs();
        self.beat_at = now;
        fx.push(Effect::Rejoining {
            incarnation,
            reason: reason.to_owned(),
        });
    }

    /// Tells which members can be trusted, as soon as it changes.
    pub(super) fn tell_peers(&mut self, now: Instant, fx: &mut dyn Sink) {
        self.log_heard(now, fx);
        let Some(installed) = &self.view else {
            return;
        };
        let mut up = BTreeSet::new();
        for (member, _) in &installed.value.members {
            let peer = self.peers.get(&member.node);
            let heard = peer.and_then(|peer| peer.heard(now, self.config.detection_ms));
            if heard.is_some_and(|(life, _)| life.incarnation == member.incarnation) {
                up.insert(member.node);
            }
        }
        let Some(installed) = &mut self.view else {
            return;
        };
        let before = std::mem::replace(&mut installed.up, up.clone());
        for node in before.symmetric_difference(&up) {
            let gone = installed.value.departed.iter().map(|(member, _)| member);
            let known = installed.value.member(*node);
            let known = known.or_else(|| gone.into_iter().find(|gone| gone.node == *node));
            if let Some(member) = known {
                fx.push(Effect::Peer {
                    node: *node,
                    incarnation: member.incarnation,
                    up: up.contains(node),
                });
            }
        }
    }

    fn log_heard(&mut self, now: Instant, fx: &mut dyn Sink) {
        let detection_ms = self.config.detection_ms;
        for (node, peer) in &mut self.peers {
            let heard = peer.heard(now, detection_ms).is_some();
            if heard == peer.was_heard {
                continue;
            }
            peer.was_heard = heard;
            let silent = peer.silent_ms(now).unwrap_or(0);
            let text = if heard {
                format!("node heard: node={node}")
            } else {
                format!("node silent: node={node} silent_ms={silent}")
            };
            log(fx, Level::Info, text);
        }
    }

    /// Tells the quorum state, if it changed.
    pub(super) fn tell_quorum(&mut self, now: Instant, fx: &mut dyn Sink) {
        if self.standing.is_end() {
            return;
        }
        let quorate = self.is_quorate(now);
        if quorate {
            self.outvoted_since = None;
        }
        if self.told_quorate != Some(quorate) {
            self.told_quorate = Some(quorate);
            self.quorate_at = now;
            let reason = self.quorum_reason(now);
            fx.push(Effect::Quorum { quorate, reason });
        }
    }

    /// Does what is left of an agreed leave.
    pub(super) fn look_after_leave(&mut self, now: Instant, fx: &mut dyn Sink) {
        if let Standing::Going { since } = self.standing {
            let alone = self
                .view
                .as_ref()
                .is_none_or(|view| view.value.members.len() <= 1);
            if alone || now.since(since) >= self.config.detection_ms {
                self.end_by_leave(fx);
            }
        }
    }

    pub(super) fn tell_group(&mut self, change: &crate::groups::Change, fx: &mut dyn Sink) {
        if let Some(view) = local::group_view(change, self.config.node, self.view_id()) {
            fx.push(Effect::Group(view));
        }
    }
}

fn why(left: bool) -> Departure {
    if left {
        Departure::Left
    } else {
        Departure::NodeFailed
    }
}

fn view_of(value: &Value) -> View {
    let joined = value.members.iter().filter(|(_, joined)| *joined);
    View {
        number: value.id.number,
        tag: value.id.tag,
        members: value.members.iter().map(|(member, _)| *member).collect(),
        joined: joined.map(|(member, _)| member.node).collect(),
        departed: value
            .departed
            .iter()
            .map(|(member, left)| Departed {
                member: *member,
                why: why(*left),
            })
            .collect(),
        quorate: value.quorate,
    }
}

fn describe(view: &View) -> String {
    let ids = |nodes: Vec<NodeId>| {
        let ids: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        if ids.is_empty() {
            "none".to_owned()
        } else {
            ids.join(",")
        }
    };
    let departed = |why: Departure| {
        let gone = view.departed.iter().filter(|gone| gone.why == why);
        ids(gone.map(|gone| gone.member.node).collect())
    };
    format!(
        "view: view={} members={} joined={} left={} failed={} quorate={}",
        view.number,
        ids(view.members.iter().map(|member| member.node).collect()),
        ids(view.joined.clone()),
        departed(Departure::Left),
        departed(Departure::NodeFailed),
        if view.quorate { "yes" } else { "no" },
    )
}
