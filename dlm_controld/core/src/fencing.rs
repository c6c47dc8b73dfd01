// SPDX-License-Identifier: GPL-2.0-only
//! What must be fenced before a lockspace may start, as far as this node knows.
//!
//! Two kinds of failure: a *node* that failed is a victim of the fence domain
//! as soon as the domain has processed the view that says so. A *daemon* that
//! failed leaves a node that is still a member; the other daemons accuse it, and
//! it counts as fenced once it was seen as a victim and is one no longer, or
//! once it came back after a reboot.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::BootId;
use crate::Instant;
use crate::NodeId;
use crate::View;

/// Pause before a node is accused again that is no victim yet, milliseconds:
/// longer than an agreement of the fence domain takes.
pub(crate) const ACCUSE_AGAIN_MS: u64 = 10_000;

/// What fenced said last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FenceState {
    /// Number of the last cluster view whose failures are in it; 0 until known.
    pub view: u64,
    /// Nodes that must still be fenced.
    pub victims: BTreeSet<NodeId>,
}

/// How a member failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// With its node, in this cluster view.
    Node { view: u64 },
    /// Only its daemon.
    Daemon,
    /// It left, and asked for recovery.
    Released,
}

/// A node whose daemon failed with lockspaces in the kernel.
#[derive(Debug, Clone)]
struct Accused {
    /// Its boot at that time, if it was a member of the view.
    boot_id: Option<BootId>,
    /// The cluster view in force at that time: a fence state from before it may
    /// speak of an earlier boot.
    since: u64,
    /// Whether it was a victim since.
    seen: bool,
    /// The cluster view in which it was back after a reboot.
    rebooted: Option<u64>,
    /// When to accuse it again.
    due: Instant,
}

/// The fence state and the accused.
#[derive(Debug, Default)]
pub(crate) struct Fencing {
    state: FenceState,
    accused: BTreeMap<NodeId, Accused>,
}

impl Fencing {
    pub(crate) fn state(&self) -> &FenceState {
        &self.state
    }

    /// Nodes that were accused and are not fenced yet, with their boots.
    pub(crate) fn accused(&self) -> BTreeMap<NodeId, Option<BootId>> {
        let entry = |(node, accused): (&NodeId, &Accused)| (*node, accused.boot_id);
        self.accused.iter().map(entry).collect()
    }

    pub(crate) fn is_accused(&self, node: NodeId) -> bool {
        self.accused.contains_key(&node)
    }

    /// Whether the failed member is fenced, for all this node knows.
    pub(crate) fn is_fenced(&self, node: NodeId, cause: Cause) -> bool {
        match cause {
            Cause::Node { view } => self.state.view >= view && !self.state.victims.contains(&node),
            Cause::Daemon => !self.accused.contains_key(&node),
            Cause::Released => true,
        }
    }

    /// Everything that would have to be fenced before somebody who knows
    /// nothing of the past may go on; none when fenced is behind `view`.
    pub(crate) fn outstanding(&self, view: u64) -> Option<BTreeSet<NodeId>> {
        if self.state.view < view {
            return None;
        }
        Some(
            self.state
                .victims
                .iter()
                .chain(self.accused.keys())
                .copied()
                .collect(),
        )
    }

    /// A member's daemon failed. `due` is when to accuse it.
    pub(crate) fn accuse(&mut self, due: Instant, node: NodeId, view: Option<&View>) {
        let since = view.map_or(0, |view| view.number);
        let seen = self.state.view >= since && self.state.victims.contains(&node);
        let member = view.and_then(|view| view.member(node));
        let boot_id = member.map(|member| member.boot);
        let accused = Accused {
            boot_id,
            since,
            seen,
            rebooted: None,
            due,
        };
        self.accused.entry(node).or_insert(accused);
    }

    /// Takes over what another daemon knows. It may be settled already, so
    /// nobody is accused at once.
    pub(crate) fn inherit(
        &mut self,
        now: Instant,
        node: NodeId,
        boot_id: Option<BootId>,
        view: Option<&View>,
    ) {
        let since = view.map_or(0, |view| view.number);
        let seen = self.state.view >= since && self.state.victims.contains(&node);
        let due = now.after(ACCUSE_AGAIN_MS);
        self.accused.entry(node).or_insert(Accused {
            boot_id,
            since,
            seen,
            rebooted: None,
            due,
        });
        if let Some(view) = view {
            self.handle_view(view);
        }
    }

    /// A daemon joins only when there are no lockspaces in its kernel, so nothing
    /// of an earlier life of it is left.
    pub(crate) fn absolve(&mut self, node: NodeId) {
        self.accused.remove(&node);
    }

    pub(crate) fn handle_view(&mut self, view: &View) {
        for (node, accused) in &mut self.accused {
            let member = view.member(*node);
            let rebooted =
                |member: &crate::Member| accused.boot_id.is_some_and(|boot| boot != member.boot);
            if accused.rebooted.is_none() && member.is_some_and(rebooted) {
                accused.rebooted = Some(view.number);
            }
        }
        self.resolve();
    }

    pub(crate) fn handle_state(&mut self, state: FenceState) {
        self.state = state;
        for (node, accused) in &mut self.accused {
            let is_victim = self.state.victims.contains(node);
            accused.seen |= is_victim && self.state.view >= accused.since;
        }
        self.resolve();
    }

    fn resolve(&mut self) {
        let state = &self.state;
        self.accused.retain(|node, accused| {
            let back = accused.rebooted.is_some_and(|view| state.view >= view);
            state.victims.contains(node) || !(accused.seen || back)
        });
    }

    /// Nodes to accuse now, with their boots; each is due again later.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<(NodeId, Option<BootId>)> {
        let mut due = Vec::new();
        for (node, accused) in &mut self.accused {
            if !accused.seen && accused.due <= now {
                accused.due = now.after(ACCUSE_AGAIN_MS);
                due.push((*node, accused.boot_id));
            }
        }
        due
    }

    /// When somebody is to be accused next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let waiting = self.accused.values().filter(|accused| !accused.seen);
        waiting.map(|accused| accused.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Incarnation;
    use crate::Member;

    const N: NodeId = NodeId(2);

    fn state(view: u64, victims: &[NodeId]) -> FenceState {
        FenceState {
            view,
            victims: victims.iter().copied().collect(),
        }
    }

    const A: BootId = BootId([0xa; 16]);
    const B: BootId = BootId([0xb; 16]);

    fn view(number: u64, boot: BootId) -> View {
        View {
            number,
            tag: 0,
            members: vec![Member {
                node: N,
                incarnation: Incarnation(number),
                boot,
            }],
            joined: vec![],
            departed: vec![],
            quorate: true,
        }
    }

    #[test]
    fn a_failed_node_is_fenced_once_its_view_was_processed_and_it_is_no_victim() {
        let mut fencing = Fencing::default();
        let cause = Cause::Node { view: 5 };
        let steps = [
            (state(4, &[]), false),
            (state(5, &[N]), false),
            (state(6, &[N]), false),
            (state(6, &[]), true),
        ];
        for (state, fenced) in steps {
            fencing.handle_state(state.clone());
            assert_eq!(fencing.is_fenced(N, cause), fenced, "{state:?}");
        }
    }

    #[test]
    fn an_accused_node_is_fenced_only_after_it_was_a_victim() {
        let mut fencing = Fencing::default();
        fencing.accuse(Instant(0), N, Some(&view(3, A)));
        fencing.handle_state(state(9, &[]));
        assert!(!fencing.is_fenced(N, Cause::Daemon), "nobody has fenced it");
        fencing.handle_state(state(9, &[N]));
        assert!(!fencing.is_fenced(N, Cause::Daemon));
        fencing.handle_state(state(9, &[]));
        assert!(fencing.is_fenced(N, Cause::Daemon));
    }

    #[test]
    fn a_victim_of_an_earlier_boot_is_not_the_accused() {
        let mut fencing = Fencing::default();
        // Fenced has not heard yet that the node is back; its daemon fails again.
        fencing.handle_state(state(4, &[N]));
        fencing.accuse(Instant(0), N, Some(&view(5, B)));
        fencing.handle_state(state(5, &[]));
        assert!(!fencing.is_fenced(N, Cause::Daemon), "boot b runs");
        fencing.handle_state(state(5, &[N]));
        fencing.handle_state(state(5, &[]));
        assert!(fencing.is_fenced(N, Cause::Daemon));
    }

    #[test]
    fn an_accused_node_is_fenced_when_it_came_back_after_a_reboot() {
        let mut fencing = Fencing::default();
        fencing.accuse(Instant(0), N, Some(&view(3, A)));
        fencing.handle_view(&view(4, A));
        fencing.handle_state(state(4, &[]));
        assert!(!fencing.is_fenced(N, Cause::Daemon), "the same boot");
        fencing.handle_view(&view(5, B));
        assert!(
            !fencing.is_fenced(N, Cause::Daemon),
            "fenced has not processed it"
        );
        fencing.handle_state(state(5, &[]));
        assert!(fencing.is_fenced(N, Cause::Daemon));
    }

    #[test]
    fn a_daemon_that_joins_absolves_its_node() {
        let mut fencing = Fencing::default();
        fencing.accuse(Instant(0), N, None);
        fencing.absolve(N);
        assert!(fencing.is_fenced(N, Cause::Daemon));
        assert_eq!(fencing.next_due(), None);
    }

    #[test]
    fn an_accusation_is_repeated_until_it_is_heard() {
        let mut fencing = Fencing::default();
        fencing.accuse(Instant(7), N, None);
        assert_eq!(fencing.take_due(Instant(7)), [(N, None)]);
        assert_eq!(fencing.take_due(Instant(8)), []);
        let again = Instant(7).after(ACCUSE_AGAIN_MS);
        assert_eq!(fencing.next_due(), Some(again));
        assert_eq!(fencing.take_due(again), [(N, None)]);
        fencing.handle_state(state(1, &[N]));
        assert_eq!(fencing.next_due(), None);
    }
}
