// SPDX-License-Identifier: GPL-2.0-only
//! A peer that says anything: framing, envelopes and options, lock messages and recovery messages,
//! through a whole peer machine, recovery machine and shards of the lock manager.
//!
//! Node 1 is ours. The input plays node 2, another member of the lockspace, and the clock and the
//! clients of node 1.
//!
//! | Byte | Then | Means |
//! |---|---|---|
//! | 0 | length u16, bytes | node 2 puts these bytes into its connection |
//! | 1 | length u16, bytes | a packet is delivered as if its envelope had been right |
//! | 2 | ms u16 | time passes |
//! | 3 | name, mode, flags | a client asks for a lock |
//! | 4 | lock, mode, flags | a client converts |
//! | 5 | lock, flags | a client unlocks or cancels |
//! | 6 | | the connection breaks and is made again |
//! | 7 | | node 2 fails and comes back |

use dlm_core::lockcore::flags::LockFlags;
use dlm_core::lockcore::framer::Framer;
use dlm_core::lockcore::hash::name_hash;
use dlm_core::lockcore::lkb::LockId;
use dlm_core::lockcore::members::NodeId;
use dlm_core::lockcore::name::ResourceName;
use dlm_core::lockcore::peer::Peer;
use dlm_core::lockcore::peer::PeerEffects;
use dlm_core::lockcore::recovery::StartArgs;
use dlm_core::lockcore::recovery::StartMember;
use dlm_core::lockcore::recovery::State;
use dlm_core::lockcore::shard::Conversion;
use dlm_core::lockcore::shard::Request;
use dlm_core::lockcore::wire::header::Command;
use dlm_core::lockcore::wire::header::Header;
use dlm_core::lockcore::wire::message::Message;
use dlm_core::lockcore::wire::message::Route;
use dlm_core::platform::GFP;
use dlm_core::platform::KVec;
use sim::kernel::Effect;
use sim::kernel::LVB_LEN;
use sim::kernel::Space;

use crate::input::Input;

const LOCKSPACE: u32 = 0x4c53;
const SHARD_BITS: u32 = 1;

/// Steps of an input that are looked at.
const STEPS_MAX: usize = 400;

#[derive(Default)]
struct Wire {
    bytes: Vec<u8>,
}

impl PeerEffects for Wire {
    fn transmit(&mut self, packet: &[u8]) {
        self.bytes.extend_from_slice(packet);
    }

    fn closed(&mut self) {}
}

/// One node of the two.
struct Node {
    own: u32,
    space: Space,
    peer: Peer,
    framer: Framer,
    now_ms: u64,
    wire: Wire,
    locks: Vec<LockId>,
    /// It was told something after which it may be in any state, but must not fall over.
    is_lied_to: bool,
}

impl Node {
    fn new(own: u32) -> Self {
        let mut space = Space::new(own, SHARD_BITS, 10_000);
        space.set_id(LOCKSPACE);
        space.set_quorate(true);
        let mut node = Self {
            own,
            space,
            peer: Peer::new(NodeId(own), NodeId(3 - own)),
            framer: Framer::new().expect("there is memory"),
            now_ms: 1000,
            wire: Wire::default(),
            locks: Vec::new(),
            is_lied_to: false,
        };
        node.peer.connected(node.now_ms, &mut node.wire);
        node.start(false);
        node
    }

    fn start(&mut self, failed: bool) {
        let mut members = KVec::new();
        for node in [1, 2] {
            let member = StartMember {
                node: NodeId(node),
                weight: 1,
                incarnation: u64::from(node) + u64::from(failed && node != self.own) * 16,
            };
            members.push(member, GFP).expect("there is memory");
        }
        let mut gone = KVec::new();
        if failed {
            gone.push(NodeId(3 - self.own), GFP)
                .expect("there is memory");
        }
        let args = StartArgs {
            id: LOCKSPACE,
            members,
            failed: gone,
        };
        let now_ms = self.now_ms;
        // Refused while it recovers or runs.
        let _ = self.space.recovery.control_start(now_ms, args);
        self.run();
    }

    /// Recovers as far as it gets, and puts what there is to say into the connection.
    fn run(&mut self) {
        for _ in 0..64 {
            let now_ms = self.now_ms;
            if self.space.next_timeout().is_some_and(|due| due <= now_ms) {
                self.space.step(now_ms);
                self.space
                    .each(|shard, fx| shard.handle_timeout(now_ms, fx));
            }
            let effects = self.space.take_effects();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                if let Effect::Send {
                    sequenced, packet, ..
                } = effect
                {
                    let sent = self.peer.send(now_ms, &packet, sequenced, &mut self.wire);
                    sent.expect("a packet of ours has a length that can be");
                } else if let Effect::MemberAdded(_) = effect {
                    self.peer.member_added(now_ms);
                } else if let Effect::MemberRemoved(_) = effect {
                    self.peer.member_removed(now_ms, &mut self.wire);
                }
            }
        }
    }

    /// Bytes from the connection.
    fn hear(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.framer.space();
            let count = space.len().min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            self.framer.filled(count);
            loop {
                let inner = match self.framer.next_packet() {
                    Ok(Some(packet)) => {
                        let inner = self.peer.receive(self.now_ms, packet, &mut self.wire);
                        inner.map(<[u8]>::to_vec)
                    }
                    Ok(None) => break,
                    // No stream of packets: the connection is given up.
                    Err(_) => return self.reconnect(),
                };
                if let Some(inner) = inner {
                    self.deliver(&inner);
                }
            }
        }
    }

    fn reconnect(&mut self) {
        self.framer.clear();
        self.peer.disconnected();
        self.peer.connected(self.now_ms, &mut self.wire);
    }

    /// As the shell of the module does.
    fn deliver(&mut self, packet: &[u8]) {
        let (now_ms, from) = (self.now_ms, NodeId(3 - self.own));
        let Some(header) = Header::decode(packet) else {
            return;
        };
        if header.lockspace != LOCKSPACE {
            return;
        }
        match header.command {
            Command::Message => {
                let Some(message) = Message::decode(packet) else {
                    return;
                };
                match message.route() {
                    Route::Name(hash) => {
                        let _ = self
                            .space
                            .of_hash(hash, |shard, fx| shard.receive(now_ms, from, &message, fx));
                    }
                    Route::Lock(id) => {
                        let _ = self
                            .space
                            .of_lock(id, |shard, fx| shard.receive(now_ms, from, &message, fx));
                    }
                    Route::All => self.space.each(|shard, fx| {
                        let _ = shard.receive(now_ms, from, &message, fx);
                    }),
                }
            }
            Command::Rcom => {
                let _ = self.space.rcom(now_ms, from.0, packet);
            }
            Command::Opts | Command::Ack | Command::Fin => {}
        }
        self.run();
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        let now_ms = self.now_ms;
        self.peer.handle_timeout(now_ms, &mut self.wire);
        self.space
            .each(|shard, fx| shard.handle_timeout(now_ms, fx));
        self.space.step(now_ms);
        self.run();
    }

    fn request(&mut self, number: u8, mode: u8, flags: u32) {
        let name = ResourceName::new(format!("resource {number}").as_bytes());
        let name = name.expect("a short name");
        let now_ms = self.now_ms;
        let args = Request {
            mode: i32::from(mode),
            flags: LockFlags::from_raw(flags),
            pid: 7,
            user: flags & 1 << 31 != 0,
            wants_blocking: true,
            lvb: Some(&[number; LVB_LEN]),
            owner: self.locks.len() as u64,
        };
        let id = self.space.of_hash(name_hash(name.as_bytes()), |shard, fx| {
            shard.request(now_ms, &name, args, fx)
        });
        self.locks.extend(id);
        self.run();
    }

    fn lock(&self, number: u8) -> Option<LockId> {
        let at = usize::from(number) % self.locks.len().max(1);
        self.locks.get(at).copied()
    }

    fn convert(&mut self, number: u8, mode: u8, flags: u32) {
        let (now_ms, Some(id)) = (self.now_ms, self.lock(number)) else {
            return;
        };
        let args = Conversion {
            mode: i32::from(mode),
            flags: LockFlags::from_raw(flags),
            pid: 7,
            wants_blocking: true,
            lvb: Some(&[number; LVB_LEN]),
        };
        let _ = self.space.of_lock(id.raw(), |shard, fx| {
            shard.convert(now_ms, id, args, |_| {}, fx)
        });
        self.run();
    }

    fn unlock(&mut self, number: u8, flags: u32) {
        let (now_ms, Some(id)) = (self.now_ms, self.lock(number)) else {
            return;
        };
        let flags = LockFlags::from_raw(flags);
        let _ = self.space.of_lock(id.raw(), |shard, fx| {
            shard.unlock(now_ms, id, flags, Some(&[number; LVB_LEN]), |_| {}, fx)
        });
        self.run();
    }

    /// Node 2 fails and is a member again.
    fn fail_other(&mut self) {
        self.space.stop();
        self.run();
        self.framer.clear();
        self.peer = Peer::new(NodeId(self.own), NodeId(3 - self.own));
        self.peer.connected(self.now_ms, &mut self.wire);
        self.start(true);
    }

    fn check(&self) {
        self.space.each(|shard, _| {
            if self.is_lied_to {
                assert!(!shard.is_broken(), "a number that names nothing was used");
            } else {
                shard.check().expect("an honest peer");
            }
        });
    }
}

/// One input.
///
/// # Panics
/// A fault was found.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut node = Node::new(1);
    node.is_lied_to = true;
    for _ in 0..STEPS_MAX {
        let Some(what) = input.byte() else {
            break;
        };
        match what % 8 {
            0 => {
                let bytes = input.bytes();
                node.hear(bytes);
            }
            1 => {
                let bytes = input.bytes();
                node.deliver(bytes);
            }
            2 => node.pass(u64::from(input.word().unwrap_or(0))),
            3 => node.request(input.small(8), input.small(7), input.long()),
            4 => node.convert(input.small(64), input.small(7), input.long()),
            5 => node.unlock(input.small(64), input.long()),
            6 => node.reconnect(),
            _ => node.fail_other(),
        }
        node.wire.bytes.clear();
        node.check();
    }
    if crate::is_planted() {
        let mut locks = 0;
        node.space.each(|shard, _| locks += shard.counts().locks);
        assert!(
            node.space.recovery.state() != State::Running || locks < 5,
            "planted: a lockspace that runs and has five locks"
        );
    }
}

/// What two honest nodes say to each other, as inputs for the first.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    (0..6).map(dialogue).collect()
}

/// One conversation; everything that node 2 says, and what else happens at node 1, is written
/// down.
fn dialogue(seed: u32) -> Vec<u8> {
    let mut random = crate::input::Random(u64::from(seed) + 1);
    let (mut one, mut two) = (Node::new(1), Node::new(2));
    let mut script = Vec::new();
    let talk = |one: &mut Node, two: &mut Node, script: &mut Vec<u8>| {
        for _ in 0..64 {
            let said = std::mem::take(&mut one.wire.bytes);
            two.hear(&said);
            let answer = std::mem::take(&mut two.wire.bytes);
            if said.is_empty() && answer.is_empty() {
                break;
            }
            for part in answer.chunks(60_000) {
                script.push(0);
                script.extend((part.len() as u16).to_le_bytes());
                script.extend(part);
                one.hear(part);
            }
        }
        one.check();
        two.check();
    };
    for _ in 0..40 {
        talk(&mut one, &mut two, &mut script);
        script.extend([2, 20, 0]);
        one.pass(20);
        two.pass(20);
    }
    assert_eq!(one.space.recovery.state(), State::Running, "seed {seed}");
    for _ in 0..12 {
        let (number, mode) = (random.below(4) as u8, random.below(6) as u8);
        let flags = [0, 8, 1, 0x2008, 0x8000][random.below(5) as usize];
        match random.below(6) {
            0 | 1 => two.request(number, mode, flags),
            2 => two.convert(number, mode, flags | 4),
            3 => two.unlock(number, flags & 8),
            4 => {
                script.extend([3, number, mode]);
                script.extend(flags.to_le_bytes());
                one.request(number, mode, flags);
            }
            _ => {
                script.extend([4, number, mode]);
                script.extend((flags | 4).to_le_bytes());
                one.convert(number, mode, flags | 4);
            }
        }
        talk(&mut one, &mut two, &mut script);
    }
    script
}
