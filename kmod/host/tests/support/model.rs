// SPDX-License-Identifier: GPL-2.0-only
//! A lock manager on one node, slow and obvious, written from the rules of the interface alone.
//!
//! Every question is answered by looking at all locks. It shares nothing with the real one but the
//! flag values.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use dlm_core::lockcore::flags::*;
use std::collections::BTreeMap;

/// May be held together: NL CR CW PR PW EX.
const TOGETHER: [[u8; 6]; 6] = [
    [1, 1, 1, 1, 1, 1],
    [1, 1, 1, 1, 1, 0],
    [1, 1, 1, 0, 0, 0],
    [1, 1, 0, 1, 0, 0],
    [1, 1, 0, 0, 0, 0],
    [1, 0, 0, 0, 0, 0],
];

const LVB: [&[u8]; 6] = [
    b"rrrrrr", b"-rrrrr", b"--rrrr", b"---rrr", b"wwwwwr", b"wwwwww",
];

const PR: i32 = 3;
const CW: i32 = 2;

pub(crate) fn together(a: i32, b: i32) -> bool {
    a < 0 || b < 0 || TOGETHER[a as usize][b as usize] == 1
}

/// What an owner is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Done {
        lock: u32,
        status: i32,
        sb_flags: StatusFlags,
        mode: i32,
        lvb: Option<Vec<u8>>,
    },
    Blocking {
        lock: u32,
        mode: i32,
    },
}

pub(crate) const UNLOCKED: i32 = -0x10002;
pub(crate) const CANCELLED: i32 = -0x10001;
pub(crate) const AGAIN: i32 = -11;
pub(crate) const DEADLOCK: i32 = -35;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Nowhere,
    Granted,
    Converting,
    Waiting,
}

#[derive(Clone, Debug)]
struct Lock {
    resource: usize,
    place: Place,
    granted: i32,
    wanted: i32,
    flags: LockFlags,
    sb_flags: StatusFlags,
    bast: bool,
    buffer: Vec<u8>,
    told: i32,
    last_done: i32,
    last_blocking: i32,
    hands_out: bool,
}

#[derive(Default)]
struct Resource {
    granted: Vec<u32>,
    converting: Vec<u32>,
    waiting: Vec<u32>,
    lvb: Option<Vec<u8>>,
    invalid: bool,
}

#[derive(Default)]
pub(crate) struct Model {
    locks: BTreeMap<u32, Lock>,
    resources: BTreeMap<usize, Resource>,
    pub(crate) events: Vec<Event>,
}

pub(crate) enum Answer {
    Accepted,
    Busy,
    Invalid,
    NotFound,
}

impl Model {
    fn at(&mut self, lock: u32) -> &mut Lock {
        self.locks.get_mut(&lock).unwrap()
    }

    fn res(&mut self, lock: u32) -> &mut Resource {
        let resource = self.locks[&lock].resource;
        self.resources.entry(resource).or_default()
    }

    fn place(&mut self, lock: u32, place: Place) {
        let at_head = self.locks[&lock].flags.has(HEADQUE) && place != Place::Granted;
        let res = self.res(lock);
        for queue in [&mut res.granted, &mut res.converting, &mut res.waiting] {
            queue.retain(|l| *l != lock);
        }
        let queue = match place {
            Place::Nowhere => None,
            Place::Granted => Some(&mut res.granted),
            Place::Converting => Some(&mut res.converting),
            Place::Waiting => Some(&mut res.waiting),
        };
        if let Some(queue) = queue {
            queue.insert(if at_head { 0 } else { queue.len() }, lock);
        }
        self.at(lock).place = place;
    }

    fn done(&mut self, lock: u32, status: i32) {
        let l = self.at(lock);
        let hands_out = std::mem::take(&mut l.hands_out) && status == 0;
        l.last_done = l.granted;
        l.last_blocking = -1;
        let event = Event::Done {
            lock,
            status,
            sb_flags: l.sb_flags,
            mode: l.granted,
            lvb: hands_out.then(|| l.buffer.clone()),
        };
        self.events.push(event);
    }

    fn forget(&mut self, lock: u32) {
        self.place(lock, Place::Nowhere);
        let resource = self.locks.remove(&lock).unwrap().resource;
        if !self.locks.values().any(|l| l.resource == resource) {
            self.resources.remove(&resource);
        }
    }

    fn blocking(&mut self, lock: u32, mode: i32) {
        let l = self.at(lock);
        let drop = l.last_done >= 0 && together(l.last_done, mode)
            || l.last_blocking >= 0
                && (l.last_blocking == mode || l.last_blocking > mode && l.last_blocking > PR);
        if drop {
            return;
        }
        l.last_blocking = mode;
        self.events.push(Event::Blocking { lock, mode });
    }

    /// The table of the grant decision.
    fn grantable(&mut self, lock: u32, now: bool) -> bool {
        let me = self.locks[&lock].clone();
        if me.flags.has(EXPEDITE) && me.granted < 0 {
            return true;
        }
        let res = self.res(lock);
        let holders: Vec<u32> = res.granted.iter().chain(&res.converting).copied().collect();
        let (converting, waiting) = (res.converting.clone(), res.waiting.clone());
        for other in holders {
            if other != lock && !together(self.locks[&other].granted, me.wanted) {
                return false;
            }
        }
        let converts = me.granted >= 0;
        if converts && now {
            return !me.flags.has(QUECVT) || converting.is_empty();
        }
        if me.flags.has(NOORDER) {
            return true;
        }
        if converts {
            return converting.first() == Some(&lock);
        }
        if now {
            return converting.is_empty() && waiting.is_empty();
        }
        converting.is_empty() && waiting.first() == Some(&lock)
    }

    fn deadlocked(&mut self, lock: u32) -> bool {
        let me = self.locks[&lock].clone();
        let queue = self.res(lock).converting.clone();
        let mine = queue.iter().position(|l| *l == lock).unwrap_or(queue.len());
        queue.iter().enumerate().any(|(at, other)| {
            let o = &self.locks[other];
            let it_waits = !together(me.granted, o.wanted);
            let i_wait = !together(o.granted, me.wanted);
            *other != lock && it_waits && (at < mine || i_wait)
        })
    }

    /// 1: yes, 0: no, -1: deadlock, 2: demoted.
    fn judge(&mut self, lock: u32, now: bool) -> i32 {
        if self.grantable(lock, now) {
            return 1;
        }
        let me = self.locks[&lock].clone();
        if me.granted >= 0 && !me.flags.has(NOQUEUE) && self.deadlocked(lock) {
            if !me.flags.has(CONVDEADLK) {
                return -1;
            }
            let l = self.at(lock);
            l.granted = 0;
            l.sb_flags |= SBF_DEMOTED;
            return 2;
        }
        let other = if me.flags.has(ALTPR) && me.wanted != PR {
            PR
        } else if me.flags.has(ALTCW) && me.wanted != CW {
            CW
        } else {
            return 0;
        };
        self.at(lock).wanted = other;
        if self.grantable(lock, now) {
            self.at(lock).sb_flags |= SBF_ALTMODE;
            return 1;
        }
        self.at(lock).wanted = me.wanted;
        0
    }

    fn write(&mut self, lock: u32) {
        let me = self.locks[&lock].clone();
        let res = self.res(lock);
        if me.flags.has(IVVALBLK) {
            res.invalid = true;
        } else if me.flags.has(VALBLK) {
            res.lvb = Some(me.buffer);
            res.invalid = false;
        }
    }

    fn grant(&mut self, lock: u32) {
        let me = self.locks[&lock].clone();
        let direction = match me.granted {
            -1 => b'r',
            granted => LVB[granted as usize][me.wanted as usize],
        };
        let res = self.res(lock);
        let (lvb, invalid) = (res.lvb.clone(), res.invalid);
        match direction {
            b'r' if me.flags.has(VALBLK) => {
                if let Some(bytes) = lvb {
                    let l = self.at(lock);
                    l.buffer = bytes;
                    l.hands_out = true;
                    if invalid {
                        l.sb_flags |= SBF_VALNOTVALID;
                    }
                }
            }
            b'r' => {}
            b'w' => self.write(lock),
            _ => {
                if invalid {
                    self.at(lock).sb_flags |= SBF_VALNOTVALID;
                }
            }
        }
        let l = self.at(lock);
        l.granted = l.wanted;
        l.wanted = -1;
        l.told = 0;
        if l.place != Place::Granted {
            self.place(lock, Place::Granted);
        }
    }

    fn tell(&mut self, holders: &[u32], asker: u32, mode: i32) {
        for holder in holders {
            let h = &self.locks[holder];
            let unordered = [(PR, CW), (CW, PR)].contains(&(h.granted, mode));
            let hit = if unordered {
                h.told < 5
            } else {
                h.told < mode && !together(h.granted, mode)
            };
            if *holder != asker && h.bast && hit {
                self.at(*holder).told = mode;
                self.blocking(*holder, mode);
            }
        }
    }

    fn conversions(&mut self, resource: usize) -> (i32, bool) {
        loop {
            let (mut high, mut cw, mut again) = (-1, false, false);
            for lock in self.resources[&resource].converting.clone() {
                match self.judge(lock, false) {
                    1 => {
                        self.grant(lock);
                        self.done(lock, 0);
                        again = true;
                    }
                    2 => again = true,
                    -1 => {
                        let l = self.at(lock);
                        if l.flags.has(NODLCKWT) && l.told < l.wanted {
                            l.told = l.wanted;
                            let (bast, wanted) = (l.bast, l.wanted);
                            if bast {
                                self.blocking(lock, wanted);
                            }
                        }
                    }
                    _ => {
                        high = high.max(self.locks[&lock].wanted);
                        cw |= self.locks[&lock].wanted == CW;
                    }
                }
            }
            if !again {
                return (high, cw);
            }
        }
    }

    fn pending(&mut self, resource: usize) {
        let (mut high, mut cw) = self.conversions(resource);
        for lock in self.resources[&resource].waiting.clone() {
            if self.judge(lock, false) == 1 {
                self.grant(lock);
                self.done(lock, 0);
            } else {
                high = high.max(self.locks[&lock].wanted);
                cw |= self.locks[&lock].wanted == CW;
            }
        }
        if high < 0 {
            return;
        }
        for holder in self.resources[&resource].granted.clone() {
            let h = &self.locks[&holder];
            let reader = h.granted == PR && cw;
            let hit = reader && h.told < 5 || h.told < high && !together(h.granted, high);
            if h.bast && hit {
                self.at(holder).told = high;
                let mode = if reader && high == PR { CW } else { high };
                self.blocking(holder, mode);
            }
        }
    }

    fn bad(mode: i32, flags: LockFlags) -> bool {
        !(0..6).contains(&mode)
            || flags.has(CANCEL)
            || flags.has(QUECVT) && !flags.has(CONVERT)
            || flags.has(CONVDEADLK) && (!flags.has(CONVERT) || flags.has(NOQUEUE))
            || flags.has(EXPEDITE) && (flags.has_any(CONVERT | QUECVT | NOQUEUE) || mode != 0)
    }

    pub(crate) fn request(
        &mut self,
        lock: u32,
        resource: usize,
        mode: i32,
        flags: LockFlags,
        bast: bool,
        buffer: &[u8],
    ) -> Answer {
        if Self::bad(mode, flags) {
            return Answer::Invalid;
        }
        let new = Lock {
            resource,
            place: Place::Nowhere,
            granted: -1,
            wanted: mode,
            flags,
            sb_flags: StatusFlags::NONE,
            bast,
            buffer: buffer.to_vec(),
            told: 0,
            last_done: -1,
            last_blocking: -1,
            hands_out: false,
        };
        self.locks.insert(lock, new);
        self.resources.entry(resource).or_default();
        if self.judge(lock, true) == 1 {
            self.grant(lock);
            self.done(lock, 0);
        } else if flags.has(NOQUEUE) {
            self.done(lock, AGAIN);
            self.refused(lock, mode);
            self.forget(lock);
        } else {
            self.place(lock, Place::Waiting);
            self.queued(lock, mode);
        }
        Answer::Accepted
    }

    fn refused(&mut self, lock: u32, mode: i32) {
        if self.locks[&lock].flags.has(NOQUEUEBAST) {
            let res = self.res(lock);
            let (granted, converting) = (res.granted.clone(), res.converting.clone());
            self.tell(&granted, lock, mode);
            self.tell(&converting, lock, mode);
        }
    }

    fn queued(&mut self, lock: u32, mode: i32) {
        let holders = self.res(lock).granted.clone();
        self.tell(&holders, lock, mode);
        let l = &self.locks[&lock];
        let other = l.granted >= 0 && l.flags.has_any(ALTPR | ALTCW);
        if l.flags.has_any(HEADQUE | NOORDER) || l.sb_flags.has(SBF_DEMOTED) || other {
            self.pending(self.locks[&lock].resource);
        }
    }

    pub(crate) fn convert(
        &mut self,
        lock: u32,
        mode: i32,
        flags: LockFlags,
        bast: bool,
        buffer: &[u8],
    ) -> Answer {
        if !self.locks.contains_key(&lock) {
            return Answer::NotFound;
        }
        let flags = flags | CONVERT;
        if Self::bad(mode, flags) {
            return Answer::Invalid;
        }
        let l = self.at(lock);
        if l.place != Place::Granted {
            return Answer::Busy;
        }
        let legal: &[i32] = [
            &[1, 2, 3, 4, 5][..],
            &[2, 3, 4, 5],
            &[3, 4, 5],
            &[2, 4, 5],
            &[5],
            &[],
        ][l.granted as usize];
        if flags.has(QUECVT) && !legal.contains(&mode) {
            return Answer::Invalid;
        }
        l.flags = flags;
        l.sb_flags = StatusFlags::NONE;
        l.wanted = mode;
        l.bast = bast;
        if flags.has(VALBLK) {
            l.buffer = buffer.to_vec();
        }
        let resource = l.resource;
        let mut verdict = self.judge(lock, true);
        if verdict == 2 {
            self.conversions(resource);
            verdict = i32::from(self.grantable(lock, true));
        }
        if verdict == 1 {
            self.grant(lock);
            self.done(lock, 0);
            self.pending(resource);
        } else if verdict == -1 && !flags.has(NODLCKWT) {
            self.at(lock).wanted = -1;
            self.done(lock, DEADLOCK);
        } else if flags.has(NOQUEUE) {
            self.at(lock).wanted = -1;
            self.done(lock, AGAIN);
            self.refused(lock, mode);
        } else {
            self.place(lock, Place::Converting);
            self.queued(lock, mode);
        }
        Answer::Accepted
    }

    pub(crate) fn unlock(&mut self, lock: u32, flags: LockFlags, buffer: &[u8]) -> Answer {
        let Some(l) = self.locks.get_mut(&lock) else {
            return Answer::NotFound;
        };
        let before = if flags.has(FORCEUNLOCK) {
            l.flags.without(VALBLK)
        } else {
            l.flags
        };
        l.flags = before | flags;
        l.sb_flags = StatusFlags::NONE;
        l.buffer = buffer.to_vec();
        let resource = l.resource;
        if l.granted >= 4 {
            self.write(lock);
        }
        self.place(lock, Place::Nowhere);
        let l = self.at(lock);
        l.granted = -1;
        l.wanted = -1;
        self.done(lock, UNLOCKED);
        self.pending(resource);
        self.forget(lock);
        Answer::Accepted
    }

    pub(crate) fn cancel(&mut self, lock: u32) -> Answer {
        let Some(l) = self.locks.get_mut(&lock) else {
            return Answer::NotFound;
        };
        let resource = l.resource;
        match l.place {
            Place::Nowhere | Place::Granted => return Answer::Accepted,
            Place::Converting => {
                l.wanted = -1;
                self.place(lock, Place::Granted);
                self.done(lock, CANCELLED);
                self.pending(resource);
            }
            Place::Waiting => {
                l.wanted = -1;
                self.place(lock, Place::Nowhere);
                self.done(lock, CANCELLED);
                self.pending(resource);
                self.forget(lock);
            }
        }
        Answer::Accepted
    }

    pub(crate) fn exists(&self, lock: u32) -> bool {
        self.locks.contains_key(&lock)
    }
}
