// SPDX-License-Identifier: GPL-2.0-only
//! Callbacks of one lock that are not delivered yet, oldest first.
//!
//! Rules it keeps: what is queued comes out in the order it went in; nothing is allocated when
//! something is queued. Room for a completion is made when the operation that leads to it is
//! accepted ([`Fifo::wanted`]). Blocking callbacks need no room: between two completions a mode
//! is noted at most once, because its owner knows already and can do nothing new about it, and
//! the six modes fit a word. No locks, no `unsafe`: who shares one puts it under a lock.

use crate::lockcore::mode::Mode;
use crate::platform::{
    Flags,
    KVec,
    Result, //
};

/// Completions that the operations accepted on one lock may still lead to: one of a request or
/// conversion, one of a cancel, one of an unlock.
const OUTSTANDING_MAX: u8 = 3;

/// Modes noted in order, four bits each from the low end; 0 ends the list.
#[derive(Clone, Copy, Default)]
struct Modes(u32);

const _: () = assert!(Mode::ALL.len() < 8);

impl Modes {
    fn note(&mut self, mode: Mode) {
        let wanted = mode as u32 + 1;
        let mut shift = 0;
        while shift < 32 {
            match (self.0 >> shift) & 0xf {
                0 => {
                    self.0 |= wanted << shift;
                    return;
                }
                noted if noted == wanted => return,
                _other => shift += 4,
            }
        }
    }

    fn take(&mut self) -> Option<Mode> {
        let first = (self.0 & 0xf).checked_sub(1)?;
        self.0 >>= 4;
        Mode::from_raw(first as i32)
    }
}

/// Blocking callbacks between two completions.
struct Blocked<B> {
    target: Option<B>,
    modes: Modes,
}

impl<B> Blocked<B> {
    const NONE: Self = Self {
        target: None,
        modes: Modes(0),
    };
}

/// A completion and what came behind it.
struct Entry<C, B> {
    completion: C,
    behind: Blocked<B>,
}

/// What is delivered next.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<C, B> {
    /// An operation is finished.
    Completion(C),
    /// Somebody needs this mode.
    Blocking(B, Mode),
}

/// See the head of this file. `C` and `B` say whom to tell, as it was when it was queued.
pub struct Fifo<C, B> {
    first: Blocked<B>,
    queue: KVec<Entry<C, B>>,
    outstanding: u8,
    lost: u32,
}

/// Memory for a [`Fifo`]; made and dropped outside the lock.
pub struct Room<C, B>(KVec<Entry<C, B>>);

impl<C, B> Default for Fifo<C, B> {
    /// Nothing queued, nothing expected.
    fn default() -> Self {
        Self {
            first: Blocked::NONE,
            queue: KVec::new(),
            outstanding: 0,
            lost: 0,
        }
    }
}

impl<C, B: Clone> Fifo<C, B> {
    /// Whether anything is to be delivered.
    pub fn is_empty(&self) -> bool {
        self.first.modes.0 == 0 && self.queue.is_empty()
    }

    /// Room needed before one more operation may be accepted; `None` if there is enough.
    pub fn wanted(&self) -> Option<usize> {
        let expected = usize::from(OUTSTANDING_MAX.min(self.outstanding.saturating_add(1)));
        let wanted = self.queue.len() + expected;
        (wanted > self.queue.capacity()).then_some(wanted)
    }

    /// Moves into larger memory; gives the old memory back.
    pub fn grow(&mut self, room: Room<C, B>) -> Room<C, B> {
        let Room(mut queue) = room;
        if queue.capacity() < self.queue.len() {
            return Room(queue);
        }
        core::mem::swap(&mut self.queue, &mut queue);
        let mut old = Room(queue);
        self.refill(&mut old);
        old
    }

    /// Takes the entries of `old` over in their order, without allocating.
    fn refill(&mut self, old: &mut Room<C, B>) {
        old.0.reverse();
        while let Some(entry) = old.0.pop() {
            self.push(entry);
        }
    }

    /// An operation was accepted: counts its completion.
    pub fn expect(&mut self) {
        self.outstanding = OUTSTANDING_MAX.min(self.outstanding.saturating_add(1));
    }

    /// Queues a completion.
    pub fn complete(&mut self, completion: C) {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.push(Entry {
            completion,
            behind: Blocked::NONE,
        });
    }

    fn push(&mut self, entry: Entry<C, B>) {
        // Never allocates: `wanted` was honoured for every operation that can lead here.
        if self.queue.push_within_capacity(entry).is_err() {
            self.lost = self.lost.saturating_add(1);
        }
    }

    /// Completions for which there was no room. Not 0: a bug, and somebody waits for ever.
    pub fn lost(&self) -> u32 {
        self.lost
    }

    /// Queues a blocking callback. It goes to the target of the first one since the completion
    /// before it.
    pub fn blocking(&mut self, target: &B, mode: Mode) {
        let last = match self.queue.last_mut() {
            Some(entry) => &mut entry.behind,
            None => &mut self.first,
        };
        last.target.get_or_insert_with(|| target.clone());
        last.modes.note(mode);
    }

    /// Takes out what is to be delivered next.
    pub fn take(&mut self) -> Option<Event<C, B>> {
        if let Some(mode) = self.first.modes.take() {
            let target = self.first.target.clone()?;
            return Some(Event::Blocking(target, mode));
        }
        if self.queue.is_empty() {
            return None;
        }
        let entry = self.queue.remove(0).ok()?;
        self.first = entry.behind;
        Some(Event::Completion(entry.completion))
    }

    /// Forgets everything that is queued.
    pub fn clear(&mut self) {
        self.first = Blocked::NONE;
        self.queue.clear();
    }
}

impl<C, B> Room<C, B> {
    /// Memory for `entries` completions.
    pub fn new(entries: usize, flags: Flags) -> Result<Self> {
        Ok(Self(KVec::with_capacity(entries, flags)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Numbers = Fifo<u32, char>;

    /// What the shell does to accept an operation.
    fn accept(fifo: &mut Numbers) {
        if let Some(wanted) = fifo.wanted() {
            drop(fifo.grow(Room::new(wanted, crate::platform::GFP).unwrap()));
        }
        fifo.expect();
    }

    fn drain(fifo: &mut Numbers) -> Vec<Event<u32, char>> {
        std::iter::from_fn(|| fifo.take()).collect()
    }

    #[test]
    fn completions_and_blocking_callbacks_keep_their_order() {
        let mut fifo = Numbers::default();
        for _ in 0..3 {
            accept(&mut fifo);
        }
        fifo.complete(1);
        fifo.blocking(&'a', Mode::Pr);
        fifo.blocking(&'b', Mode::Ex);
        fifo.complete(2);
        fifo.complete(3);
        fifo.blocking(&'c', Mode::Cw);
        let expected = [
            Event::Completion(1),
            Event::Blocking('a', Mode::Pr),
            Event::Blocking('a', Mode::Ex),
            Event::Completion(2),
            Event::Completion(3),
            Event::Blocking('c', Mode::Cw),
        ];
        assert_eq!(drain(&mut fifo), expected);
        assert!(fifo.is_empty());
    }

    #[test]
    fn a_mode_is_told_once_between_completions_and_all_modes_have_room() {
        let mut fifo = Numbers::default();
        for _ in 0..2 {
            for mode in Mode::ALL.into_iter().rev() {
                fifo.blocking(&'x', mode);
            }
        }
        let expected: Vec<_> = Mode::ALL
            .into_iter()
            .rev()
            .map(|mode| Event::Blocking('x', mode))
            .collect();
        assert_eq!(drain(&mut fifo), expected);
        accept(&mut fifo);
        fifo.complete(1);
        fifo.blocking(&'y', Mode::Ex);
        assert_eq!(fifo.take(), Some(Event::Completion(1)));
        assert_eq!(fifo.take(), Some(Event::Blocking('y', Mode::Ex)));
    }

    #[test]
    fn an_accepted_operation_always_has_room_even_if_nobody_reads() {
        let mut fifo = Numbers::default();
        for n in 0..1000 {
            accept(&mut fifo);
            // Cancels that find nothing to cancel never complete.
            if n % 3 != 0 {
                fifo.complete(n);
            }
        }
        assert_eq!(fifo.lost(), 0);
        let expected: Vec<_> = (0..1000)
            .filter(|n| n % 3 != 0)
            .map(Event::Completion)
            .collect();
        assert_eq!(drain(&mut fifo), expected);
        fifo.complete(1);
        fifo.complete(2);
        fifo.complete(3);
        assert_eq!(fifo.lost(), 0);
    }

    #[test]
    fn a_completion_nobody_expected_is_counted_as_lost() {
        let mut fifo = Numbers::default();
        fifo.complete(1);
        assert_eq!(fifo.lost(), 1);
        assert!(fifo.is_empty());
    }
}
