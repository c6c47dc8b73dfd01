// SPDX-License-Identifier: GPL-2.0-only
//! Several domains on one ordered bus, as cmand provides it: every member gets
//! the same views and messages in the same order.

use cmand_view::Departed;
use cmand_view::Departure;

use super::*;

const N1: NodeId = NodeId(1);
const N2: NodeId = NodeId(2);
const N3: NodeId = NodeId(3);

/// A boot that no node had before.
const ANOTHER: BootId = BootId([0xff; 16]);

#[derive(Clone)]
enum Event {
    View(View),
    Group(GroupView),
    Message(NodeId, Message),
}

struct Bus {
    now: Instant,
    domains: BTreeMap<NodeId, Domain>,
    cluster: BTreeMap<NodeId, Member>,
    group: BTreeSet<NodeId>,
    view: u64,
    group_view: u64,
    pending: std::collections::VecDeque<(NodeId, Message)>,
    /// Agents started: (by, victim).
    fenced: Vec<(NodeId, NodeId)>,
    /// Number of the last of them.
    runs: BTreeMap<(NodeId, NodeId), u64>,
    /// How many nodes are configured.
    nodes: u32,
    clean_start: bool,
    limits: Limits,
    /// Who asked for the state anew.
    gave_up: Vec<NodeId>,
    /// Who said of which node that its boot had not ended.
    returned: Vec<(NodeId, NodeId)>,
    /// The method that comes first in the last run.
    first: u32,
    /// What runs come to that end well.
    success: Success,
}

impl Bus {
    fn new() -> Self {
        Self {
            now: Instant(0),
            domains: BTreeMap::new(),
            cluster: BTreeMap::new(),
            group: BTreeSet::new(),
            view: 0,
            group_view: 0,
            pending: std::collections::VecDeque::new(),
            fenced: Vec::new(),
            runs: BTreeMap::new(),
            nodes: 3,
            clean_start: true,
            limits: LIMITS,
            gave_up: Vec::new(),
            returned: Vec::new(),
            first: 0,
            success: Success {
                method: 0,
                is_power: true,
            },
        }
    }

    fn three() -> Self {
        let mut bus = Self::new();
        bus.cluster_join(&[1, 2, 3]);
        for node in [1, 2, 3] {
            bus.daemon_join(node);
        }
        bus.run();
        bus
    }

    fn config(&self, node: NodeId) -> Config {
        Config {
            node,
            nodes: (1..=self.nodes).map(NodeId).collect(),
            post_fail_delay_ms: 0,
            post_join_delay_ms: 6000,
            clean_start: self.clean_start,
            limits: self.limits,
        }
    }

    fn event(&mut self, event: &Event) {
        let nodes: Vec<NodeId> = self.domains.keys().copied().collect();
        for node in nodes {
            if self.cluster.contains_key(&node) {
                self.one(node, |domain, now, fx| match event.clone() {
                    Event::View(view) => domain.handle_view(now, view, fx),
                    Event::Group(group) => domain.handle_group(now, &group, fx),
                    Event::Message(from, message) => domain.handle_message(now, from, message, fx),
                });
            }
        }
    }

    fn one(&mut self, node: NodeId, f: impl FnOnce(&mut Domain, Instant, &mut Vec<Effect>)) {
        let mut fx = Vec::new();
        f(self.domains.get_mut(&node).unwrap(), self.now, &mut fx);
        for effect in fx {
            match effect {
                Effect::Send(message) => self.pending.push_back((node, message)),
                Effect::Returned { node: other, .. } => self.returned.push((node, other)),
                Effect::Fence {
                    node: victim,
                    run,
                    first,
                    ..
                } => {
                    self.first = first;
                    self.runs.insert((node, victim), run);
                    self.fenced.push((node, victim));
                }
                Effect::GaveUp { .. } => self.gave_up.push(node),
                Effect::Unsent(large) => panic!("{large}"),
                Effect::Changed
                | Effect::Answered { .. }
                | Effect::Accused { .. }
                | Effect::Cleared { .. }
                | Effect::Known => {}
            }
        }
    }

    /// Delivers messages until there are none.
    fn run(&mut self) {
        while let Some((from, message)) = self.pending.pop_front() {
            if self.group.contains(&from) {
                self.event(&Event::Message(from, message));
            }
        }
    }

    fn cluster_view(&mut self, failed: Vec<Member>) {
        self.view_of(failed, Vec::new());
    }

    fn view_joined(&mut self, joined: Vec<NodeId>) {
        self.view_of(Vec::new(), joined);
    }

    fn view_of(&mut self, failed: Vec<Member>, joined: Vec<NodeId>) {
        self.view += 1;
        let members: Vec<Member> = self.cluster.values().copied().collect();
        let quorate = self.cluster.len() >= 2;
        let departed = |member| Departed {
            member,
            why: Departure::NodeFailed,
        };
        self.event(&Event::View(View {
            number: self.view,
            tag: 0,
            members,
            joined,
            departed: failed.into_iter().map(departed).collect(),
            quorate,
        }));
        for node in self.domains.keys().copied().collect::<Vec<_>>() {
            self.one(node, |domain, now, fx| {
                domain.handle_quorum(now, quorate, fx)
            });
        }
    }

    fn life(&self, node: u32) -> Member {
        let life = u64::from(node) * 100 + self.view;
        Member {
            node: NodeId(node),
            incarnation: Incarnation(life),
            boot: BootId(u128::from(life).to_be_bytes()),
        }
    }

    fn cluster_join(&mut self, nodes: &[u32]) {
        for node in nodes {
            self.cluster.insert(NodeId(*node), self.life(*node));
        }
        self.cluster_view(Vec::new());
    }

    fn daemon_join(&mut self, node: u32) {
        let node = NodeId(node);
        self.domains.insert(node, Domain::new(self.config(node)));
        let members = self.cluster.values().copied().collect();
        let quorate = self.cluster.len() >= 2;
        let view = View {
            number: self.view,
            tag: 0,
            members,
            joined: Vec::new(),
            departed: Vec::new(),
            quorate,
        };
        self.one(node, |domain, now, fx| {
            domain.handle_view(now, view, fx);
            domain.handle_quorum(now, quorate, fx);
        });
        self.group.insert(node);
        self.group_event(vec![node]);
    }

    fn group_event(&mut self, joined: Vec<NodeId>) {
        self.group_view += 1;
        let members = self.group.iter().copied().collect();
        self.event(&Event::Group(GroupView {
            group: "fence:default".into(),
            number: self.group_view,
            view: self.view,
            members,
            joined,
            departed: Vec::new(),
            lost: Vec::new(),
        }));
    }

    /// The node dies: the view says so, then the group.
    fn kill(&mut self, node: u32) {
        let node = NodeId(node);
        self.domains.remove(&node);
        let member = self.cluster.remove(&node).unwrap();
        self.cluster_view(vec![member]);
        if self.group.remove(&node) {
            self.pending.retain(|(from, _)| *from != node);
            self.group_event(Vec::new());
        }
    }

    /// The last agent of one node against another ends.
    fn agent(&mut self, by: NodeId, victim: NodeId, success: bool) {
        let run = self.runs[&(by, victim)];
        self.agent_run(by, victim, run, success);
    }

    fn agent_run(&mut self, by: NodeId, victim: NodeId, run: u64, success: bool) {
        let success = success.then_some(self.success);
        self.one(by, |domain, now, fx| {
            domain.handle_agent(now, victim, run, success, 1000, fx)
        });
    }

    fn advance(&mut self, milliseconds: u64) {
        self.now = self.now.after(milliseconds);
        for node in self.domains.keys().copied().collect::<Vec<_>>() {
            self.one(node, |domain, now, fx| {
                if domain.next_timeout().is_some_and(|due| due <= now) {
                    domain.handle_timeout(now, fx);
                }
            });
        }
    }

    fn victims(&self, node: NodeId) -> Vec<NodeId> {
        self.domains[&node].state().victims
    }

    fn assert_agreed(&self) {
        let mut states = self.domains.values().map(Domain::state);
        let first = states.next().unwrap();
        assert!(
            states.all(|state| state == first),
            "all daemons have the same state"
        );
    }
}

#[test]
fn a_failed_member_is_fenced_by_the_lowest_and_cleared_everywhere_at_once() {
    let mut bus = Bus::three();
    bus.kill(2);
    assert_eq!(bus.fenced, [(N1, N2)]);
    assert_eq!(bus.victims(N1), [N2]);
    assert_eq!(bus.victims(N3), [N2]);
    assert_eq!(bus.domains[&N3].state().view, bus.view);
    bus.agent(N1, N2, true);
    assert_eq!(
        bus.victims(N1),
        [N2],
        "not before the message has come back"
    );
    bus.run();
    assert_eq!(bus.victims(N1), []);
    assert_eq!(bus.victims(N3), []);
    assert_eq!(bus.domains[&N3].history().count(), 1);
    assert_eq!(bus.domains[&N1].wait(), Wait::None);
}

#[test]
fn a_clean_leave_makes_no_victim() {
    let mut bus = Bus::three();
    bus.domains.remove(&N2);
    bus.cluster.remove(&N2);
    bus.cluster_view(Vec::new());
    bus.group.remove(&N2);
    bus.group_event(Vec::new());
    bus.run();
    assert_eq!(bus.fenced, []);
    bus.assert_agreed();
    assert_eq!(bus.victims(N1), []);
}

#[test]
fn the_next_master_takes_over_when_the_first_dies_while_fencing() {
    let mut bus = Bus::three();
    bus.kill(2);
    assert_eq!(bus.fenced, [(N1, N2)]);
    // Three nodes: with one left nobody is quorate.
    bus.kill(1);
    assert_eq!(bus.victims(N3), [N1, N2]);
    assert_eq!(bus.domains[&N3].wait(), Wait::Quorum);
    assert_eq!(bus.fenced.len(), 1, "an inquorate node fences nobody");
    bus.one(N3, |domain, now, fx| domain.handle_quorum(now, true, fx));
    assert_eq!(bus.fenced[1..], [(N3, N1)]);
    bus.agent(N3, N1, true);
    bus.run();
    assert_eq!(bus.fenced[2..], [(N3, N2)]);
}

#[test]
fn a_failed_attempt_is_repeated_after_the_pause_and_others_get_their_turn() {
    let mut bus = Bus::three();
    bus.kill(2);
    bus.agent(N1, N2, false);
    assert_eq!(bus.fenced.len(), 1);
    assert_eq!(bus.domains[&N1].wait(), Wait::Delay);
    bus.advance(RETRY_DELAY_MS - 1);
    assert_eq!(bus.fenced.len(), 1);
    bus.advance(1);
    assert_eq!(bus.fenced.len(), 2);
    bus.one(N1, |domain, now, fx| {
        let accuse = Message::Accuse {
            node: N3,
            boot_id: None,
            reason: "test".into(),
            request: 1,
        };
        domain.handle_message(now, N1, accuse, fx);
    });
    bus.agent(N1, N2, false);
    bus.advance(RETRY_DELAY_MS);
    assert_eq!(bus.fenced[2], (N1, N3), "the one tried least often");
}

#[test]
fn a_victim_back_after_a_reboot_is_cleared_and_one_without_is_not() {
    let mut bus = Bus::three();
    let old = bus.cluster[&N2];
    bus.kill(2);
    bus.cluster.insert(
        N2,
        Member {
            incarnation: Incarnation(7777),
            ..old
        },
    );
    bus.cluster_view(Vec::new());
    assert_eq!(bus.victims(N1), [N2], "same boot: it may hold what it held");
    bus.cluster.insert(
        N2,
        Member {
            boot: ANOTHER,
            incarnation: Incarnation(7778),
            ..old
        },
    );
    bus.cluster_view(Vec::new());
    assert_eq!(bus.victims(N1), []);
    assert_eq!(
        bus.domains[&N3].history().next().unwrap().1.how,
        How::Member
    );
}

#[test]
fn nodes_never_seen_are_fenced_after_the_join_delay_unless_told_otherwise() {
    let mut bus = Bus::new();
    bus.clean_start = false;
    bus.cluster_join(&[1, 2]);
    bus.daemon_join(1);
    bus.run();
    assert_eq!(bus.victims(N1), [N3]);
    bus.advance(5999);
    assert_eq!(bus.fenced, []);
    bus.advance(1);
    assert_eq!(bus.fenced, [(N1, N3)]);
    bus.cluster_join(&[3]);
    assert_eq!(bus.victims(N1), [], "a fresh member holds nothing");
}

#[test]
fn a_joiner_knows_nothing_until_the_snapshot_and_then_everything() {
    let mut bus = Bus::three();
    bus.kill(2);
    bus.domains.remove(&N3);
    bus.group.remove(&N3);
    bus.group_event(Vec::new());
    bus.run();
    bus.daemon_join(3);
    assert_eq!(bus.domains[&N3].state(), State::default());
    assert_eq!(bus.domains[&N3].wait(), Wait::Messages);
    // What happens between the group view and the snapshot counts, too.
    bus.agent(N1, N2, true);
    bus.run();
    bus.assert_agreed();
    assert_eq!(bus.victims(N3), []);
    assert_eq!(bus.domains[&N3].history().count(), 1);
}

#[test]
fn a_joiner_founds_the_domain_when_all_who_knew_are_gone() {
    for (first, second) in [(2, 3), (3, 2)] {
        let mut bus = Bus::new();
        bus.cluster_join(&[1, 2, 3]);
        bus.daemon_join(1);
        bus.run();
        // They join in two steps, and 1 dies before its snapshots are out.
        bus.daemon_join(first);
        bus.daemon_join(second);
        bus.kill(1);
        bus.run();
        bus.assert_agreed();
        assert_eq!(bus.victims(N3), [N1]);
        // The founder begins at once, before the other one knows.
        assert_eq!(bus.fenced[0], (NodeId(first), N1));
    }
}

#[test]
fn an_accusation_of_a_boot_that_is_over_hits_nobody() {
    let mut bus = Bus::three();
    let old = bus.cluster[&N2].boot;
    let accuse = |boot_id: BootId| Message::Accuse {
        node: N2,
        boot_id: Some(boot_id),
        reason: "its dlm_controld died".into(),
        request: 5,
    };
    let new = Member {
        incarnation: Incarnation(7777),
        boot: ANOTHER,
        ..bus.cluster[&N2]
    };
    bus.cluster.insert(N2, new);
    bus.cluster_view(Vec::new());
    bus.pending.push_back((N3, accuse(old)));
    bus.run();
    bus.assert_agreed();
    assert_eq!((bus.victims(N1), bus.fenced.len()), (vec![], 0));
    bus.pending.push_back((N3, accuse(new.boot)));
    bus.run();
    assert_eq!(bus.fenced, [(N1, N2)]);
}

#[test]
fn an_accused_member_is_fenced_by_another_and_only_once() {
    let mut bus = Bus::three();
    bus.pending.push_back((
        N3,
        Message::Accuse {
            node: N1,
            boot_id: None,
            reason: "its dlm_controld died".into(),
            request: 5,
        },
    ));
    bus.run();
    assert_eq!(bus.fenced, [(N2, N1)], "nobody fences himself");
    bus.agent(N2, N1, true);
    bus.run();
    bus.kill(1);
    assert_eq!(bus.victims(N2), [], "it failed because it was fenced");
    assert_eq!(bus.fenced.len(), 1);
}

#[test]
fn when_all_are_victims_the_lowest_begins_and_who_is_back_goes_on() {
    let mut bus = Bus::new();
    bus.cluster_join(&[1, 2]);
    for node in [1, 2] {
        bus.daemon_join(node);
    }
    bus.run();
    for node in [N1, N2] {
        let accuse = Message::Accuse {
            node,
            boot_id: None,
            reason: "its dlm_controld died".into(),
            request: 5,
        };
        bus.pending.push_back((node, accuse));
    }
    bus.run();
    // The first accusation was N2's to see to, the second makes the lowest begin, not with itself.
    assert_eq!(bus.fenced, [(N2, N1), (N1, N2)]);
    bus.agent(N2, N1, false);
    bus.agent(N1, N2, true);
    bus.run();
    assert_eq!(bus.victims(N1), [N1]);
    assert_eq!(bus.domains[&N1].next_timeout(), None);
    // Back from its reset it is no victim, and sees to the other one.
    bus.kill(2);
    bus.cluster_join(&[2]);
    bus.daemon_join(2);
    bus.run();
    assert_eq!(bus.fenced[2..], [(N2, N1)]);
}

#[test]
fn an_agent_result_for_a_victim_cleared_meanwhile_changes_nothing() {
    let mut bus = Bus::three();
    bus.kill(2);
    bus.pending.push_back((
        N3,
        Message::Acknowledge {
            node: N2,
            at: 1,
            request: 1,
        },
    ));
    bus.run();
    assert_eq!(bus.victims(N1), []);
    bus.agent(N1, N2, true);
    assert!(bus.pending.is_empty(), "no second announcement");
    assert_eq!(
        bus.domains[&N1].history().next().unwrap().1.how,
        How::Override
    );
}

#[test]
fn a_late_result_does_not_clear_the_victim_of_a_later_boot() {
    let mut bus = Bus::three();
    bus.kill(2);
    let late = bus.runs[&(N1, N2)];
    // It was reset at once, the agent goes on checking; then it fails again.
    bus.cluster_join(&[2]);
    assert_eq!(bus.victims(N1), []);
    bus.kill(2);
    assert_eq!(bus.fenced, [(N1, N2), (N1, N2)]);
    bus.agent_run(N1, N2, late, true);
    bus.run();
    assert_eq!(bus.victims(N1), [N2], "the second failure is not fenced");
    bus.agent(N1, N2, true);
    bus.run();
    assert_eq!(bus.victims(N1), []);
}

#[test]
fn an_accused_member_that_leaves_the_view_while_its_agent_runs_is_reset_once() {
    let mut bus = Bus::three();
    let accuse = Message::Accuse {
        node: N2,
        boot_id: None,
        reason: "its dlm_controld died".into(),
        request: 5,
    };
    bus.pending.push_back((N3, accuse));
    bus.run();
    bus.kill(2);
    bus.agent(N1, N2, true);
    bus.run();
    assert_eq!(bus.victims(N1), []);
    assert_eq!(bus.fenced, [(N1, N2)]);
}

#[test]
fn a_life_that_fails_while_the_word_about_the_last_one_is_on_its_way_is_fenced() {
    let mut bus = Bus::three();
    let old = bus.cluster[&N2];
    bus.kill(2);
    // cmand is back on the same boot: that ends nothing.
    let again = Member {
        incarnation: Incarnation(7777),
        ..old
    };
    bus.cluster.insert(N2, again);
    bus.cluster_view(Vec::new());
    bus.agent(N1, N2, true);
    bus.cluster.remove(&N2);
    bus.cluster_view(vec![again]);
    bus.run();
    assert_eq!(bus.victims(N1), [N2]);
    assert_eq!(bus.fenced, [(N1, N2), (N1, N2)]);
    bus.agent(N1, N2, true);
    bus.run();
    assert_eq!(bus.victims(N1), []);
}

#[test]
fn a_message_about_an_earlier_life_does_not_clear_a_later_one() {
    let mut bus = Bus::three();
    bus.kill(2);
    let stale = bus.domains[&N1].victims().next().unwrap().1.clone();
    bus.agent(N1, N2, true);
    bus.run();
    bus.cluster_join(&[2]);
    bus.kill(2);
    assert_eq!(bus.victims(N1), [N2]);
    let record = Record {
        how: How::Agent,
        by: N1,
        at: 1,
        ended: stale.incarnation,
        boot_id: None,
        method: None,
        cut_off: None,
    };
    bus.pending.push_back((
        N1,
        Message::Done {
            node: N2,
            victim: stale,
            record,
        },
    ));
    bus.run();
    assert_eq!(bus.victims(N1), [N2]);
}

/// An accusation with the longest reason, of a text that is long in a message.
fn accuse(node: u32) -> Message {
    Message::Accuse {
        node: NodeId(node),
        boot_id: None,
        reason: "\u{1}".repeat(REASON_LIMIT),
        request: 0,
    }
}

#[test]
fn a_state_too_large_for_one_message_reaches_a_joiner() {
    let mut bus = Bus::new();
    bus.nodes = 100;
    bus.cluster_join(&[1, 2, 3]);
    bus.daemon_join(1);
    for node in 4..=100 {
        bus.pending.push_back((N1, accuse(node)));
    }
    bus.run();
    assert_eq!(bus.victims(N1).len(), 97);
    bus.daemon_join(2);
    assert!(bus.pending.len() > 1, "several messages");
    for (_, message) in &bus.pending {
        assert!(message.encode().unwrap().len() <= cmand_view::PAYLOAD_LIMIT);
    }
    bus.run();
    bus.assert_agreed();
    assert_eq!(bus.victims(N2).len(), 97);
}

#[test]
fn a_joiner_that_gave_up_asks_anew_and_misses_no_victim() {
    let mut bus = Bus::new();
    bus.limits.heard = 1;
    bus.cluster_join(&[1, 2, 3]);
    bus.daemon_join(1);
    bus.run();
    bus.daemon_join(2);
    // What is said before the state arrives is more than it may write down.
    bus.pending.push_front((N1, accuse(2)));
    bus.pending.push_front((N1, accuse(3)));
    bus.run();
    assert_eq!(bus.gave_up, [N2]);
    bus.assert_agreed();
    assert_eq!(bus.victims(N2), [N2, N3]);
}

impl Bus {
    /// n2 has failed and an agent said that it was fenced; answers which life of it.
    fn fenced_life(&mut self) -> Member {
        let life = self.cluster[&N2];
        self.kill(2);
        self.agent(N1, N2, true);
        self.run();
        assert_eq!(self.victims(N1), []);
        life
    }

    /// cmand of a node hears a life that was fenced.
    fn hears(&mut self, by: NodeId, life: Member) {
        let (node, incarnation, boot) = (life.node, life.incarnation, life.boot);
        self.one(by, |domain, now, fx| {
            domain.handle_returned(now, node, incarnation, boot, fx)
        });
    }
}

#[test]
fn a_boot_heard_after_it_was_fenced_is_a_victim_again_and_the_next_method_comes_first() {
    let mut bus = Bus::three();
    let life = bus.fenced_life();
    assert_eq!(bus.first, 0);
    let ended: Vec<_> = bus.domains[&N3].ended().collect();
    assert_eq!(ended, [(N2, life.boot)]);
    // Both hear it, and say so.
    bus.hears(N1, life);
    bus.hears(N3, life);
    assert_eq!(bus.victims(N1), [], "not before all agree");
    bus.run();
    bus.assert_agreed();
    assert_eq!(bus.victims(N1), [N2]);
    assert_eq!(bus.returned, [(N1, N2), (N3, N2)], "each once");
    assert_eq!(bus.domains[&N1].ended().count(), 0);
    assert_eq!((bus.fenced.len(), bus.first), (2, 1));
    let reason = bus.domains[&N3].victims().next().unwrap().1.reason.clone();
    assert!(reason.to_string().contains("lied"), "{reason}");
    bus.success.method = 1;
    bus.agent(N1, N2, true);
    bus.run();
    assert_eq!(bus.victims(N3), []);
}

#[test]
fn a_boot_that_always_returns_makes_a_victim_once_in_a_while() {
    let mut bus = Bus::three();
    let life = bus.fenced_life();
    bus.hears(N1, life);
    bus.run();
    bus.agent(N1, N2, true);
    bus.run();
    bus.advance(RETURN_MS - 1);
    for node in [N1, N3] {
        bus.hears(node, life);
    }
    assert!(bus.pending.is_empty(), "too early");
    bus.advance(1);
    bus.hears(N3, life);
    bus.run();
    assert_eq!(bus.victims(N1), [N2]);
    assert_eq!(bus.fenced.len(), 3);
}

#[test]
fn a_boot_that_was_fenced_and_joins_is_a_victim() {
    let mut bus = Bus::three();
    let life = bus.fenced_life();
    let again = Member {
        incarnation: Incarnation(7777),
        ..life
    };
    bus.cluster.insert(N2, again);
    bus.view_joined(vec![N2]);
    bus.assert_agreed();
    assert_eq!(bus.victims(N1), [N2]);
    let victim = bus.domains[&N1].victims().next().unwrap().1.clone();
    assert_eq!(victim.incarnation, Some(again.incarnation));
}

#[test]
fn nobody_is_accused_of_what_is_over_or_was_never_ended() {
    // It is back after a reboot when the word arrives.
    let mut bus = Bus::three();
    let life = bus.fenced_life();
    bus.hears(N1, life);
    bus.cluster_join(&[2]);
    bus.run();
    assert_eq!(bus.victims(N1), []);
    // Another boot than the fenced one, or none was.
    let mut bus = Bus::three();
    let life = bus.cluster[&N2];
    bus.hears(N1, life);
    assert!(bus.pending.is_empty());
    let life = bus.fenced_life();
    bus.hears(
        N1,
        Member {
            boot: ANOTHER,
            ..life
        },
    );
    assert!(bus.pending.is_empty());
    // It was cut off from storage and may go on.
    let mut bus = Bus::three();
    bus.success.is_power = false;
    let life = bus.fenced_life();
    bus.hears(N1, life);
    assert!(bus.pending.is_empty());
    assert_eq!(bus.domains[&N1].ended().count(), 0);
}

#[test]
fn an_operator_is_believed_like_an_agent_unless_he_knew_that_it_runs() {
    for runs in [false, true] {
        let mut bus = Bus::three();
        let life = bus.cluster[&N2];
        if runs {
            bus.pending.push_back((N1, accuse(2)));
            bus.run();
        } else {
            bus.kill(2);
        }
        let acknowledge = Message::Acknowledge {
            node: N2,
            at: 1,
            request: 1,
        };
        bus.pending.push_back((N3, acknowledge));
        bus.run();
        assert_eq!(bus.victims(N1), []);
        bus.hears(N1, life);
        bus.run();
        let victims: &[NodeId] = if runs { &[] } else { &[N2] };
        assert_eq!(bus.victims(N1), victims, "runs: {runs}");
    }
}

#[test]
fn who_joins_knows_which_boots_must_not_be_heard() {
    let mut bus = Bus::new();
    bus.cluster_join(&[1, 2, 3]);
    bus.daemon_join(1);
    bus.run();
    let life = bus.cluster[&N2];
    bus.cluster.remove(&N2);
    bus.cluster_view(vec![life]);
    bus.agent(N1, N2, true);
    bus.run();
    bus.daemon_join(3);
    bus.run();
    bus.hears(N3, life);
    bus.run();
    bus.assert_agreed();
    assert_eq!(bus.victims(N1), [N2]);
}

#[test]
fn a_node_cut_off_from_storage_is_kept_out_until_it_is_unfenced_and_has_another_boot() {
    let mut bus = Bus::three();
    bus.success.is_power = false;
    let life = bus.fenced_life();
    let kept = |bus: &Bus, node| bus.domains[&node].kept_out().collect::<Vec<_>>();
    assert_eq!(kept(&bus, N3), [(N2, None)]);
    let unfence = Message::Unfence {
        node: N2,
        request: 1,
    };
    bus.pending.push_back((N3, unfence.clone()));
    bus.run();
    assert_eq!(kept(&bus, N1), [(N2, Some(life.boot))]);
    assert_eq!(kept(&bus, N3), [(N2, Some(life.boot))]);
    // A power action later does not switch its storage on.
    bus.cluster_join(&[2]);
    let life = bus.fenced_life();
    assert_eq!(kept(&bus, N1), [(N2, None)]);
    bus.success.is_power = true;
    bus.pending.push_back((N1, accuse(2)));
    bus.run();
    bus.agent(N1, N2, true);
    bus.run();
    assert_eq!(bus.victims(N1), []);
    assert_eq!(kept(&bus, N1), [(N2, None)], "{life:?}");
    // Of a node that was not cut off nothing is switched on.
    let mut bus = Bus::three();
    bus.fenced_life();
    bus.pending.push_back((N1, unfence));
    bus.run();
    assert_eq!(kept(&bus, N1), []);
}

#[test]
fn who_joins_knows_whom_to_keep_out() {
    let mut bus = Bus::new();
    bus.success.is_power = false;
    bus.cluster_join(&[1, 2, 3]);
    bus.daemon_join(1);
    bus.run();
    let life = bus.cluster.remove(&N2).unwrap();
    bus.cluster_view(vec![life]);
    bus.agent(N1, N2, true);
    bus.run();
    bus.daemon_join(3);
    assert_eq!(bus.domains[&N3].kept_out().count(), 0, "not known yet");
    bus.run();
    let kept: Vec<_> = bus.domains[&N3].kept_out().collect();
    assert_eq!(kept, [(N2, None)]);
}
