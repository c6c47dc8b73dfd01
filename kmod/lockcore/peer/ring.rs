// SPDX-License-Identifier: GPL-2.0-only
//! A queue that grows on demand, in one array.

use crate::platform::{KVVec, Result, GFP};

/// Places of a queue when it first gets one.
const FIRST_LEN: usize = 16;

/// A queue; the place of an element counts from the front.
pub(crate) struct Ring<T> {
    places: KVVec<Option<T>>,
    front: usize,
    len: usize,
}

impl<T> Ring<T> {
    pub(crate) const fn new() -> Self {
        Self {
            places: KVVec::new(),
            front: 0,
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn place(&self, at: usize) -> usize {
        (self.front + at) % self.places.len().max(1)
    }

    pub(crate) fn get(&self, at: usize) -> Option<&T> {
        if at >= self.len {
            return None;
        }
        self.places.get(self.place(at))?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        if at >= self.len {
            return None;
        }
        let place = self.place(at);
        self.places.get_mut(place)?.as_mut()
    }

    /// Makes room for one more, so that the next [`Ring::push`] cannot fail.
    pub(crate) fn reserve(&mut self) -> Result {
        if self.len < self.places.len() {
            return Ok(());
        }
        let mut places = KVVec::with_capacity((self.len * 2).max(FIRST_LEN), GFP)?;
        while let Some(value) = self.pop() {
            places.push(Some(value), GFP)?;
        }
        self.len = places.len();
        self.front = 0;
        while places.push_within_capacity(None).is_ok() {}
        self.places = places;
        Ok(())
    }

    pub(crate) fn push(&mut self, value: T) -> Result {
        self.reserve()?;
        let place = self.place(self.len);
        if let Some(room) = self.places.get_mut(place) {
            *room = Some(value);
            self.len += 1;
        }
        Ok(())
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.len == 0 {
            return None;
        }
        let value = self.places.get_mut(self.front)?.take();
        self.front = self.place(1);
        self.len -= 1;
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    #[test]
    fn it_is_a_queue() {
        let mut ring = Ring::new();
        let mut model = VecDeque::new();
        let mut noise = 0x9e37_79b9_u32;
        for n in 0..10_000 {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if noise >> 28 < if n % 2_000 < 1_000 { 11 } else { 5 } {
                ring.push(n).unwrap();
                model.push_back(n);
            } else {
                assert_eq!(ring.pop(), model.pop_front());
            }
            assert_eq!(ring.len(), model.len());
            let at = noise as usize % 50;
            assert_eq!(ring.get(at), model.get(at));
        }
        while ring.pop().is_some() {}
        assert!(ring.is_empty());
    }
}
