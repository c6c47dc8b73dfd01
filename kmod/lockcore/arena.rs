// SPDX-License-Identifier: GPL-2.0-only
//! Objects by small dense numbers: locks, resources and directory records of one shard.
//!
//! Memory comes and goes in chunks of 32 objects; a number stays the same for the life of its
//! object, and the lowest free number is used first. Taking a place is two steps, so that a caller
//! can have everything it needs before it changes anything: [`Arena::reserve`] may fail,
//! [`Arena::put`] cannot.
//!
//! A number that names nothing is a bug of the caller. It then works on a spare object that nobody
//! else looks at, and [`Arena::has_strayed`] says so from then on: the lockspace must be stopped,
//! the machine need not.

use core::cell::Cell;
use core::marker::PhantomData;

use crate::platform::code::ENOMEM;
use crate::platform::{KVVec, KVec, Result, GFP};

/// Objects per chunk.
const CHUNK: u32 = 32;

/// The number of an object in an arena.
pub trait Key: Copy + Eq {
    /// Names nothing.
    const NONE: Self;
    /// From the number.
    fn new(raw: u32) -> Self;
    /// The number.
    fn raw(self) -> u32;
    /// Whether this names nothing.
    fn is_none(self) -> bool {
        self == Self::NONE
    }
}

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(u32);

        impl Key for $name {
            const NONE: Self = Self(u32::MAX);
            fn new(raw: u32) -> Self {
                Self(raw)
            }
            fn raw(self) -> u32 {
                self.0
            }
        }
    )*};
}

keys! {
    /// A lock of this shard.
    LockIndex;
    /// A resource of this shard.
    ResourceIndex;
    /// A directory record of this shard.
    RecordIndex;
}

struct Chunk<T> {
    /// Empty without memory, else [`CHUNK`] places.
    places: KVec<Option<T>>,
    /// Which places are taken.
    taken: u32,
}

/// A table of objects.
pub struct Arena<K, T> {
    chunks: KVVec<Chunk<T>>,
    /// A bit per chunk that has a free place.
    open: KVVec<u64>,
    /// Words of `open` before this one are 0.
    full: usize,
    len: u32,
    limit: u32,
    spare: T,
    strayed: Cell<bool>,
    key: PhantomData<K>,
}

impl<K: Key, T: Default> Arena<K, T> {
    /// Without objects; numbers will be below `limit`.
    pub fn new(limit: u32) -> Self {
        Self {
            chunks: KVVec::new(),
            open: KVVec::new(),
            full: 0,
            len: 0,
            limit,
            spare: T::default(),
            strayed: Cell::new(false),
            key: PhantomData,
        }
    }

    /// How many objects there are.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether somebody used a number that names nothing.
    pub fn has_strayed(&self) -> bool {
        self.strayed.get()
    }

    /// Makes sure that the next [`Arena::put`] has a place, and says which it is.
    pub fn reserve(&mut self) -> Result<K> {
        let at = match self.first_open() {
            Some(chunk) => chunk,
            None => self.add_chunk()?,
        };
        let chunk = self.chunks.get_mut(at).ok_or(ENOMEM)?;
        if chunk.places.is_empty() {
            let mut places = KVec::with_capacity(CHUNK as usize, GFP)?;
            for _place in 0..CHUNK {
                places.push(None, GFP)?;
            }
            chunk.places = places;
        }
        let number = (at as u32)
            .checked_mul(CHUNK)
            .and_then(|first| first.checked_add(chunk.taken.trailing_ones()))
            .filter(|number| *number < self.limit)
            .ok_or(ENOMEM)?;
        Ok(K::new(number))
    }

    fn first_open(&mut self) -> Option<usize> {
        while let Some(bits) = self.open.get(self.full) {
            if *bits != 0 {
                return Some(self.full * 64 + bits.trailing_zeros() as usize);
            }
            self.full += 1;
        }
        None
    }

    fn add_chunk(&mut self) -> Result<usize> {
        let at = self.chunks.len();
        if self.open.len() * 64 <= at {
            self.open.push(0, GFP)?;
        }
        let chunk = Chunk {
            places: KVec::new(),
            taken: 0,
        };
        self.chunks.push(chunk, GFP)?;
        self.set_open(at, true);
        Ok(at)
    }

    fn set_open(&mut self, chunk: usize, open: bool) {
        if let Some(word) = self.open.get_mut(chunk / 64) {
            let bit = 1 << (chunk % 64);
            *word = if open { *word | bit } else { *word & !bit };
        }
        if open {
            self.full = self.full.min(chunk / 64);
        }
    }

    /// Puts an object at the place that [`Arena::reserve`] named last.
    pub fn put(&mut self, key: K, value: T) {
        let (at, place) = split(key);
        let Some(chunk) = self.chunks.get_mut(at) else {
            return self.strayed.set(true);
        };
        match chunk.places.get_mut(place) {
            Some(vacant @ None) => *vacant = Some(value),
            Some(Some(_)) | None => return self.strayed.set(true),
        }
        chunk.taken |= 1 << place;
        let full = chunk.taken == u32::MAX;
        self.len = self.len.wrapping_add(1);
        if full {
            self.set_open(at, false);
        }
    }

    /// Takes an object out.
    pub fn take(&mut self, key: K) -> Option<T> {
        let (at, place) = split(key);
        let chunk = self.chunks.get_mut(at);
        let taken = chunk.and_then(|chunk| {
            let value = chunk.places.get_mut(place)?.take()?;
            chunk.taken &= !(1 << place);
            Some((value, chunk.taken == 0))
        });
        let Some((value, empty)) = taken else {
            self.strayed.set(true);
            return None;
        };
        self.len = self.len.wrapping_sub(1);
        // One empty chunk is kept, so that one object that comes and goes costs no allocation.
        if empty && self.first_open().is_some_and(|open| open != at) {
            if let Some(chunk) = self.chunks.get_mut(at) {
                chunk.places = KVec::new();
            }
        }
        self.set_open(at, true);
        Some(value)
    }

    /// The object of this number, if there is one.
    pub fn find(&self, key: K) -> Option<&T> {
        let (at, place) = split(key);
        self.chunks.get(at)?.places.get(place)?.as_ref()
    }

    /// The object of this number.
    pub fn get(&self, key: K) -> &T {
        self.find(key).unwrap_or_else(|| {
            self.strayed.set(true);
            &self.spare
        })
    }

    /// The object of this number.
    pub fn get_mut(&mut self, key: K) -> &mut T {
        let (at, place) = split(key);
        let chunk = self.chunks.get_mut(at);
        match chunk.and_then(|chunk| chunk.places.get_mut(place)?.as_mut()) {
            Some(value) => value,
            None => {
                self.strayed.set(true);
                &mut self.spare
            }
        }
    }

    /// A walk over all objects.
    pub fn walk(&self) -> Walk<K> {
        Walk::default()
    }

    /// The first object whose number is not below `from`.
    fn next(&self, from: K) -> Option<(K, &T)> {
        let (mut at, place) = split(from);
        let mut mask = u32::MAX << place;
        while let Some(chunk) = self.chunks.get(at) {
            let taken = chunk.taken & mask;
            if taken != 0 {
                let place = taken.trailing_zeros();
                let value = chunk.places.get(place as usize)?.as_ref()?;
                return Some((K::new(at as u32 * CHUNK + place), value));
            }
            at += 1;
            mask = u32::MAX;
        }
        None
    }
}

/// A walk over an arena by ascending numbers. It holds no reference: what it yielded may be changed
/// or taken out, and objects may come, before it goes on; it can be kept for later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk<K> {
    /// Yielded last; at the start the number before the first.
    last: K,
}

impl<K: Key> Default for Walk<K> {
    fn default() -> Self {
        Self { last: K::NONE }
    }
}

impl<K: Key> Walk<K> {
    /// A walk that has just yielded `last`.
    pub fn behind(last: K) -> Self {
        Self { last }
    }

    /// The next object.
    pub fn next<'a, T: Default>(&mut self, arena: &'a Arena<K, T>) -> Option<(K, &'a T)> {
        // The number of `NONE` is the largest: 0 comes behind it.
        let found = arena.next(K::new(self.last.raw().wrapping_add(1)))?;
        self.last = found.0;
        Some(found)
    }
}

/// Chunk and place of a number.
fn split<K: Key>(key: K) -> (usize, usize) {
    ((key.raw() / CHUNK) as usize, (key.raw() % CHUNK) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::fail;

    fn add(arena: &mut Arena<LockIndex, u64>, value: u64) -> LockIndex {
        let key = arena.reserve().unwrap();
        arena.put(key, value);
        key
    }

    #[test]
    fn the_lowest_free_number_is_used_first() {
        let mut arena = Arena::new(u32::MAX);
        let keys: Vec<_> = (0..100).map(|n| add(&mut arena, n)).collect();
        assert!(keys.iter().enumerate().all(|(n, k)| k.raw() == n as u32));
        for gone in [70, 5, 33] {
            assert_eq!(arena.take(LockIndex::new(gone)), Some(u64::from(gone)));
        }
        assert_eq!([0; 4].map(|_| add(&mut arena, 7).raw()), [5, 33, 70, 100]);
        assert_eq!(arena.len(), 101);
        assert!(!arena.has_strayed());
    }

    #[test]
    fn chunks_give_their_memory_back() {
        let mut arena = Arena::new(u32::MAX);
        for n in 0..320 {
            add(&mut arena, n);
        }
        for n in 0..320 {
            arena.take(LockIndex::new(n));
        }
        let held = arena.chunks.iter().filter(|c| !c.places.is_empty()).count();
        assert_eq!(held, 1);
        assert!(arena.is_empty());
    }

    #[test]
    fn a_walk_sees_each_object_once_in_order() {
        let mut arena = Arena::new(u32::MAX);
        for n in 0..200 {
            add(&mut arena, n);
        }
        for n in (0..200).filter(|n| n % 3 != 0) {
            arena.take(LockIndex::new(n));
        }
        let mut seen = Vec::new();
        let mut walk = arena.walk();
        while let Some((key, value)) = walk.next(&arena) {
            seen.push(*value);
            arena.take(key);
            add(&mut arena, 1000);
        }
        assert_eq!(seen, (0..200).step_by(3).collect::<Vec<u64>>());
    }

    #[test]
    fn a_wrong_number_is_noted_and_harms_nobody() {
        let mut arena = Arena::new(u32::MAX);
        let key = add(&mut arena, 9);
        *arena.get_mut(LockIndex::new(77)) = 1;
        assert!(arena.has_strayed());
        assert_eq!(*arena.get(key), 9);
        assert_eq!(arena.find(LockIndex::NONE), None);
    }

    #[test]
    fn without_memory_or_numbers_nothing_changes() {
        let mut arena: Arena<LockIndex, u64> = Arena::new(40);
        for succeed in [0, 1, 0] {
            fail::after(Some(succeed));
            assert_eq!(arena.reserve(), Err(ENOMEM), "after {succeed}");
            assert!(arena.is_empty());
        }
        fail::after(None);
        for n in 0..40 {
            add(&mut arena, n);
        }
        assert_eq!(arena.reserve(), Err(ENOMEM));
        assert_eq!(arena.len(), 40);
    }
}
