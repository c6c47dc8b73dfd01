// SPDX-License-Identifier: GPL-2.0-only
//! Lists whose links lie in the objects of an arena: the queues of a resource, the locks that wait
//! for a lookup, the idle resources of a shard.
//!
//! An object is in one list at a time. Nothing is allocated; all but a walk is done in constant
//! time.

use super::arena::{Arena, Key};

/// The neighbours of an object in its list.
#[derive(Clone, Copy, Debug)]
pub struct Links<K> {
    prev: K,
    next: K,
}

impl<K: Key> Default for Links<K> {
    fn default() -> Self {
        Self {
            prev: K::NONE,
            next: K::NONE,
        }
    }
}

/// An object that can be in a list.
pub trait Linked<K>: Default {
    /// Its links.
    fn links(&self) -> &Links<K>;
    /// Its links.
    fn links_mut(&mut self) -> &mut Links<K>;
}

/// A list.
#[derive(Clone, Copy, Debug)]
pub struct List<K> {
    head: K,
    tail: K,
}

impl<K: Key> Default for List<K> {
    fn default() -> Self {
        Self {
            head: K::NONE,
            tail: K::NONE,
        }
    }
}

impl<K: Key> List<K> {
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// The first object, or none.
    pub fn first(&self) -> K {
        self.head
    }

    /// A walk from the first object to the last.
    pub fn walk(&self) -> Walk<K> {
        Walk { next: self.head }
    }

    /// The objects from the first to the last.
    pub fn iter<'a, T: Linked<K>>(
        &self,
        arena: &'a Arena<K, T>,
    ) -> impl Iterator<Item = (K, &'a T)> {
        let mut walk = self.walk();
        core::iter::from_fn(move || walk.next(arena))
    }

    /// Puts an object at the end.
    pub fn push_back<T: Linked<K>>(&mut self, arena: &mut Arena<K, T>, key: K) {
        *arena.get_mut(key).links_mut() = Links {
            prev: self.tail,
            next: K::NONE,
        };
        if self.tail.is_none() {
            self.head = key;
        } else {
            arena.get_mut(self.tail).links_mut().next = key;
        }
        self.tail = key;
    }

    /// Puts an object at the head.
    pub fn push_front<T: Linked<K>>(&mut self, arena: &mut Arena<K, T>, key: K) {
        *arena.get_mut(key).links_mut() = Links {
            prev: K::NONE,
            next: self.head,
        };
        if self.head.is_none() {
            self.tail = key;
        } else {
            arena.get_mut(self.head).links_mut().prev = key;
        }
        self.head = key;
    }

    /// Takes an object out that is in this list.
    pub fn remove<T: Linked<K>>(&mut self, arena: &mut Arena<K, T>, key: K) {
        let Links { prev, next } = core::mem::take(arena.get_mut(key).links_mut());
        if prev.is_none() {
            self.head = next;
        } else {
            arena.get_mut(prev).links_mut().next = next;
        }
        if next.is_none() {
            self.tail = prev;
        } else {
            arena.get_mut(next).links_mut().prev = prev;
        }
    }
}

/// A walk over a list. It holds no reference: what it yielded last may be changed, taken out or put
/// elsewhere before it goes on; its neighbour behind may not be taken out.
#[derive(Clone, Copy, Debug)]
pub struct Walk<K> {
    next: K,
}

impl<K: Key> Walk<K> {
    /// The next object.
    pub fn next<'a, T: Linked<K>>(&mut self, arena: &'a Arena<K, T>) -> Option<(K, &'a T)> {
        if self.next.is_none() {
            return None;
        }
        let key = self.next;
        let object = arena.get(key);
        self.next = object.links().next;
        Some((key, object))
    }
}

#[cfg(test)]
mod tests {
    use super::super::arena::LockIndex;
    use super::*;

    #[derive(Default)]
    struct Node(Links<LockIndex>);

    impl Linked<LockIndex> for Node {
        fn links(&self) -> &Links<LockIndex> {
            &self.0
        }
        fn links_mut(&mut self) -> &mut Links<LockIndex> {
            &mut self.0
        }
    }

    #[test]
    fn agrees_with_a_deque_under_random_operations() {
        let mut arena = Arena::new(u32::MAX);
        for _ in 0..40 {
            let key = arena.reserve().unwrap();
            arena.put(key, Node::default());
        }
        let mut list = List::default();
        let mut model = std::collections::VecDeque::new();
        let mut state = 88172645463325252u64;
        for _ in 0..10_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let key = LockIndex::new((state >> 8) as u32 % 40);
            match model.iter().position(|k| *k == key) {
                Some(at) => {
                    model.remove(at);
                    list.remove(&mut arena, key);
                }
                None if state & 1 == 0 => {
                    model.push_back(key);
                    list.push_back(&mut arena, key);
                }
                None => {
                    model.push_front(key);
                    list.push_front(&mut arena, key);
                }
            }
            let seen = list.iter(&arena).map(|(key, _)| key);
            assert!(seen.eq(model.iter().copied()));
            assert_eq!(list.is_empty(), model.is_empty());
        }
    }

    #[test]
    fn a_walk_goes_on_where_what_it_yielded_is_moved() {
        let mut arena = Arena::new(u32::MAX);
        let (mut list, mut other) = (List::default(), List::default());
        let keys = [0; 5].map(|_| {
            let key = arena.reserve().unwrap();
            arena.put(key, Node::default());
            list.push_back(&mut arena, key);
            key
        });
        let mut seen = Vec::new();
        let mut walk = list.walk();
        while let Some((key, _)) = walk.next(&arena) {
            seen.push(key);
            list.remove(&mut arena, key);
            other.push_front(&mut arena, key);
        }
        assert_eq!(seen, keys);
        assert!(list.is_empty());
        assert!(other
            .iter(&arena)
            .map(|(key, _)| key)
            .eq(keys.into_iter().rev()));
    }
}
