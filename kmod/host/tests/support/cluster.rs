// SPDX-License-Identifier: GPL-2.0-only
//! Several nodes' shards on a fake wire that keeps the order between two nodes and no other, with
//! a checker that sees only what owners see.
//!
//! Checked after every step: what owners may rely on goes together pairwise, and each operation is
//! completed once, as the interface promises. Messages cross the wire as bytes.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, VecDeque};

use dlm_core::lockcore::arena::Walk;
use dlm_core::lockcore::flags::*;
use dlm_core::lockcore::hash::name_hash;
use dlm_core::lockcore::lkb::LockId;
use dlm_core::lockcore::members::NodeId;
use dlm_core::lockcore::mode::{Change, Mode};
use dlm_core::lockcore::shard::{
    Completion, Config, Conversion, Drained, Effects, Received, Refused, Request, Shard, Status,
};
use dlm_core::lockcore::wire::message::{Message, Route};
use dlm_core::lockcore::wire::rcom::RcomLock;
use dlm_core::platform::fail;

use crate::support::{members, Random};
use dlm_core::lockcore::name::ResourceName;

pub(crate) const LVB_LEN: usize = 8;
const SHARD_BITS: u32 = 1;
const LOCKSPACE: u32 = 0x1234;

/// What an owner is told.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    Done {
        status: Status,
        sb_flags: StatusFlags,
        mode: Option<Mode>,
        lvb: Option<Vec<u8>>,
    },
    Blocking(Mode),
    Released,
}

/// The effects of one call.
struct Sink {
    node: u32,
    sent: Vec<(u32, Vec<u8>)>,
    told: Vec<(u32, Told)>,
}

impl Effects for Sink {
    type Owner = u32;

    fn send(&mut self, to: NodeId, message: &Message<'_>) {
        let packet = message.encode(LOCKSPACE, NodeId(self.node));
        self.sent.push((to.0, packet.parts().concat()));
    }

    fn complete(&mut self, owner: &mut u32, done: &Completion<'_>) {
        let told = Told::Done {
            status: done.status,
            sb_flags: done.sb_flags,
            mode: done.mode,
            lvb: done.lvb.map(<[u8]>::to_vec),
        };
        self.told.push((*owner, told));
    }

    fn blocking(&mut self, owner: &mut u32, mode: Mode) {
        self.told.push((*owner, Told::Blocking(mode)));
    }

    fn release(&mut self, owner: u32) {
        self.told.push((owner, Told::Released));
    }
}

/// A request or conversion that was accepted and is not completed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) mode: Mode,
    pub(crate) flags: LockFlags,
}

/// A lock as its owner sees it.
#[derive(Clone, Debug)]
pub(crate) struct Owned {
    pub(crate) node: u32,
    pub(crate) id: LockId,
    pub(crate) resource: usize,
    pub(crate) holds: Option<Mode>,
    pub(crate) pending: Option<Pending>,
    pub(crate) cancelling: bool,
    pub(crate) unlocking: bool,
    pub(crate) gone: bool,
}

impl Owned {
    /// What the owner may rely on now.
    fn relies_on(&self) -> Option<Mode> {
        let holds = self.holds.filter(|_| !self.gone && !self.unlocking)?;
        let Some(pending) = self.pending else {
            return Some(holds);
        };
        // The master may have changed the mode, and the news be on its way.
        if pending.flags.has_any(CONVDEADLK | ALTPR | ALTCW) {
            return Some(Mode::Nl);
        }
        match holds.change_to(pending.mode) {
            Change::Middle => Some(Mode::Cr),
            Change::Up | Change::Down => Some(holds),
        }
    }
}

pub(crate) struct Cluster {
    pub(crate) random: Random,
    nodes: BTreeMap<u32, Vec<Shard<u32>>>,
    wire: BTreeMap<(u32, u32), VecDeque<Vec<u8>>>,
    pub(crate) locks: BTreeMap<u32, Owned>,
    next: u32,
    pub(crate) now_ms: u64,
    /// What owners were told and the test has not looked at.
    pub(crate) news: VecDeque<(u32, Told)>,
    pub(crate) failing: bool,
    pub(crate) no_memory: u64,
    pub(crate) messages: u64,
    /// Names of the resources, by number; more are made up.
    pub(crate) names: Vec<Vec<u8>>,
    /// Lost since the last recovery that was completed.
    gone: Vec<NodeId>,
    /// The last things that happened, shown when a check fails.
    story: VecDeque<String>,
}

/// How much is told when a check fails.
const STORY_MAX: usize = 150;

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in &self.story {
                eprintln!("{line}");
            }
        }
    }
}

/// Steps of a recovery.
const STEPS: usize = 9;

fn new_shard(node: u32, shard: u32, ids: &[u32]) -> Shard<u32> {
    let config = Config {
        shard,
        shard_bits: SHARD_BITS,
        lvb_len: LVB_LEN as u16,
        toss_ms: 1000,
    };
    Shard::new(config, members(node, ids)).unwrap()
}

impl Cluster {
    pub(crate) fn new(seed: u64, count: u32) -> Self {
        let ids: Vec<u32> = (1..=count).collect();
        let shard = |node: u32, shard: u32| {
            let mut made = new_shard(node, shard, &ids);
            made.enable();
            let mut sink = Sink {
                node,
                sent: Vec::new(),
                told: Vec::new(),
            };
            assert_eq!(made.drain_saved(0, 1, &mut sink), Drained::Done);
            made
        };
        let node = |id: u32| (id, (0..1 << SHARD_BITS).map(|s| shard(id, s)).collect());
        Self {
            random: Random::new(seed),
            nodes: ids.iter().map(|id| node(*id)).collect(),
            wire: BTreeMap::new(),
            locks: BTreeMap::new(),
            next: 1,
            now_ms: 0,
            news: VecDeque::new(),
            failing: false,
            no_memory: 0,
            messages: 0,
            names: Vec::new(),
            gone: Vec::new(),
            story: VecDeque::new(),
        }
    }

    fn tell(&mut self, line: String) {
        if self.story.len() == STORY_MAX {
            self.story.pop_front();
        }
        self.story.push_back(line);
    }

    fn call<R>(
        &mut self,
        node: u32,
        shard: u32,
        f: impl FnOnce(&mut Shard<u32>, &mut Sink) -> R,
    ) -> R {
        let mut sink = Sink {
            node,
            sent: Vec::new(),
            told: Vec::new(),
        };
        if self.failing && self.random.one_in(4) {
            fail::after(Some(self.random.below(3) as u32));
        }
        let at = &mut self.nodes.get_mut(&node).unwrap()[shard as usize];
        let result = f(at, &mut sink);
        fail::after(None);
        at.check().unwrap();
        for (to, packet) in sink.sent {
            assert_ne!(to, node, "a node sends to itself");
            if !self.nodes.contains_key(&to) {
                continue;
            }
            self.wire.entry((node, to)).or_default().push_back(packet);
        }
        for (lock, told) in sink.told {
            self.tell(format!("    {lock} is told {told:?}"));
            self.note(lock, &told);
            self.news.push_back((lock, told));
        }
        result
    }

    /// One completion per operation, of a kind that it can have.
    fn note(&mut self, lock: u32, told: &Told) {
        let l = self.locks.get_mut(&lock).expect("an owner that exists");
        match told {
            Told::Released => {
                assert!(l.gone, "{lock} released before its end");
                self.locks.remove(&lock);
            }
            Told::Blocking(_) => assert!(!l.gone, "{lock} blocks after its end"),
            Told::Done { status, mode, .. } => {
                assert!(!l.gone, "{lock} completed after its end: {status:?}");
                let new = l.holds.is_none();
                match status {
                    Status::Granted => {
                        l.pending.take().expect("a grant of something asked for");
                        assert!(mode.is_some());
                    }
                    Status::Again => {
                        let pending = l.pending.take().expect("a refusal");
                        assert!(pending.flags.has(NOQUEUE));
                        l.gone = new;
                    }
                    Status::Deadlock => {
                        let pending = l.pending.take().expect("a deadlock");
                        assert!(!new && !pending.flags.has_any(NODLCKWT | CONVDEADLK | NOQUEUE));
                    }
                    Status::Cancelled => {
                        assert!(l.cancelling, "{lock} cancelled by nobody");
                        l.pending.take().expect("a cancel of something asked for");
                        l.gone = new;
                    }
                    Status::Unlocked => {
                        assert!(l.unlocking, "{lock} unlocked by nobody");
                        l.gone = true;
                    }
                }
                l.cancelling = false;
                l.holds = *mode;
                assert!(!l.gone || mode.is_none());
            }
        }
    }

    fn check_exclusion(&self) {
        let held: Vec<(u32, &Owned, Mode)> = self
            .locks
            .iter()
            .filter_map(|(n, l)| Some((*n, l, l.relies_on()?)))
            .collect();
        for (at, (n, a, mode)) in held.iter().enumerate() {
            for (m, b, other) in &held[at + 1..] {
                let fine = a.resource != b.resource || mode.is_compatible(*other);
                assert!(fine, "{n} {a:?} and {m} {b:?}");
            }
        }
    }

    fn name(&self, resource: usize) -> ResourceName {
        let made_up = format!("resource-{resource}").into_bytes();
        ResourceName::new(self.names.get(resource).unwrap_or(&made_up)).unwrap()
    }

    /// Asks for a new lock.
    pub(crate) fn request(
        &mut self,
        node: u32,
        resource: usize,
        mode: Mode,
        flags: LockFlags,
        lvb: &[u8],
    ) -> Option<u32> {
        let lock = self.next;
        self.next += 1;
        let owned = Owned {
            node,
            id: LockId::from_raw(0),
            resource,
            holds: None,
            pending: Some(Pending { mode, flags }),
            cancelling: false,
            unlocking: false,
            gone: false,
        };
        self.locks.insert(lock, owned);
        self.tell(format!(
            "{lock} of {node} asks for {mode:?} {flags:?} on {resource}"
        ));
        let now_ms = self.now_ms;
        let args = Request {
            mode: mode as i32,
            flags,
            pid: 1,
            user: false,
            wants_blocking: true,
            lvb: Some(lvb),
            owner: lock,
        };
        let name = self.name(resource);
        let shard = Config::shard_of_hash(name_hash(name.as_bytes()), SHARD_BITS);
        let asked = self.call(node, shard, |shard, fx| {
            shard.request(now_ms, &name, args, fx)
        });
        self.check_exclusion();
        match asked {
            Ok(id) => {
                if let Some(l) = self.locks.get_mut(&lock) {
                    l.id = id;
                }
                Some(lock)
            }
            Err(refused) => {
                self.refused(refused);
                self.locks.remove(&lock);
                None
            }
        }
    }

    fn refused(&mut self, refused: Refused) {
        match refused {
            Refused::NoMemory => {
                assert!(self.failing);
                self.no_memory += 1;
            }
            Refused::Busy | Refused::Invalid => {}
            Refused::Blocked | Refused::NotFound | Refused::Again => {
                panic!("refused: {refused:?}")
            }
        }
    }

    /// Converts. Returns whether it was accepted.
    pub(crate) fn convert(&mut self, lock: u32, mode: Mode, flags: LockFlags, lvb: &[u8]) -> bool {
        let before = self.locks[&lock].clone();
        let (node, id, now_ms) = (before.node, before.id, self.now_ms);
        self.tell(format!(
            "{lock} ({before:?}) converts to {mode:?} {flags:?}"
        ));
        let args = Conversion {
            mode: mode as i32,
            flags,
            pid: 1,
            wants_blocking: true,
            lvb: Some(lvb),
        };
        let shard = Config::shard_of_id(id.raw(), SHARD_BITS);
        // Its completion may come before the call returns.
        let l = self.locks.get_mut(&lock).unwrap();
        let free = l.pending.is_none() && !l.unlocking;
        if free {
            l.pending = Some(Pending { mode, flags });
            l.cancelling = false;
        }
        let asked = self.call(node, shard, |shard, fx| {
            shard.convert(now_ms, id, args, |_| {}, fx)
        });
        if let Err(refused) = asked {
            *self.locks.get_mut(&lock).unwrap() = before;
            self.refused(refused);
        } else {
            assert!(free, "{lock} accepted a second operation");
        }
        self.check_exclusion();
        asked.is_ok()
    }

    /// Unlocks or cancels.
    pub(crate) fn unlock(&mut self, lock: u32, flags: LockFlags, lvb: &[u8]) -> bool {
        self.give_up(lock, flags, Some(lvb))
    }

    /// Unlocks a lock whose owner has no value block.
    pub(crate) fn unlock_without_buffer(&mut self, lock: u32, flags: LockFlags) -> bool {
        self.give_up(lock, flags, None)
    }

    fn give_up(&mut self, lock: u32, flags: LockFlags, lvb: Option<&[u8]>) -> bool {
        let before = self.locks[&lock].clone();
        let (node, id, now_ms) = (before.node, before.id, self.now_ms);
        self.tell(format!("{lock} ({before:?}) unlocks {flags:?}"));
        let shard = Config::shard_of_id(id.raw(), SHARD_BITS);
        let l = self.locks.get_mut(&lock).unwrap();
        if flags.has(CANCEL) {
            l.cancelling |= l.pending.is_some();
        } else {
            l.unlocking = true;
        }
        let asked = self.call(node, shard, |shard, fx| {
            shard.unlock(now_ms, id, flags, lvb, |_| {}, fx)
        });
        if let Err(refused) = asked {
            *self.locks.get_mut(&lock).unwrap() = before;
            assert!(!flags.has_any(CANCEL | FORCEUNLOCK) || refused != Refused::Busy);
            self.refused(refused);
        }
        self.check_exclusion();
        asked.is_ok()
    }

    /// Delivers the oldest message between two nodes, chosen at random. Returns whether there was
    /// one.
    pub(crate) fn deliver(&mut self) -> bool {
        let pairs: Vec<(u32, u32)> = self
            .wire
            .iter()
            .filter(|(_, queue)| !queue.is_empty())
            .map(|(pair, _)| *pair)
            .collect();
        if pairs.is_empty() {
            return false;
        }
        let (from, to) = self.random.pick(&pairs);
        self.deliver_between(from, to)
    }

    /// Delivers the oldest message between these two nodes. Returns whether there was one.
    pub(crate) fn deliver_between(&mut self, from: u32, to: u32) -> bool {
        if self.wire.get(&(from, to)).is_none_or(VecDeque::is_empty) {
            return false;
        }
        let packet = self.wire[&(from, to)].front().unwrap().clone();
        let message = Message::decode(&packet).expect("a message of ours");
        let shard = match message.route() {
            Route::Name(hash) => Config::shard_of_hash(hash, SHARD_BITS),
            Route::Lock(id) => Config::shard_of_id(id, SHARD_BITS),
            Route::All => panic!("nobody purges"),
        };
        self.tell(format!("{from} to {to}: {message:?}"));
        let now_ms = self.now_ms;
        let received = self.call(to, shard, |shard, fx| {
            shard.receive(now_ms, NodeId(from), &message, fx)
        });
        match received {
            Received::Done => {
                self.messages += 1;
                self.wire.get_mut(&(from, to)).unwrap().pop_front();
            }
            Received::NoMemory => {
                assert!(self.failing);
                self.no_memory += 1;
            }
            Received::Dropped => panic!("{to} drops {message:?} from {from}"),
        }
        self.check_exclusion();
        true
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        let now_ms = self.now_ms;
        let nodes: Vec<u32> = self.nodes.keys().copied().collect();
        for node in nodes {
            for shard in 0..1 << SHARD_BITS {
                self.call(node, shard, |shard, fx| {
                    if shard.next_timeout().is_some_and(|at| at <= now_ms) {
                        shard.handle_timeout(now_ms, fx);
                    }
                });
            }
        }
        self.check_exclusion();
    }

    /// Delivers everything, and what comes of it.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100 {
            while self.deliver() {}
            self.pass(100);
            if self.wire.values().all(VecDeque::is_empty) {
                return;
            }
        }
        panic!("messages without end");
    }

    /// A node is no more; what it sent and was sent to it is lost.
    pub(crate) fn crash(&mut self, node: u32) {
        self.tell(format!("node {node} is lost"));
        self.nodes.remove(&node);
        self.wire
            .retain(|(from, to), _| *from != node && *to != node);
        self.locks.retain(|_, lock| lock.node != node);
        let locks = &self.locks;
        self.news.retain(|(lock, _)| locks.contains_key(lock));
        self.gone.push(NodeId(node));
    }

    /// A node comes (back) with nothing.
    pub(crate) fn join(&mut self, node: u32) {
        let shards = (0..1 << SHARD_BITS).map(|s| new_shard(node, s, &[node]));
        self.nodes.insert(node, shards.collect());
    }

    pub(crate) fn nodes(&self) -> Vec<u32> {
        self.nodes.keys().copied().collect()
    }

    fn shuffled(&mut self) -> Vec<(u32, u32)> {
        let nodes = self.nodes().into_iter();
        let mut all: Vec<(u32, u32)> = nodes
            .flat_map(|node| (0..1 << SHARD_BITS).map(move |shard| (node, shard)))
            .collect();
        for at in (1..all.len()).rev() {
            all.swap(at, self.random.below(at + 1));
        }
        all
    }

    fn each(&mut self, mut f: impl FnMut(&mut Shard<u32>, &mut Sink)) {
        for (node, shard) in self.shuffled() {
            self.call(node, shard, &mut f);
        }
    }

    /// Recovers; now and then an attempt is given up after some step, and sometimes another node
    /// is lost with it.
    pub(crate) fn recover(&mut self, give_up: bool) {
        loop {
            let end = if give_up && self.random.one_in(2) {
                self.random.below(STEPS)
            } else {
                STEPS
            };
            let removed = !self.gone.is_empty();
            for step in 0..end {
                if removed || !(4..7).contains(&step) {
                    self.recovery_step(step);
                }
            }
            if end == STEPS {
                self.gone.clear();
                return;
            }
            if self.nodes.len() > 2 && self.random.one_in(3) {
                let nodes = self.nodes();
                let node = self.random.pick(&nodes);
                self.crash(node);
            }
        }
    }

    /// A recovery that is given up when only one node has made its resources whole.
    #[allow(dead_code, reason = "each test file uses its part of this one")]
    pub(crate) fn give_up_behind(&mut self, whole: u32) {
        for step in 0..6 {
            self.recovery_step(step);
        }
        for shard in 0..1 << SHARD_BITS {
            self.call(whole, shard, |shard, _| shard.repair().unwrap());
        }
    }

    fn recovery_step(&mut self, step: usize) {
        self.tell(format!("step {step}"));
        let gone = self.gone.clone();
        let now_ms = self.now_ms;
        let ids = self.nodes();
        match step {
            0 => {
                for node in ids {
                    for shard in 0..1 << SHARD_BITS {
                        self.call(node, shard, |shard, _| shard.stop());
                    }
                    for _ in 0..self.random.below(4) {
                        self.deliver();
                    }
                }
                while self.deliver() {}
            }
            1 => {
                for (node, shard) in self.shuffled() {
                    let members = members(node, &ids);
                    self.call(node, shard, |shard, _| shard.begin(members, &gone));
                }
            }
            2 => self.names(),
            3 => self.each(|shard, fx| shard.waiters_first_pass(now_ms, &gone, fx)),
            4 => self.each(|shard, fx| shard.purge_gone(now_ms, &gone, fx)),
            5 => self.masters(),
            6 => self.each(|shard, _| shard.repair().unwrap()),
            7 => self.each(|shard, _| shard.drop_saved(&gone)),
            8 => {
                // Who is through goes on while others are not.
                for (node, shard) in self.shuffled() {
                    self.call(node, shard, |shard, fx| {
                        shard.enable();
                        while shard.drain_saved(now_ms, 3, fx) != Drained::Done {}
                        shard.resend_waiters(now_ms, fx);
                        shard.grant_marked(now_ms, fx);
                    });
                    for _ in 0..self.random.below(3) {
                        self.deliver();
                    }
                }
                self.check_exclusion();
            }
            _ => unreachable!(),
        }
    }

    fn names(&mut self) {
        for (node, shard) in self.shuffled() {
            let mut walk = Walk::default();
            while let Some((name, directory)) =
                self.call(node, shard, |shard, _| shard.next_mastered(&mut walk))
            {
                if directory.0 != node {
                    self.call(directory.0, shard, |shard, _| {
                        shard.add_directory(&name, NodeId(node)).unwrap();
                    });
                }
            }
        }
    }

    /// New masters are found, and locks made known to them; a master may be sent locks before it
    /// has the answer that it is one.
    fn masters(&mut self) {
        let mut answers = BTreeMap::new();
        for (node, shard) in self.shuffled() {
            self.call(node, shard, |shard, _| shard.settle_orphaned());
            let mut walk = Walk::default();
            let mut mine = Vec::new();
            while let Some((name, directory)) =
                self.call(node, shard, |shard, _| shard.next_orphaned(&mut walk))
            {
                assert_ne!(directory.0, node);
                let master = self.call(directory.0, shard, |shard, _| {
                    shard.claim_or_lookup(&name, NodeId(node)).unwrap()
                });
                self.tell(format!(
                    "{node} asks {directory:?} for {name:?}: {master:?}"
                ));
                mine.push((name, master));
            }
            answers.insert((node, shard), mine);
        }
        for (node, shard) in self.shuffled() {
            for (name, master) in &answers[&(node, shard)] {
                self.call(node, shard, |shard, _| shard.set_master(name, *master));
            }
            let mut walk = Walk::default();
            while let Some((to, id, bytes, lvb)) = self.call(node, shard, |shard, _| {
                let image = shard.next_image(&mut walk)?;
                let (to, id) = (image.to.0, image.id);
                Some((to, id, image.lock.encode(), image.lock.lvb.to_vec()))
            }) {
                let now_ms = self.now_ms;
                let packet = [&bytes[..], &lvb].concat();
                let image = RcomLock::decode(&packet).expect("an image of ours");
                let (remote_id, result) = self.call(to, shard, |shard, _| {
                    shard.rebuild(now_ms, NodeId(node), &image).unwrap()
                });
                self.tell(format!("{node} to {to}: {image:?}: {result}"));
                assert!(result == 0 || result == -17, "{node} to {to}: {result}");
                self.call(node, shard, |shard, _| {
                    shard.rebuilt(NodeId(to), id, remote_id, result);
                });
            }
            assert!(self.call(node, shard, |shard, _| shard.is_rebuilt()));
        }
    }

    /// Ends all locks; nothing may be left anywhere.
    pub(crate) fn finish(mut self) {
        self.failing = false;
        self.settle();
        let left: Vec<u32> = self.locks.keys().copied().collect();
        for lock in left {
            if self.locks.contains_key(&lock) {
                assert!(self.unlock(lock, FORCEUNLOCK, &[0; LVB_LEN]));
            }
            self.settle();
        }
        assert!(self.locks.is_empty(), "{:?}", self.locks);
        for _ in 0..4 {
            self.pass(1500);
            self.settle();
        }
        for (node, shards) in &self.nodes {
            for shard in shards {
                let counts = shard.counts();
                assert_eq!(counts.locks, 0, "node {node}");
                assert_eq!(counts.resources, 0, "node {node}");
                assert_eq!(counts.records, 0, "node {node}");
                assert_eq!(counts.odd_replies, 0, "node {node}");
            }
        }
    }
}
