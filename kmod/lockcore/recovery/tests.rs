// SPDX-License-Identifier: GPL-2.0-only
//! Recoveries of two nodes with each other, step by step; whole stories are the simulator's.

use core::cell::RefCell;
use core::fmt;

use super::*;
use crate::lockcore::hash::name_hash;
use crate::lockcore::mode::Mode;
use crate::lockcore::shard::{self, Completion, Effects, Received, Shard};
use crate::lockcore::wire::message::{Message, MessageKind};

const LVB_LEN: u32 = 32;

/// What shards and recovery send; callbacks and notes are not looked at.
#[derive(Default)]
struct Fx {
    /// Lock messages, by kind and receiver.
    messages: Vec<(u32, MessageKind)>,
    /// Recovery messages.
    rcoms: Vec<(u32, Vec<u8>)>,
}

impl Effects for Fx {
    type Owner = u32;
    fn send(&mut self, to: NodeId, message: &Message<'_>) {
        self.messages.push((to.0, message.kind));
    }
    fn complete(&mut self, _owner: &mut u32, _done: &Completion<'_>) {}
    fn blocking(&mut self, _owner: &mut u32, _mode: Mode) {}
    fn release(&mut self, _owner: u32) {}
}

impl RecoveryEffects for Fx {
    fn send_rcom(&mut self, to: NodeId, _plain: bool, packet: &[u8]) {
        self.rcoms.push((to.0, packet.to_vec()));
    }
    fn member_added(&mut self, _node: NodeId) {}
    fn member_removed(&mut self, _node: NodeId) {}
    fn hold_callbacks(&mut self) {}
    fn release_callbacks(&mut self) {}
    fn recover_prep(&mut self) {}
    fn recover_slot(&mut self, _node: NodeId, _slot: u32) {}
    fn enabled(&mut self) {}
    fn recover_done(&mut self, _done: &Done<'_>) {}
    fn finished(&mut self, result: i32) {
        assert_eq!(result, 0);
    }
    fn note(&mut self, _line: fmt::Arguments<'_>) {}
}

/// A lockspace with one shard.
struct OneShard(RefCell<(Shard<u32>, Fx)>);

impl Shards for OneShard {
    type Fx = Fx;
    fn count(&self) -> usize {
        1
    }
    fn with<R>(&self, _index: usize, f: impl FnOnce(&mut Shard<u32>, &mut Fx) -> R) -> R {
        let (shard, fx) = &mut *self.0.borrow_mut();
        f(shard, fx)
    }
}

struct Node {
    id: u32,
    recovery: Recovery,
    shards: OneShard,
    fx: Fx,
}

impl Node {
    fn new(id: u32) -> Self {
        let config = shard::Config {
            shard: 0,
            shard_bits: 0,
            lvb_len: LVB_LEN as u16,
            toss_ms: 1000,
        };
        let alone = Member {
            node: NodeId(id),
            weight: 1,
        };
        let members = Members::new(NodeId(id), &[alone]).unwrap();
        let members = Arc::new(members, GFP).unwrap();
        let shard = Shard::new(config, members).unwrap();
        Self {
            id,
            recovery: Recovery::new(NodeId(id), LVB_LEN, 0),
            shards: OneShard(RefCell::new((shard, Fx::default()))),
            fx: Fx::default(),
        }
    }

    fn start(&mut self, members: &[u32]) {
        self.recovery.control_stop(&self.shards, &mut self.fx);
        let mut list = KVec::new();
        for node in members {
            let member = StartMember {
                node: NodeId(*node),
                weight: 1,
                incarnation: u64::from(*node),
            };
            list.push(member, GFP).unwrap();
        }
        let args = StartArgs {
            id: 7,
            members: list,
            failed: KVec::new(),
        };
        self.recovery.control_start(0, args).unwrap();
    }

    fn quorate(&mut self, quorate: bool) {
        self.recovery
            .set_quorate(quorate, &self.shards, &mut self.fx);
    }

    fn receive(&mut self, from: u32, message: &Message<'_>) -> Received {
        let receive =
            |shard: &mut Shard<u32>, fx: &mut Fx| shard.receive(0, NodeId(from), message, fx);
        self.shards.with(0, receive)
    }
}

/// Lets time pass and carries recovery messages, until all are running.
fn recover(nodes: &mut [Node]) {
    for now_ms in (0..10_000).step_by(10) {
        let mut sent = Vec::new();
        for node in nodes.iter_mut() {
            let Node {
                recovery,
                shards,
                fx,
                ..
            } = node;
            recovery.handle_timeout(now_ms, shards, fx);
            let from = node.id;
            sent.extend(
                node.fx
                    .rcoms
                    .drain(..)
                    .map(|(to, packet)| (from, to, packet)),
            );
        }
        for (from, to, packet) in sent {
            let to = nodes.iter_mut().find(|node| node.id == to).unwrap();
            let Node {
                recovery,
                shards,
                fx,
                ..
            } = to;
            let inner = &packet[..];
            recovery
                .handle_packet(now_ms, NodeId(from), inner, shards, fx)
                .unwrap();
        }
        let rests = |node: &Node| node.recovery.state() == State::Running;
        if nodes.iter().all(rests) {
            return;
        }
    }
    panic!("recovery does not end");
}

#[test]
fn what_a_member_said_before_it_joined_again_is_not_taken_for_its_next_life() {
    let mut old = Node::new(2);
    old.start(&[2]);
    recover(core::slice::from_mut(&mut old));
    // Node 1 was a member once, and what it asked for then comes only now: it had been cut off.
    old.quorate(false);
    let mut request = Message::new(MessageKind::Request);
    request.lkid = 5;
    request.rqmode = Some(Mode::Pw);
    request.extra = b"door";
    request.hash = name_hash(request.extra);
    assert_eq!(old.receive(1, &request), Received::Done);
    assert_eq!(old.shards.with(0, |shard, _| shard.counts().saved), 1);
    old.start(&[1, 2]);
    old.quorate(true);
    let mut new = Node::new(1);
    new.start(&[1, 2]);
    let mut nodes = [new, old];
    recover(&mut nodes);
    let [_, mut old] = nodes;
    let counts = old.shards.with(0, |shard, _| shard.counts());
    assert_eq!((counts.locks, counts.saved), (0, 0));
    let sent = old
        .shards
        .with(0, |_, fx| core::mem::take(&mut fx.messages));
    assert!(sent.is_empty(), "{sent:?}");
    // What it asks for now counts.
    old.receive(1, &request);
    let sent = old
        .shards
        .with(0, |_, fx| core::mem::take(&mut fx.messages));
    assert_eq!(sent, [(1, MessageKind::RequestReply)]);
}
