// SPDX-License-Identifier: GPL-2.0-only
//! Names to objects: a hash table whose chains lie in the objects of an arena.
//!
//! It grows with its objects where there is memory, and gets slower where there is none, but
//! adding a name never fails.

use super::arena::{Arena, Key};
use crate::platform::{KVVec, Result, GFP};

/// Buckets of an empty table.
const BUCKETS_MIN: usize = 16;

/// Objects per bucket from which on a table grows.
const LOAD_MAX: usize = 2;

/// An object with a name.
pub trait Named<K>: Default {
    /// The hash of the name.
    fn hash(&self) -> u32;
    /// The name.
    fn name(&self) -> &[u8];
    /// The next one in the same bucket.
    fn chain(&mut self) -> &mut K;
    /// The next one in the same bucket.
    fn chained(&self) -> K;
}

/// The buckets.
pub struct Table<K> {
    heads: KVVec<K>,
    /// Low bits of the hash that all names here have in common.
    shift: u32,
    len: usize,
}

impl<K: Key> Table<K> {
    /// Without names. All hashes will have their lowest `shift` bits in common.
    pub fn new(shift: u32) -> Result<Self> {
        Ok(Self {
            heads: KVVec::from_elem(K::NONE, BUCKETS_MIN, GFP)?,
            shift,
            len: 0,
        })
    }

    fn bucket(&self, hash: u32) -> usize {
        (hash >> self.shift) as usize & (self.heads.len() - 1)
    }

    fn head(&self, hash: u32) -> K {
        self.heads
            .get(self.bucket(hash))
            .copied()
            .unwrap_or(K::NONE)
    }

    /// The object of this name, or none.
    pub fn find<T: Named<K>>(&self, arena: &Arena<K, T>, hash: u32, name: &[u8]) -> K {
        let mut at = self.head(hash);
        while !at.is_none() {
            let object = arena.get(at);
            if object.hash() == hash && object.name() == name {
                break;
            }
            at = object.chained();
        }
        at
    }

    /// Adds an object whose name is not there yet.
    pub fn add<T: Named<K>>(&mut self, arena: &mut Arena<K, T>, key: K) {
        if self.len >= self.heads.len() * LOAD_MAX {
            self.grow(arena);
        }
        self.link(arena, key);
        self.len += 1;
    }

    fn link<T: Named<K>>(&mut self, arena: &mut Arena<K, T>, key: K) {
        let object = arena.get_mut(key);
        let bucket = (object.hash() >> self.shift) as usize & (self.heads.len() - 1);
        if let Some(head) = self.heads.get_mut(bucket) {
            *object.chain() = *head;
            *head = key;
        }
    }

    fn grow<T: Named<K>>(&mut self, arena: &mut Arena<K, T>) {
        let Ok(heads) = KVVec::from_elem(K::NONE, self.heads.len() * 2, GFP) else {
            return;
        };
        let old = core::mem::replace(&mut self.heads, heads);
        for head in old {
            let mut at = head;
            while !at.is_none() {
                let next = arena.get(at).chained();
                self.link(arena, at);
                at = next;
            }
        }
    }

    /// Takes an object out that is in the table.
    pub fn remove<T: Named<K>>(&mut self, arena: &mut Arena<K, T>, key: K) {
        let object = arena.get(key);
        let (bucket, next) = (self.bucket(object.hash()), object.chained());
        let Some(head) = self.heads.get_mut(bucket) else {
            return;
        };
        if *head == key {
            *head = next;
        } else {
            let mut at = *head;
            while !at.is_none() && arena.get(at).chained() != key {
                at = arena.get(at).chained();
            }
            if at.is_none() {
                return;
            }
            *arena.get_mut(at).chain() = next;
        }
        self.len = self.len.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::arena::RecordIndex;
    use super::*;
    use crate::platform::fail;

    struct Entry {
        name: [u8; 4],
        chain: RecordIndex,
    }

    impl Default for Entry {
        fn default() -> Self {
            Self {
                name: [0; 4],
                chain: RecordIndex::NONE,
            }
        }
    }

    impl Named<RecordIndex> for Entry {
        fn hash(&self) -> u32 {
            // Bad on purpose: many names share a hash.
            u32::from_le_bytes(self.name) % 97 * 8
        }
        fn name(&self) -> &[u8] {
            &self.name
        }
        fn chain(&mut self) -> &mut RecordIndex {
            &mut self.chain
        }
        fn chained(&self) -> RecordIndex {
            self.chain
        }
    }

    fn exercise(names: u32) {
        let mut arena = Arena::new(u32::MAX);
        let mut table = Table::new(3).unwrap();
        let mut keys = Vec::new();
        for n in 0..names {
            let key = arena.reserve().unwrap();
            let entry = Entry {
                name: n.to_le_bytes(),
                ..Entry::default()
            };
            arena.put(key, entry);
            table.add(&mut arena, key);
            keys.push(key);
        }
        for (n, key) in keys.iter().enumerate().filter(|(n, _)| n % 2 == 0) {
            table.remove(&mut arena, *key);
            arena.take(*key).unwrap();
            assert!(n % 2 == 0);
        }
        for n in 0..names {
            let entry = Entry {
                name: n.to_le_bytes(),
                ..Entry::default()
            };
            let found = table.find(&arena, entry.hash(), &entry.name);
            let expected = if n % 2 == 0 {
                RecordIndex::NONE
            } else {
                keys[n as usize]
            };
            assert_eq!(found, expected, "{n}");
        }
        assert!(!arena.has_strayed());
    }

    #[test]
    fn finds_what_was_added_and_not_removed() {
        exercise(1000);
    }

    #[test]
    fn a_table_that_cannot_grow_still_works() {
        let mut arena: Arena<RecordIndex, Entry> = Arena::new(u32::MAX);
        let mut table = Table::new(3).unwrap();
        for n in 0..100u32 {
            let key = arena.reserve().unwrap();
            let entry = Entry {
                name: n.to_le_bytes(),
                ..Entry::default()
            };
            arena.put(key, entry);
            fail::after(Some(0));
            table.add(&mut arena, key);
            fail::after(None);
        }
        assert_eq!(table.heads.len(), BUCKETS_MIN);
        let entry = Entry {
            name: 99u32.to_le_bytes(),
            ..Entry::default()
        };
        assert_eq!(table.find(&arena, entry.hash(), &entry.name).raw(), 99);
    }
}
