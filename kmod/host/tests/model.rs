// SPDX-License-Identifier: GPL-2.0-only
//! One shard against the reference model: random operations, every answer and every callback must
//! be the same, in the same order, also when allocations fail.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/model.rs"]
mod reference;
mod support;

use std::collections::BTreeMap;

use dlm_core::lockcore::flags::*;
use dlm_core::lockcore::lkb::LockId;
use dlm_core::lockcore::members::NodeId;
use dlm_core::lockcore::mode::Mode;
use dlm_core::lockcore::shard::{
    Completion, Config, Conversion, Drained, Effects, Refused, Request, Shard,
};
use dlm_core::lockcore::wire::message::Message;
use dlm_core::platform::fail;
use reference::{Answer, Event, Model};
use support::{members, name, Random};

const LVB_LEN: usize = 8;

#[derive(Default)]
struct Told {
    events: Vec<Event>,
    released: Vec<u32>,
}

impl Effects for Told {
    type Owner = u32;

    fn send(&mut self, to: NodeId, message: &Message<'_>) {
        panic!("one node sends {message:?} to {to:?}");
    }

    fn complete(&mut self, owner: &mut u32, done: &Completion<'_>) {
        self.events.push(Event::Done {
            lock: *owner,
            status: done.status.errno(),
            sb_flags: done.sb_flags,
            mode: Mode::to_raw(done.mode),
            lvb: done.lvb.map(<[u8]>::to_vec),
        });
    }

    fn blocking(&mut self, owner: &mut u32, mode: Mode) {
        self.events.push(Event::Blocking {
            lock: *owner,
            mode: mode as i32,
        });
    }

    fn release(&mut self, owner: u32) {
        self.released.push(owner);
    }
}

fn running_shard() -> Shard<u32> {
    let config = Config {
        shard: 0,
        shard_bits: 0,
        lvb_len: LVB_LEN as u16,
        toss_ms: 1000,
    };
    let mut shard = Shard::new(config, members(1, &[1])).unwrap();
    shard.enable();
    let drained = shard.drain_saved(0, 1, &mut Told::default());
    assert_eq!(drained, Drained::Done);
    shard
}

struct Run {
    random: Random,
    shard: Shard<u32>,
    told: Told,
    model: Model,
    ids: BTreeMap<u32, LockId>,
    next: u32,
    now_ms: u64,
    no_memory: u64,
    failing: bool,
}

impl Run {
    fn new(seed: u64, failing: bool) -> Self {
        Self {
            random: Random::new(seed),
            shard: running_shard(),
            told: Told::default(),
            model: Model::default(),
            ids: BTreeMap::new(),
            next: 1,
            now_ms: 0,
            no_memory: 0,
            failing,
        }
    }

    fn flags(&mut self, from: &[LockFlags]) -> LockFlags {
        let mut flags = LockFlags::NONE;
        for flag in from {
            if self.random.one_in(5) {
                flags |= *flag;
            }
        }
        flags
    }

    fn buffer(&mut self) -> [u8; LVB_LEN] {
        self.random.next().to_le_bytes()
    }

    fn arm(&mut self) {
        if self.failing && self.random.one_in(3) {
            fail::after(Some(self.random.below(3) as u32));
        }
    }

    /// The same answer from both; without memory, no answer and no change.
    fn compare(&mut self, real: Result<(), Refused>, model: impl FnOnce(&mut Model) -> Answer) {
        fail::after(None);
        if real == Err(Refused::NoMemory) {
            assert!(self.failing);
            self.no_memory += 1;
        } else {
            let expected = match model(&mut self.model) {
                Answer::Accepted => Ok(()),
                Answer::Busy => Err(Refused::Busy),
                Answer::Invalid => Err(Refused::Invalid),
                Answer::NotFound => Err(Refused::NotFound),
            };
            assert_eq!(real, expected);
        }
        assert_eq!(self.told.events, self.model.events);
        self.told.events.clear();
        self.model.events.clear();
        for gone in self.told.released.drain(..) {
            assert!(!self.model.exists(gone), "{gone} was released too early");
            self.ids.remove(&gone);
        }
        for lock in self.ids.keys() {
            assert!(self.model.exists(*lock), "{lock} was not released");
        }
        self.shard.check().unwrap();
    }

    fn request(&mut self) {
        let lock = self.next;
        self.next += 1;
        let mode = self.random.mode() as i32;
        let mut flags = self.flags(&[
            NOQUEUE,
            NOQUEUEBAST,
            HEADQUE,
            NOORDER,
            ALTPR,
            ALTCW,
            VALBLK,
            IVVALBLK,
            NODLCKWT,
        ]);
        if self.random.one_in(20) {
            flags |= EXPEDITE;
        }
        if self.random.one_in(50) {
            flags |= self.random.pick(&[QUECVT, CONVDEADLK, CANCEL]);
        }
        let resource = self.random.below(3);
        let (bast, buffer) = (!self.random.one_in(4), self.buffer());
        let args = Request {
            mode,
            flags,
            pid: 7,
            user: false,
            wants_blocking: bast,
            lvb: Some(&buffer),
            owner: lock,
        };
        self.arm();
        let real = self
            .shard
            .request(self.now_ms, &name(resource), args, &mut self.told);
        if let Ok(id) = real {
            self.ids.insert(lock, id);
        }
        self.compare(real.map(|_| ()), |model| {
            model.request(lock, resource, mode, flags, bast, &buffer)
        });
    }

    fn convert(&mut self, lock: u32, id: LockId) {
        let mode = self.random.mode() as i32;
        let flags = self.flags(&[
            NOQUEUE,
            NOQUEUEBAST,
            HEADQUE,
            NOORDER,
            ALTPR,
            ALTCW,
            VALBLK,
            IVVALBLK,
            NODLCKWT,
            QUECVT,
            CONVDEADLK,
        ]);
        let (bast, buffer) = (!self.random.one_in(4), self.buffer());
        let args = Conversion {
            mode,
            flags,
            pid: 7,
            wants_blocking: bast,
            lvb: Some(&buffer),
        };
        self.arm();
        let mut accepted = 0;
        let real = self
            .shard
            .convert(self.now_ms, id, args, |_| accepted += 1, &mut self.told);
        assert_eq!(accepted, u32::from(real.is_ok()));
        self.compare(real, |model| {
            model.convert(lock, mode, flags, bast, &buffer)
        });
    }

    fn unlock(&mut self, lock: u32, id: LockId) {
        let mut flags = self.flags(&[VALBLK, IVVALBLK]);
        if self.random.one_in(2) {
            flags |= FORCEUNLOCK;
        }
        let buffer = self.buffer();
        self.arm();
        let real = self.shard.unlock(
            self.now_ms,
            id,
            flags,
            Some(&buffer),
            |_| {},
            &mut self.told,
        );
        self.compare(real, |model| model.unlock(lock, flags, &buffer));
    }

    fn cancel(&mut self, lock: u32, id: LockId) {
        self.arm();
        let real = self
            .shard
            .unlock(self.now_ms, id, CANCEL, None, |_| {}, &mut self.told);
        self.compare(real, |model| model.cancel(lock));
    }

    fn step(&mut self) {
        self.now_ms += 1;
        let known: Vec<(u32, LockId)> = self.ids.iter().map(|(l, id)| (*l, *id)).collect();
        let wanted = self.random.below(10);
        if known.is_empty() || wanted < 3 && known.len() < 30 {
            return self.request();
        }
        let (lock, id) = self.random.pick(&known);
        match wanted {
            0..=6 => self.convert(lock, id),
            7 => self.cancel(lock, id),
            _ => self.unlock(lock, id),
        }
    }

    fn finish(mut self) -> u64 {
        while let Some((lock, id)) = self.ids.first_key_value().map(|(l, id)| (*l, *id)) {
            self.unlock(lock, id);
        }
        assert_eq!(self.shard.counts().locks, 0);
        while let Some(at) = self.shard.next_timeout() {
            self.shard.handle_timeout(at, &mut self.told);
        }
        assert_eq!(self.shard.counts().resources, 0);
        self.no_memory
    }
}

#[test]
fn agrees_with_the_model() {
    for seed in 0..100 {
        let mut run = Run::new(seed, false);
        for _ in 0..2000 {
            run.step();
        }
        assert_eq!(run.finish(), 0);
    }
}

#[test]
fn agrees_with_the_model_when_memory_is_short() {
    let mut no_memory = 0;
    for seed in 1000..1020 {
        let mut run = Run::new(seed, true);
        for _ in 0..2000 {
            run.step();
        }
        run.failing = false;
        no_memory += run.finish();
    }
    assert!(no_memory > 100, "{no_memory}");
}
