// SPDX-License-Identifier: GPL-2.0-only
//! What the tests of the lock manager core share: seeded randomness, and names for what they say.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use dlm_core::lockcore::members::{Member, Members, NodeId};
use dlm_core::lockcore::mode::Mode;
use dlm_core::lockcore::name::ResourceName;
use dlm_core::platform::{Arc, GFP};

/// Random numbers from a seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            random.next();
        }
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub(crate) fn mode(&mut self) -> Mode {
        self.pick(&Mode::ALL)
    }
}

pub(crate) fn name(n: usize) -> ResourceName {
    ResourceName::new(format!("resource-{n}").as_bytes()).unwrap()
}

pub(crate) fn members(own: u32, nodes: &[u32]) -> Arc<Members> {
    let list: Vec<Member> = nodes
        .iter()
        .map(|node| Member {
            node: NodeId(*node),
            weight: 1,
        })
        .collect();
    Arc::new(Members::new(NodeId(own), &list).unwrap(), GFP).unwrap()
}
